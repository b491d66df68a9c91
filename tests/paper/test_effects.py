"""How far plain power iteration is from the exact sigma: what docs/paper.md says, measured again."""

import re
from pathlib import Path

import pytest
import torch

from gan_lab import norms
from gan_lab.build import build_gan, load_images
from gan_lab.config import compose, load
from gan_lab.training.gan import Gan

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/paper.md"


def shares(gan: Gan) -> list[float]:
    """Sigma over the exact one, of each convolution."""
    found = []
    for _, layer, norm in norms.normalized_layers(gan.discriminator):
        weight = norms.trained_weight(layer).detach()
        if weight.ndim == 4:
            out, into = weight.flatten(1), weight.transpose(0, 1).flatten(1)
            exact = (torch.linalg.matrix_norm(out, 2) + torch.linalg.matrix_norm(into, 2)) / 2
            found.append((norm.estimator(weight).detach() / exact).item())
    return found


def test_sigma_in_the_first_updates(tmp_path: Path) -> None:
    chosen = ("dataset.prepare._target_=stand_in.prepare", "train.batch_size=2", "device=cpu")
    gans = {}
    for preset in ("exact/cifar10", "cifar10"):
        config = load(compose([f"experiment=paper/{preset}", *chosen, f"paths.data={tmp_path}"]))
        gans[preset] = build_gan(config, load_images(config), torch.device("cpu"))
    plain = gans["exact/cifar10"]
    measured = [min(shares(plain)), max(shares(plain)), min(shares(gans["cifar10"]))]
    for iteration in range(1, 6):
        plain.discriminator_step(plain.draw(iteration).discriminator[0])
    measured.append(min(shares(plain)))
    sentence = (
        r"public code's is ([\d.]+) to ([\d.]+) of the exact one on CIFAR-10's CNN "
        r"\(ours at least ([\d.]+)\), after five updates at least ([\d.]+)"
    )
    said = re.search(sentence, DOCUMENT.read_text(encoding="utf-8"))
    assert said
    assert [float(number) for number in said.groups()] == pytest.approx(measured, abs=0.02)
