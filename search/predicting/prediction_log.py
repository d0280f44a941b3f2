"""A log of what was predicted into a folder, so that no photograph is predicted twice."""

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from segcore.errors import UserError
from segcore.files import cut_torn_line, digest, sha256_of, whole_file

LOG_NAME = "predicted.jsonl"
CLASSES_NAME = "classes.csv"
UNCERTAINTY_NAME = "uncertainty.csv"


@dataclass(frozen=True)
class Predicted:
    """A photograph whose files are complete."""

    photo: str
    """``photo_key`` of the photograph."""
    settings: str
    """``settings_key`` of the bundle and the options."""
    state: tuple[int, int]
    """``file_state`` of the photograph."""
    files: Mapping[str, str]
    """What was written, by kind; paths in the folder."""
    pixels: Mapping[str, int] | None = None
    """How many pixels each class has. None: written by an earlier version."""
    metres_per_px: float | None = None
    """The ground size of a pixel, where that is known."""
    uncertainty: Mapping[str, float] | None = None
    """Mean and 95th percentile over the photograph."""

    @property
    def name(self) -> str:
        """The mask's path in the folder, without its ending."""
        return self.files["mask"].rpartition(".")[0]

    def is_like(self, other: "Predicted") -> bool:
        """Whether both are of the same photograph, predicted alike."""
        mine, others = ((one.photo, one.settings, one.state) for one in (self, other))
        return mine == others


class PredictionLog:
    """The log of a folder: one JSON record a line. The last record of a mask counts.

    Raises ``UserError`` where the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LOG_NAME
        self._records: dict[str, Predicted] = {}
        self._adding = Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"{folder} can't be a folder: {error.strerror or error}"
            raise UserError(f"{what}; name another --out folder") from error
        if self._path.exists():
            cut_torn_line(self._path)
            self._records = {record.name: record for record in _records_in(self._path)}

    def find(self, photo: Path, name: str, settings: str, kinds: Iterable[str]) -> Predicted | None:
        """The record of a photograph of which these settings wrote all these kinds of files.

        None where there is none of that ``name``, where one of the files is gone, or the photograph
        has changed.
        """
        record = self._records.get(name)
        if record is None or (record.photo, record.settings) != (photo_key(photo), settings):
            return None
        if not photo.exists() or record.state != file_state(photo):
            return None
        return record if self._has(record, kinds) else None

    def add(self, record: Predicted) -> None:
        """Keep a record, on disk too, in whatever thread. Its files must be complete.

        Other files of that name belong to the same mask, and are kept, or to an earlier one, which
        is gone: then they are deleted.
        """
        if (earlier := self._records.get(record.name)) is not None:
            if earlier.is_like(record):
                files = {**earlier.files, **record.files}
                uncertainty = record.uncertainty or earlier.uncertainty
                record = replace(record, files=files, uncertainty=uncertainty)
            else:
                for stale in {*earlier.files.values()} - {*record.files.values()}:
                    (self.folder / stale).unlink(missing_ok=True)
        with self._adding, self._path.open("a", encoding="utf-8") as file:
            self._records[record.name] = record
            file.write(json.dumps(asdict(record)) + "\n")

    def places(self, files: Mapping[Any, Path]) -> dict[str, str]:
        """The same files as a record names them."""
        return {str(kind): str(path.relative_to(self.folder)) for kind, path in files.items()}

    def done(self, settings: str) -> list[Predicted]:
        """The records of all masks in the folder that these settings wrote."""
        records = [record for record in self._records.values() if record.settings == settings]
        return [record for record in records if self._has(record, ["mask"])]

    def _has(self, record: Predicted, kinds: Iterable[str]) -> bool:
        files = [record.files.get(kind) for kind in kinds]
        return all(file is not None and (self.folder / file).exists() for file in files)


def recorded_files(folder: Path) -> set[Path]:
    """All files that were ever predicted into a folder, as its log says."""
    records = _records_in(folder / LOG_NAME)
    return {folder / file for record in records for file in record.files.values()}


def photo_key(path: Path) -> str:
    """A photograph's path as a record has it: the same from any folder."""
    return os.path.normpath(path.absolute())


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


def write_tables(folder: Path, records: Sequence[Predicted]) -> None:
    """Write the tables of all masks in a folder: ``classes.csv``, and ``uncertainty.csv``, which
    says how much the members disagree on each photograph, most first.

    The second one only if that is known of a photograph. Raises ``UserError`` where a table can't
    be written.
    """
    by_name = sorted(records, key=lambda record: record.name)
    shares = itertools.chain.from_iterable(map(_class_rows, by_name))
    header = "photograph", "mask", "class", "pixels", "share", "area_m2"
    _write_table(folder / CLASSES_NAME, header, shares)
    rows = [
        (record.uncertainty["mean"], record.uncertainty["p95"], record.photo)
        for record in records
        if record.uncertainty is not None
    ]
    if not rows:
        (folder / UNCERTAINTY_NAME).unlink(missing_ok=True)
        return
    uncertain = (
        (os.path.relpath(photo), f"{mean:.4f}", f"{p95:.4f}")
        for mean, p95, photo in sorted(rows, reverse=True)
    )
    _write_table(folder / UNCERTAINTY_NAME, ("photograph", "mean", "p95"), uncertain)


def _class_rows(record: Predicted) -> Iterator[tuple[str | int, ...]]:
    """The lines of a photograph in ``classes.csv``; the share is that of pixels with data."""
    pixels, metres = record.pixels or {}, record.metres_per_px
    total = max(1, sum(pixels.values()))
    for name, count in pixels.items():
        area_m2 = "" if metres is None else f"{count * metres**2:.2f}"
        yield (
            os.path.relpath(record.photo),
            record.files["mask"],
            name,
            count,
            f"{count / total:.6f}",
            area_m2,
        )


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    try:
        with (
            whole_file(path) as unfinished,
            # A name that is no UTF-8 keeps its bytes.
            unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from error


def _records_in(log: Path) -> Iterator[Predicted]:
    """The records of a log. A line without one is passed over: its photograph is done again."""
    for line in log.read_text("utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            size, changed = values["state"]
            record = Predicted(**{**values, "state": (int(size), int(changed))})
            if "mask" in record.files:
                yield record
