"""The exact singular values next to the estimates: what proves a norm, and what its theory starts from."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gan_lab.layers import KernelLayout, weighted_layers
from gan_lab.norms import lipschitz, plain
from gan_lab.norms.apply import eval_mode, input_sizes, normalized_layers, trained_weight
from gan_lab.norms.certified import SigmaGram, SigmaLeastOfFour
from gan_lab.norms.operator import LayerOperator, dense
from gan_lab.norms.parametrization import SpectralNormalization
from gan_lab.norms.sigma import SigmaBidirectional, SigmaEstimator, SigmaIn, SigmaOperator, SigmaOut
from gan_lab.norms.stable_rank import SigmaStableRank
from gan_lab.norms.variance import SigmaFilters, SigmaForcedFilters, SigmaFrobenius

DENSE_LIMIT = 2**20  # entries of an operator's matrix up to which its SVD is taken


@dataclass(frozen=True)
class LayerAudit:
    """One layer's norms: of the weight that is trained, and of the effective weight that the network uses."""

    layer: str
    estimated: float | None  # the norm's sigma as it stands; None without a norm
    exact: float | None  # what it estimates; None without a norm, or for an estimator of the user's own
    sigma_out: float  # exact, of the trained weight, as are the next two
    sigma_in: float
    sigma_op: float
    operator_norm: float  # of the effective weight: what the layer can stretch by
    method: str  # how sigma_op was found: svd, or lanczos
    residual: float  # relative; an eigenvalue of AᵀA lies this close to sigma_op², 0 for an SVD
    spectrum: "Spectrum"  # of the effective weight

    @property
    def relative_error(self) -> float | None:
        if self.estimated is None or self.exact is None:
            return None
        return abs(self.estimated - self.exact) / self.exact


@dataclass(frozen=True)
class Spectrum:
    """How the singular values of a kernel reshaped to `[c_out, c_in·kh·kw]` lie."""

    stable_rank: float  # Σσ² over the largest σ²: how many there are as large as the largest
    effective_rank: float  # exp of the entropy of σ/Σσ (Roy & Vetterli 2007): how many there are that count
    median: float  # over the largest

    @classmethod
    def of(cls, values: Tensor) -> "Spectrum":
        """Of singular values `[n]`; all zeros have none."""
        largest = values.max()
        if not largest:
            return cls(0.0, 0.0, 0.0)
        shares = values / values.sum()
        entropy = -torch.special.xlogy(shares, shares).sum()
        stable_rank = (values / largest).square().sum()
        return cls(stable_rank.item(), entropy.exp().item(), (values.median() / largest).item())


@dataclass(frozen=True)
class Audit:
    """All layers, and a Lipschitz constant of the whole network (None where a module's is not known)."""

    layers: list[LayerAudit]
    lipschitz: float | None
    lipschitz_unknown: str  # why there is none


@torch.no_grad()
def audit(network: nn.Module, example_input: Tensor, *labels: Tensor) -> Audit:
    """Measure every linear and convolution layer of `network` exactly, in float64, and change nothing.

    The reshapings by SVD. The operator at the size that `example_input` (with its `labels`, where the network
    takes any) gives it, by the SVD of its dense matrix where that has at most `DENSE_LIMIT` entries, else by
    Lanczos iterations to convergence with a residual. Raises ValueError, naming the layer, where it has no
    operator (see `LayerOperator.of`) or its weight is not finite.
    """
    layers = dict(weighted_layers(network))
    sizes = input_sizes(network, layers, example_input, *labels)
    norms = {layer: norm for _, layer, norm in normalized_layers(network)}
    with eval_mode(network):
        rows = [_audit_layer(name, layer, sizes[name], norms.get(layer)) for name, layer in layers.items()]
        operator_norms = {layer: row.operator_norm for layer, row in zip(layers.values(), rows, strict=True)}
        try:
            return Audit(rows, lipschitz.constant(network, operator_norms), "")
        except ValueError as error:
            return Audit(rows, None, str(error))


