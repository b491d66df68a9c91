"""ImageNet: the tar of tars and the folder of classes give the same images."""

import io
from pathlib import Path

import numpy as np
import official_archives
from PIL import Image

from gan_lab.data import imagenet


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
