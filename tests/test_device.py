"""TF32 is allowed to the networks' convolutions and to nothing that must be exact."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gan_lab.device import allow_tf32, full_precision
from gan_lab.norms import operator

CUDNN: Any = torch.backends.cudnn


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = CUDNN.conv.fp32_precision
    yield
    CUDNN.conv.fp32_precision = before


def settings() -> tuple[str, str]:
    return CUDNN.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


def test_full_precision_holds_inside_the_block_and_ends_with_an_error() -> None:
    allow_tf32(True)
    before = settings()
    assert before[0] == "tf32"

    @full_precision()
    def failing() -> None:
        assert settings() == ("ieee", "ieee")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert settings() == before
    allow_tf32(False)
    assert CUDNN.conv.fp32_precision == "ieee"


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3)])
def test_a_layer_s_operator_and_its_adjoint_are_computed_in_full_precision(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []

    def watched(convolve: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            seen.append(settings())
            return convolve(*arguments, **named)

        return call

    for name in ("_CONVOLVE", "_CONVOLVE_TRANSPOSED", "_CONVOLVE_ADJOINT"):
        monkeypatch.setattr(operator, name, {2: watched(getattr(operator, name)[2])})
    allow_tf32(True)
    ours = operator.LayerOperator.of(layer, (6, 6))
    ours.adjoint(layer.weight, ours.apply(layer.weight, torch.randn(ours.input_shape)))
    assert seen == [("ieee", "ieee")] * 2
    assert CUDNN.conv.fp32_precision == "tf32"
