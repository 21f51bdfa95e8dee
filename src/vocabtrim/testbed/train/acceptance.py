"""Block efficiency of trained drafters on recorded greedy answers of the target, without decoding.

    python -m vocabtrim.testbed.train.acceptance RUN [DRAFTER ...]

What deterministic drafting accepts follows from the recorded tokens: along an accepted path the drafted tokens are
the recorded ones, so one pass over the answer, every position a root, gives what each draft would have scored. The
drafter's scores are read before its folder is written; the decoding loop measures the same on the folder itself.
Heads are full, or cut to an eighth of the vocabulary by target-generated or by raw text.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .distil import aligned
from .documents import PLAIN_CATEGORIES
from .drafter import SETTINGS, Pupil, pupil
from .lessons import lesson_of
from .mixture import Batch
from .shards import ROW, read
from .sizes import END, END_OF_TEXT, VOCAB

_ROWS = 8
_CHAIN, _DEPTH = 4, 5
_TREE_SHARE = 1 / 16  # a node is drafted where its path's probability is at least this: at most 16 nodes a depth
_KEPT = VOCAB // 8


def batches(records: list[dict[str, Any]]) -> Iterator[Batch]:
    """One answer per row, cut at the row's end."""
    for start in range(0, len(records), _ROWS):
        part = records[start : start + _ROWS]
        ids, answer = np.zeros((_ROWS, ROW), np.int64), np.zeros((_ROWS, ROW), np.bool_)
        document = np.full((_ROWS, ROW), -1, np.int64)
        for row, record in enumerate(part):
            prompt, tokens = record["prompt"], record["answer"]
            both = [*prompt, *tokens][:ROW]
            ids[row, : len(both)] = both
            answer[row, len(prompt) : len(both)] = True
            document[row, : len(both)] = 0
        yield Batch(ids, answer, document, np.broadcast_to(np.arange(ROW), (_ROWS, ROW)).copy())


def accepted(follows: npt.NDArray[np.bool_], first: int, stop: int) -> tuple[int, int]:
    """(emitted tokens, rounds) of one answer at tokens first..stop - 1.

    follows: bool (seq, steps), whether a draft from root i is right at step k, given that it was before. The token at
    `first` comes from the target's pass over the prompt and is not counted.
    """
    emitted = rounds = 0
    place = first  # the newest token; the root is the place before it
    while place < stop - 1:
        right = follows[place - 1]
        run = int(np.argmin(np.append(right, False)))  # True as long as drafts are right
        step = min(run + 1, stop - 1 - place)
        place, emitted, rounds = place + step, emitted + step, rounds + 1
    return emitted, rounds


def drafted_places(student: Pupil, target: Any, batch: Batch) -> Tensor:
    """(rows, seq, steps, hidden): what the drafter's head reads, by place (distil.aligned)."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        places = aligned(student.drafted(lesson_of(target, batch), _DEPTH))
    if places.shape[2] == 1:  # a language model scores a token alike from every root
        places = places.expand(-1, -1, _CHAIN, -1)
    return places


def follows(places: Tensor, wanted: Tensor, head: Tensor, kept: Tensor | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Shape of the draft -> bool (seq, steps) for `accepted`, of one row.

    places: (seq, steps, hidden). wanted: int64 (seq,), the recorded token that follows each place. head: (vocab,
    hidden). kept: bool (vocab,), ids that the head may draft, or None.
    """
    logits = (places.to(head.dtype) @ head.T).float()
    if kept is not None:
        logits = logits.masked_fill(~kept, float("-inf"))
    index = wanted[:, None, None].expand(-1, places.shape[1], 1)
    share = torch.softmax(logits, -1).gather(2, index).squeeze(2)
    best = logits.argmax(-1) == index.squeeze(2)
    tree = torch.cumprod(_by_root(share), -1) >= _TREE_SHARE
    return {"chain": _by_root(best)[:, :_CHAIN].numpy(), "tree": tree.numpy()}


def _by_root(by_place: Tensor) -> Tensor:
    """(seq, steps) by place -> by root: step k of root i stands at place i + k + 1."""
    return torch.stack([torch.roll(by_place[:, k], -k - 1, 0) for k in range(by_place.shape[1])], 1)


def efficiency(
    student: Pupil, target: Any, records: list[dict[str, Any]], kept: dict[str, Tensor | None]
) -> dict[tuple[str, str], dict[str, float]]:
    """(category, kept vocabulary) -> block efficiency of a chain and of a tree: sums first, the ratio last."""
    sums: dict[tuple[str, str], dict[str, npt.NDArray[np.int64]]] = defaultdict(lambda: defaultdict(_nothing))
    head = student.head().detach().to(torch.bfloat16)
    for number, batch in enumerate(batches(records)):
        places = drafted_places(student, target, batch)
        for row, record in enumerate(records[number * _ROWS : (number + 1) * _ROWS]):
            stop = min(len(record["prompt"]) + len(record["answer"]), ROW)
            start = len(record["prompt"]) - 1  # the first root; what is before it is not asked for
            wanted = torch.from_numpy(np.roll(batch.ids[row], -1))[start:stop]
            for name, ids in kept.items():
                for shape, right in follows(places[row, start:stop], wanted, head, ids).items():
                    measured = np.array(accepted(right, 1, stop - start))
                    for category in ("all", record["category"]):
                        sums[category, name][shape] += measured
    return {key: {shape: float(e / r) for shape, (e, r) in part.items()} for key, part in sums.items()}


def _nothing() -> npt.NDArray[np.int64]:
    return np.zeros(2, np.int64)


def kept_ids(counts: npt.NDArray[np.int64]) -> Tensor:
    """bool (vocab,): the ids that are counted most, and the stop ids."""
    kept = torch.zeros(VOCAB, dtype=torch.bool)
    kept[torch.from_numpy(np.argsort(-counts, kind="stable")[:_KEPT].copy())] = True
    kept[[END, END_OF_TEXT]] = True
    return kept


def vocabularies(run: Path) -> dict[str, Tensor | None]:
    """What the head may draft: all, the most frequent eighth of the target's answers, that of raw text."""
    own, raw = np.zeros(VOCAB, np.int64), np.zeros(VOCAB, np.int64)
    for shard in read(run / "completions-target.safetensors").values():
        own += np.bincount(shard.ids[shard.answer], minlength=VOCAB)
    for name, shard in read(run / "train.safetensors").items():
        if name in PLAIN_CATEGORIES:
            raw += np.bincount(shard.ids, minlength=VOCAB)
    return {"full": None, "target-generated": kept_ids(own), "raw": kept_ids(raw)}


def main(run: Path, kinds: list[str]) -> None:
    """Print one JSON line per drafter, category and kept vocabulary."""
    from transformers import LlamaForCausalLM

    torch.set_num_threads(2)
    target = LlamaForCausalLM.from_pretrained(run / "target-exported", dtype=torch.float32)
    records = [json.loads(line) for line in (run / "heldout_completions.jsonl").read_text().splitlines()]
    kept = vocabularies(run)
    for kind in kinds:
        student = pupil(kind, target.lm_head.weight)
        student.module.load_state_dict(torch.load(run / kind / "checkpoint.pt", weights_only=True)["module"])
        for (category, name), values in efficiency(student, target, records, kept).items():
            print(json.dumps({"drafter": kind, "category": category, "kept": name} | values), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SETTINGS))
