"""Scores: counted on the device by one accumulator, each with its written definition in METRICS.

Pixels of ``IGNORE_INDEX`` in the truth count nowhere, whatever is predicted there. Dice of a class
is 2·TP / (predicted + true pixels); IoU is TP / (predicted + true pixels − TP).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore.config import IGNORE_INDEX, MetricName

Counts = NDArray[np.int64]
"""``counts_P3K``: true positive, predicted and true pixels of each photograph and class."""

METRICS: dict[MetricName, str] = {
    "dice": (
        "Dice of each class from its pixels in the whole split, then the mean over the classes "
        "that occur in the split's truth."
    ),
    "iou": (
        "Intersection over union of each class from its pixels in the whole split, then the mean "
        "over the classes that occur in the split's truth."
    ),
    "dice_per_image": (
        "Mean Dice over the classes that occur in a photograph's truth, then the mean over "
        "photographs. Photographs without a labelled pixel are left out."
    ),
    "dice_kaggle": (
        "Mean Dice over all pairs of a photograph and a class except class 0. A pair without a "
        "pixel in both truth and prediction counts 1, without one in only one of them 0."
    ),
    "pixel_accuracy": "Share of the split's labelled pixels whose class is predicted.",
}

CLASS_MEANS: frozenset[MetricName] = frozenset({"dice", "iou"})
"""Scores that are the mean over classes of each one's score on all photographs together."""

PHOTO_MEANS: frozenset[MetricName] = frozenset({"dice_per_image", "dice_kaggle"})
"""Scores that are the mean over photographs of each one's own."""


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of one split; ``METRICS`` defines them. NaN where there is nothing to score."""

    pixel_accuracy: float
    dice: float
    iou: float
    dice_per_image: float
    dice_kaggle: float
    class_dice_K: NDArray[np.float64]
    """Over the whole split; NaN for a class that its truth lacks."""
    class_iou_K: NDArray[np.float64]
    """Over the whole split; NaN for a class that its truth lacks."""
    counts_P3K: Counts
    """Rows in the order of the photographs' numbers, in each part of what was joined: index them
    for a subset or a resample, which ``metric_of_counts`` takes."""
    confusion_KK: NDArray[np.int64]
    """Pixels by [truth, prediction]."""

    @classmethod
    def of(cls, counts_P3K: Counts, confusion_KK: NDArray[np.int64]) -> "Scores":
        """All scores that follow from these counts."""
        counts_3K = counts_P3K.sum(axis=0)
        return cls(
            **{name: metric_of_counts(name, counts_P3K) for name in METRICS},
            class_dice_K=_dice_where_true(counts_3K),
            class_iou_K=_iou_where_true(counts_3K),
            counts_P3K=counts_P3K,
            confusion_KK=confusion_KK,
        )

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """Of all photographs of some parts that have none in common, part after part."""
        counts_P3K = np.concatenate([part.counts_P3K for part in parts])
        return cls.of(counts_P3K, np.sum([part.confusion_KK for part in parts], axis=0))

    def metric(self, name: MetricName) -> float:
        """The score of that name."""
        value: float = getattr(self, name)
        return value


class ScoreAccumulator:
    """Counts pixels on ``device`` batch by batch, without making the device wait for the host.

    Of the ``num_images`` photographs those that no batch brings are not part of the split.
    """

    def __init__(self, num_classes: int, num_images: int, device: torch.device | str) -> None:
        self._num_classes = num_classes
        self._counts_P3K = torch.zeros(num_images, 3, num_classes, dtype=torch.int64, device=device)
        self._confusion_KK = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self._seen_P = torch.zeros(num_images, dtype=torch.bool, device=device)
        self._labelled = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, predicted_NHW: Tensor, mask_NHW: Tensor, image_N: Tensor) -> None:
        """Count a batch: integer classes, and which photograph (0…P−1) each element belongs to.

        Elements may be tiles: several, in one batch or many, may belong to one photograph.
        """
        device, k = self._labelled.device, self._num_classes
        image_N = image_N.to(device)
        mask_NHW = mask_NHW.to(device, torch.int64)
        predicted_NHW = predicted_NHW.to(device, torch.int64)
        labelled_NHW = mask_NHW != IGNORE_INDEX
        in_range_NHW = (mask_NHW >= 0) & (mask_NHW < k) & (predicted_NHW >= 0) & (predicted_NHW < k)

        # One bin for each [truth, prediction], and a last one for what doesn't count. bincount
        # would make the host wait: it looks at the largest value first.
        bin_NHW = (mask_NHW * k + predicted_NHW).where(labelled_NHW & in_range_NHW, k * k)
        bins = torch.zeros(len(bin_NHW), k * k + 1, dtype=torch.int64, device=device)
        bins.scatter_add_(1, bin_NHW.flatten(1), torch.ones_like(bin_NHW).flatten(1))
        confusion_NKK = bins[:, :-1].reshape(-1, k, k)

        true_positive_NK = confusion_NKK.diagonal(dim1=1, dim2=2)
        counts_N3K = torch.stack([true_positive_NK, confusion_NKK.sum(1), confusion_NKK.sum(2)], 1)
        self._counts_P3K.index_add_(0, image_N, counts_N3K)
        self._seen_P.index_fill_(0, image_N, True)
        self._confusion_KK += confusion_NKK.sum(0)
        self._labelled += labelled_NHW.sum()

    def scores(self) -> Scores:
        """Scores of everything counted so far. ValueError if a truth or prediction was no class."""
        confusion_KK: NDArray[np.int64] = self._confusion_KK.cpu().numpy().copy()
        lost = int(self._labelled) - int(confusion_KK.sum())
        if lost:
            raise ValueError(
                f"{lost} labelled pixels: truth or prediction outside 0…{self._num_classes - 1}"
            )
        counts_P3K: Counts = self._counts_P3K[self._seen_P].cpu().numpy()
        return Scores.of(counts_P3K, confusion_KK)


def metric_of_counts(name: MetricName, counts_P3K: Counts | NDArray[np.float64]) -> float:
    """One score of any choice of photographs: a subset, or a resample for a bootstrap interval."""
    return float(metric_of_each(name, counts_P3K[None])[0])


def metric_of_each(
    name: MetricName, counts_SP3K: Counts | NDArray[np.float64]
) -> NDArray[np.float64]:
    """``metric_of_counts`` of each of S choices of as many photographs."""
    return _FORMULAS[name](counts_SP3K.astype(np.float64))


def class_scores(name: MetricName, counts_3K: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Dice or IoU of each class, over the last two axes; NaN where a class isn't true anywhere."""
    return _CLASS_FORMULAS[name](counts_3K)


