"""Every preset of the paper: its numbers against the reference's, a step of it, its row in docs/paper.md."""

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from gan_lab.build import build
from gan_lab.config import compose, load, of_plain, resolved
from gan_lab.data.recipe import ALIASED, FILTERS
from gan_lab.presets import CONFIGS, register
from gan_lab.report.runs import flatten
from gan_lab.run import run
from gan_lab.runs.directory import FINISHED, RunDirectory

ROOT = CONFIGS.parent
register()
with initialize_config_dir(str(CONFIGS), version_base="1.3"):
    PRESETS = GlobalHydra.instance().config_loader().get_group_options("experiment/paper")
    EXACT = GlobalHydra.instance().config_loader().get_group_options("experiment/paper/exact")
DATASETS = ("cifar10", "stl10", "celeba", "imagenet")
CNN_DATASETS = DATASETS[:3]
SWEEPS = ("norms", "scale", "lr", "ndis5", "gamma", "gamma_ndis5", "strict")

# One step of a small network on a few images of noise, on the CPU, without judging.
SMALL = (
    "dataset.prepare._target_=stand_in.prepare",
    "arch.width=0.015625",
    "train.iterations=1",
    "train.batch_size=2",
    "train.g_batch_size=3",
    "metrics=none",
    "tracker=local",
    "device=cpu",
)

WIDE_GRID = [0.7, 0.8, 0.9, 1.0, *(round(1.2 + 0.2 * step, 1) for step in range(15))]  # to 4.0
NARROW_GRID = [0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6]


