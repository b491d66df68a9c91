"""The networks that judge images, from torch-fidelity's registry, and where their weights lie."""

import contextlib
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gan_lab.errors import UserError

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # its first digits, which torch-fidelity publishes in the file's name


@dataclass(frozen=True)
class Extractor:
    """A feature extractor ready to use.

    `network` maps uint8 images `[B, 3, H, W]` to (features for FID `[B, F]`, logits for IS `[B, C]`).
    `weights_sha256` tells one set of weights from another. `suffix` ends the names of its metrics: the plain
    names belong to Inception with its published weights alone.
    """

    network: nn.Module
    weights_sha256: str
    suffix: str


def create(name: str, root: Path, weights: Path | None, device: torch.device) -> Extractor:
    """The extractor `digits` or `inception`; weights that are not given are looked for under `root`."""
    if name == "digits":
        from gan_lab.metrics import digits_extractor

        path = weights or digits_extractor.weights(root)
        return _load(digits_extractor.NAME, path, "_digits", device)
    if name == "inception":
        path = weights or _find_inception(root)
        suffix = "" if _sha256(path).startswith(INCEPTION_SHA256) else "_unverified"
        return _load(INCEPTION, path, suffix, device)
    raise UserError(f"metrics.extractor={name} is not known: take digits or inception")


def _load(registered: str, path: Path, suffix: str, device: torch.device) -> Extractor:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    kind = FEATURE_EXTRACTORS_REGISTRY[registered]
    layers = [kind.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc")]
    try:
        network = create_feature_extractor(
            registered, layers, cuda=False, verbose=False, feature_extractor_weights_path=str(path)
        )
    except Exception as error:
        raise UserError(f"{path} does not hold the weights of {registered}: delete it or set metrics.weights") from error
    return Extractor(network.to(device), _sha256(path), suffix)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"the weights {path} cannot be read ({error.strerror}): set metrics.weights to a file") from error


def _find_inception(root: Path) -> Path:
    """Inception's weights under `root`, downloaded on first use."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = root / INCEPTION_FILE
    if path.exists():
        return path
    root.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_SHA256)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Inception's weights are missing and cannot be downloaded ({error}): get {URL_INCEPTION_V3} on a "
            f"machine with a network and put it at {path}, or take metrics=none"
        ) from error
    return path