def _dice(counts_SP3K: NDArray[np.float64]) -> NDArray[np.float64]:
    return _mean(_dice_where_true(counts_SP3K.sum(axis=1)))


def _iou(counts_SP3K: NDArray[np.float64]) -> NDArray[np.float64]:
    return _mean(_iou_where_true(counts_SP3K.sum(axis=1)))


def _dice_per_image(counts_SP3K: NDArray[np.float64]) -> NDArray[np.float64]:
    return _mean(_mean(_dice_where_true(counts_SP3K)))


def _dice_kaggle(counts_SP3K: NDArray[np.float64]) -> NDArray[np.float64]:
    true_positive_SPK, predicted_SPK, truth_SPK = np.moveaxis(counts_SP3K[..., 1:], -2, 0)
    dice_SPK = _ratio(2 * true_positive_SPK, predicted_SPK + truth_SPK)
    return _mean(np.where(np.isnan(dice_SPK), 1.0, dice_SPK).reshape(len(dice_SPK), -1))


def _pixel_accuracy(counts_SP3K: NDArray[np.float64]) -> NDArray[np.float64]:
    true_positive_S, _, truth_S = counts_SP3K.sum(axis=(1, 3)).T
    return _ratio(true_positive_S, truth_S)


_FORMULAS: dict[MetricName, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "dice": _dice,
    "iou": _iou,
    "dice_per_image": _dice_per_image,
    "dice_kaggle": _dice_kaggle,
    "pixel_accuracy": _pixel_accuracy,
}


def _dice_where_true(counts_3K: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Dice of each class, over the last two axes of any array; NaN where nothing is true."""
    true_positive, predicted, truth = np.moveaxis(counts_3K, -2, 0)
    return _ratio(2 * true_positive, np.where(truth > 0, predicted + truth, 0))


def _iou_where_true(counts_3K: Counts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Like ``_dice_where_true``."""
    true_positive, predicted, truth = np.moveaxis(counts_3K, -2, 0)
    return _ratio(true_positive, np.where(truth > 0, predicted + truth - true_positive, 0))


_CLASS_FORMULAS: dict[MetricName, Callable[..., NDArray[np.float64]]] = {
    "dice": _dice_where_true,
    "iou": _iou_where_true,
}


def _ratio(
    numerator: NDArray[np.int64] | NDArray[np.float64],
    denominator: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over what isn't NaN on the last axis; NaN, without numpy's warning, where that is nothing."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))
