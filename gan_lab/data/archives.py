"""Published archives: finding, fetching, checking and reading them. Nothing is ever extracted to the disk."""

import contextlib
import gzip
import hashlib
import io
import stat
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from gan_lab.data.contents import Contents, combined
from gan_lab.data.preparation import UNVERIFIED
from gan_lab.data.progress import Progress
from gan_lab.data.raw import expanded, list_images, readable
from gan_lab.errors import UserError, one_line
from gan_lab.files import replacing


@dataclass(frozen=True)
class Published:
    """An archive that somebody published, and where a person gets it."""

    file: str
    md5: str
    images: int
    page: str
    folder: str  # the name of its extracted form
    url: str | None = None  # None: it cannot be downloaded without an account
    members: tuple[str, ...] = ()  # the files with images in the extracted form; (): every image below it


class PublishedOrigin:
    """A published archive (or its extracted folder) on this machine.

    It is `raw` if that is given, else what lies in `root`, else it is downloaded to there. With `verify` it
    must be the published one whole; without, any archive or folder of the same layout will do.
    """

    def __init__(self, published: Published, root: Path, raw: str | None, verify: bool) -> None:
        self.images = published.images if verify else None
        self._published, self._verify = published, verify
        self._root, self._raw = expanded(root), expanded(raw) if raw else None
        self._contents: Contents | None = None

    def key(self) -> str | None:
        """The origin's part of the array's name and metadata; the published archive need not be there.

        None: no archive is given or there, and any unverified one will do.
        """
        if self._verify:
            return f"{self._published.file}, all {self._published.images} images"
        if self._raw is None and not self._inside(self._root):
            return None
        raw = self.locate()
        folder, names = (raw, self._names(raw)) if raw.is_dir() else (raw.parent, [raw.name])
        with readable(raw):
            self._contents = Contents(folder, self._root)
            return f"{UNVERIFIED} {combined(self._contents.of(names))}"

    def _names(self, folder: Path) -> list[str]:
        """What is read of an extracted folder, in its order."""
        return list(self._published.members) or list_images(folder).names

    def remember(self) -> None:
        if self._contents:
            self._contents.remember()

    def locate(self) -> Path:
        """The archive or folder; raises UserError saying which file to get and where to put it."""
        published, raw = self._published, self._raw
        if raw is None:
            return self._inside(self._root) or _download(published, self._root)
        if not Path(raw).exists():
            raise UserError(f"dataset.raw={raw} does not exist: give the path of {published.file}")
        return self._inside(raw) or raw

    def _inside(self, folder: Path) -> Path | None:
        """The archive, or else its extracted form, in a folder."""
        names = (self._published.file, self._published.folder)
        return next((folder / name for name in names if (folder / name).exists()), None)

    def check(self, raw: Path) -> None:
        """Compare the archive's checksum with the published one; raises UserError. A folder has none."""
        if not self._verify or raw.is_dir():
            return
        published, found = self._published, _md5(raw)
        if found != published.md5:
            raise UserError(
                f"{raw} is not the published {published.file} (md5 {found}, not {published.md5}): "
                f"get it again from {published.page}, or take it as it is with dataset.verify=false"
            )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with (
        readable(path),
        path.open("rb") as file,
        Progress(f"checking {path.name}", path.stat().st_size, unit="bytes") as progress,
    ):
        while block := file.read(2**22):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def _download(published: Published, root: Path) -> Path:
    """Fetch the archive into `root`, whole or not at all."""
    place = root / published.file
    by_hand = (
        f"get {published.file} from {published.page} and put it at {place}, or set dataset.raw to where it is"
    )
    if published.url is None:
        raise UserError(f"{place} is missing and cannot be downloaded without an account: {by_hand}")
    from torchvision.datasets.utils import download_url

    print(f"downloading {published.url} to {place}", file=sys.stderr)
    bar = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with replacing(place) as temporary, bar:
            download_url(published.url, root, filename=temporary.name, md5=published.md5)
    except Exception as error:  # the host, the network and the Google Drive client raise anything
        reason = one_line(error).rstrip(".")
        raise UserError(f"{place} is missing and cannot be downloaded ({reason}): {by_hand}") from error
    return place


def check_name(name: str, archive: Path) -> str:
    """`name` as a plain relative path; raises UserError where a member would land outside of its archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise _outside(name, archive)
    return str(path)


def _outside(name: str, archive: Path) -> UserError:
    return UserError(
        f"{archive} holds {name!r}, which points outside of the archive: do not use it, get it again"
    )


def members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar, in its order; raises UserError at a link or an outside name."""
    for member in archive:
        member.name = check_name(member.name, path)
        if member.isfile():
            yield member
        elif not member.isdir():
            raise _outside(member.name, path)


def tar_gz(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, bytes, file) of each member of a .tar.gz, read in one pass, to its checksum at the end."""
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in members(archive, path):
            file = archive.extractfile(member)
            assert file is not None  # it is a regular file
            yield member.name, member.size, file
        while stream.read(2**20):
            pass


def published_files(path: Path, published: Published) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name in the archive, bytes, file) of each of its `members`, out of the .tar.gz or its extracted form.

    Raises UserError where there is none of them. To be read inside of `readable`.
    """
    wanted = [f"{published.folder}/{name}" for name in published.members]
    found = False
    for name, size, file in _extracted(path, wanted) if path.is_dir() else tar_gz(path):
        if name in wanted:
            found = True
            yield name, size, file
    if not found:
        raise UserError(
            f"{path} holds no {wanted[0]}: give {published.file}, or {published.folder}, the folder that it "
            "extracts to"
        )


def _extracted(folder: Path, names: list[str]) -> Iterator[tuple[str, int, IO[bytes]]]:
    for name in names:
        path = folder / PurePosixPath(name).name
        if path.is_file():
            with path.open("rb") as file:
                yield name, path.stat().st_size, file


def zip_names(path: Path) -> list[str]:
    """The names of a zip's members, sorted; raises UserError at a link or an outside name."""
    with readable(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            check_name(info.filename, path)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _outside(info.filename, path)
        return sorted(archive.namelist())
