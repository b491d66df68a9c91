"""Run directories that nobody trained, of any size, in the shape that training writes.

python tests/synthetic_runs.py FOLDER --norms none,sn,bssn --seeds 3 --rows 1000 makes some to look at.
"""

import argparse
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from gan_lab.config import compose, identity, resolved
from gan_lab.runs.directory import CONFIG_FORMAT

LAYERS = {  # of the reference's CNN at 32 pixels: (fan-in, fan-out)
    "conv0": (27, 576),
    "conv1": (1024, 1024),
    "conv2": (576, 1152),
    "conv3": (2048, 2048),
    "conv4": (1152, 2304),
    "conv5": (4096, 4096),
    "conv6": (2304, 4608),
    "linear": (8192, 1),
}
GENERATOR = ("linear", "deconv1", "deconv2", "deconv3", "deconv4")
FINAL_FID = {"none": 42.0, "sn": 24.0, "ssn": 21.5, "bsn": 22.6, "bssn": 19.8, "strict_sn": 31.0}
PHASES = 200  # of training; rows of one phase are copies of a few
COPIES = 3


@functools.cache
def _config(norm: str) -> dict[str, Any]:
    return resolved(compose([f"norm={norm}", "dataset=cifar10", "tracker=local", "metrics=paper"]))


def make_run(
    root: Path,
    norm: str = "bssn",
    seed: int = 0,
    rows: int = 60,
    log_every: int = 50,
    probe_every: int = 100,
    evaluations: int = 10,
    grids: int = 3,
    state: str = "finished",
    reason: str = "",
    spike_at: int | None = None,
    **changes: Any,
) -> Path:
    """One run with `rows` lines of record below `root`; returns its directory.

    `changes` are config keys with their dots as double underscores: norm__scale=1.4. At row `spike_at` the
    loss is a thousand for once.
    """
    config = json.loads(json.dumps(_config(norm)))
    config["seed"] = seed
    config["train"] |= {"iterations": rows * log_every, "log_every": log_every}
    config["probes"]["every"] = probe_every
    config["paths"]["outputs"] = str(root)
    for key, value in changes.items():
        *parents, last = key.split("__")
        functools.reduce(lambda node, part: node[part], parents, config)[last] = value
    # Not as `Config.run_directory` has it, which refuses what no run could be called.
    names = (config[axis]["name"].replace("/", "_") for axis in ("dataset", "arch", "norm"))
    decides = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]
    folder = root.joinpath(*names, f"seed{seed}-{decides}")
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"format": CONFIG_FORMAT, **config}, sort_keys=False))
    status = {"state": state, "iteration": rows * log_every, "reason": reason, "seed": seed, "device": "cpu"}
    (folder / "status.json").write_text(json.dumps(status))
    rng = np.random.default_rng([seed, *norm.encode(), int(1000 * config["norm"]["scale"])])
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines(_lines(config, rng, rows, log_every, probe_every, evaluations, spike_at))
    for number in range(1, grids + 1):
        _grid(rng, number / grids).save(folder / "samples" / f"{rows * log_every * number // grids:08d}.png")
    return folder


