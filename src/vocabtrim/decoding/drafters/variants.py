"""What a feature drafter's config.json says of its computation: the variants that are computed, and the refused ones.

A key that changes the computation and is not computed here is an error: ignored, it would only show as bad acceptance.
Keys and defaults: vllm-project/vllm, model_executor/models/llama_eagle.py and llama_eagle3.py, and
transformers_utils/configs/speculators/algos.py; sgl-project/sglang, srt/models/llama_eagle3.py; NVIDIA/Model-Optimizer,
torch/speculative/eagle/default_config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...checkpoint.read import Checkpoint
from ...errors import MismatchError, UnsupportedError

# What an entry must say where it is there. Model-Optimizer keeps such entries in `eagle_config`.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "logit_scale": (1,),
    "is_causal": (True,),
    "partial_rotary_factor": (1,),
    "parallel_draft_step": (1,),
    "parallel_drafting": (False,),
    "use_mtp_layernorm": (False,),
    "add_para_norm": (False,),  # HASS: norms of embedding and feature before fc
    "speculators_model_type": ("eagle", "eagle3"),
}
_PLAIN_EAGLE3: dict[str, tuple[Any, ...]] = {
    "use_aux_hidden_state": (True,),
    "use_input_layernorm_in_first_layer": (True,),
    "target_layer_ids": (),  # the same as `eagle_aux_hidden_state_layer_ids`, but every publisher counts otherwise
}
# How positions may be turned: what Llama's rotary embedding of transformers knows.
_ROPE = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
STATES = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True)
class Eagle3Norms:
    """Where EAGLE-3 drafters differ in their norms; the defaults are SafeAILab's.

    before_residual: the residual branch carries the normed feature. before_fc: the target's states are normed together.
    each_state: they are normed one by one. output: the next step reads what the head reads, as in EAGLE 3.1
    (arXiv 2605.09992), instead of what stands before the last norm.
    """

    before_residual: bool = False
    before_fc: bool = False
    each_state: bool = False
    output: bool = False


def refuse_variants(checkpoint: Checkpoint, *, eagle3: bool) -> None:
    """Raises UnsupportedError for the first entry that asks for what is not computed here."""
    for key, allowed in (_PLAIN | (_PLAIN_EAGLE3 if eagle3 else {})).items():
        said = entry(checkpoint, key)
        if said is not None and said not in allowed:
            _refuse(checkpoint, key, said, allowed)
    windowed = set(entry(checkpoint, "layer_types") or ()) - {"full_attention"}
    if windowed:
        _refuse(checkpoint, "layer_types", sorted(windowed), ("full_attention",))
    for key in ("rope_scaling", "rope_parameters"):
        rope = entry(checkpoint, key)
        kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else rope
        if kind is not None and kind not in _ROPE:
            _refuse(checkpoint, key, kind, _ROPE)


def eagle3_norms(checkpoint: Checkpoint) -> Eagle3Norms:
    """Raises UnsupportedError for a file of vllm-project/speculators that does not say what its residual carries:
    the library takes that for no, vLLM for yes."""
    key = "norm_before_residual"
    if entry(checkpoint, "speculators_model_type") is not None and entry(checkpoint, key) is None:
        _refuse(checkpoint, key, "nothing", (True, False))
    return Eagle3Norms(
        before_residual=bool(entry(checkpoint, key)),
        before_fc=bool(entry(checkpoint, "norm_before_fc")),
        each_state=bool(entry(checkpoint, "fc_norm")),
        output=bool(entry(checkpoint, "norm_output")),
    )


def eagle3_states(checkpoint: Checkpoint, family: str, layers: int) -> tuple[int, ...]:
    """Which hidden states EAGLE-3 reads of a target with that many layers: state i is the input of its layer i.

    Where the config names none: 2, the middle, and layers - 3 (SafeAILab/EAGLE, model/modeling_llama_kv.py). Named
    ones count inputs, as in vLLM and speculators; but where the first is 1 they count outputs, as in SpecForge. SGLang
    tells the two apart by just that, save for gpt-oss targets (docs/drafters.md). They stand side by side in ascending
    order, whatever the order of their names: engines gather them layer by layer.
    Raises UnsupportedError for targets too small and for the last layer's output, MismatchError for other targets'.
    """
    said = entry(checkpoint, STATES)
    if not said:
        if layers < 3:
            _refuse(checkpoint, STATES, f"no names, and a target of {layers} layers", ("with names",))
        return (2, layers // 2, layers - 3)
    whole = isinstance(said, list) and all(type(state) is int and state >= 0 for state in said)
    shift = 1 if whole and said[0] == 1 and family != "gpt_oss" else 0
    states = tuple(state + shift for state in sorted(set(said))) if whole else ()
    if states and max(states) == layers:  # transformers hands out the normed one in its place
        _refuse(checkpoint, STATES, said, ("states before the last layer's output",))
    if len(states) != len(said if whole else [0]) or max(states) > layers:
        raise MismatchError(
            f"{checkpoint.folder} reads hidden states that the target does not have",
            expected=f"different ones of 0 to {layers - 1}",
            found=said,
            remedy="use the target that the drafter was made for",
        )
    return states


def entry(checkpoint: Checkpoint, key: str) -> Any:
    """A config entry, at the top, in a nested language-model config, or in `eagle_config`; None where it is nowhere."""
    said = checkpoint.setting(key)
    about = checkpoint.config.get("eagle_config")
    return about.get(key) if said is None and isinstance(about, dict) else said


def _refuse(checkpoint: Checkpoint, key: str, found: Any, allowed: tuple[Any, ...]) -> None:
    raise UnsupportedError(
        f"{checkpoint.folder} is a variant of EAGLE that is not decoded with here",
        expected=f"{key} " + (" or ".join(map(str, allowed)) or "left out"),
        found=found,
        remedy="serve it with the engine that it was made for",
    )
