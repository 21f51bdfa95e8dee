"""Trimmed drafters with quantized heads: as they are for engines that build such heads, refused by name for others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("compressed_tensors", reason="the library that makes these heads is not installed")

from drafters import target
from quantized import FORMATS, quantize_head
from vocabtrim.checkpoint.trim import trim
from vocabtrim.errors import UnsupportedError
from vocabtrim.exports.export import export
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

PLAIN_ALONE = ["sglang", "llama-cpp", "tensorrt-llm", "speculators", "specforge", "model-optimizer", "openvino"]
SERVED = [
    "packed int4, channel",
    "packed int6, channel, asymmetric",
    "FP8, channel",
    "GPTQ, 4 bits",
    "AWQ",
    "NVFP4, ModelOpt",
]


def kept(size: int = 96) -> KeptVocabulary:
    """A multiple of 8, the stop id among them."""
    ids = np.setdiff1d(np.random.default_rng(0).permutation(TINY.vocab)[: 2 * size], TINY.eos)[: size - 1]
    return KeptVocabulary(np.union1d(ids, TINY.eos).astype(np.int64), TINY.vocab)


def quantized(place: Path, kind: str, format_name: str) -> tuple[Path, dict[str, torch.Tensor], Path]:
    """(a trimmed drafter whose head is of that format, the whole head's tensors, its target)."""
    owner = target(place / "target")
    drafter = {
        "EAGLE-3": lambda: shapes.write_eagle3(place / "full", TINY, seed=4, draft_vocab=TINY.vocab, maps=False),
        "independent": lambda: shapes.write_independent(place / "full", TINY, seed=2),
        "EAGLE": lambda: shapes.write_eagle(place / "full", TINY, seed=3),
        "Medusa": lambda: shapes.write_medusa(place / "full", TINY, seed=5, heads=1, container="safetensors"),
    }[kind]()
    prefix = "0.1" if kind == "Medusa" else "lm_head"
    whole = quantize_head(owner if kind == "EAGLE" else drafter, format_name, prefix=prefix)
    trim(drafter, kept(), target=owner, out=place / "trimmed")
    return place / "trimmed", whole, owner


def dequantized(tensors: dict[str, torch.Tensor], format_name: str) -> torch.Tensor:
    found = FORMATS[format_name]
    return found.read(dict(tensors), {found.key: dict(found.section)})


@pytest.mark.parametrize("format_name", SERVED)
@pytest.mark.parametrize(
    ("kind", "engine"), [("EAGLE-3", "vllm"), ("independent", "vllm-plugin"), ("EAGLE", "vllm-plugin")]
)
def test_vllm_is_given_the_codes_of_the_kept_rows(kind: str, engine: str, format_name: str, tmp_path: Path) -> None:
    drafter, whole, owner = quantized(tmp_path, kind, format_name)
    out = export(drafter, engine, out=tmp_path / "out", target=owner).out
    written = load_file(out / "model.safetensors")
    head = {name.removeprefix("lm_head."): tensor for name, tensor in written.items() if name.startswith("lm_head.")}
    assert head.keys() == whole.keys()
    rows = dequantized(whole, format_name)[kept().ids.tolist()]
    assert torch.equal(dequantized(head, format_name), rows) and rows.unique().numel() > 10
    told = [json.loads((folder / "config.json").read_text()) for folder in (drafter, out)]
    assert told[1]["quantization_config"] == told[0]["quantization_config"]


@pytest.mark.parametrize(
    ("kind", "engine", "format_name", "told"),
    [
        *[("EAGLE-3", engine, "packed int4, channel", "compressed-tensors") for engine in PLAIN_ALONE],
        ("EAGLE-3", "vllm", "FP8, tensor, transformers", "fp8"),
        ("independent", "vllm", "packed int4, channel", "--engine vllm-plugin"),
        ("independent", "openvino", "packed int4, channel", "quantized"),
        ("independent", "transformers", "packed int4, channel", "quantization_config"),
        ("independent", "onnx-genai", "packed int4, channel", "quantization_config"),
        ("Medusa", "vllm-plugin", "FP8, channel", "compressed-tensors"),
    ],
)
def test_an_engine_that_builds_no_such_head_is_named(
    kind: str, engine: str, format_name: str, told: str, tmp_path: Path
) -> None:
    drafter, _, owner = quantized(tmp_path, kind, format_name)
    with pytest.raises(UnsupportedError, match="quantized") as refused:
        export(drafter, engine, out=tmp_path / "out", target=owner)
    assert told in str(refused.value) and not (tmp_path / "out").exists()
