"""What all commands do alike. It imports little, so that --help answers at once."""

from collections.abc import Callable

from rich.console import Console

from segcore.errors import UserError

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
        console.print(f"\n{interrupt or 'Interrupted.'}", markup=False, soft_wrap=True)
        return INTERRUPTED
