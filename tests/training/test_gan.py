"""An iteration against plain steps written here, what it touches, and what it is a function of."""

import copy
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import (
    BATCH,
    G_BATCH,
    IMAGES,
    LABELS,
    LATENTS,
    N_DIS,
    SEED,
    SIZE,
    ConditionalGenerator,
    Distortion,
    Optimizer,
    Projection,
    Relativistic,
    differing,
    latents,
    plain_loop,
    real_images,
    snapshot,
    toy_gan,
    toys,
    weights,
)

from gan_lab import norms
from gan_lab.distributed.batch_norm import SynchronizedBatchNorm
from gan_lab.losses import Hinge
from gan_lab.penalties import R1, GradientPenalty, Orthogonal
from gan_lab.rng import stream
from gan_lab.training.ema import ExponentialMovingAverage
from gan_lab.training.forward import no_statistics
from gan_lab.training.gan import Gan, Measure

EVERY_MEASURE = pytest.mark.parametrize("measure", list(Measure))


def iterate(gan: Gan, iterations: int, measure: Measure = Measure.NOTHING) -> list[dict[str, float]]:
    rows = []
    for iteration in range(gan.iteration + 1, gan.iteration + iterations + 1):
        values = gan.update(gan.draw(iteration), measure)
        rows.append({"iteration": iteration, **{name: value.item() for name, value in values.items()}})
    return rows


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_weights_and_losses_are_those_of_a_plain_loop(optimizer: Optimizer) -> None:
    """Bit for bit, running statistics of batch norm included."""
    gan, (generator, discriminator) = toy_gan(optimizer=optimizer), toys()
    assert iterate(gan, 8) == plain_loop(generator, discriminator, 8, optimizer, 1e-2)
    assert gan.iteration == 8
    assert differing(weights(gan), weights(toy_gan((generator, discriminator)))) == []


def principal_axes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The 32nd power's largest column, and that of what is left without it."""

    def axis(matrix: Tensor) -> Tensor:
        power = torch.linalg.matrix_power(matrix.double() / matrix.abs().max(), 32)
        return F.normalize(power[:, power.diagonal().argmax()], dim=0).float()

    first = axis(matrix)
    return first, axis(matrix - torch.outer(matrix @ first, first))


