"""What counts of other text, and the tokenizer's merge order, add to a small calibration set.

    python examples/back_off_sources.py

On your own text: the first counts are of what the target really writes, few as they may be; the others are asked
about ids that it never showed. Held-out coverage of the first says what each adds.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import vocabtrim as vt
from vocabtrim.testbed.builtin import write_builtin

SIZES = (1024, 2048, 4096, 8192)


def main(folder: Path) -> None:
    models = write_builtin(folder / "models")
    answers = vt.count([models / "chat.jsonl"], tokenizer=models / "target", origin="target-generated", heldout=0.3)
    prose = vt.count([models / "text.txt"], tokenizer=models / "target")
    for name, counts in (("answers.safetensors", answers), ("prose.safetensors", prose)):
        counts.save(folder / name)

    ways = {
        "answers, then merge order": [folder / "answers.safetensors"],
        "answers, prose, then merge order": [folder / "answers.safetensors", folder / "prose.safetensors"],
    }
    print("held-out coverage of the answers", *(f"{size:>8,}" for size in SIZES))
    for way, files in ways.items():
        coverage = {row.kept_size: row.heldout_coverage for row in vt.choose(files, keep=max(SIZES)).sizes}
        print(f"{way:32}", *(f"{coverage[size]:8.4f}" for size in SIZES))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder))
