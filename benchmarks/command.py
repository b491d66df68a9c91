"""What a user waits for at the command line, and the memory that a run takes."""

import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gans import gan_for, iterate
from benchmarks.rows import Row
from benchmarks.timing import in_turn, seconds
from gan_lab.errors import UserError
from gan_lab.presets import CONFIGS
from gan_lab.runs import checkpoint

TRAIN = [sys.executable, str(CONFIGS.parent / "train.py")]


def first_step(rounds: int = 3) -> Iterator[Row]:
    """`time/first_step`: from `python train.py` on prepared data to the record of its first iteration."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = [_until_first_step(folder, number) for number in range(rounds + 1)]
    yield Row("time/first_step", statistics.median(times[1:]), "s")  # the first one prepares the data


def _until_first_step(folder: Path, number: int) -> float:
    outputs = folder / f"outputs{number}"
    arguments = [
        f"paths.data={folder}/data",
        f"paths.outputs={outputs}",
        "tracker=local",
        "train.log_every=1",
    ]
    begin = time.perf_counter()
    with subprocess.Popen([*TRAIN, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            while not any(path.stat().st_size for path in outputs.glob("**/metrics.jsonl")):
                if process.poll() is not None:
                    raise UserError(f"train.py ended with {process.returncode}: run it to see why")
                time.sleep(0.01)
            return time.perf_counter() - begin
        finally:
            process.kill()


def help_text(rounds: int = 5) -> Iterator[Row]:
    """`time/help`: `python train.py --help`, from a disk cache that has seen it."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        _output([*TRAIN, "--help"])
        times.append(time.perf_counter() - begin)
    yield Row("time/help", statistics.median(times[1:]), "s")


def checkpoints(rounds: int = 5) -> Iterator[Row]:
    """`time/checkpoint`, `time/resume`: to write one of the CNN (32 pixels), and to continue from it."""
    with tempfile.TemporaryDirectory() as name:
        gan, _ = gan_for(["dataset=cifar10", "norm=sn"], Path(name))
        iterate(gan)  # so that the optimizers have a state

        def save() -> None:
            checkpoint.save(Path(name) / "checkpoints", gan.iteration, gan.state_dict(), keep_every=10**9)

        def resume() -> None:
            state = checkpoint.load_newest(Path(name) / "checkpoints")
            assert state is not None
            gan.load_state_dict(state)

        times = in_turn(
            {
                "checkpoint": functools.partial(seconds, save, gan.device),
                "resume": functools.partial(seconds, resume, gan.device),
            },
            rounds,
        )
    for what, values in times.items():
        yield Row(f"time/{what}", statistics.median(values), "s")


def memory() -> Iterator[Row]:
    """`memory/peak`: of training the CNN (32 pixels, batch 64, SN): the GPU's, else the process's."""
    with tempfile.TemporaryDirectory() as name:
        arguments = [
            "norm=sn",
            "arch.width=1",
            "metrics=none",
            "tracker=local",
            "train.iterations=6",
            "train.log_every=1",
            "probes.every=3",
            f"paths.data={name}/data",
            f"paths.outputs={name}/outputs",
        ]
        _output([*TRAIN, *arguments])
        (record,) = Path(name).glob("outputs/**/metrics.jsonl")
        rows = [json.loads(line) for line in record.read_text().splitlines()]
    yield Row("memory/peak", max(row["memory/peak_mb"] for row in rows if "memory/peak_mb" in row), "MB")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
