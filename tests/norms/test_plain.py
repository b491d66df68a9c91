"""Plain power iteration against its formula in NumPy: what is computed, stored and differentiated."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from signalling import stopped_at
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.build import build_gan, load_images
from gan_lab.config import compose, load
from gan_lab.norms.audit import audit
from gan_lab.norms.plain import KIN
from gan_lab.run import run

SIZE = 6


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, 5, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(5 * 3 * 3, 1),
            nn.Flatten(0),
        ).double()


def normalized(
    kind: type[norms.SigmaEstimator] = norms.SigmaBidirectional, **options: object
) -> nn.Sequential:
    net = network()
    options = {"warmup_iterations": 0, "example_input": images(1), **options}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        norms.normalize(net, kind, power_iteration="plain", **options)  # type: ignore[arg-type]
    return net


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def matrices(weight: np.ndarray, kind: type[norms.SigmaEstimator]) -> list[np.ndarray]:
    """The weight reshaped, with the side in front that has the stored vector."""
    out = weight.reshape(len(weight), -1)
    into = weight.swapaxes(0, 1).reshape(weight.shape[1], -1)
    return {norms.SigmaOut: [out], norms.SigmaIn: [into], norms.SigmaBidirectional: [out, into]}[kind]


def vectors(norm: norms.SpectralNormalization) -> list[np.ndarray]:
    return [value.detach().numpy().ravel().copy() for name, value in norm.estimator.named_buffers()]


def iterated(matrix: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, float]:
    v = matrix.T @ u
    v /= np.linalg.norm(v)
    u = matrix @ v
    return u / np.linalg.norm(u), float(np.linalg.norm(u))


MATRICES = pytest.mark.parametrize("kind", [norms.SigmaOut, norms.SigmaIn, norms.SigmaBidirectional])


@MATRICES
@pytest.mark.parametrize("train", [True, False])
def test_a_pass_computes_sigma_from_one_fresh_iteration(
    kind: type[norms.SigmaEstimator], train: bool
) -> None:
    net = normalized(kind, scale=1.3).train(train)
    for _, layer, norm in norms.normalized_layers(net):
        weight = norms.trained_weight(layer).detach().numpy()
        pairs = zip(matrices(weight, kind), vectors(norm), strict=True)
        sigma = np.mean([iterated(matrix, u)[1] for matrix, u in pairs])
        np.testing.assert_allclose(layer.weight.detach().numpy(), 1.3 * weight / sigma, rtol=1e-12)


@pytest.mark.parametrize("kind", KIN)
def test_no_pass_stores_anything(kind: type[norms.SigmaEstimator]) -> None:
    net = normalized(kind)
    before = copy.deepcopy(net.state_dict())
    net(images())
    with norms.cached_weights(net):
        scores = net(images())
        assert torch.equal(scores, net(images()))
    with norms.frozen(net):
        assert torch.equal(scores, net(images()))
    norms.sigmas(net)
    assert torch.equal(scores, net.eval()(images()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@MATRICES
def test_after_an_update_the_stored_vectors_move_by_one_iteration(kind: type[norms.SigmaEstimator]) -> None:
    net = normalized(kind)
    before = {name: vectors(norm) for name, _, norm in norms.normalized_layers(net)}
    with torch.no_grad():
        for _, layer, _ in norms.normalized_layers(net):
            norms.trained_weight(layer).mul_(torch.rand_like(norms.trained_weight(layer)))
    norms.after_update(net)
    for name, layer, norm in norms.normalized_layers(net):
        weight = norms.trained_weight(layer).detach().numpy()
        for matrix, old, new in zip(matrices(weight, kind), before[name], vectors(norm), strict=True):
            np.testing.assert_allclose(new, iterated(matrix, old)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KIN)
def test_the_gradient_flows_through_both_vectors(kind: type[norms.SigmaEstimator]) -> None:
    """By finite differences of all of sigma, unlike with constant vectors; and the second one too."""
    net = normalized(kind)
    _, layer, norm = next(norms.normalized_layers(net))
    weight = norms.trained_weight(layer).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(norm.estimator, (weight,))
    assert torch.autograd.gradgradcheck(norm.estimator, (weight,))


@pytest.mark.parametrize("kind", KIN)
def test_in_the_end_it_is_the_largest_singular_value(kind: type[norms.SigmaEstimator]) -> None:
    net = normalized(kind)
    first = norms.sigmas(net)
    for _ in range(2000):
        norms.after_update(net)
    for layer in audit(net, images(1)).layers:
        assert layer.exact is not None
        assert layer.estimated == pytest.approx(layer.exact, rel=2e-3)
        assert first[f"sigma/{layer.layer}"] < layer.exact * (1 + 1e-9)


def test_the_operator_s_sigma_is_that_of_its_matrix_too() -> None:
    net = normalized(norms.SigmaOperator)
    for _, layer, norm in norms.normalized_layers(net):
        if isinstance(layer, nn.Linear):
            continue
        operator, weight = norm.estimator.operator, norms.trained_weight(layer).detach()
        inputs = torch.eye(int(np.prod(operator.input_shape)), dtype=weight.dtype)
        columns = operator.apply(weight, inputs.view(-1, *operator.input_shape[1:]))
        _, sigma = iterated(columns.flatten(1).T.numpy(), *vectors(norm))
        assert norm.estimator(weight).item() == pytest.approx(sigma, rel=1e-10)


def test_vectors_begin_as_truncated_normals() -> None:
    layer = nn.Linear(4, 20_000, bias=False)
    norms.normalize(layer, norms.SigmaOut, power_iteration="plain", warmup_iterations=0)
    (u,) = vectors(layer.parametrizations.weight[0])
    assert 1.9 < np.abs(u).max() <= 2
    assert np.std(u) == pytest.approx(0.8796, abs=0.02)  # of a normal cut at two standard deviations
    assert np.mean(u) == pytest.approx(0, abs=0.02)


def test_a_warm_up_and_more_iterations_count() -> None:
    """Three before the first update, three in one, and one in each of three end alike."""
    warm, three, one = (
        normalized(**options) for options in ({"warmup_iterations": 3}, {"n_power_iterations": 3}, {})
    )
    assert not torch.equal(warm(images()), one(images()))
    norms.after_update(three)
    for _ in range(3):
        norms.after_update(one)
    for other in (warm, three):
        assert all(torch.allclose(u, one.state_dict()[name]) for name, u in other.state_dict().items())
    torch.testing.assert_close(warm(images()), one(images()))
    assert not torch.allclose(three(images()), one(images()))  # three fresh ones in each pass


def test_copies_and_checkpoints_hold_the_vectors() -> None:
    net = normalized()
    for _ in range(2):
        norms.after_update(net)
    again = normalized()
    again.load_state_dict(net.state_dict())
    for other in (again, copy.deepcopy(net)):
        assert torch.equal(other(images()), net(images()))


def test_what_has_no_plain_iteration_is_refused() -> None:
    class Own(norms.SigmaEstimator):
        pass

    net = network()
    for options in ({"power_iteration": "plain"}, {"power_iteration": "twice"}):
        with pytest.raises(ValueError, match="power_iteration"):
            norms.normalize(net, lambda layer: Own(), **options)  # type: ignore[arg-type]
    assert not list(norms.normalized_layers(net))


# --- in training


@pytest.fixture
def base(tiny: list[str]) -> list[str]:
    chosen = ("norm.power_iteration=plain", "norm.warmup_iterations=0", "train.iterations=4")
    return [*tiny, *chosen, "train.log_every=1", "optimizer.n_dis=2"]


def test_vectors_move_once_for_each_update_of_d_with_the_weights_after_it(base: list[str]) -> None:
    config = load(compose([*base, "norm=ssn", "train.batch_size=3"]))
    gan = build_gan(config, load_images(config), torch.device("cpu"))

    def stored() -> dict[str, np.ndarray]:
        found = norms.normalized_layers(gan.discriminator)
        return {name: vectors(norm)[0] for name, _, norm in found}

    def moved(before: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = norms.normalized_layers(gan.discriminator)
        weights = {name: norms.trained_weight(layer).detach().numpy() for name, layer, _ in found}
        return {name: iterated(*matrices(weights[name], norms.SigmaOut), u)[0] for name, u in before.items()}

    inputs = gan.draw(1)
    for one in inputs.discriminator:
        before = stored()
        gan.discriminator_step(one)
        for name, u in moved(before).items():
            np.testing.assert_allclose(stored()[name], u, rtol=1e-4, atol=1e-5)
            assert len(u) == 1 or np.abs(u - before[name]).max() > 1e-3
    before = stored()
    gan.generator_step(inputs.generator)
    assert all(np.array_equal(u, before[name]) for name, u in stored().items())


@pytest.mark.parametrize(
    "choice", ["norm=bssn norm.gamma=per_layer loss=wgan_gp", "norm=strict_sn probes.audit_every=2"]
)
def test_a_run_with_it_resumes_bit_for_bit(
    base: list[str], tmp_path: Path, recorded: Callable[..., object], choice: str
) -> None:
    """Penalties that differentiate twice, probes and audits included."""
    chosen = [*base, *choice.split(), "probes.every=1", "norm.target=both"]
    assert run(compose(chosen)).exit_status == 0
    stopped = [*chosen, f"paths.outputs={tmp_path}/stopped"]
    with stopped_at(3):
        assert run(compose(stopped)).exit_status == 4
    assert run(compose(stopped)).exit_status == 0
    whole, resumed = (load(compose(one)).run_directory for one in (chosen, stopped))
    assert recorded(whole) == recorded(resumed)
    name = "generator.safetensors"
    assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_it_is_another_run() -> None:
    ids = [load(compose([f"norm.power_iteration={way}"])).run_id for way in ("block", "plain")]
    assert ids[0] != ids[1]
