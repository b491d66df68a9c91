"""How a process is set up for a GPU, and what is written down of it: on one that is none."""

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from pretended import GPU, PretendedGpu, lies_on
from torch import Tensor

from gan_lab import device as device_module
from gan_lab.commands import generate
from gan_lab.config import compose
from gan_lab.data import write_array
from gan_lab.device import hardware, pick_device, prepare_process, prepare_upload
from gan_lab.distributed import collectives
from gan_lab.evaluate import judge
from gan_lab.metrics import evaluator
from gan_lab.metrics.extractors import Extractor
from gan_lab.run import run
from gan_lab.training.gan import Gan
from gan_lab.training.loop import Clock


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    with PretendedGpu() as pretended:
        yield pretended


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    device_module.allow_tf32(True)


def test_a_gpu_that_is_picked_is_the_current_one(gpu: PretendedGpu) -> None:
    """Also after a run that took another: `cuda` is the first, whatever was before."""
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert gpu.current_device == 1
    assert pick_device("auto") == torch.device("cuda")
    assert gpu.current_device == 0


TENSORS: list[Tensor | None] = [
    torch.randn(3, 5),
    None,
    torch.randint(9, (7,)),
    torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)[:, 1:],
    torch.tensor([True, False, True]),
    torch.tensor(2.5, dtype=torch.float64),
    torch.zeros(0, 3),
    torch.arange(1000, dtype=torch.uint8)[::3],
]


def test_tensors_of_any_kind_cross_in_one_copy_that_nobody_waits_for(gpu: PretendedGpu) -> None:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(prepare_upload(TENSORS, torch.device("cuda"))))
    thread.start()
    thread.join()
    with gpu.watching() as events:
        uploaded = made[0]()
    assert [event.kind for event in events] == ["upload-async"]
    for there, here in zip(uploaded, TENSORS, strict=True):
        assert (there is None) == (here is None)
        if there is not None and here is not None:
            assert lies_on(there) == GPU
            assert (there.dtype, there.shape) == (here.dtype, here.shape)
            assert torch.equal(there.cpu(), here)


def test_the_host_keeps_freed_memory_only_where_it_computes(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(device_module, "keep_freed_memory", lambda: kept.append(device))
    for device in ("cuda", "cpu"):
        prepare_process(torch.device(device))
    assert kept == ["cpu"]


def test_the_driver_is_the_kernel_module_s(tmp_path: Path) -> None:
    said = tmp_path / "version"
    said.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12\n"
    )
    assert device_module._driver(said) == "580.95.05"
    assert device_module._driver(tmp_path / "none") == ""
    assert hardware(torch.device("cpu")) == {}


def test_peak_memory_is_that_of_a_run_s_own_iterations(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an earlier run's of the process, nor that of judging."""
    most = 900 * 2**20  # what the process has seen so far

    def forget(device: torch.device) -> None:
        nonlocal most
        most = 0

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: most)
    clock = Clock(torch.device("cuda"), 0, images_per_iteration=1)
    peaks = []
    for iteration, (training, judging) in enumerate([(50, 700), (40, 0), (60, 0)], start=1):
        most = max(most, training * 2**20)
        peaks.append(clock.lap(iteration)["memory/peak_mb"])
        with clock.paused():
            most = max(most, judging * 2**20)
    assert peaks == [50, 50, 60]


def test_collectives_between_gpus_do_not_wait_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    limits: dict[str, timedelta] = {}
    backend = mock.Mock(_set_default_timeout=lambda limit: limits.update(cuda=limit))
    world = mock.Mock(_get_backend=lambda device: backend if device.type == "cuda" else None)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, timeout, **__: limits.update(host=timeout))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    dist.group.WORLD = world
    try:
        with collectives.joined("cuda"):
            assert limits["host"] >= timedelta(hours=12)  # the others wait while rank zero prepares a dataset
            assert timedelta(minutes=10) <= limits["cuda"] <= timedelta(minutes=30)
        limits.clear()
        with collectives.joined("cpu"):
            assert limits.keys() == {"host"}
    finally:
        dist.group.WORLD = None


def test_a_status_names_the_gpu_and_a_resume_on_other_hardware_is_said(
    tiny: list[str], tmp_path: Path
) -> None:
    def trained(device: str, iterations: int) -> tuple[dict[str, Any], str]:
        assert run(compose([*tiny, f"device={device}", f"train.iterations={iterations}"])).exit_status == 0
        (status,) = tmp_path.glob("outputs/**/status.json")
        return json.loads(status.read_text()), (status.parent / "train.log").read_text()

    status, log = trained("cpu", 2)
    assert "gpu" not in status
    with PretendedGpu():
        status, log = trained("cuda", 4)
        assert status["gpu"] == "Pretended"
        assert {"driver", "cuda", "cudnn"} <= status.keys()
        said = "trained on a CPU so far, and now on Pretended"
        assert log.count(said) == 1
        assert trained("cuda", 6)[1].count("the same run to rounding") == 1  # the same GPU is nothing new


def test_a_gpu_judges_more_images_at_once(tmp_path: Path) -> None:
    class Judge(torch.nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            at_once.append(len(images))
            found = images.flatten(1).float()
            return found, found

    at_once: list[int] = []
    real = write_array(tmp_path / "real.npy", np.zeros((40, 3, 2, 2), dtype=np.uint8), {})
    pixels = torch.zeros(40, 3, 2, 2, dtype=torch.uint8)
    sizes = {"batch_size": 10, "gpu_batch_size": 30}
    for device in ("cpu", "cuda"):
        with PretendedGpu() if device == "cuda" else contextlib.nullcontext():
            network, there = Extractor(Judge(), {"name": device}, ""), torch.device(device)
            made = evaluator(real, tmp_path, there, network, ["fid"], num_generated=40, **sizes)
            made.evaluate(lambda start, stop: pixels[start:stop])
    assert at_once == 2 * [10] * 4 + 2 * [30, 10]  # the real images, and then the generated ones


@pytest.mark.parametrize("tf32", [True, False])
def test_judging_and_generating_are_set_up_as_the_run_was(
    tiny: list[str], tmp_path: Path, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = ["metrics=digits", "metrics.digits.num_generated=20", "train.iterations=1"]
    run(compose([*tiny, *choices, f"train.tf32={str(tf32).lower()}"]))
    (status,) = tmp_path.glob("outputs/**/status.json")
    prepared: list[tuple[str, bool]] = []
    for module in ("gan_lab.evaluate", "gan_lab.commands.generate"):
        monkeypatch.setattr(
            f"{module}.prepare_process",
            lambda device, tf32, module=module: prepared.append((module, tf32)),
        )
    data = next(one for one in tiny if one.startswith("paths.data="))
    assert judge(status.parent, overrides=["device=cpu", data]).values
    assert generate.main([str(status.parent), "--num", "2", "--out", str(tmp_path / "grid.png")]) == 0
    assert prepared == [("gan_lab.evaluate", tf32), ("gan_lab.commands.generate", tf32)]


def test_building_leaves_every_global_stream_as_it_was(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's too: nothing is seeded there, since nothing is drawn there."""
    from gan_lab import build
    from gan_lab.config import load

    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPU's stream is seeded"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: pytest.fail("the GPU's stream is seeded"))
    before = torch.get_rng_state()
    config = load(compose([*tiny, "norm=bssn"]))
    gan: Gan = build.build_gan(config, build.load_images(config), torch.device("cpu"))
    assert gan.iteration == 0
    assert torch.equal(torch.get_rng_state(), before)
