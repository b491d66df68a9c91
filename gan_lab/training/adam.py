"""Adam as PyTorch and as TensorFlow 1 compute it, both without PyTorch's compiler."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _WithoutCompiler(torch.optim.Optimizer):
    """An optimizer that is never compiled.

    PyTorch hides these methods from its compiler by a decorator, which imports the compiler at the first
    call: a third of the time to a run's first step. Here they are without the decorator.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Adam(_WithoutCompiler, torch.optim.Adam):
    """PyTorch's, bit for bit."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class TensorFlowAdam(_WithoutCompiler):
    """`W ← W − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε)`: ε is added before the bias correction, not after it.

    So ε counts `1/√(1 − β₂ᵗ)` times as much as in PyTorch's Adam: 32 times in the first step with β₂ = 0.999,
    once in the end. The state has the names of PyTorch's Adam; all of it lies on the parameters' device.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={tuple(betas)} are not numbers from 0 to 1, 1 excluded")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "capturable": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("an update of a GAN has no closure")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        steps, means, squares = (
            [self.state[weight][name] for weight in weights] for name in ("step", "exp_avg", "exp_avg_sq")
        )
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        rates = torch._foreach_sqrt(_one_minus_power(beta2, steps))
        torch._foreach_div_(rates, _one_minus_power(beta1, steps))
        torch._foreach_mul_(rates, group["lr"])
        lengths = torch._foreach_sqrt(squares)
        torch._foreach_add_(lengths, group["eps"])
        changes = torch._foreach_div(means, lengths)
        torch._foreach_mul_(changes, rates)
        torch._foreach_sub_(weights, changes)


def _one_minus_power(base: float, exponents: list[Tensor]) -> tuple[Tensor, ...]:
    """`1 − baseᵗ` of each t from 1 on, also where that is small."""
    powers = torch._foreach_mul(exponents, math.log(base) if base else -math.inf)
    return torch._foreach_neg(torch._foreach_expm1(powers))
