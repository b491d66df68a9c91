"""Published archives: found, fetched, verified, and refused with one sentence where they are other ones."""

import dataclasses
import functools
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import official_archives
import pytest
import torchvision.datasets
from torchvision.datasets.imagenet import ARCHIVE_META

from gan_lab.data import celeba, cifar10, imagenet, stl10
from gan_lab.data.archives import PublishedOrigin, check_name
from gan_lab.errors import UserError

DATASETS = {"cifar10": cifar10, "stl10": stl10, "celeba": celeba, "imagenet": imagenet}


def make(name: str, folder: Path) -> Path:
    """A small archive of the official layout, under its official name."""
    path = folder / DATASETS[name].PUBLISHED.file
    folder.mkdir(exist_ok=True)
    getattr(official_archives, name)(path)
    return path


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest) -> str:
    return request.param


def sentence(module: ModuleType, root: Path, **options: object) -> str:
    """What preparing says when it refuses; it must be one line and leave nothing new behind."""
    before = {path.name for path in root.iterdir()} if root.exists() else set()
    with pytest.raises(UserError) as refused:
        module.prepare(root, **options)
    assert {path.name for path in root.iterdir()} == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_checksums_are_those_that_torchvision_publishes() -> None:
    assert (cifar10.PUBLISHED.file, cifar10.PUBLISHED.md5) == (
        torchvision.datasets.CIFAR10.filename,
        torchvision.datasets.CIFAR10.tgz_md5,
    )
    assert (stl10.PUBLISHED.file, stl10.PUBLISHED.md5) == (
        torchvision.datasets.STL10.filename,
        torchvision.datasets.STL10.tgz_md5,
    )
    _, md5, file = torchvision.datasets.CelebA.file_list[0]
    assert (celeba.PUBLISHED.file, celeba.PUBLISHED.md5) == (file, md5)
    assert (imagenet.PUBLISHED.file, imagenet.PUBLISHED.md5) == ARCHIVE_META["train"]
    assert cifar10.PUBLISHED.url == torchvision.datasets.CIFAR10.url
    assert stl10.PUBLISHED.url == torchvision.datasets.STL10.url


def test_an_archive_with_another_checksum_is_refused(dataset: str, tmp_path: Path) -> None:
    path = make(dataset, tmp_path)
    found = hashlib.md5(path.read_bytes()).hexdigest()
    said = sentence(DATASETS[dataset], tmp_path)
    assert found in said
    assert DATASETS[dataset].PUBLISHED.md5 in said
    assert "dataset.verify=false" in said


