import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gan_lab.config import Config, Metrics, compose, load, of_plain, resolved
from gan_lab.errors import UserError
from gan_lab.presets import CONFIGS

AXES = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra")
CHOICES = sorted((path.parent.name, path.stem) for axis in AXES for path in (CONFIGS / axis).glob("*.yaml"))


def ranges(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, tuple[bool, float, float]]]:
    """Each dotted key with a range: whether it is a whole number, its least and its most."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ranges(field.annotation, f"{prefix}{name}.")
        bounds = {type(bound).__name__: bound for bound in field.metadata}
        if {"Ge", "Le"} <= bounds.keys():
            yield f"{prefix}{name}", ("float" not in str(field.annotation), bounds["Ge"].ge, bounds["Le"].le)


RANGES = dict(ranges(Config)) | dict(ranges(Metrics, "metrics.digits."))

# What people type, and tools rely on.
DOCUMENTED = """
    dataset arch arch.width norm norm.scale norm.gamma norm.n_power_iterations init loss
    optimizer optimizer.g_lr optimizer.d_lr optimizer.n_dis metrics tracker.mode experiment seed fresh
    train.iterations train.batch_size train.precision
    train.log_every train.sample_every train.evaluate_every train.checkpoint_every
    paths.data paths.outputs device
"""


@functools.cache  # nobody changes what it returns
def config(*overrides: str) -> dict[str, Any]:
    return resolved(compose(overrides))


def place(*overrides: str) -> Path:
    return of_plain(config("paths.outputs=/outputs", *overrides)).run_directory


def changed(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `base` with one value replaced, whatever the command line's grammar thinks of it."""
    changed = copy.deepcopy(base)
    *parents, last = key.split(".")
    functools.reduce(lambda node, name: node[name], parents, changed)[last] = value
    return changed


def complaint(config: dict[str, Any]) -> str:
    try:
        of_plain(config)
    except UserError as error:
        return str(error)
    return ""


# --- a run's directory


def test_the_directory_names_the_axes_and_the_seed() -> None:
    where = place("dataset=digits", "arch=dcgan", "norm=sn", "seed=7")
    assert re.fullmatch(r"/outputs/digits/dcgan/sn/seed7-[0-9a-f]{8}", str(where))


@pytest.mark.parametrize(
    "override",
    [
        "device=cpu",
        "fresh=true",
        "tracker=local",
        "tracker=tensorboard",
        "tracker.mode=offline",
        "tracker.project=other",
        "paths.data=/somewhere",
        "train.log_every=7",
        "train.sample_every=7",
        "train.evaluate_every=7",
        "train.checkpoint_every=7",
        "train.keep_every=7",
        "train.iterations=7",
        "train.resident_gb=0",
        "probes.every=7",
        "probes.audit_every=7",
        "metrics=none",
        "metrics=fast",
        "metrics=[digits,inception]",
        "metrics.digits.num_generated=500",
    ],
)
def test_what_cannot_change_the_result_does_not_move_the_run(override: str) -> None:
    assert place(override) == place()


def test_outputs_move_the_run_and_leave_its_id() -> None:
    assert place("paths.outputs=/elsewhere").relative_to("/elsewhere") == place().relative_to("/outputs")


def test_what_changes_the_result_moves_the_run() -> None:
    overrides = [
        "seed=1",
        "norm=sn",
        "norm.scale=1.3",
        "norm.gamma=shared",
        "norm.target=both",
        "norm.n_power_iterations=3",
        "init=xavier",
        "arch=resnet",
        "arch.width=0.5",
        "arch.latent_dim=64",
        "loss=wasserstein",
        "penalty=r1",
        "optimizer.g_lr=3e-4",
        "optimizer.d_lr=3e-4",
        "optimizer.d_betas=[0.5,0.9]",
        "optimizer.n_dis=2",
        "train.batch_size=32",
        "train.g_batch_size=32",
        "train.ema=0.9",
        "train.max_score=10",
    ]
    ids = {of_plain(config(*override)).run_id for override in [[], *([override] for override in overrides)]}
    assert len(ids) == 1 + len(overrides)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("norm.scale=1", "norm.scale=1.0"),
        ("optimizer.d_lr=1e-4", "optimizer.d_lr=0.0001"),
        ("optimizer.d_betas=[0,0.9]", "optimizer.d_betas=[0.0,0.9]"),
    ],
)
def test_a_number_s_spelling_does_not_move_the_run(one: str, other: str) -> None:
    assert place(one) == place(other)


