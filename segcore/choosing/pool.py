"""What candidates say of a split, small enough to mix and score them a thousand times.

The probabilities of fifty candidates for a whole split would fill a disk. So mixtures are compared
on a sample of its pixels, which is drawn from the truth before anything is predicted. Where all
candidates are sure of the same class, so is every weighted mean of them, whatever factors its
classes get (``segcore.choosing.factors``): only the other, *contested* pixels are computed again
for each mixture. If the sample is the whole split, scores are exact.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcore.config import IGNORE_INDEX

ProbsNK = NDArray[np.uint16]
"""One candidate's class probabilities at the pixels of a ``PixelSample``, times ``WHOLE``."""
WHOLE = 65535

SumLKB = NDArray[np.int32]
"""A sum of candidates' probabilities at the contested pixels of a ``Pool``."""

BLOCK_PX = 4096
LAST_CLASS = 255

PIECE_PX = 1 << 24
"""So much of a mask is counted and sorted at once, which takes 8 bytes of memory for each pixel."""

REACH = 16.0
"""The largest ratio of two classes' factors: a class that is this many times as probable as any
other one is named whatever the factors are."""
FACTOR_STEPS = 1024
"""Factors are rounded to this share of 1, so that sums stay whole numbers."""


@dataclass(frozen=True, eq=False)
class PixelSample:
    """Labelled pixels of a split: all of them, or some of each photograph and class."""

    position_N: NDArray[np.int64]
    """In the masks of all photographs, flattened and one after the other; ascending."""
    photo_N: NDArray[np.int64]
    """0…P−1, in the order of the masks."""
    truth_N: NDArray[np.int64]
    weight_N: NDArray[np.float64]
    """How many pixels of the split each one stands for."""
    photos: int
    """P; of those without a labelled pixel, and of some of very many, none is here."""
    num_classes: int


def draw_pixels(
    masks: Sequence[NDArray[np.uint8]], num_classes: int, *, limit: int, seed: int = 0
) -> PixelSample:
    """All labelled pixels of some photographs' masks (HW), or about ``limit`` of them.

    Of S pixels of one class in one photograph min(S, c·√S) are drawn. So rare classes, which count
    as much in mean scores as frequent ones, lose the smallest share of their pixels. Where that
    would be less than one pixel of each class of each photograph, some photographs have none.
    """
    rng = np.random.default_rng(seed)
    size_PK = np.stack([sum(_counted(p, num_classes) for p in _pieces(mask)) for mask in masks])
    strata_P = np.count_nonzero(size_PK, axis=1)
    if strata_P.sum() > limit:
        order_P = rng.permutation(len(masks))
        size_PK[order_P[strata_P[order_P].cumsum() > limit]] = 0
    drawn_PK = _share_out(size_PK, limit)
    first = 0
    strata = []
    for p, mask_HW in enumerate(masks):
        ranks = [
            rng.choice(size, drawn, replace=False, shuffle=False)
            for size, drawn in zip(size_PK[p], drawn_PK[p], strict=True)
        ]
        for k, found in enumerate(_locate(mask_HW, ranks)):
            each = (p, k, size_PK[p, k] / max(1, len(found)))
            strata.append((first + found, *(np.full(len(found), value) for value in each)))
        first += mask_HW.size
    columns = [np.concatenate(parts) for parts in zip(*strata, strict=True)]
    order = np.argsort(columns[0])
    position_N, photo_N, truth_N, weight_N = (column_N[order] for column_N in columns)
    return PixelSample(position_N, photo_N, truth_N, weight_N, len(masks), num_classes)