def test_the_published_archive_is_taken_and_then_not_needed_any_more(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, path = DATASETS[dataset], make(dataset, tmp_path)
    images = len(module.prepare(tmp_path, verify=False).images)
    content = path.read_bytes()
    facts = {"md5": hashlib.md5(content).hexdigest(), "images": images}
    monkeypatch.setattr(module, "PUBLISHED", dataclasses.replace(module.PUBLISHED, **facts))
    array = module.prepare(tmp_path)
    path.unlink()
    assert module.prepare(tmp_path).fingerprint == array.fingerprint

    path.write_bytes(content)
    monkeypatch.setattr(module, "PUBLISHED", dataclasses.replace(module.PUBLISHED, images=images + 1))
    assert f"holds {images} images, not {images + 1}" in sentence(module, tmp_path)


def test_an_unverified_array_never_passes_for_the_published_one(dataset: str, tmp_path: Path) -> None:
    module, path = DATASETS[dataset], make(dataset, tmp_path)
    subset = module.prepare(tmp_path, verify=False)
    assert "md5" in sentence(module, tmp_path)  # it is not found under the published one's name
    path.unlink()
    size = {"cifar10": {"per_batch": 3}, "imagenet": {"classes": 1}}.get(dataset, {"count": 3})
    getattr(official_archives, dataset)(path, **size)
    other = module.prepare(tmp_path, verify=False)
    assert other.path != subset.path
    assert len(other.images) < len(subset.images)


def test_what_to_get_and_where_to_put_it_is_said(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, root: Path, filename: str, md5: str) -> None:
        (Path(root) / filename).write_bytes(b"half of it")
        raise RuntimeError("Too many users have viewed\nor downloaded this file recently.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    said = sentence(DATASETS[dataset], tmp_path)
    published = DATASETS[dataset].PUBLISHED
    assert f"get {published.file} from {published.page} and put it at {tmp_path / published.file}" in said
    assert "dataset.raw" in said
    assert ("Too many users have viewed or downloaded" in said) == (published.url is not None)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """The address of a web server of the folder `host`."""
    folder = tmp_path / "host"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_is_verified_and_arrives_whole(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("cifar10", tmp_path / "host")
    md5 = hashlib.md5(source.read_bytes()).hexdigest()
    facts = {"md5": md5, "images": 60, "url": f"{host}/{source.name}"}
    monkeypatch.setattr(cifar10, "PUBLISHED", dataclasses.replace(cifar10.PUBLISHED, **facts))
    root = tmp_path / "data"
    assert len(cifar10.prepare(root).images) == 60
    assert (root / source.name).read_bytes() == source.read_bytes()
    assert not list(root.glob(".*"))

    monkeypatch.setattr(cifar10, "PUBLISHED", dataclasses.replace(cifar10.PUBLISHED, md5="0" * 32))
    root = tmp_path / "elsewhere"
    root.mkdir()
    assert "cannot be downloaded" in sentence(cifar10, root)


def test_raw_is_the_archive_or_the_folder_that_it_lies_in(dataset: str, tmp_path: Path) -> None:
    path, root = make(dataset, tmp_path / "archives"), tmp_path / "data"
    array = DATASETS[dataset].prepare(root, raw=str(path), verify=False)
    assert DATASETS[dataset].prepare(root, raw=str(path.parent), verify=False).path == array.path
    missing = tmp_path / "nowhere"
    assert f"dataset.raw={missing} does not exist" in sentence(DATASETS[dataset], root, raw=str(missing))


@pytest.mark.parametrize("given", ["itself", "its parent", "nothing"])
def test_the_extracted_folder_gives_what_the_archive_gives(dataset: str, given: str, tmp_path: Path) -> None:
    path, root = make(dataset, tmp_path / "archives"), tmp_path / "data"
    module = DATASETS[dataset]
    array = module.prepare(root, raw=str(path), verify=False)
    parent = root if given == "nothing" else tmp_path / "extracted"
    extracted = parent / module.PUBLISHED.folder
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(parent)
    else:
        with tarfile.open(path) as archive:
            archive.extractall(extracted if dataset == "imagenet" else parent, filter="data")
    for inner in extracted.glob("*.tar"):
        with tarfile.open(inner) as archive:
            archive.extractall(inner.with_suffix(""), filter="data")
        inner.unlink()
    raw = {"itself": str(extracted), "its parent": str(parent), "nothing": None}[given]
    other = module.prepare(root, raw=raw, verify=False)
    assert other.path != array.path
    assert other.fingerprint == array.fingerprint


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_an_extracted_folder_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    module, path = DATASETS[name], make(name, tmp_path)
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "a", filter="data")
    first = module.prepare(tmp_path / "data", raw=str(tmp_path / "a"), verify=False)
    place = (tmp_path / "a").rename(tmp_path / "b") / module.PUBLISHED.folder
    assert module.prepare(tmp_path / "data", raw=str(place), verify=False).path == first.path
    file = place / module.PUBLISHED.members[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    other = module.prepare(tmp_path / "data", raw=str(place), verify=False)
    assert other.path != first.path
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_a_folder_of_anything_else_is_told_what_to_give(name: str, tmp_path: Path) -> None:
    published = DATASETS[name].PUBLISHED
    (tmp_path / "raw").mkdir()
    (tmp_path / "data").mkdir()
    said = sentence(DATASETS[name], tmp_path / "data", raw=str(tmp_path / "raw"), verify=False)
    assert f"give {published.file}, or {published.folder}, the folder" in said
    assert "truncated" not in said


def test_a_byte_in_the_middle_of_an_unverified_archive_makes_it_another(dataset: str, tmp_path: Path) -> None:
    """Its size, its time, and what lies at its beginning and end, stay as they are."""
    path = make(dataset, tmp_path)
    origin = PublishedOrigin(DATASETS[dataset].PUBLISHED, tmp_path, str(path), verify=False)
    first, facts = origin.key(), path.stat()
    with path.open("rb+") as file:
        file.seek(facts.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert origin.key() != first


def test_the_only_unverified_array_is_meant_where_no_archive_is_given(dataset: str, tmp_path: Path) -> None:
    module, root = DATASETS[dataset], tmp_path / "data"
    path = make(dataset, tmp_path / "archives")
    first = module.prepare(root, raw=str(path), verify=False)
    module.prepare(root, raw=str(path), verify=False, image_size=24)  # of another size: not meant
    path.unlink()
    assert module.prepare(root, verify=False).fingerprint == first.fingerprint

    size = {"cifar10": {"per_batch": 3}, "imagenet": {"classes": 1}}.get(dataset, {"count": 3})
    getattr(official_archives, dataset)(path, **size)
    second = module.prepare(root, raw=str(path), verify=False)
    said = sentence(module, root, verify=False)
    assert first.path.name in said
    assert second.path.name in said
    assert "dataset.raw" in said
    path.rename(root / path.name)  # what lies in paths.data is meant before any array
    assert module.prepare(root, verify=False).path == second.path


def test_a_tilde_in_raw_is_the_home(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(dataset, tmp_path / "archives")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    array = DATASETS[dataset].prepare(Path("~/data"), raw=f"~/archives/{path.name}", verify=False)
    assert array.path.parent == tmp_path / "data"
    assert not Path("~").exists()


@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_a_truncated_archive_is_refused(dataset: str, share: float, tmp_path: Path) -> None:
    path = make(dataset, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    said = sentence(DATASETS[dataset], tmp_path, verify=False)
    assert str(path) in said
    assert "cannot be read" in said


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_a_flipped_byte_in_compressed_data_is_noticed(name: str, tmp_path: Path) -> None:
    path = make(name, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert str(path) in sentence(DATASETS[name], tmp_path, verify=False)


@pytest.mark.parametrize(
    ("name", "other"),
    [("cifar10", "stl10"), ("stl10", "cifar10"), ("imagenet", "cifar10"), ("celeba", "imagenet")],
)
def test_another_dataset_s_archive_is_refused(name: str, other: str, tmp_path: Path) -> None:
    raw = make(other, tmp_path / "archives")
    root = tmp_path / "data"
    root.mkdir()
    assert str(raw) in sentence(DATASETS[name], root, raw=str(raw), verify=False)


OUTSIDE = ["../evil.jpg", "/etc/evil.jpg", "img_align_celeba/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"]


@pytest.mark.parametrize("member", OUTSIDE)
def test_a_member_that_points_outside_is_refused(dataset: str, member: str, tmp_path: Path) -> None:
    root = tmp_path / "around" / "data"
    root.mkdir(parents=True)
    path = make(dataset, root)
    _add_member(path, tarfile.TarInfo(member), b"evil")
    said = sentence(DATASETS[dataset], root, verify=False)
    assert "points outside" in said
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_a_device_in_a_tar_is_refused(kind: bytes, tmp_path: Path) -> None:
    path = make("stl10", tmp_path)
    link = tarfile.TarInfo("stl10_binary/link")
    link.type, link.linkname = kind, "../../outside"
    _add_member(path, link, b"")
    assert "points outside" in sentence(stl10, tmp_path, verify=False)


def _add_member(path: Path, info: tarfile.TarInfo, content: bytes) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info.name, content)
        return
    info.size = len(content)
    compression = "gz" if path.suffix == ".gz" else ""
    with tarfile.open(path, f"r:{compression}") as archive:
        kept = [(member, archive.extractfile(member)) for member in archive]
        with tarfile.open(path.with_suffix(".new"), f"w:{compression}") as rewritten:
            for member, file in kept:
                rewritten.addfile(member, file)
            rewritten.addfile(info, io.BytesIO(content))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("name", ["a/b.jpg", "./a/b.jpg", "a/..b/c", "./"])
def test_plain_names_pass(name: str) -> None:
    assert ".." not in Path(check_name(name, Path("x.tar"))).parts
