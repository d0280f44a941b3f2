"""Files and folders that are there whole or not at all, locks, hashes, and the cache folder."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from segcore.errors import Problem, UserError

SETTLED_S = 2.0
"""A file that changed this recently may change again with the same time stamp, so it isn't
remembered."""


def user_cache() -> Path:
    """Where segsearch keeps what it can make again: ``$SEGSEARCH_CACHE``, or ~/.cache/segsearch.

    The path is absolute, so that a process with another working folder means the same place. Raises
    ``UserError`` where nothing can be written there, as in a container without a home.
    """
    chosen = os.environ.get("SEGSEARCH_CACHE")
    try:
        folder = Path(chosen).absolute() if chosen else Path.home() / ".cache" / "segsearch"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    except OSError as error:
        where, why = error.filename, error.strerror
    except RuntimeError:  # HOME isn't set, and the user id has no name
        where, why = "~/.cache/segsearch", "this user has no home folder"
    else:
        return folder
    raise UserError(
        f"{where}: prepared data can't be kept there: {why}; set SEGSEARCH_CACHE to a folder that "
        "can be written"
    )


def hidden_beside(path: Path, ending: str) -> Path:
    """A path in the same folder for what becomes ``path``; its name is as long as disks allow."""
    is_long = len(os.fsencode(path.name)) > 200
    return path.with_name(f".{digest(path.name) if is_long else path.stem}.{ending}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file gets the name ``path`` if the block raises no error.

    The unfinished file has the same ending, because libraries choose a format by it. One process
    at a time may write a ``path`` (``locked``): the next one deletes what a killed one left behind.
    """
    unfinished = hidden_beside(path, f"partial{path.suffix}")
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill; it gets the name ``path`` if the block raises no error.

    A folder that already has that name is replaced. What a killed process left unfinished is
    deleted first, so call it for one ``path`` from one process at a time (``locked``).
    """
    unfinished = path.with_name(f".{path.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Wait until no other process holds the lock file ``path``, and hold it during the block.

    The operating system frees the lock of a process that died. Without ``wait``, raises
    ``BlockingIOError`` where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def cut_torn_line(path: Path) -> None:
    """Shorten a file to its last complete line, where a full disk or a power cut tore the last one.

    A reader of JSON lines would otherwise fail, and a writer would append to half a line.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = size
        while start > 0:
            length = min(start, 1 << 16)
            start -= length
            file.seek(start)
            newline = file.read(length).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
        file.truncate(0)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hex digits. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reserve(path: Path) -> None:
    """Give a sparse file all the disk space that its size says. Raises ``OSError``.

    Otherwise a write to a memory map of the file could end the process, on a full disk.
    """
    size = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        # macOS has no such call: a hole in a file becomes real when its zeros are written.
        for start in range(0, size, 1 << 20):
            file.seek(start)
            content = file.read(1 << 20)
            file.seek(start)
            file.write(content)


def digest(*parts: str | bytes) -> str:
    """The SHA-256 of these texts and bytes, one after the other, as 64 hex digits."""
    whole = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(whole).hexdigest()


def sync_folder(folder: Path) -> None:
    """Force the files of a folder, and their names, to the disk."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
