"""The program on a GPU that is none: nothing waits, no devices are mixed, and the run is that of the CPU."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended import GPU, PretendedGpu, RefusedError, lies_on
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gan_lab import build, probes
from gan_lab import device as device_module
from gan_lab.archs import convolutions
from gan_lab.config import compose, load
from gan_lab.data import Batches, to_unit_range
from gan_lab.device import Upload, upload
from gan_lab.evaluate import judge
from gan_lab.losses import Hinge
from gan_lab.metrics.extractors import Extractor
from gan_lab.metrics.features import gather
from gan_lab.norms import power_iteration
from gan_lab.norms.parametrization import _Scaled
from gan_lab.penalties import GradientPenalty
from gan_lab.presets import CONFIGS
from gan_lab.run import run
from gan_lab.runs import checkpoint
from gan_lab.training import gan as gan_module
from gan_lab.training.divergence import DivergenceMonitor
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.gan import Gan, Measure


def every(axis: str, but: str = "") -> list[str]:
    """All choices of an axis, whoever added them, but for one."""
    return [f"{axis}={path.stem}" for path in sorted((CONFIGS / axis).glob("*.yaml")) if path.stem != but]


CHOICES = [
    *every("norm"),
    *(
        f"norm=sn {one}"
        for axis, default in {"loss": "hinge", "penalty": "none", "augment": "none"}.items()
        for one in every(axis, but=default)
    ),
    *(f"norm=bssn norm.gamma={gamma} norm.target=both" for gamma in ("shared", "per_layer")),
    "norm=bsn norm.target=both arch=resnet arch.width=0.01",
    "norm=strict_sn arch=resnet arch.width=0.01 train.precision=bf16",
    "norm=sn train.precision=bf16 train.ema=0.9",
    "norm=strict_sn norm.target=both train.resident_gb=0 optimizer.n_dis=3",
    "norm=ssn train.channels_last=false train.tf32=false",
]


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    with PretendedGpu() as pretended:
        yield pretended


def gan_of(overrides: Sequence[str], device: str = "cuda") -> tuple[Gan, DivergenceMonitor]:
    config = load(compose([*overrides, "norm.warmup_iterations=1", f"device={device}"]))
    gan = build.build_gan(config, build.load_images(config), torch.device(device))
    return gan, build.build_monitor(config, gan)


def state_of(gan: Gan) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(gan.state_dict()) if isinstance(leaf, Tensor)]


def iterate(gan: Gan, monitor: DivergenceMonitor, measures: Sequence[Measure]) -> dict[str, Tensor]:
    """What the training loop does in iterations of no record; returns the last one's values."""
    for measure in measures:
        values = gan.update(gan.draw(gan.iteration + 1), measure)
        monitor.see(values)
    return values


def check(overrides: Sequence[str]) -> dict[str, Tensor]:
    """Build and train on a GPU that is watched; returns the last values and the state."""
    with PretendedGpu() as gpu:
        with gpu.watching() as building:
            gan, monitor = gan_of(overrides)
        with gpu.watching() as events:
            values = iterate(gan, monitor, [Measure.NOTHING, Measure.PROBES, Measure.NOTHING])
        assert {lies_on(tensor) for tensor in [*state_of(gan), *values.values()]} == {GPU}
    # One copy an iteration takes all that comes from the host; nothing waits, and the GPU draws nothing.
    assert [event.kind for event in events] == ["upload-async"] * 3, "\n".join(map(str, events))
    assert [str(event) for event in building if event.kind == "random"] == []
    return values | {f"state {number}": tensor for number, tensor in enumerate(state_of(gan))}


