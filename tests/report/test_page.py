"""The page and the Markdown as text: what strangers wrote into names and tokens stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hand_runs import KEPT, answer, counts, header, method, run_of, three_way
from vocabtrim.measure.records import Run
from vocabtrim.report import escape, plots
from vocabtrim.report.html import embedded, page
from vocabtrim.report.markdown import as_markdown
from vocabtrim.report.plots import COLOURS, as_png, as_svg, draw, inline_svg
from vocabtrim.report.summary import summarise_runs

EVIL = '</script><script>alert("1")</script><img src=x onerror=alert(2)>|`$x$`'
MADE: dict[str, Any] = {"inputs": {"greedy": "f" * 64}, "created": "2026-01-01T00:00:00+00:00", "version": "0"}


class Seen(HTMLParser):
    """Every element of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def written(run: Run, *counted: Any, tokens: dict[int, str] | None = None, label: str = "greedy") -> str:
    runs = summarise_runs({label: run}, counted)
    drawn = {found.label: draw(found) for found in runs}
    return page(runs, drawn, tokens or {}, [], MADE).decode()


def hostile_run() -> Run:
    """Its target, methods, categories, questions and failures are all markup."""
    records = []
    for number in range(6):
        for name in ("autoregressive", "full", EVIL):
            told = {"category": EVIL if number % 2 else "_plain$"}
            records.append(answer(f"{EVIL}{number}", name, [0, 6], [(2, 3, 1.0)], **told))
    run = run_of(header(method("full"), method(EVIL, KEPT["six"], kind=EVIL), target=EVIL), *records)
    run.header["methods"][1]["kind"] = EVIL
    run.header["identity"]["dtype"] = EVIL
    run.header["made"]["machine"] = EVIL
    return run


def test_markup_in_names_and_tokens_is_text() -> None:
    html = written(hostile_run(), counts(), tokens={6: EVIL}, label=EVIL)
    seen = Seen(html)
    names = [tag for tag, _ in seen.elements]
    assert names.count("script") == 2 and "img" not in names
    assert not [told for _, told in seen.elements if any(name.startswith("on") for name in told)]
    assert seen.text.count('alert("1")') > 10  # it is all there, to be read
    assert EVIL not in html


@pytest.mark.parametrize("hostile", ["</script><script>", "<!--", "]]>", "\u2028", "&amp;", '"', "\ud800"])
def test_data_cannot_end_its_element(hostile: str) -> None:
    told = embedded({"said": [hostile]})
    assert not set("<>&\u2028\ud800") & set(told)
    assert json.loads(told) == {"said": [hostile]}


def test_nothing_is_fetched() -> None:
    html = written(three_way(), counts(), tokens={6: "six"})
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", html.replace("'sha256-", ""))
    fetching = {"src", "srcset", "data", "poster", "action", "background"}
    assert not [told for _, told in Seen(html).elements if fetching & set(told)]
    links = [told.get("href") for _, told in Seen(html).elements if told.get("href")]
    assert links and all(str(link).startswith("#") for link in links)  # marks that curves use again and again
    assert "default-src 'none'" in html


def test_every_id_is_there_once() -> None:
    runs = summarise_runs({"greedy": three_way(), "temperature 1": three_way(temperature=1.0)}, [counts()])
    html = page(runs, {run.label: draw(run) for run in runs}, {}, [], MADE).decode()
    ids = [told["id"] for _, told in Seen(html).elements if "id" in told]
    assert len(ids) == len(set(ids))
    cursors = [told["data-cursor"] for _, told in Seen(html).elements if "data-cursor" in told]
    assert len(cursors) == 8 and set(cursors) <= set(ids)


def test_without_counts_the_page_stands() -> None:
    html = written(three_way())
    assert 'type="range"' not in html and "--counts counts.safetensors" in html
    assert '<script type="application/json" id="sizes">null</script>' in html
    assert "By kept size" in html and "id 6" in html and "--tokenizer" in html


def test_no_trim_at_all() -> None:
    plain, full, *_ = three_way().header["methods"]
    generated = {key: found for key, found in three_way().generated.items() if key[2] in ("autoregressive", "full")}
    html = written(Run({**three_way().header, "methods": [plain, full]}, generated), counts())
    assert "Only an untrimmed drafter was measured" in html and 'type="range"' in html


def test_colours_are_the_page_s() -> None:
    (run,) = summarise_runs({"greedy": three_way()}, [counts()])
    for plot in draw(run):
        svg = inline_svg(plot, "p")
        assert not re.search("#[0-9a-f]{6}", svg), plot.name
        assert "<text" in svg and "<style" not in svg and "http" not in svg
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(COLOURS)


def test_pictures_as_files() -> None:
    (run,) = summarise_runs({"greedy": three_way()}, [counts()])
    drawn = draw(run)
    assert [plot.name for plot in drawn] == [
        *("coverage", "block-efficiency", "mbsu", "speed-up", "draft-step", "acceptance"),
    ]
    for plot in drawn:
        svg, png = as_svg(plot), as_png(plot)
        assert svg.startswith(b"<?xml") and len(svg) < 100_000 and b"<text" in svg
        assert png.startswith(b"\x89PNG") and len(png) < 200_000
        assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (980, 620)
    assert [as_svg(plot) for plot in draw(run)] == [as_svg(plot) for plot in drawn]  # the same each time


def test_the_slider_s_line_moves_as_far_as_the_axis_says() -> None:
    """From 1 to 8 ids are three doublings; the units between their places in the picture are three times the scale."""
    (run,) = summarise_runs({"greedy": three_way()}, [counts()])
    plot = draw(run)[0]
    assert plot.cursor is not None
    axes = plot.figure.axes[0]
    left, right = (axes.transData.transform((kept, 1))[0] for kept in (1, 8))
    assert plot.cursor[1] * 3 == pytest.approx((right - left) * 72 / plot.figure.dpi)
    assert plot.cursor[0] == plots.starting_size(run) == 6


def test_markdown_is_markdown() -> None:
    runs = summarise_runs({"greedy": three_way(faster=2.0)})
    text = as_markdown(runs, [("speed-up", "plots/speed-up.svg")])
    assert text.startswith("**Trim to 6 ids: 2.00 times as fast as with the full head.**")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:5]} == {9}
    assert "| **six** | 6 | 1.78 | 1.34 | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) | 25.0 % | 110 B |" in tables
    assert text.rstrip().endswith("![speed-up](<plots/speed-up.svg>)")


def test_markup_in_markdown_is_text() -> None:
    (run,) = summarise_runs({"greedy": hostile_run()})
    text = as_markdown([run])
    assert "<script" not in text.replace("\\<", "") and "<img" not in text.replace("\\<", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[:3]}) == 1


def test_names_that_no_page_prints() -> None:
    assert escape.text("a\x00b\u202ec\ud800") == "a�b�c�"
    assert escape.markdown("a\nb|c") == "a�b\\|c"
    assert escape.text("95 % of 3 %") == "95\u00a0% of 3\u00a0%"


def test_the_numbers_are_shown() -> None:
    text = Seen(written(three_way(faster=2.0), counts())).text.replace("\u00a0", " ")
    for words in ("2.00×", "1.78", "25.0 %", "110 B", "24 drafted answers"):
        assert words in text
