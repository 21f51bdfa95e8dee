"""Trim an EAGLE drafter with the library: count, choose, trim, check.

    python examples/trim_a_drafter.py

On your own models: put your folders in place of the built-in ones, and text that the target wrote in place of
chat.jsonl. The built-in models have random weights; no model is loaded in either case.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import vocabtrim as vt
from vocabtrim.testbed.builtin import write_builtin


def main(folder: Path) -> None:
    models = write_builtin(folder / "models")
    target, drafter, text = models / "target", models / "eagle", models / "chat.jsonl"

    counts = vt.count([text], tokenizer=target, origin="target-generated")
    print(f"counted {counts.tokens:,} tokens, {counts.distinct:,} of {counts.tokenizer.vocab_size:,} ids among them")

    choice = vt.choose(counts, keep="auto", drafter=drafter, target=target)
    print(f"{choice.verdict}: {choice.reason}")
    if choice.kept is None:
        return

    result = vt.trim(drafter, choice.kept, target=target, out=folder / "trimmed")
    print(f"head: {result.head_bytes_before:,} -> {result.head_bytes_after:,} bytes")

    report = vt.check(result.out, target)
    print("sound" if report.ok else "\n".join(problem.message for problem in report.problems))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder))
