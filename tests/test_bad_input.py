"""A hundred bad inputs: exit status 2, one sentence that names the trouble, no traceback, nothing written."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from gan_lab import terminal
from gan_lab.config import compose, load
from gan_lab.run import run
from gan_lab.runs.directory import CONFIG_FORMAT, RunDirectory

SMALLEST = (
    "experiment=tiny",
    "metrics=none",
    "tracker=local",
    "device=cpu",
    "arch.width=0.03125",
    "train.batch_size=4",
    "train.iterations=2",
    "train.checkpoint_every=1",
)


@cache
def composed(*choices: str) -> DictConfig:
    config = compose([*SMALLEST, *choices])
    OmegaConf.set_struct(config, False)  # values may be new, as with `+` on the command line
    return config


def config_of(data: Path, outputs: Path, values: list[str], *choices: str) -> DictConfig:
    """What `train.py` composes from choices of axes and single values, without composing for each value."""
    paths = [f"paths.data={data}", f"paths.outputs={outputs}"]
    return OmegaConf.merge(composed(*choices), OmegaConf.from_dotlist([*paths, *values]))


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below `folder` with its content's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def refuse(config: DictConfig, says: str, *folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run it and see that it is refused in one sentence that says `says`, and that nothing is written."""
    before = [tree(folder) for folder in folders]
    capsys.readouterr()
    assert run(config).exit_status == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    (line,) = [
        line for line in said.err.splitlines() if not line.startswith(("preparing ", "going on with "))
    ]
    assert line.startswith("error: ")
    assert says in line, line
    assert [tree(folder) for folder in folders] == before


VALUES: dict[str, str] = {  # one bad value each, and what the sentence must name
    "seed=-1": "seed",
    "seed=0.5": "seed",
    "seed=null": "seed",
    "seed=one": "seed",
    "device=gpu": "device",
    "device=cuda:99": "device",
    "device=null": "device",
    "fresh=maybe": "fresh",
    "train.iterations=0": "train.iterations",
    "train.iterations=1.5": "train.iterations",
    "train.iterations=null": "train.iterations",
    "train.batch_size=1": "train.batch_size=1",
    "train.batch_size=0": "train.batch_size",
    "train.batch_size=null": "train.batch_size",
    "train.batch_size=[4]": "train.batch_size",
    "train.g_batch_size=-4": "train.g_batch_size",
    "train.ema=1": "train.ema",
    "train.ema=-0.1": "train.ema",
    "train.precision=int3": "train.precision",
    "train.channels_last=perhaps": "train.channels_last",
    "train.resident_gb=-1": "train.resident_gb",
    "train.log_every=0": "train.log_every",
    "train.sample_every=-1": "train.sample_every",
    "train.evaluate_every=x": "train.evaluate_every",
    "train.checkpoint_every=0": "train.checkpoint_every",
    "train.keep_every=0": "train.keep_every",
    "train.max_score=.nan": "train.max_score",
    "train.max_score=0": "train.max_score",
    "train.on_divergence=hope": "train.on_divergence",
    "probes.every=-1": "probes.every",
    "probes.audit_every=true": "probes.audit_every",
    "arch.width=0": "arch.width",
    "arch.width=wide": "arch.width",
    "arch.latent_dim=0": "arch.latent_dim",
    "arch.name=../../elsewhere": "arch.name",
    "arch.generator._target_=gan_lab.archs.dcgan.Nothing": "arch",
    "arch.generator.depth=3": "depth",
    "arch.discriminator._target_=no_such_module.Thing": "no_such_module",
    "dataset.image_size=33": "dataset.image_size=33",
    "dataset.image_size=0": "dataset.image_size",
    "dataset.name=a/b": "dataset.name",
    "norm.scale=0": "norm.scale",
    "norm.scale=-1": "norm.scale",
    "norm.scale=.inf": "norm.scale",
    "norm.gamma=all": "norm.gamma",
    "norm.target=nobody": "norm.target",
    "norm.n_power_iterations=0": "norm.n_power_iterations",
    "norm.warmup_iterations=-1": "norm.warmup_iterations",
    "norm.estimator._target_=gan_lab.norms.Nothing": "norm",
    "init.generator._target_=gan_lab.archs.initialization.nothing": "init",
    "init.generator.std=-1": "init",
    "optimizer.g_lr=-1e-4": "optimizer.g_lr",
    "optimizer.d_lr=fast": "optimizer.d_lr",
    "optimizer.d_lr=.nan": "optimizer.d_lr",
    "optimizer.n_dis=0": "optimizer.n_dis",
    "optimizer.g_betas=[0.5,1.5]": "optimizer",
    "optimizer.g_betas=[0.5]": "optimizer",
    "optimizer.d_betas=[a,b]": "optimizer",
    "optimizer.decay=sudden": "optimizer.decay",
    "optimizer.generator._target_=torch.optim.Nothing": "optimizer",
    "loss._target_=gan_lab.losses.Nothing": "loss",
    "tracker.mode=loud": "tracker.mode",
    "paths.data=null": "paths.data",
    "paths.outputs=''": "paths.outputs",
    "penalty=null": "penalty=none",
    "augment=null": "augment=none",
    "tracker=null": "tracker=local",
    "norm=null": "norm=none",
    "train.iteration=5": "train.iteration is no key",
    "augment._target_=gan_lab.nothing": "augment",
}


