"""The decision fitted to the score: what each class's probability is multiplied with before argmax.

The most probable class is the best guess for each pixel, but it isn't what maximises a mean over
classes: a rare class gains more by a pixel that is right than it loses by some that are wrong
(Lipton et al. 2014, "Optimal thresholding of classifiers to maximize F1 measure"; Menon et al.
2021, "Long-tail learning via logit adjustment"). The factors are those that score best on
validation photographs, found one class after the other (coordinate ascent).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcore.choosing.pool import REACH, WHOLE, Pool, SumLKB
from segcore.config import MetricName
from segcore.scores.metrics import PHOTO_MEANS, class_scores, class_weights, ratio

TRIED = np.linspace(-1, 1, 17) * math.log(REACH) / 2
"""The logarithms of the factors that are tried for each class; 0 is among them."""
ROUNDS = 2
TOP = 3
"""So many classes of each pixel are looked at, the most probable ones."""
MOST_PX = 50_000
"""Of more contested pixels, only so many are looked at, evenly spread."""
FLATNESS = 1e-5
"""What a logarithm of 1 must at least gain: so that nothing is moved for nothing."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Contested pixels of a mixture, with the most probable classes (T) of each."""

    pool: Pool
    every: int
    """One of so many of the pool's contested pixels is here."""
    class_NT: NDArray[np.int64]
    log_NT: NDArray[np.float32]
    """Logarithms of their probabilities."""

    @classmethod
    def of(cls, pool: Pool, sum_LKB: SumLKB) -> "Contest":
        """``sum_LKB`` is a mixture of the pool's candidates."""
        classes = sum_LKB.shape[1]
        every = -(-len(pool.weight_N) // MOST_PX) or 1
        sum_NK = sum_LKB.swapaxes(1, 2).reshape(-1, classes)[::every]
        top = min(TOP, classes)
        class_NT = np.argpartition(sum_NK, classes - top, axis=1)[:, classes - top :]
        largest_NT = np.take_along_axis(sum_NK, class_NT, axis=1)
        return cls(
            pool, every, class_NT, np.log(np.maximum(largest_NT, 1.0 / WHOLE)).astype(np.float32)
        )


def fit_factors(
    contest: Contest, metric: MetricName, times_P: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Logarithms of the classes' factors (K), of mean 0, that score best on some photographs.

    ``times_P`` says how often each photograph counts.
    """
    fit = _Fit(contest, metric, times_P)
    for _ in range(ROUNDS):
        before_K = fit.log_K.copy()
        for k in range(len(fit.log_K)):
            fit.improve(k)
        if (fit.log_K == before_K).all():
            break
    log_K: NDArray[np.float64] = fit.log_K - fit.log_K.mean()
    return log_K


class _Fit:
    """Factors on their way, and the counts of what they name.

    The score is a weighted mean over *cells* (C): pairs of a photograph and a class, or classes
    where only the photographs' sum counts.
    """

    def __init__(self, contest: Contest, metric: MetricName, times_P: NDArray[np.int64]) -> None:
        pool = contest.pool
        here = np.s_[:: contest.every]
        photo_N, truth_N, weight_N = pool.photo_N[here], pool.truth_N[here], pool.weight_N[here]
        used = np.flatnonzero((weight_N > 0) & (times_P[photo_N] > 0))
        self._class_NT, self._log_NT = contest.class_NT[used], contest.log_NT[used]
        self._truth_N, self._photo_N = truth_N[used], photo_N[used]
        self._weight_N = contest.every * weight_N[used]
        counts_P3K = pool.settled_P3K
        if metric not in PHOTO_MEANS:
            counts_P3K = np.tensordot(times_P, counts_P3K, axes=1)[None]
            self._weight_N *= times_P[self._photo_N]
            self._photo_N, times_P = np.zeros_like(self._photo_N), np.ones(1, np.int64)
        self._metric, self._classes = metric, counts_P3K.shape[2]
        share_PK = class_weights(metric, counts_P3K[:, 2])
        share_PK *= np.nan_to_num(ratio(times_P, share_PK.sum(axis=1)))[:, None]
        self._share_C = (share_PK / times_P.sum()).ravel()
        self._counts_3C = counts_P3K.swapaxes(0, 1).reshape(3, -1).copy()
        self._at = [np.nonzero(self._class_NT == k) for k in range(self._classes)]
        self.log_K = np.zeros(self._classes)
        row_N = np.arange(len(used))
        self._named_N = self._class_NT[row_N, self._log_NT.argmax(axis=1)]
        self._count(row_N, self._named_N)

    def improve(self, k: int) -> None:
        """Give class ``k`` the factor that scores best, those of the other classes being given."""
        row_M, slot_M = self._at[k]
        if not len(row_M):
            return
        seen_MT = self._log_NT[row_M] + self.log_K[self._class_NT[row_M]]
        seen_MT[np.arange(len(row_M)), slot_M] = -np.inf
        best_M = seen_MT.argmax(axis=1)
        rival_M = self._class_NT[row_M, best_M]
        # The pixel is named k from this logarithm on.
        needed_M = seen_MT[np.arange(len(row_M)), best_M] - self._log_NT[row_M, slot_M]
        step_M = np.searchsorted(TRIED, needed_M, side="left")
        self._count(row_M, self._named_N[row_M], times=-1)
        self._count(row_M, rival_M)  # as if k's factor were 0
        moves = step_M < len(TRIED)
        chosen = self._best_step(k, row_M[moves], rival_M[moves], step_M[moves])
        self.log_K[k] = TRIED[chosen]
        self._named_N[row_M] = np.where(step_M <= chosen, k, rival_M)

    def _best_step(
        self,
        k: int,
        row_M: NDArray[np.int64],
        rival_M: NDArray[np.int64],
        step_M: NDArray[np.int64],
    ) -> int:
        """Of ``TRIED`` the place of the best one, from which on pixels go from a rival to ``k``.

        Only cells that pixels leave or enter (U) are scored: they are few of many photographs'.
        """
        own_M, rivals_M = self._cell(row_M, np.full_like(rival_M, k)), self._cell(row_M, rival_M)
        touched_C = np.zeros(len(self._share_C), dtype=bool)
        touched_C[own_M] = touched_C[rivals_M] = True
        cells_U, place_C = np.flatnonzero(touched_C), touched_C.cumsum() - 1
        shape = (2, len(TRIED), len(cells_U))
        first_M = step_M * len(cells_U)
        into_2X = self._sums(row_M, own_M, first_M + place_C[own_M], math.prod(shape[1:]))
        from_2X = self._sums(row_M, rivals_M, first_M + place_C[rivals_M], math.prod(shape[1:]))
        counts_3SU = np.repeat(self._counts_3C[:, None, cells_U], len(TRIED), axis=1)
        counts_3SU[:2] += (into_2X - from_2X).reshape(shape).cumsum(axis=1)
        score_SU = class_scores(self._metric, counts_3SU.swapaxes(0, 1))
        score_S = np.nan_to_num(score_SU) @ self._share_C[cells_U]
        chosen = int(np.argmax(score_S - FLATNESS * np.abs(TRIED)))
        self._counts_3C[:, cells_U] = counts_3SU[:, chosen]
        return chosen

    def _cell(self, row_M: NDArray[np.int64], class_M: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._photo_N[row_M] * self._classes + class_M

    def _count(self, row_M: NDArray[np.int64], class_M: NDArray[np.int64], times: int = 1) -> None:
        """Count pixels that are named so."""
        cell_M = self._cell(row_M, class_M)
        self._counts_3C[:2] += times * self._sums(row_M, cell_M, cell_M, len(self._share_C))

    def _sums(
        self,
        row_M: NDArray[np.int64],
        cell_M: NDArray[np.int64],
        place_M: NDArray[np.int64],
        places: int,
    ) -> NDArray[np.float64]:
        """By place, the pixels whose truth is their cell's class, and all pixels."""
        weight_M = self._weight_N[row_M]
        right_M = weight_M * (cell_M % self._classes == self._truth_N[row_M])
        return np.stack([np.bincount(place_M, each, places) for each in (right_M, weight_M)])
