"""How fast images are prepared and drawn, and how long training waits for them."""

import functools
import io
import os
import statistics
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gans import gan_for, the_device
from benchmarks.plain import loader, write_cifar10
from benchmarks.rows import Row, median_ratio
from benchmarks.timing import in_turn, seconds
from gan_lab.data import Batches, ImageArray, celeba, open_array, write_array
from gan_lab.files import write_json
from gan_lab.training.gan import IterationInputs

HOST = torch.device("cpu")
BATCH = 64


def data_path(rounds: int = 5) -> Iterator[Row]:
    """`ratio/data_path`: images a second of our batches over torchvision's CIFAR-10 with a DataLoader.

    The DataLoader runs through an epoch with no and with two workers, and the faster one counts.
    """
    device = the_device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_cifar10(folder)
        array = write_array(folder / "cifar10.npy", images, {})
        batches = Batches(array.images, [BATCH], seed=0, device=device)
        count = len(images) // BATCH

        def ours() -> float:
            return (
                seconds(lambda: _use(batches.draw(number)[0].images for number in range(count)), device)
                / count
            )

        def theirs(workers: int) -> float:
            batches = loader(folder, workers, BATCH)
            return seconds(lambda: _use(batch.to(device) for batch, _ in batches), device) / count

        workers = {f"loader/{number}": functools.partial(theirs, number) for number in (0, 2)}
        times = in_turn({"ours": ours, **workers}, rounds)
    fastest = min(workers, key=lambda name: statistics.median(times[name]))
    yield Row("ratio/data_path", median_ratio(times[fastest], times["ours"]), "×")
    yield Row("speed/data_path", BATCH / statistics.median(times["ours"]), "images/s")
    yield Row("speed/data_path/loader", BATCH / statistics.median(times[fastest]), "images/s")


def _use(batches: Iterator[Tensor]) -> None:
    """One after the other, none kept, as training uses them."""
    for _ in batches:
        pass


def preparation(rounds: int = 3, count: int = 6000) -> Iterator[Row]:
    """`ratio/prepare`: images a second of CelebA's preparation, over a plain single-process Pillow loop.

    Both read 178×218 JPEGs from a zip and write an array of 64 pixels, and the arrays are the same.
    """
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "img_align_celeba.zip"
        _write_jpegs(archive, count)
        for number in range(rounds):
            folder = Path(name) / f"round{number}"
            folder.mkdir()
            plain_array = folder / "plain.npy"
            plain.append(count / seconds(functools.partial(_plain_loop, archive, plain_array), HOST))
            prepare = functools.partial(celeba.prepare, folder, raw=str(archive), verify=False)
            ours.append(count / seconds(prepare, HOST))
            if not np.array_equal(np.load(plain_array), prepare().images):
                raise AssertionError("the plain loop gives other pixels")
    yield Row("ratio/prepare", median_ratio(ours, plain), "×")
    yield Row("speed/prepare", statistics.median(ours), "images/s")
    yield Row("speed/prepare/plain", statistics.median(plain), "images/s")


def _write_jpegs(path: Path, count: int) -> None:
    """A zip of smooth noise, of the size of CelebA's images in pixels and about that in bytes."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (27, 22, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((178, 218), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
            archive.writestr(f"img_align_celeba/{number + 1:06d}.jpg", file.getvalue())


def _plain_loop(archive: Path, array: Path) -> None:
    images = []
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            with Image.open(io.BytesIO(files.read(name))) as image:
                face = image.convert("RGB").crop((25, 45, 153, 173))
            images.append(np.asarray(face.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1))
    np.save(array, np.stack(images))


def waiting(steps: int = 8, gb: float = 4.0) -> Iterator[Row]:
    """`wait/...`: the share of an iteration of the CNN (batch 64) in which it waits for what is drawn.

    Of CIFAR-10's number of images on the device, and of `gb` on the disk with none of it in memory at first.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        images = rng.integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
        small = write_array(Path(name) / "small.npy", images, {})
        yield Row("wait/resident", wait_share(small, "cifar10", 1, steps), "of an iteration")
        large = _write_noise(Path(name) / "large.npy", gb)
        yield Row("wait/on_disk", wait_share(large, "celeba", 0, steps), "of an iteration")


def wait_share(array: ImageArray, dataset: str, resident_gb: float, steps: int) -> float:
    """The median share of an iteration of `dataset`'s defaults in which it waits for what is drawn."""
    overrides = [f"dataset={dataset}", f"train.resident_gb={resident_gb}"]
    gan, _ = gan_for(overrides, array.path.parent, array)
    shares = []
    with gan.drawing_ahead():
        for _ in range(steps + 2):
            inputs: list[IterationInputs] = []
            waited = seconds(lambda: inputs.append(gan.draw(gan.iteration + 1)), gan.device)  # noqa: B023
            trained = seconds(lambda: gan.update(inputs[0]), gan.device)  # noqa: B023
            shares.append(waited / (waited + trained))
    return statistics.median(shares[2:])  # the first ones warm up


def _write_noise(path: Path, gb: float) -> ImageArray:
    """Images of 64 pixels, written to the disk and then dropped from memory."""
    block = np.random.default_rng(0).integers(0, 256, (4096, 3, 64, 64), dtype=np.uint8)
    count = int(gb * 1e9 / block.nbytes) * len(block)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, 64, 64)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, len(block)):
            file.write(np.roll(block, start, axis=0).data)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    write_json(path.with_suffix(".json"), {"shape": [count, 3, 64, 64]})
    return open_array(path)
