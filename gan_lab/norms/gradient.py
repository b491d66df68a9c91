"""Gradient normalization of a network's scores (Wu et al. 2021, arXiv 2109.02235).

Not the weights but the output is normalized, `f̂(x) = f(x) / (‖∇_x f(x)‖ + |f(x)|)`, by a gradient that
training differentiates once more.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gan_lab.layers import as_rows


def normalize_gradient(network: nn.Module) -> None:
    """Let `network`, images `[B, ...]` to scores `[B]`, return f̂ in (-1, 1), in place.

    Each score must depend on its own image only. Layers, parameters and state keep their names; the scores
    can be differentiated by weights and images as before. Where the network is piecewise linear, f̂ has the
    slope `(1 - |f̂|)²`, at most 1; but it jumps where the slope of f does, so that it is not Lipschitz
    continuous. Raises ValueError where it was done already.
    """
    if isinstance(network, GradientNormalized):
        raise ValueError("the network's scores are normalized by their gradient already")
    _change_class(network, type(network))


def remove_gradient(network: nn.Module) -> None:
    """Take it off again: the network returns f, which no weights could make f̂."""
    if isinstance(network, GradientNormalized):
        network.__class__ = network.plain_class()  # type: ignore[assignment]


class GradientNormalized(nn.Module):
    """What `normalize_gradient` puts before a network's own class."""

    def forward(self, images: Tensor, *others: Tensor) -> Tensor:
        """f̂ of each image, `[B]`, in float32 where the network computes in less."""
        is_differentiated = torch.is_grad_enabled()
        with torch.enable_grad():
            if not images.requires_grad:
                images = images.detach().requires_grad_()
            scores = super().forward(images, *others)
            with torch.autocast(images.device.type, enabled=False):
                scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
                (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=is_differentiated)
                size = as_rows(gradient).norm(dim=1) + scores.abs()
                # A network that is 0 around an image has a score of 0 there, and not of 0/0.
                normalized = scores / size.clamp_min(torch.finfo(size.dtype).tiny)
        return normalized if is_differentiated else normalized.detach()

    @classmethod
    def plain_class(cls) -> type[nn.Module]:
        """The network's own."""
        _, plain = cls.__bases__
        return plain

    def lipschitz(self) -> float:
        raise ValueError(
            "gradient normalization bounds the slope where a network is piecewise linear, but its scores "
            "jump where its slope does: they have no Lipschitz constant"
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """A class that is made at run time cannot be found by its name."""
        return _rebuild, (self.plain_class(),), self.__dict__


def _rebuild(plain: type[nn.Module]) -> nn.Module:
    network = plain.__new__(plain)
    _change_class(network, plain)
    return network


def _change_class(network: nn.Module, plain: type[nn.Module]) -> None:
    network.__class__ = type(f"GradientNormalized{plain.__name__}", (GradientNormalized, plain), {})
