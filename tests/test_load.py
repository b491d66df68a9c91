"""A trained generator comes out of a run's directory whole, and no code that the directory names is run."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gan_lab import norms
from gan_lab.config import compose
from gan_lab.config import load as load_config
from gan_lab.errors import UserError
from gan_lab.load import load, load_discriminator
from gan_lab.run import run
from gan_lab.runs import checkpoint

CPU = torch.device("cpu")


def train(tiny: list[str], *overrides: str) -> Path:
    config = compose([*tiny, "train.iterations=2", *overrides])
    assert run(config).exit_status == 0
    return load_config(config).run_directory


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    places = [f"paths.data={data}", f"paths.outputs={outputs}"]
    # xavier: images that differ at once, where small initial weights make them all grey
    return train(["experiment=tiny", "init=xavier", "metrics=none", "tracker=local", "device=cpu", *places])


@pytest.fixture
def finished(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of a run's directory, to do with as one likes."""
    return shutil.copytree(trained_once, tmp_path / "finished")


@pytest.fixture
def with_config(finished: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """The run's directory after a change of its config."""

    def change(how: Callable[[dict[str, Any]], None]) -> Path:
        config = yaml.safe_load((finished / "config.yaml").read_text())
        how(config)
        (finished / "config.yaml").write_text(yaml.safe_dump(config))
        return finished

    return change


@pytest.mark.parametrize(
    "overrides",
    [["norm=bssn"], ["norm=sn", "norm.target=both"], ["norm=none", "train.ema=0.5", "init=xavier"]],
)
def test_every_file_of_a_run_gives_the_generator_that_it_judged(
    tiny: list[str], overrides: list[str]
) -> None:
    directory = train(tiny, *overrides)
    stored = load_file(directory / "generator.safetensors")
    for source in (directory, directory / "generator.safetensors", directory / "checkpoints" / "00000002.pt"):
        trained = load(source, CPU)
        state = trained.generator.state_dict()
        assert state.keys() == stored.keys()
        assert all(torch.equal(state[name], stored[name]) for name in stored), source
        assert not trained.generator.training
        assert trained.generate(3, 5, "samples").shape == (2, 3, 32, 32)


def test_every_file_of_a_run_gives_the_discriminator(tiny: list[str]) -> None:
    """With its norms and singular vectors: the same scores from each, and a generator from none of them."""
    directory = train(tiny, "norm=bssn", "norm.gamma=shared")
    sources = [directory, directory / "discriminator.safetensors", directory / "checkpoints" / "00000002.pt"]
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    networks = [load_discriminator(source, CPU) for source in sources]
    scores = [network(image) for network in networks]
    assert all(torch.equal(one, scores[0]) for one in scores)
    norms.remove(networks[0])
    torch.testing.assert_close(networks[0](image), scores[0])
    with pytest.raises(UserError, match=r"discriminator\.safetensors does not hold the generator of"):
        load(sources[1], CPU)
    with pytest.raises(UserError, match=r"generator\.safetensors does not hold the discriminator of"):
        load_discriminator(directory / "generator.safetensors", CPU)
    sources[1].unlink()
    with pytest.raises(UserError, match=r"no discriminator\.safetensors yet: give its checkpoint"):
        load_discriminator(directory, CPU)


def test_images_are_numbered(finished: Path) -> None:
    trained = load(finished, CPU)
    images = trained.generate(0, 6, "samples")
    parts = torch.cat([trained.generate(0, 2, "samples"), trained.generate(2, 6, "samples")])
    assert (parts.int() - images.int()).abs().max() <= 1  # sums are rounded otherwise in other batches
    assert not torch.equal(trained.generate(0, 6, "evaluation"), images)
    assert torch.equal(trained.generate(0, 6, "samples", seed=0), images)
    assert not torch.equal(trained.generate(0, 6, "samples", seed=1), images)


def test_an_unfinished_run_points_to_its_checkpoint(finished: Path) -> None:
    (finished / "generator.safetensors").unlink()
    with pytest.raises(UserError, match=r"give its checkpoint .*00000002\.pt"):
        load(finished, CPU)


@pytest.mark.parametrize(
    "target",
    [
        "os.mkdir",
        "pathlib.Path.mkdir",
        "gan_lab.runs.directory.subprocess.call",  # within the package by its name alone
        "gan_lab.archs.dcgan.nn.Linear",
        "gan_lab.archs.common.torch.save",
        "gan_lab.tracking.jsonl.JsonLines",  # of the package, but it truncates a file
        "gan_lab.archsx.evil",
        "gan_lab.archs.no_such_module.make",
    ],
)
@pytest.mark.parametrize("where", ["network", "argument", "init", "norm"])
def test_what_is_not_the_projects_network_is_not_called(
    with_config: Callable[..., Path],
    tmp_path: Path,
    target: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = tmp_path / "marker"
    evil = {"_target_": target, "_args_": [str(marker)]}

    def plant(config: dict[str, Any]) -> None:
        if where == "network":
            config["arch"]["generator"] = evil
        elif where == "argument":
            config["arch"]["discriminator"]["width"] = [{"nested": evil}]
        elif where == "init":
            config["init"]["generator"] = evil
        else:
            config["norm"]["estimator"] = evil

    directory = with_config(plant)
    monkeypatch.setattr("gan_lab.load.build_networks", lambda *_: pytest.fail("went on"))
    with pytest.raises(UserError) as caught:
        load(directory, CPU)
    assert target in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_text_that_would_be_replaced_is_refused(
    with_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OmegaConf would make a config of it, with a target that nobody looked at."""
    hidden = "${oc.create:{_target_:os.mkdir}}"
    directory = with_config(lambda config: config["arch"]["generator"].update(width=hidden))
    with pytest.raises(UserError, match=r"oc\.create"):
        load(directory, CPU)


def test_yaml_that_makes_objects_is_refused(finished: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (finished / "config.yaml").write_text(f"arch: !!python/object/apply:os.mkdir ['{marker}']")
    with pytest.raises(UserError, match="cannot be read"):
        load(finished, CPU)
    assert not marker.exists()


MODULE = '''
from gan_lab.archs.dcgan import Generator
from os import mkdir

class Mine(Generator):
    """A user's own."""
'''


def test_a_users_own_module_is_taken_if_allowed(
    with_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    directory = with_config(lambda config: config["arch"]["generator"].update(_target_="my_networks.Mine"))
    with pytest.raises(UserError, match="--allow my_networks"):
        load(directory, CPU)
    assert "my_networks" not in sys.modules  # importing it would run it
    with pytest.raises(UserError, match="--allow my_networks"):
        load(directory, CPU, allow=["my_net"])
    assert type(load(directory, CPU, allow=["my_networks"]).generator).__name__ == "Mine"

    with_config(lambda config: config["arch"]["generator"].update(_target_="my_networks.mkdir"))
    with pytest.raises(UserError, match="posix"):
        load(directory, CPU, allow=["my_networks"])


def _lose(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def test_damaged_and_foreign_files_are_one_sentence(finished: Path, tiny: list[str], tmp_path: Path) -> None:
    other = train(tiny, "arch.width=0.1")
    (finished / "generator.safetensors").write_bytes((other / "generator.safetensors").read_bytes())
    _lose(finished / "checkpoints" / "00000002.pt")
    for source in (finished, finished / "checkpoints" / "00000002.pt"):
        with pytest.raises(UserError) as caught:
            load(source, CPU)
        assert "\n" not in str(caught.value)
    _lose(finished / "generator.safetensors")
    with pytest.raises(UserError, match="does not hold the generator"):
        load(finished, CPU)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((other / "generator.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"no config\.yaml"):
        load(alone, CPU)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config.pop("arch"),
        lambda config: config["norm"].pop("scale"),
        lambda config: config["arch"]["generator"].update(latent_dim=-5),
        lambda config: config["arch"]["generator"].update(no_such_argument=1),
        lambda config: config.update(seed="zero"),
    ],
)
def test_a_spoilt_config_is_one_sentence(
    with_config: Callable[..., Path], spoil: Callable[[dict[str, Any]], Any]
) -> None:
    with pytest.raises(UserError) as caught:
        load(with_config(spoil), CPU)
    assert "\n" not in str(caught.value)


def test_the_averaged_generator_is_the_one_of_a_checkpoint(tiny: list[str]) -> None:
    directory = train(tiny, "train.ema=0.9")
    path = directory / "checkpoints" / "00000002.pt"
    state = checkpoint.load(path)
    weight = load(path, CPU).generator.state_dict()["linear.weight"]
    assert torch.equal(weight, state["ema"]["linear.weight"])
    assert not torch.equal(weight, state["generator"]["linear.weight"])
    assert json.loads((directory / "status.json").read_text())["state"] == "finished"