@pytest.fixture
def small(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = tmp_path_factory.getbasetemp() / "noise"
    return [*SMALL, f"paths.data={data}", f"paths.outputs={tmp_path}/outputs"]


@functools.cache
def sweep(name: str) -> dict[str, str]:
    """The sweeper's parameters of a preset."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra_compose("train", [f"experiment=paper/{name}"], return_hydra_config=True)
    return {str(key): str(value) for key, value in cfg.hydra.sweeper.params.items()}


def jobs(name: str) -> list[list[str]]:
    """The overrides of each run that `-m experiment=paper/<name>` launches, as Hydra itself splits them."""
    parsed = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in sweep(name).items()]
    )
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return batch


def values(name: str, key: str) -> list[float]:
    return [float(value) for value in sweep(name)[key].split(",")]


@functools.cache
def config(name: str, *overrides: str) -> dict[str, Any]:
    return resolved(compose([f"experiment=paper/{name}", *overrides]))


# --- the reference's numbers


def test_every_sweep_of_the_reference_is_there() -> None:
    cnn = {f"{dataset}_{kind}" for dataset in CNN_DATASETS for kind in SWEEPS}
    assert set(PRESETS) == {*DATASETS, *cnn, "imagenet_norms", "imagenet_scale"}


@pytest.mark.parametrize(
    ("dataset", "size", "iterations"),
    [("cifar10", 32, 400_000), ("stl10", 48, 800_000), ("celeba", 64, 400_000)],
)
def test_cnn_settings(dataset: str, size: int, iterations: int) -> None:
    found = config(dataset)
    assert (found["dataset"]["name"], found["dataset"]["image_size"]) == (dataset, size)
    assert (found["arch"]["name"], found["arch"]["width"], found["arch"]["latent_dim"]) == ("dcgan", 1.0, 128)
    assert (found["init"]["name"], found["loss"]["name"], found["penalty"]["name"]) == (
        "normal",
        "hinge",
        "none",
    )
    optimizer, train = found["optimizer"], found["train"]
    assert (optimizer["g_lr"], optimizer["d_lr"], optimizer["n_dis"]) == (1e-4, 1e-4, 1)
    assert optimizer["g_betas"] == optimizer["d_betas"] == [0.5, 0.999]
    assert (optimizer["decay"], train["ema"]) == ("none", 0)
    assert (train["iterations"], train["batch_size"], train["g_batch_size"]) == (iterations, 64, 64)
    assert (train["evaluate_every"], train["sample_every"]) == (10_000, 200)
    assert (train["checkpoint_every"], train["keep_every"]) == (10_000, 100_000)
    assert list(found["metrics"]) == ["paper"]


def test_imagenet_settings() -> None:
    found = config("imagenet")
    assert (found["dataset"]["name"], found["dataset"]["image_size"]) == ("imagenet", 128)
    assert (found["arch"]["name"], found["arch"]["width"], found["arch"]["latent_dim"]) == (
        "resnet",
        1.0,
        128,
    )
    assert (found["init"]["name"], found["loss"]["name"]) == ("resnet", "hinge")
    optimizer, train = found["optimizer"], found["train"]
    assert (optimizer["g_lr"], optimizer["d_lr"], optimizer["n_dis"]) == (2e-4, 2e-4, 5)
    assert optimizer["g_betas"] == optimizer["d_betas"] == [0.0, 0.9]
    assert (train["iterations"], train["batch_size"], train["g_batch_size"]) == (500_000, 16, 32)
    assert (train["keep_every"], train["ema"]) == (50_000, 0)


@pytest.mark.parametrize("name", PRESETS)
def test_all_is_computed_in_ieee_float32(name: str) -> None:
    train = config(name)["train"]
    assert (train["precision"], train["tf32"]) == ("fp32", False)
    assert config(name)["metrics"]["paper"]["extractor"]["precision"] == "exact"


@pytest.mark.parametrize("name", PRESETS)
def test_images_are_resized_as_the_reference_s(name: str) -> None:
    """By OpenCV's default: the mean of four at a halving, else bilinear without antialiasing."""
    ways = {"cifar10": None, "stl10": "box", "celeba": "box", "imagenet": "bilinear_aliased"}
    assert config(name)["dataset"]["prepare"].get("resample") == ways[name.split("_")[0]]


def test_another_resizing_is_another_run() -> None:
    chosen = "experiment=paper/stl10"
    ways = [load(compose([chosen, f"dataset.prepare.resample={way}"])).run_id for way in (*FILTERS, ALIASED)]
    assert len(set(ways)) == len(ways)
    assert load(compose([chosen])).run_id in ways


@pytest.mark.parametrize("name", PRESETS)
def test_seeds(name: str) -> None:
    assert values(name, "seed") == list(range(3 if name.startswith("imagenet") else 5))


@pytest.mark.parametrize(
    ("dataset", "grid"),
    [
        ("cifar10", WIDE_GRID),
        ("stl10", NARROW_GRID),
        ("celeba", NARROW_GRID),
        ("imagenet", [1.0, 1.2, 1.4, 1.6]),
    ],
)
def test_scale_grids(dataset: str, grid: list[float]) -> None:
    assert values(f"{dataset}_scale", "norm.scale") == grid
    assert sweep(f"{dataset}_scale")["norm"] == "ssn,bssn"


@pytest.mark.parametrize("dataset", CNN_DATASETS)
def test_variants_of_the_cnn(dataset: str) -> None:
    """What each sweep holds fixed and what it varies, beside the seeds."""
    rates = {"optimizer.g_lr": "0.0001,0.0002", "optimizer.d_lr": "0.0001,0.0002"}
    varied = {
        "lr": {"norm": "sn,bsn", **rates},
        "ndis5": {"norm": "sn,bsn"},
        "gamma": {"norm.gamma": "shared,per_layer", **rates},
        "gamma_ndis5": {"norm.gamma": "shared,per_layer"},
        "norms": {"norm": "none,sn,ssn,bsn,bssn,strict_sn"},
    }
    for kind, expected in varied.items():
        found = {key: value for key, value in sweep(f"{dataset}_{kind}").items() if key != "seed"}
        number = re.compile(r"\d\.\de-\d+")
        assert {
            key: number.sub(lambda match: f"{float(match[0])}", value) for key, value in found.items()
        } == expected, kind
    assert values(f"{dataset}_strict", "norm.scale") == WIDE_GRID
    assert config(f"{dataset}_strict")["norm"]["name"] == "strict_sn"

    for kind in ("ndis5", "gamma_ndis5"):
        found = config(f"{dataset}_{kind}")
        assert (found["optimizer"]["n_dis"], found["train"]["iterations"]) == (5, 400_000)
        assert found["optimizer"]["g_betas"] == found["optimizer"]["d_betas"] == [0.5, 0.9]
        assert found["optimizer"]["g_lr"] == found["optimizer"]["d_lr"] == 1e-4
    for kind in ("gamma", "gamma_ndis5"):
        found = config(f"{dataset}_{kind}", "norm.gamma=per_layer")
        assert (found["loss"]["name"], found["penalty"]["coefficient"]) == ("wgan_gp", 10)
        assert (found["norm"]["name"], found["norm"]["scale"]) == ("sn", 1.0)
        assert found["norm"]["gamma_bias"]


# --- composing, building, one step


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_one_run_too(name: str) -> None:
    """Without -m nothing is swept, and what is left makes sense."""
    of_plain(config(name))


@pytest.mark.parametrize("name", PRESETS)
def test_one_step(name: str, small: list[str], tmp_path: Path) -> None:
    """The first run of the sweep trains a step; the last composes to another, valid one."""
    first, *_, last = jobs(name)
    cfg = compose([f"experiment=paper/{name}", *first, *small])
    assert run(cfg).exit_status == 0
    directory = RunDirectory(load(cfg).run_directory)
    dataset = name.split("_")[0]
    assert directory.root.is_relative_to(tmp_path / "outputs" / dataset)
    assert directory.read_status()["state"] == FINISHED
    assert directory.generator.exists()

    other = config(name, *last, *small)
    assert of_plain(other).run_directory != directory.root


# --- the same with all that can be chosen on the reference's side

REFERENCE_SIDE = {
    "cnn": {
        "norm.power_iteration": "plain",
        "norm.warmup_iterations": 0,
        "optimizer.reuse_latents": True,
        "optimizer.tensorflow_epsilon": True,
    },
    "resnet": {
        "norm.power_iteration": "plain",
        "norm.warmup_iterations": 0,
        "optimizer.tensorflow_epsilon": True,
        "train.bn_in_d_updates": False,
    },
}
REFERENCE_SIDE["halved"] = REFERENCE_SIDE["cnn"] | {"dataset.prepare.resample": "bilinear_aliased"}
KINDS = {"cifar10": "cnn", "stl10": "halved", "celeba": "halved", "imagenet": "resnet"}


def test_every_sweep_of_the_public_code_has_an_exact_one() -> None:
    """Which has neither strict SN nor no norm."""
    assert [name for name in PRESETS if not name.endswith(("_norms", "_strict"))] == EXACT


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_preset_is_the_paper_s_but_for_what_it_names(name: str) -> None:
    ours, exact = flatten(config(name)), flatten(config(f"exact/{name}"))
    changed = {key: value for key, value in exact.items() if ours.get(key) != value}
    assert changed == REFERENCE_SIDE[KINDS[name.split("_")[0]]]
    assert ours.keys() == exact.keys()
    assert sweep(f"exact/{name}") == sweep(name)


@pytest.mark.parametrize("name", EXACT)
def test_one_step_of_an_exact_preset(name: str, small: list[str]) -> None:
    first, *_ = jobs(f"exact/{name}")
    sizes = "train.g_batch_size=2"  # those of D's updates, whose latents are taken again
    assert run(compose([f"experiment=paper/exact/{name}", *first, *small, sizes])).exit_status == 0


@pytest.mark.parametrize("dataset", DATASETS)
def test_one_step_of_a_dataset_with_its_own_defaults(dataset: str, small: list[str]) -> None:
    assert run(compose(["norm=bssn", f"dataset={dataset}", *small])).exit_status == 0


@pytest.mark.parametrize("dataset", DATASETS)
def test_full_size_networks_fit_each_other(dataset: str) -> None:
    found = config(dataset)
    with torch.device("meta"):
        generator = build(found["arch"]["generator"], "arch")
        discriminator = build(found["arch"]["discriminator"], "arch")
        images = generator(torch.empty(2, found["arch"]["latent_dim"]))
    size = found["dataset"]["image_size"]
    assert images.shape == (2, 3, size, size)
    assert discriminator(images).shape == (2,)


def test_train_py_launches_a_preset_whole(
    small: list[str], tmp_path: Path, train_py: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten runs by one command, each in its own directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    launched = train_py("-m", "experiment=paper/cifar10_ndis5", *small)
    assert launched.returncode == 0, launched.stderr
    folder = tmp_path / "outputs/cifar10/dcgan"
    found = [(path.parent.name, path.name.split("-")[0]) for path in sorted(folder.glob("*/seed*"))]
    assert found == [(norm, f"seed{seed}") for norm, seed in itertools.product(["bsn", "sn"], range(5))]
    assert all(RunDirectory(path).read_status()["state"] == FINISHED for path in folder.glob("*/seed*"))


def test_train_py_knows_every_preset_next_to_the_user_s_own_choices(train_py: Callable[..., Any]) -> None:
    own = ("--config-dir", str(ROOT / "examples/norm/configs"))
    (listed,) = re.findall("^experiment/paper: (.*)$", train_py(*own, "--help").stdout, re.M)
    assert listed.split(", ") == PRESETS
    overrides = ("experiment=paper/celeba_scale", "norm=schur")
    printed = train_py(*own, *overrides, "--cfg", "job", "--resolve")
    assert printed.returncode == 0, printed.stderr
    assert yaml.safe_load(printed.stdout) == resolved(compose(overrides, Path(own[1])))


def test_listing_choices_copies_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra looks into 130 groups for --help: it copied what is registered for each."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        monkeypatch.setattr(DictConfig, "__deepcopy__", lambda *_: pytest.fail("copied"))
        assert loader.get_group_options("experiment/paper") == PRESETS


# --- docs/paper.md

INCEPTION_GFLOP = 11.4  # one image of 299 pixels
SUSTAINED = 7.8e12  # FLOP/s that the estimate assumes: 40% of an A100's 19.5e12 in float32
SUSTAINED_BF16 = 31.2e12  # and of its training in bf16: 10% of 312e12


def table() -> dict[str, dict[str, str]]:
    """The rows of the document's table by preset."""
    rows = {}
    for line in (ROOT / "docs/paper.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(
            r"`python train.py -m experiment=paper/(\w+)`", cells[1] if cells[1:] else ""
        ):
            assert match[1] not in rows
            rows[match[1]] = dict(
                zip(("what", "command", "runs", "each", "all", "bf16", "where"), cells, strict=True)
            )
    return rows


@functools.cache
def gflop(name: str) -> tuple[float, float]:
    """Floating-point operations (GFLOP) of one iteration of a preset, and of one generated image."""
    found = config(name)
    size, train = found["dataset"]["image_size"], found["train"]
    with torch.device("meta"):
        generator = build(found["arch"]["generator"], "arch")
        discriminator = build(found["arch"]["discriminator"], "arch")
        latents = torch.empty(train["batch_size"], found["arch"]["latent_dim"])
        real = torch.empty(train["batch_size"], 3, size, size)
        g_latents = torch.empty(train["g_batch_size"], found["arch"]["latent_dim"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fake = generator(latents)
    sample = counter.get_total_flops() / train["batch_size"]
    with FlopCounterMode(display=False) as counter:
        loss = discriminator(real).mean() + discriminator(fake).mean()
        if found["penalty"]["name"] == "gradient_penalty":
            between = torch.lerp(real, fake, 0.5).requires_grad_().clone()  # the counter refuses leaves
            (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
            loss = loss + slope.square().sum()
        loss.backward()
    d_step = counter.get_total_flops() + sample * train["batch_size"]
    discriminator.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        discriminator(generator(g_latents)).mean().backward()
    iteration = found["optimizer"]["n_dis"] * d_step + counter.get_total_flops()
    return iteration / 1e9, sample / 1e9


def hours(name: str, rate: float = SUSTAINED) -> float:
    """GPU hours of one run by the document's formula; it is judged in float32 whatever it is trained in."""
    iteration, sample = gflop(name)
    found = config(name)
    train, protocol = found["train"], found["metrics"]["paper"]
    evaluations = train["iterations"] // train["evaluate_every"]
    images = protocol["num_generated"] + protocol["num_fid"] * protocol["fid_separate"]
    judged = evaluations * images * (sample + INCEPTION_GFLOP) * 1e9
    return (train["iterations"] * iteration * 1e9 / rate + judged / SUSTAINED) / 3600


def test_the_document_lists_every_preset_and_no_other() -> None:
    assert sorted(table()) == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_the_document_s_row(name: str) -> None:
    row, launched = table()[name], jobs(name)
    assert int(row["runs"]) == len(launched)
    each = hours(name)
    assert float(row["each"]) == pytest.approx(each, abs=0.06)
    assert float(row["all"].replace(",", "")) == pytest.approx(each * len(launched), rel=0.01, abs=1)
    assert float(row["bf16"]) == pytest.approx(hours(name, SUSTAINED_BF16), abs=0.06)
    swept = sweep(name).get("norm", config(name)["norm"]["name"])
    norms = re.sub(r"^(.*,.*)$", r"{\1}", swept)
    base = f"outputs/{name.split('_')[0]}/{config(name)['arch']['name']}"
    seeds = sweep(name)["seed"].replace(",", "")
    assert row["where"] == f"`{base}/{norms}/seed[{seeds[0]}-{seeds[-1]}]-*`"


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_document_s_operations(dataset: str) -> None:
    """The second table: an iteration of each setting, and a generated image."""
    lines = (ROOT / "docs/paper.md").read_text(encoding="utf-8").splitlines()
    label = {"cifar10": "CNN 32", "stl10": "CNN 48", "celeba": "CNN 64", "imagenet": "ResNet 128"}[dataset]
    (line,) = [line for line in lines if label in line and line.startswith("|")]
    cells = [float(cell.replace(",", "")) for cell in line.strip("|").split("|")[1:] if cell.strip()]
    kinds = ("", "_gamma", "_ndis5", "_gamma_ndis5") if dataset in CNN_DATASETS else ("",)
    expected = [gflop(f"{dataset}{kind}")[0] for kind in kinds] + [gflop(dataset)[1]]
    assert cells == pytest.approx(expected, rel=0.02)
