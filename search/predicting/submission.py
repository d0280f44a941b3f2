"""The competition's file: one row per photograph and class, with runs of pixels."""

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.errors import StorageError

SIDE_PX = 1024
"""Masks are handed in at this height and width, whatever the photograph's size."""


def run_lengths(mask_HW: NDArray[np.uint8], num_classes: int) -> list[str]:
    """Each class's runs in row-major order: ``start length`` pairs, starts counted from 1.

    A class without a pixel has the empty string. The runs of all classes together cover the mask.
    """
    flat = mask_HW.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    rows = []
    for k in range(num_classes):
        of_class = flat[starts] == k
        pairs = np.stack([starts[of_class] + 1, lengths[of_class]], axis=1)
        rows.append(" ".join(map(str, pairs.ravel())))
    return rows


def submission_rows(
    stem: str, mask_HW: NDArray[np.uint8], num_classes: int
) -> Iterator[tuple[str, str]]:
    """``(ImageClassId, rle_mask)`` of class 1, 2 … of one photograph; class 0 is background."""
    square_HW = cv2.resize(mask_HW, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST)
    runs = run_lengths(np.asarray(square_HW, dtype=np.uint8), num_classes)
    for k in range(1, num_classes):
        yield f"{stem}_{k}", runs[k]


class SubmissionFile:
    """Written row by row beside its final name, which it gets when all rows are there.

    Its methods raise ``StorageError`` where the disk is full.
    """

    def __init__(self, path: Path, num_classes: int) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._num_classes = num_classes
        with self._explaining():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(("ImageClassId", "rle_mask"))

    def add(self, stem: str, mask_HW: NDArray[np.uint8]) -> None:
        """Write the rows of one photograph."""
        with self._explaining():
            self._writer.writerows(submission_rows(stem, mask_HW, self._num_classes))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            with self._explaining():
                self._file.close()
                self._partial.rename(self._path)
        with contextlib.suppress(OSError):  # what it could not write before, it still can't
            self._file.close()
        self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self._path} can't be written: {error}; make room") from error