def test_spectral_normalization_is_that_of_a_plain_loop() -> None:
    """One iteration for each update of D, from where the last one ended, and none for G's."""
    ours = toys(norms.SigmaOut)
    generator, discriminator = toys()
    layers = {"0": discriminator[0], "3": discriminator[3]}
    begin = snapshot(ours[1])
    norm = "parametrizations.weight"
    for name, layer in layers.items():
        layer.weight.data, layer.bias.data = begin[f"{name}.{norm}.original"], begin[f"{name}.bias"]
    u = {name: begin[f"{name}.{norm}.0.estimator.u"].flatten(1).t() for name in layers}
    v = {name: begin[f"{name}.{norm}.0.estimator.v"].flatten(1).t() for name in layers}

    def effective(moves: bool) -> dict[str, Tensor]:
        replaced = {}
        for name, layer in layers.items():
            matrix = layer.weight.movedim(1, -1).flatten(1)
            if moves:
                vectors = torch.cat([v[name], matrix.detach().T @ u[name]], 1)
                basis, _ = torch.linalg.qr(vectors[:, vectors.norm(dim=0) > 0])  # no direction at first
                images = matrix.detach() @ basis
                axes = torch.stack(principal_axes(images.T @ images))
                direction = torch.cat([torch.zeros(2), axes[0, 2:]])
                v[name] = F.normalize(basis @ torch.cat([axes, direction[None]]).T, dim=0)
                u[name] = F.normalize(images @ axes.T, dim=0)
            replaced[f"{name}.weight"] = 1.5 * layer.weight / (u[name][:, 0] @ matrix @ v[name][:, 0])
        return replaced

    iterate(toy_gan(ours, torch.optim.SGD), 8)
    plain_loop(generator, discriminator, 8, torch.optim.SGD, 1e-2, effective)
    end = ours[1].state_dict()
    for name, layer in layers.items():
        reached = end[f"{name}.{norm}.original"]
        torch.testing.assert_close(reached, layer.weight.detach(), rtol=1e-3, atol=2e-5)
        overlap = end[f"{name}.{norm}.0.estimator.u"][0].flatten() @ u[name][:, 0]  # the sign is free
        torch.testing.assert_close(overlap.abs(), torch.ones(()), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(end[f"0.{norm}.0.estimator.u"], begin[f"0.{norm}.0.estimator.u"])
    for reached, expected_weight in zip(ours[0].parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(reached, expected_weight, rtol=1e-3, atol=2e-5)


# --- what each step touches


@EVERY_MEASURE
def test_a_discriminator_step_does_not_differentiate_the_generator(measure: Measure) -> None:
    gan = toy_gan()
    before = {name: value.clone() for name, value in gan.generator.named_parameters()}
    differentiated: list[nn.Module] = []
    for layer in gan.generator:
        layer.register_full_backward_hook(lambda layer, *_: differentiated.append(layer))
    gan.discriminator_step(gan.draw(1).discriminator[0], measure)
    assert differentiated == []
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(torch.equal(before[name], value) for name, value in gan.generator.named_parameters())


@pytest.mark.parametrize("loss", [Hinge(), Relativistic()], ids=["of one score", "of both"])
@EVERY_MEASURE
def test_a_generator_step_does_not_differentiate_the_discriminator_s_weights(
    measure: Measure, loss: Any
) -> None:
    gan = toy_gan(toys(norms.SigmaBidirectional), loss=loss)
    inputs = gan.draw(1)
    gan.discriminator_step(inputs.discriminator[0])
    before = snapshot(gan.discriminator)
    gradients = [parameter.grad for parameter in gan.discriminator.parameters()]
    copies = [gradient.clone() for gradient in gradients]
    gan.generator_step(inputs.generator, measure)
    assert differing(snapshot(gan.discriminator), before) == []  # nor do its singular vectors move
    for parameter, gradient, value in zip(gan.discriminator.parameters(), gradients, copies, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, value)
        assert parameter.requires_grad


def test_what_does_not_require_a_gradient_is_left_so() -> None:
    generator, discriminator = toys()
    discriminator[0].weight.requires_grad_(False)
    before = discriminator[0].weight.clone()
    iterate(toy_gan((generator, discriminator)), 8)
    assert not discriminator[0].weight.requires_grad
    assert torch.equal(discriminator[0].weight, before)


def test_batch_norm_follows_every_training_pass_and_no_other() -> None:
    """Its momentum is PyTorch's 0.1: running ← 0.9 · running + 0.1 · batch, for D's updates and for G's."""
    gan = toy_gan(n_dis=1)
    linear, unflatten, batch_norm = gan.generator[:3]
    expected = torch.zeros(8)
    for step, count in ((0, BATCH), (1, G_BATCH)):
        mean = unflatten(linear(latents(1, step, count))).mean(dim=(0, 2, 3)).detach()
        expected = 0.9 * expected + 0.1 * mean
    inputs = gan.draw(1)
    gan.discriminator_step(inputs.discriminator[0], Measure.PROBES)
    gan.generator_step(inputs.generator, Measure.PROBES)
    torch.testing.assert_close(batch_norm.running_mean, expected)
    before = snapshot(gan.generator)
    for purpose in ("samples", "evaluation"):
        gan.sample(0, 4, purpose)
    assert differing(snapshot(gan.generator), before) == []
    assert gan.generator.training


def test_batch_norm_may_keep_statistics_of_the_generator_s_updates_only() -> None:
    """What D's updates see is normalized all the same, and so are the losses."""
    gan, usual = toy_gan(bn_in_d_updates=False), toy_gan()
    linear, unflatten, batch_norm = gan.generator[:3]
    mean = unflatten(linear(latents(1, N_DIS, G_BATCH))).mean(dim=(0, 2, 3)).detach()
    assert iterate(gan, 1) == iterate(usual, 1)
    torch.testing.assert_close(batch_norm.running_mean, 0.1 * mean)
    assert batch_norm.num_batches_tracked == 1
    others = differing(snapshot(gan.generator), snapshot(usual.generator))
    assert {name.rsplit(".")[-1] for name in others} == {"running_mean", "running_var", "num_batches_tracked"}
    assert batch_norm.track_running_stats


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, SynchronizedBatchNorm])
def test_no_statistics_are_kept_where_none_are_wanted(kind: type[nn.Module]) -> None:
    batch_norm = kind(4)
    before, x = snapshot(batch_norm), torch.randn(9, 4)
    with no_statistics(batch_norm):
        inside = batch_norm(x)
    assert differing(snapshot(batch_norm), before) == []
    assert torch.equal(inside, batch_norm(x))
    assert differing(snapshot(batch_norm), before)


