"""What config.json says of a cut head: what its owner's said of the whole one, whatever name and owner it got.

The configs are read back as engines do: compressed-tensors by its own library, the others by the rule of vLLM 0.32
that is written down beside the test (tests/engines/ asks vLLM itself).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("compressed_tensors", reason="the library that reads these configs is not installed")

from quantized import FORMATS, HEAD, quantize_head, scheme_of
from vocabtrim.checkpoint.check import check
from vocabtrim.checkpoint.costs import draft_step
from vocabtrim.checkpoint.layouts import identify
from vocabtrim.checkpoint.quantization_config import says_quantized
from vocabtrim.checkpoint.read import open_checkpoint
from vocabtrim.checkpoint.trim import trim
from vocabtrim.errors import UnsupportedError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

BODY = ("fc", "layers.0.self_attn.q_proj", "layers.0.mlp.down_proj")


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def set_config(folder: Path, **entries: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | entries))


def kept() -> KeptVocabulary:
    """128 ids, the stop id among them: every format has words for as many."""
    others = np.setdiff1d(np.arange(TINY.vocab), TINY.eos)
    drawn = np.random.default_rng(0).choice(others, 128 - len(TINY.eos), replace=False)
    return KeptVocabulary(np.sort(np.append(drawn, TINY.eos)), TINY.vocab)


def cut_rows(name: str, out: Path, prefix: str, whole: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """The head of `out`, read by what its own config says, is the kept rows of the whole head read by its owner's."""
    tensors = load_file(out / "model.safetensors")
    held = {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
    told = config_of(out)
    if told["quantization_config"].get("quant_method") == "compressed-tensors":
        scheme = scheme_of(told, prefix)
        assert scheme is not None
        group = json.loads(scheme.model_dump_json()) | {"targets": [HEAD]}
        told["quantization_config"] |= {"config_groups": {"g": group}, "format": group["format"], "ignore": []}
    before, after = FORMATS[name].read(whole, config), FORMATS[name].read(held, told)
    assert torch.equal(after, before[kept().ids.tolist()])


# The head of a quantized target, in an EAGLE-1/2 drafter


@pytest.fixture
def eagle(tmp_path: Path) -> Path:
    return shapes.write_eagle(tmp_path / "eagle", TINY, seed=3)


@pytest.mark.parametrize("name", [name for name in FORMATS if "MLX" not in name])
def test_an_eagle_drafter_takes_its_targets_quantized_head_and_says_so(name: str, eagle: Path, tmp_path: Path) -> None:
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    whole = quantize_head(target, name)
    cut = kept()
    trim(eagle, cut, target=target, out=tmp_path / "out")
    cut_rows(name, tmp_path / "out", HEAD, whole, config_of(target))
    before, after = load_file(eagle / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(after[key], value) for key, value in before.items())  # the body is as it was
    report = check(tmp_path / "out", target)
    assert report.ok, report.problems
    step = draft_step(identify(open_checkpoint(tmp_path / "out")))
    expected = draft_step(identify(open_checkpoint(eagle), open_checkpoint(target)))
    assert step.bytes == expected.body_bytes + round(cut.size * expected.head_row_bytes)

    section = config_of(tmp_path / "out")["quantization_config"]
    match section["quant_method"]:
        case "compressed-tensors":
            assert all(scheme_of(config_of(tmp_path / "out"), module) is None for module in BODY)
        case "gptq":  # vLLM: a head if `lm_head`, and modules whose name holds one of the listed
            assert section["lm_head"] is True and section["modules_in_block_to_quantize"] == [["lm_head"]]
        case "awq":  # vLLM: a head if `lm_head`, and modules whose name holds none of the listed
            assert section["lm_head"] is True and HEAD not in section["modules_to_not_convert"]
            assert set(BODY) <= set(section["modules_to_not_convert"])
        case "modelopt":
            assert set(BODY) <= set(section["ignore"]) and HEAD not in section["ignore"]
        case "fp8" | "fbgemm_fp8":
            assert set(BODY) <= set(section["modules_to_not_convert"])
            assert section.get("weight_block_size", [1, 24]) == [1, 24]
        case "bitsandbytes":
            assert set(BODY) <= set(section["llm_int8_skip_modules"])


@pytest.mark.parametrize("name", ["packed int4, groups, asymmetric", "AWQ", "GPTQ, 4 bits", "FP8, blocks"])
def test_check_compares_the_rows_with_the_quantized_target(name: str, eagle: Path, tmp_path: Path) -> None:
    """Two codes of one word swapped, hashes taken off: only the target tells."""
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    quantize_head(target, name)
    trim(eagle, kept(), target=target, out=tmp_path / "out")
    config = config_of(tmp_path / "out")
    config["vocabtrim"]["head_sha256"] = {}
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert check(tmp_path / "out", target).ok
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    main = next(
        key for key in tensors if key.startswith(HEAD) and key.split(".")[1] in {"weight", "weight_packed", "qweight"}
    )
    tensors[main].view(torch.uint8).reshape(-1)[0] ^= 0x10
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    (problem,) = check(tmp_path / "out", target).problems
    assert problem.rule == "head.rows" and main in problem.message


def test_two_dialects_in_one_drafter_are_refused(eagle: Path, tmp_path: Path) -> None:
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    quantize_head(target, "GPTQ, 4 bits")
    set_config(eagle, quantization_config=FORMATS["packed int4, channel"].section)
    with pytest.raises(UnsupportedError, match=r"\(compressed-tensors\) has no words for GPTQ.*unquantized head"):
        trim(eagle, kept(), target=target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dialect_that_cannot_speak_of_the_head_alone_is_refused(eagle: Path, tmp_path: Path) -> None:
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    quantize_head(target, "GPTQ, 4 bits")
    set_config(target, quantization_config={"quant_method": "auto-round", "bits": 4, "group_size": 32})
    with pytest.raises(UnsupportedError, match=r"has no words for lm_head alone as GPTQ, 4 bits"):
        trim(eagle, kept(), target=target, out=tmp_path / "out")


def test_a_drafter_with_a_quantized_body_keeps_its_groups_beside_the_heads(eagle: Path, tmp_path: Path) -> None:
    """int8 body, int4 head: two groups, two formats; every module is read as before."""
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    name = "packed int4, groups, asymmetric"
    whole = quantize_head(target, name)
    body = dict(FORMATS["int8, channel"].section) | {"ignore": ["re:.*lm_head", "fc"]}
    set_config(eagle, quantization_config=body)
    before = {module: scheme_of(config_of(eagle), module) for module in BODY}
    trim(eagle, kept(), target=target, out=tmp_path / "out")
    out = config_of(tmp_path / "out")
    assert out["quantization_config"]["format"] == "mixed-precision"
    for module in BODY:
        found, said = scheme_of(out, module), before[module]
        assert (found is None) == (said is None) == (module == "fc")
        if found is not None and said is not None:
            assert found.weights == said.weights and found.format == said.format
    head = scheme_of(out, HEAD)
    assert head is not None and head.weights is not None and head.weights.num_bits == 4
    cut_rows(name, tmp_path / "out", HEAD, whole, config_of(target))
    assert check(tmp_path / "out", target).ok


def test_an_unquantized_head_beside_a_quantized_body_is_left_alone(eagle: Path, tmp_path: Path) -> None:
    """The target's plain head comes into a folder whose config quantizes every Linear."""
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    set_config(eagle, quantization_config=FORMATS["int8, channel"].section)
    trim(eagle, kept(), target=target, out=tmp_path / "out")
    out = config_of(tmp_path / "out")
    assert scheme_of(out, HEAD) is None and scheme_of(out, BODY[1]) is not None
    assert check(tmp_path / "out", target).ok


# MTP modules of quantized targets


def fp8_module(folder: Path, prefix: str, block: tuple[int, int] = (16, 16)) -> None:
    """The module's projections as DeepSeek publishes them: FP8 with a scale for each block; head and norms are not."""
    weights = load_file(folder / "model.safetensors")
    for name in [
        name for name in weights if name.startswith(prefix) and "_proj.weight" in name and "eh_proj" not in name
    ]:
        rows, columns = weights[name].shape
        weights[name] = weights[name].float().to(torch.float8_e4m3fn)
        blocks = (-(-rows // block[0]), -(-columns // block[1]))
        weights[f"{name}_scale_inv"] = torch.rand(blocks) + 0.5
    save_file(weights, folder / "model.safetensors")


def test_the_mtp_module_of_an_fp8_deepseek(tmp_path: Path) -> None:
    """Codes and scales of the body are copied, the head is cut, and the config needs no other word."""
    target = shapes.write_mtp(tmp_path / "target", TINY, seed=1, family="deepseek")
    fp8_module(target, "model.layers.")
    section = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
    set_config(target, quantization_config=section)
    trim(target, kept(), target=target, out=tmp_path / "out")
    before, after = load_file(target / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    module = f"model.layers.{TINY.layers}"
    head = f"{module}.shared_head.head.weight"
    assert torch.equal(after[head], before[head][kept().ids.tolist()])
    body = {name for name in before if name.startswith(module)} - {head}
    assert body == after.keys() - {head} and any(name.endswith("weight_scale_inv") for name in body)
    assert all(
        torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8))
        for name in body
        if before[name].dim()
    )
    assert config_of(tmp_path / "out")["quantization_config"] == section
    assert check(tmp_path / "out", target).ok


def test_the_mtp_module_of_an_fp8_qwen3_next(tmp_path: Path) -> None:
    """The head gets a name of its own, which goes on the list of modules that FP8 leaves alone."""
    target = shapes.write_mtp(tmp_path / "target", TINY, seed=1, family="qwen3-next")
    fp8_module(target, "m")
    alone = ["lm_head", "mtp.fc", "model.layers.0.mlp.gate"]
    section = {"quant_method": "fp8", "weight_block_size": [16, 16], "modules_to_not_convert": alone}
    set_config(target, quantization_config=section)
    trim(target, kept(), target=target, out=tmp_path / "out")
    out = config_of(tmp_path / "out")
    assert out["quantization_config"] == section | {"modules_to_not_convert": [*alone, "mtp.lm_head"]}
    assert check(tmp_path / "out", target).ok


@pytest.mark.parametrize("ignored", [[], ["re:.*mtp.*", "lm_head_of_another"]])
def test_a_quantized_head_under_a_name_of_its_own(ignored: list[str], tmp_path: Path) -> None:
    """An MTP head cut from a quantized `lm_head`: under its new name the config still calls it quantized."""
    target = shapes.write_mtp(tmp_path / "target", TINY, seed=1, family="mimo")
    name = "packed int4, groups, asymmetric"
    whole = quantize_head(target, name)
    section = dict(FORMATS[name].section) | {"ignore": ignored}
    section["config_groups"] = {"group_0": {**section["config_groups"]["group_0"], "targets": [HEAD]}}
    set_config(target, quantization_config=section)
    trim(target, kept(), target=target, out=tmp_path / "out")
    cut = "model.mtp_layers.0.lm_head"
    assert scheme_of(config_of(tmp_path / "out"), "model.mtp_layers.0.input_proj") is None
    cut_rows(name, tmp_path / "out", cut, whole, config_of(target))
    assert check(tmp_path / "out", target).ok


# Independent drafters


def test_a_head_untied_from_its_embedding_is_left_alone(tmp_path: Path) -> None:
    from dataclasses import replace

    drafter = shapes.write_independent(tmp_path / "drafter", replace(TINY, tie=True), seed=2)
    set_config(drafter, quantization_config=dict(FORMATS["int8, channel"].section))
    assert check(drafter).ok  # an embedding is no Linear
    trim(drafter, kept(), out=tmp_path / "out")
    out = config_of(tmp_path / "out")
    assert scheme_of(out, HEAD) is None and scheme_of(out, "model.layers.0.mlp.up_proj") is not None
    assert check(tmp_path / "out").ok


def test_blocks_of_ids_become_groups_of_inputs_and_the_rest_stays(tmp_path: Path) -> None:
    """compressed-tensors says so of the head alone: the body keeps its blocks."""
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    whole = quantize_head(drafter, "FP8, blocks")
    trim(drafter, kept(), out=tmp_path / "out")
    out = config_of(tmp_path / "out")
    head, body = scheme_of(out, HEAD), scheme_of(out, "model.layers.0.mlp.up_proj")
    assert head is not None and head.weights is not None and body is not None and body.weights is not None
    assert (head.weights.strategy, head.weights.group_size) == ("group", 32)
    assert (body.weights.strategy, list(body.weights.block_structure or ())) == ("block", [16, 32])
    cut_rows("FP8, blocks", tmp_path / "out", HEAD, whole, config_of(drafter))
    assert out["vocabtrim"]["head_scale_block"] == [1, 32]


def test_an_eagle3_drafter_with_a_quantized_head_of_its_own(tmp_path: Path) -> None:
    """The usual case: same name, same format, and not a word of the config changes but the size."""
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=TINY.vocab, maps=False)
    whole = quantize_head(drafter, "packed int4, groups, asymmetric")
    trim(drafter, kept(), out=tmp_path / "out")
    out = config_of(tmp_path / "out")
    assert out["quantization_config"] == config_of(drafter)["quantization_config"]
    cut_rows("packed int4, groups, asymmetric", tmp_path / "out", HEAD, whole, config_of(drafter))
    assert check(tmp_path / "out").ok


def test_an_eagle3_drafter_quantized_throughout_is_known_by_its_packed_fusion(tmp_path: Path) -> None:
    """`fc.weight_packed` instead of `fc.weight`: still an EAGLE-3 drafter, its body copied as it is."""
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=TINY.vocab, maps=False)
    quantize_head(drafter, "packed int4, channel")
    fused = quantize_head(drafter, "packed int4, channel", prefix="fc", seed=1)
    trim(drafter, kept(), out=tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(after[f"fc.{suffix}"], tensor) for suffix, tensor in fused.items())
    assert identify(open_checkpoint(tmp_path / "out")).kind == "EAGLE-3" and check(tmp_path / "out").ok


# What check finds


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("packed int4, channel", {"ignore": ["lm_head"]}),
        ("packed int4, channel", {"ignore": ["re:lm_.*"]}),
        ("GPTQ, 4 bits", {"lm_head": False}),
        ("AWQ", {"modules_to_not_convert": ["lm_head"]}),
        ("NVFP4, ModelOpt", {"ignore": ["lm_h*"]}),
    ],
)
def test_check_finds_a_config_that_calls_a_quantized_head_plain(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    quantize_head(drafter, name)
    assert check(drafter).ok and says_quantized(config_of(drafter), HEAD) is True
    set_config(drafter, quantization_config=config_of(drafter)["quantization_config"] | change)
    assert [problem.rule for problem in check(drafter).problems] == ["config.quantization"]


def test_check_finds_a_config_that_calls_a_plain_head_quantized(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    set_config(drafter, quantization_config=dict(FORMATS["packed int4, channel"].section))
    assert [problem.rule for problem in check(drafter).problems] == ["config.quantization"]


@pytest.mark.parametrize(
    "section",
    [
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["re:("]}}, "ignore": ["re:["]},
        {"quant_method": "compressed-tensors", "config_groups": ["W4A16"]},
        {"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linear"]}},
        {"quant_method": "gptq", "dynamic": {"-:(": {}}, "lm_head": True},
        {"quant_method": "fp8", "weight_block_size": [-1, 0]},
        {"quant_method": 7, "bits": "four", "ignore": "lm_head"},
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": None, "weights": [4]}}},
    ],
)
def test_sections_of_nonsense_raise_nothing_of_their_own(section: dict[str, Any], tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    set_config(drafter, quantization_config=section)
    check(drafter)
    trim(drafter, kept(), out=tmp_path / "out")
