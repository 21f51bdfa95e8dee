"""What a config.json says of a head's quantization, and making it true of a head that got another name or owner.

Knows the dialects of `quantization_config`; knows no tensors. A trimmed head keeps its format, but an EAGLE drafter
takes over its target's and an MTP module's head gets a name of its own: a config that then calls the head quantized
where it is not, or the other way round, makes an engine build the wrong layer for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from ..errors import UnsupportedError
from .head_tensors import HeadTensors, Told
from .read import NESTED, Checkpoint

# Where each dialect lists the modules that it leaves alone; the first is written where none is there.
_LEFT_ALONE = ("modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "ignore", "exclude_modules")
_COMPRESSED = "compressed-tensors"
# Besides ModelOpt's, those that quantize all but what they list; "" is MLX, which goes by the tensors.
_LISTING = ("", "awq", "fp8", "fbgemm-fp8", "bitsandbytes")
# The second is compressed-tensors' of old, the third MLX's.
_SECTIONS = ("quantization_config", "compression_config", "quantization")


def section_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's own words on quantization, here or in a nested language model's; empty where it has none."""
    for level in (config, *(config[name] for name in NESTED if isinstance(config.get(name), dict))):
        if key := next((key for key in _SECTIONS if isinstance(level.get(key), dict)), None):
            return dict(level[key])
    return {}


def method_of(config: Mapping[str, Any]) -> str:
    """`quant_method` as its usual name, "awq" or "compressed-tensors"; empty where the config names none."""
    return _method(section_of(config))


def told_of(checkpoint: Checkpoint, module: str) -> Told:
    """What the config tells of a module that its tensors' shapes do not."""
    section = section_of(checkpoint.config)
    weights = (_group_of(section, module) or {}).get("weights")
    weights = weights if isinstance(weights, dict) else {}
    block = section.get("weight_block_size") or weights.get("block_structure")
    if isinstance(block, str):  # as compressed-tensors wrote it once: "128x128"
        block = [int(part) for part in re.findall(r"\d+", block)]
    if str(section.get("quant_algo", "")).upper() in {"FP8_PB_WO", "FP8_BLOCK_SCALES"}:
        block = (128, 128)  # ModelOpt's only size: vLLM 0.32, layers/quantization/modelopt.py
    own = section.get(module)  # MLX lists modules of other bits by name
    bits = weights.get("num_bits") or (own.get("bits") if isinstance(own, dict) else section.get("bits"))
    version = section.get("checkpoint_format") or section.get("format") or section.get("version") or ""
    sound = isinstance(block, list | tuple) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    return Told(
        scale_block=(block[0], block[1]) if sound and block is not None else None,
        bits=bits if type(bits) is int and 1 <= bits <= 32 else None,
        version=str(version).lower(),
    )


def says_quantized(config: Mapping[str, Any], module: str) -> bool | None:
    """Whether an engine that follows the config builds this head quantized; None where the dialect leaves it open.

    `fp8` and bitsandbytes leave heads alone whatever they list; compressed-tensors, GPTQ, AWQ and ModelOpt are read
    as vLLM 0.32 reads them.
    """
    section = section_of(config)
    method = _method(section)
    if not section:
        return False
    if method == _COMPRESSED:
        return _group_of(section, module) is not None
    if method in {"gptq", "awq"}:
        return bool(section.get("lm_head", False)) and not _listed(section, module)
    if method.startswith("modelopt"):
        layers = section.get("quantized_layers")  # of mixed precision
        return module in layers if isinstance(layers, dict) else not _listed(section, module)
    return None


