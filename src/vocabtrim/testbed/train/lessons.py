"""Rows that drafters learn from, with what the target computes on them: made once, learned from by every drafter.

    python -m vocabtrim.testbed.train.lessons RUN

Reads RUN/target-exported, RUN/completions-target.safetensors and RUN/train.safetensors; writes RUN/lessons.safetensors,
3 GB. The target's own pass was a third of a training step, and most of it where a drafter goes one step deep.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from . import llama
from .completions import completions_shard
from .documents import PLAIN_CATEGORIES
from .mixture import Batch, Mixture
from .shards import Shard, read
from .sizes import EAGLE3_TAPS, VOCAB
from .target import WEIGHTS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LESSONS = "lessons.safetensors"
ROWS = 8  # of a batch
_BATCHES = 350
_SEED = 1
_THREADS = 2
_OWN = 0.55  # share of the target's own completions; the rest are the conversations that it was trained on


@dataclass(frozen=True, eq=False)
class Lesson(Batch):
    """A batch, and what the target computed on it.

    features: (rows, seq, hidden), behind the final norm. taps: (rows, seq, 3 * hidden), for EAGLE-3. embedded: (rows,
    seq, hidden), of the tokens themselves.
    """

    features: Tensor
    taps: Tensor
    embedded: Tensor


def lesson_of(target: LlamaForCausalLM, batch: Batch) -> Lesson:
    """The target's hidden states on a batch, without gradients."""
    with torch.no_grad():
        out = llama.hidden_of(target.model, batch, output_hidden_states=True)
    taps = torch.cat([out.hidden_states[layer] for layer in EAGLE3_TAPS], -1)
    return Lesson(**vars(batch), features=out.last_hidden_state, taps=taps, embedded=out.hidden_states[0])


class Lessons:
    """All rows of a file in shuffled epochs, `ROWS` at a time; goes on where it was cut off, as `Mixture` does.

    embedding: (vocab, hidden), the target's.
    """

    def __init__(self, file: Path, embedding: Tensor) -> None:
        self._rows, self._embedding = load_file(file), embedding.to(torch.bfloat16)
        self._drawn = 0  # rows
        self._order = 0, self._shuffled(0)

    @property
    def answers(self) -> Tensor:
        """int64 (vocab,): how often each id is an answer's."""
        return torch.bincount(self._rows["ids"][self._rows["answer"]].long(), minlength=VOCAB)

    def next(self) -> Lesson:
        """The next rows."""
        chosen = torch.tensor([self._row(self._drawn + place) for place in range(ROWS)])
        self._drawn += ROWS
        part = {name: held[chosen] for name, held in self._rows.items()}
        ids = part["ids"].long()
        return Lesson(
            ids=ids.numpy(),
            answer=part["answer"].numpy(),
            document=part["document"].long().numpy(),
            position=part["position"].long().numpy(),
            features=part["features"],
            taps=part["taps"],
            embedded=self._embedding[ids],
        )

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {"drawn": self._drawn}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._drawn = state["drawn"]

    def epochs(self) -> dict[str, float]:
        """How often the rows have been seen."""
        return {"rows": self._drawn / len(self._rows["ids"])}

    def _row(self, place: int) -> int:
        epoch, at = divmod(place, len(self._rows["ids"]))
        if epoch != self._order[0]:
            self._order = epoch, self._shuffled(epoch)
        return int(self._order[1][at])

    def _shuffled(self, epoch: int) -> Tensor:
        chance = torch.Generator().manual_seed(_SEED + epoch)
        return torch.randperm(len(self._rows["ids"]), generator=chance)


def sources(run: Path) -> tuple[dict[str, Shard], dict[str, float]]:
    """The target's completions and the conversations it learned from, with shares of the tokens."""
    own = {f"own {name}": shard for name, shard in read(completions_shard(run, "target")).items()}
    learned = read(run / "train.safetensors")
    chats = {name: shard for name, shard in learned.items() if name not in PLAIN_CATEGORIES}
    weights = {name: _OWN * WEIGHTS[name.removeprefix("own ")] for name in own}
    return own | chats, weights | {name: (1 - _OWN) * WEIGHTS[name] for name in chats}


def main(run: Path, batches: int = _BATCHES) -> None:
    """Write the file whole or not at all."""
    from transformers import LlamaForCausalLM

    torch.set_num_threads(_THREADS)
    target = LlamaForCausalLM.from_pretrained(run / "target-exported", dtype=torch.bfloat16)
    mixture = Mixture(*sources(run), rows=ROWS, seed=_SEED)
    names = ("ids", "answer", "document", "position", "features", "taps")
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for _ in range(batches):
        lesson = lesson_of(target, mixture.next())
        for name, held in parts.items():
            numbers = getattr(lesson, name)
            small = numbers.to(torch.bfloat16) if isinstance(numbers, Tensor) else torch.from_numpy(numbers)
            held.append(small.to(torch.int16) if small.dtype == torch.int64 else small)
    print(mixture.epochs())
    temporary = run / f".{LESSONS}.part"
    temporary.write_bytes(save({name: torch.cat(held) for name, held in parts.items()}))
    temporary.replace(run / LESSONS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
