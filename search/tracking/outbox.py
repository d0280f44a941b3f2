"""Records that wait to be sent: they are on disk at once, delivered in order, and never lost.

An outbox is a JSON-lines file that only grows. Beside it, ``<name>.sent`` holds the offset up to
which everything was delivered, and ``<name>.refused`` the records that the receiver will never
take, each with the reason. A process that dies between delivering and noting the offset delivers
again when it returns, so receivers must be idempotent.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segcore.errors import UserError
from segcore.files import cut_torn_line, whole_file

Record = dict[str, Any]

BATCH_BYTES = 256 * 1024
"""How much is read at a time when an outage has left a lot to send."""


class Batch(NamedTuple):
    """Records in the order in which they were appended, and the file's offset after the last."""

    records: list[Record]
    end: int


def read_records(path: Path) -> Iterator[Record]:
    """The records of an outbox, which another process may be writing; a torn last one is left out.

    Raises ``UserError`` where the file is damaged.
    """
    return (record for batch in _batches(path, 0) for record in batch.records)


class Outbox:
    """The outbox of one writing process; one of its threads may append while another delivers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sent_path = path.with_name(path.name + ".sent")
        self._refused_path = path.with_name(path.name + ".refused")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            cut_torn_line(path)  # of a process that died while it wrote
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}; the run's folder must be writable"
            ) from error
        self._changed = threading.Condition()
        self._finished = False
        self._size = path.stat().st_size
        self._sent = self._read_sent_offset()
        self._unsent_count = sum(len(batch.records) for batch in _batches(path, self._sent))

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
        return next(_batches(self.path, self._sent))

    def mark_sent(self, batch: Batch) -> None:
        """Note on disk that everything up to the end of ``batch`` was delivered."""
        with whole_file(self._sent_path) as unfinished:
            unfinished.write_text(f"{batch.end}\n")
        with self._changed:
            self._sent = batch.end
            self._unsent_count -= len(batch.records)

    def send_again(self) -> None:
        """Deliver everything anew: the receiver doesn't have what was sent."""
        with self._changed:
            self._sent = 0
            self._unsent_count = sum(len(batch.records) for batch in _batches(self.path, 0))
            self._changed.notify_all()

    @property
    def is_any_sent(self) -> bool:
        """Whether something was delivered, in this session or before."""
        with self._changed:
            return self._sent > 0

    def refuse(self, records: Sequence[Record], reason: str) -> None:
        """Keep beside the outbox what the receiver will never take."""
        with self._refused_path.open("a") as file:
            file.writelines(json.dumps({"reason": reason, **record}) + "\n" for record in records)

    @property
    def unsent_count(self) -> int:
        """How many records wait, counted in whole batches."""
        with self._changed:
            return self._unsent_count

    def finish(self) -> None:
        """Nothing more will be appended: ``next_batch`` stops waiting."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the file, with all that is unsent in it."""
        self._file.close()

    def _read_sent_offset(self) -> int:
        """0, so that all is delivered again, where the note is missing, torn or of another file."""
        try:
            offset = int(self._sent_path.read_text())
        except (OSError, ValueError):
            return 0
        if not 0 < offset <= self._size:
            return 0
        with self.path.open("rb") as file:
            file.seek(offset - 1)
            return offset if file.read(1) == b"\n" else 0


def _batches(path: Path, start: int) -> Iterator[Batch]:
    """The whole lines of an outbox after the offset ``start``."""
    end = start
    with path.open("rb") as file:
        while True:
            file.seek(end)  # over what was left of a line that is only half written yet
            lines = [line for line in file.readlines(BATCH_BYTES) if line.endswith(b"\n")]
            if not lines:
                return
            try:
                records = [json.loads(line) for line in lines]
            except ValueError as error:
                raise UserError(
                    f"{path}: damaged after byte {end}: {error}; restore the file, or move it "
                    "away to go on without what was not sent"
                ) from error
            end += sum(map(len, lines))
            yield Batch(records, end)
