"""How a command ends: standard streams whose reader may leave, and one sentence for what is wrong."""

import codecs
import os
import signal
import sys
from collections.abc import Callable
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, NoReturn, TextIO

from gan_lab.errors import UserError

REFUSED = 2  # the exit status of a command that was told something wrong
STOPPED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE  # the exit status of a program whose reader left, as after `| head`

# For encodings that lack them; any other character becomes a question mark.
PLAIN = {
    "±": "+-", "≈": "~", "°": "o", "·": "*", "×": "x", "σ": "sigma", "√": "sqrt", "≥": ">=", "‖": "||",
    "–": "-", "─": "-", "↓": "v", "↑": "^", "…": "...", "“": '"', "”": '"', "’": "'",
}  # fmt: skip


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("plainly", _plainly)


class _Output(FileIO):
    """A stream of which nothing is heard any more after a failure; the program continues, or ends quietly."""

    goes_on = True

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.goes_on:
                return len(data)
            left = isinstance(error, BrokenPipeError)
            sys.exit(BROKEN_PIPE if left else f"error: the output cannot be written ({error.strerror})")


def prepare() -> None:
    """Make standard output and error take any text, also where their encoding lacks it or they are closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # the next file that is opened would have this number, and get what libraries print
            os.open(os.devnull, os.O_RDWR)
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w" if number else "r")  # noqa: PTH123, SIM115
            setattr(sys, name, stream)
        elif number and _is_of_the_process(stream):
            stream.flush()
            output = BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
            is_by_line = stream.line_buffering or stream.write_through  # the latter by PYTHONUNBUFFERED
            setattr(sys, name, TextIOWrapper(output, stream.encoding, "plainly", line_buffering=is_by_line))


def _is_of_the_process(stream: TextIO) -> bool:
    """Whether a stream is as Python made it: not one of a test or a notebook, and not prepared before."""
    buffer = getattr(stream, "buffer", None)
    is_file = isinstance(buffer, BufferedWriter | FileIO)  # the latter by PYTHONUNBUFFERED
    return is_file and not isinstance(getattr(buffer, "raw", None), _Output)


def exit_status(main: Callable[[], int | None]) -> int:
    """What `main` returns, 0 for None; REFUSED where it raises a UserError or an OSError, in a sentence."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        reason = f"{error.filename} cannot be used ({error.strerror}): mend that, or give another place"
        print(f"error: {reason if error.filename else error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped: nothing half-made is left, the same command starts again", file=sys.stderr)
        return STOPPED
    return REFUSED


def run(main: Callable[[], int | None], goes_on: bool = False) -> NoReturn:
    """Exit with `exit_status(main)`, or quietly with BROKEN_PIPE as soon as nobody reads its output.

    With `goes_on` it is not ended by that.
    """
    prepare()
    _Output.goes_on = goes_on
    try:
        status = exit_status(main)
        sys.stdout.flush()
    finally:
        _Output.goes_on = True  # what is left in a buffer ends nothing
    sys.exit(status)
