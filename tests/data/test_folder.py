"""A user's folder: every image in it, once; its content makes the array, not names, places and times."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from official_archives import pictures
from PIL import Image
from sklearn.datasets import load_digits

from gan_lab.data import celeba, contents, folder, imagenet, workers
from gan_lab.data.folder import FolderImages
from gan_lab.data.recipe import Recipe
from gan_lab.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images below a folder, of mixed formats, sizes and colours, among other files."""
    place = tmp_path / "my images"
    (place / "b" / "deep").mkdir(parents=True)
    picture = Image.fromarray(pictures(1, 70, 90)[0])
    picture.save(place / "b" / "deep" / "one.JPG")
    picture.convert("L").save(place / "a.png")
    picture.convert("RGBA").resize((64, 33)).save(place / "c.webp")
    picture.convert("CMYK").save(place / "b" / "two.jpeg")
    picture.convert("P").save(place / "z.gif")
    (place / "notes.txt").write_text("not an image")
    (place / "._a.png").write_bytes(b"what macOS leaves beside a file")
    return place


def write_digits(place: Path, count: int, first: int = 0, suffix: str = ".bmp") -> Path:
    """Digits as files of one size, whatever they show."""
    place.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(load_digits().images[first : first + count] * 15.9):
        Image.fromarray(image.astype(np.uint8)).convert("RGB").save(place / f"{number:04d}{suffix}")
    return place


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits", 12)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read for their checksums; all count as untouched for long."""
    found: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    monkeypatch.setattr(
        hashlib,
        "file_digest",
        lambda file, kind: found.append(Path(file.name).name) or digest(file, kind),
    )
    return found


def test_all_images_are_taken_in_the_order_of_their_checksums(images: Path, tmp_path: Path) -> None:
    array = folder.prepare(tmp_path / "data", str(images), image_size=32)
    files = [images / name for name in ("a.png", "b/deep/one.JPG", "b/two.jpeg", "c.webp", "z.gif")]
    files.sort(key=lambda file: hashlib.sha256(file.read_bytes()).hexdigest())
    expected = np.stack([Recipe(32).decode(file.read_bytes()) for file in files])
    assert np.array_equal(array.images, expected)


def move(place: Path) -> Path:
    return place.rename(place.with_name("moved"))


def rename_files(place: Path) -> Path:
    for number, file in enumerate(sorted(place.iterdir(), reverse=True)):
        file.rename(place / f"renamed {number}{file.suffix}")
    return place


def nest(place: Path) -> Path:
    (place / "sub").mkdir()
    for file in list(place.glob("*5.bmp")):
        file.rename(place / "sub" / file.name)
    return place


def touch(place: Path) -> Path:
    for file in place.iterdir():
        os.utime(file, (1, 1))
    return place


@pytest.mark.parametrize("change", [move, rename_files, nest, touch])
def test_the_same_pictures_are_the_same_array(
    change: Callable[[Path], Path], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    place = change(digits)
    monkeypatch.setattr(folder.Files, "decode", None)  # nothing is prepared a second time
    second = folder.prepare(tmp_path / "data", str(place), image_size=8)
    assert (second.path, second.fingerprint) == (first.path, first.fingerprint)
    monkeypatch.undo()
    elsewhere = folder.prepare(tmp_path / "elsewhere", str(place), image_size=8)
    assert elsewhere.fingerprint == first.fingerprint
    assert np.array_equal(elsewhere.images, first.images)


def replace(place: Path) -> None:
    """All pictures by others of the same names, sizes and times."""
    for number, file in enumerate(sorted(place.iterdir())):
        facts = file.stat()
        other = load_digits().images[100 + number] * 15.9
        Image.fromarray(other.astype(np.uint8)).convert("RGB").save(file)
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert file.stat().st_size == facts.st_size


def replace_one_by_another(place: Path) -> None:
    (place / "0000.bmp").write_bytes((place / "0001.bmp").read_bytes())


def add(place: Path) -> None:
    write_digits(place / "new", 1, first=50)


def remove(place: Path) -> None:
    (place / "0003.bmp").unlink()


@pytest.mark.parametrize("change", [replace, replace_one_by_another, add, remove])
def test_other_pictures_are_another_array(
    change: Callable[[Path], None], digits: Path, tmp_path: Path
) -> None:
    first = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    change(digits)
    second = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    assert second.path != first.path
    assert second.fingerprint != first.fingerprint
    assert second.fingerprint == folder.prepare(tmp_path / "new", str(digits), image_size=8).fingerprint


def test_only_changed_files_are_read_again(digits: Path, tmp_path: Path, reads: list[str]) -> None:
    def read() -> list[str]:
        reads.clear()
        folder.prepare(tmp_path / "data", str(digits), image_size=8)
        return sorted(reads)

    assert len(read()) == 12
    assert read() == []
    digits = digits.rename(tmp_path / "moved")
    assert read() == []
    replace_one_by_another(digits)
    add(digits)
    assert read() == ["0000.bmp", "0000.bmp"]  # one of them is new/0000.bmp
    remove(digits)
    assert read() == []


def test_a_file_that_was_just_changed_is_read_again(
    digits: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a tick of the file system's clock would leave its times as they are."""
    monkeypatch.setattr(contents, "SETTLED_NS", 10**18)
    for _ in range(2):
        folder.prepare(tmp_path / "data", str(digits), image_size=8)
        assert len(reads) == 12
        reads.clear()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "binary", "list", "folder"])
