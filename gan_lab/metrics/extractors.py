"""The networks that judge images, and where their weights lie.

Each function here is a choice of `extractor` in `configs/metrics`. An extractor of one's own is a function
that returns an `Extractor`.
"""

import hashlib
import io
import sys
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_lab.device import full_precision
from gan_lab.errors import UserError
from gan_lab.metrics.inception import FoldedInception

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
# torch-fidelity publishes the first eight digits, in the file's name.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DTYPES = {"exact": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Extractor:
    """A feature extractor ready to use.

    `network` maps uint8 images `[B, 3, H, W]` to (features `[B, F]`, logits for IS `[B, C]`). `identity`
    tells it from every other: its name, its layers, its weights' SHA-256, its precision. `suffix` ends the
    names of its metrics, and no two extractors share one: the plain names belong to Inception with its
    published weights in float32 only.
    `usual` is the number of samples that figures with no number in their names are of. `distance` is what the
    names of its Fréchet distances begin with.
    """

    network: nn.Module
    identity: dict[str, Any]
    suffix: str
    usual: int = 50_000
    distance: str = "fid"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, F]` and logits `[B, C]` of uint8 images `[B, 3, H, W]`, in float32 on its device."""
        device = next(chain(self.network.parameters(), self.network.buffers(), [images])).device
        with full_precision():
            features, logits = self.network(images.to(device, non_blocking=True))
        return features.float(), logits.float()


def digits(root: str) -> Extractor:
    """The judge of handwritten digits: a small classifier, trained on first use, kept under `root`."""
    from gan_lab.metrics import digits_extractor

    path = digits_extractor.weights(Path(root).expanduser() / "cache")
    content = path.read_bytes()
    network = digits_extractor.load(io.BytesIO(content))
    return Extractor(
        network, _identity(digits_extractor.NAME, digits_extractor.LAYERS, content), "_digits", usual=2000
    )


def inception(root: str, weights: str | None = None, precision: str = "exact") -> Extractor:
    """torch-fidelity's Inception; weights that are not given are found, or put, under `root`.

    `precision` is `exact` (float32, the features of torch-fidelity) or `bf16`. Raises UserError where the
    weights cannot be had or are none.
    """
    dtype = _dtype(precision)
    if not isinstance(weights, str | None):
        raise UserError(f"weights={weights} must be a string: quote it, or leave it null")
    path = Path(weights).expanduser() if weights else inception_weights(Path(root).expanduser())
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    suffix = "" if digest == INCEPTION_SHA256 else f"_unverified_{digest[:8]}"
    _refuse_code(content, path)
    network, identity = _load(content, path)
    suffix += "" if precision == "exact" else f"_{precision}"
    return Extractor(FoldedInception(network, dtype), {**identity, "precision": precision}, suffix)


def lite(precision: str = "exact") -> Extractor:
    """EfficientNet-Lite0 with its ImageNet weights: a judge of pictures that needs no download.

    Its distances are called `metric/fd_lite`, for they are no FIDs. `precision` as in `inception`. Raises
    UserError where the extra `judges` is not installed.
    """
    from gan_lab.metrics import lite as judge

    network, digest = judge.load(_dtype(precision))
    identity = {"name": judge.NAME, "weights": digest, "precision": precision}
    suffix = "_lite" if precision == "exact" else f"_lite_{precision}"
    return Extractor(network, identity, suffix, usual=10_000, distance="fd")


def dinov2(root: str, size: str = "l", weights: str | None = None) -> Extractor:
    """DINOv2, the judge of FD-DINOv2 (Stein et al. 2023).

    Weights that are not given are found, or put, under `root`. Its distances are called `metric/fd_dinov2_`
    and the first digits of the weights' SHA-256: no checksum of the published file is known here, and the
    name says which one judged. Raises UserError where the weights cannot be had or are none.
    """
    from gan_lab.metrics import dinov2 as judge

    if size not in judge.MODELS:
        raise UserError(f"size={size} is none of {', '.join(judge.MODELS)}: take one of them")
    if not isinstance(weights, str | None):
        raise UserError(f"weights={weights} must be a string: quote it, or leave it null")
    url = judge.published(size)
    path = Path(weights).expanduser() if weights else Path(root).expanduser() / url.rpartition("/")[2]
    if not weights and not path.exists():
        _download(url, path, "DINOv2's weights")
    content = _read(path)
    _refuse_code(content, path)
    network, digest = judge.load(content, size, path)
    identity = {"name": f"dinov2-vit-{size}-14", "weights": digest}
    return Extractor(network, identity, f"_dinov2_{digest[:8]}", usual=50_000, distance="fd")


def _download(url: str, path: Path, what: str, sha256: str | None = None) -> None:
    """Fetch a file, whole and with this checksum or not at all; raises UserError where it cannot be had."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{what} are missing and cannot be downloaded ({error}): get {url} on "
            f"a machine with a network and put it at {path}, or take metrics=none"
        ) from error


def _dtype(precision: str) -> torch.dtype:
    if precision not in DTYPES:
        raise UserError(f"precision={precision} is none of {', '.join(DTYPES)}: take one of them")
    return DTYPES[precision]


def inception_weights(root: Path) -> Path:
    """Inception's published weights under `root`, downloaded on first use, their checksum verified.

    Raises UserError where they cannot be had, or where the file of that name is another.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = root / INCEPTION_FILE
    if path.exists():
        if hashlib.sha256(_read(path)).hexdigest() != INCEPTION_SHA256:
            raise UserError(
                f"{path} is damaged or another file (its SHA-256 is not {INCEPTION_SHA256}): delete it, and "
                "it is downloaded anew"
            )
        return path
    _download(URL_INCEPTION_V3, path, "Inception's weights", INCEPTION_SHA256)
    return path


def _load(content: bytes, path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """torch-fidelity's Inception with these weights, and what tells it from every other."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    kind = FEATURE_EXTRACTORS_REGISTRY[INCEPTION]
    layers = [kind.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc")]
    try:
        # The bytes that were checked, not the file, which may have changed since: a loader reads both alike.
        network = create_feature_extractor(
            INCEPTION, layers, cuda=False, verbose=False, feature_extractor_weights_path=io.BytesIO(content)
        )
    except Exception as error:
        raise UserError(f"{path} does not hold the weights of {INCEPTION}: give another file") from error
    return network, _identity(INCEPTION, layers, content)


def _identity(name: str, layers: list[str], weights: bytes) -> dict[str, Any]:
    return {"name": name, "layers": layers, "weights": hashlib.sha256(weights).hexdigest()}


def _refuse_code(content: bytes, path: Path) -> None:
    """torch-fidelity unpickles whatever a file holds, so what holds more than plain tensors is not loaded."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about what is refused anyway
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is damaged or holds more than tensors, and is not loaded: give a plain state_dict"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} is no state_dict: give a file of weights")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the weights {path} cannot be read ({error.strerror}): give another file") from error
