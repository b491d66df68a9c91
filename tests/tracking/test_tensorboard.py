import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_lab.tracking import jsonl
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


# --- the event files are made to agree with the local record

ROWS = {step: {"loss/d": step / 8, "speed/step_ms": 4.0} for step in range(5, 65, 5)}
for _step in (20, 40, 60):
    ROWS[_step] |= {"metric/fid": abs(40 - _step) + 1.0, "metric/is_mean": 5 - abs(40 - _step) / 64}


def record(folder: Path, until: int) -> None:
    """The local record up to an iteration: rows, a grid every ten iterations, the real images."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"iteration": step, **row}) for step, row in ROWS.items() if step <= until]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for step in range(10, until + 1, 10):
        Image.new("RGB", (4, 3), (step, 0, 0)).save(folder / f"samples/{step:08d}.png")
    Image.new("RGB", (4, 3), "white").save(folder / "real.png")


def train(folder: Path, start: int, stop: int) -> TensorBoardTracker:
    record(folder, start)
    sink = tracker(folder, start)
    for step in range(start + 5, stop + 1, 5):
        record(folder, step)
        sink.log(step, ROWS[step])
        if step % 10 == 0:
            sink.log_samples(step, folder / f"samples/{step:08d}.png")
    return sink


def assert_agrees(folder: Path, until: int) -> None:
    """Every value and picture of the record up to an iteration is shown, once, and the best so far."""
    accumulator = events(folder)
    names = {name for step, row in ROWS.items() for name in row if step <= until}
    best = {"best/fid", "best/is_mean"} if until >= 20 else set()
    assert set(accumulator.Tags()["scalars"]) == names | best
    for name in names:
        expected = [(step, row[name]) for step, row in ROWS.items() if step <= until and name in row]
        assert scalars(folder, name) == [(step, pytest.approx(value)) for step, value in expected]
    for name, choose in (("best/fid", min), ("best/is_mean", max)):
        metric = [(step, row[name.replace("best", "metric")]) for step, row in ROWS.items() if step % 20 == 0]
        running = [(step, choose(value for at, value in metric if at <= step)) for step, _ in metric]
        if best:
            assert scalars(folder, name) == [pytest.approx(point) for point in running if point[0] <= until]
    pictures = accumulator.Images("samples") if until >= 10 else []
    assert [picture.step for picture in pictures] == list(range(10, until + 1, 10))
    for picture in pictures:
        with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
            assert image.getpixel((0, 0)) == (picture.step, 0, 0)
    assert [picture.step for picture in accumulator.Images("real")] == [0]


def test_an_undisturbed_run_agrees_with_its_record(tmp_path: Path) -> None:
    train(tmp_path, 0, 60).finish("finished")
    assert_agrees(tmp_path, 60)


@pytest.mark.parametrize(("killed", "saved"), [(5, 0), (25, 20), (40, 40), (55, 20)])
def test_a_run_that_was_killed_and_resumed(tmp_path: Path, killed: int, saved: int) -> None:
    train(tmp_path, 0, killed)  # nobody closes its files
    assert_agrees(tmp_path, killed)
    for _ in range(2):  # and killed again before it trained
        train(tmp_path, saved, saved)
    train(tmp_path, saved, 60).finish("finished")
    assert_agrees(tmp_path, 60)


def test_files_of_a_host_whose_clock_is_ahead(tmp_path: Path) -> None:
    """TensorBoard reads files in the order of their names, which begin with the time."""
    train(tmp_path, 0, 40).finish("interrupted")
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.rename(path.with_name("events.out.tfevents.9999999999.host.1.0"))
    for stop in (50, 60):
        train(tmp_path, 20, stop).finish("interrupted")
        assert_agrees(tmp_path, stop)


@pytest.mark.parametrize("left", [0, 10, 0.5, -1])
def test_event_files_that_lost_their_end(tmp_path: Path, left: float) -> None:
    """None of a file arrived on the disk, or a part, or all but its last byte."""
    train(tmp_path, 0, 40)
    (path,) = (tmp_path / "tensorboard").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if 0 < left < 1 else int(left)])
    train(tmp_path, 40, 60).finish("finished")
    assert_agrees(tmp_path, 60)


def test_what_another_tracker_saw_is_there_too(tmp_path: Path) -> None:
    train(tmp_path, 0, 20).finish("interrupted")
    record(tmp_path, 40)  # as under tracker=local
    train(tmp_path, 40, 60).finish("finished")
    assert_agrees(tmp_path, 60)


def test_what_is_recorded_later_is_there_when_training_continues(tmp_path: Path) -> None:
    train(tmp_path, 0, 40).finish("finished")
    for step, fid in ((40, 3.0), (20, 2.0)):
        jsonl.append(tmp_path / "metrics.jsonl", step, {"metric/fid_10k": fid})
    tracker(tmp_path, 40).finish("finished")
    assert scalars(tmp_path, "metric/fid_10k") == [(20, 2.0), (40, 3.0)]
    assert scalars(tmp_path, "best/fid_10k")[-1] == (40, 2.0)
    assert [step for step, _ in scalars(tmp_path, "loss/d")] == list(range(5, 45, 5))


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    train(tmp_path, 0, 60).finish("finished")
    size = sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())
    tracker(tmp_path, 60).finish("finished")
    assert sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir()) < size + 200