def test_a_damaged_index_is_made_anew(damage: str, digits: Path, tmp_path: Path, reads: list[str]) -> None:
    first = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    (index,) = (tmp_path / "data").glob(".contents-*")
    content = index.read_bytes()
    index.unlink()
    if damage == "folder":
        index.mkdir()
    elif damage != "missing":
        digest = hashlib.sha256((digits / "0000.bmp").read_bytes()).hexdigest().encode()
        index.write_bytes(
            {
                "empty": b"",
                "cut": content[:-100],
                "flipped": content.replace(digest, digest[::-1]),
                "binary": bytes(range(256)),
                "list": b"[]",
            }[damage]
        )
    reads.clear()
    second = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    assert len(reads) == 12
    assert (second.path, second.fingerprint) == (first.path, first.fingerprint)
    if damage != "folder":
        assert index.read_bytes() == content


def test_a_picture_that_changes_while_it_is_prepared_is_refused(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = contents.Contents.of

    def change_after(self: contents.Contents, names: list[str]) -> list[str]:
        found = original(self, names)
        (digits / "0004.bmp").write_bytes((digits / "0005.bmp").read_bytes())
        return found

    monkeypatch.setattr(contents.Contents, "of", change_after)
    with pytest.raises(UserError, match=r"0004\.bmp was changed"):
        folder.prepare(tmp_path / "data", str(digits), image_size=8)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["celeba", "imagenet"])
