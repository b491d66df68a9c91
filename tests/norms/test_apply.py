"""Putting norms on networks, also on foreign ones, and taking them off without a trace."""

import functools
import logging

import numpy as np
import pytest
import torch
import torchvision
from norm_networks import ESTIMATORS, GAMMAS, LAYERS, SIZE, images, network, normalized, vectors
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_lab import norms
from gan_lab.norms import SigmaEstimator, SigmaOperator, SigmaOut

every_norm = pytest.mark.parametrize("estimator", ESTIMATORS)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def hooks(net: nn.Module) -> list[object]:
    return [hook for module in net.modules() for hook in module._forward_pre_hooks.values()]


def assert_untouched(net: nn.Module, before: dict[str, Tensor]) -> None:
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(parametrize.is_parametrized(module) for module in net.modules())
    assert not hooks(net)


@every_norm
def test_all_layers_are_normalized_in_one_call(estimator: str) -> None:
    net = network()
    parameters = {name: net.get_submodule(name).weight for name in LAYERS}
    assert norms.normalize(net, ESTIMATORS[estimator], example_input=images()) == LAYERS
    assert [name for name, _, _ in norms.normalized_layers(net)] == LAYERS
    for name, parameter in parameters.items():  # an optimizer made before still holds the right parameters
        assert norms.trained_weight(net.get_submodule(name)) is parameter
    assert sorted(name for name in norms.sigmas(net) if name.startswith("sigma/")) == [
        f"sigma/{n}" for n in LAYERS
    ]


def test_a_layer_can_be_the_network() -> None:
    layer = nn.Conv2d(2, 3, 3)
    assert norms.normalize(layer, SigmaOperator, example_input=torch.zeros(1, 2, 5, 5)) == [""]
    with pytest.raises(
        ValueError, match=r"layer \(root\) is normalized for inputs of size \(5, 5\), not \(6, 5\)"
    ):
        layer(torch.zeros(1, 2, 6, 5))
    with pytest.raises(ValueError, match=r"layer \(root\) has a parametrized weight already"):
        norms.normalize(layer, SigmaOut)


