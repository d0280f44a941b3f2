"""Hashes of files' contents, remembered, so that a file that hasn't changed isn't read again."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from segcore.errors import Problem
from segcore.files import locked, sha256_of, whole_file

SETTLED_S = 2.0
"""A file that changed this recently may change again with the same time stamp, so it isn't
remembered."""


class FileState(NamedTuple):
    """What the file system said of a file before it was read, and the hash of its content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    """Also tells apart copies that kept the time of their original."""
    sha256: str

    def is_of(self, path: Path) -> bool:
        """Whether the file still looks the same to the file system. Raises ``OSError``."""
        return self[:3] == _stamp(path)


def find_state(path: Path, remembered: Mapping[Path, FileState]) -> FileState | Problem:
    """A file's state. The file is read only where the remembered state is not that of the file."""
    try:
        known = remembered.get(path)
        if known is not None and known.is_of(path):
            return known
        return FileState(*_stamp(path), sha256_of(path))
    except OSError as error:
        what = f"can't be read: {error.strerror or error}"
        return Problem(str(path), what, "make it readable, or remove it")


def recall_states(memory: Path) -> dict[Path, FileState]:
    """What the file ``memory`` remembers; nothing, where it is missing or damaged."""
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
        return {Path(path): FileState(*entry) for path, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember_states(memory: Path, states: Mapping[Path, FileState]) -> None:
    """Write the file ``memory`` for ``recall_states``. Raises ``OSError``."""
    newest_ns = time.time_ns() - int(SETTLED_S * 1e9)
    settled = {
        str(path): state
        for path, state in states.items()
        if max(state.mtime_ns, state.ctime_ns) < newest_ns
    }
    with locked(memory.with_suffix(".lock")), whole_file(memory) as unfinished:
        unfinished.write_text(json.dumps(settled), encoding="utf-8")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
