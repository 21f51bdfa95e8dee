"""Exports opened by the libraries that define their form, and drafters that those libraries wrote taken in.

Each library stands in an environment of its own, named by a variable; the tests are skipped where it is not set:

    python -m venv E && E/bin/pip install torch speculators specforge==0.2.0 nvidia-modelopt
    VOCABTRIM_SPECULATORS_PYTHON=E/bin/python VOCABTRIM_SPECFORGE_PYTHON=E/bin/python \
        VOCABTRIM_MODELOPT_PYTHON=E/bin/python python -m pytest -m engine tests/engines/test_exports.py

Shown with speculators 0.9.0, SpecForge 0.2.0 (whose CUDA packages may stay out: pip install --no-deps) and
nvidia-modelopt 0.47.0 on a CPU. TensorRT-LLM needs a CUDA device.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vocabtrim as vt
from vocabtrim.testbed import shapes
from vocabtrim.testbed.family import member
from vocabtrim.testbed.shapes import TINY

pytestmark = pytest.mark.engine

SHAPE = replace(TINY, layers=8)  # fewer, and EAGLE-3's rule names no three states
BLOCKS = ("midlayer.", "layers.0.")


@dataclass(frozen=True)
class Library:
    """Where a library stands, the script that drives it, and what it is called here."""

    variable: str
    script: str
    engine: str

    def ask(self, *arguments: object) -> None:
        python = os.environ.get(self.variable)
        if not python:
            pytest.skip(f"{self.variable} names no python of an environment with that library")
        command = [python, Path(__file__).with_name(self.script), *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


LIBRARIES = {
    "speculators": Library("VOCABTRIM_SPECULATORS_PYTHON", "speculators_folder.py", "speculators"),
    "SpecForge": Library("VOCABTRIM_SPECFORGE_PYTHON", "specforge_folder.py", "specforge"),
    "Model-Optimizer": Library("VOCABTRIM_MODELOPT_PYTHON", "model_optimizer_folder.py", "model-optimizer"),
}


def by_place(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without the block's, so that two libraries' names of one tensor are the same."""
    return {name.replace(BLOCKS[0], "").replace(BLOCKS[1], ""): tensor for name, tensor in weights.items()}


def same_drafter(folder: Path, answer: Path, library: str) -> None:
    """Every tensor of our folder is what the library holds, and its ids are the kept ones in the head's order."""
    ours, theirs = by_place(load_file(folder / "model.safetensors")), by_place(load_file(answer))
    kept = vt.KeptVocabulary.load(folder / "kept.safetensors").ids
    assert np.array_equal(theirs["ids"].numpy(), kept)
    for name, tensor in ours.items():
        if name == "t2d" and library == "Model-Optimizer":
            continue  # it has none
        assert torch.equal(theirs[name].to(tensor.dtype), tensor), name


@dataclass(frozen=True)
class Made:
    """A drafter that a library wrote, the ids it was made with, its target."""

    library: str
    drafter: Path
    ids: np.ndarray
    target: Path


@pytest.fixture(scope="module", params=LIBRARIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("made")
    owner = shapes.write_target(place / "target", SHAPE, seed=1)
    ids = np.union1d(shapes.draw_ids(SHAPE, 120, 3), SHAPE.eos).astype(np.int64)
    vt.KeptVocabulary(ids, SHAPE.vocab).save(place / "kept.safetensors")
    like = shapes.write_eagle3(place / "like", SHAPE, seed=4, draft_vocab=300) / "config.json"
    about = owner if request.param == "speculators" else like
    LIBRARIES[request.param].ask("make", place / "made", about, place / "kept.safetensors")
    return Made(request.param, place / "made", ids, owner)


def test_a_drafter_that_a_library_wrote_is_checked_and_trimmed(made: Made, tmp_path: Path) -> None:
    """Every second id is kept: each row that comes out is the row which the library wrote for that id."""
    report = vt.check(made.drafter, made.target)
    assert report.ok, report.problems
    half = vt.KeptVocabulary(np.union1d(made.ids[::2], SHAPE.eos).astype(np.int64), SHAPE.vocab)
    vt.trim(made.drafter, half, target=made.target, out=tmp_path / "half")
    assert vt.check(tmp_path / "half", made.target).ok
    theirs, ours = load_file(made.drafter / "model.safetensors"), load_file(tmp_path / "half" / "model.safetensors")
    order = (theirs["d2t"] + torch.arange(made.ids.size)).tolist()
    rows = [order.index(token) for token in half.ids.tolist()]
    assert torch.equal(ours["lm_head.weight"], theirs["lm_head.weight"][rows])
    assert (order != sorted(order)) == (made.library == "Model-Optimizer"), "frequency order, as its script writes it"


def test_a_librarys_own_maps_are_converted(made: Made, tmp_path: Path) -> None:
    places = {"SpecForge": made.drafter.parent / "vocab_mapping.pt", "Model-Optimizer": made.drafter / "d2t.pt"}
    for number, place in enumerate({made.drafter, places.get(made.library, made.drafter)}):
        read = vt.convert(place, "token-map", tmp_path / f"{number}.pt", target_vocab=SHAPE.head_rows)
        assert sorted(read.ids.tolist()) == made.ids.tolist()
        assert torch.load(tmp_path / f"{number}.pt", weights_only=True) == read.ids.tolist()


def test_a_library_loads_what_was_exported(made: Made, tmp_path: Path) -> None:
    """A drafter of the published form, the trained one of the built-in family, and what the library itself wrote."""
    engine = LIBRARIES[made.library].engine
    published = shapes.write_eagle3(tmp_path / "published", SHAPE, seed=4, draft_vocab=300)
    some = vt.KeptVocabulary(np.union1d(shapes.draw_ids(SHAPE, 300, 4)[::2], SHAPE.eos).astype(np.int64), SHAPE.vocab)
    vt.trim(published, some, out=tmp_path / "some")
    drawn = np.random.default_rng(0).choice(16_384, 2_000, replace=False)
    kept = vt.KeptVocabulary(np.union1d(drawn, [16_368, 16_370]).astype(np.int64), 16_384)
    vt.trim(member("eagle3"), kept, out=tmp_path / "trained")
    half = vt.KeptVocabulary(np.union1d(made.ids[::2], SHAPE.eos).astype(np.int64), SHAPE.vocab)
    vt.trim(made.drafter, half, target=made.target, out=tmp_path / "half")
    sources = {tmp_path / "some": made.target, tmp_path / "trained": member("target"), tmp_path / "half": made.target}
    asked = []
    for drafter, owner in sources.items():
        out = tmp_path / f"{drafter.name}-{engine}"
        vt.export(drafter, engine, out=out, target=owner)
        asked += [out, tmp_path / f"{drafter.name}.safetensors"]
    LIBRARIES[made.library].ask("read", *asked)
    for drafter in sources:
        same_drafter(drafter, tmp_path / f"{drafter.name}.safetensors", made.library)
