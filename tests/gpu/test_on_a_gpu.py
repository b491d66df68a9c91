"""What a GPU must show, and, of that, what a CPU can: `make gpu`."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gan_lab import build
from gan_lab.config import compose, load
from gan_lab.data import write_array
from gan_lab.device import allow_tf32, full_precision, prepare_process
from gan_lab.metrics.moments import Moments
from gan_lab.norms.power_iteration import eliminated
from gan_lab.presets import CONFIGS
from gan_lab.probes import is_finite
from gan_lab.training.divergence import DivergenceMonitor
from gan_lab.training.gan import Gan, Measure
from gan_lab.training.graph import CHECKS, WARM_UP, CudaGraphs, GraphedUpdate

pytestmark = pytest.mark.gpu
Saw = Callable[[float | str], None]
CHOICES = [
    "norm=none",
    "norm=sn train.ema=0.9",
    "norm=bssn norm.gamma=per_layer norm.target=both",
    "norm=strict_sn norm.target=both loss=wgan_gp penalty=gradient_penalty optimizer.n_dis=2",
    "norm=ssn penalty=r1 loss=nonsaturating train.resident_gb=0",
    "norm=bsn arch=resnet",
]
CAPTURED = [
    *(f"norm={path.stem}" for path in sorted((CONFIGS / "norm").glob("*.yaml"))),
    *CHOICES[1:],
    "norm=bssn train.precision=bf16",
    "norm=sn optimizer.decay=linear optimizer.tensorflow_epsilon=true",
]


@pytest.fixture
def gan_of(tmp_path: Path, device: torch.device) -> Callable[..., Gan]:
    """A Gan on CIFAR-10's sizes and noise; the smallest networks on a CPU."""
    images = np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), dtype=np.uint8)
    array = write_array(tmp_path / "noise.npy", images, {})
    width = "arch.width=0.25" if device.type == "cuda" else "arch.width=0.05"

    def make(choices: str, on: torch.device | None = None) -> Gan:
        given = ["dataset=cifar10", "metrics=none", "tracker=local", "train.batch_size=16", width]
        config = load(compose([*given, *choices.split()]))
        return build.build_gan(config, array, on or device)

    return make


def state_of(gan: Gan) -> list[Tensor]:
    return [leaf.detach().cpu() for leaf in tree_leaves(gan.state_dict()) if isinstance(leaf, Tensor)]


def train(gan: Gan, iterations: int, measure_at: Sequence[int] = ()) -> dict[str, Tensor]:
    for _ in range(iterations):
        iteration = gan.iteration + 1
        measure = Measure.PROBES if iteration in measure_at else Measure.NOTHING
        values = gan.update(gan.draw(iteration), measure)
    return values


def same_bits(one: Gan, other: Gan) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state_of(one), state_of(other), strict=True))


@pytest.mark.usefixtures("needs_a_gpu")
@pytest.mark.parametrize("choices", CHOICES)
def test_cuda_itself_sees_no_wait_in_an_iteration(gan_of: Callable[..., Gan], choices: str) -> None:
    gan = gan_of(choices)
    train(gan, 1, measure_at=[1])
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch says that it does not see every wait
            torch.cuda.set_sync_debug_mode("error")
        train(gan, 2, measure_at=[3])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("needs_a_gpu")
@pytest.mark.parametrize(("precision", "most"), [("train.tf32=false", 5e-4), ("train.tf32=true", 2e-2)])
@pytest.mark.parametrize("choices", CHOICES)
def test_an_iteration_is_that_of_a_cpu_to_rounding(
    gan_of: Callable[..., Gan], device: torch.device, choices: str, precision: str, most: float, saw: Saw
) -> None:
    """Of losses, scores, slopes, sigmas and gradients; rates are tiny, for Adam makes of rounding a step.

    Some of BSSN's gradients of G are small differences: on an H200 they are off by 2e-4, and in TF32 by 2e-2.
    """
    prepare_process(device, tf32=precision.endswith("true"))
    choices += " optimizer.d_lr=1e-9 optimizer.g_lr=1e-9"
    ours = train(gan_of(choices), 1, measure_at=[1])
    theirs = train(gan_of(choices, torch.device("cpu")), 1, measure_at=[1])
    assert ours.keys() == theirs.keys()
    differences = {
        name: abs(ours[name].item() - theirs[name].item()) / max(abs(theirs[name].item()), 1e-3)
        for name in ours
        if name.startswith(("loss/", "score/", "grad_norm/", "slope/", "sigma"))
    }
    worst = max(differences, key=lambda name: differences[name])
    saw(f"{differences[worst]:.2g} in {worst}")
    assert differences[worst] <= most


