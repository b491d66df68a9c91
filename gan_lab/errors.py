"""Errors for the person who must act."""


class UserError(Exception):
    """The config, the data or the environment is wrong.

    The message is one sentence that says what is wrong, which value, and how to mend it;
    `train.py` prints it without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """All that an error says, on one line."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__).rstrip(":")