@pytest.mark.parametrize("n_dis", [1, 3])
def test_latents_may_be_those_of_the_last_update_of_d(n_dis: int) -> None:
    usual, reusing = (
        dataclasses.replace(toy_gan(n_dis=n_dis), g_batch_size=BATCH, reuse_latents=reuse)
        for reuse in (False, True)
    )
    for iteration in (1, 2):
        fresh, reused = usual.draw(iteration), reusing.draw(iteration)
        assert torch.equal(reused.generator.latents, reused.discriminator[-1].latents)
        assert not torch.equal(fresh.generator.latents, fresh.discriminator[-1].latents)
        others = differing(tensors(fresh), tensors(reused))
        assert [name for name in others if "latents" not in name] == []
        assert len(others) == 1


def test_latents_of_another_number_are_not_reused() -> None:
    with pytest.raises(ValueError, match="one size"):
        toy_gan(reuse_latents=True)


def test_probes_see_what_a_second_computation_sees() -> None:
    """Slopes image by image, gradient norms and weight variances in NumPy, all at the first update of D."""
    generator, discriminator = toys()
    fake = generator(latents(1, 0, BATCH)).detach()
    expected: dict[str, Any] = {}
    for kind, images in (("real", real_images(1, 0)), ("fake", fake)):
        slopes = []
        for image in images:
            image = image[None].clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(discriminator(image).sum(), image)
            slopes.append(float(np.linalg.norm(gradient.numpy())))
        expected |= {f"slope/{kind}_mean": np.mean(slopes)}
        expected |= {f"slope/{kind}_min": min(slopes), f"slope/{kind}_max": max(slopes)}
    loss = Hinge().discriminator(discriminator(real_images(1, 0)), discriminator(fake))
    sum(loss).backward()
    gradients = [parameter.grad.numpy().ravel() for parameter in discriminator.parameters()]
    expected["grad_norm/d"] = np.linalg.norm(np.concatenate(gradients))
    for layer in ("0", "3"):
        weight = discriminator.get_parameter(f"{layer}.weight")
        expected[f"grad_norm/d/{layer}"] = np.linalg.norm(weight.grad.numpy())
        expected[f"weight_var/{layer}"] = weight.detach().numpy().var()
    (row,) = iterate(toy_gan(n_dis=1), 1, Measure.PROBES)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)


# --- what an iteration is a function of


