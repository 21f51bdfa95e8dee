"""Lint a drafter or a map: every way in which published drafters were seen to fail, one rule each.

Knows layouts, maps and what engines do with them. A problem would make an engine draft wrong ids, load wrong rows or
refuse the folder; a note is something to know when serving. Unreadable files raise, as everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..calibrate.tokenizer import STOP, TokenizerFacts, stop_ids
from ..errors import InputError, UnsupportedError
from ..hub import local_folder
from ..vocabulary.dialects import read_pieces
from ..vocabulary.draft_map import MapPieces, Problem, find_problems
from ..vocabulary.kept import Ids, KeptVocabulary
from .head_ids import KEPT_FILE, head_ids, map_problems, width_problems
from .layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP, Drafter, Head, embedding_of, head_of, identify
from .quantization_config import says_quantized, section_of
from .read import WEIGHT_FILES, Checkpoint, open_checkpoint
from .stored import StoredTensor
from .trim import tokenizer_beside
from .write import PlannedTensor


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. kind: of drafter, or "map"."""

    kind: str
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, eq=False)
class _Subject:
    """A drafter under the rules. ids: (rows,) what its rows stand for; None for a full head."""

    drafter: Drafter
    target: Checkpoint | None
    tokenizer: TokenizerFacts | None
    ids: Ids | None

    @property
    def folder(self) -> Path:
        return self.drafter.checkpoint.folder

    @property
    def trimmed(self) -> bool:
        return self.ids is not None


def check(path: str | Path, target: str | Path | None = None) -> CheckReport:
    """Lint a drafter's folder, or a map of any dialect.

    target: the target's folder; with it the stop ids, the width and, where the head is the target's, every head row
    are compared. Raises InputError and CheckpointError for files that cannot be read.
    """
    path = local_folder(path)
    if not path.exists():
        raise InputError(f"nothing to check at {path}", remedy="pass a drafter's folder or a map's file")
    target_checkpoint = None if target is None else open_checkpoint(local_folder(target))
    if path.is_dir() and any((path / name).exists() for name in ("config.json", *WEIGHT_FILES)):
        return _check_drafter(path, target_checkpoint)
    return _check_map(path, target_checkpoint)


def _check_drafter(path: Path, target: Checkpoint | None) -> CheckReport:
    try:
        drafter = identify(open_checkpoint(path), target)
    except UnsupportedError as error:
        return CheckReport("unknown", (Problem("kind.refused", error.what, error.remedy),), ())
    if unreadable := [*_kept_file(path), *_retied(drafter)]:
        return CheckReport(drafter.kind, tuple(unreadable), ())
    problems = [*map_problems(drafter), *width_problems(drafter)]
    if any(problem.rule != "map.unsorted" for problem in problems):
        return CheckReport(drafter.kind, tuple(problems), ())  # rules on rows need a map that can be believed
    tokenizer = tokenizer_beside(target.folder if target is not None else None, path)
    subject = _Subject(drafter, target, tokenizer, head_ids(drafter).ids)
    problems += [problem for rule in _RULES for problem in rule(subject)]
    notes = tuple(problem for rule in _NOTES for problem in rule(subject))
    return CheckReport(drafter.kind, tuple(problems), notes)


def _check_map(path: Path, target: Checkpoint | None) -> CheckReport:
    pieces = read_pieces(path)
    tokenizer = None if target is None else tokenizer_beside(target.folder)
    if target is not None:
        pieces = replace(pieces, target_vocab=_rows(target))
    if pieces.offsets is None:
        pieces = _readable(pieces)
    problems = find_problems(pieces)
    if not any(problem.rule in {"map.range", "map.duplicate", "map.length"} for problem in problems):
        problems += _ids_rules(str(path), pieces.ids, tokenizer, target)
    if tokenizer is not None and pieces.tokenizer_hash not in {None, tokenizer.hash}:
        problems.append(_other_tokenizer(str(path), str(pieces.tokenizer_hash), tokenizer))
    return CheckReport("map", tuple(problems), tuple(_map_notes(pieces, target)))


def _rows(target: Checkpoint) -> int:
    """Of the target's head. A map can be checked where the head could not be cut: the config tells its size."""
    try:
        return _target_head(target).rows
    except UnsupportedError:
        if target.setting("vocab_size") is None:
            raise
        return int(target.setting("vocab_size"))


def _target_head(target: Checkpoint) -> Head:
    return Head(target, head_of(target)[0], "lm_head")


