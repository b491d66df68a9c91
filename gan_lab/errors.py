"""Errors for the person who must act."""


class UserError(Exception):
    """The config, the data or the environment is wrong.

    The message is one sentence that says what is wrong, which value, and how to mend it;
    `train.py` prints it without a traceback and exits with status 2.
    """
