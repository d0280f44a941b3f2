"""The competition's file: one row for each photograph and class, with the runs of its pixels."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.errors import StorageError
from segcore.files import whole_file

SIDE_PX = 1024
"""Masks are handed in at this height and width, whatever the size of the photograph."""


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
    """``(ImageClassId, rle_mask)`` of classes 1, 2 … of a photograph; class 0 is the background."""
    square_HW = cv2.resize(mask_HW, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST)
    runs = run_lengths(np.asarray(square_HW, dtype=np.uint8), num_classes)
    for k in range(1, num_classes):
        yield f"{stem}_{k}", runs[k]


def write_submission(
    path: Path, masks: Iterable[tuple[str, NDArray[np.uint8]]], num_classes: int
) -> None:
    """Write the rows of photographs, given as (stem, ``mask_HW``), one after the other.

    The file is there when all rows are in it. Raises ``StorageError`` where it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("ImageClassId", "rle_mask"))
            for stem, mask_HW in masks:
                writer.writerows(submission_rows(stem, mask_HW, num_classes))
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error}; make room") from error
