"""Trains the target: a Llama of 10M parameters on conversations and texts.

    python -m vocabtrim.testbed.train.target RUN

Reads RUN/train.safetensors and RUN/heldout.safetensors (shards.py), works in RUN/target (loop.py says how to end it).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from . import llama
from .loop import Run, Settings
from .mixture import Mixture
from .shards import read
from .sizes import TARGET

SETTINGS = Settings(matrix_rate=1e-3, vector_rate=1e-3, decay=0.1, warmup=60, evaluate_every=300)
# Shares of the tokens: what the target shall write well, and enough prose and source that it reads both.
WEIGHTS = {
    "math": 0.30,
    "code": 0.15,
    "functions": 0.13,
    "python": 0.14,
    "reading": 0.08,
    "source": 0.04,
    "prose": 0.05,
    "knowledge": 0.06,
    "continue": 0.04,
    "plays": 0.01,
}
_ROWS = 12  # of 512 tokens
_SEED = 0
_THREADS = 2


def main(run: Path) -> None:
    """Start or go on."""
    torch.set_num_threads(_THREADS)
    model = llama.build(llama.config(TARGET), _SEED)
    core = torch.compile(model.model, dynamic=False)
    heldout = read(run / "heldout.safetensors")
    mixture = Mixture(read(run / "train.safetensors"), WEIGHTS, rows=_ROWS, seed=_SEED)

    def evaluate() -> dict[str, float]:
        losses = {}
        for name in heldout:
            batch = Mixture(heldout, {name: 1.0}, rows=_ROWS, seed=_SEED).next()
            # Gradients on, though unused: without them everything would be compiled a second time.
            losses[name] = float(llama.language_loss(core, model.lm_head.weight, batch, answers_only=True).detach())
        return losses

    training = Run(run / "target", model, mixture, SETTINGS)
    training.train(lambda batch: llama.language_loss(core, model.lm_head.weight, batch), evaluate)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
