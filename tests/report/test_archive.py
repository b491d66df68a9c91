"""Packed records: small, the same bytes each time, and read like the folder that they were packed from."""

import json
import math
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image
from synthetic_runs import make_run, make_sweep

from gan_lab.commands import compare, pack_records
from gan_lab.errors import UserError
from gan_lab.report.archive import opened, pack
from gan_lab.report.runs import find


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    make_sweep(root, ["sn", "bssn"], [1.0, 1.4], seeds=2, rows=40, grids=1)
    make_run(root, "none", rows=20, grids=0, state="diverged", reason="loss/d is nan")
    return root


def packed(outputs: Path, name: str = "runs.tar.xz", *options: str) -> Path:
    out = outputs.parent / name
    assert pack_records.main([str(outputs), "--out", str(out), *options]) == 0
    return out


def test_a_comparison_prints_the_same_from_either(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = packed(outputs)
    capsys.readouterr()
    assert compare.main([str(outputs)]) == 0
    of_folder = capsys.readouterr().out
    assert compare.main([str(archive)]) == 0
    assert capsys.readouterr().out == of_folder
    assert "bssn" in of_folder


def test_it_is_small_and_holds_no_place_of_this_machine(outputs: Path) -> None:
    archive = packed(outputs)
    size = sum(path.stat().st_size for path in outputs.rglob("*") if path.is_file())
    assert archive.stat().st_size < size / 20
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            assert str(outputs).encode() not in content.read()
            assert (member.uid, member.uname, member.mtime) == (0, "", 0)


def test_the_same_runs_give_the_same_bytes(outputs: Path) -> None:
    assert packed(outputs).read_bytes() == packed(outputs, "again.tar.xz").read_bytes()


def test_what_was_unpacked_packs_to_the_same(outputs: Path, tmp_path: Path) -> None:
    archive = packed(outputs)
    assert pack_records.main([str(archive), "--out", str(tmp_path / "again.tar.xz")]) == 0
    assert (tmp_path / "again.tar.xz").read_bytes() == archive.read_bytes()


def test_samples_are_the_first_images_of_one_run_of_each_setting(outputs: Path, tmp_path: Path) -> None:
    archive = packed(outputs, "runs.tar.xz", "--samples")
    runs, _ = find(outputs)
    with opened(archive) as folder:
        grids = {path.relative_to(folder) for path in folder.rglob("samples/*")}
        for grid in grids:
            with Image.open(outputs / grid) as whole, Image.open(folder / grid) as kept:
                assert kept.width == min(whole.width, 6 * 34 + 2)
                assert kept.tobytes() == whole.convert("RGB").crop((0, 0, *kept.size)).tobytes()
        with_grids = [run for run in runs if any(run.directory.samples.glob("*.png"))]
        settings = {run.name.rpartition("/")[0] + str(run.config["norm.scale"]) for run in with_grids}
        assert len(grids) == len(settings) == 4
    assert packed(outputs, "again.tar.xz", "--samples").read_bytes() == archive.read_bytes()
    again = tmp_path / "unpacked.tar.xz"
    assert pack_records.main([str(archive), "--out", str(again), "--samples"]) == 0
    assert again.read_bytes() == archive.read_bytes()


def test_samples_that_cannot_be_read_are_named(outputs: Path) -> None:
    for grid in outputs.rglob("samples/*.png"):
        grid.write_bytes(grid.read_bytes()[:40])
    with pytest.raises(UserError, match=r"samples/\d+\.png cannot be read .*: remove it, or pack without"):
        packed(outputs, "runs.tar.xz", "--samples")
    assert not (outputs.parent / "runs.tar.xz").exists()


def test_metrics_keep_all_digits_and_the_rest_six(outputs: Path) -> None:
    runs, _ = find(outputs)
    with opened(packed(outputs)) as folder:
        for run in runs:
            before, after = (
                [json.loads(line) for line in (root / run.name / "metrics.jsonl").read_text().splitlines()]
                for root in (outputs, folder)
            )
            for old, new in zip(before, after, strict=True):
                assert old.keys() == new.keys()
                for name, value in old.items():
                    exact = name.startswith("metric/") or name == "iteration"
                    assert new[name] == value if exact else math.isclose(new[name], value, rel_tol=1e-5)
            config = yaml.safe_load((folder / run.name / "config.yaml").read_text())
            assert config["paths"]["outputs"] == "outputs"
            assert not (folder / run.name / "samples").exists()
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_other_files_are_refused_in_a_sentence(outputs: Path, content: bytes | None) -> None:
    path = packed(outputs)
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    missing = path.parent / "none.tar.xz"
    for some, said in ((path, "is no archive of runs, or damaged"), (missing, "does not exist")):
        with pytest.raises(UserError, match=said) as refusal:
            compare.main([str(some)])
        assert str(refusal.value).startswith(str(some))
        assert "\n" not in str(refusal.value)


def test_nothing_but_records_is_unpacked(tmp_path: Path) -> None:
    """Not a link, a device or another file, and nothing outside the folder."""
    path = tmp_path / "evil.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        link = tarfile.TarInfo("run/config.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for entry in (link, tarfile.TarInfo("run/code.py"), tarfile.TarInfo("run/status.json")):
            tar.addfile(entry)
    with opened(path) as folder:
        assert [entry.name for entry in folder.rglob("*") if not entry.is_dir()] == ["status.json"]
    with tarfile.open(path, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo("../../config.yaml"))
    with pytest.raises(UserError, match="no archive of runs"), opened(path):
        pass


def test_an_ending_that_is_another_is_refused(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.tar\.xz"):
        pack(find(outputs)[0], tmp_path / "runs.zip")
    assert not (tmp_path / "runs.zip").exists()
