"""`vocabtrim choose`: which ids a drafter keeps, and whether it should be trimmed at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UnsafeError
from . import options
from .generate import quiet
from .screen import Json, print_json, print_table, size

if TYPE_CHECKING:
    from ..vocabulary.choose_size import Choice
    from ..vocabulary.size_table import SizeRow


def choose(
    counts: Annotated[list[Path], typer.Argument(help="Counts files: the primary first, then those that fill it in.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="The kept.safetensors to write; without it, only look.")
    ] = None,
    keep: options.Keep = "auto",
    drafter: Annotated[Path | None, typer.Option(help="The drafter's folder, to predict what a trim gains.")] = None,
    target: Annotated[
        Path | None, typer.Option(help="The target's folder, with --drafter or for its stop ids.")
    ] = None,
    multiple: options.Multiple = None,
    prior: options.Prior = True,
    other_work: options.OtherWork = 0.3,
    weight: options.Weight = None,
    workload: options.Workload = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="To tokenise --workload with, where --target is not given.")
    ] = None,
    always_keep: options.AlwaysKeep = None,
    no_always_keep: options.NoAlwaysKeep = False,
    block_efficiency: options.BlockEfficiency = None,
    measured: Annotated[
        Path | None, typer.Option(help="A run of `vocabtrim bench`: its measurements instead of predictions.")
    ] = None,
    draft_length: options.DraftLength = 4,
    sweep: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded target output: a grid of sizes is replayed on it first; may be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where the trim is predicted to lose.")] = False,
    json: Json = False,
) -> None:
    """Choose the ids that a drafter keeps.

    Shows what each size would cover, in-sample and held-out, and, with --drafter and --target, what it would cost and
    gain. Writes kept.safetensors, or says "do not trim" and writes nothing.

    The first counts file is the primary, of the text most like the work; the others and the tokenizer's merge order
    fill in what it is too small to show. --weight and --workload say otherwise.

    Example: vocabtrim choose answers.st web.st --drafter eagle/ --target llama/ --out kept.safetensors
    """
    from ..job import choose as choose_ids
    from ..provenance import refuse_replacing
    from ..vocabulary import choose_size
    from ..vocabulary.kept_size import parse_keep
    from ..vocabulary.mixture import parse_weights

    if sweep:
        quiet()
    if out is not None:
        refuse_replacing(out, "kept", counts)
    choice = choose_ids(
        counts,
        parse_keep(keep),
        drafter=drafter,
        target=target,
        multiple=multiple,
        prior=prior,
        other_work=other_work,
        weights=parse_weights(weight or []),
        workload=workload,
        tokenizer=tokenizer,
        always_keep=not no_always_keep,
        also_keep=always_keep or (),
        block_efficiency=block_efficiency,
        measured=measured,
        sweep=sweep or (),
        draft_length=draft_length,
    )
    if strict and choice.verdict in (choose_size.DO_NOT_TRIM, choose_size.LOSING):
        raise UnsafeError(choice.reason, remedy="serve the drafter as it is; nothing was written")
    written = None
    if choice.kept is not None and out is not None:
        choice.kept.save(out)
        written = str(out)
    if json:
        print_json({**choice.as_dict(), "out": written})
    else:
        print_choice(choice)
        print(f"Wrote {written}." if written else "Nothing was written.")


def print_choice(choice: Choice) -> None:
    """The table by kept size and the verdict with its grounds; for choose and trim alike."""
    with_cost = choice.sizes[-1].mbsu is not None
    timed = choice.sizes[-1].speedup is not None
    columns = ["kept ids", "in-sample", "held-out"]
    if with_cost:
        columns += ["head", "draft step", "block efficiency", "MBSU", "MBSU, paper's mode"]
    if timed:
        columns.append("speed-up")
    print_table("By kept size", columns, [_cells(row, choice, with_cost) for row in choice.sizes])
    if len(choice.sizes[-1].coverage_by_source) > 1:
        title = f"{choice.basis.capitalize()} coverage by source and kept size"
        print_table(title, ["source", *(_label(row, choice) for row in choice.sizes)], _by_source(choice))
    print(f"Coverage is counted on {choice.basis_tokens:,} {choice.basis} tokens of the primary counts.")
    _print_confidence(choice)
    if choice.workload is not None:
        fit = choice.workload
        print_table(
            f"Coverage of {fit.read_tokens:,} tokens of the workload that no weight was fitted on",
            ["kept ids", "fitted weights", "default weights"],
            [[f"{row.kept_size:,}", _share(row.coverage), _share(row.default_coverage)] for row in fit.rows],
        )
    print(f"Weights, {choice.weighed}: {', '.join(f'{name} {w:.4f}' for name, w in choice.weights.items())}.")
    if with_cost:
        measured = "assumed; --block-efficiency sets it" if choice.assumed else "as measured"
        if choice.measured is not None:
            times = " and the times behind the speed-up" if timed else ""
            print(f"Block efficiencies with a *{times} were measured: {choice.measured}.")
        print(
            f"Predicted for a full-head block efficiency of {choice.block_efficiency:.2f} ({measured}) "
            f"with {choice.draft_length} drafted tokens a round."
        )
    if choice.always_keep:
        print(f"Always kept: {_listed(choice.always_keep)}.")
    if choice.unavailable:
        print(f"Always-keep ids that the drafter's head does not have: {_listed(choice.unavailable)}.")
    if choice.kept is not None:
        origins = ", ".join(f"{number:,} by {name}" for name, number in choice.kept.by_origin().items() if number)
        print(f"Where the {choice.kept.size:,} ids come from: {origins}.")
    print(f"Verdict: {choice.verdict}. {choice.reason}.")


def _print_confidence(choice: Choice) -> None:
    """How sure the coverage at the pick is, and what more calibration text would bring."""
    if choice.interval is not None:
        print(
            f"With {choice.picked:,} ids it lies between {choice.interval.low:.4f} and {choice.interval.high:.4f} "
            f"({choice.interval.level:.0%} interval over {choice.interval.blocks} blocks of held-out documents)."
        )
    unseen = choice.unseen
    if unseen is None:
        return
    if unseen.heldout is None:
        told = f"Calibration has not seen the ids of at least {unseen.good_turing:.2%} of the text to come"
    else:
        told = (
            f"Calibration never saw the ids of {unseen.heldout:.2%} of the held-out tokens "
            f"({unseen.heldout_lost:.2%} are not kept either; Good-Turing expects at least {unseen.good_turing:.2%})"
        )
    more = "" if unseen.to_halve is None else f"; some {unseen.to_halve:,} more tokens would halve that"
    print(f"{told}{more}.")


def _cells(row: SizeRow, choice: Choice, with_cost: bool) -> list[str]:
    cells = [_label(row, choice), _share(row.coverage), _share(row.heldout_coverage)]
    if with_cost:
        bytes_read = (row.head_bytes, row.draft_step_bytes)
        predicted = (row.predicted_block_efficiency, row.mbsu, row.mbsu_parameters)
        cells += [*(size(number or 0) for number in bytes_read), *(f"{number:.3f}" for number in predicted)]
        cells[-3] += " *" if row.measured else ""
    if row.speedup is not None:
        cells.append(f"{row.speedup:.3f}")
    return cells


def _by_source(choice: Choice) -> list[list[str]]:
    """A row per source: what each size covers of it."""
    held_out = choice.basis == "held-out"
    columns = [row.heldout_coverage_by_source if held_out else row.coverage_by_source for row in choice.sizes]
    return [[name, *(_share(column[name]) for column in columns)] for name in columns[0]]


def _label(row: SizeRow, choice: Choice) -> str:
    if row is choice.sizes[-1]:
        return f"{row.kept_size:,} (full)"
    return f"{row.kept_size:,}{' <' if row.kept_size == choice.picked else ''}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.4f}"


def _listed(ids: Any) -> str:
    return ", ".join(f"{token} ({reason})" for token, reason in list(ids.items())[:12]) + (
        f" and {len(ids) - 12} more" if len(ids) > 12 else ""
    )
