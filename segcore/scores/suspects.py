"""Labels that predictions contradict: networks are sure of one class, and the label has another.

The networks must not have been trained on what they predict: they would have learned its errors.

How sure is sure differs from class to class, so each has a threshold of its own: the mean
probability that it gets where the label names it (confident learning; Northcutt, Jiang and Chuang
2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", equation 2). There single
examples are judged, here connected regions of pixels, because what a person corrects is an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore.config import IGNORE_INDEX

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]

SURE = 255
"""What a probability of 1 is in a map of how sure networks are."""

LEAST_REGION_PX = 4
"""Smaller regions are taken for noise."""

_NEVER = 2.0
"""A threshold that no probability reaches."""


class Thresholds:
    """Collects how probable each class is where the label names it."""

    def __init__(self, num_classes: int) -> None:
        self._sum_K = np.zeros(num_classes)
        self._pixels_K = np.zeros(num_classes, np.int64)

    def add(self, label_HW: Tensor, probs_KHW: Tensor) -> None:
        """Count some pixels; ignored ones are left out."""
        label_N, probs_KN = label_HW.flatten().long(), probs_KHW.flatten(1)
        counts_N = label_N != IGNORE_INDEX
        label_N, probs_KN = label_N[counts_N], probs_KN[:, counts_N]
        own_N = probs_KN.gather(0, label_N[None])[0].cpu().numpy()
        classes = len(self._sum_K)
        self._sum_K += np.bincount(label_N.cpu().numpy(), own_N, classes)
        self._pixels_K += np.bincount(label_N.cpu().numpy(), minlength=classes)

    def per_class(self) -> NDArray[np.float64]:
        """From which probability on networks are sure of each class (K).

        Of a class that no label names they never are.
        """
        mean_K = self._sum_K / np.maximum(self._pixels_K, 1)
        return np.where(self._pixels_K > 0, mean_K, _NEVER)


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


def most_probable(probs_KHW: Tensor) -> tuple[Mask, Mask]:
    """The most probable class of each pixel, and its probability as 0 … ``SURE`` (HW each)."""
    sure, named = probs_KHW.max(dim=0)
    return (
        named.to(torch.uint8).cpu().numpy(),
        (sure * SURE).round().to(torch.uint8).cpu().numpy(),
    )


def find_regions(
    label_HW: Mask,
    named_HW: Mask,
    sure_HW: Mask,
    threshold_K: Sequence[float] | NDArray[np.float64],
    *,
    edge_px: int,
    limit: int,
) -> list[Region]:
    """The regions of a picture whose label is contradicted: those with the largest score first.

    ``named_HW`` and ``sure_HW`` are of ``most_probable``. No edge of an object is exact: pixels
    that lie within ``edge_px`` of where the label has the predicted class are left out.
    """
    found: list[Region] = []
    for k, threshold in enumerate(threshold_K):
        doubtful_HW = (named_HW == k) & (sure_HW >= threshold * SURE)
        doubtful_HW &= (label_HW != k) & (label_HW != IGNORE_INDEX)
        left, top, width, height = cv2.boundingRect(doubtful_HW.astype(np.uint8))
        if not width:
            continue
        # With the edge, so that the label beside it is seen.
        rows = slice(max(0, top - edge_px), top + height + edge_px)
        columns = slice(max(0, left - edge_px), left + width + edge_px)
        part = np.s_[rows, columns]
        doubtful_HW[part] &= ~_grown(label_HW[part] == k, edge_px)
        found += _connected(k, doubtful_HW, label_HW, sure_HW, part, limit)
    return sorted(found, key=lambda region: -region.score)[:limit]


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
    _, number_HW, stats_N5, _ = cv2.connectedComponentsWithStats(
        doubtful_HW[part].astype(np.uint8), connectivity=4
    )
    sum_N = np.bincount(number_HW.ravel(), sure_HW[part].ravel(), len(stats_N5)) / SURE
    sum_N[0] = 0  # All that is no region.
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
