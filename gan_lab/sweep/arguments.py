"""What is typed and Hydra's grammar refuses, in a sentence that says how to write it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from gan_lab import shell
from gan_lab.errors import UserError

PART = "paper/sweep/"  # of presets: what a sweep is over, on any dataset

# A choice of each axis that has none for nothing.
SOMETHING = {
    "arch": "dcgan", "dataset": "digits", "init": "normal", "loss": "hinge", "optimizer": "adam",
    "tracker": "local",
}  # fmt: skip


def unreadable(arguments: Sequence[str]) -> str | None:
    """A sentence on the first override in a command line that cannot be read; None where all can."""
    overrides = get_args_parser().parse_known_args(arguments)[0].overrides
    return next((_sentence(override) for override in overrides if not _is_readable(override)), None)


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


def misspelt(arguments: Sequence[str], axes: Sequence[str]) -> str | None:
    """A sentence on the first key that the config lacks, with the one most like it; None where it has all.

    Of a command line that Hydra has refused, whose own answer is how to add that key.
    """
    from gan_lab.config import compose, no_key  # heavy, and of use only here

    overrides = get_args_parser().parse_known_args(arguments)[0].overrides
    typed = {override.partition("=")[0]: override for override in overrides}
    chosen = [override.partition(",")[0] for key, override in typed.items() if key in axes]
    try:
        known = sorted({*axes, *_keys(OmegaConf.to_container(compose(chosen), resolve=False))})
    except UserError:
        return None
    for key in typed:
        if key in known or key.startswith(("+", "~", "hydra.", "hydra/")):
            continue
        return no_key(key, known)
    return None


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of what a config holds, folders and values."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _sentence(override: str) -> str:
    key, equals, value = override.partition("=")
    shown = " ".join(override.split())
    if not equals:
        return f"the argument {shown} has no =: write key=value, and a value with blanks in quotes"
    quoted = f"{key}={shell.quoted(os.path.expanduser(value))}"  # noqa: PTH111  a text, not always a path
    if not _is_readable(quoted):
        return f"the key of the argument {shown} cannot be read: take one that train.py --cfg job prints"
    typed = shlex.quote(quoted)
    return f"the argument {shown} cannot be read: quote its value, and the whole for the shell, as in {typed}"
