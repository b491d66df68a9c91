"""What the pairs share."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_lab.archs.common import ConvTranspose2d, ConvTransposeByProduct


@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": 3, "output_padding": 1, "groups": 2}, {}])
def test_the_transposed_convolution_is_pytorchs(options: dict[str, int]) -> None:
    """Output and gradients, in float64."""
    torch.manual_seed(0)
    theirs = nn.ConvTranspose2d(6, 4, 4, padding=1, dtype=torch.float64, **options)
    ours = ConvTranspose2d(6, 4, 4, padding=1, dtype=torch.float64, **options)
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


def test_it_stays_in_half_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for side in (4, 16):  # the gradients are taken in two ways
            assert ConvTranspose2d(2, 3, 4)(torch.randn(1, 2, side, side)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [((2, 2), (1, 1), (0, 0)), ((1, 1), (0, 0), (0, 0)), ((3, 2), (1, 0), (1, 0)), ((2, 3), (2, 1), (1, 2))],
)
def test_gradients_by_a_product(options: tuple[tuple[int, int], ...]) -> None:
    """In float64 PyTorch's own, and their own gradients by finite differences."""
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 3, 4), (3, 2, 4, 3))]
    results = []
    for function in (ConvTransposeByProduct.apply, by_pytorch):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*leaves, *options)
        results.append([output, *torch.autograd.grad((output**2).sum(), leaves)])
    torch.testing.assert_close(*results)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradgradcheck(lambda *two: ConvTransposeByProduct.apply(*two, *options), leaves)


def by_pytorch(x: Tensor, weight: Tensor, stride: int, padding: int, output_padding: int) -> Tensor:
    return F.conv_transpose2d(x, weight, None, stride, padding, output_padding)


@pytest.mark.parametrize("side", [4, 15, 16])
def test_gradients_under_autocast_are_those_of_the_rounded_operands(side: int) -> None:
    """On both sides of the size where the way of computing them changes, against float64."""
    torch.manual_seed(0)
    layer = ConvTranspose2d(6, 5, 4, stride=2, padding=1)
    x = torch.randn(4, 6, side, side, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    weights = torch.randn_like(output)
    found = torch.autograd.grad((output * weights).sum(), [x, *layer.parameters()])
    exact = [tensor.detach().bfloat16().double().requires_grad_() for tensor in (x, *layer.parameters())]
    expected = F.conv_transpose2d(*exact, stride=2, padding=1)
    references = torch.autograd.grad((expected * weights.double()).sum(), exact)
    for ours, reference in zip(found, references, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - reference).abs().max() <= 2**-8 * reference.abs().max()  # one rounding to bfloat16
