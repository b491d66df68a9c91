"""Real and generated images in one pass of the discriminator, where that changes nothing but the time."""

from pathlib import Path

import pytest
import torch
from test_forward import built
from torch import Tensor, nn

from gan_lab import norms
from gan_lab.archs.dcgan import Discriminator
from gan_lab.training.forward import scores_are_per_sample


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


@pytest.mark.parametrize("choice", ["norm=bssn", "arch=resnet", "loss=wgan_gp"])
def test_one_pass_trains_as_two(tiny: list[str], tmp_path: Path, choice: str) -> None:
    """Losses, scores, probes, audited bounds and gradients, to rounding."""
    together, apart = (built([*tiny, choice], tmp_path) for _ in range(2))
    assert together.concatenate_real_and_fake
    apart.concatenate_real_and_fake = False
    values = [trainer.iterate(1, measure=True, audit=True) for trainer in (together, apart)]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    gradients = [
        {name: parameter.grad for name, parameter in trainer.discriminator.named_parameters()}
        for trainer in (together, apart)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_batch_norm_in_the_discriminator_keeps_its_two_passes(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass would normalize real images by statistics of generated ones."""
    plain = Discriminator.__init__

    def with_batch_norm(self: Discriminator, *arguments: object, **named: object) -> None:
        plain(self, *arguments, **named)
        self.lrelu1 = nn.Sequential(nn.BatchNorm2d(self.conv1.out_channels), self.lrelu1)

    monkeypatch.setattr(Discriminator, "__init__", with_batch_norm)
    trainer = built([*tiny, "norm=none"], tmp_path)
    assert not trainer.concatenate_real_and_fake
    sizes: list[int] = []
    trainer.discriminator.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    trainer.iterate(1)
    assert len(set(sizes)) == 1
    assert len(sizes) == 3
