"""Whether two versions of this project compute the same: hashes of what short runs leave behind.

    python tests/same_bits.py --write before.json      # on the version before the change
    python tests/same_bits.py --compare before.json    # on the one after; exit status 1 where a bit differs

The runs take 20 iterations of the smallest networks: every norm, CNN and ResNet, fp32 and bf16, with and
without a gradient penalty, and what has code of its own. Further arguments are overrides for all runs. It
holds for one machine and one PyTorch: other processors and versions round differently.
"""

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported; sums depend on it

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from gan_lab.config import compose
from gan_lab.run import run

NORMS = ("none", "sn", "ssn", "bsn", "bssn", "strict_sn")
COMMON = (
    "experiment=tiny", "metrics=none", "tracker=local", "device=cpu", "optimizer=adam", "init=xavier",
    "train.iterations=20", "train.batch_size=8", "train.log_every=1", "train.sample_every=10",
    "train.checkpoint_every=10", "probes.every=5", "probes.audit_every=10",
)  # fmt: skip
GRID = tuple(
    f"norm={norm} arch={arch} train.precision={precision} penalty={penalty}"
    for norm, arch, precision, penalty in product(
        NORMS, ("dcgan", "resnet"), ("fp32", "bf16"), ("none", "gradient_penalty")
    )
)
CODE_OF_THEIR_OWN = (
    "norm=bssn norm.gamma=shared norm.target=both train.ema=0.9 optimizer=adam_ndis5",
    "norm=bssn norm.gamma=per_layer loss=wgan_gp",
    "norm=sn penalty=r1 optimizer.decay=linear",
    "norm=sn train.resident_gb=0 optimizer.n_dis=3 train.g_batch_size=12",
    "norm=none loss=nonsaturating",
    "norm=none loss=wasserstein init=normal",
    "norm=batch_norm optimizer.n_dis=2",
    "norm=layer_norm arch=resnet train.precision=bf16",
    "norm=gradient_normalization optimizer=adam_ndis5",
    "norm=sn norm.output=gradient arch=resnet train.precision=bf16",
    "norm=none loss=relativistic penalty=r1_r2 penalty.every=3",
    "norm=none loss=nonsaturating penalty=dragan",
    "norm=sn penalty=orthogonal",
    "norm=sn augment=diffaugment",
    "norm=sn metrics=digits train.evaluate_every=10",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--write", type=Path, metavar="FILE")
    add("--compare", type=Path, metavar="FILE")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            line: hashes([*line.split(), *given.overrides], Path(folder))
            for line in tqdm((*GRID, *CODE_OF_THEIR_OWN), disable=None)
        }
    if given.write:
        given.write.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} runs in {given.write}")
        return 0
    before = json.loads(given.compare.read_text())
    differences = {line: differing(before.get(line, {}), left) for line, left in found.items()}
    for line, names in differences.items():
        if names:
            print(f"{line}\n    {', '.join(names)}")
    count = sum(map(bool, differences.values()))
    print(f"{len(found) - count} runs left the same bits, {count} did not")
    return int(count > 0)


def hashes(overrides: list[str], folder: Path) -> dict[str, str]:
    """Trains a run; returns a hash for each metric's whole course, each grid of samples and the weights."""
    outputs = tempfile.mkdtemp(dir=folder)
    paths = [f"paths.data={folder}/data", f"paths.outputs={outputs}"]
    with redirect_stdout(io.StringIO()):
        outcome = run(compose([*COMMON, *overrides, *paths]))
    if outcome.exit_status:
        raise SystemExit(f"{' '.join(overrides)} ended with {outcome.exit_status}: run it to see why")
    (record,) = Path(outputs).rglob("metrics.jsonl")
    return dict(_hashes(record.parent))


def _hashes(directory: Path) -> Iterator[tuple[str, str]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for name in sorted(set().union(*rows)):
        if not name.startswith(("speed/", "memory/")):
            yield name, _sha(json.dumps([row.get(name) for row in rows]).encode())
    for path in sorted(directory.glob("samples/*.png")):
        yield f"samples/{path.name}", _sha(path.read_bytes())
    yield "generator", _values(load_file(directory / "generator.safetensors"))
    newest = max(directory.glob("checkpoints/*.pt"))
    yield "checkpoint", _values(torch.load(newest, map_location="cpu", weights_only=True))


def _values(node: Any) -> str:
    """Of all real numbers in a state, whatever their names and order: a checkpoint may be laid out anew."""
    return _sha(
        *sorted(_sha(_bytes(tensor)).encode() for tensor in _tensors(node) if tensor.is_floating_point())
    )


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _tensors(child)


def _bytes(tensor: Tensor) -> bytes:
    return str(tuple(tensor.shape)).encode() + tensor.detach().double().contiguous().numpy().tobytes()


def _sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


if __name__ == "__main__":
    sys.exit(main())
