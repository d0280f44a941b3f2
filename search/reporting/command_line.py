"""What all commands do alike. It imports little, so that --help answers at once."""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from rich.console import Console

from segcore.errors import UserError
from segcore.importing import importing

BAD_INPUT = 2
"""The exit code where a person has something to mend."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def run_command(work: Callable[[], int]) -> int:
    """Do a command's work and return its exit code.

    A ``UserError`` is printed without a traceback, and so is what a ``KeyboardInterrupt`` says.
    """
    console = Console(stderr=True, highlight=False)
    try:
        return work()
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        console.print(f"\n{str(interrupt) or 'Interrupted.'}", markup=False, soft_wrap=True)
        return INTERRUPTED


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say on a terminal what is being imported, which takes seconds."""
    with importing(), Console(stderr=True).status(f"Loading {what} …"):
        yield


def leave(command: Callable[[], int]) -> NoReturn:
    """Do the one command of this process, and end it with the command's exit code.

    Python would then take apart all that was imported, piece by piece, and let the person wait for
    seconds. So the process ends as soon as all that is registered for its end has been done.
    """
    codes: list[int] = []

    def end() -> None:
        if not codes:  # after an error that nobody foresaw, or --help
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody listens any more
                stream.flush()
        os._exit(codes[0])

    atexit.register(end)  # what is registered first is done last
    codes.append(command())
    sys.exit(codes[0])
