"""transformers: an independent drafter as an assistant that `generate(assistant_model=...)` runs unchanged.

The library compares vocabulary sizes and reads logits as wide as the vocabulary, so the folder carries a small model
class (assistant_code.py) that writes its kept logits into a row of -inf. Read and run: transformers 5.23.0,
generation/candidate_generator.py and generation/utils.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP
from ..checkpoint.read import NESTED, open_checkpoint
from ..checkpoint.stored import StoredTensor
from ..checkpoint.trim import TOKENIZER_FILES, cut_head
from ..checkpoint.write import PlannedFile, PlannedTensor, prove_files, write_files
from ..decoding.causal_lm import open_config
from ..errors import UnsupportedError
from ..vocabulary.kept import Ids
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind

NAME = "transformers"
CODE_FILE = "modeling_trimmed.py"
DERIVED = ("rotary_emb.inv_freq",)  # in old files; the library makes it anew

_NO_GENERATOR = "none of its candidate generators runs such layers"
_REASONS = {
    EAGLE: _NO_GENERATOR,
    EAGLE3: _NO_GENERATOR,
    MEDUSA: _NO_GENERATOR,
    MTP: "generate(use_mtp=True) reads the module from the target's checkpoint and drafts with the target's whole head",
}

_COMMAND = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

target = AutoModelForCausalLM.from_pretrained("{target}")
assistant = AutoModelForCausalLM.from_pretrained("{out}", trust_remote_code=True)
inputs = AutoTokenizer.from_pretrained("{target}")("Why is the sky blue?", return_tensors="pt")
target.generate(**inputs, assistant_model=assistant, max_new_tokens=128)"""

_ACCEPTANCE = (
    "generate() counts nothing. Count the target's passes with a forward hook: tokens emitted per pass are the block "
    "efficiency (docs/engines/transformers.md)"
)


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that the library cannot run as assistants."""
    why = _REASONS.get(drafter.kind, _NO_GENERATOR)
    remedy = "export an independent drafter, or serve this one with an engine for its kind"
    refuse_kind(drafter, {INDEPENDENT}, NAME, why, remedy)


def write(source: Source, folder: Path) -> Serving:
    """Config, weights, model code and tokenizer of an assistant."""
    refuse(source)
    write_assistant(source, folder)
    return Serving(_COMMAND, _ACCEPTANCE, (_CODE_WARNING, *_LIMITS))


def write_assistant(source: Source, folder: Path) -> None:
    """What AutoModelForCausalLM loads. Raises UnsupportedError for a model that it could not load so."""
    base = _model_class(source)
    vocab = target_vocab(source)
    files = _files(source, vocab, _head_name(source, base))
    write_files(folder, files)
    prove_files(folder, files)
    (folder / "config.json").write_text(json.dumps(_config(source, vocab), indent=2) + "\n", encoding="utf-8")
    code = Path(__file__).with_name("assistant_code.py").read_text(encoding="utf-8")
    (folder / CODE_FILE).write_text(code.replace("LlamaForCausalLM", base), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


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


def target_vocab(source: Source) -> int:
    """`vocab_size` of the target's config, which the library compares; the drafter's where no target is known."""
    said = None if source.target is None else source.target.setting("vocab_size")
    return source.width if said is None else int(said)


def _model_class(source: Source) -> str:
    """The library's class for the drafter. Raises UnsupportedError where it has none, or not for these weights."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = source.drafter.checkpoint.config
    if config.get("auto_map"):
        raise UnsupportedError(
            f"{source.folder} brings model code of its own",
            expected="a model class of transformers",
            found=", ".join(map(str, config["auto_map"])),
            remedy="serve it untrimmed, or decode with `vocabtrim generate`",
        )
    if extra := quantized(source):
        raise UnsupportedError(
            f"{source.folder} is quantized: transformers' quantizers choose the layers that they replace by name",
            expected="weight and bias alone",
            found=extra,
            remedy="export the unquantized drafter",
        )
    if nested := next((name for name in NESTED if isinstance(config.get(name), dict)), None):
        raise UnsupportedError(
            f"{source.folder} is a language model inside another model",
            expected="a causal LM by itself",
            found=f"{nested} in config.json",
            remedy="trim the language model alone",
        )
    family = str(config.get("model_type"))
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    if not isinstance(found, str):
        raise UnsupportedError(
            f"transformers has no causal LM for {source.folder}",
            expected="a model_type that AutoModelForCausalLM knows",
            found=family,
            remedy="use a drafter of another family",
        )
    return found


