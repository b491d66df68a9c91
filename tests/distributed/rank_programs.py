"""What each of two ranks does in the tests: `torchrun rank_programs.py <program> <folder> <overrides>`."""

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gan_lab.run
from gan_lab.config import Config, compose
from gan_lab.data import write_array
from gan_lab.distributed import collectives, env
from gan_lab.distributed.batch_norm import synchronize
from gan_lab.errors import UserError
from gan_lab.losses import NonSaturating
from gan_lab.metrics import Evaluator, Protocol
from gan_lab.metrics.extractors import Extractor
from gan_lab.run import run
from gan_lab.training.gan import Gan

# --- what one process and two ranks must agree on


def normalized(shape: tuple[int, ...], momentum: float | None, affine: bool) -> dict[str, Tensor]:
    """Two batches through a batch norm, and the gradients: of the mean loss of the whole batch."""
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    norm: nn.Module = kind(shape[1], momentum=momentum, affine=affine).double()
    if env.world_size() > 1:
        synchronize(norm)
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x, weight = collectives.local_shard(whole).requires_grad_(), collectives.local_shard(weights)
    norm(2 * collectives.local_shard(whole))
    output = norm(x)
    loss = (output * weight).square().mean()
    loss.backward()
    values = collectives.average({"loss": loss}, norm)
    assert x.grad is not None
    return {
        "output": collectives.gather(output.detach()),
        "input gradient": collectives.gather(x.grad) / env.world_size(),
        "eval": norm.eval()(whole).detach(),
        **values,
        **{f"{name} gradient": p.grad for name, p in norm.named_parameters() if p.grad is not None},
        **norm.state_dict(),
    }


class ToyFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(images.float() / 255).relu().mean((2, 3))
        return features, features * 20


