import itertools

import pytest
import torch

from gan_lab.rng import stream


def numbers(seed: int, purpose: str, *index: int) -> torch.Tensor:
    return torch.rand(16, generator=stream(seed, purpose, *index))


def test_a_stream_is_a_function_of_its_arguments() -> None:
    torch.manual_seed(1)
    first = numbers(3, "latents", 5, 1)
    torch.manual_seed(2)
    numbers(3, "latents", 5, 0)
    torch.rand(7)
    assert torch.equal(numbers(3, "latents", 5, 1), first)


def test_a_stream_does_not_touch_the_global_one() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    numbers(0, "latents", 1)
    assert torch.equal(torch.rand(4), expected)


def test_seeds_purposes_and_indices_give_different_streams() -> None:
    purposes = ("latents", "real images", "samples")
    arguments = itertools.product((0, 1, 2**40), purposes, (0, 1, 2, 400_000), (0, 1, 5))
    drawn = [tuple(numbers(seed, purpose, *index).tolist()) for seed, purpose, *index in arguments]
    assert len(set(drawn)) == len(drawn) == 3 * 3 * 4 * 3


def test_the_order_of_indices_counts() -> None:
    assert not torch.equal(numbers(0, "latents", 1, 2), numbers(0, "latents", 2, 1))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_neighbouring_streams_look_independent(seed: int) -> None:
    """Means, variances and correlations within five standard errors of a standard normal's."""
    count, length = 400, 1000
    streams = [stream(seed, "latents", k) for k in range(count)]
    drawn = torch.stack([torch.randn(length, generator=rng, dtype=torch.float64) for rng in streams])
    total = count * length
    assert abs(drawn.mean()) < 5 / total**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / total) ** 0.5
    # Of the same stream at different places, and of different streams at the same place.
    for a, b in ((drawn[:, 1:], drawn[:, :-1]), (drawn[1:], drawn[:-1])):
        assert abs((a * b).mean()) < 5 / total**0.5
    # The first number of each stream: what a bad seeding spoils first.
    assert abs(drawn[:, 0].mean()) < 5 / count**0.5
    assert abs(drawn[:, 0].var() - 1) < 5 * (2 / count) ** 0.5