@pytest.mark.parametrize("choices", [*CHOICES, "norm=sn train.precision=bf16"])
def test_two_trainings_leave_the_same_bits_and_no_warning(gan_of: Callable[..., Gan], choices: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of what is not deterministic
        one, other = gan_of(choices), gan_of(choices)
        for gan in (one, other):
            train(gan, 3, measure_at=[2])
    assert same_bits(one, other)


def test_a_training_that_is_resumed_leaves_the_same_bits(gan_of: Callable[..., Gan]) -> None:
    through, first, again = (gan_of(CHOICES[2]) for _ in range(3))
    train(through, 4)
    train(first, 2)
    again.load_state_dict(first.state_dict())
    train(again, 2)
    assert same_bits(through, again)


def test_what_is_exact_has_float32_s_digits(device: torch.device, saw: Saw) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(8, 64, 16, 16, generator=rng), torch.randn(64, 64, 3, 3, generator=rng)
    exact = torch.nn.functional.conv2d(x.double(), w.double())

    def error() -> float:
        found = torch.nn.functional.conv2d(x.to(device), w.to(device)).cpu().double()
        return ((found - exact).norm() / exact.norm()).item()

    allow_tf32(True)
    saw(error())
    with full_precision():
        assert error() < 1e-5
    allow_tf32(False)
    assert error() < 1e-5
    product = (w.flatten(1).to(device) @ w.flatten(1).to(device).T).cpu().double()
    assert (product - w.flatten(1).double() @ w.flatten(1).double().T).norm() < 1e-5 * product.norm()


@pytest.mark.parametrize("norm", ["sn", "bssn", "strict_sn"])
def test_sigmas_are_near_the_exact_ones_and_gradients_within_their_bounds(
    gan_of: Callable[..., Gan], norm: str, saw: Saw
) -> None:
    gan = gan_of(f"norm={norm}")
    train(gan, 40)
    values = gan.update(gan.draw(41), Measure.AUDIT)
    worst = max(value.item() for name, value in values.items() if name.startswith("sigma_error/"))
    bounds = [name for name in values if name.startswith("grad_bound/")]
    saw(worst)
    assert worst < 0.05
    assert bounds
    assert all(values[name.replace("bound", "norm", 1)] <= values[name] * 1.001 for name in bounds)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_weight_that_is_not_finite_is_seen_wherever_it_is(device: torch.device, bad: float) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Linear(4096, 3)).to(device)
    assert is_finite(network)
    for parameter in network.parameters():
        flat = parameter.data.view(-1)
        for place in (0, len(flat) // 2, len(flat) - 1):
            before = flat[place].item()
            flat[place] = bad
            assert not is_finite(network)
            flat[place] = before


@pytest.mark.usefixtures("needs_a_gpu")
def test_iterations_take_no_more_memory_with_time(gan_of: Callable[..., Gan], saw: Saw) -> None:
    gan = gan_of(CHOICES[2])
    train(gan, 3)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    train(gan, 20)
    torch.cuda.synchronize()
    saw(grown := torch.cuda.memory_allocated() - before)
    assert abs(grown) < 2**20


def test_moments_are_those_of_numpy(device: torch.device) -> None:
    rows = 100 + torch.randn(5000, 32, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for some in rows.to(device).split(64):
        moments.add(some)
    found = moments.statistics()
    np.testing.assert_allclose(found["mu"], rows.double().mean(dim=0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(
        found["sigma"], np.cov(rows.double().numpy(), rowvar=False), rtol=1e-8, atol=1e-10
    )


@pytest.mark.usefixtures("needs_a_gpu")
@pytest.mark.parametrize("choices", CAPTURED)
def test_a_captured_iteration_leaves_the_bits_of_its_operations_one_by_one(
    gan_of: Callable[..., Gan], choices: str
) -> None:
    """Of every norm, also in the iterations after those in which a run looks at that itself."""
    eager, gan = gan_of(choices), gan_of(choices)
    graphs = CudaGraphs(gan.device)
    update = GraphedUpdate(gan, DivergenceMonitor(gan, 1e6).see, graphs, required=True)
    for _ in range(iterations := WARM_UP + CHECKS + 4):
        values = update(gan.draw(gan.iteration + 1))
    expected = train(eager, iterations)
    assert same_bits(eager, gan)
    assert {name: value.item() for name, value in values.items()} == {
        name: value.item() for name, value in expected.items()
    }


def gram_matrices(seed: int) -> Tensor:
    """Those of vectors that are independent enough for an inverse, `[8, 5, 5]`."""
    rows = torch.randn(8, 5, 64, generator=torch.Generator().manual_seed(seed))
    return rows @ rows.mT / 64


def test_what_is_written_out_for_cholesky_is_its_inverse(device: torch.device, saw: Saw) -> None:
    matrices = gram_matrices(0)
    expected = torch.linalg.cholesky(matrices.double()).inverse()
    found = eliminated(matrices.to(device), torch.eye(5, device=device)).cpu().double()
    saw(worst := ((found - expected).norm() / expected.norm()).item())
    assert worst < 1e-5


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "written out": lambda matrices: eliminated(matrices, torch.eye(5, device=matrices.device)),
    "matrix_power": lambda matrices: torch.linalg.matrix_power(matrices, 16),
    "cholesky_ex": lambda matrices: torch.linalg.cholesky_ex(matrices)[0],  # last: its refusal may last
}


@pytest.mark.usefixtures("needs_a_gpu")
@pytest.mark.parametrize("call", CALLS)
def test_calls_that_cuda_captures_repeat_their_bits(device: torch.device, call: str, saw: Saw) -> None:
    """Of `cholesky_ex`, which norms do not call on a GPU, it is only noted whether CUDA captures it."""
    memory, graphs = gram_matrices(0).to(device), CudaGraphs(device)

    def work() -> dict[str, Tensor]:
        return {"result": CALLS[call](memory)}

    graphs.ordinary(work)
    try:
        repeat, values = graphs.record(work)
    except RuntimeError as error:
        saw(f"refused: {error}")
        assert call == "cholesky_ex"
        return
    saw("captured")
    memory.copy_(gram_matrices(1))
    repeat()
    assert torch.equal(values["result"], CALLS[call](memory))
