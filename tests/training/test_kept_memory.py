"""Snapshots, and states of one device loaded on another."""

import copy

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_leaves
from toys import differing, toy_gan

from gan_lab.training.divergence import DivergenceMonitor
from gan_lab.training.gan import Gan
from gan_lab.training.memory import Snapshot, load_optimizer, load_scheduler, tensors_of


def train(gan: Gan, iterations: int) -> None:
    for _ in range(iterations):
        gan.update(gan.draw(gan.iteration + 1))


def test_a_snapshot_is_a_copy_in_memory_that_is_kept() -> None:
    gan, snapshot = toy_gan(), Snapshot()
    snapshot.take(gan.state_dict())  # before the optimizers have states
    for _ in range(2):
        train(gan, 1)
        snapshot.take(gan.state_dict())
        expected = copy.deepcopy(gan.state_dict())
        memory = [tensor.data_ptr() for tensor in tensors_of(snapshot.state)]
        train(gan, 1)
        assert differing(snapshot.state, expected) == []
        assert differing(snapshot.state, gan.state_dict()) != []
        snapshot.take(gan.state_dict())
        assert [tensor.data_ptr() for tensor in tensors_of(snapshot.state)] == memory
        assert differing(snapshot.state, gan.state_dict()) == []


def test_training_from_a_snapshot_leaves_it_as_it_is() -> None:
    gan, snapshot = toy_gan(), Snapshot()
    train(gan, 2)
    snapshot.take(gan.state_dict())
    expected = copy.deepcopy(snapshot.state)
    gan.load_state_dict(snapshot.state)
    train(gan, 2)
    assert differing(snapshot.state, expected) == []


def test_a_monitor_keeps_sound_states_some_iterations_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = toy_gan()
    kept: list[int] = []
    take = Snapshot.take
    monkeypatch.setattr(
        Snapshot, "take", lambda self, state: (kept.append(state["iteration"]), take(self, state))
    )
    monitor = DivergenceMonitor(gan, 1e6, keep_every=4)
    for _ in range(9):
        train(gan, 1)
        if gan.iteration % 3 == 0:
            monitor.check()
    assert kept == [0, 6]


@pytest.mark.parametrize("is_tensor", [(True, False), (False, True), (True, True), (False, False)], ids=str)
def test_learning_rates_are_numbers_or_tensors_whatever_is_loaded(is_tensor: tuple[bool, bool]) -> None:
    """A run of a GPU, where they are tensors, is resumed on a CPU, and the other way round."""

    def made(as_tensor: bool) -> tuple[torch.optim.Optimizer, LambdaLR]:
        lr = torch.tensor(0.5) if as_tensor else 0.5
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))], lr=lr, fused=True)
        return optimizer, LambdaLR(optimizer, lambda done: 1 - done / 8)

    def step(optimizer: torch.optim.Optimizer, scheduler: LambdaLR) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.arange(3.0)
        optimizer.step()
        scheduler.step()

    saved, loaded = (made(one) for one in is_tensor)
    for _ in range(3):
        step(*saved)
    memory = loaded[0].param_groups[0]["lr"]
    load_optimizer(loaded[0], saved[0].state_dict())
    load_scheduler(loaded[1], saved[1].state_dict())
    with torch.no_grad():
        for ours, theirs in zip(*(one.param_groups[0]["params"] for one, _ in (loaded, saved)), strict=True):
            ours.copy_(theirs)
    for count in (4, 5):
        lr = loaded[0].param_groups[0]["lr"]
        assert isinstance(lr, Tensor) == is_tensor[1]
        assert float(lr) == 0.5 * (1 - (count - 1) / 8)
        assert lr is memory or not is_tensor[1]
        for one in (saved, loaded):
            step(*one)
    for ours, theirs in zip(
        *(tree_leaves(one.param_groups[0]["params"]) for one, _ in (saved, loaded)), strict=True
    ):
        assert torch.equal(ours, theirs)
