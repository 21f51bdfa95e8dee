"""One prompt answered: folders and words in, text out as it comes, and the rounds that it took.

Knows how the other files of this folder go together; says nothing itself about what is emitted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import torch

from ..errors import InputError
from ..hub import local_folder
from .drafters.choose_plan import choose_plan
from .load import drafter_kind, load_drafter, load_target
from .rounds import Round, decode
from .sampling import Sampling
from .stopping import Reason
from .text import Piece, TargetText, TextStream
from .tuned_plan import tuned_plan

MAX_SEED = 2**63 - 1


class Generation:
    """An answer on its way: iterate for its pieces of text. All else that it holds is what there is so far.

    kind: of the drafter, None without one. prompt_tokens: ids that the target reads, those of its chat template
    included. seed: repeats the run where tokens are sampled; None where nothing is left to chance.
    rounds: in order. prompt_seconds: the target's reading of the prompt. way: what the target's passes are computed by.
    notes: what was drafted by a `tuned.json`.
    """

    def __init__(
        self,
        rounds: Iterator[Round],
        stream: TextStream,
        *,
        kind: str | None,
        prompt_tokens: int,
        seed: int | None,
        way: Callable[[], str],
        notes: Sequence[str] = (),
    ) -> None:
        self.kind, self.prompt_tokens, self.seed, self.way = kind, prompt_tokens, seed, way
        self.notes = tuple(notes)
        self.rounds: list[Round] = []
        self.prompt_seconds = 0.0
        self.text = ""
        self._rounds, self._stream = rounds, stream
        self._ready: deque[Piece] = deque()

    @property
    def token_ids(self) -> list[int]:
        """Emitted ids, the one that ended the answer included."""
        return [token for round in self.rounds for token in round.tokens]

    @property
    def ended(self) -> Reason | None:
        """Why there is no more; None while there may be."""
        return self.rounds[-1].ended if self.rounds else None

    def __iter__(self) -> Iterator[Piece]:
        began = perf_counter()
        for round in self._rounds:
            if not self.rounds:
                self.prompt_seconds = perf_counter() - began - round.seconds
            self.rounds.append(round)
            for position, token in enumerate(round.tokens):
                self._ready += self._stream.feed(token, accepted=position < round.accepted)
            if round.ended is not None:
                self._ready += self._stream.finish(stopped=round.ended is Reason.STOP_STRING)
            yield from self._say()

    def break_off(self) -> Iterator[Piece]:
        """Instead of iterating further: the text of emitted tokens that was still held back."""
        self._ready += self._stream.finish()
        yield from self._say()

    def _say(self) -> Iterator[Piece]:
        while self._ready:
            piece = self._ready.popleft()
            self.text += piece.text
            yield piece


def generate(
    prompt: str,
    *,
    target: str | Path,
    drafter: str | Path | None = None,
    tokenizer: str | Path | None = None,
    chat: bool = True,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int | None = None,
    draft_length: int | None = None,
    nodes: int | None = None,
    branching: int | None = None,
    stop_strings: Sequence[str] = (),
    ignore_stop_ids: bool = False,
    dtype: str = "bfloat16",
    device: str = "cpu",
    lean: bool = True,
) -> Generation:
    """Open target and drafter, and answer a prompt. Whatever can be refused without weights is refused before them.

    tokenizer: the target's, where it is not in its folder. chat: see `TargetText.prompt`. draft_length, nodes,
    branching: see `choose_plan`; where all are None, what `tune` found out about the drafter, which may be to let the
    target answer alone. seed: drawn where None. Others: see `decode` and `load_target`.
    """
    sampling = sampling or Sampling()
    target = local_folder(target)
    words = TargetText(tokenizer or target)
    prompt_ids = words.prompt(prompt, chat=chat)
    numbers = {"draft_length": draft_length, "nodes": nodes, "branching": branching}
    kind = plan = None
    notes: tuple[str, ...] = ()
    if drafter is not None:
        drafter = local_folder(drafter)
        tuned = tuned_plan(drafter, target, numbers, dtype=dtype, device=device)
        notes = tuned.notes
        if tuned.speculate:
            kind = drafter_kind(drafter, target)
            plan = choose_plan(kind, sampling, **tuned.numbers)
        else:
            drafter = None
    elif any(number is not None for number in numbers.values()):
        raise InputError("nothing is drafted without a drafter", remedy="pass --drafter, or leave its options out")
    opened = load_target(target, dtype=dtype, device=device, lean=lean)
    drafting = None if drafter is None else load_drafter(drafter, opened, plan=plan)
    generator = torch.Generator(opened.lm.device)
    seed = generator.seed() & MAX_SEED if seed is None else seed
    rounds = decode(
        opened,
        drafting,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=() if ignore_stop_ids else None,
        stop_strings=stop_strings,
        text=words.written_out,
        generator=generator.manual_seed(seed),
    )
    return Generation(
        rounds,
        TextStream(words, stop_strings),
        kind=kind,
        prompt_tokens=len(prompt_ids),
        seed=None if sampling.greedy else seed,
        way=lambda: opened.lm.way,
        notes=notes,
    )
