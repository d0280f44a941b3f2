"""Errors that a user can mend. Command lines print them without a traceback."""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
"""Values of ``OSError.errno`` that mean a full disk."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that of a full disk; GDAL has only its words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        if any(os.strerror(code) in str(error) for code in DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


class UserError(Exception):
    """Bad input. ``str()`` says what is wrong, where, what is allowed, and how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One mistake in an input: where it is, what it is, and how to mend it."""

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} → {self.mend}"


class ProblemsError(UserError):
    """Several problems in one message, so that all of them can be mended at once."""

    def __init__(self, headline: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([headline, *(f"  {problem}" for problem in problems)]))


class StorageError(UserError):
    """A disk is full, or a disk or bucket can't be used for another reason. When that is mended,
    the interrupted work can be resumed."""


class TrainingFailedError(Exception):
    """A training can't go on because of its configuration; ``str()`` is the reason."""
