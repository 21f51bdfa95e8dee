"""Quantized heads are cut without a value being computed: dequantized before and after they are equal, bit for bit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

pytest.importorskip("compressed_tensors", reason="the library that reads these formats is not installed")

from quantized import FORMATS, HEAD, Written, write, write_head_only
from vocabtrim.checkpoint import packing
from vocabtrim.checkpoint.check import check
from vocabtrim.checkpoint.costs import draft_step
from vocabtrim.checkpoint.inspect import inspect
from vocabtrim.checkpoint.layouts import identify
from vocabtrim.checkpoint.read import open_checkpoint
from vocabtrim.checkpoint.trim import trim
from vocabtrim.errors import CheckpointError, MismatchError, UnsupportedError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary


def head_of(folder: Path, prefix: str = HEAD) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def kept_of(name: str, ids: int, share: float = 0.3, seed: int = 0) -> KeptVocabulary:
    """A draw of about that share of the ids, as many as the format can pack."""
    whole = FORMATS[name].whole
    size = max(1, round(ids * share) // whole) * whole
    drawn = np.random.default_rng(seed).choice(ids, min(size, ids // whole * whole), replace=False)
    return KeptVocabulary(np.sort(drawn), ids)


def assert_equal_numbers(name: str, source: Written, out: Path, kept: KeptVocabulary) -> None:
    before = FORMATS[name].read(source.tensors, source.config)
    after = FORMATS[name].read(head_of(out), config_of(out))
    assert after.dtype == before.dtype and after.shape == (kept.size, before.shape[1])
    assert torch.equal(after, before[torch.tensor(kept.ids.tolist())])


@pytest.mark.parametrize("name", FORMATS)
def test_dequantized_rows_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=192)
    assert check(source.folder).ok
    for share in (0.02, 0.3, 1.0):
        out, kept = tmp_path / f"out {share}", kept_of(name, 512, share)
        trim(source.folder, kept, out=out)
        assert_equal_numbers(name, source, out, kept)
        assert check(out).ok, check(out).problems


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_size_any_ids(name: str, data: st.DataObject) -> None:
    """Odd numbers of rows, of groups, of kept ids, in any combination."""
    form = FORMATS[name]
    ids = form.whole * data.draw(st.integers(1, 700 // form.whole), label="ids / whole")
    hidden = form.inputs * data.draw(st.integers(1, 96 // form.inputs if form.inputs > 1 else 70), label="hidden")
    if name.endswith(("groups, asymmetric", "channel, asymmetric")) and ids < 200:
        ids += 200  # of a handful of ids several widths could be the one; see the test on that
    # compressed-tensors 0.20 cannot read back zero points of 4 bits that fill one word, which are those of 8 ids.
    least = 0.05 if name == "packed int4, groups, asymmetric" else 0
    share, seed = data.draw(st.floats(least, 1), label="share"), data.draw(st.integers(0, 99), label="seed")
    kept = kept_of(name, ids, share, seed)
    with tempfile.TemporaryDirectory() as place:
        source = write_head_only(Path(place) / "drafter", name, ids=ids, hidden=hidden, seed=ids)
        trim(source.folder, kept, out=Path(place) / "out")
        assert_equal_numbers(name, source, Path(place) / "out", kept)


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("packed")])
def test_the_bytes_are_those_that_the_library_would_have_packed(name: str, tmp_path: Path) -> None:
    """compressed-tensors given the kept rows alone packs them into the very tensors of the cut."""
    source = write_head_only(tmp_path / "drafter", name, ids=333, hidden=96)
    kept = kept_of(name, 333)
    trim(source.folder, kept, out=tmp_path / "out")
    rows = torch.tensor(kept.ids.tolist())
    scheme_args = source.config["quantization_config"]["config_groups"]["group_0"]["weights"]
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    bits, after = scheme_args["num_bits"], head_of(tmp_path / "out")
    codes = unpack_from_int32(source.tensors["weight_packed"], bits, torch.Size([333, 96]))
    assert torch.equal(after["weight_packed"], pack_to_int32(codes[rows], bits))
    assert after["weight_shape"].tolist() == [kept.size, 96]
    if "weight_zero_point" in source.tensors:
        shape = torch.Size([333, source.tensors["weight_scale"].shape[1]])
        zeros = unpack_from_int32(source.tensors["weight_zero_point"], bits, shape, packed_dim=0)
        assert torch.equal(after["weight_zero_point"], pack_to_int32(zeros[rows], bits, packed_dim=0))


@pytest.mark.parametrize("name", FORMATS)
def test_cutting_twice_gives_the_bytes_of_cutting_once(name: str, tmp_path: Path) -> None:
    whole = FORMATS[name].whole
    source = write_head_only(tmp_path / "drafter", name, ids=640, hidden=96)
    wide = kept_of(name, 640, 0.6)
    narrow = KeptVocabulary(wide.ids[: wide.size // 2 // whole * whole].copy(), 640)
    trim(source.folder, wide, out=tmp_path / "wide")
    trim(tmp_path / "wide", narrow, out=tmp_path / "twice")
    trim(source.folder, narrow, out=tmp_path / "once")
    once, twice = head_of(tmp_path / "once"), head_of(tmp_path / "twice")
    assert once.keys() == twice.keys()
    for suffix in once:
        assert torch.equal(bytes_of(once[suffix]), bytes_of(twice[suffix])), suffix
    assert_equal_numbers(name, source, tmp_path / "twice", narrow)


@pytest.mark.parametrize("name", FORMATS)
def test_the_cost_is_that_of_the_codes_and_all_that_goes_with_them(name: str, tmp_path: Path) -> None:
    """What a trim was predicted to cost is what its folder costs, and that is what its files hold."""
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=96)
    before = draft_step(identify(open_checkpoint(source.folder)))
    kept = kept_of(name, 512, 0.25)
    result = trim(source.folder, kept, out=tmp_path / "out")
    after = draft_step(identify(open_checkpoint(tmp_path / "out")))
    assert after.bytes == before.body_bytes + round(kept.size * before.head_row_bytes)
    assert before.head_row_parameters == after.head_row_parameters == 96
    held = head_of(tmp_path / "out")
    alike = {"g_idx", "weight_shape", "weight_format", "input_scale", "weight_global_scale", "weight_scale_2"}
    changing = sum(t.nbytes for suffix, t in held.items() if suffix not in alike and t.numel() > 1)
    assert after.head_bytes == pytest.approx(
        changing, abs=4 * 3
    )  # the last word of packed zero points may be part full
    assert result.head_bytes_after == sum(tensor.nbytes for tensor in held.values())
    assert result.head_bytes_before == sum(tensor.nbytes for tensor in source.tensors.values())
    assert inspect(source.folder).head_rows == 512 and inspect(source.folder).hidden == 96


def test_int4_of_llama_shape_costs_a_quarter() -> None:
    """By hand: 4,096 codes of 4 bits, 32 scales of 16 bits, 32 zero points of 4 bits make a row of 2,128 bytes."""
    with tempfile.TemporaryDirectory() as place:
        name = "packed int4, groups, asymmetric"
        made = FORMATS[name].make(torch.Generator().manual_seed(0), 64, 4096)
        made["weight_scale"] = made["weight_scale"][:, ::4].half().contiguous()
        made["weight_zero_point"] = made["weight_zero_point"][:, ::4].contiguous()
        config = {"vocab_size": 64, "hidden_size": 4096, "num_hidden_layers": 0, "quantization_config": {}}
        written = write(Path(place) / "drafter", made, config)
        assert draft_step(identify(open_checkpoint(written.folder))).head_row_bytes == 2048 + 64 + 16


# Sizes that lie


def _without(suffix: str) -> Any:
    return lambda head: head.pop(suffix)


def _reshaped(suffix: str, change: Any) -> Any:
    return lambda head: head.__setitem__(suffix, change(head[suffix]).contiguous())


PACKED, BLOCKS = "packed int4, groups, asymmetric", "FP8, blocks"
FAULTS: dict[str, tuple[str, Any, str]] = {
    "a scale short": (PACKED, _reshaped("weight_scale", lambda t: t[:-1]), "weight_scale"),
    "a scale too many": ("FP8, channel", _reshaped("weight_scale", lambda t: torch.cat([t, t[:1]])), "weight_scale"),
    "no scale": (PACKED, _without("weight_scale"), "weight_scale beside it"),
    "more rows told": (PACKED, _reshaped("weight_shape", lambda t: t + torch.tensor([1, 0])), "weight_shape"),
    "more columns told": (PACKED, _reshaped("weight_shape", lambda t: t + torch.tensor([0, 99])), "weight_packed"),
    "negative columns told": (PACKED, _reshaped("weight_shape", lambda t: -t), "weight_shape"),
    "one number told": (PACKED, _reshaped("weight_shape", lambda t: t[:1]), "weight_shape"),
    "zero points short": (PACKED, _reshaped("weight_zero_point", lambda t: t[:-1]), "weight_zero_point"),
    "a bias short": ("FP8, channel", lambda head: head.__setitem__("bias", torch.zeros(511)), "lm_head.bias"),
    "blocks short": (BLOCKS, _reshaped("weight_scale", lambda t: t[:-1]), "blocks? of 16 x 32"),
    "blocks wide": (BLOCKS, _reshaped("weight_scale", lambda t: torch.cat([t, t], 1)), "blocks? of 16 x 32"),
    "GPTQ scales short": ("GPTQ, 4 bits", _reshaped("scales", lambda t: t[:, :-1]), "qweight"),
    "GPTQ zeros short": ("GPTQ, 4 bits", _reshaped("qzeros", lambda t: t[:, :-1]), "qzeros"),
    "GPTQ groups short": ("GPTQ, 4 bits", _reshaped("qzeros", lambda t: t[:-1]), "qzeros"),
    "GPTQ weights short": ("GPTQ, 3 bits", _reshaped("qweight", lambda t: t[:-1]), "qweight"),
    "GPTQ order short": ("GPTQ, 4 bits", _reshaped("g_idx", lambda t: t[:-1]), "g_idx"),
    "GPTQ without zeros": ("GPTQ, 4 bits", _without("qzeros"), "qzeros beside it"),
    "AWQ zeros short": ("AWQ", _reshaped("qzeros", lambda t: t[:, :-1]), "qzeros"),
    "AWQ scales of other ids": ("AWQ", _reshaped("scales", lambda t: t[:, :-8]), "scales"),
    "a vector of weights": ("FP8, channel", _reshaped("weight", lambda t: t[:, 0]), "matrix"),
    "a scale that is none": (
        "FP8, tensor, ModelOpt",
        lambda head: head.__setitem__("weight_scale", torch.tensor(float("nan"))),
        "NaN",
    ),
    "two global scales": (
        "NVFP4, ModelOpt",
        lambda head: head.__setitem__("weight_scale_2", torch.ones(2)),
        "weight_scale_2",
    ),
    "an empty head": (PACKED, _reshaped("weight_packed", lambda t: t[:0]), "matrix"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_sizes_that_lie_are_refused_in_one_line(fault: str, tmp_path: Path, vocabtrim: Any) -> None:
    from conftest import assert_bad_input

    name, change, told = FAULTS[fault]
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=96)
    head = dict(source.tensors)
    change(head)
    broken = write(tmp_path / "broken", head, source.config)
    kept = kept_of(name, 512)
    with pytest.raises(CheckpointError, match=told):
        trim(broken.folder, kept, out=tmp_path / "out")
    kept.save(tmp_path / "kept.safetensors")
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    run = vocabtrim(
        *("trim", broken.folder, "--target", target),
        *("--kept", tmp_path / "kept.safetensors", "--out", tmp_path / "out"),
    )
    assert_bad_input(run, "fetch")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_blocks_that_no_config_tells_of_are_refused(tmp_path: Path) -> None:
    source = write_head_only(tmp_path / "drafter", "FP8, blocks, DeepSeek", ids=512, hidden=96)
    silent = source.config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": "everything"}}
    with pytest.raises(CheckpointError, match="says nothing of blocks"):
        trim(write(tmp_path / "silent", source.tensors, silent).folder, kept_of(PACKED, 512), out=tmp_path / "out")


def test_of_a_handful_of_ids_only_the_config_tells_the_width(tmp_path: Path) -> None:
    """Eight zero points of 7 bits, each with a byte of its own, and of 8 bits take the same words."""
    source = write_head_only(tmp_path / "drafter", "packed int8, groups, asymmetric", ids=64, hidden=32)
    silent = source.config | {"quantization_config": {"quant_method": "compressed-tensors"}}
    kept = kept_of(PACKED, 64)
    with pytest.raises(CheckpointError, match="packed in one way"):
        trim(write(tmp_path / "silent", source.tensors, silent).folder, kept, out=tmp_path / "out")
    trim(source.folder, kept, out=tmp_path / "out")


# Kept sizes that a format has no words for


@pytest.mark.parametrize(
    ("name", "fewer", "more"), [("AWQ", 96, 104), ("GPTQ, 4 bits", 96, 104), ("GPTQ, 3 bits", 96, 128)]
)
def test_ids_that_do_not_fill_words_are_refused_with_the_sizes_that_do(
    name: str, fewer: int, more: int, tmp_path: Path
) -> None:
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=96)
    with pytest.raises(MismatchError, match=f"expected {fewer} or {more} kept ids, found 99"):
        trim(source.folder, KeptVocabulary(np.arange(99), 512), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Formats that cannot be cut

REFUSED: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str]] = {
    "bitsandbytes 4-bit": (
        {"weight": torch.zeros(512 * 48, 1, dtype=torch.uint8), "weight.absmax": torch.ones(512)},
        {},
        "bitsandbytes 4-bit",
    ),
    "torchao": (
        {"_weight_qdata": torch.zeros(512, 96, dtype=torch.int8), "_weight_scale": torch.ones(512)},
        {},
        "torchao",
    ),
    "quanto": (
        {"weight._data": torch.zeros(512, 96, dtype=torch.int8), "weight._scale": torch.ones(512)},
        {},
        "quanto",
    ),
    "HQQ": ({"W_q": torch.zeros(64, 768, dtype=torch.uint8), "scale": torch.ones(1, 768)}, {}, "HQQ"),
    "Marlin": ({"B": torch.zeros(6, 1024, dtype=torch.int32), "s": torch.ones(3, 512)}, {}, "Marlin"),
    "AQLM": ({"codes": torch.zeros(512, 12, 1, dtype=torch.int16), "codebooks": torch.ones(1, 8, 1, 8)}, {}, "AQLM"),
    "EXL2": ({"q_weight": torch.zeros(12, 512, dtype=torch.int32)}, {}, "EXL2"),
    "EXL3": ({"trellis": torch.zeros(6, 32, 64, dtype=torch.int16)}, {}, "EXL3"),
    "ModelOpt INT4": (
        {"weight": torch.zeros(256, 96, dtype=torch.uint8), "weight_scale": torch.ones(512, 1)},
        {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"},
        "two ids into a byte",
    ),
    "BitNet": (
        {"weight": torch.zeros(128, 96, dtype=torch.uint8), "weight_scale": torch.ones(1)},
        {},
        r"lm_head\.weight",
    ),
    "words of unknown kind": ({"weight": torch.zeros(512, 12, dtype=torch.int32)}, {}, r"lm_head\.weight"),
    "a tensor of unknown kind": (
        {
            "weight": torch.zeros(512, 96, dtype=torch.int8),
            "weight_scale": torch.ones(512),
            "outliers": torch.ones(512),
        },
        {},
        r"lm_head\.outliers",
    ),
    "GPTQ in planes": (
        FORMATS["GPTQ, 3 bits"].make(torch.Generator(), 512, 96),
        {"quant_method": "gptq", "bits": 3, "checkpoint_format": "gptq_p"},
        "gptq_p",
    ),
    "AWQ for gemv_fast": (
        FORMATS["AWQ"].make(torch.Generator(), 512, 96),
        {"quant_method": "awq", "bits": 4, "version": "gemv_fast"},
        "gemv_fast",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_formats_that_cannot_be_cut_are_refused_by_name(name: str, tmp_path: Path, vocabtrim: Any) -> None:
    head, section, told = REFUSED[name]
    config = {"vocab_size": 512, "hidden_size": 96, "num_hidden_layers": 0, "quantization_config": section}
    folder = write(tmp_path / "drafter", head, config).folder
    with pytest.raises(UnsupportedError, match=f"{told}.*unquantized head"):
        trim(folder, kept_of(PACKED, 512), out=tmp_path / "out")
    run = vocabtrim("check", folder, "--json")
    assert run.code == 1 and [problem["rule"] for problem in run.json["problems"]] == ["kind.refused"]


# What the proof and the check find


@pytest.mark.parametrize("name", ["AWQ", "GPTQ, 3 bits", "packed int4, groups, asymmetric"])
def test_a_code_put_into_a_wrong_place_is_found_before_anything_appears(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof reads bits by another way than the one that wrote them."""
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=96)
    sound = packing.Packing.move

    def careless(self: packing.Packing, words: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return sound(self, words, np.concatenate([codes[1:2], codes[:1], codes[2:]]))

    monkeypatch.setattr(packing.Packing, "move", careless)
    with pytest.raises(CheckpointError, match="not written as planned"):
        trim(source.folder, kept_of(name, 512), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "suffix", "place", "told"),
    [
        ("FP8, channel", "weight", (77, 5), "row 77 "),
        ("FP8, channel", "weight_scale", (77, 0), "row 77 "),
        ("GPTQ, 4 bits", "scales", (1, 77), "column 77 "),
        ("FP8, blocks", "weight_scale", (4, 1), "row 4 "),
    ],
)
def test_a_weight_or_scale_that_is_no_number_is_refused_and_named(
    name: str, suffix: str, place: tuple[int, int], told: str, tmp_path: Path
) -> None:
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=96)
    head = dict(source.tensors)
    spoilt = head[suffix].float()
    spoilt[place] = float("nan")
    head[suffix] = spoilt.to(head[suffix].dtype)
    folder = write(tmp_path / "spoilt", head, source.config).folder
    with pytest.raises(CheckpointError, match=f"{told}of lm_head.{suffix}.*NaN"):
        trim(folder, KeptVocabulary(np.arange(64, 80), 512), out=tmp_path / "out")
    (problem,) = check(folder).problems
    assert problem.rule == "head.nonfinite" and problem.message.startswith(told)
    assert f"(id {64 if name == 'FP8, blocks' else 77})" in problem.message
    trim(folder, KeptVocabulary(np.arange(96, 128), 512), out=tmp_path / "without")


@pytest.mark.parametrize("name", ["packed int4, groups, asymmetric", "AWQ", "GPTQ, 4 bits", "FP8, channel"])
def test_check_finds_a_head_put_in_place_of_another(name: str, tmp_path: Path) -> None:
    """Every tensor that was cut has its hash in config.json: codes, scales and zero points."""
    source = write_head_only(tmp_path / "drafter", name, ids=512, hidden=96)
    trim(source.folder, kept_of(name, 512), out=tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for suffix in sorted(head_of(tmp_path / "out").keys() - {"weight_shape", "g_idx", "input_scale"}):
        from safetensors.torch import save_file

        changed = {key: value.clone() for key, value in tensors.items()}
        changed[f"{HEAD}.{suffix}"].view(torch.uint8).reshape(-1)[0] ^= 1
        save_file(changed, tmp_path / "out" / "model.safetensors")
        assert "head.changed" in {problem.rule for problem in check(tmp_path / "out").problems}, suffix
