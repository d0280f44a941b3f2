"""A log of what was predicted into a folder, so that no photograph is predicted twice."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segcore.errors import UserError
from segcore.files import cut_torn_line, digest, sha256_of, whole_file

LOG_NAME = "predicted.jsonl"
UNCERTAINTY_NAME = "uncertainty.csv"


@dataclass(frozen=True)
class Predicted:
    """A photograph whose files are complete."""

    photo: str
    """The absolute path of the photograph."""
    settings: str
    """``settings_key`` of the bundle and the options."""
    state: tuple[int, int]
    """``file_state`` of the photograph."""
    files: Mapping[str, str]
    """What was written, by kind; paths in the folder."""
    uncertainty: Mapping[str, float] | None = None
    """Mean and 95th percentile over the photograph."""


class PredictionLog:
    """The log of a folder: one JSON record a line. The last record of a photograph counts.

    Raises ``UserError`` where the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LOG_NAME
        self._records: dict[str, Predicted] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"{folder} can't be a folder: {error.strerror or error}"
            raise UserError(f"{what}; name another --out folder") from error
        if self._path.exists():
            cut_torn_line(self._path)
            self._records = {record.photo: record for record in _records_in(self._path)}

    def find(self, photo: Path, settings: str, kinds: Iterable[str]) -> Predicted | None:
        """The record of a photograph of which these settings wrote all these kinds of files.

        None where there is none, where one of the files is gone, or the photograph has changed.
        """
        record = self._records.get(str(photo.absolute()))
        if record is None or record.settings != settings:
            return None
        if not photo.exists() or record.state != file_state(photo):
            return None
        files = [record.files.get(kind) for kind in kinds]
        there = all(file is not None and (self.folder / file).exists() for file in files)
        return record if there else None

    def add(self, record: Predicted) -> None:
        """Keep a record, on disk too. Its files must be complete."""
        self._records[record.photo] = record
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def recorded_files(folder: Path) -> set[Path]:
    """All files that were ever predicted into a folder, as its log says."""
    records = _records_in(folder / LOG_NAME)
    return {folder / file for record in records for file in record.files.values()}


def file_state(path: Path) -> tuple[int, int]:
    """A file's bytes and time of change, which tell whether it is still the same."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def settings_key(bundle: Path, options: Mapping[str, Any]) -> str:
    """A hash of a bundle's content and of the options that change what is predicted."""
    parts: list[str | bytes] = [json.dumps(dict(options), sort_keys=True)]
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        parts += [str(path.relative_to(bundle)), bytes.fromhex(sha256_of(path))]
    return digest(*parts)


def write_uncertainty(folder: Path, records: Iterable[Predicted]) -> Path:
    """Write ``uncertainty.csv``: how much the members disagree on each photograph, most first."""
    path = folder / UNCERTAINTY_NAME
    rows = [
        (record.uncertainty["mean"], record.uncertainty["p95"], record.photo)
        for record in records
        if record.uncertainty is not None
    ]
    with (
        whole_file(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("photograph", "mean", "p95"))
        writer.writerows(
            (os.path.relpath(photo), f"{mean:.4f}", f"{p95:.4f}")
            for mean, p95, photo in sorted(rows, reverse=True)
        )
    return path


def _records_in(log: Path) -> Iterator[Predicted]:
    """The records of a log. A line without one is passed over: its photograph is done again."""
    for line in log.read_text("utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            size, changed = values["state"]
            values |= {"state": (int(size), int(changed)), "files": dict(values["files"])}
            yield Predicted(**values)
