"""Trim a drafter: plan which rows of which tensors go where, write them, prove them, and only then show the result.

Knows layouts, maps and kept vocabularies; knows nothing of how ids were chosen. The plan is a frozen value that can be
printed; applying it takes nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibrate.tokenizer import TokenizerFacts, tokenizer_facts
from ..provenance import atomic_directory, birth_certificate
from ..vocabulary.dialects import maps_of
from ..vocabulary.kept import Ids, KeptVocabulary
from .card import model_card
from .head_ids import KEPT_FILE, head_ids, prove_tokenizer
from .layouts import EAGLE3, INDEPENDENT, MTP, Drafter, Head, identify
from .quantization_config import with_head
from .read import NESTED, WEIGHT_SUFFIXES, open_checkpoint
from .stored import StoredTensor, fingerprint
from .tuned import TUNED_FILE
from .write import PlannedFile, PlannedTensor, prove_files, write_files

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, eq=False)
class TrimPlan:
    """What a trim will do. `files` are written, `copies` (name -> source) copied, `config` becomes config.json.

    head_scale_block: (1, inputs) that share a scale in the cut head, where ids shared one before.
    """

    kind: str
    drafter: Path
    target: Path | None
    kept: KeptVocabulary
    width: int
    files: tuple[PlannedFile, ...]
    copies: Mapping[str, Path]
    config: Mapping[str, Any]
    head_rows_before: int
    head_bytes_before: int
    head_bytes_after: int
    head_scale_block: tuple[int, int] | None = None

    @property
    def sources(self) -> list[StoredTensor]:
        """The tensors that will be read."""
        return [tensor.source for file in self.files for tensor in file.tensors if tensor.source is not None]

    @property
    def out_bytes(self) -> int:
        """Bytes of the tensors to be written."""
        return sum(tensor.nbytes for file in self.files for tensor in file.tensors)


@dataclass(frozen=True)
class TrimResult:
    """A finished trim. Bytes are of all heads together; head_sha256: head tensor -> SHA-256 of its bytes."""

    out: Path
    kind: str
    kept_size: int
    head_bytes_before: int
    head_bytes_after: int
    head_sha256: Mapping[str, str]


def trim(
    drafter: str | Path, kept: KeptVocabulary | str | Path, *, target: str | Path | None = None, out: str | Path
) -> TrimResult:
    """Cut a drafter's head to a kept vocabulary and write the result as a drafter of the same kind.

    drafter, target: local folders; the target is needed where it owns the head (EAGLE-1/2), and checked against where
    it is given. kept: a KeptVocabulary or the path of its file. out: a folder that does not exist yet.
    Nothing is trained, no other tensor changes, and no model is loaded. VocabTrim, arXiv 2506.22694, section 3.
    Raises VocabTrimError kinds for anything that does not fit, before `out` exists.
    """
    if not isinstance(kept, KeptVocabulary):
        kept = KeptVocabulary.load(Path(kept))
    return apply_trim(plan_trim(Path(drafter), kept, None if target is None else Path(target)), Path(out))


def plan_trim(drafter: Path, kept: KeptVocabulary, target: Path | None = None) -> TrimPlan:
    """Work out a trim without writing anything: `trim` up to the first byte."""
    checkpoint = open_checkpoint(drafter)
    target_checkpoint = None if target is None else open_checkpoint(target)
    understood = identify(checkpoint, target_checkpoint)
    present = head_ids(understood)
    tokenizer = tokenizer_beside(target, drafter)
    prove_tokenizer(kept, present.width, checkpoint, tokenizer)
    for owner in (checkpoint, target_checkpoint):  # what their configs say is what engines allocate
        if owner is not None and owner.setting("vocab_size") is not None:
            prove_tokenizer(kept, owner.setting("vocab_size"), owner, tokenizer)
    rows = present.rows_of(kept, drafter)
    heads = {head: cut(head, rows) for head in understood.heads}
    maps = planned_maps(kept, present.width) if understood.kind == EAGLE3 else []
    return TrimPlan(
        kind=understood.kind,
        drafter=drafter,
        target=target,
        kept=kept,
        width=present.width,
        files=_place(understood, heads, maps),
        copies=_copies(understood, target),
        config=_config(understood, kept, present.width),
        head_rows_before=understood.heads[0].rows,
        head_bytes_before=sum(tensor.nbytes for head in heads for tensor in head.tensors.values()),
        head_bytes_after=sum(tensor.nbytes for tensors in heads.values() for tensor in tensors),
        head_scale_block=_scale_block(understood),
    )


def apply_trim(plan: TrimPlan, out: Path) -> TrimResult:
    """Write a plan into a temporary sibling of `out`, open it afresh, compare every tensor, and rename it."""
    with atomic_directory(out) as folder:
        write_files(folder, plan.files)
        head_sha256 = prove_files(folder, plan.files)
        for name, source in plan.copies.items():
            shutil.copyfile(source, folder / name)
        plan.kept.save(folder / KEPT_FILE)
        certificate = birth_certificate(
            {"kept_size": plan.kept.size}, {"drafter": fingerprint(plan.sources), "kept": plan.kept.hash}
        )
        config = dict(plan.config)
        config["vocabtrim"] = {
            "version": certificate["version"],
            "kept_sha256": plan.kept.hash,
            "head_sha256": head_sha256,
        }
        if plan.head_scale_block is not None:  # not every dialect of quantization_config can say it of one module
            config["vocabtrim"]["head_scale_block"] = list(plan.head_scale_block)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(model_card(plan, certificate), encoding="utf-8")
    return TrimResult(out, plan.kind, plan.kept.size, plan.head_bytes_before, plan.head_bytes_after, head_sha256)


def tokenizer_beside(*folders: Path | None) -> TokenizerFacts | None:
    """The tokenizer of the first of these folders that holds one: a target's own counts before its drafter's copy."""
    for folder in folders:
        if folder is not None and (folder / "tokenizer.json").exists():
            return tokenizer_facts(folder)
    return None


def cut(head: Head, rows: Ids) -> list[PlannedTensor]:
    """Every tensor of a head, cut to `rows` (n,) of it: weight and bias, packed weight and scales alike.

    Raises MismatchError for as many rows as the head's format has no words for.
    """
    return head.stored.cut(rows, head.name)


def _scale_block(drafter: Drafter) -> tuple[int, int] | None:
    """(1, inputs) that share a scale in the cut head, where blocks of ids shared one before this trim or an earlier."""
    if block := drafter.heads[0].stored.scale_block:
        return 1, block[1]
    written = drafter.checkpoint.config.get("vocabtrim")
    told = written.get("head_scale_block") if isinstance(written, dict) else None
    return (told[0], told[1]) if isinstance(told, list) and len(told) == 2 else None


def planned_maps(kept: KeptVocabulary, width: int) -> list[PlannedTensor]:
    """d2t, int64 (kept,), and t2d, bool (width,), as EAGLE-3's loaders read them."""
    maps = maps_of(kept.ids, width)
    return [
        PlannedTensor("d2t", "I64", (kept.size,), data=maps["d2t"].astype("<i8").tobytes()),
        PlannedTensor("t2d", "BOOL", (width,), data=maps["t2d"].tobytes()),
    ]


