"""What else W&B gets: the real images once, and the generator where somebody asks for it."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wandb_server import WandbServer

from gan_lab import terminal
from gan_lab.build import load_images
from gan_lab.commands.sync_wandb import main as sync
from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.runs.directory import RunDirectory

ONLINE = ["tracker=wandb", "tracker.mode=online", "train.iterations=10", "train.sample_every=5"]


def trained(overrides: list[str]) -> RunDirectory:
    cfg = compose(overrides)
    assert run(cfg).exit_status == 0
    return RunDirectory(load(cfg).run_directory)


def files(server: WandbServer) -> list[dict[str, Any]]:
    return [artifact["files"] for artifact in server.artifacts if artifact["state"] == "COMMITTED"]


# --- real images


def test_real_images_are_sent_once_with_the_first_grid(server: WandbServer, tiny: list[str]) -> None:
    directory = trained([*tiny, *ONLINE])
    trained([*tiny, *ONLINE, "train.iterations=20"])
    assert sync([str(directory.root)]) == 0
    (stored,) = server.runs.values()
    (row,) = [row for row in stored.rows if "real" in row]
    assert row["iteration"] == 5
    assert "samples" in row
    content = directory.real_images.read_bytes()
    assert stored.files[row["real"]["path"]] == content
    assert row["real"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_grid_is_of_the_dataset_s_images(tiny: list[str]) -> None:
    directory = trained([*tiny, "train.iterations=5"])
    images = load_images(load(compose(tiny))).images
    with Image.open(directory.real_images) as image:
        grid = np.asarray(image)
    side, first, last = images.shape[2], images[0], images[-1]
    np.testing.assert_array_equal(grid[2 : 2 + side, 2 : 2 + side], first.transpose(1, 2, 0))
    np.testing.assert_array_equal(grid[-2 - side : -2, -2 - side : -2], last.transpose(1, 2, 0))
    assert grid.shape == (10 * (side + 2) + 2, 10 * (side + 2) + 2, 3)


def test_it_is_the_same_for_every_seed_and_written_once(tiny: list[str]) -> None:
    one = trained([*tiny, "train.iterations=5"]).real_images
    written = one.stat()
    again = trained([*tiny, "train.iterations=10"]).real_images
    other = trained([*tiny, "train.iterations=5", "seed=1"]).real_images
    assert again == one
    assert (one.stat().st_ino, one.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert other.read_bytes() == one.read_bytes()


# --- the generator


def test_the_generator_is_uploaded_where_asked_for(server: WandbServer, tiny: list[str]) -> None:
    trained([*tiny, *ONLINE])
    assert server.artifacts == []
    directory = trained([*tiny, *ONLINE, "tracker.artifact=true", "seed=1"])
    (artifact,) = server.artifacts
    assert (artifact["type"], artifact["state"]) == ("model", "COMMITTED")
    assert artifact["files"]["generator.safetensors"] == directory.generator.read_bytes()
    assert artifact["run"] == (directory.root / "wandb-sent.txt").read_text().split()[0]


def test_syncing_uploads_what_is_lacking_and_nothing_twice(server: WandbServer, tiny: list[str]) -> None:
    directory = trained([*tiny, *ONLINE, "tracker.mode=offline", "tracker.artifact=true"])
    for _ in range(2):
        assert sync([str(directory.root)]) == 0
        (content,) = files(server)
        assert content["generator.safetensors"] == directory.generator.read_bytes()
    trained([*tiny, *ONLINE, "tracker.artifact=true", "train.iterations=20"])
    assert len(files(server)) == 2  # other weights are another version
    assert files(server)[1]["generator.safetensors"] == directory.generator.read_bytes()


def test_a_refused_generator_is_said_and_mended(
    server: WandbServer, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server.fault = lambda kind, body: 400 if "CreateArtifact " in body else None
    directory = trained([*tiny, *ONLINE, "tracker.artifact=true"])
    assert "W&B did not take the generator" in capsys.readouterr().err
    (stored,) = server.runs.values()
    assert stored.exit_code == 0
    assert terminal.exit_status(lambda: sync([str(directory.root)])) == 2
    assert files(server) == []
    server.fault = lambda kind, body: None
    assert sync([str(directory.root)]) == 0
    assert len(files(server)) == 1


def test_a_run_that_is_not_finished_has_none(server: WandbServer, tiny: list[str]) -> None:
    cfg = compose([*tiny, *ONLINE, "tracker.artifact=true", "train.max_score=1", "optimizer.d_lr=1e3"])
    assert run(cfg).exit_status == 3
    assert server.artifacts == []


@pytest.mark.parametrize("value", ["1", "perhaps"])
def test_neither_true_nor_false(tiny: list[str], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose([*tiny, "tracker=wandb", f"tracker.artifact={value}"])
    assert run(cfg).exit_status == 2
    assert "neither true nor false" in capsys.readouterr().err
    assert not Path(load(compose(tiny)).run_directory).exists()
