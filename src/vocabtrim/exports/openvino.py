"""OpenVINO GenAI: independent drafters with the scatter in their graph, EAGLE-3 with `d2t` in it.

Read and run: OpenVINO GenAI 2026.4.1 (speculative_decoding/eagle3_model_transforms.cpp and utils.cpp) and optimum-intel
2.2.0 (exporters/openvino/model_patcher.py), which converts in an environment of its own (`openvino_convert.py`).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP, embedding_of
from ..checkpoint.read import Checkpoint
from ..checkpoint.stored import StoredTensor
from ..checkpoint.write import PlannedTensor
from ..decoding.drafters.variants import eagle3_norms, eagle3_states, refuse_variants
from ..errors import CheckpointError, InputError, UnsupportedError
from ..vocabulary.kept import Ids
from .drafter_folder import blocks_as, eagle3_tensors, flat_config, refuse_unread, write_folder
from .engine import Engine, Serving
from .environment import Environment
from .source import OfAKind, Source, refuse_kind, refuse_quantized
from .transformers import write_assistant

NAME = "OpenVINO GenAI"
TESTED = {"openvino-genai": "2026.4.1.0", "openvino": "2026.4.1", "optimum-intel": "2.2.0"}
CONVERTER = Environment(
    "VOCABTRIM_OPENVINO_PYTHON",
    ("openvino-genai", "openvino", "openvino-tokenizers", "optimum-intel", "transformers"),
    "make an environment as docs/engines/openvino.md says",
)

_READ_EAGLE3 = (
    r"midlayer\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|hidden_norm|post_attention_layernorm)"
    r"\.weight|(fc|norm|embed_tokens|lm_head)\.weight"
)
_NO_WORKER = "it runs independent, EAGLE-3 and DFlash drafters, and MTP modules under the target's own head"
_COMMAND = """\
# once: optimum-cli export openvino --model {target} --task text-generation-with-past target-openvino
import openvino_genai

draft = openvino_genai.draft_model("{out}", "CPU")
pipe = openvino_genai.LLMPipeline("target-openvino", "CPU", draft_model=draft)
config = pipe.get_generation_config()
config.max_new_tokens, config.num_assistant_tokens = 128, {length}
print(pipe.generate("Why is the sky blue?", config))"""
_ACCEPTANCE = (
    "pipe.generate([prompt], config).extended_perf_metrics: get_num_draft_tokens(), get_num_accepted_tokens(), "
    "get_draft_acceptance_rate()"
)
_EXACT = (
    "the engine computes in bfloat16 where the processor can and keeps keys and values in 8 bits: for output equal to "
    "plain decoding token for token pass INFERENCE_PRECISION_HINT='f32' and KV_CACHE_PRECISION='f32' to both models"
)


def _command(source: Source) -> str:
    return _COMMAND.replace("{length}", str(source.chain_length(4)))


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that the engine cannot draft with trimmed."""
    why = {EAGLE: _NO_WORKER, MEDUSA: _NO_WORKER, MTP: "its MTP path drafts with the target's whole head"}
    remedy = "export an independent or EAGLE-3 drafter, or for another engine"
    refuse_kind(drafter, (INDEPENDENT, EAGLE3), NAME, why.get(drafter.kind, _NO_WORKER), remedy)


def write(source: Source, folder: Path) -> Serving:
    """Convert a drafter of either kind, its tokenizer beside it."""
    refuse(source)
    refuse_quantized(source, NAME, "is given plain heads alone")
    if not (source.folder / "tokenizer.json").is_file():
        raise InputError(
            f"{source.folder} holds no tokenizer, and {NAME} compares the drafter's with the target's",
            expected="tokenizer.json",
            found="none",
            remedy="trim with --target, which copies the target's, or put it there",
        )
    return {INDEPENDENT: _write_independent, EAGLE3: _write_eagle3}[source.kind](source, folder)


def _write_independent(source: Source, folder: Path) -> Serving:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        write_assistant(source, Path(scratch))
        _convert(source, Path(scratch), folder, {})
    return Serving(_command(source), _ACCEPTANCE, (_EXACT, *CONVERTER.newer(TESTED)), python=True)