def _place(
    drafter: Drafter, heads: Mapping[Head, list[PlannedTensor]], maps: list[PlannedTensor]
) -> tuple[PlannedFile, ...]:
    """Each tensor goes into the file its source came from; the maps, and a head of the target's, beside the body."""
    checkpoint = drafter.checkpoint
    # An MTP module is taken out of its model, so it becomes one file of its own.
    name_of = {path: "model.safetensors" if drafter.kind == MTP else _out_name(path) for path in checkpoint.files}
    files: dict[str, list[PlannedTensor]] = {}
    for name in drafter.body:
        tensor = checkpoint.tensors[name]
        files.setdefault(name_of[tensor.path], []).append(PlannedTensor.copy(tensor))
    beside = next(reversed(files), "model.safetensors")
    for head, cut in heads.items():
        place = name_of[head.main.path] if head.owner is checkpoint else beside
        files.setdefault(place, []).extend([*cut, *maps])
        maps = []
    return tuple(PlannedFile(name, tuple(tensors)) for name, tensors in sorted(files.items()))


def _out_name(path: Path) -> str:
    return path.stem.replace("pytorch_model", "model") + ".safetensors"


def _copies(drafter: Drafter, target: Path | None) -> dict[str, Path]:
    """Tokenizer, custom code, licence: every small file of the drafter; the target's tokenizer where it has none."""
    folder = drafter.checkpoint.folder
    ours = {"config.json", KEPT_FILE, TUNED_FILE, *(path.name for path in drafter.checkpoint.files)}
    copies = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in ours
        # Maps and hashes of the weights would contradict the new ones.
        and path.suffix not in {*WEIGHT_SUFFIXES, ".npy", ".sha256"}
        and not path.name.endswith(".index.json")
    }
    card = copies.pop("README.md", None)
    if card is not None:  # of a drafter trimmed before, the original's stays the one that is kept
        copies.setdefault("README.upstream.md", card)
    if target is not None and "tokenizer.json" not in copies:
        copies |= {name: target / name for name in TOKENIZER_FILES if (target / name).is_file()}
    return copies


def _config(drafter: Drafter, kept: KeptVocabulary, width: int) -> dict[str, Any]:
    config = {**drafter.checkpoint.config, "draft_vocab_size": kept.size}
    if drafter.checkpoint.setting("vocab_size") is None:  # Medusa's: the head alone told it, and no longer does
        config["vocab_size"] = width
    # A tied head would be loaded over the trimmed one; absent means tied for several model families.
    if drafter.kind == INDEPENDENT or config.get("tie_word_embeddings"):
        config["tie_word_embeddings"] = False
    for nested in NESTED:
        if isinstance(config.get(nested), dict) and config[nested].get("tie_word_embeddings"):
            config[nested] = {**config[nested], "tie_word_embeddings": False}
    matrices = sorted({name.rpartition(".")[0] for name in drafter.body if _is_projection(drafter, name)})
    for head in drafter.heads:
        stays = head.owner is drafter.checkpoint and head.source == head.name
        if not stays or head.stored.scale_block is not None:
            config = with_head(config, head.stored, head.name, owner=head.owner, source=head.source, body=matrices)
    return config


def _is_projection(drafter: Drafter, name: str) -> bool:
    """A matrix that is no embedding: what engines quantize where nothing tells them not to."""
    embeds = name.rpartition(".")[0] in drafter.embeddings
    return len(drafter.checkpoint.tensors[name].shape) == 2 and not embeds
