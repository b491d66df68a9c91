"""What the tests of preparation share."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from gan_lab.errors import UserError


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], BaseProcess]:
    """Starts a function in a process of its own, which can be killed; it ends with 2 at a UserError."""

    def start(work: Callable[[], object]) -> BaseProcess:
        def body() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                work()
            except UserError as error:
                os.write(2, f"error: {error}\n".encode())
                os._exit(2)
            os._exit(0)

        process = multiprocessing.get_context("fork").Process(target=body)
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def listing() -> Callable[[Path], dict[str, str]]:
    """The checksums of all files in a folder, hidden ones too, but for locks and the index of times."""
    return lambda folder: {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".contents-") and path.suffix != ".lock"
    }
