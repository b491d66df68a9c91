"""The wheel: what is in it, and its commands in an environment without the checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

import gan_lab
from gan_lab.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
Command = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as for a release: the source distribution, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel, and of this environment what the wheel requires."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    (packages,) = root.glob("lib/python*/site-packages")
    # The .pth files of a folder that a .pth names are not read: an editable installation there stays unseen.
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    python = root / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], capture_output=True, check=True)
    return python.parent


def run(program: Path, *arguments: str, folder: Path) -> Command:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(program), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def test_it_holds_the_package_and_the_configs_and_nothing_else(wheel: Path) -> None:
    package = {
        f"gan_lab/{path.relative_to(ROOT / 'gan_lab')}"
        for path in (ROOT / "gan_lab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {f"gan_lab/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == package | configs


def test_its_metadata_requires_no_other_project_of_this_name(wheel: Path) -> None:
    archive = ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = message_from_bytes(archive.read(path))
    assert metadata["Version"] == gan_lab.__version__
    required = [re.match(r"[\w.-]+", text)[0] for text in metadata.get_all("Requires-Dist")]
    assert [name for name in required if name.startswith("gan")] == [metadata["Name"]] * required.count(
        metadata["Name"]
    )
    extras = re.findall(r"gan-norm-lab\[([^\]]+)\]", " ".join(metadata.get_all("Requires-Dist")))
    assert {extra for names in extras for extra in names.split(",")} <= set(
        metadata.get_all("Provides-Extra")
    )


def test_its_commands_train_sweep_compare_evaluate_and_generate(programs: Path, tmp_path: Path) -> None:
    def gan_lab(*arguments: str) -> str:
        done = run(programs / "gan-lab", *arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(programs / "python", "-c", "import gan_lab; print(gan_lab.__file__)", folder=tmp_path).stdout
    assert Path(where).is_relative_to(programs.parent)

    tiny = ["experiment=tiny", "init=xavier", "tracker=local", "device=cpu", "train.iterations=5"]
    gan_lab("train", *tiny, "norm=sn")
    (trained,) = (tmp_path / "outputs/digits/dcgan/sn").iterdir()
    gan_lab("train", "-m", "hydra/launcher=local_parallel", "metrics=none", *tiny, "norm=none", "seed=0,1")
    assert len(list(tmp_path.glob("outputs/digits/dcgan/none/*/generator.safetensors"))) == 2
    gan_lab("compare", "outputs", "--out", "report.html")
    assert "</html>" in (tmp_path / "report.html").read_text()
    judged = gan_lab("evaluate", str(trained), "--num", "100", "device=cpu")
    assert re.search(r"^metric/fid_digits_\d+ +\d", judged, re.M)
    gan_lab("generate", str(trained), "--num", "4", "--out", "grid.png", "--device", "cpu")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert "discriminator of" in gan_lab("audit-norms", str(trained))
    assert "finished" in gan_lab("sweep-status", "outputs", "--once")


def test_help_speaks_of_the_program_and_of_all_choices(programs: Path, tmp_path: Path) -> None:
    text = run(programs / "gan-lab", "train", "--help", folder=tmp_path).stdout
    assert "gan-lab train -m" in text
    assert "python train.py" not in text
    norms = ", ".join(sorted(path.stem for path in (ROOT / "configs/norm").glob("*.yaml")))
    assert f"norm: {norms}\n" in text
    listed = run(programs / "python", "-m", "gan_lab", folder=tmp_path).stdout
    assert all(f"  {name} " in listed for name in COMMANDS)
    assert list(tmp_path.iterdir()) == []
