"""The norms on networks of today, and on weights that are of no layer."""

import copy
import logging
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torchvision
from norm_networks import LAYERS, images, network
from torch import Tensor, nn
from torchvision import models

from gan_lab import norms
from gan_lab.norms import sites


class Modulated(nn.Module):
    """A convolution that multiplies its weight by a style of each image, as StyleGAN2's."""

    def __init__(self, c_in: int, c_out: int, bias: bool = True) -> None:
        super().__init__()
        self.style = nn.Linear(4, c_in)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.randn(c_out)) if bias else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weights = self.weight * self.style(w)[:, None, :, None, None]
        rows = [nn.functional.conv2d(one[None], own, padding=1) for one, own in zip(x, weights, strict=True)]
        return self.gain * torch.cat(rows) + (0 if self.bias is None else self.bias[:, None, None])


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(sites._REGISTERED)
    norms.register(
        Modulated, lambda module: nn.Conv2d(module.weight.shape[1], module.weight.shape[0], 3, padding=1)
    )
    yield
    sites._REGISTERED.clear()
    sites._REGISTERED.update(before)


class Scorer(nn.Module):
    """A projection discriminator of words with attention."""

    def __init__(self, kdim: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of_class = nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim)
        self.linear = nn.Linear(8, 1)
        self.kdim = kdim or 8

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        key = torch.nn.functional.pad(x, [0, self.kdim - 8])
        features = self.attention(x, key, x, need_weights=False)[0].mean(1)
        return self.linear(features).flatten() + (self.of_class(labels) * features).sum(1)


ATTENTION = [f"attention.{name}" for name in ("in_proj_q", "in_proj_k", "in_proj_v", "out_proj")]
SEPARATE = [f"attention.{name}" for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj")]
INPUTS = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2])


@pytest.mark.parametrize("kdim", [None, 10])
@pytest.mark.parametrize("gamma", ["none", "shared", "per_layer", "per_filter"])
def test_embeddings_and_attention(kdim: int | None, gamma: str) -> None:
    """Each matrix of a packed weight for itself, by the SVD of the effective weights."""
    net, plain = Scorer(kdim), Scorer(kdim)
    found = norms.normalize(net, norms.SigmaOut, 1.5, gamma)
    assert found == ["of_class", *(SEPARATE if kdim else ATTENTION), "linear"]
    assert {f"sigma/{name}" for name in found} <= norms.sigmas(net).keys()
    net.eval()
    attention = net.attention
    packed = None if kdim else attention.in_proj_weight.chunk(3)
    matrices = packed or [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    for matrix in (*matrices, attention.out_proj.weight, net.of_class.weight, net.linear.weight):
        assert np.linalg.norm(matrix.detach().numpy(), 2) == pytest.approx(1.5, rel=1e-3)
    expected = net(*INPUTS)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(*INPUTS), expected)
    net.train()(*INPUTS).sum().backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None
    )
    expected = net.eval()(*INPUTS)
    assert norms.remove(net) == found
    torch.testing.assert_close(net(*INPUTS), expected)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.mark.parametrize("estimator", [norms.SigmaBidirectional, norms.SigmaFilters, norms.SigmaOperator])
def test_packed_weights_are_made_with_all_others(estimator: Callable[..., norms.SigmaEstimator]) -> None:
    net, twin = Scorer().double(), Scorer().double()
    for one in (net, twin):
        norms.normalize(one, estimator)
    x, labels = INPUTS[0].double(), INPUTS[1]
    for _ in range(2):
        with norms.cached_weights(net):
            scores = net(x, labels)
        with torch.nn.utils.parametrize.cached():
            expected = twin(x, labels)
        torch.testing.assert_close(scores, expected)
        for one, value in ((net, scores), (twin, expected)):
            one.zero_grad()
            value.square().sum().backward()
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_weights_that_a_module_computes_with_by_itself(registered: None) -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({"first": Modulated(3, 6), "second": Modulated(6, 4, bias=False)})
    plain = copy.deepcopy(net)
    draws = torch.get_rng_state()
    list(sites.sites(net))
    assert torch.equal(torch.get_rng_state(), draws)
    found = norms.normalize(net, norms.SigmaOut, 0.8, "per_layer", gamma_bias=True, warmup_iterations=200)
    assert found == ["first", "first.style", "second", "second.style"]
    kernel = net.eval()["first"].weight.detach().flatten(1).numpy()
    assert np.linalg.norm(kernel, 2) == pytest.approx(0.8, rel=1e-4)
    torch.testing.assert_close(net["first"].bias, 0.8 * plain["first"].bias)
    x, w = torch.randn(2, 3, 5, 5), torch.randn(2, 4)
    expected = net["second"](net["first"](x, w), w)
    twin = copy.deepcopy(net)
    assert torch.equal(twin["second"](twin["first"](x, w), w), expected)
    assert norms.remove(net) == found
    torch.testing.assert_close(net["second"](net["first"](x, w), w), expected)
    assert list(net.state_dict()) == list(plain.state_dict())


