"""The trained target as a Hugging Face folder: bfloat16 weights, tokenizer, chat template, stop tokens.

    python -m vocabtrim.testbed.train.export_target RUN [CHECKPOINT]

Reads RUN/target/checkpoint.pt, writes RUN/target-exported; an older export is replaced.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from ...provenance import atomic_directory
from . import llama
from .sizes import END, END_OF_TEXT, TARGET, Size

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def export(checkpoint: Path, tokenizer: Path, out: Path, size: Size) -> None:
    """Write one causal LM of the family. A folder that stands at `out` is replaced."""
    model = llama.build(llama.config(size), seed=0)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["module"])
    if out.exists():
        shutil.rmtree(out)
    with atomic_directory(out) as folder:
        model.bfloat16().save_pretrained(folder)
        stops = {"bos_token_id": END_OF_TEXT, "eos_token_id": [END, END_OF_TEXT], "pad_token_id": END_OF_TEXT}
        (folder / "generation_config.json").write_text(json.dumps(stops | {"do_sample": False}, indent=2) + "\n")
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, folder / name)


if __name__ == "__main__":
    run = Path(sys.argv[1])
    export(
        Path(sys.argv[2]) if len(sys.argv) > 2 else run / "target" / "checkpoint.pt",
        run / "tokenizer",
        run / "target-exported",
        TARGET,
    )
