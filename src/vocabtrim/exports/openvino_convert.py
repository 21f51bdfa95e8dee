"""Run by the python of an environment that holds optimum-intel: a drafter's folder -> OpenVINO's intermediate form.

    openvino_convert.py independent|EAGLE-3 FOLDER OUT SETTINGS

independent: FOLDER is an export for transformers; the converted head has its k rows, and behind them the k logits are
scattered into a row as wide as the vocabulary. EAGLE-3: FOLDER is a drafter's under SafeAILab's names; optimum-intel
knows the class and puts `d2t` into the graph. SETTINGS: a JSON object, `fp16` and for EAGLE-3 `hidden_layers`.

Imports nothing of vocabtrim: that is not installed there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODEL, KEPT_LOGITS, LOGITS, KEPT_IDS = "openvino_model.xml", "kept_logits", "logits", "kept_ids"
LOWEST = -65504.0  # float16's: a graph in half precision would make infinity of less, and NaN of that


def main(kind: str, folder: Path, out: Path, settings: dict[str, Any]) -> None:
    if kind == "independent":
        model = converted_head_of_k_rows(folder, out)
    else:
        model = converted_eagle3(folder, out, settings["hidden_layers"])
    replace_model(model, out, fp16=settings["fp16"])
    convert_tokenizer(folder, out)
    print(json.dumps({"outputs": [sorted(output.get_names()) for output in model.outputs]}))


def converted_head_of_k_rows(folder: Path, out: Path) -> Any:
    """The drafter's own class under its trimmed head, without our widening, then the scatter as a part of the graph."""
    import openvino
    import torch
    from optimum.exporters.openvino.convert import export_from_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    head = model.get_output_embeddings()
    ids, vocab = head.kept_ids.clone().numpy(), head.vocab
    model.__class__ = type(model).__mro__[1]
    export_from_model(model, out, task="text-generation-with-past", stateful=True)
    graph = openvino.Core().read_model(out / MODEL)
    scatter(graph, ids, vocab)
    return graph


def scatter(graph: Any, ids: Any, vocab: int) -> None:
    """Make `logits` (batch, seq, vocab) of the graph's (batch, seq, kept), LOWEST at every other id.

    The narrow logits stay the first output: OpenVINO GenAI looks behind that for the head's MatMul, to compute logits
    of those tokens alone that it samples from (utils.cpp, find_llm_matmul). `logits` it finds by name.
    """
    import numpy as np
    from openvino import opset13 as op

    [result] = [output for output in graph.get_results() if LOGITS in output.output(0).get_names()]
    if graph.get_results()[0].get_friendly_name() != result.get_friendly_name():
        raise SystemExit("the converted graph does not put its logits first")
    kept = result.input_value(0)
    two = op.constant(np.array([0, 1], np.int64))
    lead = op.gather(op.shape_of(kept, "i64"), two, op.constant(np.int64(0)))
    canvas = op.broadcast(
        op.constant(np.float32(LOWEST)), op.concat([lead, op.constant(np.array([vocab], np.int64))], axis=0)
    )
    rows = op.constant(ids.astype(np.int64))
    rows.set_friendly_name(KEPT_IDS)
    wide = op.scatter_update(canvas, rows, kept, op.constant(np.int64(2)))
    result.output(0).set_names({KEPT_LOGITS})
    kept.set_names({KEPT_LOGITS})
    wide.output(0).set_names({LOGITS})
    graph.add_results([op.result(wide)])
    graph.validate_nodes_and_infer_types()


def converted_eagle3(folder: Path, out: Path, hidden_layers: list[int]) -> Any:
    """By optimum-intel's own class; the target's layers are told in the graph, where the engine reads them."""
    import openvino
    import torch
    from optimum.exporters.openvino.convert import export_from_model
    from optimum.exporters.openvino.model_patcher import LlamaEagle3ForCausalLM

    class Eagle3(LlamaEagle3ForCausalLM):  # type: ignore[misc]  # of a library without types
        """Of this module: optimum-intel takes its own classes for wrappers around a model."""

    model, told = Eagle3.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if odd := sorted({*told["missing_keys"], *told["unexpected_keys"]}):
        raise SystemExit(f"optimum-intel's class for EAGLE-3 has other tensors: {odd[0]}")
    export_from_model(model.eval(), out, task="text-generation-with-past", stateful=True)
    graph = openvino.Core().read_model(out / MODEL)
    graph.set_rt_info(hidden_layers, "hidden_layers_list")
    return graph


def replace_model(graph: Any, out: Path, *, fp16: bool) -> None:
    """Written under another name first: the graph's weights are read from the file that it replaces."""
    import openvino

    openvino.save_model(graph, out / "whole.xml", compress_to_fp16=fp16)
    for suffix in (".xml", ".bin"):
        (out / "whole.xml").with_suffix(suffix).replace((out / MODEL).with_suffix(suffix))


def convert_tokenizer(folder: Path, out: Path) -> None:
    """The engine compares what the tokenizers of target and drafter say, so the drafter must have one."""
    from optimum.exporters.openvino.convert import export_tokenizer
    from transformers import AutoTokenizer

    export_tokenizer(AutoTokenizer.from_pretrained(folder), out, task="text-generation-with-past")
    if not (out / "openvino_tokenizer.xml").exists():
        raise SystemExit("openvino_tokenizers converts no tokenizer of this kind")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
