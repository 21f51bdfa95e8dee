"""collect: prompts in, what the target answers out, as calibration text.

Knows how the parts of this folder go together: who writes, one after the other or many at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..calibrate.loops import LOOP_RATIO
from ..decoding.text import TargetText
from ..errors import InputError
from ..hub import local_folder
from ..measure.methods import Settings
from ..provenance import birth_certificate, refuse_replacing
from .answers import AnswerFile
from .in_process import LocalTarget, local_identity
from .proposals import proposal_counts
from .server import Server
from .talks import talks
from .tally import Tally, Until
from .transport import Transport
from .work import Collected, RefusedError, Seen, Work


def collect(
    prompts: Sequence[str | Path],
    *,
    out: str | Path,
    target: str | Path | None = None,
    endpoint: str | None = None,
    tokenizer: str | Path | None = None,
    drafter: str | Path | None = None,
    proposals: str | Path | None = None,
    model: str | None = None,
    api: str = "chat",
    extra: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    samples: int = 1,
    categories: Collection[str] | None = None,
    limit: int | None = None,
    until: Until | None = None,
    loop_ratio: float = LOOP_RATIO,
    concurrency: int = 16,
    timeout: float = 120.0,
    patience: float = 600.0,
    first_wait: float = 0.5,
    seen: Seen = lambda collected: None,
) -> Collected:
    """Let a target answer prompts, and write what it says to `out`, in the form that `count` reads.

    prompts: question files (`measure.questions`). out: JSON lines; what a run that was cut off left there is kept and
        not asked for again.
    target: a folder or hub id, decoded here; drafter: drafts for it, and is counted into `proposals`, a counts file.
    endpoint: or a server, with its target's tokenizer. model: its name there. api: "chat" or "completions". extra:
        fields of every request. concurrency: requests in flight. timeout, patience, first_wait: see `Transport`.
    settings: how answers are decoded. samples: answers to each prompt. until: when to stop early. loop_ratio: see
        `ends_in_circles`; 0 leaves nothing out.
    seen: called behind every answer.
    An answer that cannot be given is in `failed`, and asked for again by the next run. Raises InputError for what
    cannot be asked, the errors of `AnswerFile`, `load_target`, `Transport` and `Server`; what was collected is kept.
    """
    settings, until = settings or Settings(), until or Until()
    _prove_arguments(
        target=target, endpoint=endpoint, tokenizer=tokenizer, drafter=drafter, proposals=proposals, api=api
    )
    folder = None if target is None else local_folder(target)
    source = tokenizer if folder is None or tokenizer is not None else folder
    assert source is not None
    words = TargetText(source)
    facts = words.facts
    wanted, again = talks(prompts, samples=samples, categories=categories, limit=limit)
    if proposals is not None:
        refuse_replacing(Path(proposals), "counts", prompts)
    by_server = endpoint is not None and api == "chat"  # renders chats itself
    chat = settings.chat and (by_server or words.template.exists)
    sampling = asdict(settings.sampling)
    told = {"tokenizer": facts.hash, "chat": chat, **sampling, "max_new_tokens": settings.max_new_tokens}
    identity = told | {"seed": settings.seed, "loop_ratio": loop_ratio}
    arguments = {"prompts": [str(path) for path in prompts], "samples": samples, "endpoint": endpoint}
    state = Collected(Tally(facts.vocab_size), sum(len(talk.keys) for talk in wanted), again, until)

    def work_on(file: AnswerFile) -> Work:
        return Work(wanted, state, file, seed=settings.seed, chat=chat, loop_ratio=loop_ratio, seen=seen)

    def opened(writer: dict[str, Any]) -> AnswerFile:
        made = birth_certificate(arguments, {"tokenizer": facts.hash})
        return AnswerFile(Path(out), {"identity": writer | identity, "made": made}, facts.hash)

    if folder is not None:
        with opened(local_identity(folder, drafter, settings)) as file:
            _locally(work_on(file), lambda: LocalTarget(folder, drafter, words, settings))
            if proposals is not None:
                proposal_counts(file.answers(), facts, arguments).save(Path(proposals))
        return state
    assert endpoint is not None
    transport = Transport(endpoint, timeout=timeout, patience=patience, first_wait=first_wait)
    arguments["endpoint"] = transport.url
    server = Server(transport, words, settings, model=model, chat=chat and by_server, more=extra)

    async def remotely() -> None:
        try:
            await server.connect()
            state.way = _told(server)
            with opened({"model": server.model, "api": api, "extra": dict(extra or {})}) as file:
                await _side_by_side(work_on(file), server, concurrency)
        finally:
            await transport.close()

    asyncio.run(remotely())
    return state


def _prove_arguments(
    *, target: object, endpoint: object, tokenizer: object, drafter: object, proposals: object, api: str
) -> None:
    if (target is None) == (endpoint is None):
        found = "neither" if target is None else "both"
        raise InputError(
            "who is to answer", expected="--target or --endpoint", found=found, remedy="pass one of the two"
        )
    if endpoint is not None and tokenizer is None:
        raise InputError(
            "a server's text has no ids without its tokenizer", remedy="pass --tokenizer, the target's folder or hub id"
        )
    if endpoint is not None and (drafter is not None or proposals is not None):
        raise InputError("a server does not tell what its drafter proposes", remedy="pass --target, or no --drafter")
    if proposals is not None and drafter is None:
        raise InputError("nothing is proposed without a drafter", remedy="pass --drafter too")
    if api not in ("chat", "completions"):
        raise InputError("unknown api", expected="chat or completions", found=api, remedy="correct --api")


def _locally(work: Work, load: Callable[[], LocalTarget]) -> None:
    """One after the other; the model is not even loaded where nothing is missing."""
    target: LocalTarget | None = None
    for talk in work.talks:
        target = target or load()
        try:
            while (asked := work.next_turn(talk)) is not None:
                turn, prompt, seed = asked
                try:
                    written = target.answer(prompt, seed)
                except (RuntimeError, MemoryError) as error:  # torch's own are RuntimeErrors
                    raise RefusedError(" ".join(str(error).split())[:300] or type(error).__name__) from error
                work.take(talk, turn, prompt, written)
        except (InputError, RefusedError) as error:
            work.fail(talk, str(error))


async def _side_by_side(work: Work, server: Server, concurrency: int) -> None:
    """So many talks at once, each taking the next when it is through; the first error ends all."""

    async def follow() -> None:
        for talk in work.talks:
            try:
                while (asked := work.next_turn(talk)) is not None:
                    turn, prompt, seed = asked
                    work.take(talk, turn, prompt, await server.answer(prompt, seed))
            except RefusedError as error:
                work.fail(talk, str(error))

    tasks = [asyncio.create_task(follow()) for _ in range(concurrency)]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _told(server: Server) -> str:
    ids = "token ids of the server" if server.way.ids else "its text tokenised again"
    return f"{server.model}, {'streamed' if server.way.stream else 'in one piece'}, {ids}"
