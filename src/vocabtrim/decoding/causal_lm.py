"""One causal LM of Hugging Face transformers with a cache for one sequence: tokens in, logits and hidden states out.

Knows transformers' modules, masks and positions; knows nothing of drafts or acceptance. No model file is changed: a
tree goes in as a 4-d mask and positions by depth, and the cache is ours. Targets and independent drafters are both one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..checkpoint.read import Checkpoint
from ..errors import CheckpointError, UnsupportedError
from .kv_cache import KeyValueCache, cache_argument
from .lean.lm import LeanLM
from .lean.stack import NotLeanError
from .passes import Branches, Pass, place
from .stored_weights import FLOATS

_ATTENTION = {"full_attention", "sliding_attention"}
_MASKED = {"sdpa", "eager"}  # attention implementations that take any mask
# Families that see a token's successors too, unless their config calls them decoders.
_TWO_WAY = {"bert", "bert-generation", "big_bird", "electra", "ernie", "megatron-bert", "rembert", "roc_bert"}
# Families whose position ids begin behind their padding id.
_ROBERTA = {
    *("roberta", "roberta-prelayernorm", "camembert", "data2vec-text"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def open_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: str | torch.device,
    body: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """A causal LM of a folder; code that lies there is not run.

    body: weights in place of those of the folder, all but a head, which the caller replaces; the model then comes tied,
    so that no full head is made, only to be thrown away. Raises CheckpointError, in one line, for whatever the library
    finds wrong, and for tensors that it would make up; UnsupportedError for weights that it would take for what they
    are not.
    """
    _prove_unquantized(checkpoint)
    folder = checkpoint.folder
    how: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "output_loading_info": True}
    try:
        with _no_load_report():
            if body is None:
                model, told = AutoModelForCausalLM.from_pretrained(folder, **how)
            else:
                config = open_config(folder)
                config.tie_word_embeddings = True
                kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
                model, told = kind.from_pretrained(None, config=config, state_dict=dict(body), **how)
        model = model.to(device)
    except (MemoryError, torch.OutOfMemoryError, CheckpointError):  # nothing is wrong with the folder
        raise
    except Exception as error:  # whatever its many loaders raise
        raise CheckpointError(
            f"transformers cannot load {folder} on {device}",
            found=f"{type(error).__name__}: {error}"[:300],
            remedy="fetch config and weights again, from one place, or use a model of a kind that it knows",
        ) from error
    head = None if body is None else _head_name(model)
    if missing := sorted(name for name in told["missing_keys"] if head is None or not name.startswith(f"{head}.")):
        raise CheckpointError(
            f"{folder} is no whole causal LM",
            expected=", ".join(missing[:3]) + (", ..." if len(missing) > 3 else ""),
            found=f"its weights without {len(missing)} of its tensors",
            remedy="the checkpoint is incomplete: fetch it again",
        )
    return model


def open_config(folder: Path) -> Any:
    """The config of a model's folder. Raises CheckpointError, in one line, for whatever the library finds wrong."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its classes raise of what the file says
        raise CheckpointError(
            f"transformers cannot read the config of {folder}",
            found=f"{type(error).__name__}: {error}"[:300],
            remedy="fetch config.json again, or use a model of a kind that it knows",
        ) from error