def _readable(pieces: MapPieces) -> MapPieces:
    """Offsets or ids, whichever reading is sound; as ids where none is, so that its problems are told."""
    readings = [replace(pieces, offsets=offsets) for offsets in (True, False)]
    return next((reading for reading in readings if not find_problems(reading)), readings[1])


def _kept_file(folder: Path) -> Iterator[Problem]:
    """A kept.safetensors that was edited, cut short or replaced by something else."""
    if (folder / KEPT_FILE).exists():
        try:
            KeptVocabulary.load(folder / KEPT_FILE)
        except InputError as error:
            yield Problem("map.changed", str(error.what), "restore it, or trim the original drafter again")


def _retied(drafter: Drafter) -> Iterator[Problem]:
    """A trimmed head beside a config that ties: read as the config says, the folder would look untrimmed."""
    stored = drafter.checkpoint.tensors.get("lm_head.weight")
    if drafter.tied and stored is not None and stored.rows != drafter.heads[0].rows:
        yield _tied(drafter.checkpoint.folder)


# The head itself


def _finite(subject: _Subject) -> Iterator[Problem]:
    for head in subject.drafter.heads:
        for part in head.stored.parts.values():
            element = part.tensor.nonfinite()
            if element is None or part.pick is None:  # what all ids share was proven when the head was understood
                continue
            pick = part.pick(np.arange(head.rows))
            place = pick.position(element, part.tensor)
            row = int(np.argmax(pick.ids == place))
            token = row if subject.ids is None else int(subject.ids[row])
            yield Problem(
                "head.nonfinite",
                f"{pick.noun} {place} (id {token}) of {part.tensor.name} in {part.tensor.path} holds NaN or infinity",
                "the head is damaged: fetch it again, or trim without that id",
            )


def _as_written(subject: _Subject) -> Iterator[Problem]:
    """A map belongs to the head it was cut with: the folder's own hashes tell when one was replaced."""
    written = subject.drafter.checkpoint.config.get("vocabtrim")
    if not isinstance(written, dict) or subject.ids is None:
        return
    digests = written.get("head_sha256")
    for name, digest in digests.items() if isinstance(digests, dict) else ():
        tensor = subject.drafter.checkpoint.tensors.get(name)
        if tensor is None or _sha256(tensor) != digest:
            yield Problem(
                "head.changed",
                f"{name} of {subject.folder} is not the tensor that was cut with this map",
                "restore the head that was written with the map, or trim the original drafter again",
            )
    kept_path = subject.folder / KEPT_FILE
    kept = KeptVocabulary.load(kept_path) if kept_path.exists() else None
    if kept is None or kept.hash != written.get("kept_sha256") or not np.array_equal(kept.ids, np.sort(subject.ids)):
        yield Problem(
            "map.changed",
            f"the map of {subject.folder} is not the one its head rows were cut with, so rows stand for wrong ids",
            "restore the map that was written with the head, or trim the original drafter again",
        )


def _rows_of_target(subject: _Subject) -> Iterator[Problem]:
    """Where the head is the target's own (EAGLE-1/2, MTP), every kept row must be the target's row of that id."""
    drafter, target = subject.drafter, subject.target
    if target is None or subject.ids is None or drafter.kind not in {EAGLE, MTP}:
        return
    for head in drafter.heads:
        for planned in _cut_of_target(target, head, subject.ids):
            main = drafter.checkpoint.tensors.get(planned.name)
            if main is None or planned.source is None or planned.pick is None:
                continue
            if (main.dtype, main.shape) != (planned.dtype, planned.shape):
                continue  # a cast copy cannot be compared bit for bit
            row = planned.pick.difference(planned.source, main)
            if row is not None:
                yield Problem(
                    "head.rows",
                    f"{planned.pick.noun} {row} of {main.name} in {subject.folder} is not the target's "
                    f"{planned.pick.noun} {planned.pick.ids[row]}, which the map says it is",
                    "the map does not belong to this head, or the target is another: trim the original drafter again",
                )


def _cut_of_target(target: Checkpoint, head: Head, ids: Ids) -> list[PlannedTensor]:
    """What a cut of the target's head to these ids would be; nothing where it has no such cut."""
    try:
        stored = _target_head(target).stored
    except UnsupportedError:
        return []
    fits = stored.ids > ids.max(initial=0) and ids.size % stored.whole == 0
    return stored.cut(ids, head.name) if fits else []


# The ids


def _ids_of_subject(subject: _Subject) -> Iterator[Problem]:
    if subject.ids is not None:
        yield from _ids_rules(str(subject.folder), subject.ids, subject.tokenizer, subject.target)


