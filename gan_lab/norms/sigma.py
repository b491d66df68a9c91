"""Estimators of a layer's largest singular value, by power iteration.

Each holds its singular vectors as buffers; they are constants to autograd, so that the gradient of
`σ = uᵀWv` with respect to W is `u vᵀ` (Miyato et al. 2018, section 2.1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan_lab.layers import KernelLayout
from gan_lab.norms.operator import LayerOperator
from gan_lab.norms.power_iteration import power_iterate, start


class SigmaEstimator(nn.Module):
    """What a norm divides by: a positive function of one layer's weight, a scalar unless `per_filter`.

    A subclass is constructed with the layer (linear or convolution, its weight initialized), from which it
    copies what it needs. One that `needs_input_size` gets the spatial sizes of the layer's input too (`()`
    for a linear layer), and keeps them as `input_size`.
    """

    needs_input_size = False
    input_size: tuple[int, ...] | None = None
    per_filter = False  # whether sigma is one number for each output filter, `[c_out]`, and no scalar

    def singular_values(self) -> Sequence["LargestSingularValue"]:
        """Those whose mean sigma is, so that a network's layers take what they need for them together."""
        return ()

    def power_iterate(self, weight: Tensor) -> None:
        """Improve in place, by one iteration and without a gradient, what it keeps: its `singular_values`.

        An estimator that is no mean of these overrides this, if it keeps anything, and `forward`.
        """
        if values := self.singular_values():
            power_iterate([(value, weight) for value in values])

    def after_update(self, weight: Tensor) -> None:
        """Move, in place, what follows an update of the weight; nothing here."""

    def forward(self, weight: Tensor) -> Tensor:
        """Sigma, a scalar, differentiable in the weight; moves nothing."""
        values = self.singular_values()
        if not values:
            raise NotImplementedError
        return torch.stack([value.estimate(weight) for value in values]).mean()

    def prepared(self, weight: Tensor) -> Tensor:
        """What is divided by sigma: the weight, unless a norm changes more of it than its scale."""
        return weight

    def settle(self, weight: Tensor) -> None:
        """Change the trained weight itself, in place, before an update evaluates it; most norms do not.

        The effective weight must stay as it was.
        """

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        """What is logged next to sigma, by name, e.g. the two halves of the bidirectional one."""
        return {}


class LargestSingularValue(SigmaEstimator):
    """The norm of a linear map A that the weight makes, `σ = ⟨u, A v⟩`."""

    u: Tensor  # [2, *output], unit vectors, the most stretched first
    v: Tensor  # [3, *input], two orthonormal vectors, and the direction in which the first one has moved

    def singular_values(self) -> Sequence["LargestSingularValue"]:
        return (self,)

    def _start(self, weight: Tensor, shape: tuple[int, ...]) -> None:
        """Start from random u of this shape, `[2, *output]`, on every device from the same."""
        drawn = torch.empty(shape, dtype=weight.dtype, device="cpu").normal_().to(weight.device)
        u, v = start(self, weight.detach(), drawn)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def image(self, weight: Tensor, v: Tensor) -> Tensor:
        """A, `[B, *input] -> [B, *output]`."""
        raise NotImplementedError

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """Aᵀ, `[B, *output] -> [B, *input]`."""
        raise NotImplementedError

    def weight_grad(self, u: Tensor, v: Tensor) -> Tensor:
        """`∂⟨u, A v⟩/∂W`, of the weight's shape, for one pair `[1, *output]`, `[1, *input]`."""
        raise NotImplementedError

    def pair(self) -> tuple[Tensor, Tensor]:
        """A copy of the first pair, u `[1, *output]` and v `[1, *input]`."""
        return self.u[:1].clone(), self.v[:1].clone()

    def estimate(self, weight: Tensor) -> Tensor:
        """`⟨u, A v⟩`, a scalar."""
        u, v = self.pair()  # because a second pass may move them before the first one's backward
        return (u * self.image(weight, v)).sum()


class _SigmaOfMatrix(LargestSingularValue):
    """The largest singular value of the kernel reshaped to a matrix.

    The kernel of a grouped convolution has zeros between its groups: the matrix is block-diagonal, and its
    norm the largest of its blocks'.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layout = KernelLayout.of(layer)
        assert isinstance(layer.weight, Tensor)
        self.weight_shape = layer.weight.shape
        groups, rows, _ = self.matrix(layer.weight).shape
        self._start(layer.weight, (2, groups, rows))

    def matrix(self, weight: Tensor) -> Tensor:
        """The diagonal blocks, `[groups, rows / groups, columns / groups]`.

        Their entries are in an order that copies no channels-last kernel; it has no part in singular values.
        """
        raise NotImplementedError

    def image(self, weight: Tensor, v: Tensor) -> Tensor:
        # The matrix on the left, so that its gradient is laid out in memory as it is.
        return torch.bmm(self.matrix(weight), v.movedim(0, 2)).movedim(2, 0)

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        return torch.bmm(u.transpose(0, 1), self.matrix(weight)).transpose(0, 1)

    def weight_grad(self, u: Tensor, v: Tensor) -> Tensor:
        return self.as_weight(u[0].unsqueeze(2) * v[0].unsqueeze(1))

    def as_weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        groups, c_out, c_in, k = self.layout.block_shape(self.weight_shape)
        return self.layout.weight(matrix.view(groups, c_out, k, c_in).transpose(2, 3), self.weight_shape)


class SigmaOut(_SigmaOfMatrix):
    """`σ_out = ‖W reshaped to [c_out, c_in·kh·kw]‖`, the sigma of SN (Miyato et al. 2018)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).transpose(2, 3).flatten(2)  # [groups, c_out, k·c_in]


class SigmaIn(_SigmaOfMatrix):
    """`σ_in = ‖W reshaped to [c_in, c_out·kh·kw]‖`, the other half of BSN (Lin et al. 2021)."""

    def matrix(self, weight: Tensor) -> Tensor:
        return self.layout.blocks(weight).transpose(2, 3).flatten(1, 2)  # [groups, c_out·k, c_in], transposed


class SigmaBidirectional(SigmaEstimator):
    """`σ_bi = (σ_out + σ_in) / 2`, the sigma of BSN (Lin et al. 2021)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.sigma_out = SigmaOut(layer)
        self.sigma_in = SigmaIn(layer)

    def singular_values(self) -> Sequence[LargestSingularValue]:
        return self.sigma_out, self.sigma_in

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sigma_out": self.sigma_out(weight), "sigma_in": self.sigma_in(weight)}


class SigmaOperator(LargestSingularValue):
    """`σ_op`, the norm of the map `x ↦ layer(x)` at the layer's real input size: the sigma of strict SN.

    Power iteration on the convolution and its exact adjoint (what Lin et al. 2021 call strict SN; the
    operator's norm by power iteration as in Gouk et al. 2018).
    """

    needs_input_size = True

    def __init__(self, layer: nn.Module, input_size: tuple[int, ...]) -> None:
        super().__init__()
        self.input_size = tuple(input_size)
        self.operator = LayerOperator.of(layer, self.input_size)
        assert isinstance(layer.weight, Tensor)
        self.weight_shape = layer.weight.shape
        self._start(layer.weight, (2, *self.operator.output_shape[1:]))

    def image(self, weight: Tensor, v: Tensor) -> Tensor:
        return self.operator.apply(weight, v)

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        return self.operator.adjoint(weight, u)

    def weight_grad(self, u: Tensor, v: Tensor) -> Tensor:
        return self.operator.weight_grad(self.weight_shape, v, u)

    def parts(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sigma_op": self(weight)}
