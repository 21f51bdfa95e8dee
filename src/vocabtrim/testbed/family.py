"""The trained models that the package carries: opened only when every byte is the one that was trained.

`data/family/manifest.json` names each file's size and SHA-256. Medusa's output matrices are the target's head, so only
its residual blocks are carried; the published file is put together on first use, in a cache. Knows files and hashes;
training is in train/.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache import default_cache
from ..errors import CheckpointError, InputError, OutputError
from ..provenance import atomic_directory, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = Path(__file__).parent / "data" / "family"
MEMBERS = ("target", "eagle", "eagle3", "independent", "medusa")
CALIBRATION = {
    "target-generated": "calibration/target-generated.jsonl.gz",
    "drafter-generated": "calibration/drafter-generated.jsonl.gz",
    "raw": "calibration/raw.jsonl.gz",
}
PROMPTS = "prompts/heldout.jsonl"
MANIFEST = "manifest.json"
MEDUSA_BLOCKS, _MEDUSA = "medusa_blocks.safetensors", "medusa_lm_head.safetensors"
_REINSTALL = "install vocabtrim again, or train the family with vocabtrim.testbed.train"


def member(name: str, *, family: Path = FAMILY, cache: Path | None = None) -> Path:
    """The folder of one member, its files proven whole.

    cache: where Medusa is put together; by default VOCABTRIM_CACHE, else the user's cache folder. Raises InputError
    for an unknown name, CheckpointError for a missing or damaged file, OutputError where the cache cannot be written.
    """
    if name not in MEMBERS:
        raise InputError("no such built-in model", expected=", ".join(MEMBERS), found=name, remedy="name one of them")
    hashes = verified(family, name)
    if name != "medusa":
        return family / name
    head = verified(family, "target")["target/model.safetensors"]
    place = (cache or default_cache()) / f"medusa-{hashes[f'medusa/{MEDUSA_BLOCKS}'][:8]}-{head[:8]}"
    if not _is_whole(place):
        shutil.rmtree(place, ignore_errors=True)
        _build_medusa(family, place)
    return place


@dataclass(frozen=True)
class HeldOut:
    """A prompt that nothing was trained on. messages: all before the answer. reference: what its source answers."""

    category: str
    source: str
    messages: tuple[dict[str, str], ...]
    reference: str


def calibration(origin: str, *, family: Path = FAMILY) -> Path:
    """The carried calibration text of one origin (`CALIBRATION`), proven whole. Raises as `member`."""
    if origin not in CALIBRATION:
        expected = ", ".join(CALIBRATION)
        raise InputError("no such calibration text", expected=expected, found=origin, remedy="name one of them")
    verified(family, CALIBRATION[origin])
    return family / CALIBRATION[origin]


def held_out_prompts(*, family: Path = FAMILY) -> list[HeldOut]:
    """The carried prompts, category by category. Raises CheckpointError for a missing or damaged file."""
    verified(family, PROMPTS)
    lines = (family / PROMPTS).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [HeldOut(**record | {"messages": tuple(record["messages"])}) for record in records]


def verified(family: Path, folder: str) -> dict[str, str]:
    """SHA-256 by path of a file, or of all below a folder. Raises CheckpointError where one is not the manifest's."""
    named = _manifest(family).items()
    listed = {path: told for path, told in named if path == folder or path.startswith(f"{folder}/")}
    if not listed:
        raise CheckpointError(f"{family / MANIFEST} does not name {folder}", remedy=_REINSTALL)
    for path, told in listed.items():
        file = family / path
        if not file.is_file():
            raise CheckpointError(f"{file} is missing", remedy=_REINSTALL)
        if file.stat().st_size != told["bytes"]:
            raise CheckpointError(
                f"{file} is damaged",
                expected=f"{told['bytes']:,} bytes",
                found=f"{file.stat().st_size:,}",
                remedy=_REINSTALL,
            )
        if (found := sha256_file(file)) != told["sha256"]:
            raise CheckpointError(
                f"{file} is damaged", expected=f"SHA-256 {told['sha256']}", found=found, remedy=_REINSTALL
            )
    return {path: told["sha256"] for path, told in listed.items()}


def _manifest(family: Path) -> dict[str, dict[str, Any]]:
    try:
        files: dict[str, dict[str, Any]] = json.loads((family / MANIFEST).read_text(encoding="utf-8"))["files"]
    except OSError as error:
        raise CheckpointError(f"cannot read {family / MANIFEST}", found=error.strerror, remedy=_REINSTALL) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{family / MANIFEST} is damaged", found=repr(error), remedy=_REINSTALL) from error
    return files


def whole_medusa(blocks: dict[str, Tensor], target_head: Tensor) -> dict[str, Tensor]:
    """The published `medusa_lm_head`: the residual blocks, and the target's head once for each head.

    blocks: `{head}.0.linear.weight` (hidden, hidden) and `.bias` (hidden,). target_head: (vocab, hidden).
    """
    heads = {int(name.split(".")[0]) for name in blocks}
    return blocks | {f"{head}.1.weight": target_head.clone() for head in sorted(heads)}


def _build_medusa(family: Path, out: Path) -> None:
    from safetensors.torch import load_file, save

    head = load_file(family / "target" / "model.safetensors")["model.embed_tokens.weight"]
    content = save(whole_medusa(load_file(family / "medusa" / MEDUSA_BLOCKS), head), {"format": "pt"})
    try:
        with atomic_directory(out) as folder:
            (folder / _MEDUSA).write_bytes(content)  # as bytes: a full disk is then an OSError that says so
            shutil.copyfile(family / "medusa" / "config.json", folder / "config.json")
            (folder / f"{_MEDUSA}.sha256").write_text(sha256_file(folder / _MEDUSA), encoding="utf-8")
    except OutputError as error:
        if _is_whole(out):  # another run was quicker
            return
        remedy = "free space there, or name a folder that can be written: VOCABTRIM_CACHE=..."
        raise OutputError(f"cannot put Medusa together in {out.parent}", found=error.found, remedy=remedy) from error


def _is_whole(folder: Path) -> bool:
    file, told = folder / _MEDUSA, folder / f"{_MEDUSA}.sha256"
    return file.is_file() and told.is_file() and sha256_file(file) == told.read_text(encoding="utf-8")
