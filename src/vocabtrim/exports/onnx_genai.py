"""ONNX Runtime GenAI: an independent drafter whose graph has a head of k columns and logits of full width.

Read and run: onnxruntime-genai 0.18.0 (models/builder.py; src/models/speculative_decoding.cpp, whose draft must have
logits as wide as the target's) and onnxruntime 1.32.0, in an environment of its own (`onnx_convert.py`).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from ..checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP
from ..checkpoint.write import PlannedTensor
from ..errors import CheckpointError
from ..vocabulary.kept import Ids
from .causal_lm_folder import CausalLM, causal_lm, write_causal_lm
from .engine import Engine, Serving
from .environment import Environment
from .onnx_file import int64_initializer
from .source import OfAKind, Source, refuse_kind

NAME = "ONNX Runtime GenAI"
TESTED = {"onnxruntime-genai": "0.18.0", "onnxruntime": "1.32.0"}
CONVERTER = Environment(
    "VOCABTRIM_ONNX_PYTHON",
    ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers"),
    "make an environment as docs/engines/onnx-genai.md says",
)
PLACES = "vocabtrim.places"

_NO_WORKER = "its generator drafts with a causal LM (model.draft) or with n-grams, and reads no hidden states"
_COMMAND = """\
# once: python -m onnxruntime_genai.models.builder -i {target} -o target-onnx -p fp32 -e cpu -c cache
import json, os
import onnxruntime_genai as og

told = json.load(open("{out}/draft.json"))
told["model"]["draft"]["filename"] = os.path.relpath("{out}/model.onnx", "target-onnx"){length}
config = og.Config("target-onnx")
config.overlay(json.dumps(told))
model = og.Model(config)
prompt = og.Tokenizer(model).encode("Why is the sky blue?")
params = og.GeneratorParams(model)
params.set_search_options(max_length=len(prompt) + 128, do_sample=False)
generator = og.Generator(model, params)
generator.append_tokens(prompt)
while not generator.is_done():
    generator.generate_next_token()
print(og.Tokenizer(model).decode(generator.get_sequence(0)), generator.get_speculative_stats())"""
_ACCEPTANCE = (
    "generator.get_speculative_stats(): draft_tokens_proposed, draft_tokens_accepted, rounds, target_forward_passes"
)


def _command(source: Source) -> str:
    length = source.chain_length(0)
    return _COMMAND.replace("{length}", f'\ntold["speculative"]["max_draft_tokens"] = {length}' if length else "")


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that the engine cannot draft with."""
    why = {EAGLE: _NO_WORKER, EAGLE3: _NO_WORKER, MEDUSA: _NO_WORKER, MTP: "its MTP path takes the target's whole head"}
    remedy = "export an independent drafter, or for another engine"
    refuse_kind(drafter, (INDEPENDENT,), NAME, why.get(drafter.kind, _NO_WORKER), remedy)


def write(source: Source, folder: Path) -> Serving:
    """Convert a drafter; what the target's config needs of it stands in draft.json."""
    refuse(source)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        given = Path(scratch, "drafter")
        given.mkdir()
        model = causal_lm(source)
        write_causal_lm(model, given, _full_head(model))
        kept = Path(scratch, "kept.json")
        kept.write_text(json.dumps(source.kept.ids.tolist()), encoding="utf-8")
        script = Path(__file__).with_name("onnx_convert.py")
        CONVERTER.run(script, given, folder, kept, what=f"converting {source.folder} to ONNX")
    return Serving(_command(source), _ACCEPTANCE, (*_LIMITS, *CONVERTER.newer(TESTED)), python=True)


_LIMITS = (
    "target and drafter must run on the same execution provider, and this drafter is for the CPU in float32",
    "one sequence at a time, no beams, and no_repeat_ngram_size 0",
)


def _full_head(model: CausalLM) -> list[PlannedTensor]:
    """As wide as the vocabulary, since the engine's builder finds a head by that; rows of other ids hold the first
    kept one's, and are cut again."""
    rows = np.full(model.vocab, model.source.rows[0])
    rows[model.source.kept.ids] = model.source.rows
    return [
        PlannedTensor.take(tensor, rows, f"{model.head_name}.{name}") for name, tensor in model.head.tensors.items()
    ]


def read_ids(folder: Path) -> Ids:
    """Out of the graph: the ids whose place in the padded row is one of the k."""
    try:
        places = int64_initializer(folder / "model.onnx", PLACES)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / 'model.onnx'} holds no kept ids", found=error, remedy="export again with `vocabtrim export`"
        ) from error
    ids = np.flatnonzero(places < places.max())
    return np.asarray(ids[np.argsort(places[ids])], np.int64)


ENGINE = Engine("onnx-genai", TESTED, write, read_ids, refuse)