@pytest.mark.parametrize("value", VALUES)
def test_a_bad_value(value: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(config_of(data, tmp_path / "outputs", [value]), VALUES[value], tmp_path, capsys=capsys)


METRICS: dict[str, str] = {
    "metrics.digits.num_generated=1": "metrics.digits.num_generated",
    "metrics.digits.num_real=1": "metrics.digits.num_real",
    "metrics.digits.num_generated=null": "metrics.digits.num_generated",
    "metrics.digits.batch_size=0": "metrics.digits.batch_size",
    "metrics.digits.is_splits=400": "metrics.digits.is_splits",
    "metrics.digits.every=-1": "metrics.digits.every",
    "metrics.digits.measure=yes_please": "metrics.digits.measure",
    "metrics.digits.measure=[kid]": "kid_subset_size",
    "metrics.digits.numbers=5": "numbers",
    "metrics.digits.extractor=vgg": "metrics.digits.extractor",
    "metrics.digits.extractor._target_=gan_lab.metrics.extractors.vgg": "metrics.digits",
    "metrics.digits.extractor.weights=/some/file": "metrics.digits",
    "dataset.name=notdigits": "metrics=digits",
}


@pytest.mark.parametrize("value", METRICS)
def test_bad_metrics(value: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(data, tmp_path / "outputs", [value], "metrics=digits")
    refuse(config, METRICS[value], tmp_path, capsys=capsys)


class RunsCode:
    """Unpickling this makes a file: what a hostile file could do instead is anybody's guess."""

    marker = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def code(folder: Path) -> Any:
    RunsCode.marker = str(folder / "code-has-run")
    return RunsCode()


def torch_file(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


WEIGHTS: dict[str, Callable[[Path], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "noise": lambda _: bytes(range(256)) * 40,
    "other tensors": lambda _: torch_file({"fc.weight": torch.zeros(3, 3)}),
    "a list": lambda _: torch_file([1, 2]),
    "code in a pickle": lambda folder: pickle.dumps(code(folder)),
    "code in a torch file": lambda folder: torch_file({"fc.weight": code(folder)}),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_bad_inception_weights(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if (content := WEIGHTS[kind](tmp_path)) is not None:
        path.write_bytes(content)
    config = config_of(
        data, tmp_path / "outputs", [f"metrics.inception.extractor.weights={path}"], "metrics=inception"
    )
    refuse(config, str(path), tmp_path, capsys=capsys)


def tar_gz(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def cifar_batch(data: Any) -> dict[str, bytes]:
    return {"cifar-10-batches-py/data_batch_1": pickle.dumps({b"data": data}, protocol=2)}


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_tar_gz(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 40 * 27648, np.uint8).tobytes()
    tar_gz(path, {"stl10_binary/unlabeled_X.bin": noise})
    truncated(path)


def truncated_zip(path: Path) -> None:
    zipped(path, {"img_align_celeba/000001.jpg": bytes(1000)})
    truncated(path)


# dataset and how its archive or folder at a given path is bad
ARCHIVES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cifar10, missing": ("cifar10", lambda _: None),
    "cifar10, empty": ("cifar10", lambda path: path.write_bytes(b"")),
    "cifar10, no gzip": ("cifar10", lambda path: path.write_bytes(b"<html>404</html>" * 100)),
    "cifar10, a gzip of something else": ("cifar10", lambda path: path.write_bytes(gzip.compress(b"text"))),
    "cifar10, of another dataset": ("cifar10", lambda path: tar_gz(path, {"stl10_binary/test_X.bin": b"00"})),
    "cifar10, a batch of other shape": (
        "cifar10",
        lambda path: tar_gz(path, cifar_batch(np.zeros((3, 5), "u1"))),
    ),
    "cifar10, a batch that is no pickle": (
        "cifar10",
        lambda path: tar_gz(path, {"cifar-10-batches-py/data_batch_1": b"not a pickle"}),
    ),
    "cifar10, a batch with code": ("cifar10", lambda path: tar_gz(path, cifar_batch(code(path.parent)))),
    "cifar10, a member outside": ("cifar10", lambda path: tar_gz(path, {"../../outside": b"0"})),
    "stl10, truncated": ("stl10", truncated_tar_gz),
    "stl10, half an image": (
        "stl10",
        lambda path: tar_gz(path, {"stl10_binary/unlabeled_X.bin": bytes(27649)}),
    ),
    "stl10, no unlabeled images": ("stl10", lambda path: tar_gz(path, {"stl10_binary/test_X.bin": b"0"})),
    "celeba, truncated": ("celeba", truncated_zip),
    "celeba, no images": ("celeba", lambda path: zipped(path, {"readme.txt": b"hello"})),
    "celeba, damaged images": (
        "celeba",
        lambda path: zipped(path, {f"img_align_celeba/{k:06d}.jpg": b"no jpeg" for k in range(5)}),
    ),
    "imagenet, no tar": ("imagenet", lambda path: path.write_bytes(b"x" * 5000)),
    "imagenet, an empty folder": ("imagenet", lambda path: path.mkdir()),
    "imagenet, a class that is no tar": (
        "imagenet",
        lambda path: path.write_bytes(_plain_tar({"n01440764.tar": b"x" * 2000})),
    ),
}


def _plain_tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_bad_archive(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, spoil = ARCHIVES[kind]
    path = tmp_path / "raw" / "archive"
    path.parent.mkdir()
    spoil(path)
    (tmp_path / "data").mkdir()
    values = [f"dataset.raw={path}", "dataset.verify=false"]
    config = config_of(
        tmp_path / "data",
        tmp_path / "outputs",
        values,
        f"dataset={dataset}",
        "metrics=none",
    )
    refuse(config, "archive", tmp_path, capsys=capsys)


FOLDERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.touch(),
    "empty": lambda path: path.mkdir(),
    "without images": lambda path: (path.mkdir(), (path / "notes.txt").write_text("no picture")),
    "with damaged images": lambda path: (path.mkdir(), (path / "picture.png").write_bytes(b"no picture")),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_bad_folder_of_images(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pictures"
    FOLDERS[kind](path)
    (tmp_path / "data").mkdir()
    choices = ("dataset=folder", f"dataset.path={path}", "dataset.image_size=32", "metrics=none")
    refuse(
        config_of(tmp_path / "data", tmp_path / "outputs", [], *choices), "pictures", tmp_path, capsys=capsys
    )


def spoil_array(content: bytes) -> Callable[[Path], object]:
    return lambda array: array.write_bytes(content)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


ARRAYS: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "missing": lambda path: path.unlink(),
    "no array": spoil_array(b"not an array"),
    "other shape": spoil_array(npy(np.zeros((4, 3, 32, 32), np.uint8))),
    "other type": spoil_array(npy(np.zeros((1797, 3, 32, 32), np.float32))),
    "with code": lambda path: path.write_bytes(npy(np.array([code(path.parent)], object), True)),
    "its description is no JSON": lambda path: path.with_suffix(".json").write_text("{"),
    "its description is a list": lambda path: path.with_suffix(".json").write_text("[]"),
    "its description is binary": lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_damaged_prepared_array(
    kind: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits, tmp_path / "data")
    ARRAYS[kind](tmp_path / "data" / "digits-32.npy")
    refuse(config_of(tmp_path / "data", tmp_path / "outputs", []), "digits-32", tmp_path, capsys=capsys)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and outputs of one finished run with checkpoints of the iterations 1 and 2."""
    folder = tmp_path_factory.mktemp("template")
    assert run(config_of(folder / "data", folder / "outputs", [])).exit_status == 0
    return folder


@pytest.fixture(scope="module")
def digits(template: Path) -> Path:
    return template / "data"


@pytest.fixture
def trained(template: Path, tmp_path: Path) -> RunDirectory:
    """A copy of the finished run, which more iterations would continue."""
    shutil.copytree(template / "outputs", tmp_path / "outputs")
    return RunDirectory(load(config_of(template / "data", tmp_path / "outputs", [])).run_directory)


def put_checkpoint(run_directory: RunDirectory, content: bytes) -> None:
    """Make these bytes the newest checkpoint, with a checksum that is right."""
    (run_directory.checkpoints / "00000002.pt").write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    (run_directory.checkpoints / "00000002.sha256").write_text(checksum + "\n")


def altered(**changes: Any) -> Callable[[RunDirectory], bytes]:
    """The newest checkpoint with other values; None takes one away."""

    def alter(run_directory: RunDirectory) -> bytes:
        state = torch.load(run_directory.checkpoints / "00000002.pt", weights_only=True) | changes
        return torch_file({key: value for key, value in state.items() if value is not None})

    return alter


def of_another_width(run_directory: RunDirectory) -> bytes:
    state = torch.load(run_directory.checkpoints / "00000002.pt", weights_only=True)
    state["discriminator"] = {
        key: value.repeat(2) if value.ndim == 1 else value for key, value in state["discriminator"].items()
    }
    return torch_file(state)


CHECKPOINTS: dict[str, Callable[[RunDirectory], bytes]] = {
    "empty": lambda _: b"",
    "noise": lambda _: bytes(range(256)) * 10,
    "truncated before its checksum was taken": lambda run_directory: (
        run_directory.checkpoints / "00000002.pt"
    ).read_bytes()[:5000],
    "of another architecture": of_another_width,
    "without a network": altered(generator=None),
    "with another's network": altered(discriminator={"weight": torch.zeros(1)}),
    "with a network that is none": altered(generator=5),
    "without an optimizer": altered(g_optimizer=None),
    "with an optimizer that is none": altered(d_optimizer=[1, 2]),
    "without its iteration": altered(iteration=None),
    "with a word for its iteration": altered(iteration="two"),
    "with a negative iteration": altered(iteration=-2),
    "without the record's length": altered(record_length=None),
    "with a negative length": altered(record_length=-1),
    "of an older format": altered(format=0),
    "of a newer format": altered(format=99),
    "without a format": altered(format=None),
    "a list": lambda _: torch_file([1, 2, 3]),
    "a pickle with code": lambda run_directory: pickle.dumps(code(run_directory.root)),
    "a torch file with code": lambda run_directory: torch_file({"format": 1, "x": code(run_directory.root)}),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_bad_checkpoint(
    kind: str, trained: RunDirectory, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_checkpoint(trained, CHECKPOINTS[kind](trained))
    config = config_of(digits, tmp_path / "outputs", ["train.iterations=4"])
    refuse(config, str(trained.checkpoints), tmp_path, capsys=capsys)


def in_the_way(name: str) -> Callable[[RunDirectory], object]:
    """A folder where the run has a file."""
    return lambda run_directory: ((run_directory.root / name).unlink(), (run_directory.root / name).mkdir())


def file_instead(name: str) -> Callable[[RunDirectory], object]:
    """A file where the run has a folder."""
    return lambda run_directory: (
        shutil.rmtree(run_directory.root / name),
        (run_directory.root / name).write_text("in the way"),
    )


def config_yaml(content: bytes) -> Callable[[RunDirectory], object]:
    return lambda run_directory: run_directory.config.write_bytes(content)


def of_format(number: Any) -> Callable[[RunDirectory], object]:
    def change(run_directory: RunDirectory) -> None:
        config = yaml.safe_load(run_directory.config.read_text())
        run_directory.config.write_text(yaml.safe_dump({**config, "format": number}))

    return change


RUN_DIRECTORIES: dict[str, Callable[[RunDirectory], object]] = {
    "a config of an older version": of_format(CONFIG_FORMAT - 1),
    "a config of a newer version": of_format(CONFIG_FORMAT + 1),
    "a config of no version": of_format(None),
    "an empty config": config_yaml(b""),
    "a binary config": config_yaml(b"\xff\xfe\x00\x01"),
    "a config that is no YAML": config_yaml(b"{ : ["),
    "a config that is a list": config_yaml(b"- 1\n- 2\n"),
    "a config with a Python object": config_yaml(b"!!python/object/apply:os.system ['touch code-has-run']"),
    "a bottomless config": config_yaml(b"[" * 20_000),
    "a folder for a config": in_the_way("config.yaml"),
    "a folder for a record": in_the_way("metrics.jsonl"),
    "a folder for a log": in_the_way("train.log"),
    "a folder for a lock": in_the_way("lock"),
    "a file for the checkpoints": file_instead("checkpoints"),
    "a file for the samples": file_instead("samples"),
    "a file for everything": file_instead("."),
}


@pytest.mark.parametrize("kind", RUN_DIRECTORIES)
def test_a_bad_run_directory(
    kind: str, trained: RunDirectory, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RUN_DIRECTORIES[kind](trained)
    config = config_of(digits, tmp_path / "outputs", ["train.iterations=4"])
    refuse(config, str(trained.root), tmp_path, capsys=capsys)


def test_a_file_where_a_folder_should_be(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for values in ([], ["fresh=true"]):
        config = config_of(digits, tmp_path / "file", values)
        refuse(config, f"{tmp_path / 'file'}", tmp_path, capsys=capsys)
    refuse(
        config_of(tmp_path / "file", tmp_path / "outputs", []),
        f"{tmp_path / 'file'}",
        tmp_path,
        capsys=capsys,
    )


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount `folder` onto itself so that not even root can write there."""
    commands = (["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder])
    if shutil.which("mount") is None or subprocess.run(commands[0], capture_output=True).returncode:
        pytest.skip("this process may not mount file systems")
    try:
        subprocess.run(commands[1], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_folder_that_cannot_be_written(
    trained: RunDirectory, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    with read_only(outputs):
        for values in (["train.iterations=4"], ["seed=1"], ["fresh=true"]):
            refuse(config_of(digits, outputs, values), "Read-only file system", tmp_path, capsys=capsys)
        empty = config_of(outputs, tmp_path / "others", [])
        refuse(empty, "Read-only file system", tmp_path, capsys=capsys)


HOSTILE = (
    "os.system",
    "subprocess.call",
    "builtins.exec",
    "gan_lab.archs.dcgan.nn.Linear",
    "gan_lab.run.run",
)


@pytest.mark.parametrize("script", ["generate", "evaluate", "audit_norms"])
@pytest.mark.parametrize("target", HOSTILE)
def test_a_run_directory_can_name_no_code_to_run(
    target: str, script: str, trained: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = pytest.importorskip(f"scripts.{script}")
    config = yaml.safe_load(trained.config.read_text())
    config["arch"]["generator"] = {"_target_": target, "_args_": [f"touch {tmp_path}/code-has-run"]}
    trained.config.write_text(yaml.safe_dump(config))
    arguments = {"generate": ["--out", str(tmp_path / "grid.png")]}.get(script, [])
    before = tree(tmp_path)
    assert terminal.exit_status(lambda: module.main([str(trained.root), *arguments])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert target in line
    assert tree(tmp_path) == before


def test_a_run_directory_cannot_say_how_its_dataset_is_prepared(
    trained: RunDirectory, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = pytest.importorskip("scripts.evaluate")
    config = yaml.safe_load(trained.config.read_text())
    config["dataset"]["prepare"]["_target_"] = "os.system"
    config["dataset"]["prepare._target_"] = "os.system"
    trained.config.write_text(yaml.safe_dump(config))
    arguments = [str(trained.root), "--num", "50", f"paths.data={data}", "device=cpu"]
    assert evaluate.main(arguments) == 0, capsys.readouterr().err
    assert "metric/fid_digits_50" in capsys.readouterr().out


LINES: dict[str, list[str]] = {
    "an axis without such a choice": ["norm=nothing"],
    "a misspelt key": ["train.iteration=5"],
    "a line that is no override": ["norm"],
    "a bad value": ["seed=-1"],
    "a missing folder": ["dataset=folder"],
    "a sweep of bad values": ["-m", "seed=-1,-2"],
}


@pytest.mark.parametrize("kind", LINES)
def test_a_bad_command_line(
    kind: str, tiny: list[str], train_py: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    before = tree(tmp_path)
    done = train_py(*tiny, *LINES[kind])
    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    after = tree(tmp_path)
    # Hydra notes the command lines of a sweep before any job begins.
    assert {name for name in after if "sweeps" not in name} - {"outputs"} == before.keys()


def test_the_table_has_a_hundred_rows() -> None:
    tables = (VALUES, METRICS, WEIGHTS, ARCHIVES, FOLDERS, ARRAYS, CHECKPOINTS, RUN_DIRECTORIES, LINES)
    assert sum(map(len, tables)) >= 100
