"""`check` for drafters, maps and exports: of an export, that every engine written with it reads the same kept ids.

The rules of drafters and maps are checkpoint/check.py's. An engine's folder is not judged by them: some hold no head,
or one that only that engine takes; it is read as the engine reads it, and every file compared with its hash.
"""

from __future__ import annotations

from pathlib import Path

from ..calibrate.tokenizer import TokenizerFacts
from ..checkpoint.check import CheckReport
from ..checkpoint.check import check as check_files
from ..checkpoint.head_ids import KEPT_FILE
from ..checkpoint.trim import tokenizer_beside
from ..errors import InputError
from ..hub import local_folder
from ..vocabulary.draft_map import Problem
from ..vocabulary.kept import KeptVocabulary
from .manifest import BESIDE, Manifest, manifest_of, problems_of


def check(path: str | Path, target: str | Path | None = None) -> CheckReport:
    """Lint a drafter's folder, a map of any dialect, or an export, found by its manifest.

    Of a trimmed drafter with exports beside it, both. target: the target's folder; with it the stop ids, the width and,
    where the head is the target's, every head row are compared, and the tokenizer an export was made for. Raises
    InputError and CheckpointError for files that cannot be read.
    """
    path = local_folder(path)
    manifest = manifest_of(path) if path.exists() else None
    if manifest is None:
        return check_files(path, target)
    exported = _check_export(manifest, None if target is None else _tokenizer_of(local_folder(target), manifest))
    if manifest.file.parent != path / BESIDE:
        return exported
    drafter = check_files(path, target)
    apart = tuple(_apart(path, manifest))
    problems = (*drafter.problems, *exported.problems, *apart)
    return CheckReport(drafter.kind, problems, (*drafter.notes, *exported.notes) if not apart else drafter.notes)


def _tokenizer_of(target: Path, manifest: Manifest) -> TokenizerFacts | None:
    """None where neither the export nor the target's folder knows one."""
    found = tokenizer_beside(target)
    if not target.is_dir() or (found is None and manifest.tokenizer_hash is not None):
        raise InputError(
            f"no tokenizer at {target}, and it is what an export is compared by",
            expected="the target's folder, with its tokenizer.json",
            remedy="correct --target, or leave it out",
        )
    return found


def _check_export(manifest: Manifest, tokenizer: TokenizerFacts | None) -> CheckReport:
    problems = list(problems_of(manifest))
    if tokenizer is not None and manifest.tokenizer_hash not in {None, tokenizer.hash}:
        told = f"{manifest.file} is of an export for tokenizer {str(manifest.tokenizer_hash)[:12]}"
        message = f"{told}, but the target's is {tokenizer.hash[:12]}"
        problems.append(Problem("tokenizer.other", message, "pass the target that it was exported for"))
    notes = []
    if not problems:
        names = ", ".join(part.engine for part in manifest.engines)
        message = f"{names}: the same {manifest.kept_size:,} kept ids, every file as it was exported"
        notes.append(Problem("export.same", message, f"hash {manifest.kept_hash[:12]}"))
    return CheckReport(f"{manifest.kind} export", tuple(problems), tuple(notes))


def _apart(drafter: Path, manifest: Manifest) -> list[Problem]:
    """Exports beside a drafter that was trimmed again since."""
    if not (drafter / KEPT_FILE).is_file() or KeptVocabulary.load(drafter / KEPT_FILE).hash == manifest.kept_hash:
        return []
    message = f"{manifest.file.parent} was exported from another trim than {drafter / KEPT_FILE} is of"
    return [Problem("export.ids", message, "export again with `vocabtrim export`")]
