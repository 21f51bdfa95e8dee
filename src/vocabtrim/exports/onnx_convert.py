"""Run by the python of an environment that holds onnxruntime-genai: a drafter's folder -> an ONNX model for drafting.

    onnx_convert.py FOLDER OUT KEPT

FOLDER: a causal LM as transformers loads it, its head as wide as the vocabulary; the rows of ids that are not kept may
hold anything. KEPT: a JSON file with the kept ids, ascending. The engine's own builder writes the graph; then the
head's columns are gathered, and the k logits behind them are laid into a row of full width.

Imports nothing of vocabtrim: that is not installed there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODEL, CONFIG, OVERLAY = "model.onnx", "genai_config.json", "draft.json"
LOGITS, KEPT_LOGITS, PLACES, FILL = "logits", "kept_logits", "vocabtrim.places", "vocabtrim.fill"
LOWEST = -65504.0  # float16's
BEHIND_THE_HEAD = {"Add", "Mul", "Div", "Tanh", "Cast"}  # bias, scale, soft cap, and the type of the output


def main(folder: Path, out: Path, kept: Path) -> None:
    ids = json.loads(kept.read_text())
    build(folder, out)
    cut(out / MODEL, ids)
    write_overlay(out)
    print(json.dumps({"kept": len(ids)}))


def build(folder: Path, out: Path) -> None:
    """In float32 for the CPU, with logits of the last token alone: nothing else of a drafter's is read."""
    with tempfile.TemporaryDirectory() as cache:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
        builder += ["-i", str(folder), "-o", str(out), "-c", cache, "--extra_options", "prune_lm_head=true"]
        done = subprocess.run(builder, capture_output=True, text=True, check=False)
    if done.returncode or not (out / MODEL).is_file():
        raise SystemExit((done.stderr.strip() or done.stdout.strip() or "the builder wrote no model").splitlines()[-1])


def cut(path: Path, ids: list[int]) -> None:
    """Rewrite the model with a head of k columns."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    chain = behind_the_head(model.graph)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    vocab = model_vocab(model.graph)
    for node in chain:
        for name in node.input:
            if name in initializers and vocab in initializers[name].dims:
                take_columns(initializers[name], ids, vocab)
    inner = {name for node in chain for name in node.output}
    for info in [info for info in model.graph.value_info if info.name in inner]:
        model.graph.value_info.remove(info)  # they tell the full width
    widen(model.graph, chain[-1], ids, vocab)
    for old in (path, path.with_name(f"{path.name}.data")):
        old.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # proves the graph, custom nodes too


def behind_the_head(graph: Any) -> list[Any]:
    """The nodes from the head's MatMul to the logits, in that order."""
    makers = {name: node for node in graph.node for name in node.output}
    chain = [makers[LOGITS]]
    while chain[0].op_type != "MatMul":
        before = next((makers[name] for name in chain[0].input if name in makers), None)
        if chain[0].op_type not in BEHIND_THE_HEAD or before is None:
            raise SystemExit(f"a {chain[0].op_type} stands between the head and its logits, which is not understood")
        chain.insert(0, before)
    return chain


def model_vocab(graph: Any) -> int:
    [logits] = [output for output in graph.output if output.name == LOGITS]
    return int(logits.type.tensor_type.shape.dim[-1].dim_value)


def take_columns(tensor: Any, ids: list[int], vocab: int) -> None:
    """Of the last axis that is as wide as the vocabulary."""
    import onnx
    from onnx import numpy_helper

    axis = len(tensor.dims) - 1 - list(reversed(tensor.dims)).index(vocab)
    whole = numpy_helper.to_array(tensor)
    cut = numpy_helper.from_array(whole.take(ids, axis=axis), tensor.name)
    onnx.TensorProto.CopyFrom(tensor, cut)


def widen(graph: Any, last: Any, ids: list[int], vocab: int) -> None:
    """`logits` of `kept_logits`: one LOWEST behind the k, then for every id its place among them or that one."""
    import numpy as np
    from onnx import helper, numpy_helper

    [output] = [output for output in graph.output if output.name == LOGITS]
    dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    last.output[0] = KEPT_LOGITS
    places = np.full(vocab, len(ids), np.int64)
    places[ids] = np.arange(len(ids))
    rank = len(output.type.tensor_type.shape.dim)
    graph.initializer.extend(
        [
            numpy_helper.from_array(places, PLACES),
            numpy_helper.from_array(np.array(LOWEST, dtype), FILL),
            numpy_helper.from_array(np.array([0] * (2 * rank - 1) + [1], np.int64), "vocabtrim.pads"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Pad", [KEPT_LOGITS, "vocabtrim.pads", FILL], ["vocabtrim.padded"], name="vocabtrim.Pad"),
            helper.make_node("Gather", ["vocabtrim.padded", PLACES], [LOGITS], name="vocabtrim.Gather", axis=rank - 1),
        ]
    )


def write_overlay(out: Path) -> None:
    """What the target's config needs more: the drafter's decoder section; where its file is, the server says."""
    decoder = json.loads((out / CONFIG).read_text())["model"]["decoder"]
    told = {"model": {"draft": decoder}, "speculative": {"max_draft_tokens": 4}}
    (out / OVERLAY).write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
