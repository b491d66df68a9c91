import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_lab.tracking.base import RunInfo
from gan_lab.tracking.tensorboard import TensorBoardTracker


def tracker(folder: Path, iteration: int = 0) -> TensorBoardTracker:
    return TensorBoardTracker(RunInfo(folder, "id", "name", {}, iteration))


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return accumulator.Reload()


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def test_scalars_come_back(tmp_path: Path) -> None:
    sink = tracker(tmp_path)
    sink.log(5, {"loss/d": 0.5, "metric/fid": 20.25})
    sink.log(10, {"loss/d": math.nan})
    sink.finish("finished")
    assert scalars(tmp_path, "metric/fid") == [(5, 20.25)]
    (first, at_ten) = scalars(tmp_path, "loss/d")
    assert first == (5, 0.5)
    assert at_ten[0] == 10
    assert math.isnan(at_ten[1])


def test_sample_grids_come_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    sink = tracker(tmp_path)
    sink.log_samples(10, tmp_path / "grid.png")
    sink.finish("finished")
    (event,) = events(tmp_path).Images("samples")
    (tmp_path / "back.png").write_bytes(event.encoded_image_string)
    with Image.open(tmp_path / "back.png") as image:
        assert event.step == 10
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("iteration", [0, 10])
def test_a_lost_continuation_is_hidden(tmp_path: Path, iteration: int) -> None:
    lost = tracker(tmp_path)
    for step in (5, 10, 15):
        lost.log(step, {"loss/d": 1.0})
    lost.finish("failed")
    resumed = tracker(tmp_path, iteration)
    resumed.log(15, {"loss/d": 2.0})
    resumed.finish("finished")
    kept = [(step, 1.0) for step in (5, 10) if step <= iteration]
    assert scalars(tmp_path, "loss/d") == [*kept, (15, 2.0)]
