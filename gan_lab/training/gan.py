"""The two networks and everything that trains them: an iteration is `update(draw(iteration))`.

`draw` makes everything that is random and everything that comes from the host; `update` is a fixed sequence
of operations on these tensors. It draws nothing, reads no interval, signal or folder, and, unless it audits,
never makes the host wait for the device: so it can be recorded and replayed.
"""

import contextlib
import enum
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from gan_lab import norms, probes
from gan_lab.data import Batches
from gan_lab.device import Upload, prepare_upload
from gan_lab.distributed.collectives import average, local_shard
from gan_lab.norms.bounds import PatchNorms
from gan_lab.rng import stream
from gan_lab.training.ahead import Ahead
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.forward import IN_FULL_PRECISION, Execution, Forward, no_statistics
from gan_lab.training.memory import SideStream, load_optimizer, load_scheduler
from gan_lab.training.samples import generate


class Loss(Protocol):
    """A GAN loss, see `gan_lab.losses`."""

    discriminator: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | Tensor]
    generator: Callable[..., Tensor]


class Penalty(Protocol):
    """A term of the discriminator's loss that sees the discriminator itself, see `gan_lab.penalties`.

    It may have `of_weights` (true: it sees the network, not its scores) and `every` (iterations between its
    payments).
    """

    def draw(self, count: int, rng: torch.Generator) -> Tensor | None: ...

    def __call__(self, discriminator: Any, real: Tensor, fake: Tensor, noise: Tensor | None) -> Tensor: ...


class Augmentation(Protocol):
    """What every image passes through, in both updates, before the discriminator sees it.

    `draw(count, rng)` gives the random numbers for a batch, `[count, ...]` on the host; a call with images
    `[B, 3, H, W]` and their numbers returns images of that shape, differentiable in the images.
    """

    def draw(self, count: int, rng: torch.Generator) -> Tensor | None: ...

    def __call__(self, images: Tensor, numbers: Tensor | None) -> Tensor: ...


class Measure(enum.IntEnum):
    """What an iteration returns next to its losses and scores."""

    NOTHING = 0
    PROBES = 1  # what `gan_lab.probes` sees in the last discriminator update and in the generator's
    AUDIT = 2  # exact singular values and gradient bounds too, for which the host waits


@dataclass(frozen=True)
class UpdateInputs:
    """What one update needs that is random or comes from the host: this rank's shard, on the device."""

    latents: Tensor  # [B, latent_dim] from N(0, 1)
    real: Tensor | None  # [B, 3, H, W] in [-1, 1]; None in a generator's update that does not look at them
    labels: Tensor | None  # [B], the classes of real and generated images alike; None without classes
    penalty: Tensor | None  # the penalty's numbers
    augment_real: Tensor | None  # the augmentation's numbers, for real and for generated images
    augment_fake: Tensor | None
    is_penalized: bool = False  # a penalty that is not paid leaves out its operations: updates of two kinds

    def map(self, function: Callable[[Tensor], Tensor]) -> "UpdateInputs":
        """The same with `function` of each tensor."""
        changes: dict[str, Any] = {
            name: function(one) for name, one in vars(self).items() if isinstance(one, Tensor)
        }
        return replace(self, **changes)


TENSORS = tuple(one.name for one in fields(UpdateInputs) if one.name != "is_penalized")


