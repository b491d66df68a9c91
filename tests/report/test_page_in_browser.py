"""The page in headless Chromium: everything is drawn, and what a person does has its effect."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from synthetic_runs import LAYERS, make_run, make_sweep

from gan_lab.report import records, write_page
from gan_lab.report.comparison import compare, read_scores
from gan_lab.report.runs import find, settings
from gan_lab.report.tables import heading, number, verdict

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "<img src=x onerror='window.hacked=1'></script><b>sn</b>"
WIDE, PHONE = (1280, 900), (390, 844)
PATIENCE_MS = 1_800_000  # for what comes in a moment, on however slow a machine


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Norms, scales, a diverged run with a spike in its loss, a hostile one, a damaged one."""
    root = tmp_path_factory.mktemp("outputs")
    make_sweep(root, ["ssn", "bssn"], [1.0, 1.4], seeds=2, rows=900, evaluations=12, grids=4)
    reason = {"state": "diverged", "reason": "loss/d is nan"}
    make_run(root, "none", rows=900, spike_at=777, grids=2, **reason)
    hostile = make_run(root, "sn", rows=20, grids=1, norm__name=EVIL, train__iterations=45_000)
    text = (hostile / "metrics.jsonl").read_text().replace('"sigma/conv0"', json.dumps(f"sigma/{EVIL}"))
    (hostile / "metrics.jsonl").write_text(text)
    (root / "broken").mkdir()
    (root / "broken" / "status.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def address(sweep: Path) -> str:
    return write_page(sweep, sweep.parent / "page.html").as_uri()


@pytest.fixture(scope="module")
def tab() -> Iterator["sync_api.Page"]:
    """One tab for all tests, which open the page anew."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        page = browser.new_page(color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture(params=[WIDE, PHONE], ids=["1280", "390"])
def page(request: pytest.FixtureRequest, tab: "sync_api.Page", address: str) -> Iterator["sync_api.Page"]:
    """The opened page; afterwards, nothing was logged and nothing asked of a network."""
    width, height = request.param
    tab.set_viewport_size({"width": width, "height": height})
    troubles: list[str] = []
    watched = {
        "console": lambda message: troubles.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: troubles.append(str(error)),
        "request": lambda request: troubles.append(request.url),
    }
    tab.goto("about:blank")
    for event, note in watched.items():
        tab.on(event, note)
    tab.goto(address)
    tab.locator("html[data-ready]").wait_for(state="attached")
    yield tab
    for event, note in watched.items():
        tab.remove_listener(event, note)
    assert [trouble for trouble in troubles if not trouble.startswith(("file:", "blob:", "data:"))] == []
    assert tab.evaluate("window.hacked") is None


wide = pytest.mark.parametrize("page", [WIDE], ids=["1280"], indirect=True)


def scroll_through(page: "sync_api.Page") -> None:
    """Every chart comes near the screen once."""
    for place in range(page.locator(".card").count()):
        card = page.locator(".card").nth(place)
        if card.is_visible():
            card.scroll_into_view_if_needed()
            card.locator(".main-svg").first.wait_for()


def eventually(page: "sync_api.Page", expression: str) -> None:
    """Waits until it is true. The page's policy forbids Playwright's own way, which is `eval`."""
    for _ in range(PATIENCE_MS // 50):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {expression}")


def table(page: "sync_api.Page") -> dict[str, list[str]]:
    """The summary's cells by the group's name."""
    rows = page.locator("#table tbody tr").all()
    cells = [[text.strip() for text in row.locator("td").all_inner_texts()] for row in rows]
    return {name: rest for name, *rest in cells}


def test_every_chart_is_drawn_and_fits(page: "sync_api.Page") -> None:
    scroll_through(page)
    cards = [card for card in page.locator(".card").all() if card.is_visible()]
    titles = [card.locator("h3").inner_text() for card in cards]
    assert {
        "FID ↓",
        "IS ↑",
        "FID ↓ against the setting",
        "Discriminator's loss",
        "Slopes at real images",
    } <= set(titles)
    assert {"Gradient norms and their bounds", "Sigmas"} <= set(titles)
    assert "Weight variances and the initializations' targets" in titles
    assert "Learned scales" not in titles  # of which there are none
    for card in cards:
        assert int(card.locator(".chart").get_attribute("data-drawn") or 0) > 0
        paths = card.locator(".scatterlayer .js-line").evaluate_all(
            "lines => lines.map(l => l.getAttribute('d'))"
        )
        assert any(path and path.count(",") > 1 for path in paths)
    layers = page.locator("[aria-label='Gradient norms and their bounds'] .subplot.xy, [class*='subplot x']")
    assert layers.count() >= len(LAYERS)
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@wide
def test_the_table_is_what_scipy_says(page: "sync_api.Page", sweep: Path) -> None:
    fids: dict[str, list[float]] = {}
    for run in find(sweep)[0]:
        if run.finished:
            column = records.read(run.directory.metrics, ["metric/fid"]).columns["metric/fid"]
            label = f"{run.config['norm.name']} · scale={run.config['norm.scale']:g}"
            fids.setdefault(label, []).append(column[np.isfinite(column)][-1])
    place = page.locator("#table th").all_inner_texts().index("FID final ↓") - 1
    shown = {name: row[place] for name, row in table(page).items()}
    assert shown["none · scale=1"] == "–"
    best, ps, least = min(fids.values(), key=fmean), {}, 0.0
    for label, values in fids.items():
        mean, *words = shown[label].split("\n")[0].split(" ± ")
        digits = len(mean.partition(".")[2])
        assert float(mean) == pytest.approx(fmean(values), abs=0.6 * 10**-digits)
        if len(values) == 1:
            assert "no test" in shown[label]
            continue
        assert float(words[0]) == pytest.approx(scipy.stats.sem(values), abs=0.6 * 10**-digits)
        if values is not best:
            ps[label] = scipy.stats.ttest_rel(np.log(values), np.log(best)).pvalue
    for rank, label in enumerate(sorted(ps, key=ps.__getitem__)):
        least = max(least, (len(ps) - rank) * ps[label])  # Holm's
        assert ("≈" in shown[label]) == (least >= 0.05)


@wide
def test_a_filter_leaves_what_a_table_of_these_runs_has(page: "sync_api.Page", sweep: Path) -> None:
    """The best of what is left is bold, and the others are tested against it."""
    page.select_option("#filter", "norm.name")
    page.locator("#filters").get_by_role("button", name="bssn", exact=True).click()
    runs = [run for run in find(sweep)[0] if run.config["norm.name"] != "bssn"]
    every = find(sweep)[0]
    (expected,) = compare(runs, read_scores(runs)[0], settings(every))
    (whole,) = compare(every, read_scores(every)[0], settings(every))
    of_whole = {group.label: group.cells for group in whole.groups}
    shown = table(page)
    assert set(shown) == {group.label for group in expected.groups}
    head = page.locator("#table th").all_inner_texts()
    for column in expected.columns:
        place = head.index(heading(column)) - 1
        (first,) = (
            group.label for group in expected.groups if column in group.cells and group.cells[column].is_best
        )
        rank = len(of_whole[first][column].against)
        for group in expected.groups:
            cell = group.cells.get(column)
            words = []
            if cell and not cell.is_best:  # corrected for all that were compared with it before the filter
                words = [verdict(of_whole[group.label][column].against[rank].corrected)]
            assert shown[group.label][place].split("\n") == [number(cell.mean) if cell else "–", *words]
        best = page.locator(f"#table td:nth-child({place + 2}) strong").all_inner_texts()
        assert best == [
            number(group.cells[column].mean)
            for group in expected.groups
            if column in group.cells and group.cells[column].is_best
        ]


@wide
def test_what_a_filter_leaves_of_a_group_is_not_tested(page: "sync_api.Page", sweep: Path) -> None:
    page.select_option("#by", "norm.name")
    page.select_option("#filter", "norm.scale")
    page.locator("#filters [aria-label='norm.scale'] button", has_text="1.4").click()
    runs = [run for run in find(sweep)[0] if run.config["norm.scale"] == 1.0]
    found, _ = read_scores(runs)
    place = page.locator("#table th").all_inner_texts().index("FID final ↓") - 1
    for norm in ("ssn", "bssn"):
        finals = [found[run.name].final["metric/fid"] for run in runs if run.config["norm.name"] == norm]
        mean, error = (float(part) for part in table(page)[norm][place].split(" ± "))
        assert mean == pytest.approx(fmean(finals), rel=1e-3)
        assert error == pytest.approx(scipy.stats.sem(finals), rel=5e-2)
    assert page.locator("#table td strong").count() == 0
    assert "bssn: 2 of 4 runs" in page.locator("#table .notice").inner_text()


@wide
def test_series_are_unpacked_as_they_were_recorded(page: "sync_api.Page", sweep: Path) -> None:
    run = next(run for run in find(sweep)[0] if run.diverged)
    record = records.read(run.directory.metrics, ["loss/d", "metric/fid"])
    get = "([name, metric]) => compare.seriesOf(compare.facts.runs.find((run) => run.name === name), metric)"
    loss = page.evaluate(get, [run.name, "loss/d"])
    assert len(loss["x"]) < len(record.iteration) / 2  # cut into stretches
    assert max(loss["most"]) == pytest.approx(1000, rel=1e-3)  # and the spike survives
    assert min(loss["least"]) == pytest.approx(record.columns["loss/d"].min(), rel=1e-2)
    assert fmean(loss["mean"]) == pytest.approx(record.columns["loss/d"].mean(), rel=0.05)
    fid = page.evaluate(get, [run.name, "metric/fid"])
    there = np.isfinite(record.columns["metric/fid"])
    assert fid["x"] == record.iteration[there].tolist()
    np.testing.assert_allclose(fid["mean"], record.columns["metric/fid"][there], rtol=1e-3)


@wide
def test_a_spike_is_drawn(page: "sync_api.Page") -> None:
    scroll_through(page)
    highest = page.evaluate(
        'Math.max(...document.querySelector(`[aria-label="Discriminator\'s loss"]`).data.flatMap((t) => t.y))'
    )
    assert highest == pytest.approx(1000, rel=1e-3)


@wide
def test_bands_reach_over_the_seeds(page: "sync_api.Page", sweep: Path) -> None:
    """The standard error around FID, least and most around the loss."""
    scroll_through(page)
    runs = [
        run for run in find(sweep)[0] if run.config["norm.name"] == "ssn" and run.config["norm.scale"] == 1.0
    ]
    columns = [records.read(run.directory.metrics, ["metric/fid", "loss/g"]).columns for run in runs]
    get = """title => document.querySelector(`[aria-label="${title}"]`).data
        .filter((trace) => trace.fill === "toself").map((trace) => [trace.fillcolor, trace.y])"""
    fids = np.array([column["metric/fid"][np.isfinite(column["metric/fid"])] for column in columns])
    (_, last), *_ = page.evaluate(get, "FID ↓")[2:]  # bssn's two come first
    half = len(last) // 2
    upper = fids.mean(axis=0) + scipy.stats.sem(fids, axis=0)
    np.testing.assert_allclose(last[:half], upper, rtol=2e-3)
    losses = np.concatenate([column["loss/g"] for column in columns])
    bands = [y for _, y in page.evaluate(get, "Generator's loss")]
    assert any(
        max(y) == pytest.approx(losses.max(), rel=1e-2) and min(y) == pytest.approx(losses.min(), rel=2e-2)
        for y in bands
    )


def test_filter_group_and_colour(page: "sync_api.Page") -> None:
    assert page.locator("#legend button").count() == 6
    page.select_option("#by", "norm.name")
    assert sorted(table(page)) == [EVIL, "bssn", "none", "ssn"]
    assert "ssn: norm.scale" in page.locator("#table .notice").inner_text()
    page.select_option("#filter", "norm.name")
    for name in ("none", "bssn"):
        page.locator("#filters").get_by_role("button", name=name, exact=True).click()
    assert sorted(table(page)) == [EVIL, "ssn"]
    rows = page.locator("#config tbody tr")
    assert rows.count() == 5
    page.select_option("#filter", "norm.scale")
    page.locator("#filters [aria-label='norm.scale'] button", has_text="1.4").click()
    assert rows.count() == 3
    page.locator("#filters [aria-label='Remove the filter by norm.name']").click()
    assert rows.count() == 6
    page.select_option("#by", "state")
    assert sorted(table(page)) == ["state=diverged", "state=finished"]
    page.select_option("#colour", "seed")
    colours = page.locator("#config svg line").evaluate_all(
        "lines => lines.map((l) => l.getAttribute('stroke'))"
    )
    assert len(set(colours)) == 2
    page.locator("#filters [aria-label='norm.scale'] button", has_text="1").first.click()
    assert page.locator("#legend").inner_text() == "The filter leaves no run."
    assert not page.locator("#samples").is_visible()
    page.locator("#filters [aria-label='Remove the filter by norm.scale']").click()
    page.select_option("#show", "runs")
    page.locator("[aria-label='FID ↓']").scroll_into_view_if_needed()
    eventually(page, "document.querySelector(\"[aria-label='FID ↓']\").data?.length === 10")


def test_the_legend_hides_groups_by_mouse_and_keyboard(page: "sync_api.Page") -> None:
    page.select_option("#by", "norm.name")
    chip = page.locator("#legend button", has_text="none")
    page.locator("[aria-label='FID ↓']").scroll_into_view_if_needed()
    shown = "document.querySelector(\"[aria-label='FID ↓']\").data?.some((t) => t.name === 'none')"
    eventually(page, shown)
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    eventually(page, f"!{shown}")
    page.keyboard.press("Enter")  # the chip kept the focus
    assert chip.get_attribute("aria-pressed") == "true"
    eventually(page, shown)


def test_the_slider_turns_the_samples_by_keyboard(page: "sync_api.Page") -> None:
    page.select_option("#by", "norm.name")
    image = page.locator("#samples figure", has_text="bssn").locator("img")
    image.scroll_into_view_if_needed()
    eventually(page, "[...document.querySelectorAll('#samples img')].every((i) => i.naturalWidth > 50)")
    last = image.get_attribute("src")
    assert page.locator("#samples output").inner_text() == "45,000"
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    first = image.get_attribute("src")
    assert first != last
    assert page.locator("#samples output").inner_text() == "1,000"
    page.keyboard.press("End")
    assert image.get_attribute("src") == last
    before = page.locator("#samples figure").count()
    page.select_option("#who", "every run")
    assert page.locator("#samples figure").count() == 10 > before


@wide
def test_light_and_dark(page: "sync_api.Page") -> None:
    scroll_through(page)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("#theme").click()
    dark = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", dark))) < sum(map(int, re.findall(r"\d+", light))) / 4
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
    page.emulate_media(color_scheme="dark")  # the system's preference changes
    eventually(page, f"{ground} === '{dark}'")
    page.emulate_media(color_scheme="light")
    eventually(page, f"{ground} === '{light}'")


@wide
def test_only_differences_are_listed(page: "sync_api.Page") -> None:
    heads = page.locator("#config th").all_inner_texts()
    assert "norm.scale" in heads
    assert "dataset.name" not in heads
    page.select_option("#filter", "norm.name")
    for name in ("none", "bssn", EVIL):
        page.locator("#filters").get_by_role("button", name=name, exact=True).click()
    assert page.locator("#config tbody tr").count() == 4  # ssn alone
    heads = page.locator("#config th").all_inner_texts()
    assert "norm.name" not in heads
    assert {"run", "seed", "norm.scale"} <= set(heads)


@wide
def test_hostile_names_are_text(page: "sync_api.Page") -> None:
    scroll_through(page)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("b").count() == 0
    assert EVIL in page.locator("#legend").inner_text()
    titles = page.locator("[aria-label='Sigmas'] .annotation-text").all_text_contents()
    assert EVIL in titles
    assert "broken" in page.locator("#damaged").inner_text()


@wide
def test_it_can_be_worked_by_keyboard_alone(page: "sync_api.Page") -> None:
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"skip", "theme", "by", "colour", "filter", "show", "chip", "slider", "who"} <= reached
