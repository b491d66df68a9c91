"""Make a dataset's array before training, or fetch Inception's weights; see docs/data.md."""

import argparse

from gan_lab.build import load_images
from gan_lab.commands import a_path
from gan_lab.config import JudgeConfig, compose, resolved, to_judge
from gan_lab.data.raw import Listing
from gan_lab.metrics.extractors import inception_weights
from gan_lab.shell import quoted


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a dataset's array, or fetch Inception's weights.")
    add = parser.add_argument
    add("name", help="a choice of dataset (cifar10, stl10, celeba, imagenet, folder, ...), or inception")
    add("--raw", type=a_path, help="the official archive, or its folder (default: look in paths.data)")
    add("--no-verify", action="store_true", help="take an archive of the official layout with other content")
    add("--config-dir", type=a_path, help="a folder of your own choices, as for train.py")
    add("overrides", nargs="*", help="as for train.py, e.g. paths.data=/data dataset.path=/my/images")
    given = parser.parse_intermixed_args(arguments)

    dataset = []
    if given.name != "inception":
        dataset.append(f"dataset={given.name}")
    if given.no_verify:
        dataset.append("dataset.verify=false")
    if given.raw:
        dataset.append(f"dataset.raw={quoted(str(given.raw.absolute()))}")
    config = to_judge(resolved(compose([*dataset, *given.overrides], given.config_dir)))
    print(fetch_inception(config) if given.name == "inception" else prepare(config))
    return 0


def prepare(config: JudgeConfig) -> str:
    """Make the array of the dataset, where it is not made yet; returns a line about it."""
    array = load_images(config)
    count, _, height, width = array.images.shape
    damaged = array.metadata.get("damaged", 0)
    left_out = f", {damaged} damaged ones left out" if damaged else ""
    others = Listing([], array.metadata.get("passed_over", {})).others()
    passed_over = f", passed over {others}" if others else ""
    return f"{array.path}: {count:,} images of {width}×{height}{left_out}{passed_over}"


def fetch_inception(config: JudgeConfig) -> str:
    """Put Inception's weights where the metrics look for them; returns a line about it."""
    return f"{inception_weights(config.data)}: whole, its checksum is right"
