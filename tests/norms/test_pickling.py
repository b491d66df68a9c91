"""Copies and files of normalized networks are networks of their own, equal bit for bit."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from norm_networks import ESTIMATORS, GAMMAS, images, normalized, vectors
from torch import nn
from torch.nn.utils import parametrize

from gan_lab import norms


def through_a_file(net: nn.Module, folder: Path) -> nn.Module:
    torch.save(net, folder / "net.pt")
    return torch.load(folder / "net.pt", weights_only=False)


COPIES: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "deepcopy": lambda net, _: copy.deepcopy(net),
    "pickle": lambda net, _: pickle.loads(pickle.dumps(net)),
    "torch.save": through_a_file,
}
every_copy = pytest.mark.parametrize("way", COPIES)


@every_copy
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_copy_is_equal_and_apart(way: str, gamma: str, estimator: str, tmp_path: Path) -> None:
    net = normalized(estimator, gamma, warmup_iterations=1)
    net[0].eval()
    before = vectors(net)
    twin = COPIES[way](net, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, vectors(net), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, vectors(twin), strict=True))
    assert list(twin.state_dict()) == list(net.state_dict())
    assert [module.training for module in twin.modules()] == [module.training for module in net.modules()]
    assert len(list(twin.parameters())) == len(list(net.parameters()))  # one shared scale is still one
    assert torch.equal(net(images()), twin(images()))
    assert not {id(p) for p in net.parameters()} & {id(p) for p in twin.parameters()}
    if estimator == "operator":
        with pytest.raises(ValueError, match="layer 0 is normalized for inputs of size"):
            twin(torch.zeros(1, 3, 9, 9))


@every_copy
def test_a_copy_of_a_copy(way: str, tmp_path: Path) -> None:
    net = normalized("bidirectional", "shared")
    twin = COPIES[way](COPIES[way](net, tmp_path), tmp_path)
    assert torch.equal(net(images()), twin(images()))


@every_copy
def test_a_copy_has_its_own_weight_in_the_same_cache(way: str, tmp_path: Path) -> None:
    """PyTorch's own copies share a class that caches by the original's id."""
    net = normalized("out").eval()
    twin = COPIES[way](net, tmp_path)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_()
    expected = twin(images())
    assert not torch.equal(expected, net(images()))
    with parametrize.cached():
        net(images())
        assert torch.equal(twin(images()), expected)


@every_copy
def test_a_copy_survives_the_removal_from_its_original(way: str, tmp_path: Path) -> None:
    net = normalized("out").eval()
    twin = COPIES[way](net, tmp_path)
    expected = twin(images())
    norms.remove(net)
    assert torch.equal(twin(images()), expected)
    assert norms.remove(twin) == ["0", "2", "4", "7"]
    assert torch.equal(twin(images()), expected)


def test_a_frozen_network_is_copied_without_moving() -> None:
    net = normalized("out", warmup_iterations=1)
    with norms.frozen(net):
        twin = copy.deepcopy(net)
    assert all(torch.equal(a, b) for a, b in zip(vectors(net), vectors(twin), strict=True))


def test_further_parametrizations_are_refused() -> None:
    layer = nn.Sequential(nn.Linear(3, 3))
    norms.normalize(layer, norms.SigmaOut)
    parametrize.register_parametrization(layer[0], "bias", nn.Identity())
    with pytest.raises(RuntimeError, match="further parametrizations"):
        pickle.dumps(layer)
