"""Asks other people's code about quantized heads; run by the Python of an environment that has it.

    python quantized_layers.py autogptq FOLDER     dequantizes FOLDER/*.safetensors, GPTQ heads, as AutoGPTQ does
    python quantized_layers.py autogptq-make FOLDER BITS    packs a random head
    python quantized_layers.py padded FOLDER       packs heads with this environment's compressed-tensors
    python quantized_layers.py read-padded FOLDER  dequantizes them
    python quantized_layers.py vllm FOLDER         says how vLLM reads the config.json of each folder inside

Writes what it found beside what it read.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

IDS, HIDDEN, GROUP = 512, 128, 32


def quant_linear() -> Any:
    """AutoGPTQ's layer that needs no CUDA, by its file: the package itself wants an old transformers."""
    found = importlib.util.find_spec("auto_gptq")
    assert found is not None and found.submodule_search_locations
    file = Path(found.submodule_search_locations[0]) / "nn_modules" / "qlinear" / "qlinear_cuda_old.py"
    spec = importlib.util.spec_from_file_location("qlinear_cuda_old", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.QuantLinear


def autogptq_make(folder: Path, bits: int) -> None:
    torch.manual_seed(bits)
    layer = quant_linear()(bits, GROUP, HIDDEN, IDS, False)
    scales = torch.rand(IDS, HIDDEN // GROUP) * 0.1 + 0.01
    zeros = torch.randint(1, 2**bits, (IDS, HIDDEN // GROUP)).float()
    layer.pack(torch.nn.Linear(HIDDEN, IDS, bias=False), scales, zeros, None)
    save_file({f"lm_head.{name}": tensor for name, tensor in layer.state_dict().items()}, folder / "head.safetensors")


def autogptq(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {k.removeprefix("lm_head."): v for k, v in load_file(file).items() if k.startswith("lm_head.")}
        ids, hidden = tensors["scales"].shape[1], tensors["g_idx"].shape[0]
        bits = tensors["qweight"].shape[0] * 32 // hidden
        layer = quant_linear()(bits, GROUP, hidden, ids, False)
        layer.load_state_dict(tensors)
        one = torch.eye(hidden, dtype=layer.scales.dtype)
        weight = layer(one).T.contiguous()  # every sum is one weight and zeros, so nothing is rounded
        save_file({"weight": weight}, file.with_suffix(".dequantized"))


def scheme(bits: int) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weights = QuantizationArgs(num_bits=bits, type="int", strategy="group", group_size=GROUP, symmetric=False)
    return QuantizationScheme(targets=["Linear"], weights=weights)


def compressor() -> Any:
    from compressed_tensors.compressors import BaseCompressor

    return BaseCompressor.get_value_from_registry("pack-quantized")


def padded(folder: Path) -> None:
    for bits in (3, 4, 5, 6, 7):
        torch.manual_seed(bits)
        state = {
            "weight": torch.randn(IDS, HIDDEN),
            "weight_scale": torch.rand(IDS, HIDDEN // GROUP) * 0.1 + 0.01,
            "weight_zero_point": torch.randint(-2, 2, (IDS, HIDDEN // GROUP), dtype=torch.int8),
        }
        made = compressor().compress(state, scheme(bits))
        save_file({f"lm_head.{k}": v.contiguous() for k, v in made.items()}, folder / f"{bits}.safetensors")


def read_padded(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {k.removeprefix("lm_head."): v for k, v in load_file(file).items() if k.startswith("lm_head.")}
        weight = compressor().decompress(tensors, scheme(int(file.stem)))["weight"]
        save_file({"weight": weight.contiguous()}, file.with_suffix(".dequantized"))


def vllm(folder: Path) -> None:
    """folder/*/config.json -> folder/said.json: name -> module -> whether vLLM would build it quantized."""
    from vllm.model_executor.layers.linear import ColumnParallelLinear
    from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
    from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
    from vllm.model_executor.layers.quantization.utils.gptq_utils import get_linear_quant_method
    from vllm.model_executor.layers.quantization.utils.quant_utils import is_layer_skipped
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    head, linear = (torch.nn.Module.__new__(kind) for kind in (ParallelLMHead, ColumnParallelLinear))
    for layer in (head, linear):
        torch.nn.Module.__init__(layer)
    said: dict[str, dict[str, bool]] = {}
    for file in sorted(folder.glob("*/config.json")):
        section = json.loads(file.read_text())["quantization_config"]
        answers = said.setdefault(file.parent.name, {})
        for name in ("lm_head", "fc", "layers.0.self_attn.o_proj", "layers.0.mlp.down_proj"):
            layer = head if name == "lm_head" else linear
            if section["quant_method"] == "gptq":
                config = AutoGPTQConfig.from_config(section)
                answers[name] = get_linear_quant_method(config, layer, name, lambda _: "quantized") == "quantized"
            elif section["quant_method"] == "awq":
                config = AutoAWQConfig.from_config(section)
                left = is_layer_skipped(name, config.modules_to_not_convert, match_mode="substring")
                answers[name] = (layer is linear or config.lm_head_quantized) and not left
            else:
                config = CompressedTensorsConfig.from_config(section)
                answers[name] = config.get_scheme_dict(layer, layer_name=name) is not None
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "autogptq-make":
        autogptq_make(Path(where), int(rest[0]))
    else:
        {"autogptq": autogptq, "padded": padded, "read-padded": read_padded, "vllm": vllm}[what](Path(where))