@pytest.fixture
def computed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed in another way because of what device computes it."""

    def by_cholesky(matrices: Tensor, identity: Tensor) -> Tensor:
        lower, _ = torch.linalg.cholesky_ex(matrices)
        return torch.linalg.solve_triangular(lower, identity, upper=False)

    monkeypatch.setattr(convolutions, "_is_faster_by_product", lambda *_, **__: False)
    monkeypatch.setattr(power_iteration, "eliminated", by_cholesky)


@pytest.mark.usefixtures("computed_alike")
@pytest.mark.parametrize("choices", CHOICES)
def test_iterations_are_those_of_the_cpu_and_never_wait(tiny: list[str], choices: str) -> None:
    overrides = [*tiny, *choices.split()]
    gan, monitor = gan_of(overrides, "cpu")
    expected = iterate(gan, monitor, [Measure.NOTHING, Measure.PROBES, Measure.NOTHING])
    expected |= {f"state {number}": tensor for number, tensor in enumerate(state_of(gan))}
    found = check(overrides)
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


@pytest.mark.usefixtures("computed_alike")
def test_learning_rates_that_decay_are_the_cpu_s_to_rounding(tiny: list[str]) -> None:
    """On a GPU they are float32 tensors, so that a graph can read them."""
    overrides = [*tiny, "norm=ssn", "optimizer.decay=linear", "train.iterations=5"]
    expected = iterate(*gan_of(overrides, "cpu"), [Measure.NOTHING] * 3)
    found = check(overrides)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name


@pytest.mark.usefixtures("computed_alike")
@pytest.mark.parametrize("norm", ["bssn", "strict_sn"])
def test_an_audit_is_that_of_the_cpu(tiny: list[str], norm: str) -> None:
    rows = []
    for device in ("cpu", "cuda"):
        with PretendedGpu() if device == "cuda" else contextlib.nullcontext():
            gan, monitor = gan_of([*tiny, f"norm={norm}"], device)
            values = iterate(gan, monitor, [Measure.AUDIT])
            rows.append({name: value.item() for name, value in values.items()})
    # A copy may lie otherwise in memory, and be summed in another order.
    assert rows[1] == pytest.approx(rows[0], rel=1e-12)
    assert any(name.startswith("grad_bound/") for name in rows[0])


def test_a_training_state_comes_back_to_the_gpu(gpu: PretendedGpu, tiny: list[str], tmp_path: Path) -> None:
    overrides = [*tiny, "norm=bssn", "norm.gamma=per_layer", "train.ema=0.9", "optimizer.decay=linear"]
    (gan, _), (again, _) = gan_of(overrides), gan_of(overrides)
    gan.update(gan.draw(1))
    checkpoint.save(tmp_path, 1, {**gan.state_dict(), "record_length": 0}, keep_every=10)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    again.load_state_dict(state)
    for one in (gan, again):
        one.update(one.draw(2), Measure.PROBES)
    assert {lies_on(tensor) for tensor in state_of(again)} == {GPU}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state_of(gan), state_of(again), strict=True))


@pytest.mark.usefixtures("computed_alike")
def test_a_run_and_its_metrics_are_those_of_the_cpu(
    tiny: list[str], tmp_path: Path, recorded: Callable[[Path], Any]
) -> None:
    """From its start over an interruption to its end, and judged again afterwards."""
    choices = [
        *("norm=bssn", "train.ema=0.9", "metrics=digits", "train.sample_every=8"),
        *("train.iterations=16", "train.evaluate_every=10", "train.checkpoint_every=8"),
        *("metrics.digits.measure=[fid,is,kid,prc]", "metrics.digits.kid_subset_size=20"),
        "metrics.digits.gpu_batch_size=250",  # as on the CPU: of others figures are the same to rounding
    ]
    rows, judged = [], []
    for device in ("cpu", "cuda"):
        overrides = [*tiny, *choices, f"device={device}", f"paths.outputs={tmp_path}/{device}"]
        with PretendedGpu() if device == "cuda" else contextlib.nullcontext():
            assert run(compose([*overrides, "train.iterations=10"])).exit_status == 0
            assert run(compose(overrides)).exit_status == 0  # resumes
            (record,) = (tmp_path / device).glob("**/metrics.jsonl")
            data = next(one for one in tiny if one.startswith("paths.data="))
            judged.append(judge(record.parent, overrides=[f"device={device}", data]).values)
        rows.append(recorded(record.parent))
    assert json.dumps(rows[0]) == json.dumps(rows[1])
    assert judged[0] == judged[1]
    assert "metric/precision_digits_300_10k" in judged[0]


@pytest.mark.parametrize("number_of_real", [40, 30])
def test_judging_a_batch_never_waits(gpu: PretendedGpu, tmp_path: Path, number_of_real: int) -> None:
    """Not for the masks that say which images are for which metric, nor for real images of the host's."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).to("cuda")

    class Judge(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            found = self.network(images.float())
            return found, found

    pixels = torch.randint(0, 256, (40, 3, 2, 2), dtype=torch.uint8)
    place = torch.randperm(40)
    extractor = Extractor(Judge(), {}, "_test")
    with gpu.watching() as events:
        gathered = gather(
            extractor,
            lambda a, b: pixels[a:b],
            place < number_of_real,
            place < 20,
            keep_logits=True,
            batch_size=8,
        )
    assert {event.kind for event in events} == {"upload-async"}
    assert lies_on(gathered.features) == lies_on(gathered.logits) == GPU
    expected = (pixels.flatten(1).float() @ network[1].weight.cpu().T + network[1].bias.cpu())[place < 20]
    assert torch.allclose(gathered.features.cpu(), expected.detach(), rtol=1e-5, atol=1e-3)
    assert gathered.moments.statistics()["mu"].shape == (5,)


# --- faults of which each is one that somebody could write


def _host_eye(products: Tensor) -> Tensor:
    lower, _ = torch.linalg.cholesky_ex(products + torch.eye(products.shape[1]))
    return torch.linalg.solve_triangular(lower, torch.eye(products.shape[1]), upper=False)


def _not_uploaded(tensors: Sequence[Tensor | None], device: torch.device) -> Upload:
    there = device_module.prepare_upload(tensors, device)()
    pairs = zip(tensors, there, strict=True)
    uploaded = [one if one is None or one.dtype == torch.float32 else other for one, other in pairs]
    return lambda: uploaded


def _unpinned(tensors: Sequence[Tensor | None], device: torch.device) -> Upload:
    return lambda: [None if t is None else t.to(device, non_blocking=True) for t in tensors]


def _one_by_one(tensors: Sequence[Tensor | None], device: torch.device) -> Upload:
    return lambda: [None if t is None else upload(t, device) for t in tensors]


def _after(function: Callable[..., Any], then: Callable[[Any], Any]) -> Callable[..., Any]:
    """`function`, and then something more with what it returns."""

    def call(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        then(result)
        return result

    return call


def _by_way_of_the_host(self: ExponentialMovingAverage) -> None:
    for ours, theirs in zip(self._averages, self._averaged, strict=True):
        ours.copy_(self.decay * ours.cpu() + (1 - self.decay) * theirs.detach().cpu())


def _scores_above(self: Hinge, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(1 - real).mean(), (1 + fake[fake > -1]).sum() / len(fake)


def _of_the_gpu_s_own(self: GradientPenalty, score: Any, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    return score(torch.lerp(real, fake, torch.rand_like(mix))).square().mean()


def _plain_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    count = len(gradients)
    of_weights = [gradient * torch.full(gradient.shape, 2.0) for gradient in gradients]
    return None, *[None] * count, *of_weights


def _rows_from_numpy(self: Batches, drawn: Tensor) -> Tensor:
    return to_unit_range(self._resident[drawn.numpy()])


def _host_target(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda network: {name: value / torch.ones(1) for name, value in function(network).items()}


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "eye without a device": (power_iteration, "_orthonormal", _host_eye),
    "latents left on the host": (gan_module, "prepare_upload", _not_uploaded),
    "inputs that are not pinned": (gan_module, "prepare_upload", _unpinned),
    "a copy for each input": (gan_module, "prepare_upload", _one_by_one),
    "an item in a step": (
        Gan, "discriminator_step", _after(Gan.discriminator_step, lambda values: values["loss/d"].item())
    ),
    "a number of a probe": (
        probes, "gradient_norms", _after(probes.gradient_norms, lambda values: [*map(float, values.values())])
    ),
    "an array of a probe": (
        probes, "sigmas", _after(probes.sigmas, lambda values: [one.numpy() for one in values.values()])
    ),
    "targets on the host": (probes, "weight_variances", _host_target(probes.weight_variances)),
    "a mask in a loss": (Hinge, "discriminator", _scores_above),
    "a condition in the monitor": (
        DivergenceMonitor, "see", lambda self, values: bool(values["loss/d"].isfinite())
    ),
    "an average by way of the host": (ExponentialMovingAverage, "update", _by_way_of_the_host),
    "a mix of the GPU's own": (GradientPenalty, "__call__", _of_the_gpu_s_own),
    "the host in a backward pass": (_Scaled, "backward", staticmethod(_plain_backward)),
    "rows by NumPy": (Batches, "images", _rows_from_numpy),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(tiny: list[str], fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same check as above."""
    overrides = [*tiny, "norm=sn", "train.ema=0.9", "penalty=gradient_penalty"]
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises((RefusedError, AssertionError)):
        check(overrides)


def test_without_a_fault_nothing_is_caught(tiny: list[str]) -> None:
    check([*tiny, "norm=sn", "train.ema=0.9", "penalty=gradient_penalty"])
