"""DiffAugment against NumPy, pixel by pixel; its gradients; what it draws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gan_lab.augmentations import DiffAugment
from gan_lab.config import compose, load
from gan_lab.errors import UserError
from gan_lab.rng import stream

PARTS = ("color", "translation", "cutout")


def images(count: int = 4, height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def color(image: np.ndarray, u: list[float], strength: float) -> np.ndarray:
    image = image + strength * (u[0] - 0.5)
    grey = image.mean(0)
    image = grey + (image - grey) * (1 + strength * (2 * u[1] - 1))
    return image.mean() + (image - image.mean()) * (1 + strength * (u[2] - 0.5))


def translation(image: np.ndarray, u: list[float], strength: float) -> np.ndarray:
    """Padded with zeros to all sides, and cut out again elsewhere."""
    sides = image.shape[1:]
    most = [int(strength * 0.125 * side + 0.5) for side in sides]
    shifts = [math.floor(number * (2 * m + 1)) - m for number, m in zip(u, most, strict=True)]
    padded = np.pad(image, [(0, 0), *((m, m) for m in most)])
    top, left = (m - shift for m, shift in zip(most, shifts, strict=True))
    return padded[:, top : top + sides[0], left : left + sides[1]]


def cutout(image: np.ndarray, u: list[float], strength: float) -> np.ndarray:
    image, spans = image.copy(), []
    for number, side in zip(u, image.shape[1:], strict=True):
        size = int(strength * 0.5 * side + 0.5)
        centre = math.floor(number * (side + 1 - size % 2))
        spans.append(slice(max(0, centre - size // 2), max(0, centre - size // 2 + size)))
    image[:, spans[0], spans[1]] = 0
    return image


REFERENCE: dict[str, Any] = {"color": color, "translation": translation, "cutout": cutout}


def augmented_by_numpy(
    batch: np.ndarray, numbers: np.ndarray, policy: list[str], strength: float
) -> np.ndarray:
    rows = []
    for image, u in zip(batch, numbers.tolist(), strict=True):
        for part in policy:
            taken, u = (u[:3], u[3:]) if part == "color" else (u[:2], u[2:])
            image = REFERENCE[part](image, taken, strength)
        assert not u
        rows.append(image)
    return np.stack(rows)


@settings(max_examples=60)
@given(
    policy=st.lists(st.sampled_from(PARTS), min_size=1, max_size=3, unique=True),
    sides=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_it_is_numpy_s(policy: list[str], sides: tuple[int, int], strength: float, seed: int) -> None:
    augment, batch = DiffAugment(policy, strength), images(5, *sides)
    numbers = augment.draw(5, torch.Generator().manual_seed(seed)).double()
    numbers[0], numbers[1] = 0, np.nextafter(1, 0)  # the ends of their range
    expected = augmented_by_numpy(batch.numpy(), numbers.numpy(), policy, strength)
    np.testing.assert_allclose(augment(batch, numbers).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    """A picture of 4 × 4 pixels: one to the right and none down; two by two of them cut out; brighter."""
    image = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    moved = DiffAugment(["translation"])(image, torch.tensor([[0.5, 0.9]]))
    assert moved[0, 0].tolist() == [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 13, 14, 15]]
    cut = DiffAugment(["cutout"])(image, torch.tensor([[0.0, 0.5]]))  # centres at 0 and 2 of 0 to 4
    assert cut[0, 0].tolist() == [[1, 0, 0, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
    brighter = DiffAugment(["color"])(image, torch.tensor([[0.75, 0.5, 0.5]]))
    assert torch.equal(brighter, image + 0.25)


@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], list(PARTS)], ids=str)
def test_without_strength_it_is_the_identity_bit_for_bit(policy: list[str]) -> None:
    augment, batch = DiffAugment(policy, strength=0), images().float()
    assert torch.equal(augment(batch, augment.draw(4, torch.Generator().manual_seed(0))), batch)


@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], list(PARTS)], ids=str)
def test_gradients_against_finite_differences(policy: list[str]) -> None:
    augment, batch = DiffAugment(policy), images(3, 5, 4).requires_grad_()
    numbers = augment.draw(3, torch.Generator().manual_seed(1)).double()
    assert torch.autograd.gradcheck(lambda x: augment(x, numbers), [batch])
    assert torch.autograd.gradgradcheck(lambda x: augment(x, numbers).square(), [batch])


def test_it_draws_for_each_image_and_uses_all_of_it() -> None:
    augment = DiffAugment()
    numbers = augment.draw(64, stream(0, "augmentation", 1, 0))
    assert torch.equal(numbers, augment.draw(64, stream(0, "augmentation", 1, 0)))
    assert numbers.shape == (64, 7)
    batch = images(1).expand(64, -1, -1, -1)
    base = augment(batch, numbers)
    assert len({row.numpy().tobytes() for row in base}) == 64  # one image, augmented in so many ways
    for column in range(7):
        other = numbers.clone()
        other[:, column] = (other[:, column] + 0.5) % 1
        assert not torch.equal(augment(batch, other), base), column


def test_values_are_what_the_paper_s_ranges_allow() -> None:
    flat = torch.full((512, 3, 16, 16), 0.25)
    rng = torch.Generator().manual_seed(0)
    bright = DiffAugment(["color"])(flat, DiffAugment(["color"]).draw(512, rng))
    assert bright.min() >= -0.25
    assert bright.max() < 0.75
    assert bright.min() < -0.2
    moved = DiffAugment(["translation"])(flat, DiffAugment(["translation"]).draw(512, rng))
    rows = (moved[:, 0] != 0).any(2).sum(1)  # of 16, up to two have left
    assert set(rows.tolist()) == {14, 15, 16}
    cut = DiffAugment(["cutout"])(flat, DiffAugment(["cutout"]).draw(512, rng))
    gone = (cut[:, 0] == 0).sum((1, 2))
    assert gone.max() == 64
    assert gone.min() >= 16  # a centre in a corner leaves a quarter


def test_the_config_says_what_it_is_made_of() -> None:
    chosen = ["experiment=tiny", "augment=diffaugment"]
    assert load(compose([*chosen, "augment.policy=[cutout]", "augment.strength=0.5"])).augment.policy == [
        "cutout"
    ]
    with pytest.raises(UserError, match=r"augment.policy=rotation is none of color, translation, cutout"):
        load(compose([*chosen, "augment.policy=[rotation]"]))
    with pytest.raises(UserError, match=r"augment.strength=2 is not a number from 0 to 1"):
        load(compose([*chosen, "augment.strength=2"]))
    with pytest.raises(ValueError, match="rotation"):
        DiffAugment(["rotation"])
    with pytest.raises(UserError, match=r"augment.policy"):
        load(compose([*chosen, "augment.policy=[]"]))
