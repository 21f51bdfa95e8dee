"""Heads in every quantized format that is cut, and for each a reader that knows nothing of us.

A format makes random tensors of any size, tells what config.json says of them, and dequantizes them as the library that
defines the format does: compressed-tensors for its own formats, for AutoAWQ's, ModelOpt's and DeepSeek's FP8 blocks
through its converters. GPTQ, MLX and bitsandbytes int8 are read by their published formulas, written down here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert.converters import (
    AutoAWQConverter,
    FP8BlockDequantizer,
    ModelOptNvfp4Converter,
)
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.utils.match import match_name, match_targets
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
HEAD = "lm_head"


@dataclass(frozen=True)
class Format:
    """make: (generator, ids, hidden) -> suffix -> tensor. section: what config.json says. whole: ids that go together.

    read: (suffix -> tensor, config) -> (ids, hidden) floats. inputs: the hidden size is a multiple of it.
    """

    make: Callable[[torch.Generator, int, int], Tensors]
    section: Mapping[str, Any]
    read: Callable[[Tensors, Mapping[str, Any]], torch.Tensor]
    whole: int = 1
    inputs: int = 32
    key: str = "quantization_config"


def scheme_of(config: Mapping[str, Any], module: str = HEAD) -> QuantizationScheme | None:
    """The scheme that compressed-tensors reads in a config for a Linear of that name; None where it leaves it."""
    said = QuantizationConfig.model_validate(config["quantization_config"])
    if any(match_name(module, pattern) for pattern in said.ignore or ()):
        return None
    schemes = list(said.config_groups.values())
    linear = torch.nn.Linear(1, 1)
    found = match_targets(module, linear, [target for scheme in schemes for target in scheme.targets])
    scheme = next((scheme for scheme in schemes if found and found[0] in scheme.targets), None)
    return None if scheme is None else scheme.model_copy(update={"format": scheme.format or said.format})


def _compressed(name: str, inputs: int = 32, scale: torch.dtype = torch.float32, **weights: Any) -> Format:
    """A format of compressed-tensors: packed by its own compressor from random weights, scales and zero points."""
    group = {"targets": ["Linear"], "weights": weights}
    section = {"quant_method": "compressed-tensors", "format": name, "config_groups": {"group_0": group}, "ignore": []}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    assert scheme.weights is not None

    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        shape = {
            "tensor": (1,),
            "channel": (ids, 1),
            "group": (ids, hidden // weights.get("group_size", 1)),
            "tensor_group": (ids, hidden // weights.get("group_size", 1)),
            "block": (-(-ids // 16), hidden // 32),
        }[weights["strategy"]]
        state = {
            "weight": torch.randn(ids, hidden, generator=generator),
            "weight_scale": _powers(shape, generator) if "mx" in name else _positive(shape, generator).to(scale),
        }
        if weights["strategy"] == "tensor_group":
            state["weight_global_scale"] = torch.tensor([448.0 * 6 / 3.5])
        if not weights.get("symmetric", True):
            state["weight_zero_point"] = torch.randint(-2, 2, shape, generator=generator, dtype=torch.int8)
        made = dict(BaseCompressor.get_value_from_registry(name).compress(state, scheme))
        return {suffix: tensor.contiguous() for suffix, tensor in made.items()}

    def read(tensors: Tensors, config: Mapping[str, Any]) -> torch.Tensor:
        found = scheme_of(config)
        assert found is not None, "the config says that the head is not quantized"
        compressor = BaseCompressor.get_value_from_registry(str(getattr(found.format, "value", found.format)))
        return torch.as_tensor(compressor.decompress(dict(tensors), found)["weight"])

    return Format(make, section, read, inputs=inputs)


def _gptq(bits: int, *, ordered: bool = False) -> Format:
    whole = {2: 16, 3: 32, 4: 8, 8: 4}[bits]

    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        groups = hidden // 32
        g_idx = torch.arange(hidden, dtype=torch.int32) // 32
        return {
            "qweight": _words((hidden * bits // 32, ids), generator),
            "qzeros": _words((groups, ids * bits // 32), generator),
            "scales": _positive((groups, ids), generator).half(),
            "g_idx": g_idx[torch.randperm(hidden, generator=generator)] if ordered else g_idx,
        }

    def read(tensors: Tensors, _: Mapping[str, Any]) -> torch.Tensor:
        """scale * (code - (stored zero + 1)), as AutoGPTQ 0.7.1 computes it (qlinear_cuda_old.py, forward)."""
        codes = _unpacked(tensors["qweight"].T, bits).T.double()
        zeros = _unpacked(tensors["qzeros"], bits).double() + 1
        group = tensors["g_idx"].long()
        return (tensors["scales"].double()[group] * (codes - zeros[group])).T

    section = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": ordered, "sym": False}
    return Format(make, section | {"lm_head": True}, read, whole)


def _awq() -> Format:
    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        return {
            "qweight": _words((hidden, ids // 8), generator),
            "qzeros": _words((hidden // 32, ids // 8), generator),
            "scales": _positive((hidden // 32, ids), generator).half(),
        }

    def read(tensors: Tensors, _: Mapping[str, Any]) -> torch.Tensor:
        converter = AutoAWQConverter(bits=4, group_size=32, zero_point=True, ignore=())
        ids = tensors["scales"].shape[1]
        # Twice side by side, as compressed-tensors 0.20 does not read zero points that fill a single word.
        named = {f"{HEAD}.{suffix}": torch.cat([tensor, tensor], dim=1) for suffix, tensor in tensors.items()}
        made = {name.removeprefix(f"{HEAD}."): tensor for name, tensor in converter.process(named).items()}
        config = {"quantization_config": converter.update_config(None)}
        return as_packed.read(
            made, {"quantization_config": json.loads(config["quantization_config"].model_dump_json())}
        )[:ids]

    as_packed = _compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False)
    section = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    return Format(make, section | {"lm_head": True}, read, whole=8)


def _deepseek() -> Format:
    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        return {
            "weight": torch.randn(ids, hidden, generator=generator).to(torch.float8_e4m3fn),
            "weight_scale_inv": _positive((-(-ids // 16), -(-hidden // 24)), generator),
        }

    def read(tensors: Tensors, config: Mapping[str, Any]) -> torch.Tensor:
        """Blocks as config.json tells them, or as the cut tells of the head alone."""
        block = (config.get("vocabtrim") or {}).get(
            "head_scale_block", config["quantization_config"]["weight_block_size"]
        )
        reader = FP8BlockDequantizer(targets=["Linear"], weight_block_size=tuple(block), dtype=torch.float32)
        return reader.process({f"{HEAD}.{suffix}": tensor for suffix, tensor in tensors.items()})[f"{HEAD}.weight"]

    return Format(make, {"quant_method": "fp8", "weight_block_size": [16, 24]}, read, inputs=8)


def _fp8(method: str, scale: Callable[[int], tuple[int, ...]], **section: Any) -> Format:
    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        return {
            "weight": torch.randn(ids, hidden, generator=generator).to(torch.float8_e4m3fn),
            "weight_scale": _positive(scale(ids), generator),
            "input_scale": torch.tensor(0.5),
        }

    def read(tensors: Tensors, _: Mapping[str, Any]) -> torch.Tensor:
        return tensors["weight"].float() * tensors["weight_scale"]

    return Format(make, {"quant_method": method, **section}, read, inputs=1)


def _modelopt_nvfp4() -> Format:
    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        return {
            "weight": torch.randint(0, 256, (ids, hidden // 2), generator=generator, dtype=torch.uint8),
            "weight_scale": _positive((ids, hidden // 16), generator).to(torch.float8_e4m3fn),
            "weight_scale_2": torch.tensor(0.25),
            "input_scale": torch.tensor(0.5),
        }

    def read(tensors: Tensors, _: Mapping[str, Any]) -> torch.Tensor:
        named = {f"{HEAD}.{suffix}": tensor for suffix, tensor in tensors.items()}
        made = ModelOptNvfp4Converter(targets=[HEAD]).process(named)
        made = {name.removeprefix(f"{HEAD}."): tensor for name, tensor in made.items()}
        return fp4.read(made, {"quantization_config": fp4.section})

    fp4 = FORMATS["NVFP4, compressed-tensors"]
    return Format(make, {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": []}, read)


def _mlx() -> Format:
    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        return {
            "weight": _words((ids, hidden // 8), generator).view(torch.uint32),
            "scales": _positive((ids, hidden // 32), generator).bfloat16(),
            "biases": torch.randn((ids, hidden // 32), generator=generator).bfloat16(),
        }

    def read(tensors: Tensors, _: Mapping[str, Any]) -> torch.Tensor:
        """scale * code + bias by groups along a row (MLX, mx.dequantize)."""
        codes = _unpacked(tensors["weight"].view(torch.int32), 4).float()
        scales, biases = (tensors[name].float().repeat_interleave(32, dim=1) for name in ("scales", "biases"))
        return scales * codes + biases

    return Format(make, {"group_size": 32, "bits": 4}, read, key="quantization")


def _bitsandbytes() -> Format:
    def make(generator: torch.Generator, ids: int, hidden: int) -> Tensors:
        return {
            "weight": torch.randint(-127, 128, (ids, hidden), generator=generator, dtype=torch.int8),
            "SCB": _positive((ids,), generator),
            "weight_format": torch.tensor(0, dtype=torch.uint8),
        }

    def read(tensors: Tensors, _: Mapping[str, Any]) -> torch.Tensor:
        """code * SCB / 127 row by row (bitsandbytes, functional.py: int8_vectorwise_dequant)."""
        return tensors["weight"].float() * tensors["SCB"][:, None] / 127

    return Format(make, {"quant_method": "bitsandbytes", "load_in_8bit": True}, read, inputs=1)


_INT = {"type": "int", "strategy": "channel", "symmetric": True}
_FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
FORMATS: dict[str, Format] = {
    **{
        f"packed int{bits}, groups, asymmetric": _compressed(
            "pack-quantized", num_bits=bits, type="int", strategy="group", group_size=32, symmetric=False
        )
        for bits in (2, 3, 4, 5, 7, 8)
    },
    "packed int4, channel": _compressed("pack-quantized", inputs=1, num_bits=4, **_INT),
    "packed int6, channel, asymmetric": _compressed(
        "pack-quantized", inputs=1, num_bits=6, **_INT | {"symmetric": False}
    ),
    "packed int4, tensor": _compressed("pack-quantized", inputs=1, num_bits=4, **_INT | {"strategy": "tensor"}),
    "int8, channel": _compressed("int-quantized", inputs=1, scale=torch.bfloat16, num_bits=8, **_INT),
    "int8, channel, asymmetric": _compressed("naive-quantized", inputs=1, num_bits=8, **_INT | {"symmetric": False}),
    "FP8, tensor": _compressed("float-quantized", inputs=1, strategy="tensor", **_FLOAT8),
    "FP8, channel": _compressed("float-quantized", inputs=1, scale=torch.bfloat16, strategy="channel", **_FLOAT8),
    "FP8, groups": _compressed("naive-quantized", strategy="group", group_size=32, **_FLOAT8),
    "FP8, blocks": _compressed("float-quantized", strategy="block", block_structure=[16, 32], **_FLOAT8),
    "NVFP4, compressed-tensors": _compressed(
        "nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True
    ),
    "MXFP4, compressed-tensors": _compressed(
        "mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32, symmetric=True
    ),
    "MXFP8, compressed-tensors": _compressed(
        "mxfp8-quantized", strategy="group", group_size=32, scale_dtype="torch.uint8", **_FLOAT8
    ),
}
FORMATS |= {
    **{f"GPTQ, {bits} bits": _gptq(bits) for bits in (2, 3, 4, 8)},
    "GPTQ, 4 bits, inputs in another order": _gptq(4, ordered=True),
    "AWQ": _awq(),
    "FP8, blocks, DeepSeek": _deepseek(),
    "FP8, tensor, transformers": _fp8("fp8", lambda _: (), activation_scheme="static"),
    "FP8, channel, FBGEMM": _fp8("fbgemm_fp8", lambda ids: (ids, 1)),
    "FP8, tensor, ModelOpt": _fp8("modelopt", lambda _: (), quant_algo="FP8", ignore=[]),
    "NVFP4, ModelOpt": _modelopt_nvfp4(),
    "MLX, 4 bits": _mlx(),
    "bitsandbytes int8": _bitsandbytes(),
}


@dataclass(frozen=True)
class Written:
    """A drafter with a quantized head on disk. tensors: suffix -> tensor of its head."""

    folder: Path
    tensors: Tensors
    config: dict[str, Any] = field(default_factory=dict)


def write_head_only(folder: Path, name: str, *, ids: int, hidden: int, seed: int = 0) -> Written:
    """An independent drafter without layers: an embedding and a head in one of FORMATS."""
    made = FORMATS[name].make(torch.Generator().manual_seed(seed), ids, hidden)
    config = {"model_type": "llama", "vocab_size": ids, "hidden_size": hidden, "num_hidden_layers": 0}
    config |= {"tie_word_embeddings": False, FORMATS[name].key: dict(FORMATS[name].section)}
    return write(folder, made, config)


def write(folder: Path, head: Tensors, config: dict[str, Any]) -> Written:
    folder.mkdir()
    embedding = torch.zeros(config["vocab_size"], config["hidden_size"], dtype=torch.bfloat16)
    named = {f"{HEAD}.{suffix}": tensor for suffix, tensor in head.items()}
    save_file({"model.embed_tokens.weight": embedding} | named, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return Written(folder, head, config)


def quantize_head(folder: Path, name: str, *, prefix: str = HEAD, seed: int = 0) -> Tensors:
    """Put a head in one of FORMATS into a folder that exists, in place of its own; returns it, suffix -> tensor."""
    from safetensors.torch import load_file

    file = next(path for path in folder.glob("*.safetensors") if path.name != "kept.safetensors")
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(file)
    ids, hidden = weights.pop(f"{prefix}.weight").shape
    made = FORMATS[name].make(torch.Generator().manual_seed(seed), ids, hidden)
    save_file(weights | {f"{prefix}.{suffix}": tensor for suffix, tensor in made.items()}, file)
    (folder / "config.json").write_text(json.dumps(config | {FORMATS[name].key: dict(FORMATS[name].section)}))
    return made


def round_head(folder: Path, *, packed: bool) -> None:
    """Round a folder's head to 4 bits in groups of 32 inputs: packed as compressed-tensors packs it, or the same
    numbers as a plain matrix. A tied head gets a matrix of its own."""
    from safetensors.torch import load_file

    file, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    told = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    scheme = QuantizationScheme(targets=[HEAD], weights=QuantizationArgs(**told))
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    weights = load_file(file)
    head = weights.pop(f"{HEAD}.weight", None)
    if head is None:
        head, config["tie_word_embeddings"] = weights["model.embed_tokens.weight"], False
    largest = head.float().unflatten(1, (-1, 32)).abs().amax(-1)
    made = compressor.compress({"weight": head.float(), "weight_scale": (largest / 7).to(head.dtype)}, scheme)
    if packed:
        groups = {"group_0": {"targets": [HEAD], "weights": told}}
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
        config["quantization_config"] |= {"config_groups": groups, "ignore": []}
    else:
        made = {"weight": compressor.decompress(dict(made), scheme)["weight"].to(head.dtype)}
    save_file(weights | {f"{HEAD}.{suffix}": tensor.contiguous() for suffix, tensor in made.items()}, file)
    (folder / "config.json").write_text(json.dumps(config))


def _positive(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return 0.01 + 0.1 * torch.rand(shape, generator=generator)


def _powers(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return 2.0 ** torch.randint(-4, 1, shape, generator=generator).float()


def _words(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int64).to(torch.int32)


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, words) int32 -> (rows, codes): each row as one little-endian number, its codes the lowest bits first."""
    rows = []
    for row in words.tolist():
        number = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(row))
        rows.append([number >> (bits * code) & ((1 << bits) - 1) for code in range(32 * len(row) // bits)])
    return torch.tensor(rows)
