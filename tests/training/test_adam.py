"""Adam without the compiler against PyTorch's, and TensorFlow 1's against its formula written out.

The latter against PyTorch's too where they must meet.
"""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from signalling import stopped_at
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from gan_lab.build import build_gan, load_images
from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.training.adam import Adam, TensorFlowAdam

BETAS = [(0.5, 0.999), (0.0, 0.9), (0.9, 0.999)]


def gradients(count: int, scale: float) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [scale * torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(count)]


def trained(optimizer_class: type, grads: list[Tensor], **options: object) -> Tensor:
    weight = nn.Parameter(torch.ones(5, 3, dtype=torch.float64))
    optimizer = optimizer_class([weight], **options)
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_every_step_is_the_formula(betas: tuple[float, float], scale: float) -> None:
    """Also where gradients are as small as ε."""
    (b1, b2), lr, eps = betas, 2e-4, 1e-8
    grads = gradients(20, scale)
    w, m, v = np.ones((5, 3)), np.zeros((5, 3)), np.zeros((5, 3))
    for t, grad in enumerate(grads, start=1):
        g = grad.numpy()
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        w -= lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        ours = trained(TensorFlowAdam, grads[:t], lr=lr, betas=betas, eps=eps)
        np.testing.assert_allclose(ours.numpy(), w, rtol=0, atol=1e-6 * lr)


@pytest.mark.parametrize("betas", BETAS)
def test_without_epsilon_it_is_pytorch_s(betas: tuple[float, float]) -> None:
    grads = gradients(10, 1.0)
    ours, theirs = (
        trained(kind, grads, lr=1e-3, betas=betas, eps=1e-30) for kind in (TensorFlowAdam, torch.optim.Adam)
    )
    torch.testing.assert_close(ours - 1, theirs - 1, rtol=1e-5, atol=0)


def test_epsilon_counts_more_in_the_first_step() -> None:
    """By 1/√(1 − β₂) = 31.6 with β₂ = 0.999, which for a gradient of ε's size halves the step and more."""
    grads = [torch.full((5, 3), 1e-8, dtype=torch.float64)]
    ours, theirs = (
        1 - trained(kind, grads, lr=1.0, betas=(0.5, 0.999), eps=1e-8)
        for kind in (TensorFlowAdam, torch.optim.Adam)
    )
    torch.testing.assert_close(theirs, torch.full_like(theirs, 1 / 2))
    expected = 1 / (1 + 1 / math.sqrt(1 - 0.999))
    torch.testing.assert_close(ours, torch.full_like(ours, expected), rtol=1e-5, atol=0)


def test_a_parameter_without_a_gradient_rests() -> None:
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = TensorFlowAdam([one, other])
    one.grad = torch.ones(2)
    optimizer.step()
    assert (one < 1).all()
    assert (other == 1).all()
    assert other not in optimizer.state


def test_its_state_comes_back() -> None:
    grads = gradients(6, 1.0)
    weight = nn.Parameter(torch.ones(5, 3, dtype=torch.float64))
    first = TensorFlowAdam([weight], betas=(0.5, 0.999))
    for grad in grads[:3]:
        weight.grad = grad.clone()
        first.step()
    second = TensorFlowAdam([weight], betas=(0.5, 0.999))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for grad in grads[3:]:
        weight.grad = grad.clone()
        second.step()
    assert torch.equal(weight.detach(), trained(TensorFlowAdam, grads, betas=(0.5, 0.999)))


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"weight_decay": 0.1, "amsgrad": True}])
def test_without_the_compiler_it_is_pytorchs_adam(options: dict[str, Any]) -> None:
    ours, theirs = (
        kind([nn.Parameter(torch.ones(shape)) for shape in ((5, 3), (3,))], betas=(0.5, 0.9), **options)
        for kind in (Adam, torch.optim.Adam)
    )
    for grad in gradients(5, 1.0):
        for optimizer in (ours, theirs):
            weight, bias = optimizer.param_groups[0]["params"]
            weight.grad, bias.grad = grad.float(), None  # no gradient: no state, no step
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert weight.grad is None
    assert equal(ours.param_groups[0], theirs.param_groups[0])
    assert equal(ours.state_dict(), theirs.state_dict())
    twin = Adam([torch.ones(5, 3), torch.ones(3)])
    twin.load_state_dict(theirs.state_dict())
    assert equal(twin.state_dict(), theirs.state_dict())


def equal(one: Any, other: Any) -> bool:
    """Whether two nested states have the same keys and bits."""
    (leaves, kind), (others, other_kind) = tree_flatten(one), tree_flatten(other)
    return kind == other_kind and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(leaves, others, strict=True)
    )


@pytest.fixture
def base(tiny: list[str]) -> list[str]:
    return [*tiny, "train.iterations=2", "train.log_every=1"]


def test_it_is_chosen_by_one_key(base: list[str]) -> None:
    config = load(compose([*base, "optimizer=adam_ndis5", "optimizer.tensorflow_epsilon=true"]))
    gan = build_gan(config, load_images(config), torch.device("cpu"))
    for optimizer in (gan.g_optimizer, gan.d_optimizer):
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, TensorFlowAdam)
        assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.5, 0.9), 1e-8)
    assert config.run_id != load(compose([*base, "optimizer=adam_ndis5"])).run_id


def test_a_run_with_it_resumes_bit_for_bit(base: list[str], tmp_path: Path) -> None:
    chosen = [*base, "optimizer.tensorflow_epsilon=true", "optimizer.decay=linear", "train.iterations=4"]
    assert run(compose(chosen)).exit_status == 0
    stopped = [*chosen, f"paths.outputs={tmp_path}/stopped", "train.checkpoint_every=1"]
    with stopped_at(3):
        assert run(compose(stopped)).exit_status == 4
    assert run(compose(stopped)).exit_status == 0
    whole, resumed = (
        (load(compose(one)).run_directory / "generator.safetensors").read_bytes() for one in (chosen, stopped)
    )
    assert whole == resumed


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["optimizer.tensorflow_epsilon=true", "optimizer.discriminator._target_=torch.optim.SGD"], "Adam's"),
        (["optimizer.tensorflow_epsilon=true", "+optimizer.generator.amsgrad=true"], "amsgrad"),
        (["optimizer.reuse_latents=true", "train.g_batch_size=7"], "train.g_batch_size=7"),
    ],
)
def test_what_does_not_fit_is_refused(
    base: list[str], choices: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(compose([*base, *choices])).exit_status == 2
    assert message in capsys.readouterr().err
