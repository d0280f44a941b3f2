"""Compares predicted classes with the truth, batch by batch on the device."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore.config import IGNORE_INDEX
from segcore.scores.metrics import Scores

Prediction = tuple[Tensor, Tensor, Tensor]
"""``class_NHW`` and ``mask_NHW``, both whole numbers, and the photograph of each element, N."""


class Counting:
    """Counts predictions batch by batch on ``device``, which never has to wait for the host.

    Elements may be tiles: any number of them, in one batch or in many, may belong to one
    photograph (0…P−1), each of which has the name of its group in ``groups``. Photographs that no
    batch brings are not part of what is scored.
    """

    def __init__(self, num_classes: int, groups: Sequence[str], device: torch.device | str) -> None:
        k, photos = num_classes, len(groups)
        self._groups = groups
        self._whole: dict[str, Any] = {"dtype": torch.int64, "device": device}
        self._counts_P3K = torch.zeros(photos, 3, k, **self._whole)
        self._confusion_KK = torch.zeros(k, k, **self._whole)
        self._labelled = torch.zeros((), **self._whole)
        self._seen_P = torch.zeros(photos, dtype=torch.bool, device=device)

    def add(self, prediction: Prediction) -> None:
        """Count a batch."""
        class_NHW, mask_NHW, photo_N = (tensor.to(**self._whole) for tensor in prediction)
        confusion_NKK = _confusion(class_NHW, mask_NHW, len(self._confusion_KK))
        true_positive_NK = confusion_NKK.diagonal(dim1=1, dim2=2)
        counts_N3K = torch.stack([true_positive_NK, confusion_NKK.sum(1), confusion_NKK.sum(2)], 1)
        self._counts_P3K.index_add_(0, photo_N, counts_N3K)
        self._seen_P.index_fill_(0, photo_N, True)
        self._confusion_KK += confusion_NKK.sum(0)
        self._labelled += (mask_NHW != IGNORE_INDEX).sum()

    def scores(self) -> Scores:
        """Of what was counted.

        Raises ``ValueError`` where a labelled pixel's truth or prediction is not a class.
        """
        counted_KK: NDArray[np.int64] = self._confusion_KK.cpu().numpy()
        if lost := int(self._labelled) - int(counted_KK.sum()):
            k = len(counted_KK)
            raise ValueError(f"{lost} labelled pixels: truth or prediction outside 0…{k - 1}")
        seen_P = self._seen_P.tolist()
        seen_groups = [group for group, seen in zip(self._groups, seen_P, strict=True) if seen]
        return Scores.of(self._counts_P3K[self._seen_P].cpu().numpy(), counted_KK, seen_groups)


def score(
    predictions: Iterable[Prediction],
    num_classes: int,
    groups: Sequence[str],
    device: torch.device | str,
) -> Scores:
    """Scores of predictions; what these may be, and what raises, is as in ``Counting``."""
    counting = Counting(num_classes, groups, device)
    for prediction in predictions:
        counting.add(prediction)
    return counting.scores()


def _confusion(class_NHW: Tensor, mask_NHW: Tensor, k: int) -> Tensor:
    """``confusion_NKK``: pixels by [truth, prediction] of each element."""
    counts_NHW = (mask_NHW != IGNORE_INDEX) & (mask_NHW >= 0) & (mask_NHW < k)
    counts_NHW &= (class_NHW >= 0) & (class_NHW < k)
    # One bin for each pair, and a last one for what doesn't count. torch.bincount would make the
    # host wait, because it has to know the largest value first.
    bin_NHW = (mask_NHW * k + class_NHW).where(counts_NHW, k * k)
    bins = bin_NHW.new_zeros(len(bin_NHW), k * k + 1)
    bins.scatter_add_(1, bin_NHW.flatten(1), torch.ones_like(bin_NHW).flatten(1))
    return bins[:, :-1].reshape(-1, k, k)