def _lines(
    config: dict[str, Any],
    rng: np.random.Generator,
    rows: int,
    log_every: int,
    probe_every: int,
    evaluations: int,
    spike_at: int | None,
) -> Iterator[str]:
    norm, scale = config["norm"]["name"], config["norm"]["scale"]
    offset = rng.normal()
    goal = FINAL_FID.get(norm, 30.0) * (1 + 0.35 * math.log(scale / 1.2) ** 2) + offset
    evaluate_every = max(1, rows // evaluations)
    for row in range(1, rows + 1):
        phase = min(PHASES - 1, row * PHASES // rows)
        if (row - 1) * PHASES // rows != row * PHASES // rows or row == 1:
            short = [_body(_losses(norm, phase, rng)) for _ in range(COPIES)]
            long = [
                _body(_losses(norm, phase, rng) | _probes(norm, scale, phase, rng)) for _ in range(COPIES)
            ]
        iteration = row * log_every
        body = (long if iteration % probe_every == 0 else short)[row % COPIES]
        if row == spike_at:
            body = _body(_losses(norm, phase, rng) | {"loss/d": 1000.0})
        if row % evaluate_every == 0 or row == rows:
            fid = goal + 160 * math.exp(-6 * row / rows) + rng.normal() * 0.4
            scores = {"metric/fid": fid, "metric/is_mean": 1 + 9 * math.exp(-fid / 70), "metric/is_std": 0.08}
            body = f"{body[:-2]}, {_body(scores)}"
        yield f'{{"iteration": {iteration}, {body}'


def _body(values: dict[str, float]) -> str:
    return json.dumps(values)[1:] + "\n"


def _losses(norm: str, phase: int, rng: np.random.Generator) -> dict[str, float]:
    share = phase / PHASES
    noise = rng.normal(0, 0.12, 6)
    loss = 2 * math.exp(-4 * share) + (0.4 if norm == "none" else 0.9) + noise[0]
    return {
        "loss/d": loss,
        "loss/d_real": loss / 2 + noise[1] / 4,
        "loss/d_fake": loss / 2 - noise[1] / 4,
        "score/real": 0.6 + noise[2],
        "score/fake": -0.4 + noise[3],
        "loss/g": 0.3 + share / 2 + noise[4],
        "speed/step_ms": 24.0 + noise[5],
        "speed/images_per_s": 64_000 / (24.0 + noise[5]),
        "memory/peak_mb": 812.5,
    }


def _probes(norm: str, scale: float, phase: int, rng: np.random.Generator) -> dict[str, float]:
    share = phase / PHASES
    wild = 8 if norm == "none" else 1
    values: dict[str, float] = {}
    for kind in ("real", "fake"):
        slope = scale * (0.3 + share) * math.exp(rng.normal(0, 0.1 * wild))
        values |= {
            f"slope/{kind}_mean": slope,
            f"slope/{kind}_min": slope / 2,
            f"slope/{kind}_max": slope * 2,
        }
    total = 0.0
    for depth, (layer, (fan_in, fan_out)) in enumerate(LAYERS.items()):
        gradient = (4.0 - depth / 3) * math.exp(rng.normal(0, 0.12 * wild) - share)
        total += gradient**2
        drift = 1 + (share * 3 if norm == "none" else 0.15 * share * (1 + depth / 8))
        variance = drift / fan_in * {"strict_sn": 0.3, "none": 0.02}.get(norm, 1.0) * scale**2
        values |= {
            f"grad_norm/d/{layer}": gradient,
            f"weight_var/{layer}": variance,
            f"weight_var_ratio/{layer}": variance * fan_in,
            f"weight_var_lecun/{layer}": 1 / fan_in,
            f"weight_var_xavier/{layer}": 2 / (fan_in + fan_out),
            f"weight_var_kaiming/{layer}": 2 / fan_in,
        }
        if norm != "none":
            sigma = 0.4 + depth / 10 + 0.5 * share * (1 + depth / 8) + rng.normal(0, 0.004)
            values |= {
                f"sigma/{layer}": sigma,
                f"sigma_out/{layer}": sigma * 0.98,
                f"sigma_in/{layer}": sigma * 1.02,
            }
        if phase % 20 == 0:
            values[f"grad_bound/d/{layer}"] = 40 * (8 - depth) * scale * (1 + share)
    values["grad_norm/d"] = math.sqrt(total)
    values["grad_norm/g"] = 2.0 * math.exp(rng.normal(0, 0.2) - share)
    values |= {f"grad_norm/g/{layer}": 0.7 for layer in GENERATOR}
    return values


def _grid(rng: np.random.Generator, share: float, size: int = 32) -> Image.Image:
    """A 10×10 grid of soft blobs that get clearer as training goes on, laid out as training's."""
    side = 10 * (size + 2) + 2
    grid = np.full((side, side, 3), 255, np.uint8)
    y, x = np.mgrid[:size, :size] / size - 0.5
    colours = np.random.default_rng(1).uniform(60, 230, (100, 2, 3))
    for place, (row, column) in enumerate(itertools.product(range(10), range(10))):
        round_ = np.exp(-((x**2 + y**2) * (8 + place % 7)))[..., None]
        image = colours[place, 0] * round_ + colours[place, 1] * (1 - round_)
        image = share * image + (1 - share) * rng.uniform(60, 200, image.shape)
        top, left = row * (size + 2) + 2, column * (size + 2) + 2
        grid[top : top + size, left : left + size] = image
    return Image.fromarray(grid)


def make_sweep(
    root: Path, norms: Sequence[str], scales: Sequence[float], seeds: int, **options: Any
) -> list[Path]:
    """A run for each norm, scale (none: the norm's own) and seed."""
    changes: list[dict[str, Any]] = [{"norm__scale": scale} for scale in scales] or [{}]
    return [
        make_run(root, norm, seed, **options, **change)
        for norm, change, seed in itertools.product(norms, changes, range(seeds))
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run directories that nobody trained.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--norms", default="none,sn,ssn,bsn,bssn")
    parser.add_argument("--scales", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--grids", type=int, default=12)
    given = parser.parse_args()
    made = make_sweep(
        given.folder,
        given.norms.split(","),
        [float(scale) for scale in given.scales.split(",") if scale],
        given.seeds,
        rows=given.rows,
        log_every=given.log_every,
        evaluations=given.evaluations,
        grids=given.grids,
    )
    print(f"{len(made)} runs in {given.folder}")
