"""What the pairs share."""

import pytest
import torch
from torch import nn

from gan_lab.archs.common import ConvTranspose2d


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
        assert ConvTranspose2d(2, 3, 4)(torch.randn(1, 2, 4, 4)).dtype == torch.bfloat16
