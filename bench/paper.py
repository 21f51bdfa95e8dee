"""VocabTrim's experiment (arXiv 2506.22694) on the built-in models: which text, which size, what it gains.

Every drafter with its full head and with 50, 25, 12.5 and 6.25 % of the vocabulary, chosen by what the target wrote, by
what the independent drafter wrote, and by raw text, of which an equal number of tokens is counted each time. The target
answers held-out prompts once, greedily in float32, and all heads are replayed on its answers, which gives the rounds
that live decoding would have had (docs/replay.md). EAGLEs draft their tree, the independent drafter a chain of 4.
MBSU follows from bytes. Beside what was measured stands what coverage alone predicts (docs/choose.md, The prediction):
from the calibration text's held-out part, as `choose` does, and from the answers themselves, which shows the formula's
own error. Nothing here is timed but the target's answers, beside the least time for the weights that they read.

    python bench/paper.py [--prompts 140] [--tokens 128] [--drafters eagle independent] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import vocabtrim as vt
from machine import certificate, floor_line
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.cost import chain_acceptance_rate, chain_block_efficiency
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.metrics import Summary
from vocabtrim.measure.recording import Recorded, RecordingHeader, RecordingWriter
from vocabtrim.measure.replay import Replayed, ReplayedVocabulary, replay
from vocabtrim.measure.state_recorder import StateRecorder
from vocabtrim.testbed.demo import DRAFTERS, chosen_prompts
from vocabtrim.testbed.family import calibration, member

Which = tuple[str, float]  # origin of the text, share of the vocabulary
ORIGINS = ("target-generated", "drafter-generated", "raw")
SHARES = (0.5, 0.25, 0.125, 0.0625)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=140)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--drafters", nargs="+", choices=DRAFTERS, default=list(DRAFTERS))
    parser.add_argument("--out", type=Path, help="write the tables as Markdown")
    arguments = parser.parse_args()
    pages: list[str] = []
    replayed: dict[str, dict[Which, ReplayedVocabulary]] = {}
    with TemporaryDirectory() as scratch:
        target = vt.load_target(member("target"), dtype="float32")
        drafters = {name: vt.load_drafter(member(name), target) for name in arguments.drafters}
        states = tuple(dict.fromkeys(state for drafter in drafters.values() for state in drafter.states))
        began = perf_counter()
        recording, passes = record(target, states, arguments, Path(scratch) / "answers")
        seconds, cost = perf_counter() - began, drafter_cost(member("independent"), member("target"))
        # In float32 twice what the files hold.
        of = f"weights of {passes:,} target passes, a prompt's one of them"
        line, floor = floor_line("answers", 2 * cost.target_pass_bytes * passes, seconds, of)
        print(line)
        kept, heldout = kept_vocabularies(Path(scratch))
        for name in drafters:
            found = replay(
                [recording], drafter=member(name), target=member("target"), kept=list(kept.values()), dtype="float32"
            )
            heads = dict(zip([("full", 1.0), *kept], found.kept, strict=True))
            page = tables(name, found, heads)
            print(page)
            pages.append(page)
            replayed[name] = heads
    pages.append(prediction_table(replayed, heldout))
    print(pages[-1])
    if arguments.out:
        arguments.out.write_text("\n".join(pages), encoding="utf-8")
    figures = {
        name: {f"{origin} {share:g}": figures_of(head) for (origin, share), head in heads.items()}
        for name, heads in replayed.items()
    }
    told = {"bench": "paper", "prompts": arguments.prompts, "tokens": arguments.tokens, "floor": floor}
    told |= {"figures": figures}
    print(json.dumps(told | {"machine": certificate(0, ("torch", "transformers"))}))


def record(target: vt.Target, states: tuple[int, ...], arguments: Any, out: Path) -> tuple[Path, int]:
    """What the target alone answers, with the hidden states that any drafter reads; and the passes it took."""
    facts = tokenizer_facts(member("target"))
    header = RecordingHeader("target", facts.hash, target.lm.vocab, vt.Sampling(), states)
    words, recorder, passes = TargetText(member("target")), StateRecorder(states), 0
    with RecordingWriter(out, header) as writer:
        for number, prompt in enumerate(chosen_prompts(arguments.prompts)):
            ids = words.conversation(prompt.messages)
            rounds = list(vt.decode(target, recorder, ids, max_new_tokens=arguments.tokens))
            passes += 1 + len(rounds)
            writer.append(
                Recorded(
                    name=str(number),
                    prompt=tuple(ids),
                    output=tuple(token for round in rounds for token in round.tokens),
                    category=prompt.category,
                    ended=rounds[-1].ended,
                    max_new_tokens=arguments.tokens,
                    hidden=recorder.hidden if states else None,
                )
            )
    return out, passes


def kept_vocabularies(scratch: Path) -> tuple[dict[Which, vt.KeptVocabulary], dict[Which, float]]:
    """The most frequent ids, unseen ones behind them in merge order, for all alike; and their held-out coverage."""
    whole = {origin: counted(calibration(origin), origin) for origin in ORIGINS}
    least = min(counts.tokens for counts in whole.values())
    found, heldout = {}, {}
    for origin in ORIGINS:
        counts = counted(thinned(origin, least / whole[origin].tokens, scratch), origin)
        print(f"{origin}: {counts.tokens:,} tokens counted, a tenth of the documents held out")
        for share in SHARES:
            by_counts = {source.name: 1.0 for source in counts.sources} | {"merge-order": 0.0}  # the paper's way
            kept = vt.choose(counts, keep=round(share * counts.tokenizer.vocab_size), weights=by_counts).kept
            assert kept is not None
            found[origin, share] = kept
            heldout[origin, share] = float(counts.heldout[kept.ids].sum() / counts.heldout.sum())
    return found, heldout


def counted(text: Path, origin: str) -> vt.TokenCounts:
    return vt.count([text], tokenizer=member("target"), origin=origin)


def thinned(origin: str, share: float, scratch: Path) -> Path:
    """As much of a calibration text: records at equal distances."""
    records = gzip.decompress(calibration(origin).read_bytes()).splitlines(keepends=True)
    wanted = round(share * len(records))
    (scratch / f"{origin}.jsonl").write_bytes(b"".join(records[n * len(records) // wanted] for n in range(wanted)))
    return scratch / f"{origin}.jsonl"


def figures_of(head: ReplayedVocabulary) -> dict[str, float]:
    assert head.summary is not None and head.mbsu is not None
    return {
        "kept_size": head.kept_size,
        "coverage": round(head.text.overall.covered / head.text.overall.tokens, 4),
        "block_efficiency": round(head.summary.block_efficiency, 3),
        "mbsu": round(head.mbsu, 3),
    }


def tables(name: str, found: Replayed, heads: dict[Which, ReplayedVocabulary]) -> str:
    """Block efficiency and MBSU by size and text, then by category at an eighth of the vocabulary."""
    full = figures_of(heads["full", 1.0])
    lines = [f"### {name}", "", "| kept | " + " | ".join(f"{origin}" for origin in ORIGINS) + " |"]
    lines += ["|---|" + "---|" * len(ORIGINS)]
    whole = f"{full['block_efficiency']:.2f}, MBSU {full['mbsu']:.2f}"
    lines.append(f"| all {full['kept_size']:,} | " + " | ".join([whole] * len(ORIGINS)) + " |")
    for share in SHARES:
        cells = [figures_of(heads[origin, share]) for origin in ORIGINS]
        told = [
            f"{cell['block_efficiency']:.2f} ({cell['block_efficiency'] / full['block_efficiency']:.1%}), "
            f"MBSU {cell['mbsu']:.2f}"
            for cell in cells
        ]
        lines.append(f"| {cells[0]['kept_size']:,} ({share:.1%}) | " + " | ".join(told) + " |")
    shown = {"full": heads["full", 1.0]} | {origin: heads[origin, 0.125] for origin in ORIGINS}
    by_category = {origin: found.by_category(head) for origin, head in shown.items()}
    lines += ["", "| block efficiency at 12.5 % | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    for category in by_category["full"]:
        cells = [f"{by_category[origin][category].block_efficiency:.2f}" for origin in shown]
        lines.append(f"| {category} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def prediction_table(found: dict[str, dict[Which, ReplayedVocabulary]], heldout: dict[Which, float]) -> str:
    """Block efficiency that coverage predicts, of held-out text and of the answers, beside the measured one."""
    lines = ["### predicted from held-out coverage / from that of the answers / measured", ""]
    lines.append("| kept | coverage: held out, answers | " + " | ".join(found) + " |")
    lines.append("|---|---|" + "---|" * len(found))
    for which, expected in heldout.items():
        answers = figures_of(next(iter(found.values()))[which])
        cells = [f"{which[0]}, {answers['kept_size']:,}", f"{expected:.3f}, {answers['coverage']:.3f}"]
        for heads in found.values():
            measured = figures_of(heads[which])["block_efficiency"]
            predicted = [predict(heads["full", 1.0].summary, coverage) for coverage in (expected, answers["coverage"])]
            told = " / ".join(f"{one:.2f}" for one in (*predicted, measured))
            cells.append(f"{told} ({predicted[1] / measured - 1:+.0%})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def predict(full: Summary | None, coverage: float) -> float:
    """The formula of docs/choose.md, from what the full head reached at its depth."""
    assert full is not None
    depth = len(full.drafted_at)
    return chain_block_efficiency(chain_acceptance_rate(full.block_efficiency, depth) * coverage, depth)


if __name__ == "__main__":
    main()