@contextmanager
def _no_load_report() -> Iterator[None]:
    """What the library found missing is said by our own errors, and a head left out on purpose by nobody."""
    # The second tells, since 5.24, of every norm that it was not split among devices, where nobody asked for several.
    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "distributed.tensor_parallel")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _head_name(model: Any) -> str | None:
    """The name of the output head's module in the model."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def _prove_unquantized(checkpoint: Checkpoint) -> None:
    """Packed weights come with a config that says how. Without it the library casts them as they are."""
    if checkpoint.setting("quantization_config"):
        return
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(".weight") and tensor.dtype not in FLOATS:
            raise UnsupportedError(
                f"tensor {name} of {tensor.path} is quantized, and config.json does not say how",
                expected=" or ".join(FLOATS),
                found=tensor.dtype,
                remedy="use the unquantized model",
            )


class CausalLM:
    """A model and its cache. Entries are appended by `run`; whoever runs it rewinds or commits `cache`.

    lean: the same model by our kernels, for sequences that go that way; None where `why_plain` says why not.
    graphs: its passes over static memory (graphs/lm_pass.py), which go before all others; None where there are none.
    """

    def __init__(self, model: Any, *, lean: bool = True) -> None:
        self.model = model.eval()
        self.config = model.config.get_text_config()
        for prove in (_prove_rewindable, _prove_one_way, _prove_places, _prove_masks):
            prove(model, self.config)
        self.cache = KeyValueCache(self.layers)
        self.cache_argument = cache_argument(model.forward) or ""
        # Asked for once: the model looks through its weights for them.
        self.device, self.dtype = torch.device(model.device), model.dtype
        self.graphs: Any = None
        self.lean: LeanLM | None = None
        self.why_plain: str | None = None if lean else "the plain path was asked for"
        if lean:
            try:
                self.lean = LeanLM(model, self.config, self.cache)
            except NotLeanError as reason:
                self.why_plain = str(reason)

    @cached_property
    def vocab(self) -> int:
        """`vocab_size` of the config: columns of an untrimmed head's logits, padded ids included."""
        return int(self.config.vocab_size)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)

    @cached_property
    def context(self) -> int:
        """Positions that the model was made for."""
        return int(self.config.max_position_embeddings)

    @property
    def rotation_switch(self) -> int | None:
        """Tokens beyond which a pass rotates positions otherwise (longrope), those in the cache left as they were.

        None where all passes rotate alike.
        """
        said: Any = getattr(self.config, "rope_parameters", None) or getattr(self.config, "rope_scaling", None) or {}
        if said.get("rope_type", said.get("type")) != "longrope":
            return None
        name = "original_max_position_embeddings"
        return int(said[name] if said.get(name) else getattr(self.config, name, self.context))

    @property
    def way(self) -> str:
        """What computes the passes of the sequence that was begun last, and why, in words."""
        if self.graphs is not None:
            return "recorded passes"
        if self.lean is None:
            return f"transformers' modules: {self.why_plain}"
        return self.lean.way

    def wait(self) -> None:
        """Until it is settled which way all sequences go, however short they are."""
        if self.lean is not None:
            self.lean.begin(sys.maxsize)

    def begin(self, room: int) -> None:
        """Forget everything, and have room for as many entries as the sequence will ever need."""
        self.cache.reserve(room)
        if self.lean is not None:
            self.lean.begin(room)

    @torch.inference_mode()
    def run(
        self,
        tokens: torch.Tensor,
        *,
        branches: Branches | None = None,
        rows: int = 1,
        states: Sequence[int] = (),
        likeliest: bool = False,
    ) -> Pass:
        """Append tokens (n,) to the cache, one behind the other where no `branches` say otherwise.

        rows: how many of the last tokens' logits are wanted. states: whose hidden states are wanted, counted as in
        transformers: state i is the input of decoder layer i, and -1 is what the head reads. likeliest: only the best
        id behind each row is wanted, which can be had for less than all logits.
        """
        if self.graphs is not None and self.graphs.holds(len(tokens), self.cache.length):
            return self.graphs.run(tokens, branches=branches, rows=rows, states=states)  # type: ignore[no-any-return]
        if self.lean is not None and self.lean.kernels is not None:
            return self.lean.run(tokens, branches=branches, rows=rows, states=states, likeliest=likeliest)
        positions, full = place(branches, self.cache.length, len(tokens), self.dtype, self.device)
        mask = None if branches is None or full is None else self._by_layer(full, positions, branches.depths)
        out = self.model(
            input_ids=tokens[None].to(self.device),
            position_ids=positions[None],
            attention_mask=mask,
            **{self.cache_argument: self.cache},
            use_cache=True,
            output_hidden_states=bool(states),
            logits_to_keep=rows,
        )
        hidden = torch.cat([out.hidden_states[state][0] for state in states], dim=-1) if states else None
        return Pass(out.logits[0, -rows:], hidden)

    def _by_layer(self, full: torch.Tensor, positions: torch.Tensor, depths: torch.Tensor) -> Any:
        """What the model takes for a mask: the full one, the one cut to its window, or both by kind of layer."""
        kinds = set(getattr(self.config, "layer_types", None) or ())
        window = getattr(self.config, "sliding_window", None)
        if window is None or kinds == {"full_attention"} or self.config.model_type == "llama":  # Llama has no windows
            return dict.fromkeys(kinds, full) if len(kinds) > 1 else full
        straight = full.shape[-1] - depths.numel()
        places = torch.cat([torch.arange(straight, device=self.device), straight + depths.to(self.device)])
        far = positions[:, None] - places[None] >= window
        sliding = full.masked_fill(far, torch.finfo(full.dtype).min)
        masks = {"full_attention": full, "sliding_attention": sliding}
        return masks if kinds else sliding