# --- what is refused


@pytest.mark.parametrize("key", sorted(RANGES))
def test_values_out_of_range_are_refused_by_name(key: str) -> None:
    is_whole, least, most = RANGES[key]
    base = config("loss=wgan_gp", "norm=bssn")
    base["train"]["bn_batches"] = 1
    wrong: list[Any] = [least - 1, most * 2, "many", True, float("nan"), float("inf"), [1]]
    wrong += [1.5] if is_whole else []
    for value in wrong:
        with pytest.raises(UserError, match=f"^{re.escape(key)}="):
            of_plain(changed(base, key, value))


@pytest.mark.parametrize("key", sorted(RANGES))
def test_the_ends_of_a_range_belong_to_it(key: str) -> None:
    is_whole, least, most = RANGES[key]
    base = config("loss=wgan_gp", "norm=bssn")
    base["train"]["bn_batches"] = 1
    for value in (least, most):
        # Another rule may refuse it, e.g. because an architecture has no such image size.
        assert "is not a" not in complaint(changed(base, key, int(value) if is_whole else float(value)))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["dataset.image_size=33"], "dataset.image_size=33"),
        (["dataset=cifar10", "metrics=digits"], "metrics=digits"),
        (["metrics.digits.num_generated=5"], "metrics.digits.is_splits=10"),
        (["metrics.digits.measure=[]"], "metrics.digits.measure"),
        (["metrics.digits.measure=[fid,maybe]"], "metrics.digits.measure=maybe"),
        (["+train.iteration=5"], "train.iteration is no key of the config: take train.iterations"),
        (["+train.qqq=5"], "train.qqq is no key of the config: see `python train.py --cfg job`"),
        (["loss=wgan_gp", "penalty=none"], "penalty=gradient_penalty"),
        (["norm.gamma=each"], "norm.gamma=each"),
        (["norm.target=critic"], "norm.target=critic"),
        (["tracker.mode=loud"], "tracker.mode=loud"),
        (["train.precision=fp4"], "train.precision=fp4"),
        (["train.on_divergence=pray"], "train.on_divergence=pray"),
        (["optimizer.decay=cosine"], "optimizer.decay=cosine"),
        (["device=tpu"], "device=tpu"),
        (["fresh=no"], "fresh=no"),
        (["train.channels_last=maybe"], "train.channels_last=maybe"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        of_plain(config(*overrides))


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "arch.width",
        "norm.scale",
        "norm.n_power_iterations",
        "optimizer.g_lr",
        "optimizer.n_dis",
        "train.iterations",
        "train.batch_size",
        "train.log_every",
        "train.ema",
        "probes.every",
        "norm.gamma",
        "paths.data",
        "paths.outputs",
    ],
)
def test_null_is_refused_where_a_value_is_needed(key: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(key)}"):
        of_plain(changed(config(), key, None))


@pytest.mark.parametrize(
    ("axis", "instead"),
    [
        ("penalty", "penalty=none"),
        ("tracker", "tracker=local"),
        ("metrics", "metrics=none"),
        ("arch", "configs/arch"),
    ],
)
def test_no_choice_of_an_axis_is_refused_with_what_to_choose(axis: str, instead: str) -> None:
    without = {key: value for key, value in config().items() if key != axis}
    for nothing in (without, changed(config(), axis, None)):
        with pytest.raises(UserError, match=f"{axis} has no choice.*{instead}"):
            of_plain(nothing)


@pytest.mark.parametrize("key", ["num_fid", "num_real", "num_kid_prc"])
def test_null_stands_for_all_images(key: str) -> None:
    of_plain(changed(config(), f"metrics.digits.{key}", None))


@pytest.mark.parametrize("key", ["seed", "train.iterations", "arch.width"])  # others refer to the last one
def test_a_missing_value_is_named(key: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(key)} has no value"):
        config(f"{key}=???")


def test_an_interpolation_to_nowhere_is_one_sentence() -> None:
    with pytest.raises(UserError, match="cannot be resolved") as refused:
        config("arch.width=${no.such.key}")
    assert "\n" not in str(refused.value)


# --- the folder configs/


@pytest.mark.parametrize("key", DOCUMENTED.split())
def test_documented_keys_exist(key: str) -> None:
    if key in AXES:
        assert (CONFIGS / key).is_dir()
    else:
        assert functools.reduce(lambda node, name: node[name], key.split("."), config()) is not None


