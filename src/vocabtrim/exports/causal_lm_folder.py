"""An independent drafter's folder as transformers loads it: files, names and sizes that several engines start from.

What stands in the head's place is each engine's: k rows under a class of ours, or as many as the vocabulary has ids.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.layouts import Head
from ..checkpoint.read import NESTED
from ..checkpoint.stored import StoredTensor
from ..checkpoint.trim import TOKENIZER_FILES
from ..checkpoint.write import PlannedFile, PlannedTensor, prove_files, write_files
from ..decoding.causal_lm import open_config
from ..errors import UnsupportedError
from .source import Source

_DERIVED = ("rotary_emb.inv_freq",)  # in old files; the library makes it anew


@dataclass(frozen=True)
class CausalLM:
    """A drafter as the library knows it. model_class: its name. vocab: `vocab_size` of its target's config."""

    source: Source
    model_class: str
    head_name: str
    vocab: int

    @property
    def head(self) -> Head:
        """The drafter's, under the name that the library's class has for it."""
        return replace(self.source.drafter.heads[0], name=self.head_name)

    @property
    def config(self) -> dict[str, Any]:
        """The drafter's, without the hashes of the trimmed folder, which is another."""
        given = {key: value for key, value in self.source.drafter.checkpoint.config.items() if key != "vocabtrim"}
        return given | {"architectures": [self.model_class], "vocab_size": self.vocab, "tie_word_embeddings": False}


def causal_lm(source: Source) -> CausalLM:
    """Raises UnsupportedError for a drafter that the library has no class for, or not one that loads these weights."""
    model_class = _model_class(source)
    said = None if source.target is None else source.target.setting("vocab_size")
    vocab = source.width if said is None else int(said)
    return CausalLM(source, model_class, _head_name(source, model_class), vocab)


def write_causal_lm(
    model: CausalLM, folder: Path, head: Sequence[PlannedTensor], config: Mapping[str, Any] | None = None
) -> None:
    """The body, these tensors in the head's place, proven against their sources; config and tokenizer beside them."""
    files = _files(model, head)
    write_files(folder, files)
    prove_files(folder, files)
    text = json.dumps(model.config if config is None else dict(config), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (model.source.folder / name).is_file():
            shutil.copyfile(model.source.folder / name, folder / name)


def _model_class(source: Source) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = source.drafter.checkpoint.config
    if config.get("auto_map"):
        raise UnsupportedError(
            f"{source.folder} brings model code of its own",
            expected="a model class of transformers",
            found=", ".join(map(str, config["auto_map"])),
            remedy="serve it untrimmed, or decode with `vocabtrim generate`",
        )
    if extra := _quantized(source):
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


def _quantized(source: Source) -> str | None:
    """What says that the drafter is quantized: its config, or the tensors of its head."""
    if source.drafter.checkpoint.setting("quantization_config"):
        return "quantization_config"
    return ", ".join(sorted(set(source.drafter.heads[0].tensors) - {"weight", "bias"})) or None


def _head_name(source: Source, model_class: str) -> str:
    """Where the library's class has its head. Raises UnsupportedError where its other tensors are not the drafter's.

    For some families the library renames and merges tensors while it loads them, but not for classes of a folder
    (conversion_mapping.py): such a folder would load with made-up weights.
    """
    import torch
    import transformers

    config = open_config(source.folder)
    config.tie_word_embeddings = False
    with torch.device("meta"):
        model = getattr(transformers, model_class)(config)
    head: str = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    wanted = {name for name in model.state_dict() if not name.startswith(f"{head}.")}
    prefix = f"{model.base_model_prefix}."
    found = {name for name in source.drafter.body if not name.endswith(_DERIVED)}
    found = {name if name in wanted or prefix + name not in wanted else prefix + name for name in found}
    if odd := sorted(wanted ^ found):
        raise UnsupportedError(
            f"{model_class} has other tensors than {source.folder}, which a class beside the weights loads as they are",
            expected="the same names",
            found=f"{odd[0]} in {'the class' if odd[0] in wanted else 'the folder'} alone",
            remedy="use a drafter of another family",
        )
    return head


def _files(model: CausalLM, head: Sequence[PlannedTensor]) -> tuple[PlannedFile, ...]:
    """The drafter's files, the head where it stood."""
    drafter = model.source.drafter
    planned: dict[Path, list[PlannedTensor]] = {file: [] for file in drafter.checkpoint.files}
    for name in drafter.body:
        tensor = drafter.checkpoint.tensors[name]
        embedding = name in {f"{prefix}.weight" for prefix in drafter.embeddings}
        planned[tensor.path].append(_embedding(tensor, model.vocab) if embedding else PlannedTensor.copy(tensor))
    planned[drafter.heads[0].main.path] += head
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
