"""The table of what each norm controls: its measurements, by what is known of two norms."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import matrix
from gan_lab import norms
from gan_lab.errors import UserError


def discriminator(estimator: type[norms.SigmaEstimator]) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(16, 16, 3, padding=1))
    norms.normalize(net, estimator, warmup_iterations=0)
    return net


CHANGES = (matrix.as_it_is, matrix.tenfold, matrix.of_rank_one)


def test_stored_weights_are_changed_measured_and_put_back() -> None:
    """Frobenius keeps the variance and loses the operator; SN the other way round."""
    image = torch.zeros(1, 3, 8, 8)
    frobenius, sn = discriminator(norms.SigmaFrobenius), discriminator(norms.SigmaOut)
    before = {name: value.clone() for name, value in sn.state_dict().items()}
    plain, tenfold, rank_one = (matrix.stored(frobenius, image, change) for change in CHANGES)
    for one in (plain, tenfold, rank_one):
        assert one.variance_ratio == pytest.approx((1, 1), abs=0.1)  # but for the entries' mean
    assert tenfold.operator_norm == pytest.approx(plain.operator_norm)
    assert rank_one.operator_norm > 1.3 * plain.operator_norm
    plain, tenfold, rank_one = (matrix.stored(sn, image, change) for change in CHANGES)
    assert max(one.operator_norm for one in (plain, tenfold, rank_one)) <= 3.01  # √k·s
    assert rank_one.variance_ratio[1] == pytest.approx(1 / 16, rel=0.1)
    assert all(torch.equal(value, before[name]) for name, value in sn.state_dict().items())


def test_a_bound_is_what_was_logged() -> None:
    audit = {"grad_norm/d/a": torch.tensor(1.0), "grad_bound/d/a": torch.tensor(4.0)}
    more = {"grad_norm/d/a": torch.tensor(3.0), "grad_bound/d/a": torch.tensor(6.0)}
    assert matrix.bound([audit, more]) == "yes, 0.5 of it"
    assert matrix.bound([{"grad_norm/d/a": torch.tensor(1.0)}]) == "no"


def test_its_rows_are_all_norms_of_the_sweep() -> None:
    assert {"none", "sn", "frobenius", "weight_norm", "certified", "layer_norm"} <= set(
        matrix.norms_there_are()
    )


def test_a_table_is_renewed_in_its_place(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n")
    for table in ("| a |", "| b |"):
        matrix.put(readme, table)
    assert readme.read_text() == f"before\n{matrix.BEGIN}\n| b |\n{matrix.END}\nafter\n"
    readme.write_text("no place")
    with pytest.raises(UserError, match="has no place for the table"):
        matrix.put(readme, "| a |")
