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


def root_of(error: BaseException) -> BaseException:
    """The error that led to this one: rasterio's own says "See previous exception for details"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


SHOWN = 5
"""How many of a list of names are told where not each is asked for."""


class UserError(Exception):
    """Bad input. ``str()`` says what is wrong, where, what is allowed, and how to mend it."""

    def each(self) -> str:
        """The message, with all that it may hold of one kind."""
        return str(self)


def in_short(error: BaseException) -> str:
    """What an error says; if it isn't meant for users, after the name of its class."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Problem:
    """One mistake in an input: where it is, what it is, and how to mend it."""

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} → {self.mend}"


class ProblemsError(UserError):
    """Several problems in one message, so that all of them can be mended at once.

    Problems that are mended in the same way are of one kind: of each kind the message tells the
    first one, and in which other places it is. ``every`` is the command that shows each.
    """

    def __init__(self, headline: str, problems: Sequence[Problem], every: str = "") -> None:
        self.headline, self.problems = headline, tuple(problems)
        kinds: dict[str, list[Problem]] = {}
        for problem in problems:
            kinds.setdefault(problem.mend, []).append(problem)
        lines = [headline]
        for first, *others in kinds.values():
            lines.append(f"  {first}")
            if others:
                alike = {other.where for other in others} == {first.where}
                places = some_of([other.what if alike else other.where for other in others], 3)
                lines.append(f"    likewise {len(others)} more: {places}")
        if every and len(problems) > len(kinds):
            lines.append(f"  each of them: {every}")
        super().__init__("\n".join(lines))

    def each(self) -> str:
        """The message with one line for each problem."""
        return "\n".join([self.headline, *(f"  {problem}" for problem in self.problems)])


@dataclass(frozen=True)
class Note:
    """What is odd about some files, but doesn't stop a training."""

    what: str
    files: tuple[str, ...] = ()
    """None: it isn't about files."""

    def __str__(self) -> str:
        return f"{some_of(self.files)}: {self.what}" if self.files else self.what

    def each(self) -> list[str]:
        """One line for each file."""
        return [f"{file}: {self.what}" for file in self.files] or [self.what]


def counted(number: int, what: str) -> str:
    """Such as "1 record" or "3 records"."""
    return f"{number} {what}{'s' * (number != 1)}"


def some_of(names: Sequence[str], shown: int = SHOWN) -> str:
    """Such as "a, b, c, d, e and 3 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


class StorageError(UserError):
    """A disk is full, or a disk or bucket can't be used for another reason. When that is mended,
    the interrupted work can be resumed."""


class TrainingFailedError(Exception):
    """A training can't go on because of its configuration; ``str()`` is the reason."""


class LostProcessError(Exception):
    """A process that a training needs died, which may be by chance: the training can be resumed."""