def conditional_pair(gamma: Any = None) -> tuple[nn.Module, nn.Module]:
    """The discriminator is normalized if `gamma` says how."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, discriminator = ConditionalGenerator(), Projection()
        if gamma:
            norms.normalize(discriminator, norms.SigmaBidirectional, gamma=gamma)
    return generator, discriminator


def everything() -> Gan:
    """All that an iteration can have inputs for."""
    generator, discriminator = conditional_pair("per_layer")
    return toy_gan(
        (generator, discriminator),
        loss=Relativistic(),
        penalty=GradientPenalty(),
        augmentation=Distortion(),
        ema=ExponentialMovingAverage(generator, 0.9),
        labels=LABELS,
    )


def tensors(inputs: Any) -> dict[str, Tensor]:
    """Of an iteration's inputs, by name."""
    of_updates = {f"d{step}": update for step, update in enumerate(inputs.discriminator)}
    return {
        f"{name}.{field.name}": value
        for name, update in (of_updates | {"g": inputs.generator}).items()
        for field in dataclasses.fields(update)
        if isinstance(value := getattr(update, field.name), Tensor)
    }


def test_draws_are_a_function_of_seed_and_iteration_in_any_order() -> None:
    gan = everything()
    drawn = [tensors(gan.draw(iteration)) for iteration in (5, 1, 2, 5)]
    gan.update(gan.draw(1))
    drawn.append(tensors(gan.draw(5)))
    expected = {iteration: tensors(everything().draw(iteration)) for iteration in (1, 2, 5)}
    for inputs, iteration in zip(drawn, (5, 1, 2, 5, 5), strict=True):
        assert differing(inputs, expected[iteration]) == []
    names = ["latents", "real", "labels", "augment_real", "augment_fake"]
    every = {f"{update}.{name}" for update in ("d0", "d1", "g") for name in names}
    assert expected[1].keys() == every | {"d0.penalty", "d1.penalty"}
    # Whatever two updates, iterations or purposes draw is not the same.
    random_ones = [value for inputs in expected.values() for value in inputs.values()]
    for number, one in enumerate(random_ones):
        assert not any(torch.equal(one, other) for other in random_ones[:number])


def test_another_seed_draws_everything_anew() -> None:
    one, other = tensors(everything().draw(1)), {}
    gan = everything()
    gan.seed = gan.batches._seed = SEED + 1
    other = tensors(gan.draw(1))
    assert differing(one, other) == [f".{name}" for name in one]


