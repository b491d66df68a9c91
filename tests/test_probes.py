"""What the probes report, against its definitions."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_lab import norms, probes
from gan_lab.archs.initialization import kaiming, lecun, xavier
from gan_lab.norms.bounds import PatchNorms


def network(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        activation or nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(64, 1),
        nn.Flatten(0),
    )


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_gradient_norms() -> None:
    """Of all parameters together, and of each weight before its norm."""
    net = network()
    norms.normalize(net, norms.SigmaBidirectional, gamma="shared")
    net(images()).square().sum().backward()
    found = probes.gradient_norms(net, "d")
    gradients = {name: parameter.grad.double().numpy() for name, parameter in net.named_parameters()}
    assert list(found) == ["grad_norm/d", "grad_norm/d/0", "grad_norm/d/3"]
    total = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    assert found["grad_norm/d"].item() == pytest.approx(total)
    for name in ("0", "3"):
        expected = np.linalg.norm(gradients[f"{name}.parametrizations.weight.original"])
        assert found[f"grad_norm/d/{name}"].item() == pytest.approx(expected)


def test_layers_without_a_gradient_have_no_norm() -> None:
    net = network()
    assert probes.gradient_norms(net, "d") == {"grad_norm/d": torch.tensor(0.0)}
    net[0].requires_grad_(False)
    net(images()).sum().backward()
    assert list(probes.gradient_norms(net, "d")) == ["grad_norm/d", "grad_norm/d/3"]


@pytest.mark.parametrize("in_one_pass", [True, False])
def test_slopes(in_one_pass: bool) -> None:
    """`‖∇_x D(x)‖` image by image; the graph is kept for the update."""
    net = network()
    batches = {"real": images().requires_grad_(), "fake": (2 * images()[:-1]).requires_grad_()}
    scores = [net(torch.cat(list(batches.values())))] if in_one_pass else [net(x) for x in batches.values()]
    found = probes.slopes(scores, batches)
    expected = {}
    for kind, batch in batches.items():
        slopes = []
        for image in batch.detach():
            single = image[None].requires_grad_()
            net(single).backward()
            slopes.append(single.grad.norm().item())
        of_kind = {"mean": np.mean(slopes), "min": min(slopes), "max": max(slopes)}
        expected |= {f"slope/{kind}_{which}": value for which, value in of_kind.items()}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)
    torch.cat(scores).sum().backward()


@pytest.mark.parametrize("rule", [lecun, xavier, kaiming])
def test_weight_variances_stand_beside_their_targets(rule: object) -> None:
    net = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ConvTranspose2d(32, 64, 4), nn.Linear(400, 300))
    torch.manual_seed(0)
    rule(net)
    found = {name: value.item() for name, value in probes.weight_variances(net).items()}
    for name, layer in net.named_children():
        c_in, c_out = (400, 300) if name == "2" else (32, 64)
        taps = math.prod(getattr(layer, "kernel_size", (1,)))
        expected = {
            "": layer.weight.detach().double().numpy().var(),
            "_lecun": 1 / (c_in * taps),
            "_xavier": 2 / ((c_in + c_out) * taps),
            "_kaiming": 2 / (c_in * taps),
        }
        expected["_ratio"] = expected[""] / expected["_lecun"]
        for kind, value in expected.items():
            assert found[f"weight_var{kind}/{name}"] == pytest.approx(value, rel=1e-5)
        # 10,000 draws or more: the sample variance is within a few per cent of its target.
        target = expected[f"_{rule.__name__}"]
        assert expected[""] == pytest.approx(target, rel=0.05)


def test_variances_are_of_the_effective_weight() -> None:
    plain, net = network(), network()
    norms.normalize(net, norms.SigmaOut, scale=2.0)
    with norms.frozen(net):
        found = probes.weight_variances(net)
    sigma = norms.sigmas(net)["sigma/0"]
    expected = plain[0].weight.var(correction=0) * (2 / sigma) ** 2
    assert found["weight_var/0"].item() == pytest.approx(expected.item())
    assert found["weight_var_ratio/0"].item() == pytest.approx(27 * expected.item())


def audited(net: nn.Module, with_gradients: bool = True) -> dict[str, float]:
    patches, x = PatchNorms(net), images()
    with patches:
        scores = net(x)
    gradients = torch.autograd.grad(scores.square().sum(), scores) if with_gradients else None
    return {name: value.item() for name, value in probes.audited(net, x[:1], patches, gradients).items()}


SPECTRUM = ("stable_rank", "effective_rank", "spectrum_median")


def test_audited() -> None:
    net = network()
    norms.normalize(net, norms.SigmaOut, scale=1.5, warmup_iterations=2)
    net.eval()
    found = audited(net)
    kinds = ("operator_norm", *SPECTRUM, "sigma_exact", "sigma_error", "grad_bound/d")
    by_layer = {f"{kind}/{layer}" for kind in kinds for layer in ("0", "3")}
    assert set(found) == {"lipschitz/d", "operator_norm_spread/d"} | by_layer
    norms_of_layers = [found["operator_norm/0"], found["operator_norm/3"]]
    spread = max(norms_of_layers) / min(norms_of_layers)
    assert found["operator_norm_spread/d"] == pytest.approx(spread)
    for layer in ("0", "3"):
        weight = norms.trained_weight(net.get_submodule(layer)).detach().flatten(1)
        exact, estimate = np.linalg.norm(weight, 2), norms.sigmas(net)[f"sigma/{layer}"].item()
        assert found[f"sigma_exact/{layer}"] == pytest.approx(exact, rel=1e-5)
        assert found[f"sigma_error/{layer}"] == pytest.approx(1 - estimate / exact, abs=1e-6)
    assert found["operator_norm/3"] == pytest.approx(1.5)
    assert found["lipschitz/d"] == pytest.approx(found["operator_norm/0"] * 1.5)
    assert not [name for name in audited(net, with_gradients=False) if name.startswith("grad_bound")]


def test_what_an_audit_cannot_say_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    net = network(activation=nn.GELU())
    weights = {f"{kind}/{layer}" for kind in ("operator_norm", *SPECTRUM) for layer in ("0", "3")}
    weights.add("operator_norm_spread/d")
    assert set(audited(net)) == weights
    assert "no gradient bounds: no Lipschitz constant is known for GELU" in caplog.text

    normed = network(activation=nn.BatchNorm2d(4))
    assert set(audited(normed)) == {"lipschitz/d", *weights}
    assert "batch norm in training mode" in caplog.text

    nn.init.constant_(net[3].weight, math.nan)
    assert audited(net) == {}
    assert "no audit: layer 3 cannot be audited: its weight is not finite" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize(
    ("estimator", "c_in", "c_out", "k"),
    [
        (norms.SigmaOut, 64, 32, 4),
        (norms.SigmaOut, 32, 128, 3),
        (norms.SigmaBidirectional, 64, 64, 3),
        (norms.SigmaBidirectional, 16, 128, 3),
    ],
)
def test_variances_under_a_norm_follow_the_theory(
    estimator: type[norms.SigmaEstimator], c_in: int, c_out: int, k: int
) -> None:
    """docs/theory.md: the ratio to LeCun's is s² ‖W‖² / (c_out σ²), for Gaussian weights known before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(c_in, c_out, k))
    lecun(net)
    norms.normalize(net, estimator, scale=1.5, warmup_iterations=300)
    with norms.frozen(net):
        ratio = probes.weight_variances(net)["weight_var_ratio/0"].item()
    weight = norms.trained_weight(net[0]).detach()
    sigma = norms.sigmas(net)["sigma/0"].item()
    identity = 1.5**2 * (weight.square().sum() / (c_out * sigma**2)).item()
    assert ratio == pytest.approx(identity, rel=1e-3)
    fan_in, fan_out = c_in * k**2, c_out * k**2
    out, into = math.sqrt(c_out) + math.sqrt(fan_in), math.sqrt(c_in) + math.sqrt(fan_out)
    spread = out if estimator is norms.SigmaOut else (out + into) / 2
    assert ratio == pytest.approx(1.5**2 * fan_in / spread**2, rel=0.1)
    if estimator is norms.SigmaOut:
        assert 1.5**2 / c_out <= ratio <= 1.5**2


