"""The head of a draft step alone, as the two exports leave it in a graph: full, k rows, k rows laid into full width.

Physics: one token reads 263 MB in float32 of a head of 128,256 rows of 512, 33 MB of 16,000; the row of full width that
follows is 0.5 MB. Sides take turns; medians. Run by the python of either environment, whichever engine it holds:

    E/bin/python bench/graph_heads.py openvino|onnx-genai [--turns 30]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from machine import floor_line

VOCAB, KEPT, HIDDEN, LOWEST = 128_256, 16_000, 512, -65504.0
SIDES = ("full", "kept", "widened")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("openvino", "onnx-genai"))
    parser.add_argument("--turns", type=int, default=30)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    ids = np.sort(random.choice(VOCAB, KEPT, replace=False)).astype(np.int64)
    weight = random.standard_normal((VOCAB, HIDDEN), dtype=np.float32)
    hidden = random.standard_normal((1, 1, HIDDEN), dtype=np.float32)
    make = openvino_heads if arguments.engine == "openvino" else onnx_heads
    runs = make(weight, ids)
    outputs = {side: run(hidden) for side, run in runs.items()}
    expected = np.full(VOCAB, LOWEST, np.float32)
    expected[ids] = outputs["full"].reshape(-1)[ids]
    np.testing.assert_allclose(outputs["widened"].reshape(-1), expected, atol=1e-3)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.turns):
        for side in SIDES:
            start = time.perf_counter()
            runs[side](hidden)
            seconds[side].append(time.perf_counter() - start)
    medians = {side: round(1000 * statistics.median(times), 2) for side, times in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["full"], seconds["widened"], strict=True))
    package = "openvino" if arguments.engine == "openvino" else "onnxruntime"
    about = {"bench": "graph_heads", "engine": arguments.engine, "version": metadata.version(package)}
    about |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "turns": arguments.turns, "seed": 0}
    about["floors"] = floors(medians)
    print(json.dumps(about | {"ms": medians, "full_over_widened": round(ratio, 2)}))


def floors(medians: dict[str, float]) -> dict[str, Any]:
    """milliseconds by side -> each beside the least time for the head's rows."""
    found = {}
    for side, milliseconds in medians.items():
        rows = VOCAB if side == "full" else KEPT
        line, found[side] = floor_line(side, 4 * HIDDEN * rows, milliseconds / 1e3, f"{rows:,} rows of the head")
        print(line)
    return found


def openvino_heads(weight: np.ndarray, ids: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The scatter as openvino_convert.py makes it."""
    import openvino
    from openvino import opset13 as op

    def graph(side: str) -> openvino.Model:
        hidden = op.parameter([-1, -1, HIDDEN], openvino.Type.f32)
        logits = op.matmul(hidden, op.constant(weight if side == "full" else weight[ids]), False, True)
        if side == "widened":
            lead = op.gather(op.shape_of(logits, "i64"), op.constant(np.array([0, 1])), op.constant(np.int64(0)))
            shape = op.concat([lead, op.constant(np.array([VOCAB]))], axis=0)
            canvas = op.broadcast(op.constant(np.float32(LOWEST)), shape)
            logits = op.scatter_update(canvas, op.constant(ids), logits, op.constant(np.int64(2)))
        return openvino.Model([op.result(logits)], [hidden], side)

    def run(side: str) -> Callable[[np.ndarray], np.ndarray]:
        how = {"INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(graph(side), "CPU", how).create_infer_request()
        return lambda hidden: request.infer([hidden])[0]

    return {side: run(side) for side in SIDES}


def onnx_heads(weight: np.ndarray, ids: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Pad and Gather as onnx_convert.py makes them."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def graph(side: str) -> bytes:
        rows = weight if side == "full" else weight[ids]
        held = [numpy_helper.from_array(np.ascontiguousarray(rows.T), "weight")]
        nodes = [helper.make_node("MatMul", ["hidden", "weight"], ["widened" if side != "widened" else "kept"])]
        if side == "widened":
            places = np.full(VOCAB, KEPT)
            places[ids] = np.arange(KEPT)
            held += [numpy_helper.from_array(places, "places"), numpy_helper.from_array(np.float32(LOWEST), "fill")]
            held.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1]), "pads"))
            nodes.append(helper.make_node("Pad", ["kept", "pads", "fill"], ["padded"]))
            nodes.append(helper.make_node("Gather", ["padded", "places"], ["widened"], axis=2))
        given = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1, 1, HIDDEN])
        made = helper.make_tensor_value_info("widened", TensorProto.FLOAT, None)
        whole = helper.make_graph(nodes, side, [given], [made], held)
        return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()

    def run(side: str) -> Callable[[np.ndarray], np.ndarray]:
        session = onnxruntime.InferenceSession(graph(side), providers=["CPUExecutionProvider"])
        return lambda hidden: session.run(None, {"hidden": hidden})[0]

    return {side: run(side) for side in SIDES}


if __name__ == "__main__":
    main()