def with_head(
    config: Mapping[str, Any], head: HeadTensors, name: str, *, owner: Checkpoint, source: str, body: Sequence[str]
) -> dict[str, Any]:
    """The drafter's config, saying of the cut head `name` what its owner's says of the whole one, `source`.

    body: the drafter's other modules that an engine could quantize. Raises UnsupportedError where the drafter's own
    dialect has no words for the head's format.
    """
    theirs, ours = section_of(owner.config), section_of(config)
    if not head.quantized:
        told = _with_section(config, _leaving_alone(ours, [name])) if ours else dict(config)
    elif not theirs:  # nobody said it; the tensors do
        told = dict(config)
    elif _method(theirs) == _COMPRESSED and (not ours or _method(ours) == _COMPRESSED):
        told = _with_section(config, _compressed(ours, theirs, head, name, source))
    elif not ours:
        told = _with_section(config, _only_head(theirs, head, name, source, body))
    elif ours == theirs:
        told = dict(config)
    else:
        raise _no_words(ours, f"{head.format}, which its target calls {_method(theirs)}")
    if says_quantized(told, name) not in {None, head.quantized} or (head.scale_block and "quant_algo" in theirs):
        raise _no_words(section_of(told), f"{name} as {head.format}")
    return told


def _compressed(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], head: HeadTensors, name: str, source: str
) -> dict[str, Any]:
    """compressed-tensors gives every head a group: the first, as engines take the first whose targets match."""
    found = _group_of(theirs, source)
    if found is None:  # their config is wrong already: `check` says so
        return dict(ours)
    if not isinstance(found.get("weights"), dict):
        raise _no_words(theirs, f"{head.format} but a scheme's name")
    group = {**found, "targets": [name]}
    if head.scale_block is not None:
        by_row = {"strategy": "group", "group_size": head.scale_block[1], "block_structure": None}
        group["weights"] = {**group["weights"], **by_row}
    if not ours:
        return {**theirs, "config_groups": {"group_0": group}, "ignore": [], "kv_cache_scheme": None}
    formats = [section.get("format") for section in (ours, theirs)]
    others = {
        key: {**other, "targets": [target for target in other["targets"] if target != name]}
        for key, other in _groups(ours).items()
    }
    if formats[0] != formats[1]:
        others = {key: {"format": formats[0], **other} for key, other in others.items()}
        group.setdefault("format", formats[1])
    return {
        **ours,
        "format": formats[0] if formats[0] == formats[1] else "mixed-precision",
        "config_groups": {"head": group, **{key: other for key, other in others.items() if other["targets"]}},
        "ignore": [_sparing(pattern, name) for pattern in _list(ours, "ignore") if pattern != name],
    }


def _only_head(
    theirs: Mapping[str, Any], head: HeadTensors, name: str, source: str, body: Sequence[str]
) -> dict[str, Any]:
    """The target's section, for a drafter of which only the head is quantized."""
    method = _method(theirs)
    if method == "gptq":
        rules = [rule for key, rule in _dynamic(theirs).items() if _begins(key, source) and isinstance(rule, dict)]
        rest: dict[str, Any] = {key: value for key, value in theirs.items() if key != "dynamic"}
        return {**rest, **next(iter(rules), {}), "lm_head": True, "modules_in_block_to_quantize": [[name]]}
    if method not in _LISTING and not method.startswith("modelopt"):
        raise _no_words(theirs, f"{name} alone as {head.format}")
    section = dict(theirs) | ({"lm_head": True} if method == "awq" else {})
    if head.scale_block is not None:
        section["weight_block_size"] = [1, head.scale_block[1]]
    for key in _LEFT_ALONE:
        section.pop(key, None)
    return _leaving_alone(section, body) if method else section


