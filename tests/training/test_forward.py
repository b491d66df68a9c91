"""Half precision and compiled passes: what stays exact under them, and what a step asks of the device."""

import copy
import functools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from gan_lab import build, norms
from gan_lab.archs.convolutions import Conv2d, ConvTranspose2d
from gan_lab.config import compose, load
from gan_lab.training.divergence import trace_layers
from gan_lab.training.forward import Execution, Forward
from gan_lab.training.gan import Gan, Measure

CPU = torch.device("cpu")


def built(overrides: list[str]) -> Gan:
    config = load(compose(overrides))
    return build.build_gan(config, build.load_images(config), CPU)


# --- half precision


def test_convolutions_are_in_half_precision_and_all_that_is_kept_is_not(tiny: list[str]) -> None:
    gan = built([*tiny, "train.precision=bf16", "norm=bssn", "norm.gamma=per_layer"])
    types: dict[str, set[torch.dtype]] = {"layers": set(), "sigmas": set()}

    def note(watched: nn.Module, layer: nn.Module, _: object, output: torch.Tensor) -> None:
        if layer is watched and layer.training:  # an audit's own passes are of a copy, or in eval mode
            types["layers"].add(output.dtype)

    for module in [*gan.generator.modules(), *gan.discriminator.modules()]:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.register_forward_hook(functools.partial(note, module))
        if hasattr(module, "power_iterate"):
            module.register_forward_hook(lambda _, inputs, output: types["sigmas"].add(output.dtype))
    values = gan.update(gan.draw(1), Measure.AUDIT)
    assert types == {"layers": {torch.bfloat16}, "sigmas": {torch.float32}}
    kept = [*gan.generator.state_dict().values(), *gan.discriminator.state_dict().values()]
    kept += [parameter.grad for parameter in gan.discriminator.parameters() if parameter.grad is not None]
    for optimizer in (gan.g_optimizer, gan.d_optimizer):
        kept += [value for state in optimizer.state.values() for value in state.values()]
    kept += [value for name, value in values.items() if name.startswith(("loss/", "score/", "sigma/"))]
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("choice", ["norm=sn", "norm=strict_sn", "loss=wgan_gp"])
def test_half_precision_changes_losses_and_gradients_by_its_rounding_only(
    tiny: list[str], choice: str
) -> None:
    gans = [built([*tiny, choice, f"train.precision={kind}"]) for kind in ("fp32", "bf16")]
    full, half = (
        {name: value.item() for name, value in gan.update(gan.draw(1), Measure.PROBES).items()}
        for gan in gans
    )
    assert full.keys() == half.keys()
    for name, value in full.items():
        is_of_the_weights = name.startswith(("sigma", "weight_var"))  # before the first update
        assert half[name] == pytest.approx(value, rel=1e-6 if is_of_the_weights else 0.1, abs=2e-3), name
    for ours, theirs in zip(*(gan.discriminator.parameters() for gan in gans), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= 0.3 * ours.grad.norm()
    assert not torch.equal(*(gan.discriminator.conv3.bias.grad for gan in gans))


class Doubled(nn.Linear):
    """A layer that computes with its weight by itself."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, 2 * self.weight, self.bias)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def scorer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    last = Doubled(6 * 4 * 4, 1) if kind == "its own arithmetic" else nn.Linear(6 * 4 * 4, 1)
    net = nn.Sequential(
        *(Conv2d(3, 4, 4, stride=2, padding=1), nn.LeakyReLU(0.1), ConvTranspose2d(4, 5, 4, 2, 1)),
        *(nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3, 2, 1, bias=False), nn.Flatten(), last, nn.Flatten(0)),
    )
    if kind != "no norm":
        norms.normalize(net, norms.SigmaOut, gamma="per_layer")
    if kind == "another parametrization":
        parametrize.register_parametrization(net[4], "weight", Halved())
    return net.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["no norm", "a norm", "its own arithmetic", "another parametrization"])
def test_weights_cast_together_leave_the_bits_of_autocast(kind: str) -> None:
    """Scores and gradients of two passes, one of which is differentiated twice."""
    net, twin = scorer(kind), scorer(kind)
    ours = Forward(net, CPU, Execution("bf16"))

    def theirs(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return twin(batch).float()

    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for network, score in ((net, ours), (twin, theirs)):
        before = dict(network.named_parameters())
        with norms.cached_weights(network):
            scores = score(images)
            (slopes,) = torch.autograd.grad(score(images).sum(), images, create_graph=True)
        (scores.square().sum() + slopes.square().sum()).backward()
        assert all(one is before[name] for name, one in network.named_parameters())
    assert torch.equal(ours(images), theirs(images))
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_an_error_in_a_pass_leaves_the_weights_as_they_were() -> None:
    net = scorer("a norm")
    before = dict(net.named_parameters())
    with norms.cached_weights(net), pytest.raises(RuntimeError, match="mat1 and mat2"):
        Forward(net, CPU, Execution("bf16"))(torch.zeros(2, 3, 16, 16))
    assert all(one is before[name] for name, one in net.named_parameters())
    assert net[0].weight.dtype == torch.float32


# --- compiled


def test_a_penalty_is_differentiated_twice_beside_compiled_passes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0))
    forward = Forward(network, CPU, Execution("fp32", compile=True))
    images = torch.randn(2, 3, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(forward.uncompiled(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    weight = network[1].weight
    torch.testing.assert_close(weight.grad, 4 * weight.detach())  # ∇_w of 2‖w‖²


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passes are captured as always, and what is captured runs as it is, without a compiler's minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("first", [Measure.NOTHING, Measure.AUDIT])
def test_compiled_passes_can_be_audited_at_any_time(tiny: list[str], first: Measure) -> None:
    """With the bounds of passes that are not, first or later; and audits leave training as it is."""
    overrides = [*tiny, "norm=sn"]
    audited, unaudited = (built([*overrides, "train.compile=true"]) for _ in range(2))
    plain = built(overrides)
    for measure in (first, Measure.PROBES, Measure.AUDIT, Measure.NOTHING):
        inputs = plain.draw(plain.iteration + 1)
        values, expected = audited.update(inputs, measure), plain.update(inputs, measure)
        unaudited.update(inputs)
        assert values.keys() == expected.keys()
        assert any(name.startswith("grad_bound/") for name in values) == (measure == Measure.AUDIT)
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4)
    for one, other in zip(
        audited.discriminator.parameters(), unaudited.discriminator.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.usefixtures("compiling")
def test_the_layer_where_a_compiled_pass_diverges_is_named(tiny: list[str]) -> None:
    gan = built([*tiny, "norm=none", "train.compile=true"])
    gan.update(gan.draw(1))
    with torch.no_grad():
        gan.discriminator.conv3.bias[0] = math.nan
    with trace_layers({"generator": gan.generator, "discriminator": gan.discriminator}) as layer:
        gan.update(gan.draw(2))
    assert layer() == "discriminator.conv3"


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.usefixtures("compiling")
def test_a_hook_that_is_added_and_removed_is_called_once_a_pass_meanwhile() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    forward, twin = Forward(network, CPU, Execution("fp32", compile=True)), copy.deepcopy(network)
    seen: list[Tensor] = []
    for number in range(6):
        handle = network[1].register_forward_hook(lambda *seen_by: seen.append(seen_by[-1]))
        batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        if number % 2:
            handle.remove()
        torch.testing.assert_close(forward(batch), twin(batch))
        handle.remove()
    assert len(seen) == 3
    assert network[0].num_batches_tracked == 6
    torch.testing.assert_close(dict(network.state_dict()), dict(twin.state_dict()))


# --- the host never waits


class HostReads(TorchDispatchMode):
    """Counts the operations by which a host waits for a device: reading a value, or how many there are."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self.WAITS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "choices",
    [
        ["norm=none"],
        ["norm=sn", "train.precision=bf16"],
        ["norm=bssn", "norm.gamma=per_layer", "norm.target=both"],
        ["norm=strict_sn", "loss=wgan_gp", "optimizer=adam_ndis5", "train.ema=0.9"],
        ["norm=ssn", "penalty=r1", "loss=nonsaturating", "optimizer.decay=linear"],
        ["arch=resnet", "arch.width=0.01", "norm=bsn"],
        ["norm=gradient_normalization", "optimizer=adam_ndis5"],
        ["norm=batch_norm"],
        ["norm=none", "loss=relativistic", "penalty=r1_r2"],
        ["norm=sn", "penalty=dragan"],
        ["norm=sn", "penalty=orthogonal", "augment=diffaugment"],
    ],
    ids=" ".join,
)
def test_no_step_reads_a_value_from_the_device(tiny: list[str], choices: list[str]) -> None:
    """Not even one that measures; the first, in which optimizers and caches are made, is not counted."""
    gan = built([*tiny, *choices])
    gan.update(gan.draw(1), Measure.PROBES)
    with HostReads() as reads:
        gan.update(gan.draw(2))
        gan.update(gan.draw(3), Measure.PROBES)
    assert reads.seen == []


def test_a_value_that_is_read_is_counted() -> None:
    with HostReads() as reads:
        assert float(Tensor([2.0]).sum()) == 2
    assert reads.seen == ["_local_scalar_dense"]
