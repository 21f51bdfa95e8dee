"""The training loop that all models of the family share: resumable, seeded, its log kept.

A run is a folder: checkpoint.pt (weights, optimizers, place in the data), log.jsonl, pid. To end a run, write the
number of decay steps into a file `decay` in it; the state before the decay is kept as before_decay.pt, from which a
longer run can go on. A run that is told to terminate saves first. Only saving looks at the clock. Knows batches and
parameters; knows nothing of what is learned.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .mixture import Batch
from .schedule import Schedule

_SAVE_EVERY = 240.0  # seconds
_CLIP = 1.0


Given_co = TypeVar("Given_co", bound=Batch, covariant=True)
Given = TypeVar("Given", bound=Batch)


class Source(Protocol[Given_co]):
    """Batches in an order that can be gone on with (`mixture.Mixture`)."""

    def next(self) -> Given_co: ...

    def state(self) -> dict[str, Any]: ...

    def resume(self, state: Mapping[str, Any]) -> None: ...

    def epochs(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Settings:
    """What a run is made with. matrix_rate: Muon, for hidden matrices; vector_rate: AdamW, for all else.

    steps: in all, the rate falling over the second half of them; None until a decay is asked for.
    """

    matrix_rate: float
    vector_rate: float
    decay: float
    warmup: int
    evaluate_every: int
    log_every: int = 10
    steps: int | None = None


class Optimizers:
    """Muon for the matrices inside a model, AdamW for embeddings, heads and norms."""

    def __init__(self, module: nn.Module, settings: Settings) -> None:
        inner: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                wide = parameter.ndim == 2 and not name.endswith(("embed_tokens.weight", "lm_head.weight"))
                (inner if wide else outer).append(parameter)
        self._parameters = inner + outer
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, settings.matrix_rate, settings.decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(outer, settings.vector_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._rates = [part.param_groups[0]["lr"] for part in self._parts]

    def step(self, scale: float) -> float:
        """Clip, update at `scale` times the full rates, forget the gradients; returns the gradient's norm."""
        norm = float(nn.utils.clip_grad_norm_(self._parameters, _CLIP))
        for part, rate in zip(self._parts, self._rates, strict=True):
            part.param_groups[0]["lr"] = rate * scale
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state(self) -> list[dict[str, Any]]:
        """What `resume` takes."""
        return [part.state_dict() for part in self._parts]

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Go on with saved moments."""
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


class Run(Generic[Given]):
    """One training run in its folder."""

    def __init__(self, folder: Path, module: nn.Module, mixture: Source[Given], settings: Settings) -> None:
        self.folder, self.module, self.mixture, self.settings = folder, module, mixture, settings
        self.optimizers = Optimizers(module, settings)
        self.schedule = Schedule(settings.warmup)
        if settings.steps is not None:
            self.schedule.decay_from = settings.steps // 2
            self.schedule.decay_steps = settings.steps - settings.steps // 2
        self.step = self.tokens = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pid").write_text(str(os.getpid()))
        self._stopped = False
        if (folder / "checkpoint.pt").exists():
            self._resume()

    def train(self, loss_of: Callable[[Given], Tensor], evaluate: Callable[[], dict[str, float]]) -> None:
        """Learn until the decay is over. loss_of: the mean loss of a batch, to be stepped on."""
        signal.signal(signal.SIGTERM, self._stop)
        saved = began = time.monotonic()
        seen, summed = 0, 0.0
        while not self.schedule.over(self.step):
            self._look_for_decay()
            batch = self.mixture.next()
            loss = loss_of(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = self.optimizers.step(self.schedule.scale(self.step))
            self.step += 1
            seen += batch.ids.size
            summed += float(loss.detach())
            self.tokens += batch.ids.size
            if self.step % self.settings.log_every == 0:
                rate = seen / (time.monotonic() - began)
                self.log(loss=summed * batch.ids.size / seen, norm=norm, tokens_per_second=rate)
                began, seen, summed = time.monotonic(), 0, 0.0
            if self.step % self.settings.evaluate_every == 0:
                self.log(heldout=evaluate(), epochs=self.mixture.epochs())
                began, seen = time.monotonic(), 0
            if self._stopped or time.monotonic() - saved > _SAVE_EVERY:
                self.save()
                saved = time.monotonic()
            if self._stopped:
                return
        self.log(heldout=evaluate(), epochs=self.mixture.epochs(), done=True)
        self.save()

    def log(self, **values: Any) -> None:
        """Append one line to log.jsonl."""
        scale = self.schedule.scale(self.step)
        line = {"step": self.step, "tokens": self.tokens, "scale": round(scale, 4)} | values
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write everything that going on needs, whole or not at all."""
        state = {
            "module": self.module.state_dict(),
            "optimizers": self.optimizers.state(),
            "mixture": self.mixture.state(),
            "schedule": asdict(self.schedule),
            "step": self.step,
            "tokens": self.tokens,
            "random": torch.get_rng_state(),
        }
        temporary = self.folder / f".{name}.part"
        torch.save(state, temporary)
        temporary.replace(self.folder / name)

    def _stop(self, *_: object) -> None:
        self._stopped = True

    def _resume(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizers.resume(state["optimizers"])
        self.mixture.resume(state["mixture"])
        self.schedule = Schedule(**state["schedule"])
        self.step, self.tokens = state["step"], state["tokens"]
        torch.set_rng_state(state["random"])

    def _look_for_decay(self) -> None:
        asked = self.folder / "decay"
        if self.schedule.decay_from is None and asked.exists():
            self.save("before_decay.pt")
            self.schedule.decay_from, self.schedule.decay_steps = self.step, int(asked.read_text())
