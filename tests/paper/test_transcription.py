"""`experiment=paper/exact/cifar10` against the facts of the public code, written down without the project."""

import re
from pathlib import Path

import pytest
import torch
import transcription
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.build import build_gan, load_images
from gan_lab.config import compose, load
from gan_lab.training.gan import Gan

BATCH = 4
CPU = torch.device("cpu")


def paper_s_gan(overrides: list[str], *more: str) -> Gan:
    """With batches of a few images of noise."""
    chosen = ("dataset.prepare._target_=stand_in.prepare", f"train.batch_size={BATCH}", "device=cpu")
    config = load(compose(["experiment=paper/exact/cifar10", *chosen, *overrides, *more]))
    return build_gan(config, load_images(config), CPU)


def copied(network: nn.Module) -> dict[str, Tensor]:
    """The trained variables by their names without a norm, in float64."""
    return {
        re.sub(r"parametrizations\.(\w+)\.original", r"\1", name): value.detach().double().requires_grad_()
        for name, value in network.named_parameters()
    }


def vectors(gan: Gan) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        name: (norm.estimator.sigma_out.u.flatten().double(), norm.estimator.sigma_in.u.flatten().double())
        for name, _, norm in norms.normalized_layers(gan.discriminator)
    }


def means(gan: Gan) -> dict[str, Tensor]:
    return {
        name.removesuffix(".running_mean"): value.double()
        for name, value in gan.generator.named_buffers()
        if name.endswith("running_mean")
    }


def of_the_same(gan: Gan) -> transcription.Reference:
    """The transcription, from a network's weights and vectors."""
    return transcription.Reference(
        d=copied(gan.discriminator),
        g=copied(gan.generator),
        u=vectors(gan),
        means=means(gan),
        scale=1.2,
        d_adam=transcription.Adam(1e-4, 0.5, 0.999),
        g_adam=transcription.Adam(1e-4, 0.5, 0.999),
    )


def differences(gan: Gan, iterations: int) -> dict[str, float]:
    """The largest ones over all updates, between what is computed here, in float32, and there, in float64."""
    reference = of_the_same(gan)
    found: dict[str, float] = {}

    def compare(what: str, one: object, other: object) -> None:
        one, other = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (one, other))
        assert one.shape == other.shape
        found[what] = max(found.get(what, 0.0), (one - other).abs().max().item())

    for iteration in range(1, iterations + 1):
        inputs = gan.draw(iteration)
        of_d, of_g = inputs.discriminator[0], inputs.generator
        x, z = of_d.real.double(), of_d.latents.double()
        with norms.frozen(gan.discriminator):
            estimates = norms.sigmas(gan.discriminator)
        compare("loss/d", gan.discriminator_step(of_d)["loss/d"], reference.update_d(x, z))
        for name, sigma in reference.sigmas.items():
            compare("sigma in D's update", estimates[f"sigma/{name}"], sigma)
        estimates = norms.sigmas(gan.discriminator)
        # The transcription's G update takes the latents of D's, whatever was drawn here.
        compare("loss/g", gan.generator_step(of_g)["loss/g"], reference.update_g(z))
        for name, sigma in reference.sigmas.items():
            compare("sigma in G's update", estimates[f"sigma/{name}"], sigma)
    for name, pair in vectors(gan).items():
        for one, other in zip(pair, reference.u[name], strict=True):
            compare("vectors", one, other)
    for name, mean in means(gan).items():
        compare("running means", mean, reference.means[name])
    for network, theirs in ((gan.discriminator, reference.d), (gan.generator, reference.g)):
        ours = copied(network)
        assert ours.keys() == theirs.keys()
        for name, weight in theirs.items():
            compare("weights", ours[name], weight)
    return found


def test_an_update_of_each_network_is_that_of_the_facts(tmp_path: Path) -> None:
    """At full width: losses, sigmas, vectors, running means and weights."""
    found = differences(paper_s_gan([f"paths.data={tmp_path}"]), iterations=1)
    assert len(found) == 7
    assert {name: value for name, value in found.items() if value > 1e-5} == {}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [f"paths.data={tmp_path_factory.mktemp('noise')}", "arch.width=0.0625"]


def test_so_are_the_next_ones(small: list[str]) -> None:
    """What Adam, the vectors and the batch norms have kept included."""
    assert max(differences(paper_s_gan(small), iterations=2).values()) < 1e-5


@pytest.mark.parametrize(
    "switch",
    [
        "optimizer.reuse_latents=false",
        "optimizer.tensorflow_epsilon=false",
        "train.bn_in_d_updates=false",
        "norm.n_power_iterations=2",
        "norm.scale=1.19",
        "optimizer.g_betas=[0.5,0.9]",
    ],
)
def test_each_difference_would_be_seen(small: list[str], switch: str) -> None:
    assert max(differences(paper_s_gan(small, switch), iterations=2).values()) > 1e-4
