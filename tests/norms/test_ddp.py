"""DistributedDataParallel: two processes train the network that one process trains on the whole batch."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group, see gan_lab.distributed.collectives
from norm_families import FAMILIES, family
from norm_networks import images, normalized
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bidirectional, shared gamma": lambda seed: normalized("bidirectional", "shared", seed=seed).double(),
    "operator, own gammas": lambda seed: normalized("operator", "per_layer", seed=seed).double(),
    **{name: functools.partial(family, name, double=True) for name in FAMILIES},
}


def train(owner: nn.Module, forward: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(owner.parameters(), lr=0.05)
    for _ in range(3):
        with parametrize.cached():
            loss = (forward(x) - 1).square().mean() + forward(-x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def one_of_two(rank: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for name, make in NORMS.items():
        net = make(rank)  # DDP sends rank 0's parameters and vectors to all
        train(net, DistributedDataParallel(net), images(4).double().chunk(2)[rank])
        torch.save(net.state_dict(), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    for norm, make in NORMS.items():
        net = make(0)
        start = {name: value.clone() for name, value in net.state_dict().items()}
        train(net, net, images(4).double())
        states = [torch.load(tmp_path / f"{norm}-{rank}.pt") for rank in range(2)]
        for name in net.state_dict():
            assert torch.equal(states[0][name], states[1][name]), name
        for name, parameter in net.named_parameters():
            assert not torch.equal(parameter, start[name]), name
            torch.testing.assert_close(states[0][name], parameter.detach())
