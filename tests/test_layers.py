"""Kernel layouts and fans, against counting."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_lab.layers import KernelLayout, fans, weighted_layers

LAYERS = [
    nn.Linear(5, 3),
    nn.Conv1d(4, 6, 3),
    nn.Conv2d(4, 6, (3, 2)),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.Conv3d(2, 4, 2, groups=2),
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
    nn.ConvTranspose3d(2, 3, 2),
]


def connections(layer: nn.Module) -> Tensor:
    """0/1 `[outputs, inputs]` of one image: which outputs change with which inputs."""
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (5,)
    else:
        shape = (layer.in_channels, *(7 for _ in layer.kernel_size))
    basis = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
    with torch.no_grad():
        layer.weight.fill_(1)
        return (layer(basis) - layer(0 * basis)).flatten(1).t().round().bool()


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_fans_are_counts_of_connections(layer: nn.Module) -> None:
    """The inputs of an output, and the outputs of an input, where none is cut off at a border."""
    joined = connections(layer)
    assert fans(layer) == (joined.sum(1).max().item(), joined.sum(0).max().item())


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_blocks_hold_each_entry_at_its_place(layer: nn.Module) -> None:
    """Entry [g, o, i, t] joins input channel i to output channel o of group g by tap t."""
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    transposed = "Transpose" in type(layer).__name__
    layout = KernelLayout.of(layer)
    blocks = layout.blocks(weight)
    taps = weight.flatten(2) if weight.ndim > 2 else weight[:, :, None]
    per_group = taps.shape[0] // groups
    assert blocks.numel() == weight.numel()
    for g in range(groups):
        for o in range(blocks.shape[1]):
            for i in range(blocks.shape[2]):
                expected = taps[g * per_group + i, o] if transposed else taps[g * per_group + o, i]
                assert torch.equal(blocks[g, o, i], expected)
                assert torch.equal(layout.kernel(weight)[g * blocks.shape[1] + o, i], expected)


def test_an_ungrouped_kernel_is_a_view() -> None:
    for layer in (nn.Linear(5, 3), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3)):
        assert KernelLayout.of(layer).blocks(layer.weight).data_ptr() == layer.weight.data_ptr()


def test_weighted_layers_are_found_at_any_depth() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    assert [name for name, _ in weighted_layers(net)] == ["0", "2.1"]
    assert [name for name, _ in weighted_layers(nn.Linear(1, 1))] == [""]
