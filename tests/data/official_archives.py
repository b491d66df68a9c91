"""Small archives in the exact layouts of the published ones, and the images that were put into them."""

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured pictures `[count, height, width, 3]` uint8, each another."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    images = np.empty((count, height, width, 3), np.uint8)
    for image in images:
        for channel in range(3):
            fx, fy, phase = *rng.uniform(0.02, 0.2, 2), rng.uniform(0, 6)
            image[..., channel] = 127.5 + 100 * np.sin(fx * x + fy * y + phase) + rng.normal(0, 5, x.shape)
    return images


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def add_folder(archive: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(info)


class _Python2Pickler(pickle._Pickler):
    """Writes strings as Python 2 wrote its own, and numpy's functions where Python 2 knew them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value: bytes | str) -> None:
        value = value.encode() if isinstance(value, str) else value
        short = pickle.SHORT_BINSTRING + bytes([len(value)]) if len(value) < 256 else None
        self.write((short or pickle.BINSTRING + struct.pack("<i", len(value))) + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _save_string

    def save_global(self, obj: object, name: str | None = None) -> None:
        module = {"numpy._core.multiarray": "numpy.core.multiarray"}.get(obj.__module__, obj.__module__)
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[type] = save_global
    dispatch[type(pickle.dumps)] = save_global


def _python2_pickle(batch: dict[bytes, object]) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue()


def cifar10(path: Path, per_batch: int = 12) -> np.ndarray:
    """`cifar-10-python.tar.gz` with few images; returns those of training, `[5 · per_batch, 32, 32, 3]`."""
    images = pictures(6 * per_batch, 32, 32)

    def batch(number: int, label: str) -> bytes:
        chosen = images[(number - 1) * per_batch : number * per_batch]
        # As the dataset's page says: 1024 red values, then green, then blue, each in row-major order.
        rows = np.stack([np.concatenate([image[:, :, c].ravel() for c in range(3)]) for image in chosen])
        return _python2_pickle(
            {
                b"batch_label": label.encode(),
                b"labels": [index % 10 for index in range(per_batch)],
                b"data": rows,
                b"filenames": [b"picture_s_%06d.png" % index for index in range(per_batch)],
            }
        )

    order = ("data_batch_4", "readme.html", "test_batch", "data_batch_3", "batches.meta", "data_batch_2")
    with tarfile.open(path, "w:gz") as archive:
        add_folder(archive, "cifar-10-batches-py")
        for name in (*order, "data_batch_5", "data_batch_1"):
            if name.startswith("data_batch"):
                content = batch(int(name[-1]), f"training batch {name[-1]} of 5")
            elif name == "test_batch":
                content = batch(6, "testing batch 1 of 1")
            else:
                content = b"not images"
            add_file(archive, f"cifar-10-batches-py/{name}", content)
    return images[: 5 * per_batch]


def stl10(path: Path, count: int = 40) -> np.ndarray:
    """`stl10_binary.tar.gz` with few images; returns the unlabeled ones, `[count, 96, 96, 3]`."""
    images = pictures(count, 96, 96)
    content = bytearray()
    for image in images:  # as the dataset's page says: red, green, blue, each in column-major order
        for channel in range(3):
            for column in range(96):
                content += image[:, column, channel].tobytes()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add_folder(archive, "stl10_binary")
        for name in ("test_X.bin", "test_y.bin", "train_X.bin", "train_y.bin"):
            add_file(archive, f"stl10_binary/{name}", bytes(27648 * 2 if "X" in name else 2))
        add_file(archive, "stl10_binary/unlabeled_X.bin", bytes(content))
        add_file(archive, "stl10_binary/class_names.txt", b"airplane\nbird\n")
        add_file(archive, "stl10_binary/fold_indices.txt", b"0 1\n")
    return images


def celeba(path: Path, count: int = 40) -> list[bytes]:
    """`img_align_celeba.zip` with few images; returns the JPEGs of 178×218 in order."""
    files = [jpeg(image) for image in pictures(count, 218, 178)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("img_align_celeba/", "")
        for number in reversed(range(count)):  # the order of a zip means nothing
            archive.writestr(f"img_align_celeba/{number + 1:06d}.jpg", files[number])
    return files


def imagenet(path: Path, classes: int = 3, per_class: int = 13) -> dict[str, bytes]:
    """`ILSVRC2012_img_train.tar` with few images; returns the files as `<class>/<name>`, in order.

    As in the published one there is a CMYK image, a grey one and a PNG called JPEG.
    """
    sizes = ((150, 200), (333, 250), (128, 128), (100, 90), (201, 137))
    files = {}
    for k in range(classes):
        label = f"n{1440764 + 1000 * k:08d}"
        for number in range(per_class):
            image = Image.fromarray(pictures(1, *sizes[number % 5], seed=100 * k + number)[0])
            image = image.convert({3: "CMYK", 4: "L"}.get(number, "RGB"))
            content = io.BytesIO()
            image.save(content, "PNG" if number == 5 else "JPEG")
            files[f"{label}/{label}_{number + 10}.JPEG"] = content.getvalue()
    with tarfile.open(path, "w") as outer:
        for label in sorted({name.split("/")[0] for name in files}):
            inner_file = io.BytesIO()
            with tarfile.open(fileobj=inner_file, mode="w") as inner:
                for name in reversed([name for name in files if name.startswith(label)]):
                    add_file(inner, name.split("/")[1], files[name])
            add_file(outer, f"{label}.tar", inner_file.getvalue())
    return files