def _pieces(mask_HW: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    mask_N = mask_HW.ravel()
    return (mask_N[start : start + PIECE_PX] for start in range(0, len(mask_N), PIECE_PX))


def _counted(piece_N: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    return np.bincount(piece_N, minlength=IGNORE_INDEX + 1)[:num_classes]


def _locate(
    mask_HW: NDArray[np.uint8], ranks: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Where the pixels of each class lie that come at these ranks among those of their class."""
    found: list[list[NDArray[np.int64]]] = [[] for _ in ranks]
    passed_K = np.zeros(len(ranks), np.int64)
    for piece, piece_N in enumerate(_pieces(mask_HW)):
        by_class_N = piece * PIECE_PX + np.argsort(piece_N, kind="stable")
        size_K = _counted(piece_N, len(ranks))
        first_K = np.cumsum(size_K) - size_K
        for k, ranks_N in enumerate(ranks):
            here_N = ranks_N - passed_K[k]
            here_N = here_N[(here_N >= 0) & (here_N < size_K[k])]
            found[k].append(by_class_N[first_K[k] + here_N])
        passed_K += size_K
    return [np.concatenate(parts) for parts in found]


def _share_out(size_PK: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """min(S, c·√S) of each S, rounded up, with a c for which they add up to about ``limit``."""
    if size_PK.sum() <= limit:
        return size_PK
    low, high = 0.0, math.sqrt(float(size_PK.max()))
    for _ in range(50):
        middle = (low + high) / 2
        share_PK = np.minimum(size_PK, np.ceil(middle * np.sqrt(size_PK)))
        low, high = (middle, high) if share_PK.sum() <= limit else (low, middle)
    return np.minimum(size_PK, np.ceil(low * np.sqrt(size_PK))).astype(np.int64)


def split_positions(position_N: NDArray[np.int64], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Ascending positions in consecutive parts of these sizes, counted anew in each part."""
    starts = np.cumsum([0, *sizes[:-1]])
    parts = np.split(position_N, np.searchsorted(position_N, starts[1:]))
    return [part_N - start for part_N, start in zip(parts, starts, strict=True)]


@dataclass(frozen=True, eq=False)
class Pool:
    """What all candidates say of a ``PixelSample``, ready to be mixed and scored.

    The contested pixels lie in blocks (L) of ``BLOCK_PX`` pixels (B), which fit the cache of a CPU
    core; pixels of weight 0 fill up the first one. Probabilities are whole numbers, so that it is
    exact which class has the largest sum.
    """

    settled_P3K: NDArray[np.float64]
    """Counts of the pixels of whose class all are sure, and the truth of all others."""
    photo_N: NDArray[np.int64]
    truth_N: NDArray[np.int64]
    weight_N: NDArray[np.float64]
    probs: tuple[NDArray[np.uint16], ...]
    """Of each candidate, ``probs_LKB``."""

    @classmethod
    def of(cls, pixels: PixelSample, candidates: Iterable[ProbsNK]) -> "Pool":
        """Sort the contested pixels from the others."""
        probs = list(candidates)
        first_N = probs[0].argmax(axis=1)
        contested_N = np.zeros(len(first_N), dtype=bool)
        for probs_NK in probs:
            second_N, best_N = np.partition(probs_NK, (-2, -1), axis=1)[:, -2:].T
            contested_N |= second_N * REACH >= best_N
            contested_N |= probs_NK.argmax(axis=1) != first_N
        k = pixels.num_classes
        count = functools.partial(_count, photos=pixels.photos, num_classes=k)
        agreed = ~contested_N
        right = agreed & (first_N == pixels.truth_N)
        settled = [
            count(pixels.photo_N[right], first_N[right], pixels.weight_N[right]),
            count(pixels.photo_N[agreed], first_N[agreed], pixels.weight_N[agreed]),
            count(pixels.photo_N, pixels.truth_N, pixels.weight_N),
        ]
        padding = (0, -int(contested_N.sum()) % BLOCK_PX)
        for c, probs_NK in enumerate(probs):  # one by one: old and new would be twice as much
            blocks_LBK = np.pad(probs_NK[contested_N], (padding, (0, 0))).reshape(-1, BLOCK_PX, k)
            probs[c] = np.ascontiguousarray(blocks_LBK.swapaxes(1, 2))
        return cls(
            np.stack(settled, axis=1),
            np.pad(pixels.photo_N[contested_N], padding),
            np.pad(pixels.truth_N[contested_N], padding),
            np.pad(pixels.weight_N[contested_N], padding),
            tuple(probs),
        )

    @property
    def photos(self) -> int:
        """P."""
        return len(self.settled_P3K)

    def mix(self, picks: Sequence[int]) -> SumLKB:
        """The sum of these candidates, each as often as it is picked (at most 127 picks)."""
        sum_LKB = np.zeros(self.probs[0].shape, dtype=np.int32)
        for c, times in Counter(picks).items():
            probs_LKB = self.probs[c]
            sum_LKB += probs_LKB if times == 1 else np.multiply(probs_LKB, times, dtype=np.int32)
        return sum_LKB

    def counts(
        self,
        sum_LKB: SumLKB,
        plus: int | None = None,
        factors_K: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """``counts_P3K`` of a sum's largest class; ``plus`` adds one more candidate to it first.

        ``factors_K`` are what each class's sum is multiplied with.
        """
        photos, _, k = self.settled_P3K.shape
        if factors_K is None:
            class_N = _classes(sum_LKB, None if plus is None else self.probs[plus])
        else:
            class_N = _factored_classes(sum_LKB, factors_K)
        right_N = self.weight_N * (class_N == self.truth_N)
        counts_P3K = self.settled_P3K.copy()
        counts_P3K[:, 0] += _count(self.photo_N, class_N, right_N, photos, k)
        counts_P3K[:, 1] += _count(self.photo_N, class_N, self.weight_N, photos, k)
        return counts_P3K


def _classes(sum_LKB: SumLKB, plus_LKB: NDArray[np.uint16] | None) -> NDArray[np.int64]:
    """The largest class of each pixel, the first of equals.

    The lowest bits of what is compared hold the class, because a plain maximum is many times as
    fast as an argmax along a short axis.
    """
    blocks, num_classes, block_px = sum_LKB.shape
    code_K1 = np.arange(LAST_CLASS, LAST_CLASS - num_classes, -1, dtype=np.int32)[:, None]
    key_KB = np.empty((num_classes, block_px), dtype=np.int32)
    best_LB = np.empty((blocks, block_px), dtype=np.int32)
    for block in range(blocks):
        if plus_LKB is None:
            key_KB[:] = sum_LKB[block]
        else:
            np.add(sum_LKB[block], plus_LKB[block], out=key_KB)
        key_KB <<= 8
        key_KB += code_K1
        key_KB.max(axis=0, out=best_LB[block])
    return LAST_CLASS - (best_LB.ravel() & 255).astype(np.int64)


def _factored_classes(sum_LKB: SumLKB, factors_K: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of each pixel whose sum times its factor is the largest, the first of equals."""
    num_classes = sum_LKB.shape[1]
    code_K1 = np.arange(LAST_CLASS, LAST_CLASS - num_classes, -1, dtype=np.int64)[:, None]
    steps_K1 = np.round(factors_K * FACTOR_STEPS).astype(np.int64)[:, None]
    keys = [((sum_KB * steps_K1 << 8) + code_K1).max(axis=0) for sum_KB in sum_LKB]
    return LAST_CLASS - (np.concatenate(keys) & 255) if keys else np.zeros(0, np.int64)


def _count(
    photo_N: NDArray[np.int64],
    class_N: NDArray[np.int64],
    weight_N: NDArray[np.float64],
    photos: int,
    num_classes: int,
) -> NDArray[np.float64]:
    """Weighted pixels by [photograph, class]."""
    cells = np.bincount(photo_N * num_classes + class_N, weight_N, photos * num_classes)
    return cells.reshape(photos, num_classes).astype(np.float64, copy=False)
