"""Targets and drafters a second time: the published forward passes in plain tensor arithmetic, without any memory.

Written from the papers and from what the named files compute, to be compared with `decoding/drafters`, which is made
of transformers' modules, caches and masks. Every call reads everything again, under an explicit mask. Slow on purpose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import silu, softmax

Weights = dict[str, torch.Tensor]
Tokens = tuple[int, ...]
Place = tuple[Tokens, float]  # the tokens from below the root, and the sum of their log-probabilities


@dataclass(frozen=True, eq=False)
class Files:
    """A folder's tensors by their published names, and its config."""

    weights: Weights
    config: dict[str, Any]

    def says(self, key: str) -> bool:
        """Whether the config asks for it, at its top or in `eagle_config`, where NVIDIA's files have such entries."""
        return bool({**self.config, **self.config.get("eagle_config", {})}.get(key))

    def linear(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        out = rows @ self.weights[f"{name}.weight"].T
        return out + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else out

    def norm(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        mean_square = (rows * rows).mean(dim=-1, keepdim=True)
        return rows / (mean_square + self.config["rms_norm_eps"]).sqrt() * self.weights[f"{name}.weight"]

    def gated(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        gate, up = self.linear(f"{name}.gate_proj", rows), self.linear(f"{name}.up_proj", rows)
        return self.linear(f"{name}.down_proj", silu(gate) * up)

    def attention(self, name: str, rows: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """rows: (n, inputs). visible: (n, n) bool. Every head on its own; queries share the keys of their group."""
        width, heads = self.config["head_dim"], self.config["num_attention_heads"]
        queries, keys, values = (
            self.linear(f"{name}.{kind}_proj", rows).unflatten(-1, (-1, width)) for kind in ("q", "k", "v")
        )
        if f"{name}.q_norm.weight" in self.weights:
            queries, keys = self.norm(f"{name}.q_norm", queries), self.norm(f"{name}.k_norm", keys)
        queries, keys = (self.turned(part, positions) for part in (queries, keys))
        group = heads // self.config["num_key_value_heads"]
        outputs = []
        for head in range(heads):
            scores = queries[:, head] @ keys[:, head // group].T / width**0.5
            shares = softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)
            outputs.append(shares @ values[:, head // group])
        return self.linear(f"{name}.o_proj", torch.cat(outputs, dim=-1))

    def turned(self, vectors: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotary positions: the pair (i, i + width / 2) of a head turns by position / theta ** (2 i / width)."""
        half = self.config["head_dim"] // 2
        speed = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = positions[:, None].double() * speed
        cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
        first, second = vectors[..., :half], vectors[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def read(folder: Path) -> Files:
    name = "medusa_lm_head.safetensors" if (folder / "medusa_lm_head.safetensors").exists() else "model.safetensors"
    return Files(load_file(folder / name), json.loads((folder / "config.json").read_text()))


def target_states(target: Files, tokens: list[int]) -> list[torch.Tensor]:
    """The input of every layer, and last what the head reads: (token, hidden) each."""
    causal, positions = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril(), torch.arange(len(tokens))
    hidden = target.weights["model.embed_tokens.weight"][tokens]
    states = []
    for layer in range(target.config["num_hidden_layers"]):
        states.append(hidden)
        name = f"model.layers.{layer}"
        normed = target.norm(f"{name}.input_layernorm", hidden)
        hidden = hidden + target.attention(f"{name}.self_attn", normed, positions, causal)
        hidden = hidden + target.gated(f"{name}.mlp", target.norm(f"{name}.post_attention_layernorm", hidden))
    return [*states, target.norm("model.norm", hidden)]


@dataclass(eq=False)
class PlainEagle:
    """One proposal of EAGLE-1/2 or EAGLE-3 behind `context`, whose last token is the root.

    Reads pairs: a token beside the feature of the token before it. The pairs of the context stand in a line, at the
    positions of their features; a drafted token's pair stands one further than its parent's and reads the parent's
    output as its feature. `level` appends drafted tokens and gives the logits behind each.
    """

    target: Files
    drafter: Files
    context: list[int]
    states: tuple[int, ...] = ()
    embedded: list[torch.Tensor] = field(default_factory=list)
    features: list[torch.Tensor] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # pair -> pair

    def __post_init__(self) -> None:
        states = target_states(self.target, self.context[:-1])
        for place, token in enumerate(self.context[1:]):
            self.embedded.append(self.embedding[token])
            self.features.append(self.fused([states[state][place] for state in self.states or (-1,)]))
            self.parents.append(place - 1)
        self.last = [len(self.parents) - 1]

    @property
    def embedding(self) -> torch.Tensor:
        own = self.drafter.weights.get("embed_tokens.weight")
        return self.target.weights["model.embed_tokens.weight"] if own is None else own

    def root(self) -> torch.Tensor:
        return self._logits(self.last)

    def level(self, tokens: list[int], parents: list[int]) -> torch.Tensor:
        """parents: numbers among the last level's tokens, or 0 for the root. Logits (tokens, ids of the head)."""
        outputs, pairs = self.outputs(), [self.last[parent] for parent in parents]
        first = len(self.parents)
        self.embedded += [self.embedding[token] for token in tokens]
        self.features += [self.handed_on(outputs[pair]) for pair in pairs]
        self.parents += pairs
        self.last = list(range(first, len(self.parents)))
        return self._logits(self.last)

    def outputs(self) -> torch.Tensor:
        """(pair, hidden) of everything so far."""
        pairs = len(self.parents)
        visible, depths = torch.zeros(pairs, pairs, dtype=torch.bool), []
        for pair, parent in enumerate(self.parents):
            if parent >= 0:
                visible[pair] = visible[parent]
            visible[pair, pair] = True
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return self.draft(torch.stack(self.embedded), torch.stack(self.features), torch.tensor(depths), visible)

    def _logits(self, pairs: list[int]) -> torch.Tensor:
        return self.head(self.outputs()[pairs])

    def fused(self, states: list[torch.Tensor]) -> torch.Tensor:
        return states[0]

    def handed_on(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def draft(
        self, embedded: torch.Tensor, features: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """SafeAILab/EAGLE, model/cnets1.py: the first layer norms nothing before its attention; nothing at the end."""
        layer = "layers.0"
        hidden = self.drafter.linear("fc", torch.cat([embedded, features], dim=-1))
        hidden = hidden + self.drafter.attention(f"{layer}.self_attn", hidden, positions, visible)
        normed = self.drafter.norm(f"{layer}.post_attention_layernorm", hidden)
        return hidden + self.drafter.gated(f"{layer}.mlp", normed)

    def head(self, outputs: torch.Tensor) -> torch.Tensor:
        """The target's, full width."""
        return self.target.linear("lm_head", outputs)


class PlainEagle3(PlainEagle):
    """SafeAILab/EAGLE, model/cnets.py; the config's entries as in vLLM's model_executor/models/llama_eagle3.py."""

    @property
    def layer(self) -> str:
        return "midlayer" if "midlayer.hidden_norm.weight" in self.drafter.weights else "layers.0"

    def fused(self, states: list[torch.Tensor]) -> torch.Tensor:
        if self.drafter.says("fc_norm"):
            states = [self.drafter.norm(f"fc_norm.{number}", state) for number, state in enumerate(states)]
        wide = torch.cat(states)
        if self.drafter.says("norm_before_fc"):
            wide = self.drafter.norm("input_norm", wide)
        return self.drafter.linear("fc", wide)

    def handed_on(self, output: torch.Tensor) -> torch.Tensor:
        return self.drafter.norm("norm", output) if self.drafter.says("norm_output") else output

    def draft(
        self, embedded: torch.Tensor, features: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        normed = self.drafter.norm(f"{self.layer}.hidden_norm", features)
        both = torch.cat([self.drafter.norm(f"{self.layer}.input_layernorm", embedded), normed], dim=-1)
        carried = normed if self.drafter.says("norm_before_residual") else features
        hidden = carried + self.drafter.attention(f"{self.layer}.self_attn", both, positions, visible)
        normed = self.drafter.norm(f"{self.layer}.post_attention_layernorm", hidden)
        return hidden + self.drafter.gated(f"{self.layer}.mlp", normed)

    def head(self, outputs: torch.Tensor) -> torch.Tensor:
        """Its own, one row for each id that it can draft."""
        return self.drafter.linear("lm_head", self.drafter.norm("norm", outputs))


def medusa_logits(target: Files, drafter: Files, context: list[int]) -> list[torch.Tensor]:
    """FasterDecoding/Medusa, model/medusa_model.py: head i scores the token i + 1 places behind the root, which is
    the last of `context`, from the state that made the target's head emit the root."""
    state = target_states(target, context[:-1])[-1][-1]
    logits = []
    for head in range(1 + max(int(name.split(".")[0]) for name in drafter.weights)):
        hidden, layer = state, 0
        while f"{head}.{layer}.linear.weight" in drafter.weights:
            hidden = hidden + silu(drafter.linear(f"{head}.{layer}.linear", hidden))
            layer += 1
        logits.append(drafter.linear(f"{head}.{layer}", hidden))
    return logits


def dynamic_tree(proposal: PlainEagle, ids: list[int], nodes: int, depth: int, width: int) -> set[Tokens]:
    """EAGLE-2's tree, as the tokens of every path from below the root (arXiv 2406.16858, section 4).

    nodes: with the root. depth: levels of drafted tokens. width: best nodes of a level that are gone on from, and
    children of each. ids: the target id of each logit.
    """
    level = _children((), 0.0, proposal.root()[0], ids, width)
    candidates, row_of = list(level), {(): 0}
    for _ in range(depth - 1):
        chosen = _best(level, width)
        logits = proposal.level([path[-1] for path, _ in chosen], [row_of[path[:-1]] for path, _ in chosen])
        row_of = {path: row for row, (path, _) in enumerate(chosen)}
        level = [
            child for place, row in zip(chosen, logits, strict=True) for child in _children(*place, row, ids, width)
        ]
        candidates += level
    return {path for path, _ in _best(candidates, nodes - 1)}


def _children(path: Tokens, worth: float, logits: torch.Tensor, ids: list[int], width: int) -> list[Place]:
    best = logits.log_softmax(dim=-1).topk(min(width, len(ids)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [((*path, ids[row]), worth + log_prob) for row, log_prob in pairs]


def _best(places: list[Place], count: int) -> list[Place]:
    return sorted(places, key=lambda place: -place[1])[:count]