def _missing_specials(subject: _Subject) -> Iterator[Problem]:
    if subject.ids is None or subject.tokenizer is None:
        return
    others = [token for token, why in _missing(subject.ids, subject.tokenizer).items() if why != STOP]
    if others:
        yield Problem(
            "special.missing",
            f"{subject.folder} never drafts {len(others)} special tokens of the chat template: {others[:8]}",
            "harmless where the target never writes them",
        )


def _ids_rules(where: str, ids: Ids, tokenizer: TokenizerFacts | None, target: Checkpoint | None) -> list[Problem]:
    problems = []
    known = set() if target is None else stop_ids(target.folder)
    if tokenizer is not None:
        known = {token for token in known if token < tokenizer.vocab_size}
        known |= {token for token, why in tokenizer.always_keep.items() if why == STOP}
    if stops := sorted(known - set(ids.tolist())):
        problems.append(
            Problem(
                "stop.missing",
                f"{where} lacks the stop ids {stops}: a draft never ends an answer with them",
                "trim again with --target and without --no-always-keep",
            )
        )
    padded = ids[ids >= tokenizer.vocab_size] if tokenizer is not None else ids[:0]
    if tokenizer is not None and padded.size:
        problems.append(
            Problem(
                "map.padded-row",
                f"{where} keeps {padded.size} rows that no token has: id {padded[0]} of a tokenizer with "
                f"{tokenizer.vocab_size} ids",
                "choose the ids with the target's own tokenizer",
            )
        )
    return problems


def _missing(ids: Ids, tokenizer: TokenizerFacts) -> dict[int, str]:
    present = set(ids.tolist())
    return {token: why for token, why in sorted(tokenizer.always_keep.items()) if token not in present}


def _tokenizer_of_kept(subject: _Subject) -> Iterator[Problem]:
    kept = subject.folder / KEPT_FILE
    if subject.tokenizer is None or not kept.exists():
        return
    told = read_pieces(kept).tokenizer_hash
    if told not in {None, subject.tokenizer.hash}:
        yield _other_tokenizer(str(kept), str(told), subject.tokenizer)


def _other_tokenizer(where: str, told: str, tokenizer: TokenizerFacts) -> Problem:
    return Problem(
        "tokenizer.other",
        f"{where} was cut for tokenizer {told[:12]}, but the target's is {tokenizer.hash[:12]}",
        "count and choose with the target's own tokenizer",
    )


# The config


def _draft_vocab_size(subject: _Subject) -> Iterator[Problem]:
    said = subject.drafter.checkpoint.config.get("draft_vocab_size")
    rows = subject.drafter.heads[0].rows
    if said is None and subject.trimmed:
        yield Problem(
            "config.draft_vocab_size",
            f"config.json of {subject.folder} has no draft_vocab_size beside a head of {rows} rows",
            f"set it to {rows}: SGLang refuses the folder without it, vLLM builds a full head",
        )
    elif said is not None and said != rows:
        yield Problem(
            "config.draft_vocab_size",
            f"config.json of {subject.folder} says draft_vocab_size {said}, but the head has {rows} rows",
            f"set it to {rows}",
        )


def _tied_config(subject: _Subject) -> Iterator[Problem]:
    """SGLang takes a tied EAGLE config at its word even where the head comes by a token map."""
    tied = subject.drafter.checkpoint.setting("tie_word_embeddings", False)
    if tied and (subject.trimmed or subject.drafter.kind in {EAGLE, EAGLE3}):
        yield _tied(subject.folder)


def _tied(folder: Path) -> Problem:
    return Problem(
        "config.tied",
        f"config.json of {folder} ties the head to the embedding, so an engine loads the full embedding over a trimmed "
        "head",
        'set "tie_word_embeddings": false',
    )


def _vocab_size(subject: _Subject) -> Iterator[Problem]:
    """A drafter made for a target has the target's vocab_size; an independent one may be padded in its own way."""
    said = subject.drafter.checkpoint.setting("vocab_size")
    width = subject.target.setting("vocab_size") if subject.target is not None else None
    if said is None or width is None or said == width:
        return
    own_padding = subject.tokenizer.vocab_size if subject.tokenizer and subject.drafter.kind == INDEPENDENT else None
    if own_padding is not None and min(said, width) >= own_padding:
        return
    yield Problem(
        "config.vocab_size",
        f"config.json of {subject.folder} says vocab_size {said}, but the target has {width}",
        "the drafter belongs to another target; only draft_vocab_size shrinks in a trim",
    )