@pytest.mark.parametrize("iterations", [0, 1, 15])
def test_the_warm_up_is_what_it_says(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering a parametrization evaluates the weight: that must not cost a power iteration."""
    calls: list[int] = []
    iterate = SigmaOut.power_iterate
    monkeypatch.setattr(
        SigmaOut, "power_iterate", lambda self, weight: (calls.append(1), iterate(self, weight))[1]
    )
    normalized("out", warmup_iterations=iterations)
    assert len(calls) == iterations * len(LAYERS)


@every_norm
def test_the_default_warm_up_is_right_from_the_first_batch(estimator: str) -> None:
    net, converged = normalized(estimator), normalized(estimator, warmup_iterations=1000)
    for (name, exact), estimate in zip(
        norms.sigmas(converged).items(), norms.sigmas(net).values(), strict=True
    ):
        assert estimate.item() == pytest.approx(exact.item(), rel=0.02), name


def test_a_normalized_network_stays_in_its_mode() -> None:
    for mode in (True, False):
        net = network().train(mode)
        net[0].train(not mode)
        norms.normalize(net, SigmaOperator, example_input=images())
        assert net[0].training is net[0].parametrizations.weight[0].training is (not mode)
        assert {module.training for module in net[2].modules()} == {mode}


def test_finding_the_input_sizes_changes_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 3))
    net[1].eval()
    before, modes = state(net), [module.training for module in net.modules()]
    norms.normalize(net, SigmaOperator, example_input=images())
    assert torch.equal(net[1].running_mean, before["1.running_mean"])
    assert [module.training for name, module in net.named_modules() if "param" not in name] == modes


def test_another_input_size_is_refused_by_name() -> None:
    net = normalized("operator")
    net(images(5))  # a batch of another size is no other input size
    with pytest.raises(ValueError, match=r"^layer 0 is normalized for inputs of size \(7, 7\), not \(9, 7\)"):
        net(torch.zeros(1, 3, 9, 7))
    normalized("bidirectional")[0](torch.zeros(1, 3, 9, 7))  # whose sigmas do not depend on it


def test_images_without_a_batch_axis() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    norms.normalize(net, SigmaOperator, example_input=images()[0])
    assert net(images()).shape == (3, 4, 5, 5)


def test_one_layer_at_two_sizes_has_no_operator() -> None:
    layer = nn.Conv2d(3, 3, 3)
    net = nn.Sequential(layer, layer)
    with pytest.raises(ValueError, match=r"layer 0 is used at two sizes, \(7, 7\) and \(5, 5\)"):
        norms.normalize(net, SigmaOperator, example_input=images())
    assert norms.normalize(net, SigmaOut) == ["0"]


def test_a_convolution_outside_the_pass_has_no_size() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.linear = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    net = Unused()
    before = state(net)
    with pytest.raises(ValueError, match="layer idle takes no part"):
        norms.normalize(net, SigmaOperator, example_input=images())
    assert_untouched(net, before)
    with pytest.raises(ValueError, match="give normalize an example_input"):
        norms.normalize(net, SigmaOperator)
    del net.idle
    assert norms.normalize(net, SigmaOperator, example_input=images()) == ["used", "linear"]


def test_linear_networks_need_no_example() -> None:
    assert norms.normalize(nn.Sequential(nn.Linear(4, 3)), SigmaOperator) == ["0"]


@pytest.mark.parametrize("bad", ["reflect", "zeros", "nan"])
def test_a_network_that_is_refused_halfway_is_left_as_it_was(bad: str) -> None:
    net = network()
    if bad == "reflect":
        net[2] = nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")
        word = r"^layer 2 cannot be normalized: .*padding_mode='reflect'"
    else:
        nn.init.constant_(net[2].weight, {"zeros": 0.0, "nan": np.nan}[bad])
        word = r"^layer 2 cannot be normalized: its sigma is (0\.0|nan), not a positive number"
    before = state(net)
    with pytest.raises(ValueError, match=word):
        norms.normalize(net, SigmaOperator, gamma="shared", example_input=images())
    after = net.state_dict()
    if bad == "nan":
        before, after = ({n: v.nan_to_num() for n, v in d.items()} for d in (before, after))
        net.load_state_dict(after)
    assert_untouched(net, before)


def test_a_foreign_parametrization_is_refused_and_the_rest_left_as_it_was() -> None:
    net = network()
    nn.utils.parametrizations.weight_norm(net[4])
    with pytest.raises(ValueError, match="layer 4 has a parametrized weight already: remove it first"):
        norms.normalize(net, SigmaOut)
    assert not parametrize.is_parametrized(net[0])
    with pytest.raises(ValueError, match="gamma='each' is none of none, shared, per_layer"):
        norms.normalize(network(), SigmaOut, gamma="each")


def test_an_estimator_with_a_wrong_shape_is_refused() -> None:
    class Rows(SigmaEstimator):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()

        def power_iterate(self, weight: Tensor) -> None:
            pass

        def forward(self, weight: Tensor) -> Tensor:
            return weight.flatten(1).norm(dim=1)

    net = nn.Sequential(nn.Linear(3, 3))
    before = state(net)
    with pytest.raises(ValueError, match=r"layer 0 cannot be normalized: its sigma is \["):
        norms.normalize(net, Rows)
    assert_untouched(net, before)


def test_partials_of_estimators() -> None:
    """What Hydra makes of a config node."""
    net = network()
    norms.normalize(net, functools.partial(SigmaOperator), example_input=images())
    assert all(isinstance(norm.estimator, SigmaOperator) for _, _, norm in norms.normalized_layers(net))


def test_unknown_modules_are_left_alone_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    class Scorer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.recurrent = nn.GRU(8, 8, batch_first=True)
            self.norm = nn.LayerNorm(8)
            self.linear = nn.Linear(8, 1)

        def forward(self, words: Tensor) -> Tensor:
            x = self.embedding(words)
            x, _ = self.recurrent(self.norm(x + self.attention(x, x, x)[0]))
            return self.linear(x[:, -1])

    net = Scorer()
    before = state(net)
    words = torch.tensor([[0, 1, 2], [3, 4, 0]])
    with caplog.at_level(logging.WARNING, "gan_lab.norms"):
        found = norms.normalize(net, SigmaOut)
    attention = [f"attention.{part}" for part in ("in_proj_q", "in_proj_k", "in_proj_v", "out_proj")]
    assert found == ["embedding", *attention, "linear"]
    (left,) = [record.getMessage() for record in caplog.records]
    assert "layer recurrent (GRU)" in left
    assert "weight_ih_l0, weight_hh_l0" in left
    assert torch.equal(net.recurrent.weight_ih_l0, before["recurrent.weight_ih_l0"])
    net(words).sum().backward()
    caplog.clear()
    normalized("out")
    assert not caplog.records


@every_norm
@pytest.mark.parametrize("gamma", GAMMAS)
def test_removing_leaves_the_effective_weights(estimator: str, gamma: str) -> None:
    plain, net = network(), normalized(estimator, gamma)
    net(images())
    weights = [norms.trained_weight(net.get_submodule(name)) for name in LAYERS]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    expected = net.eval()(images())
    net.train()
    assert norms.remove(net) == LAYERS
    assert torch.equal(net(images()), expected)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in net.modules()] == [type(module) for module in plain.modules()]
    assert not hooks(net)
    assert not list(norms.normalized_layers(net))
    for name, weight in zip(LAYERS, weights, strict=True):
        assert net.get_submodule(name).weight is weight  # the parameter that the optimizer holds
        assert type(weight) is nn.Parameter
        assert weight.requires_grad
    net.zero_grad()
    net(images()).sum().backward()
    optimizer.step()
    assert not torch.equal(net(images()), expected)
    plain.load_state_dict(net.state_dict())
    norms.normalize(net, ESTIMATORS[estimator], example_input=images())


def test_removing_leaves_foreign_hooks_and_parametrizations() -> None:
    net = normalized("operator")
    net.insert(0, nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)))
    seen: list[int] = []
    net[1].register_forward_pre_hook(lambda module, inputs: seen.append(1))
    assert norms.remove(net) == ["1", "3", "5", "8"]
    assert parametrize.is_parametrized(net[0])
    net[:6](torch.zeros(1, 3, SIZE + 1, SIZE))  # no size is refused any more
    assert seen == [1]


@pytest.mark.parametrize("estimator", ["out", "bidirectional", "operator"])
def test_a_resnet_of_torchvision(estimator: str) -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10)
    x = torch.randn(2, 3, 64, 64)
    names = norms.normalize(net, ESTIMATORS[estimator], example_input=x, warmup_iterations=3)
    assert len(names) == 21  # 20 convolutions and the classifier
    net(x).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    found = norms.sigmas(net)
    assert all(found[f"sigma/{name}"] > 0 for name in names)
    expected = net.eval()(x)
    norms.remove(net)
    assert torch.equal(net(x), expected)
    torchvision.models.resnet18(num_classes=10).load_state_dict(net.state_dict())


@every_norm
@pytest.mark.parametrize("gamma", GAMMAS)
def test_state_dicts_carry_everything(estimator: str, gamma: str) -> None:
    net, other = normalized(estimator, gamma, seed=0), normalized(estimator, gamma, seed=1)
    net(images())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    other.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(vectors(net), vectors(other), strict=True))
    assert torch.equal(net(images()), other(images()))  # after one more iteration of each
    assert norms.sigmas(net) == norms.sigmas(other)
