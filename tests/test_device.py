"""TF32 is allowed to the networks' convolutions and to nothing that must be exact, whoever sets what."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gan_lab.device import allow_tf32, full_precision, prepare_process
from gan_lab.norms import operator

CUDNN: Any = torch.backends.cudnn


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    allow_tf32(True)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("highest")


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


def readers() -> tuple[bool, bool, str]:
    """PyTorch's older switches, which raise where they and the newer ones say different things."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    return torch.backends.cudnn.allow_tf32, matmul, torch.get_float32_matmul_precision()


@pytest.mark.parametrize("is_allowed", [True, False])
def test_all_switches_say_the_same_whatever_was_set_before(is_allowed: bool) -> None:
    """A library's switch, or one of the environment, reaches no product of matrices, such as sigma is."""
    torch.set_float32_matmul_precision("high")
    prepare_process(torch.device("cpu"), tf32=is_allowed)
    precision = "tf32" if is_allowed else "ieee"
    assert {CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision} == {precision}
    assert readers() == (is_allowed, False, "highest")
    with full_precision():
        pass
    assert readers() == (is_allowed, False, "highest")


@pytest.mark.parametrize("compile", [False, True])
def test_operations_are_deterministic_and_only_a_compiled_run_imports_the_compiler(compile: bool) -> None:
    program = f"""
import sys, torch
from gan_lab.device import prepare_process
prepare_process(torch.device("cpu"), compile={compile})
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
compiler = sys.modules.get("torch._inductor.config")
assert compiler.deterministic if {compile} else compiler is None
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_override_of_the_environment_reaches_no_product() -> None:
    program = """
import torch
from gan_lab.device import prepare_process
assert torch.backends.cuda.matmul.allow_tf32  # as the containers of some vendors have it
prepare_process(torch.device("cpu"), tf32=False)
assert not torch.backends.cuda.matmul.allow_tf32
assert torch.backends.cuda.matmul.fp32_precision == "ieee"
"""
    environment = {**os.environ, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize("switch", ["highest", "high", "medium"])
def test_full_precision_is_that_of_all_products_under_any_switch(switch: str) -> None:
    """Where a library has set it and nobody has prepared the process; afterwards it is as before."""
    torch.set_float32_matmul_precision(switch)
    before = settings(), torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    with full_precision():
        assert not torch.backends.cuda.matmul.allow_tf32  # and the older switch agrees
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    after = settings(), torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    assert after == before


def test_tf32_may_be_of_the_convolutions_only() -> None:
    """Of an extractor that asks for it, also where the networks may not."""
    allow_tf32(False)
    with full_precision(tf32_convolutions=True):
        assert settings() == ("tf32", "ieee")
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
