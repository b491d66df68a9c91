"""Overrides that cannot be read, and keys that there are not, each in a sentence that says what to type."""

import os
import shlex
from collections.abc import Sequence
from difflib import get_close_matches

from gan_lab import shell


def unreadable(overrides: Sequence[str]) -> str | None:
    """A sentence on the first override that Hydra's grammar refuses; None where it reads all."""
    return next((_sentence(override) for override in overrides if not _is_readable(override)), None)


def no_key(key: str, known: Sequence[str]) -> str:
    """What to say of a dotted key that is none of those known: the one that may be meant."""
    like = _nearest(key, known)
    instead = f"take {like}" if like else "see `python train.py --cfg job` for those that there are"
    return f"{key} is no key of the config: {instead}"


def _nearest(key: str, known: Sequence[str]) -> str:
    """The known key that a misspelt one may mean, empty if none is like it.

    Very like it in its section, else of its name elsewhere, else somewhat like it in its section, else in a
    section that is misspelt too.
    """
    section, dot, name = key.rpartition(".")
    beside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    if like := get_close_matches(name, beside, 1, cutoff=0.8):
        return f"{section}{dot}{like[0]}"
    namesakes = [other for other in known if other.rpartition(".")[2] == name]
    if like := get_close_matches(key, namesakes, 1, cutoff=0):
        return like[0]
    if like := get_close_matches(name, beside, 1):
        return f"{section}{dot}{like[0]}"
    as_deep = [] if beside else [other for other in known if other.count(".") == key.count(".")]
    return next(iter(get_close_matches(key, as_deep, 1)), "")


def _is_readable(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow, and not for every command
    from hydra.errors import HydraException

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