@EVERY_MEASURE
@pytest.mark.parametrize("make", [everything, toy_gan])
def test_an_update_is_a_function_of_its_inputs_and_the_state(
    make: Callable[[], Gan], measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the global streams, which it leaves alone as it does files and what it was given."""
    gan = make()
    iterate(gan, 2)
    begin, inputs = copy.deepcopy(gan.state_dict()), gan.draw(3)
    given = {name: value.clone() for name, value in tensors(inputs).items()}
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        gan.load_state_dict(copy.deepcopy(begin))
        streams = torch.get_rng_state(), np.random.get_state(), random.getstate()
        with monkeypatch.context() as patch:
            for name in ("builtins.open", "io.open", "os.open"):
                patch.setattr(name, lambda *_, **__: pytest.fail("an update opens a file"))
            patch.setattr(gan.batches, "read", lambda _: pytest.fail("an update draws"))
            values = gan.update(inputs, measure)
        assert torch.equal(torch.get_rng_state(), streams[0])
        assert str(np.random.get_state()) == str(streams[1])
        assert random.getstate() == streams[2]
        results.append((values, copy.deepcopy(gan.state_dict())))
    assert differing(results[0], results[1]) == []
    assert len(differing(begin, results[0][1])) > 10
    assert differing(tensors(inputs), given) == []
    assert not any(value.requires_grad or value.grad is not None for value in tensors(inputs).values())


def test_drawing_leaves_the_global_streams_alone() -> None:
    gan = everything()
    streams = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    gan.draw(1)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (str(np.random.get_state()), random.getstate()) == streams[1:]


def test_a_state_is_all_that_training_continues_from() -> None:
    whole, first, second = everything(), everything(), everything()
    expected = iterate(whole, 6)
    iterate(first, 3)
    with torch.no_grad():  # everything must come from the state
        for parameter in (*second.generator.parameters(), *second.discriminator.parameters()):
            parameter.add_(1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert iterate(second, 3) == expected[3:]
    assert differing(second.state_dict(), whole.state_dict()) == []


def test_batches_of_another_number_of_updates_are_refused() -> None:
    gan = toy_gan()
    with pytest.raises(ValueError, match="2 batches an iteration for 3 updates of D"):
        dataclasses.replace(gan, n_dis=3)
    with pytest.raises(ValueError, match="2 batches"):
        dataclasses.replace(gan, loss=Relativistic())


# --- penalties


def test_a_lazy_penalty_is_paid_in_iterations_that_the_host_knows() -> None:
    """Three times as much in every third, in all its updates; in the others they are updates without one."""
    lazy, plain = toy_gan(penalty=R1(coefficient=2.0, every=3)), toy_gan()
    eager = toy_gan(penalty=R1(coefficient=6.0))
    paid = [[update.is_penalized for update in lazy.draw(k).discriminator] for k in range(1, 7)]
    assert paid == 2 * [[False, False], [False, False], [True, True]]
    assert not lazy.draw(3).generator.is_penalized
    assert not plain.draw(3).discriminator[0].is_penalized
    for iteration in range(1, 8):
        state = copy.deepcopy(lazy.state_dict())
        values = lazy.update(lazy.draw(iteration), Measure.PROBES)
        other = eager if iteration % 3 == 0 else plain
        other.load_state_dict(state)
        expected = other.update(other.draw(iteration), Measure.PROBES)
        assert differing(values, expected) == []
        assert differing(lazy.state_dict(), other.state_dict()) == []


def test_gradient_bounds_are_of_updates_whose_penalty_is_not_paid() -> None:
    gan = toy_gan(penalty=R1(every=2))
    rows = [gan.update(gan.draw(iteration), Measure.AUDIT) for iteration in (1, 2, 3)]
    assert ["grad_bound/d/0" in row for row in rows] == [True, False, True]
    assert ["loss/penalty" in row for row in rows] == [False, True, False]
    for row in (rows[0], rows[2]):
        assert row["grad_norm/d/0"] <= row["grad_bound/d/0"]


def test_a_penalty_on_weights_sees_the_trained_ones() -> None:
    """Its gradient is added to that of the scores, with respect to the weights before their norm."""
    gans = [toy_gan(toys(norms.SigmaOut), penalty=penalty) for penalty in (None, Orthogonal(0.5))]
    for gan in gans:
        gan.discriminator_step(gan.draw(1).discriminator[0])
    weight = norms.trained_weight(toys(norms.SigmaOut)[1][0])
    rows = weight.detach().flatten(1)
    products = rows @ rows.T * (1 - torch.eye(len(rows)))
    gradients = [norms.trained_weight(gan.discriminator[0]).grad for gan in gans]
    added = (2 * products @ rows).view_as(weight)
    torch.testing.assert_close(gradients[1] - gradients[0], added, rtol=1e-3, atol=1e-5)


# --- labels, losses of both scores, augmentations


def plain_step(
    networks: tuple[nn.Module, nn.Module],
    loss: Any,
    augment: Callable[[Tensor, str, int], Tensor] = lambda images, kind, step: images,
    labels: Callable[[int, int], tuple[Tensor, ...]] = lambda step, count: (),
) -> dict[str, float]:
    """One iteration with SGD: `augment(images, kind, step)`, `labels(step, count)`."""
    generator, discriminator = networks
    optimizers = [torch.optim.SGD(network.parameters(), lr=1e-2) for network in networks]
    for step in range(N_DIS):
        y = labels(step, BATCH)
        fake = augment(generator(latents(1, step, BATCH), *y).detach(), "generated", step)
        real_scores = discriminator(augment(real_images(1, step), "real", step), *y)
        fake_scores = discriminator(fake, *y)
        of_d = loss.discriminator(real_scores, fake_scores)
        of_d = of_d if isinstance(of_d, Tensor) else sum(of_d)
        optimizers[1].zero_grad()
        of_d.backward()
        optimizers[1].step()
    y = labels(N_DIS, G_BATCH)
    scores = [discriminator(augment(generator(latents(1, N_DIS, G_BATCH), *y), "generated", N_DIS), *y)]
    if isinstance(loss, Relativistic):
        real = augment(real_images(1, N_DIS, G_BATCH), "real", N_DIS)
        scores.append(discriminator(real, *y))
    of_g = loss.generator(*scores)
    optimizers[0].zero_grad()
    of_g.backward()
    optimizers[0].step()
    values = {"loss/d": of_d, "score/real": real_scores.mean(), "score/fake": fake_scores.mean()}
    return {name: value.item() for name, value in (values | {"loss/g": of_g}).items()}


def assert_is_the_plain_step(gan: Gan, networks: tuple[nn.Module, nn.Module], **choices: Any) -> None:
    """The gradient of every parameter of both networks, and what is returned; `networks` are copies."""
    before = weights(gan)
    expected = plain_step(networks, gan.loss, **choices)
    values = gan.update(gan.draw(1))
    assert {name: values[name].item() for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    plain = weights(toy_gan(networks))
    torch.testing.assert_close(weights(gan), plain, rtol=1e-5, atol=1e-7)
    assert all(not torch.equal(plain[name], before[name]) for name in plain if name.endswith("weight"))


BOTH_WAYS = pytest.mark.parametrize("concatenate", [False, True], ids=["two passes", "one pass"])


@BOTH_WAYS
@pytest.mark.parametrize("loss", [Hinge(), Relativistic()], ids=["of one score", "of both"])
def test_both_networks_are_told_the_classes_of_the_real_images(loss: Any, concatenate: bool) -> None:
    """The generated images of an update are of the same ones; in the generator's update too."""
    seen: list[tuple[str, Tensor]] = []
    networks = conditional_pair()
    for name, network in zip("GD", networks, strict=True):
        network.register_forward_pre_hook(lambda _, inputs, name=name: seen.append((name, inputs[1])))

    def labels(step: int, count: int) -> tuple[Tensor]:
        index = torch.randint(len(IMAGES), (count,), generator=stream(SEED, "real images", 1, step))
        return (torch.from_numpy(LABELS)[index],)

    chosen = {"loss": loss, "labels": LABELS, "concatenate_real_and_fake": concatenate}
    gan = toy_gan(networks, torch.optim.SGD, **chosen)
    gan.update(gan.draw(1))
    expected: list[tuple[str, Tensor]] = []
    for step in range(N_DIS):
        (y,) = labels(step, BATCH)
        of_d = [torch.cat([y, y])] if concatenate else [y, y]
        expected += [("G", y), *(("D", classes) for classes in of_d)]
    (y,) = labels(N_DIS, G_BATCH)
    expected += [("G", y), ("D", y)] + [("D", y)] * isinstance(loss, Relativistic)
    assert differing(seen, expected) == []
    gan = toy_gan(conditional_pair(), torch.optim.SGD, **chosen)
    assert_is_the_plain_step(gan, conditional_pair(), labels=labels)


@pytest.mark.parametrize("penalty", [GradientPenalty(), R1()], ids=["gradient_penalty", "r1"])
def test_a_conditional_pair_trains(penalty: Any) -> None:
    """Its penalty is of the scores with their classes; an audit and samples know the classes, too."""
    gan, twin = (toy_gan(conditional_pair("none"), penalty=penalty, labels=LABELS) for _ in range(2))
    inputs = gan.draw(1)
    update = inputs.discriminator[-1]
    twin.discriminator_step(inputs.discriminator[0])
    with torch.no_grad(), norms.frozen(twin.generator):
        fake = twin.generator(update.latents, update.labels)
    with norms.cached_weights(twin.discriminator):
        of_pairs = penalty(
            lambda images: twin.discriminator(images, update.labels), update.real, fake, update.penalty
        )
    values = gan.update(inputs, Measure.AUDIT)
    assert values["loss/penalty"].item() == pytest.approx(of_pairs.item(), rel=1e-5)
    assert "sigma_exact/linear" in values
    before = weights(gan)
    iterate(gan, 3)
    moved = differing(before, weights(gan))
    trained = ".d.of_class.parametrizations.weight.original"  # an embedding is normalized, too
    assert {".g.of_class.weight", trained} <= set(moved)
    assert gan.sample(0, 4).shape == (4, 3, SIZE, SIZE)


def test_samples_are_of_classes_as_frequent_as_in_the_data_and_always_the_same() -> None:
    gan = toy_gan(conditional_pair(), labels=LABELS)
    drawn = gan.batches.sample_labels(0, 2 * len(LABELS))
    assert torch.equal(drawn.bincount(), 2 * torch.from_numpy(LABELS).bincount())
    assert torch.equal(gan.batches.sample_labels(7, 11), drawn[7:11])
    whole, part = gan.sample(0, 30), gan.sample(7, 11)
    assert torch.equal(part, whole[7:11])
    z = torch.stack([torch.randn(LATENTS, generator=stream(SEED, "evaluation", k)) for k in range(7, 11)])
    images = gan.generator.eval()(z, drawn[7:11])
    assert (images.add(1).mul(127.5) - part).abs().max() <= 0.5 + 1e-4


@BOTH_WAYS
def test_a_loss_of_both_scores_sees_real_images_in_the_generator_s_update(concatenate: bool) -> None:
    gan = toy_gan(optimizer=torch.optim.SGD, loss=Relativistic(), concatenate_real_and_fake=concatenate)
    assert_is_the_plain_step(gan, toys())
    values = gan.update(gan.draw(2))
    assert not {"loss/d_real", "loss/d_fake"} & values.keys()  # it has no such terms


def distorted(images: Tensor, kind: str, step: int) -> Tensor:
    rng = stream(SEED, f"augmentation of {kind} images", 1, step)
    numbers = torch.rand(len(images), 1, 1, 1, generator=rng)
    rows = [image.flip(-1) if number < 0.5 else image for image, number in zip(images, numbers, strict=True)]
    return torch.stack(rows) * (0.5 + numbers)


@BOTH_WAYS
@pytest.mark.parametrize("loss", [Hinge(), Relativistic()], ids=["of one score", "of both"])
def test_an_augmentation_stands_before_the_discriminator_in_both_updates(
    loss: Any, concatenate: bool
) -> None:
    """The generator's gradient comes through it: the weights are those of steps that are differentiated."""
    chosen = {"loss": loss, "augmentation": Distortion(), "concatenate_real_and_fake": concatenate}
    assert_is_the_plain_step(toy_gan(optimizer=torch.optim.SGD, **chosen), toys(), augment=distorted)
    seen: list[Tensor] = []
    gan = toy_gan(penalty=R1(), **chosen)
    gan.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    inputs = gan.draw(1)
    gan.discriminator_step(inputs.discriminator[0], Measure.PROBES)
    expected = distorted(real_images(1, 0), "real", 0)
    torch.testing.assert_close(seen[0][:BATCH], expected)
    torch.testing.assert_close(seen[-1], expected)  # the penalty's pass


class Same:
    """The identity, which may have drawn numbers."""

    def __init__(self, draws: bool) -> None:
        self.draws = draws

    def draw(self, count: int, rng: torch.Generator) -> Tensor | None:
        return torch.rand(count, generator=rng) if self.draws else None

    def __call__(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        assert (numbers is not None) == self.draws
        return images


@pytest.mark.parametrize("draws", [False, True])
@EVERY_MEASURE
def test_the_identity_augments_to_the_same_bits(measure: Measure, draws: bool) -> None:
    plain, same = (toy_gan(penalty=GradientPenalty(), augmentation=a) for a in (None, Same(draws)))
    assert iterate(same, 4, measure) == iterate(plain, 4, measure)
    assert differing(same.state_dict(), plain.state_dict()) == []