def test_an_unverified_folder_of_a_published_dataset_is_known_by_its_content(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "raw"
    for label in ("n01", "n02"):
        (place / label).mkdir(parents=True)
        for number, image in enumerate(pictures(3, 218, 178, seed=int(label[1:]))):
            Image.fromarray(image).save(place / label / f"{number}.bmp")

    def prepare(place: Path) -> tuple[Path, str]:
        module = {"celeba": celeba, "imagenet": imagenet}[name]
        array = module.prepare(tmp_path / "data", raw=str(place), verify=False, image_size=16)
        return array.path, array.fingerprint

    first = prepare(place)
    place = place.rename(tmp_path / "moved")
    for file in place.rglob("*.bmp"):
        os.utime(file, (1, 1))
    assert prepare(place) == first
    one, other = place / "n01/0.bmp", place / "n02/0.bmp"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    os.utime(one, (1, 1))
    os.utime(other, (1, 1))
    swapped = prepare(place)
    assert swapped[0] != first[0]
    assert swapped[1] != first[1]


def test_arrays_made_differently_never_mix(images: Path, tmp_path: Path) -> None:
    ways = ("lanczos", "box", "bilinear_aliased")
    recipes = [{}, {"image_size": 32}, *({"resample": way} for way in ways)]
    arrays = [folder.prepare(tmp_path, str(images), **recipe) for recipe in recipes]
    assert len({array.path for array in arrays}) == len({array.fingerprint for array in arrays}) == 5
    assert "lanczos" in arrays[2].metadata["resize"]
    assert "antialiased" in arrays[2].metadata["resize"]


HIDDEN = [
    ".Trash-1000/files/a.png",
    ".thumbnails/large/a.png",
    ".git/a.png",
    "__MACOSX/a.png",
    "b/__MACOSX/a.png",
    "$RECYCLE.BIN/a.png",
    "b/.ipynb_checkpoints/a.png",
    "@eaDir/a.png",
    "._0001.bmp",
    "b/.hidden.png",
]


def test_hidden_folders_and_files_are_left_out(digits: Path, tmp_path: Path) -> None:
    before = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    for number, name in enumerate(HIDDEN):
        file = digits / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
    after = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    assert after.path == before.path
    assert len(FolderImages(digits)) == 12


def test_a_hidden_folder_that_is_named_is_taken(digits: Path, tmp_path: Path) -> None:
    place = digits.rename(tmp_path / ".digits")
    assert len(folder.prepare(tmp_path / "data", str(place), image_size=8).images) == 12


def test_linked_folders_are_followed_and_loops_end(images: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "class").symlink_to(images)
    (images / "b" / "loop").symlink_to(links)
    (images / "itself").symlink_to("itself")
    assert len(folder.prepare(tmp_path / "data", str(links)).images) == 5
    assert len(FolderImages(links, Recipe(16))) == 5


@pytest.mark.parametrize("place", ["missing", "empty", "file.png"])
def test_a_folder_without_images_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(UserError, match=place):
        folder.prepare(tmp_path / "data", str(tmp_path / place))
    with pytest.raises(UserError, match=place):
        FolderImages(tmp_path / place)
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize("what", ["scandir", "stat"])
def test_a_folder_that_cannot_be_read_is_refused_by_name(
    what: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(digits / "sub" / "closed", 2)
    original = {"scandir": os.scandir, "stat": Path.stat}[what]

    def closed(place: object, **options: object) -> object:  # for root, no folder is
        if Path(str(place)).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return original(place, **options)

    monkeypatch.setattr(os if what == "scandir" else Path, what, closed)
    for read in (lambda: folder.prepare(tmp_path / "data", str(digits)), lambda: FolderImages(digits)):
        with pytest.raises(UserError, match=r"sub/closed cannot be read \(Permission denied\)"):
            read()


def test_what_is_passed_over_is_counted_by_suffix(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.avif", "sub/b.AVIF", "c.heic", "d.txt", "README", ".DS_Store"):
        (digits / name).parent.mkdir(exist_ok=True)
        (digits / name).write_bytes(b"x")
    array = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    said = capsys.readouterr().err
    assert Counter(array.metadata["passed_over"]) == {".avif": 2, ".heic": 1, ".txt": 1, "without suffix": 1}
    assert said.count("2 .avif, 1 .heic, 1 .txt, 1 without suffix") == 1
    again = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    assert again.metadata["passed_over"] == array.metadata["passed_over"]
    assert capsys.readouterr().err == ""


def test_a_folder_of_images_that_are_not_taken_says_which(tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds no images .*, but 1 \.avif"):
        folder.prepare(tmp_path / "data", str(tmp_path))


def test_names_that_are_not_utf_8_work(digits: Path, tmp_path: Path, reads: list[str]) -> None:
    before = folder.prepare(tmp_path / "data", str(digits), image_size=8)
    (digits / "0000.bmp").rename(digits / os.fsdecode(b"caf\xe9.bmp"))
    (digits / "0001.bmp").rename(digits / os.fsdecode(b"new\nline \xff.bmp"))
    for _ in range(2):  # the second time from the index
        array = folder.prepare(tmp_path / "data", str(digits), image_size=8)
        assert (array.path, array.fingerprint) == (before.path, before.fingerprint)
    assert len(FolderImages(digits)) == 12
    (digits / os.fsdecode(b"caf\xe9.bmp")).write_bytes(b"BM, and no more")
    array = folder.prepare(tmp_path / "data", str(digits), image_size=8, max_damaged=0.1)
    assert list(json.loads(array.path.with_suffix(".damaged.json").read_text())) == ["caf\\xe9.bmp"]
    with pytest.raises(UserError, match=r"caf\\xe9\.bmp"):
        folder.prepare(tmp_path / "data", str(digits), image_size=16)


def test_home_is_written_as_a_tilde(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    array = folder.prepare(Path("~/data"), "~/digits", image_size=8)
    assert array.path.parent == tmp_path / "data"
    assert len(FolderImages("~/digits")) == 12
    assert not Path("~").exists()
    with pytest.raises(UserError, match="~nobody-of-that-name/digits"):
        folder.prepare(tmp_path / "data", "~nobody-of-that-name/digits")


@pytest.fixture
def damaged(digits: Path, tmp_path: Path) -> dict[str, str]:
    """Four files that cannot be read, and what is to be said about each."""
    (digits / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (digits / "empty.png").write_bytes(b"")
    (digits / "text.png").write_text("no image")
    os.mkfifo(digits / "pipe.png")
    return {
        "empty.png": "it is empty, or no image",
        "gone.png": "No such file or directory",
        "pipe.png": "not a regular file",
        "text.png": "it is empty, or no image",
    }


def test_unreadable_images_are_counted_and_named_with_a_reason(
    digits: Path, damaged: dict[str, str], tmp_path: Path
) -> None:
    array = folder.prepare(tmp_path / "data", str(digits), image_size=8, max_damaged=0.25)
    assert len(array.images) == 12
    assert array.metadata["damaged"] == 4
    report = json.loads(array.path.with_suffix(".damaged.json").read_text())
    assert {name: damaged[name] in reason for name, reason in report.items()} == dict.fromkeys(damaged, True)
    for said in report.values():
        assert "object at" not in said
        assert str(tmp_path) not in said
    judged = FolderImages(digits, max_damaged=0.25)
    assert len(judged) == 12
    assert dict(judged.damaged) == report


def test_more_than_the_stated_share_is_refused_alike(
    digits: Path, damaged: dict[str, str], tmp_path: Path
) -> None:
    for read in (
        lambda: folder.prepare(tmp_path / "data", str(digits), max_damaged=0.24),
        lambda: FolderImages(digits, max_damaged=0.24),
    ):
        with pytest.raises(UserError, match=r"4 damaged images, more than the share .* of 16"):
            read()


# --- the images as they are judged


def test_images_are_judged_as_they_are_trained_on(images: Path, tmp_path: Path) -> None:
    trained = folder.prepare(tmp_path / "data", str(images), image_size=32)
    judged = FolderImages(images, Recipe(32))
    assert judged.size == (32, 32)
    assert np.array_equal(judged.pixels(0, len(judged)).numpy(), trained.images)
    assert np.array_equal(judged.pixels(2, 4).numpy(), trained.images[2:4])


def test_without_a_recipe_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    """Of every kind that training reads: transparent, of 16 bits, turned, animated, with a palette."""
    place = tmp_path / "images"
    place.mkdir()
    square = Image.fromarray(load_digits().images[0].astype(np.uint8) * 15)
    turned = Image.Exif()
    turned[0x0112] = 6
    square.convert("RGB").save(place / "turned.png", exif=turned)
    square.convert("LA").save(place / "opaque.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(place / "clear.png")
    Image.fromarray(np.full((8, 8), 0x4D12, np.uint16)).save(place / "deep.tiff")
    Image.fromarray(np.full((8, 8), 0x4D12, np.uint16)).convert("I").save(place / "deep.pgm")
    square.convert("P").save(place / "animated.gif", save_all=True, append_images=[Image.new("P", (8, 8))])
    grey = {
        "turned.png": np.rot90(np.asarray(square), -1),
        "opaque.png": np.asarray(square),
        "clear.png": np.full((8, 8), 255),
        "deep.tiff": np.full((8, 8), 0x4D),
        "deep.pgm": np.full((8, 8), 0x4D),
        "animated.gif": np.asarray(square),
    }
    order = sorted(grey, key=lambda name: hashlib.sha256((place / name).read_bytes()).hexdigest())
    judged = FolderImages(place)
    assert judged.size == (8, 8)
    assert np.array_equal(judged.pixels(0, 6).numpy(), np.stack([[grey[name]] * 3 for name in order]))


def test_the_order_of_judged_images_does_not_depend_on_their_names(digits: Path) -> None:
    before = FolderImages(digits).pixels(0, 12)
    after = FolderImages(rename_files(nest(digits))).pixels(0, 12)
    assert np.array_equal(before, after)


def test_the_first_images_are_a_fair_sample(tmp_path: Path) -> None:
    """Of dark images named before bright ones, many in the first half are bright."""
    for kind, bright in (("a", 0), ("b", 128)):
        (tmp_path / kind).mkdir()
        for number in range(100):
            Image.new("RGB", (4, 4), (bright + number,) * 3).save(tmp_path / kind / f"{number}.png")
    first = FolderImages(tmp_path).pixels(0, 100)
    assert 30 < (first[:, 0, 0, 0] >= 128).sum() < 70


def test_images_of_different_sizes_are_refused_without_a_recipe(digits: Path) -> None:
    Image.new("RGB", (9, 7)).save(digits / "wide.png")
    with pytest.raises(UserError, match=r"different sizes .*9×7"):
        FolderImages(digits)
    assert FolderImages(digits, Recipe(8)).pixels(0, 13).shape == (13, 3, 8, 8)


def test_an_image_that_changes_while_it_is_judged_is_refused(digits: Path) -> None:
    judged = FolderImages(digits)
    replace_one_by_another(digits)
    with pytest.raises(UserError, match=r"0000\.bmp was changed"):
        judged.pixels(0, 12)
    (digits / "0000.bmp").unlink()
    with pytest.raises(UserError, match=r"0000\.bmp cannot be read any more"):
        judged.pixels(0, 12)


def test_many_images_are_judged_in_one_order_on_any_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_digits(tmp_path / "many", 600)
    files = sorted(place.iterdir(), key=lambda file: hashlib.sha256(file.read_bytes()).hexdigest())
    expected = np.stack([Recipe(8).decode(file.read_bytes()) for file in files])
    for count in (1, 3):
        monkeypatch.setattr(workers, "cores", lambda count=count: count)
        assert np.array_equal(FolderImages(place).pixels(0, 600).numpy(), expected)
