"""Random models whose drafts survive, at any size: so that every engine can be given the same drafter, and accept it.

A trained EAGLE-3 drafter of a size that a small machine decodes is not to be had, and of a random one nothing is
accepted. Here acceptance is built. Every id has one successor, which the head knows by heart: the row of the successor
is the embedding of the id before it. The target's layers are random and write weakly, so that what reaches its head is
still the embedding of the last token, and it walks from id to id. A drafter walks the same way,

- the independent one because it has the target's embedding and first layer,
- the EAGLE-3 one by its attention: queries and keys are the same projection of the embedding, so a token attends to
  itself (or to its like, which holds the same), and values and output carry the embedding through. The embeddings lie
  in as many dimensions as the key-value heads have. Its norm of features is small, so they hardly weigh;

but in a drafter's head some of the walk's rows have changed places: at those ids it drafts wrong, and the share of them
is the share of drafts that do not survive. So acceptance is the same for both drafters, for any dtype, and in any
engine, and the best score stands far above the second. Nothing is zero and nothing is left out: a pass reads and
multiplies what a trained model's of this size does.

The walk stays among printable ids of the trimmed head, so that a cut to an eighth accepts what the full head does:
this is about time, not about coverage.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

import vocabtrim as vt
from vocabtrim.calibrate.tokenizer import load_tokenizer, tokenizer_facts
from vocabtrim.testbed import shapes
from vocabtrim.testbed.family import held_out_prompts, member
from vocabtrim.testbed.shapes import ModelShape
from vocabtrim.testbed.sizes import Dtype
from vocabtrim.vocabulary.kept import KeptVocabulary

WRONG = 0.25  # of the walk's ids: with chains of four, block efficiency 3.05
WEAK = 0.1  # what the layers' writing matrices are multiplied with
SURE = 20.0  # logit of the successor; the best of the others has about 5
PROMPT_TOKENS = 64

SHAPES = {
    "50M": ModelShape("50M", 512, 1536, 10, 8, 4, 16_384, 16_384, 16_368, (16_370, 16_368), head_dim=64),
    "400M": ModelShape(
        "400M", 1024, 2816, 12, 16, 8, 128_256, 128_256, 128_000, (128_001, 128_008, 128_009), head_dim=64
    ),
}
# The rule by which llama.cpp splits text of each tokenizer (docs/engines/llama-cpp.md).
RULES = {"50M": "qwen2", "400M": "llama-bpe"}


@dataclass(frozen=True)
class PeerModels:
    """Folders of one size. Drafters: full, then cut to an eighth of the ids. prompts: ids, and the text they are of."""

    size: str
    target: Path
    independent: Path
    independent_cut: Path
    eagle3: Path
    eagle3_cut: Path
    prompts: list[tuple[list[int], str]]

    @property
    def rule(self) -> str:
        return RULES[self.size]


def write_models(folder: Path, size: str, dtype: Dtype, prompts: int, *, seed: int = 0) -> PeerModels:
    """Target and drafters in `dtype` on disk, all for the same tokenizer. VOCABTRIM_DATA holds that of 400M."""
    shape, tokenizer = replace(SHAPES[size], dtype=dtype, max_positions=2048), tokenizer_folder(size)
    kept, walk = kept_and_walk(tokenizer, shape)
    chance = torch.Generator().manual_seed(seed)
    target = shapes.write_target(folder / "target", shape, seed=seed, tokenizer=tokenizer)
    independent = shapes.write_independent(
        folder / "independent", replace(shape, layers=1), seed=seed, tokenizer=tokenizer
    )
    eagle3 = shapes.write_eagle3(folder / "eagle3", shape, seed=seed + 1, draft_vocab=shape.vocab, maps=False)
    basis = torch.linalg.qr(torch.randn(shape.hidden, shape.key_value, generator=chance)).Q
    embedding = embeddings(shape, basis, chance)
    knows, errs = heads(embedding, torch.from_numpy(walk), chance)
    revise(target, {"model.embed_tokens.weight": embedding, "lm_head.weight": knows})
    revise(independent, {"model.embed_tokens.weight": embedding, "lm_head.weight": errs})
    revise(eagle3, {"lm_head.weight": errs} | own_token_attention(shape, basis, chance))
    config = json.loads((eagle3 / "config.json").read_text()) | {"norm_before_residual": True}
    (eagle3 / "config.json").write_text(json.dumps(config, indent=2))
    cut = {
        name: vt.trim(folder / name, kept, target=target, out=folder / f"{name}-cut").out
        for name in ("independent", "eagle3")
    }
    asked = prompts_of(tokenizer, walk, prompts)
    return PeerModels(size, target, independent, cut["independent"], eagle3, cut["eagle3"], asked)


def tokenizer_folder(size: str) -> Path:
    return member("target") if size == "50M" else Path(os.environ["VOCABTRIM_DATA"]) / "tokenizers" / "llama3_2"


def kept_and_walk(tokenizer: Path, shape: ModelShape) -> tuple[KeptVocabulary, npt.NDArray[np.int64]]:
    """An eighth of the ids: what is always kept, and the first in merge order; of these the printable ones, which are
    the same text in every engine."""
    facts, words = tokenizer_facts(tokenizer), load_tokenizer(tokenizer)
    always = np.array(sorted(facts.always_keep), np.int64)
    first = np.setdiff1d(np.arange(facts.vocab_size), always)[: shape.vocab // 8 - always.size]
    texts = words.decode_batch([[token] for token in first.tolist()], skip_special_tokens=False)
    printable = [text.isascii() and text.isprintable() for text in texts]
    return KeptVocabulary(np.union1d(always, first).astype(np.int64), facts.vocab_size, facts.hash), first[printable]


def embeddings(shape: ModelShape, basis: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """(vocab, hidden), rows of root mean square 1 in the dimensions of `basis`, (hidden, kv heads' width)."""
    inside = torch.randn(shape.vocab, shape.key_value, generator=chance)
    return torch.nn.functional.normalize(inside, dim=-1) @ basis.T * shape.hidden**0.5


def heads(embedding: torch.Tensor, walk: torch.Tensor, chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's, which knows every successor, and the drafters', where a share of them have changed places."""
    hidden = embedding.shape[-1]
    knows = torch.randn(embedding.shape, generator=chance) * SURE / hidden
    order = walk[torch.randperm(len(walk), generator=chance)]
    knows[order.roll(-1)] = embedding[order] * SURE / hidden
    moved = order[torch.randperm(len(order), generator=chance)[: round(WRONG * len(order))]]
    errs = knows.clone()
    errs[moved] = knows[moved.roll(1)]
    return knows, errs


def own_token_attention(shape: ModelShape, basis: torch.Tensor, chance: torch.Generator) -> dict[str, torch.Tensor]:
    """Tensors of an EAGLE-3 layer that looks at its own token and passes its embedding on."""
    groups = basis.T.reshape(shape.kv_heads, shape.head_dim, shape.hidden)
    each = groups.repeat_interleave(shape.heads // shape.kv_heads, dim=0).reshape(shape.query, shape.hidden)

    def beside_feature(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, 0.02 * torch.randn(rows.shape, generator=chance)], dim=-1)

    return {
        "midlayer.self_attn.q_proj.weight": beside_feature(1.5 * each),
        "midlayer.self_attn.k_proj.weight": beside_feature(basis.T),
        "midlayer.self_attn.v_proj.weight": beside_feature(basis.T),
        "midlayer.self_attn.o_proj.weight": each.T * shape.kv_heads / shape.heads,
        "midlayer.hidden_norm.weight": torch.full((shape.hidden,), 0.02),
    }


def revise(folder: Path, values: dict[str, torch.Tensor]) -> None:
    """Put other values into a folder's tensors, in their dtypes, and weaken what its layers write."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name in values:
            assert values[name].shape == tensor.shape, name
            tensors[name] = values[name].to(tensor.dtype).contiguous()
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = tensor * WEAK
    assert values.keys() <= tensors.keys()
    save_file(tensors, file, metadata={"format": "pt"})


def prompts_of(tokenizer: Path, walk: npt.NDArray[np.int64], number: int) -> list[tuple[list[int], str]]:
    """Beginnings of held-out texts that end on an id of the walk, and that are cut into the same ids again."""
    words: Any = load_tokenizer(tokenizer)
    known, found = set(walk.tolist()), []
    for held in held_out_prompts():
        ids = words.encode(f"{held.messages[-1]['content']}\n\n{held.reference}").ids
        begin = ids[: next((end for end in range(PROMPT_TOKENS, len(ids) + 1) if ids[end - 1] in known), 0)]
        text = words.decode(begin, skip_special_tokens=True)
        if begin and words.encode(text).ids == begin and "\n" not in text[-1:]:
            found.append((begin, text))
    spread = max(1, len(found) // number)
    return found[::spread][:number]
