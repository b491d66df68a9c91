"""Convolutions are PyTorch's, however their gradients are computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_lab.archs.convolutions import Conv2d, ConvByProduct, ConvTranspose2d, ConvTransposeByProduct

LAYERS = ((Conv2d, nn.Conv2d), (ConvTranspose2d, nn.ConvTranspose2d))
Pair = tuple[int, int]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"stride": 3, "groups": 2}, {"dilation": 2}, {"bias": False}]
)
def test_a_layer_is_pytorchs(kind: tuple[type[nn.Module], type[nn.Module]], options: dict[str, Any]) -> None:
    """Output and gradients, in float64."""
    torch.manual_seed(0)
    ours, theirs = (layer(6, 4, 4, padding=2, dtype=torch.float64, **options) for layer in kind)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(images) for layer, images in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    weights = torch.randn_like(outputs[0])
    found, expected = (
        torch.autograd.grad((output * weights).sum(), [images, *layer.parameters()])
        for output, images, layer in zip(outputs, inputs, (ours, theirs), strict=True)
    )
    torch.testing.assert_close(found, expected)


def by_convolution(*arguments: Any) -> Tensor:
    return F.conv2d(*arguments[:2], None, *arguments[2:])


def by_transposed_convolution(*arguments: Any) -> Tensor:
    return F.conv_transpose2d(*arguments[:2], None, *arguments[2:])


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        *(
            (ConvByProduct, by_convolution, options)
            for options in [((2, 2), (1, 1)), ((1, 1), (0, 0)), ((3, 2), (1, 0))]
        ),
        *(
            (ConvTransposeByProduct, by_transposed_convolution, options)
            for options in [((2, 2), (1, 1), (0, 0)), ((1, 1), (0, 0), (0, 0)), ((3, 2), (1, 0), (2, 1))]
        ),
    ],
)
def test_gradients_by_a_product(
    ours: type[torch.autograd.Function], theirs: Callable[..., Tensor], options: tuple[Pair, ...]
) -> None:
    """In float64 PyTorch's own; and the gradients of these by finite differences."""
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 6, 7), (3, 3, 4, 3))]
    results = []
    for function in (ours.apply, theirs):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*leaves, *options)
        results.append([output, *torch.autograd.grad((output**2).sum(), leaves)])
    torch.testing.assert_close(*results)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradgradcheck(lambda *two: ours.apply(*two, *options), leaves)


@pytest.mark.parametrize(
    "options",
    [
        *({"groups": 2}, {"dilation": 2}, {"stride": 1}, {"padding": "valid"}),
        *({"padding": 1, "padding_mode": mode} for mode in ("reflect", "circular")),
    ],
)
def test_what_a_product_does_not_serve_is_pytorchs_to_the_bit(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours, theirs = (kind(6, 4, 3, **{"stride": 2, **options}) for kind in (Conv2d, nn.Conv2d))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 8, 8)
    results = []
    for layer in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        results.append([output, *torch.autograd.grad((output.float() ** 2).sum(), list(layer.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(("kind", "sides"), [(Conv2d, (8, 12, 14)), (ConvTranspose2d, (4, 12, 13))])
def test_gradients_under_autocast_are_those_of_the_rounded_operands(
    kind: type[nn.Module], sides: tuple[int, ...]
) -> None:
    """On both sides of the size where the way of computing them changes, against float64."""
    for side in sides:
        torch.manual_seed(0)
        layer = kind(6, 5, 4, stride=2, padding=1)
        x = torch.randn(4, 6, side, side, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        assert output.dtype == torch.bfloat16
        weights = torch.randn_like(output)
        found = torch.autograd.grad((output * weights).sum(), [x, *layer.parameters()])
        exact = [one.detach().bfloat16().double().requires_grad_() for one in (x, *layer.parameters())]
        function = F.conv2d if kind is Conv2d else F.conv_transpose2d
        expected = function(*exact, stride=2, padding=1)
        references = torch.autograd.grad((expected * weights.double()).sum(), exact)
        for ours, reference in zip(found, references, strict=True):
            assert ours.dtype == torch.float32
            assert (ours - reference).abs().max() <= 2**-8 * reference.abs().max()  # one rounding to bfloat16