def _head_name(source: Source, base: str) -> str:
    """Where the library's class has its head. Raises UnsupportedError where its other tensors are not the drafter's.

    For some families the library renames and merges tensors while it loads them, but not for classes of a folder
    (conversion_mapping.py): such a folder would load with made-up weights.
    """
    import torch
    import transformers

    config = open_config(source.folder)
    config.tie_word_embeddings = False
    with torch.device("meta"):
        model = getattr(transformers, base)(config)
    head: str = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    wanted = {name for name in model.state_dict() if not name.startswith(f"{head}.")}
    prefix = f"{model.base_model_prefix}."
    found = {name for name in source.drafter.body if not name.endswith(DERIVED)}
    found = {name if name in wanted or prefix + name not in wanted else prefix + name for name in found}
    if odd := sorted(wanted ^ found):
        raise UnsupportedError(
            f"{base} has other tensors than {source.folder}, which a class beside the weights loads as they are",
            expected="the same names",
            found=f"{odd[0]} in {'the class' if odd[0] in wanted else 'the folder'} alone",
            remedy="use a drafter of another family",
        )
    return head


def quantized(source: Source) -> str | None:
    """What says that the drafter is quantized: its config, or the tensors of its head."""
    if source.drafter.checkpoint.setting("quantization_config"):
        return "quantization_config"
    return ", ".join(sorted(set(source.drafter.heads[0].tensors) - {"weight", "bias"})) or None


def _files(source: Source, vocab: int, name_of_head: str) -> tuple[PlannedFile, ...]:
    """The drafter's files with the head's rows in ascending order of their ids, and the ids beside them."""
    drafter = source.drafter
    [head] = drafter.heads
    planned: dict[Path, list[PlannedTensor]] = {file: [] for file in drafter.checkpoint.files}
    for name in drafter.body:
        tensor = drafter.checkpoint.tensors[name]
        embedding = name in {f"{prefix}.weight" for prefix in drafter.embeddings}
        planned[tensor.path].append(_embedding(tensor, vocab) if embedding else PlannedTensor.copy(tensor))
    beside = planned[head.main.path]
    beside += cut_head(replace(head, name=name_of_head), source.rows)
    ids = source.kept.ids.astype("<i8")
    beside.append(PlannedTensor(f"{name_of_head}.kept_ids", "I64", ids.shape, data=ids.tobytes()))
    names = _names([file for file, tensors in planned.items() if tensors])
    return tuple(PlannedFile(names[file], tuple(tensors)) for file, tensors in planned.items() if tensors)


def _embedding(tensor: StoredTensor, vocab: int) -> PlannedTensor:
    """As many rows as the target has ids: heads of one family are padded to different widths (Qwen2.5).

    Ids that only the target's padding has are read as the last one here, as in `IndependentBody`.
    """
    if tensor.rows == vocab:
        return PlannedTensor.copy(tensor)
    return PlannedTensor.take(tensor, np.minimum(np.arange(vocab), tensor.rows - 1), tensor.name)


def _names(files: list[Path]) -> Mapping[Path, str]:
    """The names under which the library looks for weights."""
    if len(files) == 1:
        return {files[0]: "model.safetensors"}
    return {file: f"model-{number:05}-of-{len(files):05}.safetensors" for number, file in enumerate(files, 1)}


def _config(source: Source, vocab: int) -> dict[str, Any]:
    """The drafter's, for the class beside it; without the hashes of the trimmed folder, which is another."""
    config = dict(source.drafter.checkpoint.config)
    config.pop("vocabtrim", None)
    return config | {
        "architectures": ["TrimmedForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": f"{CODE_FILE.removesuffix('.py')}.TrimmedForCausalLM"},
        "vocab_size": vocab,
        "draft_vocab_size": source.kept.size,
        "draft_head_bias": "bias" in source.drafter.heads[0].tensors,
        "tie_word_embeddings": False,
    }


ENGINE = Engine(NAME, {"transformers": "5.23.0"}, write, read_ids, refuse)
