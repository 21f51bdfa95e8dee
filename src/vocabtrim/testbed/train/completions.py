"""What the target writes on training prompts: calibration text, and what the drafters learn from.

    python -m vocabtrim.testbed.train.completions RUN DATA [SHARE [WRITER]]

WRITER is the target, or independent: what a drafter alone writes on the same prompts is calibration text too. Reads
the writer's exported folder, writes RUN/completions-WRITER.jsonl (one record per prompt, appended, so that it goes on
where it was cut off, and a larger share adds to a smaller one) and at the end the same as .safetensors in the form of
shards.py. Greedy, as the drafters are judged.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .corpus import UNCARRIED, documents
from .documents import Turn, draw
from .shards import ROW, Encoded, Encoder, write_shard
from .sizes import END, END_OF_TEXT

# Prompts per category, and as many again from texts that may not be carried, where there are such.
PROMPTS = {
    "math": 4000,
    "code": 2500,
    "functions": 2000,
    "python": 3000,
    "reading": 1000,
    "knowledge": 1200,
    "continue": 600,
}
FOLDERS = {"target": "target-exported", "independent": "drafters/independent"}
_BATCH = 96
_LONGEST = 256  # tokens of an answer


@dataclass(frozen=True)
class Prompt:
    """One prompt. number: its place among its category's of a kind. expected: tokens of the reference answer."""

    category: str
    source: str
    number: int
    turns: tuple[Turn, ...]
    ids: tuple[int, ...]
    expected: int


def prompts(data: Path, encoder: Encoder, share: float) -> list[Prompt]:
    """Training prompts that leave room for an answer, so many of each category by lot, in batches of like length.

    Carried and uncarried sources are counted apart: else web pages leave hardly a prompt of theirs to the others.
    """
    chosen: list[Prompt] = []
    counts: Counter[tuple[str, bool]] = Counter()
    training = [document for document, out in documents(data) if not out and document.category in PROMPTS]
    for document in sorted(training, key=lambda document: draw(document.turns[-2][1], "completion", 2**60)):
        ids = encoder.prompt(document)
        kind = document.category, document.source in UNCARRIED
        number = counts[kind]
        if number < share * PROMPTS[document.category] and len(ids) <= ROW - _LONGEST // 2:
            counts[kind] += 1
            expected = len(encoder.text(document.turns[-1][1]))
            turns = document.turns[:-1]
            chosen.append(Prompt(document.category, document.source, number, turns, tuple(ids), expected))
    chosen.sort(key=lambda prompt: (prompt.category, prompt.expected, prompt.number))
    return chosen


def generate(model: Any, batch: list[list[int]], longest: int = _LONGEST) -> list[list[int]]:
    """Greedy answers of a causal LM with their stop token, where they end within `longest` tokens."""
    width = max(map(len, batch))
    ids = torch.tensor([[END_OF_TEXT] * (width - len(prompt)) + prompt for prompt in batch])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
    # A static cache: a growing one is copied at every step, which is half of the time.
    options = {"max_new_tokens": longest, "do_sample": False, "cache_implementation": "static"}
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=mask, **options)
    return [_ended(row[width:].tolist()) for row in out]


def _ended(ids: list[int]) -> list[int]:
    stops = [place for place, token in enumerate(ids) if token in (END, END_OF_TEXT)]
    return ids[: stops[0] + 1] if stops else ids


def completions_file(run: Path, writer: str) -> Path:
    """Where the completions of one writer stand."""
    return run / f"completions-{writer}.jsonl"


def completions_shard(run: Path, writer: str) -> Path:
    """The same as documents to learn from."""
    return completions_file(run, writer).with_suffix(".safetensors")


def collect(run: Path, data: Path, share: float = 1.0, writer: str = "target") -> None:
    """Write what is missing of the completions, then the shard. share: of the prompts in PROMPTS."""
    from transformers import LlamaForCausalLM

    torch.set_num_threads(2)
    model = LlamaForCausalLM.from_pretrained(run / FOLDERS[writer], dtype=torch.bfloat16)
    encoder, file = Encoder(run / "tokenizer"), completions_file(run, writer)
    done = {tuple(record["prompt"]) for record in records(file)}
    left = [prompt for prompt in prompts(data, encoder, share) if prompt.ids not in done]
    for start in range(0, len(left), _BATCH):
        batch = left[start : start + _BATCH]
        answers = generate(model, [list(prompt.ids) for prompt in batch])
        with file.open("a") as out:
            for prompt, answer in zip(batch, answers, strict=True):
                out.write(json.dumps(_record(prompt, answer)) + "\n")
    write_shard(_encoded(file), completions_shard(run, writer))


def _record(prompt: Prompt, answer: list[int]) -> dict[str, Any]:
    return {
        "category": prompt.category,
        "source": prompt.source,
        "number": prompt.number,
        "turns": prompt.turns,
        "prompt": prompt.ids,
        "answer": answer,
    }


def records(file: Path) -> Iterator[dict[str, Any]]:
    """What a completions file holds; a line that was cut off is left out."""
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:  # and what was appended to it
            continue


def _encoded(file: Path) -> dict[str, Encoded]:
    parts: dict[str, Encoded] = defaultdict(list)
    for record in records(file):
        prompt, answer = record["prompt"], record["answer"]
        ids = [*prompt, *answer][:ROW]
        parts[record["category"]].append((ids, ([False] * len(prompt) + [True] * len(answer))[:ROW]))
    return parts


if __name__ == "__main__":
    told = sys.argv[3:]
    collect(Path(sys.argv[1]), Path(sys.argv[2]), float(told[0]) if told else 1.0, *told[1:])