@dataclass(frozen=True)
class IterationInputs:
    """The inputs of an iteration's discriminator updates and of its generator update."""

    discriminator: tuple[UpdateInputs, ...]
    generator: UpdateInputs

    def map(self, function: Callable[[Tensor], Tensor]) -> "IterationInputs":
        """The same with `function` of each tensor."""
        return IterationInputs(
            tuple(one.map(function) for one in self.discriminator), self.generator.map(function)
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        updates = (*self.discriminator, self.generator)
        return [one for update in updates for one in vars(update).values() if isinstance(one, Tensor)]

    @property
    def kind(self) -> Hashable:
        """Of two iterations with the same kind an update is the same operations."""
        updates = (*self.discriminator, self.generator)
        return tuple(
            (one.shape, one.dtype) if isinstance(one, Tensor) else one
            for update in updates
            for one in vars(update).values()
        )


@dataclass(eq=False)
class Gan:
    """A generator `[B, latent_dim] -> [B, 3, H, W]`, a discriminator `[B, 3, H, W] -> [B]`, their training.

    `batches` has a size for each discriminator update of an iteration, and one more, the generator's, if the
    loss's `generator_sees_real`. Where it has labels, both networks are called with them as a second
    argument. Everything random is a function of (seed, iteration), so a resumed run continues bit for bit.
    """

    generator: nn.Module
    discriminator: nn.Module
    loss: Loss
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer
    batches: Batches
    g_batch_size: int
    latent_dim: int
    seed: int
    n_dis: int = 1  # discriminator updates in one iteration
    penalty: Penalty | None = None
    augmentation: Augmentation | None = None
    lr_schedulers: Mapping[str, LRScheduler] = field(default_factory=dict)  # one step an iteration
    ema: ExponentialMovingAverage | None = None
    execution: Execution = IN_FULL_PRECISION
    concatenate_real_and_fake: bool = False  # in one pass through D, see `scores_are_per_sample`
    reuse_latents: bool = False  # the generator's update takes those of the last discriminator update
    bn_in_d_updates: bool = True  # the generator's batch norms keep statistics of these passes too
    iteration: int = 0  # finished so far

    def __post_init__(self) -> None:
        self.device = self.batches.device
        self._penalty_every = getattr(self.penalty, "every", 1)
        self.generator_sees_real = getattr(self.loss, "generator_sees_real", False)
        if len(self.batches.sizes) != self.n_dis + self.generator_sees_real:
            raise ValueError(f"{len(self.batches.sizes)} batches an iteration for {self.n_dis} updates of D")
        if self.reuse_latents and self.g_batch_size != self.batches.sizes[self.n_dis - 1]:
            raise ValueError("latents are reused in batches of one size")
        self.loads = 0  # of states, by which optimizers' memory becomes another
        self._side_stream = SideStream(self.device)  # for the norms' small operations next to a pass of G
        self._make_images = Forward(self.generator, self.device, self.execution)
        self._score = Forward(self.discriminator, self.device, self.execution)
        self._host_inputs = Ahead(self._draw_on_host)
        self._trained = [p for p in self.discriminator.parameters() if p.requires_grad]

    @property
    def eval_generator(self) -> nn.Module:
        """What is sampled, judged and kept: the moving average, where there is one."""
        return self.ema.network if self.ema else self.generator

    def draw(self, iteration: int) -> IterationInputs:
        """The inputs of an iteration, a function of (seed, iteration)."""
        tensors = iter(self._host_inputs(iteration)())
        updates = []
        for step in range(self.n_dis + 1):
            drawn: dict[str, Any] = dict(zip(TENSORS, tensors, strict=False))
            if drawn["real"] is not None:
                drawn["real"] = self.batches.images(drawn["real"])
            updates.append(UpdateInputs(**drawn, is_penalized=self._is_penalized(iteration, step)))
        *of_discriminator, of_generator = updates
        if self.reuse_latents:
            of_generator = replace(of_generator, latents=of_discriminator[-1].latents)
        return IterationInputs(tuple(of_discriminator), of_generator)

    def drawing_ahead(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block a thread draws the next iteration while one computes, where that saves time."""
        waits_for_host = self.device.type == "cuda" or not self.batches.are_resident
        return self._host_inputs.running() if waits_for_host else contextlib.nullcontext()

    def _draw_on_host(self, iteration: int) -> Upload:
        """The tensors of an iteration's `UpdateInputs`, one after the other, ready for the device.

        In the place of real images stands what `Batches.images` makes them of.
        """
        drawn = self.batches.read(iteration)
        if not self.generator_sees_real:
            drawn.append((None, self.batches.draw_labels(iteration, self.n_dis, self.g_batch_size)))
        sizes = [*self.batches.sizes[: self.n_dis], self.g_batch_size]
        tensors: list[Tensor | None] = []
        for step, (size, (real, labels)) in enumerate(zip(sizes, drawn, strict=True)):
            tensors += self._tensors(iteration, step, size, real, labels)
        return prepare_upload(tensors, self.device)

    def _is_penalized(self, iteration: int, step: int) -> bool:
        return self.penalty is not None and step < self.n_dis and iteration % self._penalty_every == 0

    def _tensors(
        self, iteration: int, step: int, count: int, real: Tensor | None, labels: Tensor | None
    ) -> list[Tensor | None]:
        """Those of one update's `UpdateInputs`, in its order, on the host."""

        def drawn(draw: Callable[[int, torch.Generator], Tensor | None], purpose: str) -> Tensor | None:
            numbers = draw(count, stream(self.seed, purpose, iteration, step))
            return None if numbers is None else local_shard(numbers)

        augment = self.augmentation.draw if self.augmentation else None
        penalty = self.penalty.draw if self.penalty and self._is_penalized(iteration, step) else None
        return [
            drawn(lambda count, rng: torch.randn(count, self.latent_dim, generator=rng), "latents"),
            real,
            labels,
            drawn(penalty, "penalty") if penalty else None,
            drawn(augment, "augmentation of real images") if augment else None,
            drawn(augment, "augmentation of generated images") if augment else None,
        ]

    def update(self, inputs: IterationInputs, measure: Measure = Measure.NOTHING) -> dict[str, Tensor]:
        """One iteration: the discriminator's updates, then the generator's; returns the last ones' values."""
        values = self.steps(inputs, measure)
        self.advance()
        return values

    def steps(self, inputs: IterationInputs, measure: Measure = Measure.NOTHING) -> dict[str, Tensor]:
        """What an iteration computes on the device."""
        *first, last = inputs.discriminator
        for one in first:
            self.discriminator_step(one)
        return self.discriminator_step(last, measure) | self.generator_step(inputs.generator, measure)

    def advance(self) -> None:
        """What an iteration changes on the host: learning rates, and how many there were."""
        for scheduler in self.lr_schedulers.values():
            scheduler.step()
        self.iteration += 1

    def discriminator_step(
        self, inputs: UpdateInputs, measure: Measure = Measure.NOTHING
    ) -> dict[str, Tensor]:
        """One discriminator update; returns its losses and scores, and what is to be measured."""
        # NaN has no singular values.
        audit = measure == Measure.AUDIT and probes.is_finite(self.discriminator)
        assert inputs.real is not None
        labels = () if inputs.labels is None else (inputs.labels,)
        statistics = contextlib.nullcontext() if self.bn_in_d_updates else no_statistics(self.generator)
        patches = PatchNorms(self.discriminator if audit else None)
        penalties: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack:
            with self._side_stream.fork():
                iterated = norms.iterate(self.discriminator)
            with torch.no_grad(), norms.cached_weights(self.generator, update=False), statistics:
                fake = self._make_images(inputs.latents, *labels)
            self._side_stream.join()
            # Once for all passes.
            stack.enter_context(norms.cached_weights(self.discriminator, iterated=iterated))
            # Detached, so that the inputs stay as they are where nothing augments them.
            real = self._augmented(inputs.real, inputs.augment_real).detach().requires_grad_(bool(measure))
            fake = self._augmented(fake, inputs.augment_fake).detach().requires_grad_(bool(measure))
            with patches:
                if self.concatenate_real_and_fake:
                    scores = [self._score(torch.cat([real, fake]), *(torch.cat([y, y]) for y in labels))]
                else:
                    scores = [self._score(images, *labels) for images in (real, fake)]
            if self.penalty is not None and inputs.is_penalized:
                seen: Any = self._score.uncompiled
                if getattr(self.penalty, "of_weights", False):
                    seen = self.discriminator
                elif labels:
                    seen = functools.partial(_with_labels, seen, labels)
                penalties = {"loss/penalty": self.penalty(seen, real, fake, inputs.penalty)}
        real_scores, fake_scores = (torch.cat(scores) if len(scores) > 1 else scores[0]).chunk(2)
        loss, terms = self.loss.discriminator(real_scores, fake_scores), {}
        if not isinstance(loss, Tensor):
            terms = dict(zip(("loss/d_real", "loss/d_fake"), loss, strict=True))
            loss = loss[0] + loss[1]
        for penalty in penalties.values():
            loss = loss + penalty
        values = {
            "loss/d": loss,
            **terms,
            "score/real": real_scores.mean(),
            "score/fake": fake_scores.mean(),
            **penalties,
        }
        measured: dict[str, Tensor] = {}
        if measure:
            measured |= probes.slopes(scores, {"real": real, "fake": fake})
        score_gradients = None  # a penalty's share of the gradient has no bound
        if audit and not penalties:
            score_gradients = torch.autograd.grad(loss, scores, retain_graph=True)
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        values = average(values, self.discriminator)
        if measure:
            with norms.frozen(self.discriminator):
                measured |= probes.gradient_norms(self.discriminator, "d")
                measured |= probes.weight_variances(self.discriminator)
                measured |= probes.sigmas(self.discriminator)
        if audit:
            image, of_image = real[:1].detach(), [y[:1] for y in labels]
            measured |= probes.audited(self.discriminator, image, patches, score_gradients, *of_image)
            measured |= probes.curvature(
                self.discriminator,
                lambda score: self._of_scores(score(real, *labels), score(fake, *labels)),
            )
        self.d_optimizer.step()
        norms.after_update(self.discriminator)
        return {name: value.detach() for name, value in (values | measured).items()}

    def generator_step(self, inputs: UpdateInputs, measure: Measure = Measure.NOTHING) -> dict[str, Tensor]:
        """One generator update; the discriminator's weights get no gradient, its norms do not move."""
        labels = () if inputs.labels is None else (inputs.labels,)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_without_gradient(self._trained))
            with self._side_stream.fork():
                iterated = norms.iterate(self.discriminator, update=False)
            stack.enter_context(norms.cached_weights(self.generator))
            fake = self._augmented(self._make_images(inputs.latents, *labels), inputs.augment_fake)
            self._side_stream.join()
            stack.enter_context(norms.cached_weights(self.discriminator, iterated=iterated))
            scores = [self._score(fake, *labels)]
            if inputs.real is not None:
                scores.append(self._score(self._augmented(inputs.real, inputs.augment_real), *labels))
        loss = self.loss.generator(*scores)
        self.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        values = average({"loss/g": loss}, self.generator)
        if measure:
            values |= probes.gradient_norms(self.generator, "g")
            with norms.frozen(self.generator):
                values |= probes.sigmas(self.generator, prefix="g.")
        self.g_optimizer.step()
        norms.after_update(self.generator)
        if self.ema:
            self.ema.update()
        return {name: value.detach() for name, value in values.items()}

    def _of_scores(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss without its penalty."""
        loss = self.loss.discriminator(real, fake)
        return loss if isinstance(loss, Tensor) else loss[0] + loss[1]

    def _augmented(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        return images if self.augmentation is None else self.augmentation(images, numbers)

    @property
    def samples_at_once(self) -> int:
        """How many images of a grid a pass makes: on a GPU all, for which it has the memory."""
        return 100 if self.device.type == "cuda" else 10

    def sample(self, start: int, stop: int, purpose: str = "evaluation") -> Tensor:
        """The images with these numbers, uint8 `[stop - start, 3, H, W]`, always from the same latents.

        The generator runs in eval mode; its state and the training's streams are as before.
        """
        labels = self.batches.sample_labels(start, stop)
        return generate(self.eval_generator, self.latent_dim, self.seed, purpose, start, stop, labels)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; raises RuntimeError, KeyError or the like if it is of other networks."""
        for name, part in self._parts().items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimizer(part, state[name])
            elif isinstance(part, LRScheduler):
                load_scheduler(part, state[name])
            else:
                part.load_state_dict(state[name])
        self.iteration = state["iteration"]
        self.loads += 1

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
            **self.lr_schedulers,
            **({"ema": self.ema} if self.ema else {}),
        }


@contextlib.contextmanager
def _without_gradient(parameters: Sequence[Tensor]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _with_labels(score: Callable[..., Tensor], labels: tuple[Tensor, ...], images: Tensor) -> Tensor:
    return score(images, *labels)
