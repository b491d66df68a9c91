"""ImageNet: the tar of tars and the folder of classes give the same images."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import official_archives
from PIL import Image

from gan_lab.data import imagenet
from gan_lab.files import write_json


def test_images_are_cropped_to_the_short_side_and_resized(tmp_path: Path) -> None:
    files = official_archives.imagenet(tmp_path / "ILSVRC2012_img_train.tar")
    array = imagenet.prepare(tmp_path, verify=False)
    assert array.images.shape == (39, 3, 128, 128)
    assert array.metadata["damaged"] == 0
    for name, ours in zip(sorted(files), array.images, strict=True):
        image = Image.open(io.BytesIO(files[name])).convert("RGB")
        side = min(image.size)
        left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
        square = np.asarray(image)[top : top + side, left : left + side]
        expected = Image.fromarray(square).resize((128, 128), Image.Resampling.BICUBIC)
        assert np.array_equal(ours, np.asarray(expected).transpose(2, 0, 1))


def test_a_folder_of_classes_gives_what_the_tar_gives(tmp_path: Path) -> None:
    files = official_archives.imagenet(tmp_path / "ILSVRC2012_img_train.tar")
    for name, content in files.items():
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    from_tar = imagenet.prepare(tmp_path, verify=False)
    from_folder = imagenet.prepare(tmp_path, raw=str(tmp_path / "train"), verify=False)
    assert from_tar.path != from_folder.path
    assert np.array_equal(from_tar.images, from_folder.images)


def test_all_63_gb_train_within_3_gib(tmp_path: Path, train_py: Any) -> None:
    """With the config's own batches; the networks are narrow, because a CPU shall train them in a test."""
    official_archives.imagenet(tmp_path / "ILSVRC2012_img_train.tar")
    small = imagenet.prepare(tmp_path, verify=False)
    shape = (1_281_167, 3, 128, 128)
    with small.path.open("wb") as file:  # in its place a sparse file: all zeros, nothing on the disk
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    write_json(small.path.with_suffix(".json"), {**small.metadata, "shape": list(shape)})
    overrides = [
        "dataset=imagenet",
        "dataset.verify=false",
        "arch.width=0.125",
        "metrics=none",
        "tracker=local",
    ]
    schedule = ["train.iterations=2", "train.log_every=1", "probes.every=2"]
    paths = [f"paths.data={tmp_path}", f"paths.outputs={tmp_path / 'outputs'}"]
    answer = train_py(*overrides, *schedule, *paths)
    assert answer.returncode == 0, answer.stderr
    (record,) = (tmp_path / "outputs").rglob("metrics.jsonl")
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(rows) == 2
    assert rows[-1]["memory/peak_mb"] < 3 * 1024
