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
from segcore.scores.metrics import PHOTO_MEANS, metric_of_each

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
    """Factors on their way, and the counts of what they name."""

    def __init__(self, contest: Contest, metric: MetricName, times_P: NDArray[np.int64]) -> None:
        pool = contest.pool
        self._metric = metric
        # Scores that are no means over photographs need only the photographs' sum.
        self._times_P = times_P if metric in PHOTO_MEANS else np.ones(1, np.int64)
        here = np.s_[:: contest.every]
        photo_N, truth_N, weight_N = pool.photo_N[here], pool.truth_N[here], pool.weight_N[here]
        used = np.flatnonzero((weight_N > 0) & (times_P[photo_N] > 0))
        self._class_NT, self._log_NT = contest.class_NT[used], contest.log_NT[used]
        self._truth_N, weight_N = truth_N[used], contest.every * weight_N[used]
        if metric in PHOTO_MEANS:
            self._photo_N, self._weight_N = photo_N[used], weight_N
            self._counts_P3K = pool.settled_P3K.copy()
        else:
            self._photo_N = np.zeros(len(used), np.int64)
            self._weight_N = weight_N * times_P[photo_N[used]]
            self._counts_P3K = np.tensordot(times_P, pool.settled_P3K, axes=1)[None]
        self._at = [np.nonzero(self._class_NT == k) for k in range(self._counts_P3K.shape[2])]
        self.log_K = np.zeros(self._counts_P3K.shape[2])
        self._named_N = self._class_NT[np.arange(len(used)), self._log_NT.argmax(axis=1)]
        self._counts_P3K += self._counts(np.arange(len(used)), self._named_N)

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
        self._counts_P3K -= self._counts(row_M, self._named_N[row_M])
        self._counts_P3K += self._counts(row_M, rival_M)  # as if k's factor were 0
        step_M = np.searchsorted(TRIED, needed_M, side="left")
        moves = step_M < len(TRIED)
        moved_M, at_step_M = row_M[moves], step_M[moves]
        moved_SP3K = self._counts(moved_M, np.full(len(moved_M), k), at_step_M)
        moved_SP3K -= self._counts(moved_M, rival_M[moves], at_step_M)
        counts_SP3K = self._counts_P3K + moved_SP3K.cumsum(axis=0)
        scores_S = metric_of_each(self._metric, counts_SP3K, self._times_P)
        chosen = int(np.argmax(scores_S - FLATNESS * np.abs(TRIED)))
        self.log_K[k] = TRIED[chosen]
        self._counts_P3K = counts_SP3K[chosen]
        self._named_N[row_M] = np.where(step_M <= chosen, k, rival_M)

    def _counts(
        self,
        row_M: NDArray[np.int64],
        class_M: NDArray[np.int64],
        step_M: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """What pixels that are named so add to the counts; with their steps ``counts_SP3K``."""
        photos, _, k = self._counts_P3K.shape
        steps = 1 if step_M is None else len(TRIED)
        cell_M = self._photo_N[row_M] * k + class_M
        if step_M is not None:
            cell_M += step_M * (photos * k)
        weight_M = self._weight_N[row_M]
        counts_SP3K = np.zeros((steps, photos, 3, k))
        for row, of_M in ((0, weight_M * (class_M == self._truth_N[row_M])), (1, weight_M)):
            sums = np.bincount(cell_M, of_M, steps * photos * k)
            counts_SP3K[:, :, row] = sums.reshape(steps, photos, k)
        return counts_SP3K[0] if step_M is None else counts_SP3K
