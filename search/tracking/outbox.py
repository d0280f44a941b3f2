"""A file of records that wait to be sent: on disk at once, delivered in order, never forgotten.

The journal is a JSON-lines file that only grows. Beside it, ``<name>.sent`` holds the offset up to
which everything was delivered, and ``<name>.refused`` the records that the receiver will never
take, each with its reason. A process that dies between delivering and noting the offset delivers
again when it returns, so receivers must be idempotent.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segcore.errors import UserError

Record = dict[str, Any]

BATCH_BYTES = 256 * 1024
"""How much is read at a time when an outage has left a lot to send."""


class Batch(NamedTuple):
    """Records in the order of their appending, and the journal's offset after the last of them."""

    records: list[Record]
    end: int


def read_records(path: Path) -> Iterator[Record]:
    """The records of a journal that another process may be writing; a torn last one is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


class Journal:
    """One writing process; any of its threads may append while another one delivers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sent_path = path.with_name(path.name + ".sent")
        self._refused_path = path.with_name(path.name + ".refused")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}; the run's folder must be writable"
            ) from error
        self._changed = threading.Condition()
        self._finished = False
        self._size = self._drop_torn_line()
        self._sent = self._read_sent_offset()
        self._unsent_count = sum(1 for _ in self._read(self._sent))

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. Raises ``UserError`` on a full disk, and keeps the file whole."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._changed:
            try:
                if self._file.write(line) < len(line):
                    raise OSError(0, "no space left")
            except OSError as error:
                self._file.truncate(self._size)
                raise UserError(f"{self.path}: {error.strerror}; make room on that disk") from error
            self._size += len(line)
            self._unsent_count += 1
            self._changed.notify_all()

    def next_batch(self) -> Batch | None:
        """Wait for records to deliver; None once ``finish`` was called and nothing is left."""
        with self._changed:
            while self._sent == self._size:
                if self._finished:
                    return None
                self._changed.wait()
        return self._read_batch(self._sent)

    def mark_sent(self, batch: Batch) -> None:
        """Note on disk that everything up to the end of ``batch`` was delivered."""
        fresh = self._sent_path.with_name(self._sent_path.name + ".tmp")
        fresh.write_text(f"{batch.end}\n")
        fresh.replace(self._sent_path)
        with self._changed:
            self._sent = batch.end
            self._unsent_count -= len(batch.records)

    def refuse(self, records: Sequence[Record], reason: str) -> None:
        """Keep beside the journal what the receiver will never take."""
        with self._refused_path.open("a") as file:
            file.writelines(json.dumps({"reason": reason, **record}) + "\n" for record in records)

    @property
    def unsent_count(self) -> int:
        """How many records wait, counted in whole batches."""
        with self._changed:
            return self._unsent_count

    def history(self) -> Iterator[Record]:
        """Every record since the journal was begun, delivered or not."""
        return self._read(0)

    def finish(self) -> None:
        """Nothing more will be appended: ``next_batch`` stops waiting."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the file, with all that is unsent in it."""
        self._file.close()

    def _read(self, offset: int) -> Iterator[Record]:
        while offset < self._size:
            records, offset = self._read_batch(offset)
            yield from records

    def _read_batch(self, start: int) -> Batch:
        size = self._size
        chunk = os.pread(self._file.fileno(), min(BATCH_BYTES, size - start), start)
        if b"\n" not in chunk:  # One line longer than a batch.
            chunk = os.pread(self._file.fileno(), size - start, start)
        lines = chunk[: chunk.rindex(b"\n") + 1]
        try:
            return Batch([json.loads(line) for line in lines.splitlines()], start + len(lines))
        except ValueError as error:
            raise UserError(
                f"{self.path}: damaged after byte {start}: {error}; restore the file, or move it "
                "away to go on without what was not sent"
            ) from error

    def _drop_torn_line(self) -> int:
        """Cut off what a process that died in mid-write left; the size of the whole lines."""
        whole = os.fstat(self._file.fileno()).st_size
        while whole > 0 and os.pread(self._file.fileno(), 1, whole - 1) != b"\n":
            whole -= 1
        self._file.truncate(whole)
        return whole

    def _read_sent_offset(self) -> int:
        """0, so that all is delivered again, where the note is missing, torn or of another file."""
        try:
            offset = int(self._sent_path.read_text())
        except (OSError, ValueError):
            return 0
        ends_a_line = (
            0 < offset <= self._size and os.pread(self._file.fileno(), 1, offset - 1) == b"\n"
        )
        return offset if ends_a_line else 0
