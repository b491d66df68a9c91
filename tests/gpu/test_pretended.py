"""The pretended GPU refuses what a GPU refuses, and notes what lets the host wait."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pretended import GPU, HOST, PretendedGpu, RefusedError, lies_on
from torch import Tensor, nn

from gan_lab.rng import stream


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    with PretendedGpu() as pretended:
        yield pretended


REFUSED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a sum": lambda there, here: there + here,
    "a product": lambda there, here: torch.eye(3) @ there,
    "a list of tensors": lambda there, here: torch.cat([there, here]),
    "in place": lambda there, here: there.add_(here),
    "for each": lambda there, here: torch._foreach_lerp_([here], [there], 0.5),
    "NumPy": lambda there, here: there.numpy(),
    "the host's by indices there": lambda there, here: here[torch.arange(2, device="cuda")],
    "drawn by the host's generator": lambda there, here: torch.randn(
        3, device="cuda", generator=stream(0, "x")
    ),
    "filled by the host's generator": lambda there, here: there.normal_(generator=torch.Generator()),
    "pinned": lambda there, here: there.pin_memory(),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_what_a_gpu_refuses_is_refused(gpu: PretendedGpu, use: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(RefusedError):
        use(torch.ones(3, device="cuda"), torch.ones(3))


NOTED: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "item": ("wait", lambda x: x.sum().item()),
    "float": ("wait", lambda x: float(x[0])),
    "tolist": ("wait", lambda x: x.tolist()),
    "a condition": ("wait", lambda x: bool(x.isfinite().all())),
    "a mask there": ("wait", lambda x: x[x > 1]),
    "a mask here": ("upload", lambda x: x[torch.tensor([True, False, True, False])]),
    "to the host": ("download", lambda x: x.cpu()),
    "copied to the host": ("download", lambda x: torch.ones(4).copy_(x)),
    "not pinned": ("upload", lambda x: torch.ones(2).to("cuda", non_blocking=True)),
    "pinned, and waited for": ("upload", lambda x: torch.ones(2).pin_memory().to("cuda")),
    "pinned": ("upload-async", lambda x: torch.ones(2).pin_memory().to("cuda", non_blocking=True)),
    "a tensor of numbers": ("upload", lambda x: torch.tensor([1.0, 2.0], device="cuda")),
    "synchronize": ("wait", lambda x: torch.cuda.synchronize()),
    "drawn there": ("random", lambda x: torch.randn(3, device="cuda")),
    "filled there": ("random", lambda x: torch.empty_like(x).normal_()),
}


@pytest.mark.parametrize(("kind", "use"), NOTED.values(), ids=NOTED)
def test_what_waits_and_what_draws_is_noted(
    gpu: PretendedGpu, kind: str, use: Callable[[Tensor], Any]
) -> None:
    x = torch.arange(4.0).to("cuda")
    with gpu.watching() as events:
        use(x)
    assert kind in [event.kind for event in events]


def test_what_is_allowed_has_the_cpu_s_values_and_notes_nothing(gpu: PretendedGpu) -> None:
    x = torch.arange(6.0).to("cuda").view(2, 3)
    layer = nn.Linear(3, 1).to("cuda")
    with gpu.watching() as events:
        made = x.t() @ torch.ones(2, 2, device="cuda") + torch.tensor(2.0)  # a number may come from the host
        made = torch.cat([made, torch.zeros_like(made)])
        layer(x).sum().backward()
    assert events == []
    assert {lies_on(one) for one in (x, made, layer.weight, layer.weight.grad)} == {GPU}
    assert made.device == x.device == GPU
    assert (made.cpu().numpy() == [[5, 5], [7, 7], [9, 9], [0, 0], [0, 0], [0, 0]]).all()
    assert lies_on(made.cpu()) == HOST


class _MakesOnTheHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.full((3,), 2.0)


def test_backward_passes_are_watched_too(gpu: PretendedGpu) -> None:
    x = torch.ones(3, device="cuda", requires_grad=True)
    with pytest.raises(RefusedError):
        _MakesOnTheHost.apply(x).sum().backward()
