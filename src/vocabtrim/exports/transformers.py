"""transformers: an independent drafter as an assistant that `generate(assistant_model=...)` runs unchanged.

The library compares vocabulary sizes and reads logits as wide as the vocabulary, so the folder carries a small model
class (assistant_code.py) that writes its kept logits into a row of -inf. Read and run: transformers 5.23.0,
generation/candidate_generator.py and generation/utils.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP
from ..checkpoint.read import open_checkpoint
from ..checkpoint.trim import cut
from ..checkpoint.write import PlannedTensor
from ..vocabulary.kept import Ids
from .causal_lm_folder import causal_lm, write_causal_lm
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind

NAME = "transformers"
CODE_FILE = "modeling_trimmed.py"

_NO_GENERATOR = "none of its candidate generators runs such layers"
_REASONS = {
    EAGLE: _NO_GENERATOR,
    EAGLE3: _NO_GENERATOR,
    MEDUSA: _NO_GENERATOR,
    MTP: "generate(use_mtp=True) reads the module from the target's checkpoint and drafts with the target's whole head",
}

_COMMAND = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

target = AutoModelForCausalLM.from_pretrained("{target}")
assistant = AutoModelForCausalLM.from_pretrained("{out}", trust_remote_code=True){length}
tokenizer = AutoTokenizer.from_pretrained("{target}")
inputs = tokenizer("Why is the sky blue?", return_tensors="pt")
print(tokenizer.decode(target.generate(**inputs, assistant_model=assistant, max_new_tokens=128)[0]))"""

_ACCEPTANCE = (
    "generate() counts nothing. Count the target's passes with a forward hook: tokens emitted per pass are the block "
    "efficiency (docs/engines/transformers.md)"
)


def _command(source: Source) -> str:
    """The library adapts the draft length as it goes; a tuned one stays."""
    length = source.chain_length(0)
    told = f"num_assistant_tokens={length}, num_assistant_tokens_schedule='constant'"
    line = f"\nassistant.generation_config.update({told}, assistant_confidence_threshold=0.0)" if length else ""
    return _COMMAND.replace("{length}", line)


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that the library cannot run as assistants."""
    why = _REASONS.get(drafter.kind, _NO_GENERATOR)
    remedy = "export an independent drafter, or serve this one with an engine for its kind"
    refuse_kind(drafter, {INDEPENDENT}, NAME, why, remedy)


def write(source: Source, folder: Path) -> Serving:
    """Config, weights, model code and tokenizer of an assistant."""
    refuse(source)
    write_assistant(source, folder)
    return Serving(_command(source), _ACCEPTANCE, (_CODE_WARNING, *_LIMITS), python=True)


def write_assistant(source: Source, folder: Path) -> None:
    """What AutoModelForCausalLM loads. Raises UnsupportedError for a model that it could not load so."""
    model = causal_lm(source)
    ids = source.kept.ids.astype("<i8")
    head = cut(model.head, source.rows)
    head.append(PlannedTensor(f"{model.head_name}.kept_ids", "I64", ids.shape, data=ids.tobytes()))
    config = model.config | {
        "architectures": ["TrimmedForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": f"{CODE_FILE.removesuffix('.py')}.TrimmedForCausalLM"},
        "draft_vocab_size": source.kept.size,
        "draft_head_bias": "bias" in model.head.tensors,
    }
    write_causal_lm(model, folder, head, config)
    code = Path(__file__).with_name("assistant_code.py").read_text(encoding="utf-8")
    (folder / CODE_FILE).write_text(code.replace("LlamaForCausalLM", model.model_class), encoding="utf-8")


_CODE_WARNING = f"{{out}}/{CODE_FILE} is run when the folder is loaded: trust_remote_code is for folders you wrote"
_LIMITS = (
    "generate() drafts for one sequence at a time, and not with continuous batching",
    "a logits processor of your own that allows no kept id leaves the assistant nothing to sample from, and generate() "
    "raises; decode greedily there, or without the assistant",
)


def read_ids(folder: Path) -> Ids:
    """(kept,) the buffer that the model class scatters by, as the library loads it."""
    checkpoint = open_checkpoint(folder)
    buffers = [tensor for name, tensor in checkpoint.tensors.items() if name.endswith(".kept_ids")]
    return np.asarray(buffers[0].array(), np.int64) if len(buffers) == 1 else np.zeros(0, np.int64)


ENGINE = Engine(NAME, {"transformers": "5.23.0"}, write, read_ids, refuse)
