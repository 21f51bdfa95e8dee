"""What a bench measures: the target alone and drafters beside it, how all of them generate, and the run's first line.

Knows folders and their headers; no model is loaded here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..calibrate.tokenizer import tokenizer_facts
from ..checkpoint.costs import available_ids, drafter_cost
from ..checkpoint.read import open_checkpoint
from ..checkpoint.stored import fingerprint
from ..decoding.drafters.choose_plan import choose_plan, plan_depth
from ..decoding.drafters.plans import Plan, StaticTree
from ..decoding.load import drafter_kind
from ..decoding.rounds import GREEDY
from ..decoding.sampling import Sampling
from ..decoding.tuned_plan import TunedPlan, tuned_plan
from ..errors import InputError
from ..hub import local_folder
from ..provenance import birth_certificate
from .questions import Question
from .recording import RecordingHeader
from .records import AUTOREGRESSIVE, FULL


@dataclass(frozen=True)
class Settings:
    """How all methods generate. sampling, draft_length, nodes, branching: see `choose_plan`. chat: see `TargetText`.
    lean: see `load_target`."""

    max_new_tokens: int = 128
    sampling: Sampling = GREEDY
    seed: int = 0
    draft_length: int | None = None
    nodes: int | None = None
    branching: int | None = None
    chat: bool = True
    dtype: str = "bfloat16"
    device: str = "cpu"
    lean: bool = True

    @property
    def numbers(self) -> dict[str, int | None]:
        """What is asked of all drafters."""
        return {"draft_length": self.draft_length, "nodes": self.nodes, "branching": self.branching}

    def plan(self, kind: str, tuned: TunedPlan | None = None) -> Plan | StaticTree | None:
        """What a drafter of that kind drafts, by its `tuned.json` where it has one. Raises as `choose_plan`."""
        return choose_plan(kind, self.sampling, **(self.numbers if tuned is None else tuned.numbers))


@dataclass(frozen=True)
class Method:
    """A way to generate. folder, kind, kept_size, kept_ids, cost: of its drafter; None for the target alone.

    kept_ids: (kept_size,) target ids that its head drafts; None where it drafts all. tuned: what its `tuned.json` makes
    it draft; None where it has none.
    """

    name: str
    folder: Path | None = None
    kind: str | None = None
    kept_size: int | None = None
    kept_ids: Any = None
    cost: dict[str, Any] | None = None
    fingerprint: str | None = None
    tuned: TunedPlan | None = None

    def as_object(self) -> dict[str, Any]:
        """What the run's header says of it."""
        folder = None if self.folder is None else self.folder.name
        ids = None if self.kept_ids is None else self.kept_ids.tolist()
        shown = {"name": self.name, "folder": folder, "kind": self.kind, "kept_size": self.kept_size}
        notes = {} if self.tuned is None else {"notes": list(self.tuned.notes)}
        return {**shown, "cost": self.cost, "kept_ids": ids, **notes}

    def depth(self, settings: Settings) -> int | None:
        """How deep a round drafts, the steps that it takes; None without a drafter, and for a tree that is its own."""
        return None if self.kind is None else plan_depth(settings.plan(self.kind, self.tuned))


def methods_of(
    target: Path, drafter: str | Path | None, trimmed: Sequence[str | Path], settings: Settings
) -> list[Method]:
    """The target alone, `FULL` and every trimmed drafter by its folder's name, drafting as it was tuned where it was.

    Raises InputError where two go by one name, and what `drafter_cost` and `drafter_kind` raise.
    """
    methods = [Method(AUTOREGRESSIVE)]
    if drafter is not None:
        methods.append(_method(FULL, local_folder(drafter), target, settings))
    folders = [local_folder(path) for path in trimmed]
    for folder in folders:
        same = [other for other in folders if other.name == folder.name]
        name = folder.name if len(same) == 1 else f"{folder.parent.name}/{folder.name}"
        methods.append(_method(name, folder, target, settings))
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two drafters go by the name {twice}", expected="folders of different names", remedy="rename one of them"
        )
    return methods


def _method(name: str, folder: Path, target: Path, settings: Settings) -> Method:
    cost = drafter_cost(folder, target)
    place = {"dtype": settings.dtype, "device": settings.device}
    tuned = tuned_plan(folder, target, settings.numbers, **place, always=True)
    return Method(
        name=name,
        folder=folder,
        kind=drafter_kind(folder, target),
        kept_size=cost.full_head_rows,
        kept_ids=available_ids(folder, target),
        cost=asdict(cost),
        fingerprint=fingerprint(open_checkpoint(folder).tensors.values()),
        tuned=tuned if tuned.notes else None,
    )


def run_header(
    folder: Path,
    tokenizer: str | Path,
    methods: Sequence[Method],
    questions: Sequence[Question],
    settings: Settings,
) -> dict[str, Any]:
    """The first line of a run. identity: what must be the same where it is gone on with; questions may be added."""
    told = asdict(settings)
    facts = tokenizer_facts(tokenizer)
    identity = {
        "target": fingerprint(open_checkpoint(folder).tensors.values()),
        "methods": {method.name: method.fingerprint for method in methods},
        "tokenizer": facts.hash,
        **told.pop("sampling"),
        **told,
    }
    tuned = {method.name: dict(method.tuned.numbers) for method in methods if method.tuned is not None}
    if tuned:  # so that a run goes on only as it began
        identity["tuned"] = tuned
    made = birth_certificate({"threads": torch.get_num_threads()}, {"questions": _hash(questions)})
    return {
        "made": made | {"torch": torch.__version__},
        "target": folder.name,
        "vocabulary": facts.vocab_size,
        "questions": len(questions),
        "identity": identity,
        "methods": [method.as_object() | {"depth": method.depth(settings)} for method in methods],
    }


def recording_header(header: dict[str, Any], settings: Settings, states: tuple[int, ...]) -> RecordingHeader:
    """The same of a recording of the target's answers. header: `run_header`'s."""
    return RecordingHeader(
        target=header["target"],
        tokenizer_hash=header["identity"]["tokenizer"],
        vocab=header["vocabulary"],
        sampling=settings.sampling,
        states=states,
        certificate=header["made"],
    )


def _hash(questions: Sequence[Question]) -> str:
    digest = hashlib.sha256()
    for question in questions:
        digest.update(repr((question.name, question.turns, question.before)).encode())
    return digest.hexdigest()
