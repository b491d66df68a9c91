"""Images of a trained generator, as one grid or as single files."""

import argparse
import mimetypes
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gan_lab.commands import a_path
from gan_lab.device import pick_device, prepare_process
from gan_lab.errors import UserError
from gan_lab.images import write_grid, write_images
from gan_lab.load import load

BATCH = 100  # images made at once
OTHER_FILES = (".npy", ".npz", ".pt", ".safetensors", ".heic", ".jxl")  # of no kind that all systems know


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Images of a trained generator: one grid, or single files.")
    add = parser.add_argument
    add("source", type=a_path, help="a run's directory, its generator.safetensors, or a checkpoint")
    add("--num", type=int, default=64, help="how many images (default: 64)")
    add("--out", type=a_path, required=True, help="grid.png for one grid, a new folder for single images")
    add("--seed", type=int, help="of the latents (default: the run's own, which gives its own samples)")
    add("--label", type=int, help="the class of all images, for a generator that makes images of classes")
    add("--device", default="auto")
    add("--allow", action="append", default=[], metavar="MODULE", help="your module, which the run names")
    given = parser.parse_args(arguments)
    if given.num < 1:
        raise UserError(f"--num {given.num} is less than one image: raise it")
    if given.seed is not None and given.seed < 0:
        raise UserError(f"--seed {given.seed} is negative: take another")
    if _names_another_file(given.out):
        raise UserError(
            f"--out {given.out}: a grid is a PNG file: call it {given.out.with_suffix('.png')}, "
            "or give a folder"
        )
    device = pick_device(given.device)
    trained = load(given.source, device, given.allow)
    prepare_process(device, trained.config.train.tf32)  # for the images that the run makes

    def images(start: int) -> Tensor:
        stop = min(start + BATCH, given.num)
        labels = None if given.label is None else torch.full((stop - start,), given.label)
        return trained.generate(start, stop, "samples", given.seed, labels)

    batches = map(images, range(0, given.num, BATCH))
    try:
        if given.out.suffix.lower() == ".png":
            write_grid(given.out, torch.cat(list(batches)))
        else:
            write_images(given.out, batches)
    except OSError as error:
        raise UserError(f"{given.out} cannot be written ({error.strerror}): change --out") from error
    print(f"{given.num} images in {given.out}")
    return 0


def _names_another_file(path: Path) -> bool:
    """Whether a name ends as that of a file does, an image's or any other, but not as a PNG's."""
    ending = path.suffix.lower()
    known = ending in {*Image.registered_extensions(), *OTHER_FILES} or mimetypes.guess_type(path.name)[0]
    return bool(known) and ending != ".png" and not path.is_dir()
