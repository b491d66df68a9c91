"""Who a process is among those of a launcher, and what is refused before they meet."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # optimizers import it, and it registers process groups of its own then
import torch.distributed

from gan_lab.config import Config, compose, load
from gan_lab.device import pick_device
from gan_lab.distributed import env
from gan_lab.errors import UserError
from gan_lab.run import run

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "SLURM_PROCID": "2"}, (3, 4, 1)),
        ({"WORLD_SIZE": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "1"}, (2, 4, 1)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (0, 1, 0)),  # torchrun with one process
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "1"}, (0, 1, 0)),  # a Slurm job of plain runs
    ],
)
def test_place(
    environment: dict[str, str], expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (env.rank(), env.world_size(), env.local_rank()) == expected


def config(ranks: int, *overrides: str) -> Config:
    return load(compose(["experiment=tiny", *overrides]), ranks)


@pytest.mark.parametrize("key", ["train.batch_size", "train.g_batch_size"])
def test_a_batch_that_cannot_be_shared_evenly_is_refused(key: str) -> None:
    given = ("train.batch_size=12", "train.g_batch_size=12", f"{key}=10")
    with pytest.raises(UserError, match=f"{key}=10 cannot be shared evenly by 4 ranks: take a multiple of 4"):
        config(4, *given)
    assert config(2, *given).plain == config(1, *given).plain


def test_the_number_of_ranks_is_of_a_run_s_identity_where_it_changes_the_result() -> None:
    """With synchronized batch norm, and without where there is one process, it is the same run."""
    separate = "train.sync_bn=false"
    same = [config(ranks) for ranks in (1, 2, 4)] + [config(1, separate)]
    assert {one.run_id for one in same} == {config(1).run_id}
    others = {config(ranks, separate).run_id for ranks in (2, 4)}
    assert len(others) == 2
    assert config(1).run_id not in others
    assert config(2, separate).identity()["train"]["bn_batches"] == 2


@pytest.mark.parametrize(
    ("name", "here", "expected"),
    [
        ("auto", 0, "cpu"),
        ("cpu", 4, "cpu"),
        ("auto", 4, "cuda:1"),
        ("cuda", 4, "cuda:1"),
        ("cuda", 1, "rank 1 of this host has no GPU, of which there are 1"),
        ("cuda:0", 4, "device=cuda:0 is one device for 2 ranks"),
    ],
)
def test_each_rank_takes_its_host_s_gpu_of_its_number(
    name: str, here: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    for variable, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)  # there is none to make it on
    if not expected.startswith(("cpu", "cuda:")):
        with pytest.raises(UserError, match=expected):
            pick_device(name)
        return
    assert pick_device(name) == torch.device(expected)
    assert taken == ([1] if "cuda" in expected else [])


def test_ranks_that_cannot_meet_are_refused(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*VARIABLES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(compose(tiny)).exit_status == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the 2 ranks of WORLD_SIZE cannot meet")
    assert said.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_single_process_calls_nothing_of_torch_distributed(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("torch.distributed"):
            called.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    sys.setprofile(watch)
    try:
        assert run(compose([*tiny, "train.iterations=3", "arch.width=0.03125"])).exit_status == 0
    finally:
        sys.setprofile(None)
    # Networks, parametrizations and optimizers ask whether their tensors are distributed ones.
    assert not [name for name in called if "distributed_c10d" in name or "rendezvous" in name]