class Quadratic(nn.Module):
    """A score that is a quadratic form of its weights, `[B]`: its Hessian is known."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).flatten()


@pytest.mark.parametrize("scale", [None, 0.5])
def test_the_curvature_is_the_hessians_norm(scale: float | None) -> None:
    """Of the effective weights, by the whole Hessian's eigenvalues; nothing of the network moves."""
    torch.manual_seed(0)
    net, x = Quadratic(), torch.randn(5, 3)
    if scale:
        norms.normalize(net, norms.SigmaOut, scale)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = probes.curvature(net, lambda score: score(x).square().mean(), iterations=200)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with norms.frozen(net):
        sizes = [layer.weight.detach().clone() for layer in (net.first, net.second)]

    def loss(flat: Tensor) -> Tensor:
        first, second = flat[:6].view(2, 3), flat[6:].view(1, 2)
        return (x @ first.t() @ second.t()).square().mean()

    hessian = torch.autograd.functional.hessian(loss, torch.cat([one.flatten() for one in sizes]))
    assert found["curvature/d"].item() == pytest.approx(float(torch.linalg.matrix_norm(hessian, 2)), rel=1e-4)
    few = probes.curvature(net, lambda score: score(x).square().mean(), iterations=2)
    assert 0 < few["curvature/d"] <= found["curvature/d"] * (1 + 1e-5)


def test_a_flat_loss_has_no_curvature() -> None:
    found = probes.curvature(nn.Linear(3, 1), lambda score: score(torch.ones(2, 3)).sum())
    assert found["curvature/d"] == 0


def test_where_the_loss_cannot_be_differentiated_twice_there_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def loss(score: nn.Module) -> Tensor:
        raise RuntimeError("derivative for 'aten::some' is not implemented")

    assert not probes.curvature(nn.Linear(3, 1), loss)
    assert "no curvature: derivative for 'aten::some' is not implemented" in caplog.text


def test_the_trained_weights_sizes_are_measured() -> None:
    net = Quadratic()
    norms.normalize(net, norms.SigmaOut)
    with norms.frozen(net):
        found = probes.weight_variances(net)
    for name in ("first", "second"):
        trained = norms.trained_weight(net.get_submodule(name))
        assert found[f"trained_norm/{name}"].item() == pytest.approx(float(np.linalg.norm(trained.detach())))
