"""What each drafter kind's checkpoint looks like: which tensors are its body, where its head stands, what a map is.

Knows the published names; knows nothing of kept vocabularies or of writing. The layouts and where they come from:

- independent: any Hugging Face causal LM.
- EAGLE-1/2: SafeAILab/EAGLE, model/cnets1.py; the head is the target's.
- EAGLE-3: SafeAILab/EAGLE, model/cnets.py, and vllm-project/speculators; its own head, with d2t and t2d.
- Medusa: FasterDecoding/Medusa, model/medusa_model.py; one head per drafted position.
- MTP: the modules of DeepSeek-V3 and GLM, of Qwen3-Next, and of MiMo inside a target's checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import CheckpointError, UnsupportedError
from .head_tensors import HeadTensors, read_head, refused
from .quantization_config import told_of
from .read import Checkpoint
from .stored import StoredTensor

INDEPENDENT, EAGLE, EAGLE3, MEDUSA, MTP = "independent", "EAGLE-1/2", "EAGLE-3", "Medusa", "MTP"

# Tensors that map drafted ids to target ids; a trim writes them anew.
MAPS = ("d2t", "t2d")

_HEADS = ("lm_head", "language_model.lm_head", "model.lm_head", "embed_out", "output")
_EMBEDDINGS = (
    "model.embed_tokens",
    "embed_tokens",
    "model.language_model.embed_tokens",
    "language_model.model.embed_tokens",
    "transformer.wte",
    "gpt_neox.embed_in",
    "transformer.word_embeddings",
    "model.tok_embeddings",
    "model.decoder.embed_tokens",
    "decoder.embed_tokens",
    "wte",
    "mtp.embed_tokens",
)
_REFUSED = {
    "gemma4_assistant": "its head picks among learned centroids of the vocabulary, which a cut would break",
    "gemma4_unified_assistant": "its head picks among learned centroids of the vocabulary, which a cut would break",
}
_MEDUSA_TENSOR = re.compile(r"(?:medusa_head\.)?(\d+)\.(\d+)\.(?:linear\.)?(?:weight|bias)")
_MTP_MODULE = re.compile(r"(mtp\.|model\.mtp_layers\.\d+\.|mtp_layers\.\d+\.)")
_NEXTN_MODULE = re.compile(r"(model\.layers\.\d+\.)eh_proj\.weight")


# A matrix, and those without which no decoder layer of any family can use it.
_TOGETHER = {
    **{"k_proj": ("q_proj",), "v_proj": ("q_proj", "k_proj")},
    **{"gate_proj": ("up_proj", "down_proj"), "up_proj": ("down_proj",), "down_proj": ("up_proj",)},
    "gate_up_proj": ("down_proj",),  # two of them stored as one
}
# What EAGLE's fc is stored as: plain or FP8, compressed-tensors' packed, GPTQ or AWQ.
_FUSION = {"weight", "weight_packed", "qweight"}
_EAGLE_MATRICES = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "post_attention_layernorm",
)


@dataclass(frozen=True, eq=False)
class Head:
    """One output head: the tensors `source.*` (weight, bias, scales) of `owner`, written by a trim as `name.*`."""

    owner: Checkpoint
    source: str
    name: str

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """suffix ("weight", "bias", "weight_scale", ...) -> tensor. A tied head's bias stands beside no weight."""
        tied_bias = with_prefix(self.owner.tensors, "lm_head") if self.source in _EMBEDDINGS else {}
        found = with_prefix(self.owner.tensors, self.source)
        return found | ({"bias": tied_bias["bias"]} if "bias" in tied_bias else {})

    @cached_property
    def stored(self) -> HeadTensors:
        """What those tensors are, and how they are cut.

        Raises UnsupportedError for a format that cannot be cut, CheckpointError for tensors that do not fit each other.
        """
        found = self.tensors
        if not {"weight", "weight_packed", "qweight"} & found.keys() and not refused(found):
            self.owner.tensor(f"{self.source}.weight")  # which says what there is instead
        return read_head(found, told_of(self.owner, self.source))

    @property
    def main(self) -> StoredTensor:
        """The tensor of its weights; with a row for each id where the head is not GPTQ or AWQ."""
        return self.stored.main

    @property
    def rows(self) -> int:
        """As many as it has ids."""
        return self.stored.ids


