"""What all command lines do alike."""

from collections.abc import Callable

from rich.console import Console

from segcore.errors import UserError

BAD_INPUT = 2
"""The exit code where a person has something to mend."""


def run_command(work: Callable[[], int]) -> int:
    """Do a command's work and return its exit code; a ``UserError`` becomes one line and a 2."""
    try:
        return work()
    except UserError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        return BAD_INPUT