def test_a_registered_convolution_has_its_inputs_size(registered: None) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Modulated(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x, torch.ones(len(x), 4))

    net = Net()
    norms.normalize(net, norms.SigmaOperator, layers="conv", example_input=torch.zeros(1, 3, 6, 6))
    with pytest.raises(ValueError, match=r"layer conv is normalized for inputs of size \(6, 6\)"):
        net(torch.zeros(1, 3, 5, 6))


def test_a_registration_that_does_not_fit_is_refused(registered: None) -> None:
    norms.register(Modulated, lambda module: nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"layer 0 \(Modulated\) is registered as Linear.* not of the shape"):
        norms.normalize(nn.Sequential(Modulated(3, 2)), norms.SigmaOut)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("2", ["2"]),
        ("[24]", ["2", "4"]),
        (["0", "[47]"], ["0", "4", "7"]),
        (lambda name, module: isinstance(module, nn.Conv2d), ["0", "2"]),
        ([], []),
        (None, LAYERS),
    ],
)
def test_layers_are_chosen(layers: sites.Selection, expected: list[str]) -> None:
    net = network()
    assert norms.normalize(net, norms.SigmaOut, layers=layers) == expected
    assert [name for name, _, _ in norms.normalized_layers(net)] == expected
    net(images()).sum().backward()
    assert norms.remove(net) == expected


def test_a_choice_that_is_of_no_layer_is_refused() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"layers='conv' is no layer .*: they are 0, 2, 4, 7"):
        norms.normalize(net, norms.SigmaOut, layers=["0", "conv"])
    assert not list(norms.normalized_layers(net))


def test_a_part_of_a_packed_weight() -> None:
    net, plain = Scorer(), Scorer()
    assert norms.normalize(net, norms.SigmaOut, layers="attention.in_proj_k") == ["attention.in_proj_k"]
    ours, theirs = (one.eval().attention.in_proj_weight.chunk(3) for one in (net, plain))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[2], theirs[2])
    assert np.linalg.norm(ours[1].detach().numpy(), 2) == pytest.approx(1, rel=1e-3)
    assert norms.normalize(Scorer(), norms.SigmaOut, layers="attention") == ATTENTION[:3]


def test_a_layer_of_zeros_is_named_and_may_be_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    nn.init.zeros_(net[7].weight)
    with pytest.raises(ValueError, match=r"^layer 7 cannot be normalized: its sigma is 0\.0.*skip_zeros"):
        norms.normalize(net, norms.SigmaOut)
    with caplog.at_level(logging.WARNING, "gan_lab.norms"):
        assert norms.normalize(net, norms.SigmaOut, skip_zeros=True) == LAYERS[:3]
    assert "layer 7 is left alone: its weight is 0" in caplog.text


def test_modules_that_are_alike_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Linear(3, 3), *(nn.PReLU() for _ in range(2)), *(nn.GRU(3, 3) for _ in range(10)))
    with caplog.at_level(logging.WARNING, "gan_lab.norms"):
        norms.normalize(net, norms.SigmaOut)
    (line,) = caplog.messages
    assert line.startswith(
        "10 layers like 3 (GRU) are of no kind that a norm knows: weight_ih_l0, weight_hh_l0"
    )


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4)


def regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    return RegNet(BlockParams.from_init_params(4, 8, 8.0, 2.0, 8), num_classes=4)


# Eleven kinds of torchvision's, small, with the size of their images.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mnasnet": (lambda: models.MNASNet(0.35, 4), 32),
    "regnet": (regnet, 32),
    "resnet": (lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], 4), 32),
    "resnext": (lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 4, groups=4), 32),
    "densenet": (lambda: models.DenseNet(4, (2, 2), 8, num_classes=4), 32),
    "squeezenet": (lambda: models.SqueezeNet("1_1", 4), 32),
    "mobilenet": (lambda: models.MobileNetV2(4, 0.25), 32),
    "shufflenet": (lambda: models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], 4), 32),
    "convnext": (convnext, 32),
    "vit": (lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4), 32),
    "swin": (lambda: models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=4), 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision(name: str) -> None:
    """Normalized, trained a step, taken off again: the scores and the names of before."""
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    net, plain = make(), make()
    x = torch.randn(2, 3, size, size)
    for module in net.modules():
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            module.eval()
    for estimator in (norms.SigmaOperator, norms.SigmaFrobenius):
        found = norms.normalize(net, estimator, example_input=x, warmup_iterations=1, skip_zeros=True)
        assert len(found) >= 5
        with norms.cached_weights(net):
            net(x).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
        net.eval()
        expected = net(x)
        assert norms.remove(net) == found
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
        net.train()
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