def _write_eagle3(source: Source, folder: Path) -> Serving:
    target = _target_of(source)
    layers = _hidden_layers(source.drafter.checkpoint, target)
    tensors = eagle3_tensors(source, blocks_as("midlayer."))
    refuse_unread(tensors, _READ_EAGLE3, NAME, "optimum-intel, exporters/openvino/model_patcher.py")
    embedding, warnings = _embedding(source, target)
    tensors = [tensor for tensor in tensors if tensor.name != "embed_tokens.weight"]
    tensors.append(PlannedTensor.copy(embedding, "embed_tokens.weight"))
    config = flat_config(source) | {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
    config |= {"attention_bias": False, "mlp_bias": False, "vocab_size": embedding.rows}
    config |= {"target_hidden_size": target.setting("hidden_size"), "num_hidden_layers": 1}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        write_folder(Path(scratch), source, tensors, config)
        _convert(source, Path(scratch), folder, {"hidden_layers": layers})
    return Serving(_command(source), _ACCEPTANCE, (_EXACT, *warnings, *CONVERTER.newer(TESTED)), python=True)


def _convert(source: Source, given: Path, folder: Path, settings: dict[str, Any]) -> None:
    """Weights of half precision stay so in the graph: float16, which holds all but the smallest bfloat16."""
    script = Path(__file__).with_name("openvino_convert.py")
    told = json.dumps(settings | {"fp16": source.drafter.heads[0].main.dtype != "F32"})
    CONVERTER.run(script, source.kind, given, folder, told, what=f"converting {source.folder} to OpenVINO")


def _target_of(source: Source) -> Checkpoint:
    if source.target is None:
        raise InputError(
            f"{NAME} must be told which of the target's layers an EAGLE-3 drafter reads, and takes its embedding",
            expected="the target",
            found="none",
            remedy="pass it with --target",
        )
    hidden = [owner.setting("hidden_size") for owner in (source.drafter.checkpoint, source.target)]
    if hidden[0] != hidden[1]:
        raise UnsupportedError(
            f"{NAME} puts the target's embedding in the place of the drafter's (eagle3_model_transforms.cpp)",
            expected=f"the target's hidden size {hidden[1]}",
            found=hidden[0],
            remedy="serve the drafter with vLLM or SGLang",
        )
    return source.target


def _hidden_layers(drafter: Checkpoint, target: Checkpoint) -> list[int]:
    """The target's layers whose outputs are read, as the engine counts: state i is what layer i - 1 puts out."""
    refuse_variants(drafter, eagle3=True)
    norms = eagle3_norms(drafter)
    if norms.before_residual or norms.before_fc or norms.each_state or norms.output:
        raise UnsupportedError(
            f"optimum-intel converts EAGLE-3 as SafeAILab made it, and {drafter.folder} norms otherwise",
            expected="no norm_before_residual, norm_before_fc, fc_norm or norm_output",
            found=norms,
            remedy="serve the drafter with vLLM or SGLang",
        )
    states = eagle3_states(drafter, str(target.setting("model_type", "")), int(target.setting("num_hidden_layers", 0)))
    if len(states) != 3 or min(states) < 1:
        raise UnsupportedError(
            f"{NAME} reads the outputs of three layers of the target",
            expected="three states behind a layer each",
            found=f"states {list(states)}",
            remedy="serve the drafter with vLLM",
        )
    return [state - 1 for state in states]


def _embedding(source: Source, target: Checkpoint) -> tuple[StoredTensor, tuple[str, ...]]:
    """The target's, which the engine takes in any case, and a warning where the drafter has another."""
    prefix = embedding_of(target)
    if prefix is None:
        raise CheckpointError(
            f"{target.folder} has no input embedding", remedy="pass the target that the drafter was made for"
        )
    theirs = target.tensor(f"{prefix}.weight")
    own = [source.drafter.checkpoint.tensor(f"{name}.weight") for name in source.drafter.embeddings]
    if own and not _same(own[0], theirs):
        told = f"{NAME} drafts with the target's embedding: the drafter's own is another and is left out"
        return theirs, (told,)
    return theirs, ()


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pairs = zip(one.blocks(), other.blocks(), strict=True)
    return all(bytes(mine) == bytes(theirs) for mine, theirs in pairs)


def read_ids(folder: Path) -> Ids:
    """Out of the graph: the ids that the scatter writes to, or the offsets that the engine takes for `d2t`."""
    model = folder / "openvino_model.xml"
    try:
        graph = ElementTree.parse(model).getroot()
        layers = {layer.get("id"): layer for layer in graph.iter("layer")}
        edges = [(edge.get("from-layer"), edge.get("to-layer"), edge.get("to-port")) for edge in graph.iter("edge")]
        scattered = [_constant(layers[start], model) for start, end, port in edges if _is_scatter(layers[end], port)]
        results = [layers[start] for start, end, _ in edges if layers[end].get("type") == "Result"]
        offsets = [_constant(layer, model) for layer in results if "d2t" in str(layer.get("name"))]
        [ids] = scattered or [table + np.arange(table.size) for table in offsets]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ElementTree.ParseError) as error:
        raise CheckpointError(
            f"{model} holds no kept ids", found=error, remedy="export again with `vocabtrim export`"
        ) from error
    return np.asarray(ids, np.int64)


def _is_scatter(layer: ElementTree.Element, port: str | None) -> bool:
    """Whether the edge leads into the indices of the scatter that makes `logits`."""
    names = [str(output.get("names")) for output in layer.iter("port")]
    return layer.get("type") == "ScatterUpdate" and port == "1" and "logits" in names


def _constant(layer: ElementTree.Element, model: Path) -> Ids:
    """A constant of int64 out of the file beside the graph."""
    [about] = layer.iter("data")
    if about.get("element_type") != "i64":
        raise ValueError(f"{layer.get('name')} of {about.get('element_type')}")
    offset, size = int(str(about.get("offset"))), int(str(about.get("size")))
    with model.with_suffix(".bin").open("rb") as file:
        file.seek(offset)
        held = file.read(size)
    if len(held) != size:
        raise ValueError(f"{layer.get('name')} is cut short")
    return np.frombuffer(held, "<i8").astype(np.int64)


ENGINE = Engine("openvino", TESTED, write, read_ids, refuse)
