"""A small real run for tests of reports: two drafters trimmed by this tool, benched on a dozen questions, and counts.

The target says many things, the drafter is it with noise, so that drafts are accepted now and then; the head is padded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import tiny_tokenizer
import vocabtrim as vt
from generation import lively, noisy_copy
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.measure.bench import bench
from vocabtrim.measure.methods import Settings
from vocabtrim.measure.questions import questions
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import BUILTIN
from vocabtrim.vocabulary.kept import KeptVocabulary

KEPT = (128, 320)


@dataclass(frozen=True)
class Measured:
    """Folders and files. greedy, sampled: runs of the same drafters. counts: of a text with a held-out part."""

    target: Path
    greedy: Path
    sampled: Path
    counts: Path


def write_measured(folder: Path) -> Measured:
    """Takes some seconds."""
    tokenizer = tiny_tokenizer.train(folder / "tokenizer")
    facts = tokenizer_facts(tokenizer)
    stop = next(iter(facts.always_keep))
    shape = replace(BUILTIN, hidden=32, intermediate=64, layers=2, heads=2, kv_heads=1, head_dim=16, dtype="float32")
    shape = replace(shape, vocab=facts.vocab_size, head_rows=facts.vocab_size + 18, bos=stop, eos=(stop,))
    target = lively(shapes.write_target(folder / "dull", shape, seed=1), folder / "target")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((tokenizer / name).read_bytes())
    near = noisy_copy(target, folder / "near", 0.05)
    records = [{"text": text} for text in tiny_tokenizer.TEXT]
    counts = vt.count([tiny_tokenizer.write_jsonl(folder / "texts.jsonl", records)], tokenizer=tokenizer, heldout=0.2)
    counts.save(folder / "counts.safetensors")
    trimmed = []
    for kept in KEPT:
        ids = np.union1d(np.arange(kept - 1), [stop]).astype(np.int64)
        cut = vt.trim(near, KeptVocabulary(ids, facts.vocab_size), target=target, out=folder / f"cut-{kept}")
        trimmed.append(cut.out)
    asked = [
        {"id": number, "category": "letters" if number % 3 else "<numbers>", "prompt": f"Say {number} words."}
        for number in range(12)
    ]
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in asked))
    for name, sampling in (("greedy", Sampling()), ("sampled", Sampling(1.0))):
        settings = Settings(max_new_tokens=12, sampling=sampling, dtype="float32")
        bench(target, questions(file), out=folder / name, drafter=near, trimmed=trimmed, settings=settings)
    return Measured(target, folder / "greedy", folder / "sampled", folder / "counts.safetensors")
