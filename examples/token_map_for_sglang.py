"""A token map for SGLang: choose ids, write the map, and read it back as SGLang does.

    python examples/token_map_for_sglang.py

On your own target: serve with --speculative-token-map hot_tokens.pt (EAGLE-1/2 and MTP drafters; SGLang cuts the rows
from the target's head itself, so the drafter's folder stays as it is).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import vocabtrim as vt
from vocabtrim.testbed.builtin import write_builtin


def main(folder: Path) -> None:
    models = write_builtin(folder / "models")
    target, drafter = models / "target", models / "eagle"

    counts = vt.count([models / "chat.jsonl"], tokenizer=target)
    choice = vt.choose(counts, keep=4096, drafter=drafter, target=target)
    assert choice.kept is not None  # only "auto" may answer: do not trim
    choice.kept.save(folder / "kept.safetensors")
    vt.convert(folder / "kept.safetensors", "token-map", folder / "hot_tokens.pt", target=target)

    hot_tokens = torch.tensor(torch.load(folder / "hot_tokens.pt", weights_only=True), dtype=torch.int64)
    print(f"hot_tokens.pt: {len(hot_tokens):,} ids from {hot_tokens.min()} to {hot_tokens.max()}")
    print(f"the kept ids: {hot_tokens.tolist() == choice.kept.ids.tolist()}")
    print(f"always in it: {', '.join(f'{token} ({why})' for token, why in choice.always_keep.items())}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder))
