"""Inception's weights: found or fetched, and checked before they are loaded."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3

from gan_lab.data import ImageArray
from gan_lab.errors import UserError
from gan_lab.metrics import Evaluator, Protocol, extractors, inception_weights
from gan_lab.metrics.extractors import INCEPTION_FILE, inception


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(
        0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_other_weights_work_and_are_called_unverified_by_their_checksum(
    random_weights: Path, pixels: Tensor, array_of: Callable[..., ImageArray], tmp_path: Path
) -> None:
    extractor = inception(str(tmp_path), str(random_weights))
    assert extractor.identity["weights"] == sha256(random_weights)
    protocol = Protocol(num_generated=6, is_splits=2, kid_subset_size=5, measure=("is", "kid", "prc"))
    evaluator = Evaluator(extractor, array_of(pixels.flip(3)), tmp_path, protocol, batch_size=3)
    values = evaluator.evaluate(lambda start, stop: pixels[start:stop])
    assert len(values) == 6
    assert all(f"_unverified_{sha256(random_weights)[:8]}_" in name for name in values)
    assert all(torch.isfinite(torch.tensor(value)) for value in values.values())


def test_only_the_published_weights_have_the_plain_names(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inception(str(tmp_path), str(random_weights)).suffix == f"_unverified_{sha256(random_weights)[:8]}"
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256(random_weights))
    assert inception(str(tmp_path), str(random_weights)).suffix == ""
    assert inception(str(tmp_path), str(random_weights), "bf16").suffix == "_bf16"


def test_the_checksum_is_what_the_published_name_states() -> None:
    stated = Path(feature_extractor_inceptionv3.URL_INCEPTION_V3).stem.rsplit("-", 1)[1]
    assert extractors.INCEPTION_SHA256.startswith(stated)
    assert len(extractors.INCEPTION_SHA256) == 64
    assert feature_extractor_inceptionv3.URL_INCEPTION_V3.endswith(f"/{INCEPTION_FILE}")


def test_weights_are_downloaded_once_and_verified(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", random_weights.as_uri())
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256(random_weights))
    path = inception_weights(tmp_path / "new" / "data")
    assert path == tmp_path / "new" / "data" / INCEPTION_FILE
    assert path.read_bytes() == random_weights.read_bytes()
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", "file:///nowhere")
    assert inception_weights(tmp_path / "new" / "data") == path


def test_a_download_with_another_checksum_is_not_kept(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", random_weights.as_uri())
    with pytest.raises(UserError, match="invalid hash"):
        inception_weights(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file:///nowhere/{INCEPTION_FILE}"
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", url)
    with pytest.raises(UserError) as caught:
        inception(str(tmp_path))
    message = str(caught.value)
    assert url in message
    assert str(tmp_path / INCEPTION_FILE) in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_of_the_published_name_is_refused_before_it_is_loaded(
    random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / INCEPTION_FILE
    path.write_bytes(random_weights.read_bytes())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match="delete it"):
        inception(str(tmp_path))
    assert path.exists()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_weights_that_run_code_are_refused_and_do_not_run_it(
    tmp_path: Path, write: Callable[[object, Path], object]
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "bomb.pth"
    write({"Conv2d_1a_3x3.conv.weight": Bomb(marker)}, path)
    with pytest.raises(UserError, match="more than tensors"):
        inception(str(tmp_path), str(path))
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(3)}, "does not hold the weights of inception-v3-compat"),
        ([torch.zeros(3)], "no state_dict"),
        ({"weight": 3}, "no state_dict"),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path: Path, state: object, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=message):
        inception(str(tmp_path), str(path))


def test_truncated_and_missing_weights_are_refused(random_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "truncated.pth"
    path.write_bytes(random_weights.read_bytes()[:10_000_000])
    with pytest.raises(UserError, match=r"truncated\.pth is damaged"):
        inception(str(tmp_path), str(path))
    with pytest.raises(UserError, match="cannot be read"):
        inception(str(tmp_path), str(tmp_path / "nothing.pth"))
