"""How many operations an iteration is: what is counted, and what none may pass."""

import functools

import pytest
import torch

from benchmarks import operations
from benchmarks.operations import Operations, operations_of

CNN32 = operations.NETS["cnn32"]

# An iteration of the reference CNN, one update of each network: lower these, never raise them.
BUDGETS = {"none": 162, "sn": 345, "ssn": 345, "bsn": 445, "bssn": 445, "strict_sn": 345}
MORE_IN_BF16 = 60


@functools.cache
def count(norm: str, precision: str = "fp32") -> int:
    return len(operations_of([*CNN32, "arch.width=0.0625", f"norm={norm}", f"train.precision={precision}"]))


def test_what_launches_a_kernel_is_counted_and_views_are_not() -> None:
    weight = torch.ones(3, 2, requires_grad=True)
    with Operations() as operations:
        torch.empty(4).view(2, 2).t()[0].detach()
        weight.detach().unsqueeze_(0)
        (weight.t().reshape(6) * 2).sum().backward()
        torch._foreach_add_([weight.data, weight.data[0]], 1)
    assert [line.split()[0] for line in operations.seen] == [
        *("aten::clone", "aten::mul.Tensor", "aten::sum"),  # a transposed matrix is no view of six
        *("aten::ones_like", "aten::mul.Tensor", "aten::copy_"),  # as the parameter lies in memory
        "aten::_foreach_add_.Scalar",
    ]


@pytest.mark.parametrize("norm", BUDGETS)
def test_an_iteration_has_no_more_operations_than_its_budget(norm: str) -> None:
    assert 100 < count(norm) <= BUDGETS[norm]


@pytest.mark.parametrize("norm", ["none", "sn", "bssn"])
def test_half_precision_adds_few(norm: str) -> None:
    assert 0 < count(norm, "bf16") - count(norm) <= MORE_IN_BF16


def test_neither_batch_nor_width_change_the_count() -> None:
    assert count("sn") == len(operations_of([*CNN32, "norm=sn", "train.batch_size=3"]))


def test_the_rows_are_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "NETS", {"cnn32": (*CNN32, "arch.width=0.0625")})
    monkeypatch.setattr(operations, "NORMS", ("none", "sn"))
    monkeypatch.setattr(operations, "PRECISIONS", ("fp32",))
    rows = {row.name: row.value for row in operations.counts()}
    assert rows == {"ops/cnn32/none/fp32": count("none"), "ops/cnn32/sn/fp32": count("sn")}
