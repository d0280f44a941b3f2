"""Labels that predictions contradict: networks are sure of one class, and the label has another.

The networks must not have been trained on what they predict: they would have learned its errors.

How sure is sure differs from class to class, so thresholds are measured (confident learning;
Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
equation 2). Networks are sure that a class is there from the mean probability on that it gets where
labels name it. Beyond that article they must also be sure that the label's class is not there: its
probability is at most the mean where labels name others. That leaves out classes between which
they waver, such as trees and forest. There single examples are judged, here connected regions of
pixels, because what a person corrects is an object.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore.config import IGNORE_INDEX

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]

SURE = 255
"""What a probability of 1 is in ``Answers``."""

LEAST_REGION_PX = 4
"""Smaller regions are taken for noise."""

_NEVER = 2.0
"""A threshold that no probability reaches."""


class Thresholds(NamedTuple):
    """Of each class (K), how probable it must be, and how improbable."""

    present_K: NDArray[np.float64]
    """From here on networks are sure that it is there."""
    absent_K: NDArray[np.float64]
    """Up to here they are sure that it isn't."""


class Confidences:
    """Collects how probable each class is where labels name it, and where they name others."""

    def __init__(self, num_classes: int) -> None:
        self._own_K, self._all_K = np.zeros(num_classes), np.zeros(num_classes)
        self._pixels_K = np.zeros(num_classes, np.int64)

    def add(self, label_HW: Tensor, probs_KHW: Tensor) -> None:
        """Count some pixels; ignored ones are left out."""
        label_N, probs_KN = label_HW.flatten().long(), probs_KHW.flatten(1)
        counts_N = label_N != IGNORE_INDEX
        label_N, probs_KN = label_N[counts_N], probs_KN[:, counts_N]
        own_N = probs_KN.gather(0, label_N[None])[0].cpu().numpy()
        label = label_N.cpu().numpy()
        classes = len(self._own_K)
        self._own_K += np.bincount(label, own_N, classes)
        self._pixels_K += np.bincount(label, minlength=classes)
        self._all_K += probs_KN.sum(dim=1).cpu().numpy()

    def thresholds(self) -> Thresholds:
        """The means. Networks are never sure of a class that no label names."""
        others_K = self._pixels_K.sum() - self._pixels_K
        present_K = self._own_K / np.maximum(self._pixels_K, 1)
        absent_K = (self._all_K - self._own_K) / np.maximum(others_K, 1)
        return Thresholds(np.where(self._pixels_K > 0, present_K, _NEVER), absent_K)


class Answers(NamedTuple):
    """What networks say of the pixels of a picture (HW, uint8 each)."""

    named: Mask
    """The most probable class."""
    sure: Mask
    """Its probability, 0 … ``SURE``."""
    own: Mask
    """The probability of the label's class, 0 … ``SURE``; 0 where the label is ignored."""

    @classmethod
    def of(cls, label_HW: Tensor, probs_KHW: Tensor) -> "Answers":
        """The answers in few bytes."""
        ignored_HW = label_HW == IGNORE_INDEX
        label_1HW = label_HW.masked_fill(ignored_HW, 0).long()[None]
        own_HW = probs_KHW.gather(0, label_1HW)[0].masked_fill(ignored_HW, 0)
        sure_HW, named_HW = probs_KHW.max(dim=0)
        parts = (named_HW, (sure_HW * SURE).round(), (own_HW * SURE).round())
        return cls(*(part.to(torch.uint8).cpu().numpy() for part in parts))


@dataclass(frozen=True, eq=False)
class Region:
    """Connected pixels whose label is contradicted by one class."""

    label: int
    """The class that the label has there; where it has several, the most common one."""
    named: int
    """The class that networks are sure of."""
    area_px: int
    confidence: float
    """The mean probability of ``named``."""
    rows: slice
    columns: slice
    """Of its box in the picture."""
    inside_HW: Bools
    """Which pixels of the box belong to it."""

    @property
    def score(self) -> float:
        """Regions are ranked by it."""
        return self.area_px * self.confidence


def find_regions(
    label_HW: Mask, answers: Answers, thresholds: Thresholds, *, edge_px: int, limit: int
) -> list[Region]:
    """The regions of a picture whose label is contradicted: those with the largest score first.

    No edge of an object is exact: pixels that lie within ``edge_px`` of where the label has the
    predicted class are left out.
    """
    doubtful_HW = _doubtful(label_HW, answers, thresholds)
    found: list[Region] = []
    for k in np.unique(answers.named[doubtful_HW]).tolist():
        of_class_HW = doubtful_HW & (answers.named == k)
        left, top, width, height = cv2.boundingRect(of_class_HW.view(np.uint8))
        # With the edge, so that the label beside it is seen.
        rows = slice(max(0, top - edge_px), top + height + edge_px)
        columns = slice(max(0, left - edge_px), left + width + edge_px)
        part = np.s_[rows, columns]
        of_class_HW[part] &= ~_grown(label_HW[part] == k, edge_px)
        found += _connected(k, of_class_HW, label_HW, answers.sure, part, limit)
    return sorted(found, key=lambda region: -region.score)[:limit]


def _doubtful(label_HW: Mask, answers: Answers, thresholds: Thresholds) -> Bools:
    """Where networks are sure of a class and sure that it isn't the label's; not where the label is
    ignored."""
    classes = len(thresholds.present_K)
    least_256, most_256 = np.full(256, SURE + 1, np.int16), np.full(256, -1, np.int16)
    least_256[:classes] = np.ceil(thresholds.present_K * SURE)
    most_256[:classes] = np.floor(thresholds.absent_K * SURE)
    is_sure_HW = answers.sure >= least_256[answers.named]
    return np.asarray(
        is_sure_HW & (answers.own <= most_256[label_HW]) & (answers.named != label_HW)
    )


def _grown(mask_HW: Bools, px: int) -> Bools:
    square = np.ones((2 * px + 1, 2 * px + 1), np.uint8)
    return np.asarray(cv2.dilate(mask_HW.astype(np.uint8), square) > 0)


def _connected(
    named: int,
    doubtful_HW: Bools,
    label_HW: Mask,
    sure_HW: Mask,
    part: tuple[slice, slice],
    limit: int,
) -> list[Region]:
    """The largest connected regions of doubtful pixels in a part of a picture."""
    of_part_HW = doubtful_HW[part]
    _, number_HW, stats_N5, _ = cv2.connectedComponentsWithStats(
        of_part_HW.astype(np.uint8), connectivity=4
    )
    numbers, sure = number_HW[of_part_HW], sure_HW[part][of_part_HW]
    sum_N = np.bincount(numbers, sure, len(stats_N5)) / SURE
    sum_N[stats_N5[:, cv2.CC_STAT_AREA] < LEAST_REGION_PX] = 0
    found = []
    for number in np.argsort(-sum_N, kind="stable")[: min(limit, np.count_nonzero(sum_N))].tolist():
        left, top, width, height, area_px = stats_N5[number].tolist()
        inside_HW = number_HW[top : top + height, left : left + width] == number
        rows = slice(part[0].start + top, part[0].start + top + height)
        columns = slice(part[1].start + left, part[1].start + left + width)
        label = int(np.bincount(label_HW[rows, columns][inside_HW]).argmax())
        found.append(
            Region(label, named, area_px, sum_N[number] / area_px, rows, columns, inside_HW)
        )
    return found
