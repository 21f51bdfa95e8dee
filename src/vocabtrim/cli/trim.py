"""`vocabtrim trim`: the main job, calibration text in, a trimmed and checked drafter out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, UnsafeError
from . import options
from .choose import print_choice
from .count import counting, print_counts
from .export import as_object, tell
from .screen import Json, print_json, print_table, size

if TYPE_CHECKING:
    from ..checkpoint.trim import TrimPlan
    from ..job import Job


def trim(
    drafter: Annotated[str, typer.Argument(help="The drafter: local folder or hub id.")],
    *,
    target: Annotated[str, typer.Option(help="The target it drafts for: local folder or hub id.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Calibration text as `vocabtrim count` takes it, or a counts file; may be repeated. The first "
            "is the text most like the work, the others fill in what it is too small to show.",
        ),
    ] = None,
    kept: Annotated[
        Path | None, typer.Option(help="A kept.safetensors chosen before, in place of --calibrate.")
    ] = None,
    keep: options.Keep = "auto",
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer, where it is not in its folder.")
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENGINE",
            help="Write the result as this engine takes it too, into OUT/exports; may be repeated, or several with "
            "commas between them. What `vocabtrim export` says holds here.",
        ),
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
    other_work: options.OtherWork = 0.3,
    weight: options.Weight = None,
    workload: options.Workload = None,
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
    from ..job import calibrate_and_trim, trim_to
    from ..vocabulary.kept_size import parse_keep
    from ..vocabulary.mixture import parse_weights

    if kept is not None:
        if calibrate:
            raise InputError("both --calibrate and --kept are given", remedy="give one of them")
        _tell(trim_to(drafter, kept, target=target, out=out, dry_run=dry_run, exports=export or ()), json)
        return
    if not calibrate:
        raise InputError(
            "nothing says which ids to keep", remedy="pass calibration text with --calibrate, or a file with --kept"
        )
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
            exports=export or (),
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
                "other_work": other_work,
                "weights": parse_weights(weight or []),
                "workload": workload,
                "always_keep": not no_always_keep,
                "also_keep": always_keep or (),
                "block_efficiency": block_efficiency,
                "draft_length": draft_length,
            },
        )
    _tell(job, json)


def _tell(job: Job, json: bool) -> None:
    """Print the job. Raises UnsafeError where the drafter that was written fails its check."""
    if json:
        print_json(_as_object(job))
    else:
        print_job(job)
    if job.result is not None and job.report is not None and not job.report.ok:
        problem = job.report.problems[0]
        raise UnsafeError(f"{job.result.out} was written but fails its check: {problem.message}", remedy=problem.remedy)


def _as_object(job: Job) -> dict[str, object]:
    from ..vocabulary.choose_size import NOT_JUDGED

    plan, result, choice = job.plan, job.result, job.choice
    return {
        "out": None if result is None else str(result.out),
        "kind": None if plan is None else plan.kind,
        "verdict": NOT_JUDGED if choice is None else choice.verdict,
        "reason": None if choice is None else choice.reason,
        "kept_size": None if plan is None else plan.kept.size,
        "head_bytes_before": None if plan is None else plan.head_bytes_before,
        "head_bytes_after": None if plan is None else plan.head_bytes_after,
        "dry_run": plan is not None and result is None,
        "counts": [{"tokens": counts.tokens, "skipped": dict(counts.skipped)} for counts in job.counts],
        "choice": None if choice is None else choice.as_dict(),
        "check": None
        if job.report is None
        else {
            "ok": job.report.ok,
            "problems": [problem._asdict() for problem in job.report.problems],
            "notes": [note._asdict() for note in job.report.notes],
        },
        "exports": [as_object(written) for written in job.exports],
    }


def print_job(job: Job) -> None:
    """What was counted and chosen, what is cut, and what came out; for trim and demo alike."""
    for counts in job.counts:
        print_counts(counts)
    if job.choice is not None:
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
    for written in job.exports:
        tell(written)


def _print_plan(plan: TrimPlan) -> None:
    """The tensors that change. All others are copied."""
    rows = [
        (tensor.name, _shape(tensor.source.shape), _shape(tensor.shape), tensor.dtype, size(tensor.nbytes))
        for file in plan.files
        for tensor in file.tensors
        if tensor.source is not None and tensor.pick is not None
    ]
    print_table(f"{plan.kind}: what is cut", ["tensor", "before", "after", "dtype", "bytes after"], rows)
    print(f"{size(plan.out_bytes)} to write in {len(plan.files)} files; all other tensors are copied.")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape)