def _audit_layer(
    name: str, layer: nn.Module, input_size: tuple[int, ...], norm: SpectralNormalization | None
) -> LayerAudit:
    weight = trained_weight(layer) if norm else layer.weight
    assert isinstance(weight, Tensor)
    if not weight.isfinite().all():
        raise ValueError(f"layer {name or '(root)'} cannot be audited: its weight is not finite")
    try:
        operator = LayerOperator.of(layer, input_size)
    except ValueError as error:
        raise ValueError(f"layer {name or '(root)'} cannot be audited: {error}") from error
    layout = KernelLayout.of(layer)
    wide = weight.detach().cpu().double()
    blocks = layout.blocks(wide)
    values = torch.linalg.svdvals(blocks.flatten(2)).flatten()
    sigma_out = float(values.max())
    sigma_in = float(torch.linalg.matrix_norm(blocks.transpose(1, 2).flatten(2), 2).max())
    sigma_op, method, residual = operator_norm(operator, weight)
    estimated = exact = None
    effective_norm = sigma_op
    if norm is not None:
        sigma = norm.estimator(weight)
        if not sigma.all():
            raise ValueError(f"layer {name or '(root)'} cannot be audited: its sigma is 0")
        estimated = sigma.mean().item()
        exact = _exact(norm.estimator, layout.kernel(wide), sigma_out, sigma_in, sigma_op)
        if norm.only_scales:
            effective_norm = abs(norm.factor(weight).item()) * sigma_op
        else:
            assert isinstance(layer.weight, Tensor)
            effective_norm, method, residual = operator_norm(operator, layer.weight)
            effective = layout.blocks(layer.weight.cpu().double())
            values = torch.linalg.svdvals(effective.flatten(2)).flatten()
    return LayerAudit(
        name,
        estimated,
        exact,
        sigma_out,
        sigma_in,
        sigma_op,
        effective_norm,
        method,
        residual,
        Spectrum.of(values),
    )


def _exact(
    estimator: SigmaEstimator, kernel: Tensor, sigma_out: float, sigma_in: float, sigma_op: float
) -> float | None:
    """What an estimator of this package estimates, or bounds; of numbers by filter their mean."""
    lengths = kernel.flatten(1).norm(dim=1)
    known: dict[type[SigmaEstimator], float] = {
        SigmaOut: sigma_out,
        SigmaIn: sigma_in,
        SigmaBidirectional: (sigma_out + sigma_in) / 2,
        SigmaOperator: sigma_op,
        SigmaStableRank: sigma_out,
        SigmaLeastOfFour: sigma_op,
        SigmaGram: sigma_op,
        SigmaFrobenius: float(lengths.square().mean().sqrt()),
        SigmaFilters: float(lengths.mean()),
        SigmaForcedFilters: float(lengths.mean()),
    }
    estimated = {by_plain: kind for kind, by_plain in plain.KIN.items()}
    return known.get(estimated.get(type(estimator), type(estimator)))


@torch.no_grad()
def operator_norm(operator: LayerOperator, weight: Tensor) -> tuple[float, str, float]:
    """(largest singular value, method, relative residual) of an operator, in float64 on the host."""
    if not weight.any():
        return 0.0, "svd", 0.0
    from scipy.sparse.linalg import LinearOperator, eigsh  # heavy, and not needed to train

    weight = weight.detach().cpu().double()
    inputs, outputs = math.prod(operator.input_shape), math.prod(operator.output_shape)
    if inputs * outputs <= DENSE_LIMIT:
        return float(torch.linalg.matrix_norm(dense(operator, weight), 2)), "svd", 0.0

    def gram(vector: np.ndarray) -> np.ndarray:
        """AᵀA v."""
        x = torch.from_numpy(vector).reshape(operator.input_shape)
        return operator.adjoint(weight, operator.apply(weight, x)).flatten().numpy()

    start = np.random.default_rng(0).standard_normal(inputs)
    linear = LinearOperator((inputs, inputs), matvec=gram, dtype=np.float64)
    values, vectors = eigsh(linear, k=1, which="LA", v0=start, tol=1e-10)
    eigenvalue, vector = float(values[0]), vectors[:, 0]
    residual = float(np.linalg.norm(gram(vector) - eigenvalue * vector)) / eigenvalue
    return math.sqrt(eigenvalue), "lanczos", residual