@dataclass(frozen=True, eq=False)
class Drafter:
    """A drafter, understood: its kind, its heads, and the tensors a trim copies unchanged.

    body: names of the tensors copied as they are. embeddings: prefixes of the input embeddings in `checkpoint`, one for
    each MTP module that has its own; none where the target's is used. tied: the head is the input embedding.
    target: where it was given. modules: how many MTP modules take turns, one a draft step.
    """

    kind: str
    checkpoint: Checkpoint
    heads: tuple[Head, ...]
    body: tuple[str, ...]
    embeddings: tuple[str, ...] = ()
    tied: bool = False
    target: Checkpoint | None = None
    modules: int = 1

    @property
    def read_per_step(self) -> tuple[str, ...]:
        """Names of the body that draft steps read: of a merged Medusa its heads alone, the rest is the target."""
        if self.kind != MEDUSA:
            return self.body
        return tuple(name for name in self.body if _MEDUSA_TENSOR.fullmatch(name))


def with_prefix(tensors: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """suffix -> tensor for every tensor named `prefix.suffix`."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def identify(checkpoint: Checkpoint, target: Checkpoint | None = None) -> Drafter:
    """Say which kind of drafter a checkpoint is and where its head stands.

    target: needed where the drafter carries no head of its own (EAGLE-1/2, MTP modules apart from their model).
    Raises UnsupportedError for a drafter refused by name, CheckpointError where no layout fits or a head is missing.
    """
    model_type = str(checkpoint.setting("model_type", ""))
    if model_type in _REFUSED:
        raise UnsupportedError(
            f"{checkpoint.folder} is a {model_type} drafter: {_REFUSED[model_type]}",
            remedy="serve it as it is; it is already cheap at large vocabularies",
        )
    drafter = replace(_by_names(checkpoint, target), target=target)
    _prove_complete(drafter)
    return drafter


def _by_names(checkpoint: Checkpoint, target: Checkpoint | None) -> Drafter:
    names = checkpoint.tensors
    if any(_MEDUSA_TENSOR.fullmatch(name) for name in names):
        return _medusa(checkpoint)
    if any(_NEXTN_MODULE.fullmatch(name) for name in names):
        return _nextn(checkpoint, target)
    if any(_MTP_MODULE.match(name) for name in names):
        return _mtp(checkpoint, target)
    if _FUSION & with_prefix(names, "fc").keys():
        return _eagle(checkpoint, target)
    return _independent(checkpoint)


def _prove_complete(drafter: Drafter) -> None:
    """Heads are matrices, and matrices that only work together are all there: a hole would trim without a word."""
    for head in drafter.heads:
        _ = head.stored
    modules = {name.rpartition(".")[0] for name in drafter.checkpoint.tensors} | set(drafter.checkpoint.tensors)
    needed: list[str] = []
    if drafter.kind in {EAGLE, EAGLE3}:
        blocks = {found[0] for name in drafter.body if (found := re.match(r"(model\.)?(midlayer|layers\.\d+)", name))}
        needed += [f"{block}.{matrix}" for block in sorted(blocks) or ["layers.0"] for matrix in _EAGLE_MATRICES]
        if drafter.kind == EAGLE3:
            needed += ["norm", *(f"{block}.hidden_norm" for block in sorted(blocks)[:1])]
        elif drafter.checkpoint.config.get("bias", True):  # EAGLE's own loader takes a missing key for true
            needed.append("fc.bias")
    for name in drafter.body:
        needed += _companions(name, modules)
    for prefix in needed:
        if prefix not in modules:
            raise CheckpointError(
                f"{drafter.checkpoint.folder} is no whole {drafter.kind} drafter",
                expected=prefix if prefix.endswith(".bias") else f"{prefix}.weight",
                found=f"{len(drafter.checkpoint.tensors)} tensors without it",
                remedy="the checkpoint is incomplete: fetch it again",
            )


def _companions(name: str, modules: set[str]) -> list[str]:
    """Modules without which the matrix of that name is of no use."""
    parent, _, matrix = name.removesuffix(".weight").rpartition(".")
    gates_attention = matrix == "gate_proj" and parent.endswith("attn")
    if gates_attention or (matrix == "down_proj" and f"{parent}.gate_up_proj" in modules):
        return []
    return [f"{parent}.{other}" for other in _TOGETHER.get(matrix, ())]


def embedding_of(checkpoint: Checkpoint) -> str | None:
    """Prefix of the input embedding, or None."""
    return next((name for name in _EMBEDDINGS if with_prefix(checkpoint.tensors, name)), None)


def head_of(checkpoint: Checkpoint) -> tuple[str, bool]:
    """Prefix of a causal LM's head, and whether it is the input embedding.

    A tied config wins over a stored head, as in transformers, which ties on loading.
    Raises CheckpointError where there is neither a head nor an embedding.
    """
    own = next((name for name in _HEADS if with_prefix(checkpoint.tensors, name)), None)
    embedding = embedding_of(checkpoint)
    if embedding is not None and (own is None or checkpoint.setting("tie_word_embeddings", False)):
        return embedding, True
    if own is None:
        raise CheckpointError(
            f"{checkpoint.folder} has no LM head and no embedding that could be one",
            expected="lm_head.weight or model.embed_tokens.weight",
            found=_some(checkpoint.tensors),
            remedy="pass a causal LM, or a drafter of a kind that `vocabtrim inspect --help` lists",
        )
    return own, False


def _independent(checkpoint: Checkpoint) -> Drafter:
    source, tied = head_of(checkpoint)
    layers = checkpoint.setting("num_hidden_layers", 0)
    present = {int(part) for name in checkpoint.tensors for part in name.split(".") if part.isdigit()}
    missing = next((layer for layer in range(layers) if layer not in present), None)
    # A causal LM's tensors stand below its base model; EAGLE's drafters are the only ones whose layers do not.
    if missing is not None or any(name.startswith("layers.") for name in checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint.folder} is no whole causal LM",
            expected=f"{layers} layers below a base model",
            found=f"layer {missing} missing"
            if missing is not None
            else "bare layers, as in an EAGLE drafter without its fc",
            remedy="the checkpoint is incomplete: fetch it again",
        )
    # An untied head stands beside the model it belongs to: language_model.model.* has language_model.lm_head.
    name = source if not tied else ("language_model.lm_head" if source.startswith("language_model.") else "lm_head")
    replaced = set() if tied else {source}
    body = _all_but(checkpoint, {*replaced, name})
    return Drafter(INDEPENDENT, checkpoint, (Head(checkpoint, source, name),), body, _embeddings(checkpoint), tied)


def _eagle(checkpoint: Checkpoint, target: Checkpoint | None) -> Drafter:
    names = checkpoint.tensors
    fusion = names.get("fc.weight")
    is_eagle3 = (
        "d2t" in names
        or any(name.startswith("midlayer.") or ".hidden_norm." in f".{name}" for name in names)
        or (fusion is not None and fusion.shape[-1] == 3 * fusion.shape[0])
    )
    # An EAGLE-1/2 folder's own head is ours when it says how many ids it has; any other is dropped by every loader.
    said_so = "draft_vocab_size" in checkpoint.config or (checkpoint.folder / "kept.safetensors").exists()
    own_head = bool(with_prefix(names, "lm_head")) and (is_eagle3 or said_so)
    head = Head(checkpoint, "lm_head", "lm_head") if own_head else _head_of_target(checkpoint, target)
    body = _all_but(checkpoint, {"lm_head"})
    return Drafter(EAGLE3 if is_eagle3 else EAGLE, checkpoint, (head,), body, _embeddings(checkpoint))


def _medusa(checkpoint: Checkpoint) -> Drafter:
    layers: dict[str, int] = {}  # the output projection of head i is its highest-numbered layer
    for name in checkpoint.tensors:
        if found := _MEDUSA_TENSOR.fullmatch(name):
            prefix = name[: found.start(1)] + found[1]
            layers[prefix] = max(layers.get(prefix, 0), int(found[2]))
    outputs = [f"{prefix}.{layer}" for prefix, layer in layers.items()]
    outputs.sort(key=lambda name: int(name.split(".")[-2]))
    heads = tuple(Head(checkpoint, name, name) for name in outputs)
    for head in heads:
        if f"{head.source}.linear.weight" in checkpoint.tensors:
            raise CheckpointError(
                f"Medusa head {head.source} of {checkpoint.folder} has no output projection",
                expected=f"{head.source.rpartition('.')[0]}.N.weight after its residual blocks",
                remedy="the checkpoint is incomplete: fetch it again",
            )
    return Drafter(MEDUSA, checkpoint, heads, _all_but(checkpoint, {head.source for head in heads}))


def _nextn(checkpoint: Checkpoint, target: Checkpoint | None) -> Drafter:
    """DeepSeek-V3 and GLM: the module is layer N = num_hidden_layers and on, with a shared_head of its own."""
    modules = sorted(found[1] for name in checkpoint.tensors if (found := _NEXTN_MODULE.fullmatch(name)))
    heads = tuple(
        Head(checkpoint, f"{module}shared_head.head", f"{module}shared_head.head")
        if with_prefix(checkpoint.tensors, f"{module}shared_head.head")
        else _verifier_head(checkpoint, target, f"{module}shared_head.head")
        for module in modules
    )
    return _module_drafter(checkpoint, modules, heads)


def _mtp(checkpoint: Checkpoint, target: Checkpoint | None) -> Drafter:
    """Qwen3-Next and MiMo: the module shares the verifier's head, so the trimmed one gets a name of its own."""
    modules = sorted({found[1] for name in checkpoint.tensors if (found := _MTP_MODULE.match(name))})
    # All modules of a checkpoint share one head; a trimmed one stands in the first.
    name = f"{modules[0]}lm_head"
    own = with_prefix(checkpoint.tensors, name)
    head = Head(checkpoint, name, name) if own else _verifier_head(checkpoint, target, name)
    return _module_drafter(checkpoint, modules, (head,))


def _module_drafter(checkpoint: Checkpoint, modules: list[str], heads: tuple[Head, ...]) -> Drafter:
    """Only the module is the drafter: the rest of the checkpoint is the target and stays where it is."""
    replaced = {head.name for head in heads}
    body = tuple(name for name in _all_but(checkpoint, replaced) if name.startswith(tuple(modules)))
    embeddings = tuple(name.removesuffix(".weight") for name in body if name.endswith("embed_tokens.weight"))
    return Drafter(MTP, checkpoint, heads, body, embeddings, modules=len(modules))


def _embeddings(checkpoint: Checkpoint) -> tuple[str, ...]:
    embedding = embedding_of(checkpoint)
    return () if embedding is None else (embedding,)


def _verifier_head(checkpoint: Checkpoint, target: Checkpoint | None, name: str) -> Head:
    if embedding_of(checkpoint) is None and not with_prefix(checkpoint.tensors, "lm_head"):
        return _head_of_target(checkpoint, target, name)
    return Head(checkpoint, head_of(checkpoint)[0], name)


def _head_of_target(checkpoint: Checkpoint, target: Checkpoint | None, name: str = "lm_head") -> Head:
    if target is None:
        raise CheckpointError(
            f"{checkpoint.folder} carries no head: it drafts with its target's",
            remedy="pass the target's folder with --target",
        )
    return Head(target, head_of(target)[0], name)


def _all_but(checkpoint: Checkpoint, prefixes: set[str]) -> tuple[str, ...]:
    """Every tensor but the maps and those under `prefixes`."""
    return tuple(
        name
        for name in checkpoint.tensors
        if name not in MAPS and not any(name.startswith(f"{prefix}.") for prefix in prefixes)
    )


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:5]) or "no tensors"
