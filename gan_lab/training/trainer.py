"""The trainer: discriminator updates, a generator update, and what is recorded in between."""

import contextlib
import copy
import logging
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from gan_lab import norms, probes
from gan_lab.data import Batches
from gan_lab.distributed import collectives
from gan_lab.files import replacing
from gan_lab.norms.bounds import PatchNorms
from gan_lab.rng import stream
from gan_lab.runs import checkpoint
from gan_lab.training.divergence import Diverged, Watch, is_finite, problem, tracing
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.forward import IN_FULL_PRECISION, Execution, Forward
from gan_lab.training.samples import generate, write_grid

log = logging.getLogger(__name__)

GRID, ROW = 100, 10  # samples in a grid, 10×10


class Loss(Protocol):
    """A GAN loss, see `gan_lab.losses`."""

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]: ...

    def generator(self, fake: Tensor) -> Tensor: ...


class Penalty(Protocol):
    """A term of the discriminator's loss that sees the discriminator itself, see `gan_lab.penalties`."""

    def __call__(
        self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, rng: torch.Generator
    ) -> Tensor: ...


class Sink(Protocol):
    """Where a run's records go, see `gan_lab.tracking`."""

    def log(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def log_samples(self, iteration: int, grid: Path) -> None: ...


class Interrupted(Exception):
    """Somebody asked the run to stop; it can be resumed from the checkpoint that was written."""


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how many iterations lie between what; 0 means never where that makes sense."""

    iterations: int
    n_dis: int  # discriminator updates in one iteration
    log_every: int
    probe_every: int
    audit_every: int
    sample_every: int
    evaluate_every: int  # and at the end
    checkpoint_every: int  # and at the end
    keep_every: int
    max_score: float  # losses and mean scores beyond it count as divergence
    stop_on_divergence: bool


class Trainer:
    """Trains a generator `[B, latent_dim] -> [B, 3, H, W]` against a discriminator `[B, 3, H, W] -> [B]`.

    Everything random is a function of (seed, iteration), so a resumed run continues bit for bit.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        penalty: Penalty | None,
        g_optimizer: torch.optim.Optimizer,
        d_optimizer: torch.optim.Optimizer,
        decays: Mapping[str, LRScheduler],
        ema: ExponentialMovingAverage | None,
        batches: Batches,
        g_batch_size: int,
        latent_dim: int,
        seed: int,
        schedule: Schedule,
        sink: Sink,
        evaluate: Callable[[Callable[[int, int], Tensor]], dict[str, float]] | None,
        samples: Path,
        checkpoints: Path,
        record_length: Callable[[], int],
        stop_requested: Callable[[], str | None],
        execution: Execution = IN_FULL_PRECISION,
        concatenate_real_and_fake: bool = False,
    ) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.penalty = penalty
        self.g_optimizer = g_optimizer
        self.d_optimizer = d_optimizer
        self.decays = decays  # of the learning rates, one step an iteration; by their names in checkpoints
        self.ema = ema
        self.judged = ema.network if ema else generator  # what is sampled, judged and written in the end
        self.batches = batches
        self.g_batch_size = g_batch_size
        self.latent_dim = latent_dim
        self.seed = seed
        self.schedule = schedule
        self.sink = sink
        self.evaluate = evaluate
        self.samples = samples
        self.checkpoints = checkpoints
        self.record_length = record_length
        self.stop_requested = stop_requested
        self.device = batches.device
        self._make_images = Forward(generator, self.device, execution)
        self._score = Forward(discriminator, self.device, execution)
        self.concatenate_real_and_fake = (
            concatenate_real_and_fake  # real and generated images, through D: see `scores_are_per_sample`
        )
        self.iteration = 0  # finished so far
        self.bad_since: int | None = None  # where divergence was noticed, if training goes on all the same
        self._unrecorded: dict[str, float] | None = (
            None  # the row of an iteration whose metrics were cut short
        )
        self._discriminator_parameters = [p for p in discriminator.parameters() if p.requires_grad]

    def train(self) -> None:
        """Run to the end of the schedule. Raises Interrupted or Diverged, with a checkpoint written."""
        schedule = self.schedule
        clock = Clock(
            self.device, self.iteration, images_per_iteration=schedule.n_dis * self.batches.batch_size
        )
        watch, sound = Watch(schedule.max_score, self.device), self._to_go_back_to()
        if self._unrecorded is not None:  # stopped within an iteration's record
            self._record(self.iteration, self._unrecorded)
        while self.iteration < schedule.iterations:
            iteration = self.iteration + 1
            audit = _due(iteration, schedule.audit_every)
            measure = audit or _due(iteration, schedule.probe_every)
            values = self.iterate(iteration, measure, audit)
            watch.see({name: values[name] for name in values if name.startswith(("loss/", "score/"))})

            is_logged = measure or _due(iteration, schedule.log_every)
            row = _to_floats(values) if is_logged else {}
            if is_logged:
                row |= clock.lap(iteration)
            if not (is_logged or self._is_recorded(iteration) or self.stop_requested()):
                continue
            with clock.paused():
                if watch.is_fine(self.generator, self.discriminator):
                    sound.clear()  # two of them would be the most that memory ever holds
                    sound = self._to_go_back_to()
                elif schedule.stop_on_divergence:
                    raise self._diverged(sound)
                elif self.bad_since is None:
                    self.bad_since = iteration
                    log.warning("diverged by iteration %d, and goes on all the same", iteration)
                self._record(iteration, row)

    def iterate(self, iteration: int, measure: bool = False, audit: bool = False) -> dict[str, Tensor]:
        """One iteration: the discriminator's updates, then the generator's; returns the last ones' values."""
        for step in range(self.schedule.n_dis):
            is_last = step == self.schedule.n_dis - 1
            values = self.discriminator_step(iteration, step, measure and is_last, audit and is_last)
        values |= self.generator_step(iteration, measure)
        for decay in self.decays.values():
            decay.step()
        self.iteration = iteration
        return values

    def _is_recorded(self, iteration: int) -> bool:
        """Whether more than a line of the log is due: metrics, samples or a checkpoint."""
        schedule = self.schedule
        intervals = (schedule.evaluate_every, schedule.sample_every, schedule.checkpoint_every)
        return iteration == schedule.iterations or any(_due(iteration, every) for every in intervals)

    def _record(self, iteration: int, row: dict[str, float]) -> None:
        """Everything between two iterations: metrics, the log, samples, checkpoints, and whether to stop."""
        schedule, is_last = self.schedule, iteration == self.schedule.iterations
        try:
            if self.evaluate and (_due(iteration, schedule.evaluate_every) or is_last):
                row = row | self.evaluate(self._generate_unless_stopped)
        except Interrupted:
            self.save_checkpoint(unrecorded=row)
            raise
        self._unrecorded = None
        collectives.on_rank_zero(lambda: self._log(iteration, row))()
        stop = self.stop_requested()
        if _due(iteration, schedule.checkpoint_every) or is_last or stop:
            self.save_checkpoint()
        if stop and not is_last:
            raise Interrupted(f"stopped by {stop} after iteration {iteration}")

    def _log(self, iteration: int, row: dict[str, float]) -> None:
        schedule = self.schedule
        if row:
            self.sink.log(iteration, row)
        if _due(iteration, schedule.sample_every) or iteration == schedule.iterations:
            self.sink.log_samples(iteration, self.write_samples())

    def _generate_unless_stopped(self, start: int, stop: int) -> Tensor:
        """Images for the metrics, which can take minutes: a request to stop does not wait for them."""
        if signal := self.stop_requested():
            raise Interrupted(f"stopped by {signal} in the metrics of iteration {self.iteration}")
        return self.generate(start, stop)

    def _to_go_back_to(self) -> dict[str, Any]:
        """A sound state, where divergence ends the training."""
        return self._snapshot() if self.schedule.stop_on_divergence else {}

    def _snapshot(self) -> dict[str, Any]:
        """A copy of the training state."""
        state = {name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()}
        return {**state, "iteration": self.iteration}

    def _diverged(self, sound: Mapping[str, Any]) -> Diverged:
        """Repeat the iterations since the last sound state to find the first bad one, and go back before it.

        Repeating gives the same bits, so that every iteration need not be looked at while all is well.
        """
        last, bound = self.iteration, self.schedule.max_score
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.load_checkpoint(sound)
        while self.iteration < last:
            before = self._snapshot()
            iteration = self.iteration + 1
            with tracing(networks) as culprit:
                values = self.iterate(iteration)
                bad = problem(values, self.generator, self.discriminator, bound)
                if bad is None:
                    continue
                quantity, value, layer = bad
                layer = layer or culprit()
            self.load_checkpoint(before)
            self.save_checkpoint()
            return Diverged(iteration, quantity, value, layer, bound)
        return Diverged(last, "a loss, a score or a weight (but not when repeated)", math.nan, "", bound)

    def discriminator_step(
        self, iteration: int, step: int, measure: bool = False, audit: bool = False
    ) -> dict[str, Tensor]:
        """One discriminator update; returns its losses and scores.

        With `measure` also what the probes see, with `audit` exact singular values and gradient bounds.
        """
        audit = audit and is_finite(self.discriminator)  # NaN has no singular values
        real = self.batches.draw(iteration, step)
        with torch.no_grad(), norms.frozen(self.generator):
            fake = self._make_images(self._latents(iteration, step, self.batches.batch_size))
        real.requires_grad_(measure)
        fake.requires_grad_(measure)
        patches = PatchNorms(self.discriminator if audit else None)
        with (
            norms.cached_weights(self.discriminator),
        ):  # one normalization for all passes
            with patches:
                batches = [torch.cat([real, fake])] if self.concatenate_real_and_fake else [real, fake]
                scores = [self._score(batch) for batch in batches]
            penalty = self._penalty(real, fake, iteration, step)
        real_scores, fake_scores = torch.cat(scores).chunk(2)
        loss_real, loss_fake = self.loss.discriminator(real_scores, fake_scores)
        loss = loss_real + loss_fake + sum(penalty.values())
        values = {
            "loss/d": loss,
            "loss/d_real": loss_real,
            "loss/d_fake": loss_fake,
            "score/real": real_scores.mean(),
            "score/fake": fake_scores.mean(),
            **penalty,
        }
        measured: dict[str, Tensor] = {}
        if measure:
            measured |= probes.slopes(real_scores, real, "real") | probes.slopes(fake_scores, fake, "fake")
        if audit:
            score_gradients = None  # a penalty's share of the gradient has no bound
            if self.penalty is None:
                score_gradients = torch.autograd.grad(loss, scores, retain_graph=True)
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        values = collectives.average(values, self.discriminator)
        if measure:
            with norms.frozen(self.discriminator):
                measured |= probes.gradient_norms(self.discriminator, "d")
                measured |= probes.weight_variances(self.discriminator)
                measured |= probes.sigmas(self.discriminator)
        if audit:
            measured |= probes.audited(self.discriminator, real[:1].detach(), patches, score_gradients)
        self.d_optimizer.step()
        return {name: value.detach() for name, value in (values | measured).items()}

    def _penalty(self, real: Tensor, fake: Tensor, iteration: int, step: int) -> dict[str, Tensor]:
        if self.penalty is None:
            return {}
        rng = stream(self.seed, "penalty", iteration, step, device=self.device)
        return {"loss/penalty": self.penalty(self._score.uncompiled, real, fake, rng)}

    def generator_step(self, iteration: int, measure: bool) -> dict[str, Tensor]:
        """One generator update; the discriminator's weights get no gradient, its norms do not move."""
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(False)
        with (
            norms.cached_weights(self.discriminator, update=False),
            norms.cached_weights(self.generator),
        ):
            latents = self._latents(iteration, self.schedule.n_dis, self.g_batch_size)
            scores = self._score(self._make_images(latents))
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(True)
        loss = self.loss.generator(scores)
        self.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        values = collectives.average({"loss/g": loss}, self.generator)
        if measure:
            values |= probes.gradient_norms(self.generator, "g")
            with norms.frozen(self.generator):
                values |= probes.sigmas(self.generator, prefix="g.")
        self.g_optimizer.step()
        if self.ema:
            self.ema.update(self.generator)
        return {name: value.detach() for name, value in values.items()}

    def generate(self, start: int, stop: int, purpose: str = "evaluation") -> Tensor:
        """The images with these numbers, uint8 `[stop - start, 3, H, W]`, always from the same latents.

        The generator runs in eval mode; its state and the training's streams are as before.
        """
        return generate(self.judged, self.latent_dim, self.seed, purpose, start, stop)

    def write_samples(self) -> Path:
        """Write the grid from the fixed latents; returns its path."""
        # Row by row: all at once would need more memory than a training step.
        rows = [self.generate(start, start + ROW, purpose="samples") for start in range(0, GRID, ROW)]
        return write_grid(self.samples / f"{self.iteration:08d}.png", torch.cat(rows))

    def _latents(self, iteration: int, step: int, count: int) -> Tensor:
        """This rank's share of the latents of one update, `[count, latent_dim]` from N(0, 1)."""
        rng = stream(self.seed, "latents", iteration, step, device=self.device)
        return collectives.local_shard(torch.randn(count, self.latent_dim, generator=rng, device=self.device))

    def write_generator(self, path: Path) -> None:
        """Write the generator's weights as safetensors."""
        # Copies, because safetensors refuses what layers share, such as one γ.
        tensors = {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in self.judged.state_dict().items()
        }
        with replacing(path) as temporary:
            temporary.write_bytes(to_safetensors(tensors))  # its own writer raises no OSError on a full disk

    def save_checkpoint(self, unrecorded: Mapping[str, float] | None = None) -> None:
        """Write the state after this iteration; `unrecorded` is its row if that still has to be recorded."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        state["record_length"] = collectives.on_rank_zero(self.record_length)()
        state["unrecorded"] = None if unrecorded is None else dict(unrecorded)
        keep_every = self.schedule.keep_every
        collectives.on_rank_zero(
            lambda: checkpoint.save(self.checkpoints, self.iteration, state, keep_every)
        )()

    def load_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state; raises RuntimeError or KeyError if it is of other networks."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.iteration = state["iteration"]
        self._unrecorded = state.get("unrecorded")

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
            **self.decays,
            **({"ema": self.ema} if self.ema else {}),
        }


class Clock:
    """Times iterations, without what lies between them."""

    def __init__(self, device: torch.device, iteration: int, images_per_iteration: int) -> None:
        self._device = device
        self._images = images_per_iteration
        self._iteration = iteration
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._start += time.perf_counter() - begin

    def lap(self, iteration: int) -> dict[str, float]:
        """Speed since the last lap (real images through the discriminator in a second), and peak memory."""
        now = time.perf_counter()
        seconds = (now - self._start) / (iteration - self._iteration)
        self._start, self._iteration = now, iteration
        return {
            "speed/step_ms": 1000 * seconds,
            "speed/images_per_s": self._images / seconds,
            "memory/peak_mb": _peak_memory(self._device) / 2**20,
        }


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def _due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0


def _to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars to the host in one transfer."""
    stacked = torch.stack([value.float().reshape(()) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))
