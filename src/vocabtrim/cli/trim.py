"""`vocabtrim trim`: the main job, calibration text in, a trimmed and checked drafter out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UnsafeError
from . import options
from .choose import print_choice
from .count import counting, print_counts
from .screen import Json, print_json, print_table, size

if TYPE_CHECKING:
    from ..checkpoint.trim import TrimPlan
    from ..job import Job


def trim(
    drafter: Annotated[str, typer.Argument(help="The drafter: local folder or hub id.")],
    *,
    target: Annotated[str, typer.Option(help="The target it drafts for: local folder or hub id.")],
    calibrate: Annotated[
        list[str],
        typer.Option(
            metavar="SOURCE",
            help="Calibration text as `vocabtrim count` takes it, or a counts file; may be repeated. The first "
            "decides, the others are asked, in their order, about ids that it never saw.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    keep: options.Keep = "auto",
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer, where it is not in its folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, choose and plan; write nothing.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 where the trim is predicted to lose; stop at unreadable text.")
    ] = False,
    origin: options.Origin = "raw",
    text_field: options.TextField = None,
    prompt_field: options.PromptField = None,
    completion_field: options.CompletionField = None,
    chat: options.ChatOnly = False,
    heldout: options.HeldOut = 0.1,
    workers: options.Workers = None,
    multiple: options.Multiple = None,
    prior: options.Prior = True,
    always_keep: options.AlwaysKeep = None,
    no_always_keep: options.NoAlwaysKeep = False,
    block_efficiency: options.BlockEfficiency = None,
    draft_length: options.DraftLength = 4,
    json: Json = False,
) -> None:
    """Trim a drafter: count, choose, cut, check.

    Takes independent causal LMs, EAGLE-1/2, EAGLE-3, Medusa and MTP modules. Nothing is trained, and no other tensor
    changes. Where no size is predicted to gain, it says "do not trim" and writes nothing.

    Example: vocabtrim trim EAGLE-LLaMA3.1-8B/ --target Llama-3.1-8B-Instruct/ --calibrate answers.jsonl --out trimmed/
    """
    from ..job import calibrate_and_trim
    from ..vocabulary.choose_size import parse_keep

    with counting(workers) as on_progress:
        job = calibrate_and_trim(
            drafter,
            target=target,
            calibrate=calibrate,
            out=out,
            keep=parse_keep(keep),
            tokenizer=tokenizer,
            dry_run=dry_run,
            strict=strict,
            count_options={
                "origin": origin,
                "text_field": text_field,
                "prompt_field": prompt_field,
                "completion_field": completion_field,
                "chat": chat,
                "heldout": heldout,
                "workers": workers,
                "strict": strict,
                "on_progress": on_progress,
            },
            choose_options={
                "multiple": multiple,
                "prior": prior,
                "always_keep": not no_always_keep,
                "also_keep": always_keep or (),
                "block_efficiency": block_efficiency,
                "draft_length": draft_length,
            },
        )
    if json:
        print_json(_as_object(job))
    else:
        _print(job)
    if job.report is not None and not job.report.ok:
        problem = job.report.problems[0]
        raise UnsafeError(f"{out} was written but fails its check: {problem.message}", remedy=problem.remedy)


def _as_object(job: Job) -> dict[str, object]:
    plan, result = job.plan, job.result
    return {
        "out": None if result is None else str(result.out),
        "kind": None if plan is None else plan.kind,
        "verdict": job.choice.verdict,
        "reason": job.choice.reason,
        "kept_size": job.choice.picked,
        "head_bytes_before": None if plan is None else plan.head_bytes_before,
        "head_bytes_after": None if plan is None else plan.head_bytes_after,
        "dry_run": plan is not None and result is None,
        "counts": [{"tokens": counts.tokens, "skipped": dict(counts.skipped)} for counts in job.counts],
        "choice": job.choice.as_dict(),
        "check": None
        if job.report is None
        else {
            "ok": job.report.ok,
            "problems": [problem._asdict() for problem in job.report.problems],
            "notes": [note._asdict() for note in job.report.notes],
        },
    }


def _print(job: Job) -> None:
    for counts in job.counts:
        print_counts(counts)
    print_choice(job.choice)
    if job.plan is not None:
        _print_plan(job.plan)
    if job.result is None:
        print("Nothing was written.")
        return
    saved = 1 - job.result.head_bytes_after / job.result.head_bytes_before
    print(
        f"{job.result.out}: {job.result.kind} drafter, head {size(job.result.head_bytes_before)} -> "
        f"{size(job.result.head_bytes_after)} ({saved:.0%} less); every tensor compared with its source"
    )
    assert job.report is not None
    for note in job.report.notes:
        print(f"note, {note.rule}: {note.message}; {note.remedy}")


def _print_plan(plan: TrimPlan) -> None:
    """The tensors that change. All others are copied."""
    rows = [
        (tensor.name, _shape(tensor.source.shape), _shape(tensor.shape), tensor.dtype, size(tensor.nbytes))
        for file in plan.files
        for tensor in file.tensors
        if tensor.source is not None and tensor.rows is not None
    ]
    print_table(f"{plan.kind}: what is cut", ["tensor", "before", "after", "dtype", "bytes after"], rows)
    print(f"{size(plan.out_bytes)} to write in {len(plan.files)} files; all other tensors are copied.")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape)
