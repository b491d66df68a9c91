"""Each loss against its formula written out in numpy, and its gradients' signs."""

import numpy as np
import pytest
import torch

from gan_lab.losses import Hinge, NonSaturating, Relativistic, Wasserstein

REAL = np.array([-3.0, -1.0, -0.2, 0.0, 0.9, 1.0, 2.5])
FAKE = np.array([-2.0, -1.0, -0.7, 0.0, 0.4, 1.3])


def sigmoid(score: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-score))


FORMULAS = {
    Hinge: (
        np.maximum(0, 1 - REAL).mean(),
        np.maximum(0, 1 + FAKE).mean(),
        -FAKE.mean(),
    ),
    NonSaturating: (
        -np.log(sigmoid(REAL)).mean(),
        -np.log(1 - sigmoid(FAKE)).mean(),
        -np.log(sigmoid(FAKE)).mean(),
    ),
    Wasserstein: (-REAL.mean(), FAKE.mean(), -FAKE.mean()),
}
LOSSES = list(FORMULAS)


@pytest.mark.parametrize("kind", LOSSES)
def test_formula(kind: type) -> None:
    loss = kind()
    on_real, on_fake = loss.discriminator(torch.tensor(REAL), torch.tensor(FAKE))
    terms = on_real.item(), on_fake.item(), loss.generator(torch.tensor(FAKE)).item()
    assert terms == pytest.approx(FORMULAS[kind], abs=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_discriminator_is_pushed_apart_and_the_generator_up(kind: type) -> None:
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(5, requires_grad=True)
    sum(kind().discriminator(real, fake)).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    kind().generator(fake).backward()
    assert (fake.grad < 0).all()


def test_the_hinge_is_flat_beyond_its_margin() -> None:
    real, fake = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    sum(Hinge().discriminator(real, fake)).backward()
    assert real.grad.item() == fake.grad.item() == 0


def test_the_nonsaturating_loss_does_not_overflow() -> None:
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    on_real, on_fake = NonSaturating().discriminator(scores, scores)
    (on_real + on_fake + NonSaturating().generator(scores)).backward()
    assert on_real.item() == on_fake.item() == 5000  # softplus(x) → x, and the mean of two
    assert torch.isfinite(scores.grad).all()


def test_the_relativistic_loss_is_of_pairs() -> None:
    """Cross-entropy of D(x) − D(G(z)) by NumPy, for each network; blind to what all scores have in common."""
    loss, real, fake = Relativistic(), REAL[:6], FAKE
    expected = -np.log(sigmoid(real - fake)).mean(), -np.log(sigmoid(fake - real)).mean()
    for shift in (0, 50):
        scores = torch.tensor(real + shift), torch.tensor(fake + shift)
        found = loss.discriminator(*scores).item(), loss.generator(*scores[::-1]).item()
        assert found == pytest.approx(expected, abs=1e-12)
    assert loss.generator_sees_real


def test_the_relativistic_loss_pushes_a_pair_apart_and_together() -> None:
    scores = [torch.tensor([0.5, 1e4]), torch.tensor([-0.5, -1e4])]
    real, fake = (score.requires_grad_() for score in scores)
    Relativistic().discriminator(real, fake).backward()
    share = 0.5 * sigmoid(-1.0)  # of a pair whose scores differ by one; nothing of the other
    assert real.grad.tolist() == [pytest.approx(-share), 0]
    assert fake.grad.tolist() == [pytest.approx(share), 0]
    fake.grad = None
    Relativistic().generator(fake, real.detach()).backward()
    assert fake.grad.tolist() == [pytest.approx(-0.5 * sigmoid(1.0)), -0.5]
