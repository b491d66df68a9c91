"""The page as a file: whole, small, closed to the network, and free of what run directories may hold."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from synthetic_runs import make_run, make_sweep

from gan_lab.errors import UserError
from gan_lab.report import page, write_page
from gan_lab.report.comparison import compare, read_scores
from gan_lab.report.packing import packed
from gan_lab.report.runs import differing, find, settings
from gan_lab.report.sections import LAYERS, TRAINING, sections
from gan_lab.report.tables import cells

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def facts_of(html: str) -> dict:
    data = re.search(r'id="data">([^<]*)</script>', html)
    assert data is not None
    content = gzip.decompress(base64.b64decode(data[1]))
    return json.loads(content[4 : 4 + int.from_bytes(content[:4], "little")])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    make_sweep(root, ["none", "bssn"], [], seeds=2, rows=30, grids=2)
    return root


@pytest.fixture(scope="module")
def html(sweep: Path) -> str:
    out = sweep.parent / "reports" / "page.html"
    assert write_page(sweep, out) == out
    return out.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    allowed = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data: blob:"
    for tag, attributes in Tags(html).tags:
        for name in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_policy_allows_these_two_scripts_alone(html: str) -> None:
    allowed = set(re.findall(r"'sha256-([^']*)'", html))
    _, packed_plotly, script = Tags(html).scripts
    plotly = gzip.decompress(base64.b64decode(packed_plotly))
    assert allowed == {
        base64.b64encode(hashlib.sha256(content).digest()).decode() for content in (script.encode(), plotly)
    }
    assert "'unsafe-inline'" not in html[: html.index("style-src")]


def test_the_facts_are_those_of_the_runs(html: str, sweep: Path) -> None:
    facts = facts_of(html)
    assert [run["name"] for run in facts["runs"]] == sorted(
        str(path.parent.relative_to(sweep)) for path in sweep.glob("*/*/*/*/config.yaml")
    )
    keys = {key.pop("key"): key for key in facts["keys"]}
    assert {key for key in keys if len(keys[key]["values"]) > 1} == set(differing(find(sweep)[0]))
    assert {key for key in keys if keys[key]["differs"]} == {*differing(find(sweep)[0]), "state"}
    norms = [keys["norm.name"]["values"][index] for index in keys["norm.name"]["indices"]]
    assert norms == ["bssn", "bssn", "none", "none"]
    targets = facts["runs"][0]["targets"]["conv1"]
    assert targets == pytest.approx([1 / 1024, 2 / 2048, 2 / 1024])
    assert all(len(run["grids"]) == 2 for run in facts["runs"])


def test_copies_are_named_and_left_out(sweep: Path, html: str, tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    shutil.copytree(sweep, root)
    shutil.copytree(sweep, root / "backup")
    before, page = facts_of(html), write_page(root, tmp_path / "page.html")
    facts = facts_of(page.read_text(encoding="utf-8"))
    assert facts["partitions"] == before["partitions"]
    assert all(f"backup/{run['name']} (of {run['name']})" in facts["copies"] for run in before["runs"])
    assert before["copies"] == ""


def test_every_grouping_has_the_tables_of_the_terminal(html: str, sweep: Path) -> None:
    facts = facts_of(html)
    runs, _ = find(sweep)
    found, _ = read_scores(runs)
    for by, given in [(settings(runs), facts["default"]), *(([key["key"]], key) for key in facts["keys"])]:
        if by == ["state"]:
            assert given["labels"] == ["state=finished"]
            continue
        (table,), (shown,) = compare(runs, found, by), facts["partitions"][given["partition"]]["tables"]
        head, body = cells(table)
        assert shown["head"] == head
        plainly = [[cell[0] if isinstance(cell, list) else cell for cell in row[3]] for row in shown["rows"]]
        assert [given["labels"][row[0]] for row in shown["rows"]] == [row[0] for row in body]
        assert plainly == [[cell.rstrip(" *≈°") for cell in row[1:]] for row in body]


def test_what_python_says_the_scripts_do_not() -> None:
    """Titles, words and names of metrics come with the data; a second copy could differ from the first."""
    assets = resources.files("gan_lab.report") / "assets"
    script = "".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in page.SCRIPTS)
    assert sorted(path.name for path in assets.iterdir() if path.name.endswith(".js")) == sorted(
        f"{name}.js" for name in page.SCRIPTS
    )
    every = sections(["metric/fid"], ["loss/d", "sigma/conv0"], ["norm.scale"], damaged=True)
    said = {text for section in every for text in (section.title, section.words)}
    said |= {text for chart in (*TRAINING, *LAYERS) for text in (chart.title, chart.metric)}
    assert len(said) > 40
    assert [text for text in said if f'"{text}"' in script or f"`{text}`" in script] == []
    assert re.findall(r"metric/|norm\.|optimizer|↓|Welch|\bfinished|\bdiverged", script) == []


def test_what_a_run_holds_is_never_markup(sweep: Path, tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    folder = make_run(root, "sn", rows=4, grids=1, tracker__name=EVIL, state="failed", reason=EVIL)
    text = (folder / "metrics.jsonl").read_text().replace('"sigma/conv0"', json.dumps(f"sigma/{EVIL}"))
    (folder / "metrics.jsonl").write_text(text)
    (root / "<img src=x onerror=alert(3)>").mkdir()
    (root / "<img src=x onerror=alert(3)>" / "config.yaml").write_text("{{{")
    shutil.copytree(sweep, root / "others")
    html = write_page(root, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(" not in html
    assert len(Tags(html).scripts) == 3
    facts = facts_of(html)
    failed = next(run for run in facts["runs"] if run["badge"] == "failed")
    assert failed["title"] == f"{failed['name']}: {EVIL}"
    assert f"sigma/{EVIL}" in failed["series"]
    assert [name for name, _ in facts["damaged"]] == ["<img src=x onerror=alert(3)>"]


def test_damaged_runs_are_named_and_the_rest_is_there(sweep: Path, tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    shutil.copytree(sweep, root)
    one, two, three, four = sorted(root.glob("*/*/*/*"))
    (one / "status.json").write_text("")
    (two / "metrics.jsonl").write_text('{"iteration": 1, "loss/d": 1}\nrubbish\n{"iteration": 2')
    (three / "metrics.jsonl").unlink()
    (four / "metrics.jsonl").unlink()
    (four / "metrics.jsonl").mkdir()
    (sorted((three / "samples").iterdir())[0]).write_bytes(b"no image")
    facts = facts_of(write_page(root, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(facts["runs"]) == 4
    status, folder, record, image = (reason for _, reason in facts["damaged"])
    assert "status.json is missing or cannot be read" in status
    assert record == "1 line of metrics.jsonl cannot be read"
    assert f"{four}/metrics.jsonl cannot be read" in folder
    assert f"{three.name}/samples/00000750.png cannot be read" in image


def test_the_page_replaces_no_device_and_says_what_is_wrong(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        write_page(sweep, Path("/dev/null"))
    with pytest.raises(UserError, match="no file"):
        write_page(sweep, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_page(sweep, tmp_path / "file" / "page.html")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("{{{")
    with pytest.raises(UserError, match="none of the runs"):
        write_page(tmp_path / "broken", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_without_plotly_it_says_what_to_install(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[report\]'"):
        write_page(sweep, tmp_path / "page.html")


def test_many_runs_are_cut_finer_never_coarser_than_there_is_room_for() -> None:
    for series in (1, 100, 4600, 20_000):
        stretches = page._stretches(series)
        assert page.STRETCHES[0] <= stretches <= page.STRETCHES[1]
    of_100_runs = 4600  # series; three numbers of two bytes for each stretch, as base64
    assert 3 * 2 * 4 / 3 * of_100_runs * page._stretches(of_100_runs) <= page.NUMBERS_BUDGET
    parts = len(packed(page._plotly().encode())) + page.NUMBERS_BUDGET + page.IMAGES_BUDGET * 4 / 3
    assert parts + 200_000 < 5_000_000


def test_with_many_runs_one_of_each_setting_keeps_its_grids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_RUNS_OF_GRIDS", 3)
    make_sweep(tmp_path, ["sn", "bssn"], [], seeds=2, rows=4, grids=2)
    facts = facts_of(write_page(tmp_path, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert {run["name"].split("/")[2]: run["seed"] for run in facts["runs"] if run.get("grids")} == {
        "sn": "0",
        "bssn": "0",
    }
