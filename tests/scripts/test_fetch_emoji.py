"""scripts/fetch_emoji.py, with an npm that gives a small package."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_lab.commands import fetch_emoji
from gan_lab.data import folder
from gan_lab.errors import UserError

MODES = {"a": "RGBA", "b": "LA", "c": "P"}


def png(mode: str) -> bytes:
    """A picture that is transparent but for a black square in its middle."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (16, 16, 48, 48))
    out = io.BytesIO()
    (image.quantize() if mode == "P" else image.convert(mode)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's file, with more in it than is wanted."""
    path = tmp_path / "package.tgz"
    files = {f"{fetch_emoji.INSIDE}/{name}.png": png(mode) for name, mode in MODES.items()}
    others = (
        "package/LICENSE",
        "package/img/google/sheets/64.png",
        f"{fetch_emoji.INSIDE}/../../../../evil.png",
    )
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items() | {(name, b"other") for name in others}:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(fetch_emoji, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an npm that does this in the place of any other."""

    def put(script: str) -> None:
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return put


def test_pictures_lie_in_a_folder_that_trains(
    package: Path, npm: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any mode, over white."""
    npm(f'test "$1 $2" = "pack emoji-datasource-google@16.0.0" && cp {package} emoji.tgz')
    out = tmp_path / "new" / "emoji"
    assert fetch_emoji.main(["--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png"]
    assert not list(tmp_path.rglob("evil.png"))
    assert [path.name for path in out.parent.iterdir()] == ["emoji"]
    said = capsys.readouterr().out
    assert "Apache License 2.0" in said
    assert f"dataset.path={out}" in said
    array = folder.prepare(tmp_path / "data", str(out), image_size=16)
    for pixels in np.asarray(array.images):
        assert (pixels[:, 0, 0] == 255).all()
        assert (pixels[:, 8, 8] == 0).all()


def test_a_file_that_was_fetched_elsewhere(package: Path, tmp_path: Path) -> None:
    assert fetch_emoji.main(["--archive", str(package), "--out", str(tmp_path / "emoji")]) == 0
    with pytest.raises(UserError, match="is there already"):
        fetch_emoji.main(["--archive", str(package), "--out", str(tmp_path / "emoji")])


def test_another_package_is_refused_and_leaves_nothing(
    package: Path, npm: Callable[[str], None], tmp_path: Path
) -> None:
    npm(f"cp {package} emoji.tgz && echo more >> emoji.tgz")
    with pytest.raises(UserError, match="SHA-256"):
        fetch_emoji.main(["--out", str(tmp_path / "new" / "emoji")])
    assert not (tmp_path / "new").exists()


def test_an_npm_that_fails_or_is_missing(
    npm: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "emoji"
    for script in ("exit 7", "true"):
        npm(script)
        with pytest.raises(UserError, match=r"npm pack emoji-datasource-google@16\.0\.0 failed"):
            fetch_emoji.main(["--out", str(out)])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"install Node\.js with npm"):
        fetch_emoji.main(["--out", str(out)])
    assert not out.exists()