def _quantization(subject: _Subject) -> Iterator[Problem]:
    """A config that calls a head quantized, or unquantized, where its tensors are not."""
    for head in subject.drafter.heads:
        config = head.owner.config
        said = says_quantized(config, head.source)
        embedding = head.source == embedding_of(head.owner)  # tied: no engine builds a head of its own for it
        if said is None or said == head.stored.quantized or not section_of(config) or embedding:
            continue
        yield Problem(
            "config.quantization",
            f"config.json of {head.owner.folder} calls {head.source} {'' if said else 'un'}quantized, but it is "
            f"{head.stored.format}: {', '.join(head.tensors)}",
            f"{'add it to' if said else 'take it off'} the modules left alone, or an engine builds another layer",
        )


def _medusa_heads(subject: _Subject) -> Iterator[Problem]:
    said = subject.drafter.checkpoint.config.get("medusa_num_heads")
    held = len(subject.drafter.heads)
    if subject.drafter.kind == MEDUSA and said not in {None, held}:
        yield Problem(
            "config.medusa_num_heads",
            f"config.json of {subject.folder} says medusa_num_heads {said}, but the file holds {held} heads",
            f"set it to {held} to draft with all of them",
        )


# What to know when serving


def _serving_notes(subject: _Subject) -> Iterator[Problem]:
    if not subject.trimmed:
        return
    if subject.drafter.kind in {EAGLE, MTP}:
        yield Problem(
            "serve.own-head",
            "SGLang drops a head in an EAGLE-1/2 or MTP folder and cuts the target's by --speculative-token-map; vLLM "
            "uses the target's whole head",
            "write what an engine takes with `vocabtrim export`",
        )
    if subject.drafter.kind == INDEPENDENT:
        yield Problem(
            "serve.independent",
            "plain loaders expect as many head rows as vocab_size and refuse this folder",
            "write what an engine takes with `vocabtrim export`, or map ids back by kept.safetensors yourself",
        )
    if subject.drafter.kind == EAGLE3:
        yield Problem(
            "serve.rejection-sampling",
            "SGLang's --speculative-use-rejection-sampling refuses trimmed drafters, and a token map is ignored here",
            "serve it without both",
        )
        if (subject.folder / KEPT_FILE).exists():
            yield Problem(
                "serve.kept-file",
                f"vLLM takes every safetensors file of a folder for weights, and stops at {KEPT_FILE}",
                "write the folder that it takes with `vocabtrim export --engine vllm`",
            )


def _order_note(subject: _Subject) -> Iterator[Problem]:
    if subject.ids is not None and (np.diff(subject.ids) < 0).any():
        at = int(np.argmax(np.diff(subject.ids) < 0))
        yield _unsorted(str(subject.folder), subject.ids, at)


def _unsorted(where: str, ids: Ids, at: int) -> Problem:
    return Problem(
        "map.unsorted",
        f"the map of {where} is not ascending: row {at} is id {ids[at]}, row {at + 1} is id {ids[at + 1]}",
        "SGLang, vLLM and llama.cpp take any order; SpecForge, speculators and EAGLE's own code read a mask and would "
        "take other rows: trim the drafter again for those",
    )


def _map_notes(pieces: MapPieces, target: Checkpoint | None) -> Iterator[Problem]:
    ids = pieces.ids
    if (np.diff(ids) < 0).any() and pieces.mask is None:
        yield _unsorted(pieces.source, ids, int(np.argmax(np.diff(ids) < 0)))
    if pieces.dialect != "token-map":
        return
    yield Problem(
        "serve.tensor-parallel",
        "SGLang cuts the rows of a token map from one shard of the head, out of range with tensor parallelism above 1",
        "serve it with --tp 1",
    )
    if target is None:
        return
    head = _target_head(target)
    try:
        held = head.stored.format if head.stored.quantized else None
    except UnsupportedError as error:
        held = error.what
    if held is not None:
        yield Problem(
            "serve.quantized-head",
            f"the target's head is quantized ({head.source}: {held}): SGLang cannot index its rows",
            "use a target with an unquantized head",
        )


_RULES: tuple[Callable[[_Subject], Iterator[Problem]], ...] = (
    _finite,
    _as_written,
    _rows_of_target,
    _ids_of_subject,
    _tokenizer_of_kept,
    _draft_vocab_size,
    _tied_config,
    _vocab_size,
    _quantization,
)
_NOTES = (_order_note, _missing_specials, _medusa_heads, _serving_notes)


def _sha256(tensor: StoredTensor) -> str:
    digest = hashlib.sha256()
    for block in tensor.blocks():
        digest.update(block)
    return digest.hexdigest()