@pytest.mark.parametrize(("axis", "choice"), CHOICES)
def test_every_choice_composes_under_its_own_name(axis: str, choice: str) -> None:
    cfg = compose([f"{axis}={choice}"])
    if axis == "metrics":
        assert list(cfg.metrics) == ([] if choice == "none" else [choice])
    elif axis != "experiment":
        assert cfg[axis].name == choice


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_begins_by_saying_what_it_is(path: Path) -> None:
    comments = [line for line in path.read_text(encoding="utf-8").splitlines()[:2] if line.startswith("# ")]
    assert [line for line in comments if "@package" not in line]


@pytest.mark.parametrize(
    ("added", "meant"),
    [
        ("+norm.n_power_iteration=2", "norm.n_power_iterations"),
        ("+arch.widht=2", "arch.width"),
        ("+dataset.veryfy=false", "dataset.verify"),
        ("+optimizer.g_beta=[0,0.9]", "optimizer.g_betas"),
        ("+init.generatr=x", "init.generator"),
        ("+train.iteration=4", "train.iterations"),
        ("+sed=2", "seed"),
    ],
)
def test_a_misspelt_key_that_is_added_would_be_read_by_nothing(added: str, meant: str) -> None:
    key = re.escape(added.strip("+").partition("=")[0])
    with pytest.raises(UserError, match=rf"^{key} is no key of the config: take {re.escape(meant)}$"):
        load(compose([added]))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("norm.scal=2", r"norm\.scal is no key of the config: take norm\.scale"),
        ("metric=lite", "metric is no key of the config: take metrics"),
        ("metrics.digits.num_generate=5", r".*: take metrics\.digits\.num_generated"),
        ("outputs/run", r"the argument outputs/run has no =: write key=value.*"),
        ("dataset.path=my folder (2)", "the argument .* cannot be read: quote its value.*"),
    ],
)
def test_what_cannot_be_composed_says_what_to_type(typed: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}$"):
        compose(["norm=sn", "metrics=digits", typed])


def test_a_key_of_one_s_own_choice_is_known_too(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm/mine.yaml").write_text((CONFIGS / "norm/sn.yaml").read_text() + "groups: 3\n")
    assert compose(["norm=mine", "norm.groups=4"], tmp_path).norm.groups == 4
    with pytest.raises(UserError, match=r"^norm\.group is no key of the config: take norm\.groups$"):
        compose(["norm=mine", "norm.group=4"], tmp_path)


def test_a_key_of_one_s_own_is_taken(tmp_path: Path) -> None:
    load(compose(["+norm.note=mine", "+arch.blocks=3", "+comment=x"]))
    load(compose(["+norm.scales=2", "norm.scale=${norm.scales}"]))  # like another, and read
    load(compose(["+sed=2", "seed=${sed}"]))
    (tmp_path / "norm").mkdir()
    text = (CONFIGS / "norm/sn.yaml").read_text()
    (tmp_path / "norm/typo.yaml").write_text(text + "warm_up_iterations: 3\n")
    with pytest.raises(UserError, match=r"norm.warm_up_iterations .* take norm.warmup_iterations"):
        load(compose(["norm=typo"], tmp_path))
    (tmp_path / "norm/mine.yaml").write_text(text + "scale: ${.scales}\nscales: 3\n")
    assert load(compose(["norm=mine"], tmp_path)).norm.scale == 3


def test_a_folder_of_the_user_s_own_choices_is_found(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "mine.yaml").write_text("# Mine.\nname: mine\nestimator: null\n")
    assert compose(["norm=mine"], config_dir=tmp_path).norm.name == "mine"


# --- typed


def test_identity_is_said_at_the_field() -> None:
    """Whatever is not marked there decides what a run computes: a user's own key does, too."""
    base = config()
    mine = changed(base, "norm.mine", 3)
    assert of_plain(mine).run_id != of_plain(base).run_id
    assert of_plain(changed(base, "tracker.mine", 3)).run_id == of_plain(base).run_id


def test_a_config_does_not_change() -> None:
    loaded = load(compose([]))
    with pytest.raises(ValueError, match="frozen"):
        loaded.train.batch_size = 3


def test_settings_of_a_protocol_that_is_not_chosen_count_for_nothing() -> None:
    chosen = load(compose(["experiment=tiny"])).metrics
    assert list(chosen) == ["digits"]
    assert chosen["digits"].num_generated == 300
    assert load(compose(["experiment=tiny", "metrics=none"])).metrics == {}
