"""Lipschitz constants against Jacobians, and structures against the networks that they describe."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from gan_lab.archs.resnet import Down, DownBlock, SumPool, UpBlock
from gan_lab.norms.audit import audit
from gan_lab.norms.lipschitz import constant, gains_after


def stretch(module: nn.Module, x: Tensor) -> float:
    """The largest singular value of a module's Jacobian at one input `[1, ...]`, in float64."""
    jacobian = jacrev(module.double())(x.double())
    return float(torch.linalg.matrix_norm(jacobian.detach().reshape(-1, x.numel()), 2))


def batch_norm(affine: bool) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, affine=affine)
    norm.running_var.uniform_(0.1, 2)
    if affine:
        nn.init.normal_(norm.weight).requires_grad_(False)
    return norm.eval()


# Each attains its constant at a positive input, where activations have their steepest slope.
ATTAINED = {
    "relu": nn.ReLU(),
    "leaky relu": nn.LeakyReLU(0.1),
    "identity": nn.Identity(),
    "flatten": nn.Flatten(),
    "average pooling": nn.AvgPool2d(2),
    "average pooling of rows": nn.AvgPool2d((1, 3), stride=(1, 3)),
    "upsampling": nn.Upsample(scale_factor=3, mode="nearest"),
    "sum pooling": SumPool(6),
    "batch norm": batch_norm(affine=True),
    "batch norm without weights": batch_norm(affine=False),
    "nested": nn.Sequential(nn.AvgPool2d(2), nn.Sequential(nn.Upsample(scale_factor=2), nn.ReLU())),
}


@pytest.mark.parametrize("name", ATTAINED)
def test_constants_are_attained(name: str) -> None:
    x = torch.rand(1, 4, 6, 6) + 0.1
    assert constant(ATTAINED[name], {}) == pytest.approx(stretch(ATTAINED[name], x), rel=1e-6)


def standardization(kind: str) -> nn.Module:
    torch.manual_seed(0)
    norms = {
        "layer norm of pixels": lambda: nn.LayerNorm((4, 6, 6)),
        "layer norm": lambda: nn.GroupNorm(1, 4),
        "group norm": lambda: nn.GroupNorm(2, 4),
        "group norm without weights": lambda: nn.GroupNorm(2, 4, affine=False),
        "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
        "instance norm without weights": lambda: nn.InstanceNorm2d(4),
    }
    norm = norms[kind]()
    if kind == "layer norm of pixels":
        nn.init.constant_(norm.weight, -1.5)
    elif norm.weight is not None:  # the largest in a group of its own, so that the mean takes nothing from it
        norm.weight.data = torch.tensor([0.0, 0.0, -3.0, 3.0])
    return norm.requires_grad_(False)


KINDS = ["layer norm of pixels", "layer norm"] + [
    f"{kind} norm{weights}" for kind in ("group", "instance") for weights in ("", " without weights")
]


@pytest.mark.parametrize("kind", KINDS)
def test_standardizing_stretches_constant_maps_most(kind: str) -> None:
    """By 1/√ε times the largest gain, and nothing by more."""
    norm = standardization(kind)
    bound = constant(norm, {})
    assert bound == pytest.approx(stretch(norm, torch.full((1, 4, 6, 6), 0.7)), rel=1e-6)
    for size in (1e-3, 1.0):
        assert stretch(norm, size * torch.randn(1, 4, 6, 6)) < bound


def test_slopes_that_are_attained_elsewhere() -> None:
    assert constant(nn.Tanh(), {}) == pytest.approx(stretch(nn.Tanh(), torch.zeros(1, 3)))
    steep = nn.LeakyReLU(-2.0)
    assert constant(steep, {}) == pytest.approx(stretch(steep, -torch.ones(1, 3)))


@pytest.mark.parametrize(
    "module",
    [
        nn.AvgPool2d(3, stride=2),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=1.5),
        nn.Upsample(size=8),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
)
def test_what_is_not_known_is_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="no Lipschitz constant is known"):
        constant(module, {})


def test_a_sequential_with_a_forward_of_its_own_says_nothing_of_itself() -> None:
    class Doubling(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="Doubling"):
        constant(nn.Sequential(Doubling(nn.ReLU())), {})
    Doubling.lipschitz = lambda self: 2.0
    assert constant(nn.Sequential(Doubling(nn.ReLU())), {}) == 2


def test_a_module_that_is_used_twice_counts_twice() -> None:
    twice = nn.Upsample(scale_factor=2)
    net = nn.Sequential(twice, nn.Identity(), twice)
    assert constant(net, {}) == pytest.approx(stretch(net, torch.rand(1, 1, 3, 3)))


@pytest.mark.parametrize(
    "block", [UpBlock(3, 4).eval(), DownBlock(3, Down(5, 4)), DownBlock(4, Down(4, 4, False, False))]
)
def test_chains_are_what_the_block_computes(block: nn.Module) -> None:
    """The sum of the chains is the block, so that products and sums over them bound it."""
    torch.manual_seed(0)
    x = torch.randn(
        2, block.chains()[0][0].num_features if isinstance(block, UpBlock) else block.conv1.in_channels, 6, 6
    )
    expected, total = block(x), 0
    for chain in block.chains():
        value = x.clone()
        for part in chain:
            value = part(value.clone())
        total = total + value
    torch.testing.assert_close(total, expected)


def test_the_sum_over_chains_is_attained() -> None:
    """Two equal chains that do not shrink: the block doubles."""
    block = DownBlock(2, Down(2, 2, down=False, project=False), first=True)
    for conv in (block.conv1, block.conv2):
        nn.init.dirac_(conv.weight)
    x = torch.rand(1, 2, 5, 5) + 0.1
    found = audit(block, x)
    assert found.lipschitz == pytest.approx(2)
    assert stretch(block, x) == pytest.approx(2)


def test_gains_are_what_comes_after() -> None:
    """By hand: s·(…) is stretched by everything behind it, and by both ways where there are two."""
    conv, linear = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(9, 1)
    block = DownBlock(1, Down(1, 1, down=False), first=True)
    net = nn.Sequential(conv, block, SumPool(3), nn.Linear(1, 1))
    norms = {conv: 2.0, block.conv1: 3.0, block.conv2: 5.0, block.shortcut: 7.0, net[3]: 11.0, linear: 1e9}
    gains = dict(gains_after(net, norms))
    assert gains == pytest.approx(
        {
            conv: (3 * 5 + 7) * 3 * 11.0,
            block.conv1: 5 * 3 * 11.0,
            block.conv2: 3 * 11.0,
            block.shortcut: 3 * 11.0,
            net[3]: 1.0,
        }
    )
    assert constant(net, norms) == pytest.approx(2 * (3 * 5 + 7) * 3 * 11)
