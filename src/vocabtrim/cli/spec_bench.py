"""`vocabtrim spec-bench`: what an answer file says that Spec-Bench itself wrote, whoever ran it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .screen import Json, print_json, print_table

if TYPE_CHECKING:
    from ..measure.spec_bench import Answer
    from ..measure.spec_bench_figures import Pair, UpstreamFigures


def spec_bench(
    answers: Annotated[Path, typer.Argument(help="An answer file that Spec-Bench wrote.")],
    *,
    baseline: Annotated[Path | None, typer.Option(help="The answer file of autoregressive decoding.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Spec-Bench's question file, for the categories where answers name none.")
    ] = None,
    cost_ratio: Annotated[
        float | None, typer.Option(help="Bytes of one draft step / bytes of one target pass; gives MBSU.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Draft steps of a round, for MBSU; 5 unless given, as EAGLE-2 takes.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer: gives Spec-Bench's own figures too.")
    ] = None,
    json: Json = False,
) -> None:
    """Summarise answers that Spec-Bench wrote: block efficiency, acceptance, MBSU for stated costs, paired speed-up.

    Ratios are of sums, over turns that did not fail. With --tokenizer and --baseline it also prints what Spec-Bench's
    own script would, so that published numbers can be recognised.

    Example: vocabtrim spec-bench eagle2.jsonl --baseline vanilla.jsonl --questions question.jsonl --cost-ratio 0.08
    """
    from ..measure.questions import questions as read_questions
    from ..measure.spec_bench import read_answers
    from ..measure.spec_bench_figures import by_category, pairs, upstream_figures

    if cost_ratio is not None and not 0 <= cost_ratio < float("inf"):
        raise InputError("the cost ratio is out of range", expected="0 or more", found=cost_ratio, remedy="see inspect")
    if tokenizer is not None and baseline is None:
        raise InputError(
            "Spec-Bench's own speed-up is over a baseline", remedy="pass --baseline, or leave --tokenizer out"
        )
    if steps is not None and cost_ratio is None:
        raise InputError("draft steps cost nothing that is known", remedy="pass --cost-ratio, or leave --steps out")
    asked = [] if questions is None else read_questions(questions)
    given = read_answers(answers, asked)
    plain = None if baseline is None else read_answers(baseline, asked)
    paired = {} if plain is None else by_category(pairs(given, plain))
    found = {
        category: _object(part, paired.get(category), cost_ratio, steps or 5)
        for category, part in by_category(given).items()
    }
    printed = None
    if tokenizer is not None and plain is not None:
        printed = upstream_figures(given, plain, _counter(tokenizer))
    if json:
        overall = found.pop("overall")
        print_json({"answers": str(answers), **overall, "categories": found, "upstream": _upstream(printed)})
    else:
        _tell(found, printed)


def _counter(tokenizer: str) -> Callable[[str], int]:
    from ..decoding.text import TargetText

    words = TargetText(tokenizer)
    return lambda text: len(words.tokenizer.encode(text).ids)


def _object(part: list[Answer], paired: list[Pair] | None, cost_ratio: float | None, steps: int) -> dict[str, Any]:
    from ..measure.spec_bench_figures import compare, figures

    own = figures(part)
    told: dict[str, Any] = {
        "turns": own.turns,
        "failed": own.failed,
        "new_tokens": own.new_tokens,
        "decoding_steps": own.decoding_steps,
        "block_efficiency": own.block_efficiency,
        "acceptance_by_depth": list(own.acceptance_by_depth),
        "tokens_per_second": own.tokens_per_second,
        "mbsu": None if cost_ratio is None else own.mbsu(cost_ratio, steps),
    }
    if paired is not None:
        compared = compare(paired)
        told |= {"pairs": compared.pairs, "speedup": compared.speedup, "same_text": compared.same_text}
    return told


def _upstream(printed: UpstreamFigures | None) -> dict[str, Any] | None:
    if printed is None:
        return None
    return {
        "mean_accepted_tokens": printed.mean_accepted_tokens,
        "tokens_per_second": printed.tokens_per_second,
        "baseline_tokens_per_second": printed.baseline_tokens_per_second,
        "speedup": printed.speedup,
    }


def _tell(found: dict[str, dict[str, Any]], printed: UpstreamFigures | None) -> None:
    paired = "speedup" in found["overall"]
    columns = ["", "turns", "failed", "block efficiency", "MBSU", "tokens/s"]
    columns += ["pairs", "speed-up", "same text"] if paired else []
    rows = []
    for category, told in found.items():
        row = [
            category,
            f"{told['turns']:,}",
            f"{told['failed']:,}",
            f"{told['block_efficiency']:.2f}",
            "-" if told["mbsu"] is None else f"{told['mbsu']:.2f}",
            f"{told['tokens_per_second']:.1f}",
        ]
        if paired:
            row += [f"{told['pairs']:,}", f"{told['speedup']:.2f}", f"{told['same_text']:,}"]
        rows.append(row)
    print_table("Spec-Bench answers: sums over sums, the reading of prompts included", columns, rows)
    depths = found["overall"]["acceptance_by_depth"]
    if depths:
        print("Accepted so deep, of all target passes: " + " ".join(f"{share:.2f}" for share in depths))
    if printed is not None:
        mean = "-" if printed.mean_accepted_tokens is None else f"{printed.mean_accepted_tokens:.2f}"
        print(
            f"Spec-Bench's own script would print: mean accepted tokens {mean}, "
            f"{printed.tokens_per_second:.2f} tokens/s against {printed.baseline_tokens_per_second:.2f}, "
            f"speed-up {printed.speedup:.2f}."
        )
