"""Open a target or a drafter for decoding, from folders in the published layouts; refuse what does not belong together.

Knows folders, dtypes and devices; how each drafter kind is put together stands in `drafters/build.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..calibrate.tokenizer import tokenizer_facts
from ..checkpoint import layouts
from ..checkpoint.check import check
from ..checkpoint.head_ids import head_ids
from ..checkpoint.read import open_checkpoint
from ..errors import CheckpointError, InputError, MismatchError, UnsupportedError, VocabTrimError
from ..hub import local_folder
from .causal_lm import open_model
from .drafters.build import BUILDERS
from .drafters.plans import Plan, StaticTree
from .drafters.protocol import Drafter
from .ends import Ends, FolderEnds, ModelEnds
from .graphs.drafter import static_drafter
from .graphs.lm_pass import static_pass, why_not
from .lean.compiled import compilation
from .target import Target

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}

# Rules of `check` that a drafter must pass to draft the right ids. The others are about engines, and an unsorted map
# is sorted here on loading.
_RULES = ("map.", "head.", "tokenizer.", "config.vocab_size")
_HARMLESS = ("map.unsorted",)


def load_target(path: str | Path, *, dtype: str = "bfloat16", device: str = "cpu", lean: bool = True) -> Target:
    """Any causal LM folder or hub id.

    lean: False for transformers' own modules throughout, the reference; otherwise our kernels on a CPU, and on CUDA
    passes that are recorded as graphs, where they can be. Drafters go the way their target goes.

    Raises InputError and CheckpointError for folders that cannot be read, InputError for an unknown dtype or device.
    """
    _prove_place(dtype, device)
    folder = local_folder(path)
    checkpoint = open_checkpoint(folder)  # says in one line what the library would say in forty
    if lean and torch.device(device).type == "cpu":
        compilation()  # begun now, so that it runs while weights are read
    target = Target(open_model(checkpoint, DTYPES[dtype], device), folder, lean=lean)
    if lean and target.lm.device.type == "cuda" and static_pass(target.lm) is None:
        target.lm.why_plain = why_not(target.lm)
    return target


def drafter_kind(path: str | Path, target: str | Path | None) -> str:
    """Which kind of drafter a folder holds, told without its weights or its target's. Raises as `load_drafter`."""
    return _identify(local_folder(path), None if target is None else local_folder(target)).kind


def open_ends(
    path: str | Path, *, dtype: str = "bfloat16", device: str = "cpu", alone: bool = False, lean: bool = True
) -> FolderEnds:
    """What a drafter is built on, of a target's folder or hub id, without loading the target.

    alone: the folder is an independent drafter's, to be opened with no target beside it. lean: see `load_target`.
    Raises as `load_target`.
    """
    _prove_place(dtype, device)
    folder = local_folder(path)
    return FolderEnds(open_checkpoint(folder), None if alone else folder, DTYPES[dtype], torch.device(device), lean)


def load_drafter(path: str | Path, target: Target | Ends, *, plan: Plan | StaticTree | None = None) -> Drafter:
    """A drafter of any published layout, full or trimmed, on the target's device and in its dtype.

    target: loaded, or its ends alone (`open_ends`) where nothing is to be verified.
    plan: what to draft; for independent drafters a greedy chain of 4 where None, for EAGLE's the dynamic tree, for
    Medusa's their own tree.
    Raises InputError and CheckpointError for folders that cannot be read, MismatchError for a drafter of another
    target, UnsupportedError for one that is known and cannot be decoded with.
    """
    folder = local_folder(path)
    ends = ModelEnds(target) if isinstance(target, Target) else target
    found = _identify(folder, ends.folder)
    _prove_belongs(folder, ends.folder)
    try:
        drafter = BUILDERS[found.kind](found, head_ids(found).ids, ends, plan)
    except (VocabTrimError, MemoryError, RuntimeError):
        raise
    except Exception as error:  # whatever the library's classes raise of what the config says
        raise CheckpointError(
            f"{folder} cannot be made into a {found.kind} drafter",
            found=f"{type(error).__name__}: {error}"[:300],
            remedy="its config.json is damaged or of another drafter: fetch config and weights again, from one place",
        ) from error
    graphs = isinstance(target, Target) and target.lm.graphs is not None
    return static_drafter(drafter) if graphs else drafter


def _identify(folder: Path, target_folder: Path | None) -> layouts.Drafter:
    found = layouts.identify(open_checkpoint(folder), None if target_folder is None else open_checkpoint(target_folder))
    if found.kind not in BUILDERS:
        raise UnsupportedError(
            f"{folder} is a drafter of kind {found.kind}, which is not decoded with here",
            expected=", ".join(BUILDERS),
            found=found.kind,
            remedy="serve it with an engine",
        )
    return found


def _prove_belongs(folder: Path, target_folder: Path | None) -> None:
    """The drafter was made, and trimmed, for this target: raises MismatchError with the first rule that it breaks."""
    problems = check(folder, target_folder).problems
    broken = next((found for found in problems if found.rule.startswith(_RULES) and found.rule not in _HARMLESS), None)
    if broken is not None:
        raise MismatchError(broken.message, remedy=broken.remedy)
    folders = [place for place in (folder, target_folder) if place is not None and (place / "tokenizer.json").exists()]
    if len(folders) == 2:
        drafter_facts, target_facts = (tokenizer_facts(place) for place in folders)
        if drafter_facts.hash != target_facts.hash:
            raise MismatchError(
                f"the tokenizer of {folder} is not that of {target_folder}: its ids mean other tokens",
                expected=f"tokenizer {target_facts.hash[:12]} ({target_facts.vocab_size} ids)",
                found=f"{drafter_facts.hash[:12]} ({drafter_facts.vocab_size} ids)",
                remedy="use a drafter that was made for this target",
            )


def _prove_place(dtype: str, device: str) -> None:
    if dtype not in DTYPES:
        raise InputError("unknown dtype", expected=" or ".join(DTYPES), found=dtype, remedy="use one of these")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        message = str(error).partition("\n")[0]
        raise InputError(f"no device {device} here", found=message, remedy="use --device cpu") from error
