"""A causal LM's pass as a program over static memory: what `CausalLM.run` gives, by its own modules, in one launch.

The model's layers are transformers' own; what is ours is the cache they write to, the mask they are given and the
attention of `attention.py`. Prompts, and whatever else has no bucket, are read the plain way into the same cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..causal_lm import CausalLM
from ..passes import Branches, Pass
from .attention import grouped
from .buckets import context_bucket, row_bucket
from .places import block_mask
from .program import Program, Programs, Recorder, recorder
from .static_cache import SlotCache, StaticCache
from .told import Told

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_MOVING_ROPE = ("dynamic", "longrope")  # whose frequencies hang on the longest position of a pass


class _Key(NamedTuple):
    """What a program is made for. block: entries that the mask tells apart. last: logits of one row, not of all."""

    rows: int
    block: int
    context: int
    last: bool
    states: tuple[int, ...]
    branches: bool


def why_not(lm: CausalLM) -> str | None:
    """The reason why no static pass can be made of a model; None where one can."""
    family = lm.config.model_type
    if family not in FAMILIES:
        return f"{family} is none of {', '.join(FAMILIES)}"
    return moving_rope(lm.config)


def moving_rope(config: Any) -> str | None:
    """The reason why positions of a config cannot be turned in a recorded pass; None where they can."""
    said: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = said.get("rope_type", said.get("type"))
    return f"its {kind} rotation hangs on how long the text is" if kind in _MOVING_ROPE else None


def window(config: Any) -> int | None:
    """Entries that the sliding layers of a config see; None where there are no such layers."""
    size = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    return None if size is None or kinds == {"full_attention"} else int(size)


def static_pass(lm: CausalLM, record: Recorder | None = None, *, compiled: bool = False) -> StaticPass | None:
    """What runs a model's passes from now on, over a cache of its own; None, and nothing changes, where `why_not` has a
    reason.

    record: how programs are recorded; by the device's own way where None. compiled: what is recorded went through
    torch.compile, which joins the small operators between the products; that takes a minute at first use.
    """
    return None if why_not(lm) else StaticPass(lm, record or recorder(lm.device), compiled=compiled)


class StaticPass:
    """lm: with nothing read yet. Logits of a replayed pass stay until the next pass of the same size."""

    def __init__(self, lm: CausalLM, record: Recorder | None, *, compiled: bool = False) -> None:
        config = lm.config
        heads = config.num_attention_heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.lm, self.record, self.group = lm, record, heads // key_heads
        self.cache = StaticCache(lm.layers, key_heads, width, lm.dtype, lm.device)
        lm.cache, lm.graphs, lm.lean = self.cache, self, None
        kinds = sorted(set(getattr(config, "layer_types", None) or ()))
        self._kinds = kinds if len(kinds) > 1 else []
        self._window = window(config)
        self._model = torch.compile(lm.model.forward) if compiled else lm.model.forward
        self._programs = Programs(self._make)

    @torch.inference_mode()
    def run(
        self,
        tokens: torch.Tensor,
        *,
        branches: Branches | None = None,
        rows: int = 1,
        states: Sequence[int] = (),
    ) -> Pass:
        """As `CausalLM.run`, of passes that it `holds`."""
        count, past = len(tokens), self.cache.length
        older = 0 if branches is None else branches.depths.numel() - count
        bucket = row_bucket(count) or 0
        key = _Key(
            rows=bucket,
            block=bucket if older == 0 else row_bucket(count + older) or count + older,
            context=context_bucket(past + count),
            last=rows == 1 and count > 1,
            states=tuple(states),
            branches=branches is not None,
        )
        told, program = self._programs.get(key, self.cache.moved)
        straight, padding = past - older, self.cache.padding_slot
        if branches is None:
            told.tell(tokens, base=straight, first=past, padding=padding)
        else:
            depths = branches.depths[-count:]
            told.tell(tokens, base=straight, first=past, padding=padding, depths=depths, visible=branches.visible)
        seen = program()
        self.cache.set_length(past + count)
        logits = seen.logits if key.last else seen.logits[count - rows : count]
        # Hidden states are kept until the drafter reads them, past later passes; logits are not.
        return Pass(logits, None if seen.hidden is None else seen.hidden[:count].clone())

    def holds(self, count: int, past: int) -> bool:
        """Whether a pass of `count` tokens behind `past` entries is done here; else it is done the plain way.

        Up to its window's length sliding attention sees everything, and is like any other.
        """
        return row_bucket(count) is not None and (self._window is None or past + count <= self._window)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """(n, hidden) of what a head reads, for tokens (n,) at positions (n,) that are written at slots (n,)."""
        inputs = self._inputs(tokens, positions, slots, mask)
        with grouped(self.lm.config):
            return self.lm.model.base_model(**inputs).last_hidden_state[0]  # type: ignore[no-any-return]

    def _inputs(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, Any]:
        return {
            "input_ids": tokens[None],
            "position_ids": positions[None],
            "attention_mask": dict.fromkeys(self._kinds, mask) if self._kinds else mask,
            self.lm.cache_argument: SlotCache(self.cache, slots, mask.shape[-1]),
            "use_cache": True,
        }

    def _make(self, key: _Key) -> tuple[Told, Program[Pass]]:
        told = Told(key.rows, key.block, self.lm.device)
        lm, forward = self.lm, self.lm.model.forward

        @torch.inference_mode()
        def step() -> Pass:
            nonlocal forward
            mask = block_mask(told.base, told.visible, key.context, self.group, lm.dtype)
            inputs = self._inputs(told.tokens, told.base + told.depths, told.slots, mask)
            with grouped(lm.config):
                out = forward(
                    **inputs,
                    output_hidden_states=bool(key.states),
                    logits_to_keep=told.last if key.last else 0,
                )
            forward = self._model  # from the second run on: the first is nobody's wait
            hidden = torch.cat([out.hidden_states[state][0] for state in key.states], dim=-1) if key.states else None
            return Pass(out.logits[0], hidden)

        return told, Program(step, self.record)
