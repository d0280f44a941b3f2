"""Content hashes of files, remembered, so that a file that hasn't changed isn't read again."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segcore.errors import Problem
from segcore.files import sha256_of

SETTLED_S = 2.0
"""A file changed this recently may change again without a new time stamp: it isn't remembered."""


class Stamp(NamedTuple):
    """What the file system knows of a file's content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    """Also tells copies that kept the time of their original."""


@dataclass(frozen=True)
class FileState:
    """A file's content, and the stamp it had before it was read."""

    stamp: Stamp
    sha256: str


def read_stamp(path: Path) -> Stamp:
    """The stamp of a file. Raises ``OSError``."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def hash_files(
    paths: Iterable[Path], memory: Path, pool: Executor, on_done: Callable[[], None]
) -> tuple[dict[Path, FileState], list[Problem]]:
    """The states of files, by reading those that the file ``memory`` doesn't know yet.

    Files that can't be read are problems. ``on_done`` is called after each file.
    """
    remembered = _recall(memory)

    def look(path: Path) -> FileState | Problem:
        try:
            stamp = read_stamp(path)
            known = remembered.get(path)
            if known is not None and known.stamp == stamp:
                return known
            return FileState(stamp, sha256_of(path))
        except OSError as error:
            what = f"can't be read: {error.strerror or error}"
            return Problem(str(path), what, "make it readable, or remove it")

    states: dict[Path, FileState] = {}
    problems: list[Problem] = []
    every_path = list(paths)
    for path, found in zip(every_path, pool.map(look, every_path), strict=True):
        if isinstance(found, FileState):
            states[path] = found
        else:
            problems.append(found)
        on_done()
    if states.items() - remembered.items():
        _remember(memory, remembered | states)
    return states, problems


def _recall(memory: Path) -> dict[Path, FileState]:
    """What is remembered; nothing, where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        entries = json.loads(memory.read_text(encoding="utf-8"))
        return {
            Path(path): FileState(Stamp(*map(int, stamp)), str(sha256))
            for path, (*stamp, sha256) in entries.items()
        }
    return {}


def _remember(memory: Path, states: Mapping[Path, FileState]) -> None:
    newest_ns = time.time_ns() - int(SETTLED_S * 1e9)
    entries = {
        str(path): [*state.stamp, state.sha256]
        for path, state in states.items()
        if max(state.stamp.mtime_ns, state.stamp.ctime_ns) < newest_ns
    }
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(entries), encoding="utf-8")
        partial.replace(memory)
    finally:
        partial.unlink(missing_ok=True)
