"""The page in a real headless Chromium: the slider by hand and by script, both colour schemes, desktop and phone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from measured import Measured, write_measured
from vocabtrim.calibrate.counts import TokenCounts
from vocabtrim.report.html import page
from vocabtrim.report.runs import open_runs
from vocabtrim.report.sections import FIELDS
from vocabtrim.report.summary import RunSummary, summarise_runs
from vocabtrim.report.words import share, size
from vocabtrim.report.write import write

pytestmark = pytest.mark.browser

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return write_measured(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def runs(measured: Measured) -> list[RunSummary]:
    greedy, sampled = open_runs([measured.greedy, measured.sampled])
    return summarise_runs({"greedy": greedy, "temperature 1": sampled}, [TokenCounts.load(measured.counts)])


@pytest.fixture(scope="module")
def html(measured: Measured) -> Path:
    """The page as the command writes it, hostile category and all (`measured.py`)."""
    out = measured.target.parent / "report.html"
    write([measured.greedy, measured.sampled], out, counts=[measured.counts], tokenizer=measured.target)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with a chromedriver on PATH (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, html: Path) -> Iterator[Any]:
    """The page afresh; at the end nothing was logged to the console, whatever was done to it."""
    look(browser, html, width=1280)
    yield browser
    assert browser.get_log("browser") == []


def look(browser: Any, html: Path, *, width: int, scheme: str = "light") -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(html.as_uri())


def slider(browser: Any) -> Any:
    return browser.find_element("id", "kept-size")


def shown(browser: Any, run: int) -> dict[str, str]:
    outputs = browser.find_elements("css selector", f'output[data-run="{run}"]')
    return {output.get_attribute("data-field"): output.text for output in outputs}


def expected(run: RunSummary, kept_size: int) -> dict[str, str]:
    """Straight from the table of sizes, not by way of what the page was made with."""
    assert run.sizes is not None
    table = run.sizes.table
    row = table.row(None if kept_size == table.full_size else kept_size)
    assert row.mbsu is not None and row.draft_step_bytes is not None
    gain = f"{100 * (row.mbsu / table.mbsu(None) - 1):+.1f} %".replace("-", "−")
    return {
        "coverage": share(row.heldout_coverage, 2),
        "in_run": share(run.sizes.in_run.share(None if kept_size == table.full_size else kept_size), 2),
        "bytes": size(row.draft_step_bytes),
        "block_efficiency": f"{row.predicted_block_efficiency:.3f}",
        "mbsu": f"{row.mbsu:.3f}",
        "gain": gain,
    }


def stops(runs: list[RunSummary]) -> list[int]:
    return sorted({stop for run in runs if run.sizes is not None for stop in run.sizes.stops})


def test_it_begins_at_the_judged_size(opened: Any, runs: list[RunSummary]) -> None:
    assert runs[0].pick is not None
    kept = runs[0].overall[runs[0].pick].kept_size
    assert kept is not None
    assert opened.find_element("id", "kept-size-said").text == f"{kept:,} ids"
    for number, run in enumerate(runs):
        assert shown(opened, number) == expected(run, kept) and set(FIELDS) == set(expected(run, kept))


def test_keys_move_it_size_by_size(opened: Any, runs: list[RunSummary]) -> None:
    from selenium.webdriver.common.keys import Keys

    sizes, thumb = stops(runs), slider(opened)
    for key, at in ((Keys.HOME, 0), (Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.END, len(sizes) - 1)):
        thumb.send_keys(key)
        assert int(thumb.get_attribute("value")) == at
        for number, run in enumerate(runs):
            assert shown(opened, number) == expected(run, sizes[at])
    assert thumb.get_attribute("aria-valuetext") == f"{sizes[-1]:,} ids (full head)"


def test_every_size_shows_its_own_numbers(opened: Any, runs: list[RunSummary]) -> None:
    move = (
        "const slider = document.getElementById('kept-size'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}));"
        "return [...document.querySelectorAll('output[data-run]')].map(o => [o.dataset.run, o.dataset.field, "
        "o.textContent]);"
    )
    sizes = stops(runs)
    assert len(sizes) > 20
    for at, kept in enumerate(sizes):
        told = opened.execute_script(move, at)
        assert {(int(run), field): text for run, field, text in told} == {
            (number, field): text for number, run in enumerate(runs) for field, text in expected(run, kept).items()
        }


def test_the_line_in_the_curves_follows(opened: Any, runs: list[RunSummary]) -> None:
    """At the full head it stands where its square is; at the smallest size, left of everything that was measured."""
    from selenium.webdriver.common.keys import Keys

    def places() -> list[float]:
        script = (
            "return [...document.querySelectorAll('figure[data-cursor]')].map(f => "
            "document.getElementById(f.dataset.cursor).getBoundingClientRect().x - f.getBoundingClientRect().x)"
        )
        return list(opened.execute_script(script))

    slider(opened).send_keys(Keys.END)
    right = places()
    slider(opened).send_keys(Keys.HOME)
    left = places()
    assert len(left) == 8 and all(high - low > 200 for low, high in zip(left, right, strict=True))
    slider(opened).send_keys(Keys.END)
    assert places() == pytest.approx(right)


def test_nothing_leaves_the_page(opened: Any, html: Path) -> None:
    opened.get_log("performance")  # what the browser asked for itself when it started
    look(opened, html, width=1280)
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    sent = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [told["params"]["request"]["url"] for told in sent if told["method"] == "Network.requestWillBeSent"]
    assert set(asked) <= {html.as_uri()} and asked


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen(opened: Any, html: Path, width: int, scheme: str) -> None:
    look(opened, html, width=width, scheme=scheme)
    wide, inner = opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner == width
    cut = opened.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.table') && !e.closest('svg') "
        "&& e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_against_its_ground(opened: Any, html: Path, scheme: str) -> None:
    """WCAG's contrast of 4.5 for text, the pictures' included, and of 3 for the marks in them."""
    look(opened, html, width=1280, scheme=scheme)
    colours = opened.execute_script(
        "const s = getComputedStyle(document.documentElement); const told = {};"
        "for (const n of ['paper','raised','ink','muted','trimmed','full','third','good','bad','open']) "
        "told[n] = s.getPropertyValue('--' + n).trim(); return told;"
    )
    for name in ("ink", "muted"):
        for ground in ("paper", "raised"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in ("trimmed", "full", "third", "good", "bad", "open"):
        assert contrast(colours[name], colours["paper"]) >= 3, name
    ground = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def contrast(one: str, other: str) -> float:
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_hostile_tokens_and_names_do_nothing(browser: Any, runs: list[RunSummary], tmp_path: Path) -> None:
    """Every lost token is a script that would rename the page; the console stays silent and the title as it was."""
    from vocabtrim.report.plots import draw

    evil = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
    lost = {token.token: evil for run in runs if run.lost is not None for token in run.lost.tokens}
    assert lost
    made = {"created": evil, "version": evil, "inputs": {evil: evil}}
    counted = [{"sources": [evil], "tokens": 1, "held_out": 0.0, "documents": 1, "hash": evil}]
    out = tmp_path / "evil.html"
    out.write_bytes(page(runs, {run.label: draw(run) for run in runs}, lost, counted, made))
    look(browser, out, width=1280)
    assert "broken" not in browser.title and "document.title" in browser.find_element("tag name", "main").text
    assert browser.get_log("browser") == []
    slider(browser).send_keys("\ue011")  # Home; the page's own script still runs
    assert shown(browser, 0) == expected(runs[0], stops(runs)[0])


def test_a_script_that_is_not_the_page_s_own_may_not_run(browser: Any, html: Path, tmp_path: Path) -> None:
    """What the page forbids is forbidden: the same page with a script more says so on the console and goes on."""
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(html.read_text().replace("</main>", "<script>document.title='broken'</script></main>"))
    look(browser, spoiled, width=1280)
    assert browser.title != "broken"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_it_prints_on_a_few_pages_in_dark_rooms_too(opened: Any, html: Path, tmp_path: Path) -> None:
    look(opened, html, width=1280, scheme="dark")
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.execute_script("return getComputedStyle(document.getElementById('kept-size')).display") == "none"
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert len(printed["data"]) > 10_000


def test_chromium_is_the_one_that_was_found(browser: Any) -> None:
    """What these tests ran in: said in the log of a failed run."""
    found = subprocess.run(
        [shutil.which("chromedriver") or "", "--version"], capture_output=True, text=True, check=True
    )
    assert browser.capabilities["browserVersion"].split(".")[0] in found.stdout
