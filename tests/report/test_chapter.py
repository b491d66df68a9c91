"""Chapters about runs whose truth is known: what is there is said, and what is not there is not."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import make_run

from gan_lab.commands import pack_records, study
from gan_lab.errors import UserError
from gan_lab.report.chapter import write
from gan_lab.report.chapter.figures import style
from gan_lab.report.runs import find

FID = "metric/fid"
Finals = Mapping[str, float]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def run(outputs: Path) -> Callable[..., None]:
    """Makes a run with these last values: `metric/...` in its last row, the rest in all four."""

    def make(values: Finals, norm: str = "sn", seed: int = 0, grids: int = 0, **changes: object) -> None:
        folder = make_run(outputs, norm, seed, rows=2, grids=grids, **changes)
        measured = {name: value for name, value in values.items() if not name.startswith("metric/")}
        rows = [{"iteration": iteration, **measured} for iteration in (25, 50, 75)]
        rows.append({"iteration": 100, **values})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return make


def chapter(outputs: Path, *options: str) -> str:
    out = outputs.parent / "study"
    assert study.main([str(outputs), "--out", str(out), "--no-page", *options]) == 0
    return (out / "chapter.md").read_text().replace("\\", "")


def section(text: str, heading: str) -> str:
    return next(part for part in re.split(r"^#+ ", text, flags=re.M) if part.startswith(heading))


def test_a_difference_that_is_there_is_found(run: Callable[..., None], outputs: Path) -> None:
    rng = np.random.default_rng(0)
    for seed, level in enumerate(rng.normal(50, 8, 6)):  # a seed's own level, far larger than the difference
        run({FID: level}, "bssn", seed)
        run({FID: level + 3 + rng.normal(0, 0.3)}, "sn", seed)
    text = chapter(outputs)
    best = section(text, "Which setting is best")
    assert "**bssn" in best
    assert "It is ahead of sn by more than the noise." in best
    assert "cannot tell" not in best
    assert "Nothing of what was asked" in section(text, "What cannot be told")


def test_where_there_is_no_difference_none_is_claimed(run: Callable[..., None], outputs: Path) -> None:
    rng = np.random.default_rng(1)
    for norm in ("none", "sn", "bssn"):
        for seed in range(5):
            run({FID: rng.normal(50, 5), "grad_norm/d": rng.lognormal(0, 1)}, norm, seed)
    text = chapter(outputs)
    best = section(text, "Which setting is best")
    assert "No difference was found." in best
    assert "is ahead" not in best
    assert "nothing that was measured goes along" in section(text, "What goes along")
    open_ = section(text, "What cannot be told")
    assert open_.count("Whether ") == 2
    assert re.search(r"it would take (\d+|more than 1000) seeds", open_)


def test_settings_of_the_same_figures_are_not_said_to_lack_seeds(
    run: Callable[..., None], outputs: Path
) -> None:
    for seed, level in enumerate((50.0, 47.0, 58.0)):
        for norm, more in (("sn", 0), ("ssn", 0), ("none", 100 + seed)):
            run({FID: level + more}, norm, seed)
    text = chapter(outputs)
    best = section(text, "Which setting is best")
    assert "°" not in best.replace("; ° has", "")
    assert "It is ahead of none by more than the noise. From ssn the noise cannot tell it." in best
    open_ = section(text, "What cannot be told")
    assert "ssn has the figures of sn in every seed." in open_
    assert "Nothing of what was asked" not in open_


def test_a_mean_of_the_runs_that_did_not_diverge_says_so(run: Callable[..., None], outputs: Path) -> None:
    for seed in range(3):
        run({FID: 50.0 + seed}, "sn", seed)
        run({FID: 20.0 + seed}, "none", seed, state="finished" if seed else "diverged")
    best = section(chapter(outputs), "Which setting is best")
    assert "**none** has the lowest FID" in best
    assert "of 2 runs), and 1 of its 3 runs diverged." in best


def test_a_value_with_too_few_seeds_is_no_dependence_that_was_not_found(
    run: Callable[..., None], outputs: Path
) -> None:
    finals = {0.5: (30.0, 34.0, 31.0), 1.0: (29.0, 33.0, 32.0), 2.0: (900.0,)}
    for scale, reached in finals.items():
        for seed, fid in enumerate(reached):
            run({FID: fid}, "sn", seed, norm__scale=scale)
    over = section(chapter(outputs), "FID over norm.scale")
    assert "the noise cannot tell 0.5 from it; too few seeds for a test of 2." in over
    assert "no dependence" not in over


def test_a_dependence_on_the_scale(run: Callable[..., None], outputs: Path) -> None:
    """SN is best at 1.4, strict SN does not care; KID says the opposite of FID."""
    rng = np.random.default_rng(2)
    for scale in (0.7, 1.0, 1.4, 2.0):
        for seed in range(5):
            noise = rng.normal(0, 0.3)
            fid = 20 + 60 * abs(np.log(scale / 1.4)) + noise
            run({FID: fid, "metric/kid_mean": 1 / fid}, "sn", seed, norm__scale=scale)
            fid = 90 + rng.normal(0, 3)
            run({FID: fid, "metric/kid_mean": 1 / fid}, "strict_sn", seed, norm__scale=scale)
    text = chapter(outputs)
    over = section(text, "FID over norm.scale")
    assert "- sn: FID is lowest at norm.scale = 1.4" in over
    assert "beyond the noise from 0.7, 1 and 2." in over
    (line,) = re.findall("- strict_sn: .*", over)
    assert line.endswith("no dependence was found.")
    assert re.search(r"^| sn | 1.4 | (0.7|2) |$", over, re.M)
    assert "KID -1.00" in section(text, "Every metric")
    assert (outputs.parent / "study/norm-scale.png").read_bytes().startswith(b"\x89PNG")


RATES = (1e-4, 2e-4, 4e-4, 8e-4)


def test_what_each_norm_forgives_over_a_grid_of_rates(run: Callable[..., None], outputs: Path) -> None:
    """The averages and spreads of a table made by hand, and a norm that diverges has none."""
    found: dict[tuple[str, int], list[float]] = {}
    noise = np.random.default_rng(4)
    for place, (g_lr, d_lr) in enumerate((g, d) for g in RATES for d in RATES):
        for seed in range(4):
            for norm, fid in (("sn", 20.0), ("bssn", 20.0), ("strict_sn", 10 * 1.3**place)):
                fid *= np.exp(noise.normal(0, 0.1))
                found.setdefault((norm, seed), []).append(fid)
                run({FID: fid}, norm, seed, optimizer__g_lr=g_lr, optimizer__d_lr=d_lr)
            state = "diverged" if place == 3 and seed == 0 else "finished"
            run({FID: 5.0}, "none", seed, state=state, optimizer__g_lr=g_lr, optimizer__d_lr=d_lr)
    text = section(chapter(outputs), "What each norm forgives")
    of_seeds = {
        norm: [
            (np.exp(np.log(found[norm, seed]).mean()), np.exp(np.log(found[norm, seed]).std(ddof=1)))
            for seed in range(4)
        ]
        for norm in ("sn", "bssn", "strict_sn")
    }
    for norm, pairs in of_seeds.items():
        (row,) = re.findall(rf"^\| {norm} \| (.*) \|$", text, re.M)
        seeds, average, spread, best, worst, diverged = row.split(" | ")
        assert (seeds, diverged) == ("4", "0 of 64")
        for told, column in ((average, 0), (spread.removeprefix("× "), 1)):
            mean, error = map(float, told.split(" ± "))
            assert mean == pytest.approx(np.mean([pair[column] for pair in pairs]), rel=0.01)
            assert error == pytest.approx(np.std([p[column] for p in pairs], ddof=1) / 2, rel=0.05)
        assert float(best) <= float(average.split()[0]) <= float(worst)
    assert re.search(r"^\| none \| 0 \| – \| – \| .* \| 1 of 64 \|$", text, re.M)
    said = text.split("\n")[2]
    better, other = sorted(("sn", "bssn"), key=lambda norm: np.mean([pair[0] for pair in of_seeds[norm]]))
    assert said.startswith(
        f"Over 16 settings of optimizer.g_lr and optimizer.d_lr, **{better}** has the lowest"
    )
    assert "It is ahead of strict_sn by more than the noise." in said
    assert f"From {other} the noise cannot tell it." in said
    assert "The smallest spread is that of" in said
    assert said.endswith("none diverged in 1 of 64 runs: no average.")
    assert (outputs.parent / "study/grid.png").is_file()


def test_without_a_grid_nothing_is_said_of_forgiving(run: Callable[..., None], outputs: Path) -> None:
    """Of scales that each norm has for itself, of too few, or of one norm."""
    for scale in (1.0, 1.4, 2.0):
        for norm, factor in (("sn", 1.0), ("bssn", 3.0)):
            run({FID: 10.0 * scale}, norm, 0, norm__scale=scale * factor)
    assert "forgives" not in chapter(outputs)
    for rate in RATES:
        run({FID: 10.0}, "sn", 1, optimizer__g_lr=rate)
    assert "forgives" not in chapter(outputs, "--where", "norm=sn")


def test_what_goes_along_with_the_distance(run: Callable[..., None], outputs: Path) -> None:
    """The gradient norm decides it, the slope has nothing to do with it."""
    rng = np.random.default_rng(3)
    for place, scale in enumerate(np.linspace(0.5, 4, 10)):
        for seed in range(3):
            gradient = 10 ** (place / 5 + rng.normal(0, 0.05))
            values = {"grad_norm/d": gradient, "slope/real_mean": rng.lognormal(0, 1)}
            run({FID: 100 / gradient, **values}, "sn", seed, norm__scale=float(scale))
    along = section(chapter(outputs), "What goes along")
    assert "Over all runs gradient norm of the discriminator (falls with it, ρ = -1.00)" in along
    assert "slope at real images (" not in along
    assert re.search(r"\| slope at real images \| [+-]0\.\d\d \| \[-0\.\d\d, \+0\.\d\d\] \| 30 \|", along)


def test_quantities_are_medians_of_the_second_half_over_the_layers(outputs: Path) -> None:
    from gan_lab.report import quantities
    from gan_lab.report.runs import find

    folder = make_run(outputs, "sn", rows=2, grids=0)
    rows = [
        {"iteration": 10 * n, "grad_norm/d": float(n), "weight_var_ratio/a": 4.0, "weight_var_ratio/b": 0.25}
        for n in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs, _ = find(outputs)
    (facts,) = quantities.read(runs)[0].values()
    assert facts.quantities == {
        "gradient norm of the discriminator": 8.0,  # of 6 to 10
        "largest gradient norm of the discriminator": 10.0,
        "weight variance over LeCun's": pytest.approx(1.0),
        "distance of the weight variances from LeCun's": pytest.approx(np.log(4)),
    }


def test_runs_that_say_little(run: Callable[..., None], outputs: Path) -> None:
    """Diverged, without metrics, one seed only, failed: each is said, and none is in a mean."""
    run({FID: 20.0}, "sn", 0)
    run({FID: 1e9}, "none", 0, state="diverged", reason="loss/d is nan")
    run({"loss/d": 1.0}, "bsn", 0)
    run({FID: 30.0}, "bssn", 0)
    run({}, "ssn", 0, state="failed", reason="a fault")
    text = chapter(outputs)
    assert "5 runs of 5 settings over norm: 3 finished, 1 diverged, 1 are not finished or failed." in text
    best = section(text, "Which setting is best")
    assert "**sn" in best
    assert "too few seeds for a test" in best
    assert "is ahead" not in best
    open_ = section(text, "What cannot be told")
    assert "none: 1 of 1 runs diverged" in open_
    assert "ssn: 1 of 1 runs have not finished" in open_
    assert "bsn: 1 finished runs have no FID" in open_
    assert open_.count("has one seed") == 3


def test_runs_without_any_metric(run: Callable[..., None], outputs: Path) -> None:
    run({"loss/d": 1.0})
    text = chapter(outputs)
    assert "there is nothing to rank" in text
    assert "###" not in text


def test_one_setting(run: Callable[..., None], outputs: Path) -> None:
    for seed in range(3):
        run({FID: 20.0 + seed}, "sn", seed)
    assert "there is nothing to compare" in chapter(outputs)


def test_packed_records_give_the_same_chapter(run: Callable[..., None], outputs: Path) -> None:
    rng = np.random.default_rng(4)
    for norm in ("sn", "bssn"):
        for seed in range(3):
            run({FID: rng.normal(50, 5), "grad_norm/d": 1.0 + seed}, norm, seed)
    archive = outputs.parent / "outputs.tar.xz"
    assert pack_records.main([str(outputs), "--out", str(archive)]) == 0
    assert chapter(archive) == chapter(outputs)


def test_packed_samples_give_the_same_sheet(run: Callable[..., None], outputs: Path) -> None:
    for norm in ("none", "sn", "bssn"):
        for seed in range(2):
            run({FID: 50.0 + seed}, norm, seed, grids=2 if norm != "none" else 0)
    archive = outputs.parent / "outputs.tar.xz"
    assert pack_records.main([str(outputs), "--out", str(archive), "--samples"]) == 0
    of_folder, sheet = chapter(outputs), (outputs.parent / "study/samples.png").read_bytes()
    (outputs.parent / "study/samples.png").unlink()
    assert chapter(archive) == of_folder
    assert (outputs.parent / "study/samples.png").read_bytes() == sheet
    assert "From the same latents, left to right and down: bssn, sn." in of_folder


def test_the_page_and_samples_lie_next_to_it(run: Callable[..., None], outputs: Path) -> None:
    for norm in ("sn", "bssn"):
        run({FID: 20.0}, norm, grids=1)
    assert study.main([str(outputs), "--title", "Two [norms]"]) == 0
    text = (outputs / "study/chapter.md").read_text()
    assert text.startswith("# Two \\[norms\\]\n")
    for name in re.findall(r"\]\(([\w.-]+)\)", text):
        assert (outputs / "study" / name).stat().st_size > 1000
    assert "samples.png" in text
    assert "comparison.html" in text


def test_figures_that_only_an_earlier_chapter_had_are_gone(run: Callable[..., None], outputs: Path) -> None:
    for seed in range(3):
        for norm, level in (("sn", 20.0), ("bssn", 30.0)):
            run({FID: level + seed, "grad_norm/d": level}, norm, seed)
    out = outputs.parent / "study"
    text = chapter(outputs)
    assert (out / "settings.png").is_file()
    assert "along.png" in text
    (out / "mine.png").write_bytes(b"another's")
    text = chapter(outputs, "--where", "norm=sn")
    assert "along.png" not in text
    assert {path.name for path in out.glob("*.png")} == {"mine.png", *re.findall(r"\]\((\w+\.png)\)", text)}


@pytest.mark.parametrize("name", ["", "nothing"])
def test_an_empty_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run|is no folder") as refusal:
        study.main([str(tmp_path / name)])
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_no_two_of_64_settings_are_drawn_alike() -> None:
    assert len({style(place) for place in range(64)}) == 64


def test_what_was_measured_is_shown_by_setting(run: Callable[..., None], outputs: Path) -> None:
    """The mean over a setting's runs, of layers the geometric mean; a setting that has none has no number."""
    for norm, curvature in (("sn", 3.0), ("bssn", 5.0)):
        for seed in range(2):
            layers = {"stable_rank/conv0": 2.0, "stable_rank/conv1": 8.0}
            run({FID: 20.0 + seed, "curvature/d": curvature + seed, **layers}, norm, seed)
    run({FID: 9.0}, "none", 0)
    found = write(*find(outputs), "runs")
    text = section(found.markdown, "What was measured")
    assert "| setting | stable rank of the layers | curvature |" in text
    assert "| bssn | 4 ± 0 | 5.50 ± 0.50 |" in text
    assert "| none | – | – |" in text
