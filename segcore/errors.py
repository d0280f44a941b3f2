"""Errors that are a person's to mend: a command line prints them without a traceback."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
"""Of an ``OSError``."""


class UserError(Exception):
    """Bad input. ``str()`` is what to print: what, where, what is allowed, how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: where it is, what it is, and how to mend it."""

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} → {self.mend}"


class ProblemsError(UserError):
    """Several problems, listed at once so that they can be mended at once."""

    def __init__(self, headline: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([headline, *(f"  {problem}" for problem in problems)]))


class StorageError(UserError):
    """A disk is full, or a disk or bucket can't be used for another reason: what was being done may
    go on from where it was when that is mended."""


class TrainingFailedError(Exception):
    """A training can't go on, and its configuration is why; ``str()`` is the reason."""
