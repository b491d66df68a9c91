"""Real and generated images in one pass of the discriminator, where that changes nothing but the time."""

import pytest
import torch
from test_forward import built
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.archs.dcgan import Discriminator
from gan_lab.distributed.batch_norm import SynchronizedBatchNorm
from gan_lab.training.forward import scores_are_per_sample
from gan_lab.training.gan import Measure


class MinibatchDeviation(nn.Module):
    """A batch's standard deviation as one more channel."""

    def forward(self, images: Tensor) -> Tensor:
        deviation = images.std(0).mean().expand(len(images), 1, *images.shape[2:])
        return torch.cat([images, deviation], 1)


def scorer(*layers: nn.Module, channels: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), *layers, nn.Flatten(), nn.Linear(channels * 16, 1), nn.Flatten(0)
    )


def images() -> Tensor:
    return torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("discriminator", "expected"),
    [
        (scorer(nn.LeakyReLU()), True),
        (scorer(nn.GroupNorm(2, 4)), True),
        (scorer(nn.InstanceNorm2d(4)), True),
        (scorer(nn.Dropout()), True),
        (scorer(nn.BatchNorm2d(4)), False),
        (scorer(nn.BatchNorm2d(4)).eval(), True),
        (scorer(MinibatchDeviation(), channels=5), False),
        (scorer(nn.Threshold(1e9, 0)), False),  # scores that no image moves tell nothing
    ],
    ids=str,
)
def test_who_judges_alone(discriminator: nn.Module, expected: bool) -> None:
    norms.normalize(discriminator, norms.SigmaOut, warmup_iterations=0)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    random = torch.get_rng_state()
    assert scores_are_per_sample(discriminator, images()) is expected
    torch.testing.assert_close(dict(discriminator.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in discriminator.parameters())


@pytest.mark.parametrize(
    "kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SynchronizedBatchNorm]
)
def test_batch_norm_is_known_without_a_pass(kind: type[nn.Module]) -> None:
    """In a pass that not all ranks take the batch norms of some would wait for the others'."""
    discriminator = scorer(nn.Sequential(nn.LeakyReLU(), kind(4)))
    discriminator.register_forward_pre_hook(lambda *_: pytest.fail("a pass"))
    assert not scores_are_per_sample(discriminator, images())
    discriminator.eval()
    with pytest.raises(pytest.fail.Exception, match="a pass"):  # there it takes one to know
        scores_are_per_sample(discriminator, images())


def test_who_judges_alone_is_seen_of_scores_with_classes() -> None:
    class Conditional(nn.Module):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__()
            self.body, self.of_class = scorer(*layers), nn.Embedding(3, 1)

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.body(images) * self.of_class(labels)[:, 0]

    labels = torch.arange(3)
    assert scores_are_per_sample(Conditional(nn.LeakyReLU()), images(), labels)
    assert not scores_are_per_sample(Conditional(nn.BatchNorm2d(4)), images(), labels)


@pytest.mark.parametrize(
    "choice", ["norm=bssn", "arch=resnet", "loss=wgan_gp", "norm=gradient_normalization", "norm=group_norm"]
)
def test_one_pass_trains_as_two(tiny: list[str], choice: str) -> None:
    """Losses, scores, probes, audited bounds and gradients, to rounding."""
    together, apart = (built([*tiny, choice]) for _ in range(2))
    assert together.concatenate_real_and_fake
    apart.concatenate_real_and_fake = False
    values = [gan.update(gan.draw(1), Measure.AUDIT) for gan in (together, apart)]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    gradients = [
        {name: parameter.grad for name, parameter in gan.discriminator.named_parameters()}
        for gan in (together, apart)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_batch_norm_in_the_discriminator_keeps_its_two_passes(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass would normalize real images by statistics of generated ones."""
    plain = Discriminator.__init__

    def with_batch_norm(self: Discriminator, *arguments: object, **named: object) -> None:
        plain(self, *arguments, **named)
        self.lrelu1 = nn.Sequential(nn.BatchNorm2d(self.conv1.out_channels), self.lrelu1)

    monkeypatch.setattr(Discriminator, "__init__", with_batch_norm)
    gan = built([*tiny, "norm=none"])
    assert not gan.concatenate_real_and_fake
    sizes: list[int] = []
    gan.discriminator.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    gan.update(gan.draw(1))
    assert len(set(sizes)) == 1
    assert len(sizes) == 3