def _leaving_alone(section: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The section with modules among those that are not quantized, where it speaks of them at all."""
    told, method = dict(section), _method(section)
    if method == "gptq":
        return told | ({"lm_head": False} if told.get("lm_head") else {})
    kept = next((key for key in _LEFT_ALONE if isinstance(told.get(key), list)), None)
    fitting = {_COMPRESSED: "ignore", "bitsandbytes": "llm_int8_skip_modules"}
    key = kept or fitting.get(method, "ignore" if method.startswith("modelopt") else "modules_to_not_convert")
    if kept is None and len(modules) == 1 and says_quantized({"quantization_config": told}, modules[0]) is not True:
        return told  # engines leave heads alone without being told
    listed = list(told.get(key) or [])
    new = [module for module in modules if not any(_matches(pattern, module) for pattern in listed)]
    return told | {key: [*listed, *new]}


def _group_of(section: Mapping[str, Any], module: str) -> dict[str, Any] | None:
    """The group of compressed-tensors that a head belongs to: by name or pattern, else as a Linear."""
    if any(_matches(pattern, module) for pattern in _list(section, "ignore")):
        return None
    groups = _groups(section).values()
    by_name = [group for group in groups if any(_matches(target, module) for target in group["targets"])]
    return next(iter([*by_name, *(group for group in groups if "Linear" in group["targets"])]), None)


def _groups(section: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each with its targets; a list of targets alone belongs to a scheme that compressed-tensors knows by its key."""
    groups = section.get("config_groups")
    found = groups.items() if isinstance(groups, dict) else ()
    full = [(key, {"targets": group} if isinstance(group, list) else group) for key, group in found]
    return {key: {**group, "targets": _list(group, "targets")} for key, group in full if isinstance(group, dict)}


def _list(section: Mapping[str, Any], key: str) -> list[Any]:
    return section[key] if isinstance(section.get(key), list) else []


def _listed(section: Mapping[str, Any], module: str) -> bool:
    """Whether a list of modules to leave alone names the module: whole, a part of it, or by a wildcard."""
    patterns = [str(pattern) for key in _LEFT_ALONE for pattern in _list(section, key)]
    dropped = [key for key in _dynamic(section, drops=True) if _begins(key, module)]
    return bool(dropped) or any(pattern in module or fnmatch(module, pattern) for pattern in patterns)


def _dynamic(section: Mapping[str, Any], *, drops: bool = False) -> dict[str, Any]:
    """GPTQModel's rules by pattern: those that change a module's format, or those that leave it alone ("-:")."""
    rules = section.get("dynamic")
    found = rules.items() if isinstance(rules, dict) else ()
    return {key.removeprefix("-:").removeprefix("+:"): rule for key, rule in found if key.startswith("-:") == drops}


def _matches(pattern: object, module: str) -> bool:
    """compressed-tensors' way: "re:" and a pattern for the beginning of the name, or the name itself."""
    text = str(pattern)
    return _begins(text.removeprefix("re:"), module) if text.startswith("re:") else text == module


def _begins(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:  # a stranger's: no engine would match it either
        return False


def _sparing(pattern: object, module: str) -> object:
    """The pattern, no longer matching the module."""
    if not _matches(pattern, module):
        return pattern
    return f"re:(?!{re.escape(module)}$)(?:{str(pattern).removeprefix('re:')})"


def _method(section: Mapping[str, Any]) -> str:
    method = str(section.get("quant_method", "")).lower().replace("_", "-")
    return method.removeprefix("auto-") if method in {"auto-gptq", "auto-awq"} else method  # vLLM's names for them


def _with_section(config: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its section replaced where it stands, or with one at the top."""
    key = next((key for key in _SECTIONS if isinstance(config.get(key), dict)), None)
    inside = next((name for name in NESTED if isinstance(config.get(name), dict) and section_of(config[name])), None)
    if key is None and inside is not None:
        return dict(config) | {inside: _with_section(config[inside], section)}
    return dict(config) | {key or ("quantization_config" if _method(section) else "quantization"): dict(section)}


def _no_words(section: Mapping[str, Any], what: str) -> UnsupportedError:
    return UnsupportedError(
        f"the drafter's quantization_config ({_method(section) or 'of no known method'}) has no words for {what}",
        remedy="use a target with an unquantized head, or one quantized in the drafter's own way",
    )