def _prove_rewindable(model: Any, config: Any) -> None:
    others = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    if others or getattr(model, "_is_stateful", False):
        attends = bool(others) and all(kind.endswith("attention") and "linear" not in kind for kind in others)
        raise UnsupportedError(
            f"{type(model).__name__} has layers "
            + (
                "for which no mask of a tree is made"
                if attends
                else "whose state cannot be rewound to an accepted token"
            ),
            expected=" or ".join(sorted(_ATTENTION)),
            found=", ".join(sorted(others)) or "a recurrent state",
            remedy="use a model whose layers are all plain attention",
        )


def _prove_one_way(model: Any, config: Any) -> None:
    """A token must not see those behind it, and its keys and values must be kept."""
    if config.model_type == "dory":
        raise UnsupportedError(
            f"{type(model).__name__} goes through its layers several times, with keys and values of its own each time",
            expected="one entry of the cache for each token of a layer",
            found="a looped model",
            remedy="use a model that goes through its layers once",
        )
    if config.model_type in _TWO_WAY and not getattr(config, "is_decoder", False):
        raise UnsupportedError(
            f"{type(model).__name__} reads both ways: a token's keys and values change with those behind it",
            expected="is_decoder: true in config.json",
            found=f"a {config.model_type} model that is no decoder",
            remedy="use a model that was trained to read forwards",
        )
    if cache_argument(model.forward) is None:
        raise UnsupportedError(
            f"{type(model).__name__} keeps no cache of keys and values",
            expected="a forward that takes a cache (past_key_values in older versions)",
            found="one that does not",
            remedy="use a model with a key-value cache",
        )


def _prove_places(model: Any, config: Any) -> None:
    """The nodes of a tree stand side by side in the cache, so layers must go by the positions that they are told."""
    if config.model_type in _ROBERTA:
        raise UnsupportedError(
            f"{type(model).__name__} counts positions from its padding id on",
            expected="position_ids from 0 on",
            found=f"a {config.model_type} model, whose first is pad_token_id + 1",
            remedy="use a model with rotary or learned positions from 0 on",
        )
    local = "local" in (getattr(config, "attention_layers", None) or ())  # GPT-Neo's windows count entries
    alibi = bool(getattr(config, "alibi", False))
    if local or alibi or "position_ids" not in signature(model.forward).parameters:
        raise UnsupportedError(
            f"{type(model).__name__} takes a token's position from its place in the cache",
            expected="layers that go by position_ids",
            found="windows that count entries"
            if local
            else ("a bias that counts entries" if alibi else "a forward without position_ids"),
            remedy="use a model with rotary or learned positions",
        )


def _prove_masks(model: Any, config: Any) -> None:
    """A tree goes in as a mask, which must be the one that the layers use."""
    if config.model_type == "moshi":
        raise UnsupportedError(
            f"{type(model).__name__} names a window in its config that its layers do not keep",
            expected="sliding_window as the layers use it",
            found=f"sliding_window {config.sliding_window} and full attention",
            remedy="use a text model",
        )
    attention = getattr(config, "_attn_implementation", None)
    if attention is not None and attention not in _MASKED:
        raise UnsupportedError(
            f"{type(model).__name__} was loaded with an attention that cannot take the mask of a tree",
            expected=" or ".join(sorted(_MASKED)),
            found=attention,
            remedy='load it with attn_implementation="sdpa"',
        )
