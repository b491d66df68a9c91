"""Runs' records in one small file: configs, states and metrics, to be kept in a repository."""

import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from gan_lab.errors import UserError
from gan_lab.files import replacing
from gan_lab.report.grids import available, corner, is_grid, side_of
from gan_lab.report.runs import MARKS, Run, one_of_each

SUFFIX = ".tar.xz"
SAMPLES = "samples"  # a run's folder of grids
DIGITS = 6  # of a number in a packed record; metric/... keep all
MOST_BYTES, MOST_FILES = 2**31, 200_000  # that an archive may hold


def pack(runs: Sequence[Run], out: Path, samples: bool = False) -> int:
    """Write the records of these runs to `out`, and return its size in bytes.

    With `samples`, of one run of each setting the first images of its last grid too, as many as chapters and
    pages show. The same runs give the same bytes. Numbers of metrics.jsonl are rounded to six digits, but for
    the metrics themselves; lines that cannot be read are left out. Raises UserError where it cannot write.
    """
    if not out.name.endswith(SUFFIX):
        raise UserError(f"{out} does not end in {SUFFIX}: call it so")
    try:
        with replacing(out.resolve()) as temporary, tarfile.open(temporary, "w:xz", preset=9) as archive:
            for name in MARKS:  # files of one kind next to each other, which compress together
                for run in runs:
                    path = run.directory.root / name
                    if path.is_file():
                        _add(archive, run, name, PACKED.get(name, Path.read_bytes)(path))
            with_grids = [run for run in runs if samples and available(run.directory.samples)]
            for run in one_of_each(with_grids):
                *_, last = available(run.directory.samples).values()
                _add(archive, run, f"{SAMPLES}/{last.name}", _first_images(last, side_of(run)))
    except OSError as error:
        raise UserError(f"the records cannot be packed ({error}): see to that") from error
    return out.stat().st_size


def _add(archive: tarfile.TarFile, run: Run, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(str(PurePosixPath(run.name, name)))
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@contextlib.contextmanager
def opened(source: Path) -> Iterator[Path]:
    """A folder of runs as it is; one that was packed in a file unpacked for as long as it is needed."""
    if not source.name.endswith(SUFFIX):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="gan-lab-") as folder:
        try:
            with tarfile.open(source, "r:xz") as archive:
                _unpack(archive, Path(folder))
        except FileNotFoundError as error:
            raise UserError(f"{source} does not exist: give packed records, or a folder of runs") from error
        except (OSError, EOFError, tarfile.TarError, ValueError) as error:
            raise UserError(f"{source} is no archive of runs, or damaged ({error}): give another") from error
        yield Path(folder)


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Plain files of a run's record only, whatever else an archive may hold."""
    left = MOST_BYTES
    for number, member in enumerate(archive):
        left -= member.size
        if left < 0 or number >= MOST_FILES:
            raise ValueError("it is too large")
        if member.isfile() and _is_of_a_record(PurePosixPath(member.name)):
            archive.extract(member, folder, set_attrs=False, filter="data")


def _is_of_a_record(path: PurePosixPath) -> bool:
    return path.name in MARKS or (path.parent.name == SAMPLES and is_grid(path))


def _first_images(grid: Path, size: int) -> bytes:
    out = io.BytesIO()
    try:
        corner(grid, size).save(out, "PNG", optimize=True)
    except Exception as error:  # a damaged image can fail in any way
        raise UserError(f"{grid} cannot be read ({error}): remove it, or pack without samples") from error
    return out.getvalue()


def _without_places(path: Path) -> bytes:
    """The config, with the folders of data and of runs called by their usual names."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    usual = {str(config["paths"][name]): name for name in ("outputs", "data")}

    def renamed(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: renamed(value) for key, value in node.items()}
        return usual.get(node, node) if isinstance(node, str) else node

    return yaml.safe_dump(renamed(config), sort_keys=False, allow_unicode=True).encode()


def _rounded(path: Path) -> bytes:
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            lines.append(json.dumps({name: _short(name, value) for name, value in row.items()}) + "\n")
    return "".join(lines).encode()


def _short(name: str, value: Any) -> Any:
    if isinstance(value, float) and not name.startswith("metric/"):
        return float(f"{value:.{DIGITS}g}")
    return value


PACKED: dict[str, Callable[[Path], bytes]] = {"config.yaml": _without_places, "metrics.jsonl": _rounded}