def judged(folder: Path, count: int) -> dict[str, float]:
    """All metrics of so many generated images, in batches of 16."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), np.uint8)
    real = collectives.rank_zero_first(lambda: write_array(folder / "real.npy", pixels, {}))()
    protocol = Protocol(count, is_splits=3, kid_subset_size=20, measure=("fid", "is", "kid", "prc"))
    extractor = Extractor(ToyFeatures().eval(), {"name": "toy"}, "", usual=count)
    evaluator = collectives.rank_zero_first(
        lambda: Evaluator(extractor, real, folder / "cache", protocol, 16)
    )()
    return evaluator.evaluate(made_images)


def made_images(start: int, stop: int) -> Tensor:
    rows = [np.random.default_rng(k).integers(0, 200, (3, 8, 8), np.uint8) for k in range(start, stop)]
    return torch.from_numpy(np.stack(rows))


# --- programs


def talk(folder: Path) -> None:
    """Each function of `distributed`, once."""
    with collectives.joined("cpu"):
        rank = env.rank()
        network = nn.Linear(2, 1)
        network.weight.grad = torch.full((1, 2), float(rank))
        values = {"a": torch.tensor(rank + 1.0), "b": torch.tensor(float("nan") if rank else 0.0)}
        averaged = collectives.average(values, network)
        batch = torch.arange(12.0).view(6, 2)
        errors = {
            "of the first": caught(lambda: collectives.on_rank_zero(lambda: refuse("first"))()),
            "of the second": caught(
                lambda: collectives.rank_zero_first(lambda: refuse("second") if rank else 1)()
            ),
            "a defect": caught(lambda: collectives.on_rank_zero(lambda: 1 / 0)()),
        }
        calls: list[tuple[int, int]] = []

        def rows(start: int, stop: int) -> tuple[Tensor, Tensor]:
            calls.append((start, stop))
            return torch.arange(start, stop), torch.arange(start, stop).view(-1, 1) * 1.5

        seen = {
            "share": collectives.local_shard(batch),
            "gathered": collectives.gather(collectives.local_shard(batch)),
            "averaged": averaged,
            "gradient": network.weight.grad,
            "bias": network.bias.grad,
            "largest": collectives.largest(rank * 7),
            "objects": collectives.gather_objects({"rank": rank}),
            "from first": collectives.on_rank_zero(lambda: f"rank {rank}")(),
            "shares": [collectives.in_shards(rows, 10, stop, 3) for stop in (16, 15, 13, 11)],
            "calls": calls,
            "errors": errors,
            "is first": env.is_rank_zero(),
            "normalized": [normalized(shape, momentum, affine) for shape, momentum, affine in SHAPES],
            "judged": [judged(folder, count) for count in (64, 70, 37)],
            "speaks": collectives.speaks(),
        }
    torch.save(seen, folder / f"seen-{rank}.pt")


SHAPES = [((8, 3, 4, 5), 0.1, True), ((6, 4), None, True), ((4, 2, 3, 3), 0.3, False)]


def refuse(who: str) -> Any:
    raise UserError(f"the {who} cannot")


def caught(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def train(folder: Path, overrides: list[str]) -> int:
    """Train, and leave all that a rank holds in the end."""
    with _left_in(folder):
        return run(compose(overrides)).exit_status


def everything(folder: Path, overrides: list[str]) -> int:
    """All that needs no disturbance, one after the other, for the sake of one start."""
    talk(folder)
    if failed := train(folder, [*overrides, *JUDGED]):
        return failed
    for name, chosen in IN_DOUBLE.items():
        (folder / name).mkdir(exist_ok=True)
        with in_double():
            if failed := train(folder / name, [*overrides, *chosen, f"paths.outputs={folder / name}"]):
                return failed
    return 0


JUDGED = ["metrics.digits.num_generated=90", "metrics.digits.batch_size=20"]
# In runs whose rounding errors grow to the size of their losses within 50 iterations.
_FAST = [
    *("optimizer.n_dis=2", "optimizer.g_lr=1e-4", "optimizer.d_lr=1e-4", "optimizer.decay=linear"),
    *("train.ema=0.9", "train.g_batch_size=8", "metrics=none", "probes.every=5", "probes.audit_every=0"),
]
_SHORT = [*_FAST, "train.iterations=6", "init=xavier"]
IN_DOUBLE = {
    "everything random": [
        *("norm=bssn", "norm.gamma=per_layer", "norm.target=both", "loss=wgan_gp", *_FAST),
        "train.iterations=25",
    ],
    "batch norm in D": ["norm=sn", "arch.discriminator_norm=batch", "augment=diffaugment", *_SHORT],
    "gradient normalization": ["norm=gradient_normalization", "loss=relativistic", *_SHORT],
    "DRAGAN": ["norm=layer_norm", "penalty=dragan", "penalty.every=2", *_SHORT],
}


def stop(folder: Path, overrides: list[str]) -> int:
    """Train until torchrun is told to stop, in iteration 5, by a rank that waits for the signal it sends."""

    def stop_torchrun() -> None:
        reader, writer = os.pipe()
        handler: Any = signal.getsignal(signal.SIGTERM)

        def tell(*arguments: Any) -> None:
            handler(*arguments)
            os.write(writer, b".")

        signal.signal(signal.SIGTERM, tell)
        os.kill(os.getppid(), signal.SIGTERM)
        os.read(reader, 1)

    _on_second_rank_in_iteration(5, stop_torchrun)
    return train(folder, overrides)


def fail(folder: Path, overrides: list[str]) -> int:
    """One rank has a defect of its own."""

    def defect() -> None:
        raise ZeroDivisionError("a defect of one rank")

    _on_second_rank_in_iteration(3, defect)
    return train(folder, overrides)


def _on_second_rank_in_iteration(number: int, action: Callable[[], None]) -> None:
    loss, iterations = NonSaturating.generator, itertools.count(1)

    def generator(self: NonSaturating, fake: Tensor) -> Tensor:
        if next(iterations) == number and env.rank() == 1:
            action()
        return loss(self, fake)

    NonSaturating.generator = generator  # type: ignore[method-assign]


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    as_float = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = as_float  # type: ignore[method-assign]


@contextlib.contextmanager
def _left_in(folder: Path) -> Iterator[None]:
    conclude = gan_lab.run._train

    def leaving(config: Config, gan: Gan, *arguments: Any) -> str:
        state = conclude(config, gan, *arguments)
        torch.save({"state": state, **gan.state_dict()}, folder / f"rank-{env.rank()}.pt")
        return state

    gan_lab.run._train = leaving
    try:
        yield
    finally:
        gan_lab.run._train = conclude


def leave(folder: Path, rest: list[str]) -> int:
    """Meet, make what imports much of PyTorch, part; the exit status is how many Gloo threads are left."""
    with collectives.joined("cpu"):
        torch.optim.SGD([nn.Parameter(torch.zeros(1))])
        assert gloo_threads() > 0
    return gloo_threads()


def gloo_threads() -> int:
    return sum("gloo" in name.read_text() for name in Path("/proc/self/task").glob("*/comm"))


PROGRAMS = {program.__name__: program for program in (everything, stop, fail, leave)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    name, where, *rest = sys.argv[1:]
    env.prepare(rest)
    status = PROGRAMS[name](Path(where), rest)
    Path(where, f"status-{env.rank()}").write_text(str(status))
    sys.exit(status)
