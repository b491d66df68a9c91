"""What is typed and Hydra refuses, in a sentence that says how to write it."""

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from gan_lab import overrides

PART = "paper/sweep/"  # of presets: what a sweep is over, on any dataset

# A choice of each axis that has none for nothing.
SOMETHING = {
    "arch": "dcgan", "dataset": "digits", "init": "normal", "loss": "hinge", "optimizer": "adam",
    "tracker": "local",
}  # fmt: skip


def unreadable(arguments: Sequence[str]) -> str | None:
    """A sentence on the first override in a command line that cannot be read; None where all can."""
    return overrides.unreadable(get_args_parser().parse_known_args(arguments)[0].overrides)


def misses_a_choice(arguments: Sequence[str], axes: Sequence[str]) -> str | None:
    """A sentence on the first axis that is set to null, or to a part of presets; None where none is."""
    for argument in get_args_parser().parse_known_args(arguments)[0].overrides:
        axis, equals, value = argument.lstrip("+").partition("=")
        choices = [choice.strip().lower() for choice in value.split(",")]  # of a sweep
        if axis == "experiment" and (part := next((c for c in choices if c.startswith(PART)), None)):
            sweep = part.removeprefix(PART)
            return f"{argument} is no experiment without a dataset: take one such as paper/cifar10_{sweep}"
        if axis not in axes or not equals or not {"null", ""} & set(choices):
            continue
        if axis == "experiment":
            return f"{argument} chooses nothing, as does leaving it out: do that"
        instead = SOMETHING.get(axis, "none")
        return f"{argument} chooses nothing: take one of configs/{axis}, such as {axis}={instead}"
    return None


def misspelt(arguments: Sequence[str]) -> str | None:
    """`gan_lab.config.misspelt` of a command line that Hydra has refused."""
    from gan_lab import config  # heavy, and of use only here

    given = get_args_parser().parse_known_args(arguments)[0]
    return config.misspelt(given.overrides, Path(given.config_dir) if given.config_dir else None)
