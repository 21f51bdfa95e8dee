"""What a drafter is built on: its target's sizes, embedding and head, without the layers between.

No drafter reads a layer of its target, so drafting behind recorded tokens needs no more than this: of a target of
16 GB, two matrices. Knows models and folders; knows nothing of drafters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..checkpoint.layouts import Head as StoredHead
from ..checkpoint.layouts import embedding_of, head_of
from ..checkpoint.read import Checkpoint
from ..errors import CheckpointError, UnsupportedError
from .causal_lm import open_config
from .head import Head
from .stored_weights import load_weight
from .target import Target


class Ends(Protocol):
    """Of a target. family: the model's type, as its config calls it. vocab: ids of its head, padded ones included."""

    @property
    def folder(self) -> Path | None: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def family(self) -> str: ...
    @property
    def vocab(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def lean(self) -> bool:
        """Whether what is built on it may go by our kernels."""

    def embedding(self) -> torch.Tensor:
        """(ids, hidden), in its dtype and on its device."""

    def head(self) -> Head:
        """Full, `vocab` rows."""


@dataclass(frozen=True, eq=False)
class ModelEnds:
    """Of a target that is loaded: nothing is copied."""

    target: Target

    @property
    def folder(self) -> Path | None:
        """Where it lies; None where no config.json lies there."""
        folder = self.target.folder
        return folder if folder and (folder / "config.json").exists() else None

    @property
    def dtype(self) -> torch.dtype:
        return self.target.lm.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self.target.lm.device

    @property
    def family(self) -> str:
        return str(self.target.lm.config.model_type)

    @property
    def vocab(self) -> int:
        return self.target.lm.vocab

    @property
    def hidden_size(self) -> int:
        return self.target.lm.hidden_size

    @property
    def layers(self) -> int:
        return self.target.lm.layers

    @property
    def lean(self) -> bool:
        return self.target.lm.lean is not None

    def embedding(self) -> torch.Tensor:
        return self.target.lm.model.get_input_embeddings().weight  # type: ignore[no-any-return]

    def head(self) -> Head:
        return own_head(self.target.lm.model, self.vocab)


@dataclass(frozen=True, eq=False)
class FolderEnds:
    """Of a target's folder, of which only what is asked for is read.

    folder: as drafters are identified beside it; None where there is no target, and a drafter stands for itself.
    """

    checkpoint: Checkpoint
    folder: Path | None
    dtype: torch.dtype
    device: torch.device
    lean: bool = True
    config: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", open_config(self.checkpoint.folder).get_text_config())

    @property
    def family(self) -> str:
        return str(self.config.model_type)

    @property
    def vocab(self) -> int:
        return int(self.config.vocab_size)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    def embedding(self) -> torch.Tensor:
        name = embedding_of(self.checkpoint)
        if name is None:
            raise CheckpointError(
                f"{self.checkpoint.folder} has no embedding of a name that is known",
                expected="model.embed_tokens.weight",
                remedy="load the whole target instead",
            )
        return self._weight(f"{name}.weight")

    def head(self) -> Head:
        stored = StoredHead(self.checkpoint, head_of(self.checkpoint)[0], "lm_head")
        if stored.stored.quantized:
            raise UnsupportedError(
                f"head {stored.source} of {self.checkpoint.folder} is quantized",
                expected="weight and bias alone",
                found=stored.stored.format,
                remedy="load the whole target instead, or use an unquantized one",
            )
        bias = stored.tensors.get("bias")
        return Head(
            self._weight(stored.main.name)[: self.vocab],
            None if bias is None else self._weight(bias.name)[: self.vocab],
        )

    def _weight(self, name: str) -> torch.Tensor:
        return load_weight(self.checkpoint.tensor(name)).to(self.device, self.dtype)


def own_head(model: Any, rows: int) -> Head:
    """A model's own head, not a copy of it; padding beyond those `rows` is never drafted."""
    output = model.get_output_embeddings()
    bias = getattr(output, "bias", None)
    return Head(output.weight[:rows], None if bias is None else bias[:rows])
