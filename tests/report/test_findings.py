"""The verdict says what the interval allows, and no more."""

from __future__ import annotations

import pytest

from hand_runs import answer, header, method, run_of, three_way
from vocabtrim.measure.records import Difference, Failed, Generated, Key, Run
from vocabtrim.report import findings
from vocabtrim.report.findings import NOT_COMPARED, UNDECIDED, Verdict, joint_headline, verdict
from vocabtrim.report.summary import summarise_runs
from vocabtrim.vocabulary.choose_size import DO_NOT_TRIM, TRIM


def judged(run: Run) -> Verdict:
    return verdict(summarise_runs({"greedy": run})[0])


def only_six(run: Run) -> Run:
    methods = [told for told in run.header["methods"] if told["name"] != "four"]
    return Run({**run.header, "methods": methods}, {k: v for k, v in run.generated.items() if k[2] != "four"})


def test_trim() -> None:
    told = judged(only_six(three_way(faster=3.0)))
    assert told.kind == TRIM and told.headline == "Trim to 6 ids: 3.00 times as fast as with the full head"
    assert told.sentence == (
        "Trimmed to 6 ids the drafter emits 11.1 % fewer tokens per target pass and is 3.00 times as fast as with its "
        "full head (95 %: 3.00 to 3.00)."
    )
    assert told.beside == "With it the target is 3.00 times as fast as alone (95 %: 3.00 to 3.00)."
    assert told.caution == "" and not told.alone_is_faster


def test_do_not_trim() -> None:
    told = judged(only_six(three_way(faster=0.5)))
    assert told.kind == DO_NOT_TRIM and told.headline.startswith("Do not trim to 6 ids: 0.50 times")
    assert told.alone_is_faster and "The target alone is faster here" in told.beside


def test_a_trim_that_helps_a_drafter_that_does_not() -> None:
    """Faster than its full head and slower than no drafter: both are said, and the headline is not "trim"."""
    run = only_six(three_way(faster=2.0))
    for key, found in list(run.generated.items()):
        if key[2] != "autoregressive":
            slow = [(r.emitted, r.depth, 10 * r.seconds) for r in found.rounds]
            run.add(answer(found.question, found.method, found.token_ids, slow, category=found.category))
    told = judged(run)
    assert told.kind == TRIM and told.alone_is_faster
    assert told.headline == "Trimming to 6 ids helps, but the target alone is faster"


def test_no_difference_where_the_interval_holds_one() -> None:
    run = only_six(three_way())
    for key, found in list(run.generated.items()):
        if key[2] == "six":  # on half of the questions twice as fast, on the others half
            factor = 0.25 if int(found.question[1:]) % 2 else 1.0
            times = [(r.emitted, r.depth, factor * 4 * r.seconds) for r in found.rounds]
            run.add(answer(found.question, "six", found.token_ids, times, category=found.category))
    told = judged(run)
    assert told.kind == UNDECIDED and "may be chance" in told.sentence
    assert told.headline == "No difference can be told between 6 ids and the full head"


@pytest.mark.parametrize(("questions", "kind"), [(1, UNDECIDED), (5, UNDECIDED), (6, TRIM)])
def test_few_questions_decide_nothing(questions: int, kind: str) -> None:
    """Every question says three times as fast, so the interval is a point: five of them still prove nothing."""
    told = judged(only_six(three_way(questions, faster=3.0)))
    assert told.kind == kind
    if kind == UNDECIDED:
        assert f"on no more than {questions} question{'s'[: questions > 1]}." in told.sentence
        assert "Fewer than 6 questions decide nothing" in told.caution


def test_cautions() -> None:
    run = three_way()
    run.add(Failed("q0", "math", 0, "six", "out of memory"))
    run.add(Difference("q1", 0, "six", 0, 7, 5, 0.001))
    first = run.generated["q1", 0, "six"]
    run.add(answer("q1", "six", [5, *first.token_ids[1:]], [(2, 3, 0.5)] * 4, category="code"))
    told = judged(run)
    assert "fastest of 2 trimmed heads measured" in told.caution
    assert "Failed, and in no figure: 1 question." in told.caution
    assert "Not the target's own, token for token: 1 answer" in told.caution


def test_a_run_that_was_cut_off_says_so() -> None:
    run = three_way()
    asked = len({answer.question for answer in run.generated.values()})
    assert "not finished" not in judged(Run({**run.header, "questions": asked}, run.generated)).caution
    told = judged(Run({**run.header, "questions": asked + 3}, run.generated))
    assert f"The run is not finished: {asked} of {asked + 3} questions asked." in told.caution


def test_without_a_full_head_or_without_a_trim() -> None:
    run = three_way(faster=2.0)
    plain, full, _, six = run.header["methods"]
    without_full = judged(Run({**run.header, "methods": [plain, six]}, _of(run, "autoregressive", "six")))
    assert without_full.kind == NOT_COMPARED
    assert without_full.headline == "6 ids: 2.00 times as fast as the target alone; the full head was not measured"
    without_trim = judged(Run({**run.header, "methods": [plain, full]}, _of(run, "autoregressive", "full")))
    assert without_trim.headline.startswith("Only an untrimmed drafter was measured: 1.00 times")


def _of(run: Run, *names: str) -> dict[Key, Generated]:
    return {key: found for key, found in run.generated.items() if key[2] in names}


def test_one_line_over_several_runs() -> None:
    def line(**factors: float) -> str:
        return joint_headline(summarise_runs({label: only_six(three_way(faster=f)) for label, f in factors.items()}))

    assert line(greedy=3.0) == "Trim to 6 ids: 3.00 times as fast as with the full head"
    assert line(greedy=3.0, sampled=2.0) == (
        "Trim to 6 ids; times as fast as the full head: 3.00 (greedy), 2.00 (sampled)"
    )
    assert line(greedy=3.0, sampled=0.5).startswith("The runs disagree on 6 ids")
    assert line(greedy=0.4, sampled=0.5).startswith("Do not trim to 6 ids;")


def test_headings_say_numbers() -> None:
    (run,) = summarise_runs({"greedy": three_way(faster=2.0)})
    assert findings.coverage(run) == "6 ids cover 75.00 % of what was emitted"
    assert findings.block_efficiency(run) == "1.78 tokens per target pass, 2.00 with the full head"
    assert findings.mbsu(run) == "By bytes, 1.34 times the target alone, 1.38 with the full head"
    assert findings.draft_step(run).startswith("A draft step reads 110 B instead of 150 B")
    assert (
        findings.lost_tokens(run) == "25.0 % of emitted tokens lie outside the head; 50 % of them stood in the prompt"
    )
    assert findings.parity(run) == "All 24 drafted answers are the target's own, token for token"
    assert findings.categories(run) == "By category, of too few questions each to tell them apart"
    (many,) = summarise_runs({"greedy": three_way(questions=12, faster=2.0)})
    assert findings.categories(many).endswith("2.00 times as fast as the full head in every category")


def test_a_run_whose_drafter_never_drafted() -> None:
    records = [answer(f"q{n}", name, [1], [(1, 0, 1.0)]) for n in range(3) for name in ("autoregressive", "full")]
    (run,) = summarise_runs({"greedy": run_of(header(method("full")), *records)})
    assert findings.acceptance(run) == "Nothing was drafted"
