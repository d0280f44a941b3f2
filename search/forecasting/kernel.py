"""How alike two points of learning curves are: the covariance function, and its gradient.

A point is an epoch of a trial. Its standardised score is the sum of a level, a curve that all
trials share, one that depends on the configuration, one of the trial alone (its seed), and noise:

    4 + a² M(Δτ; 0.4) + g(τ) g(τ') (ρ K_x (c₁² + c₂² M(Δτ; 0.7))
                                  + [same trial] (t₁² + t₂² M(Δτ; 0.7))) + σ²

where M is the Matérn function with ν = 5/2, τ the logarithm of the epoch, and K_x = M over the
distance of the configurations, with a weight for each parameter. Curves may fan out: what tells
them apart is g(τ) = growth^(τ − 1) times as large as at the last epoch. Within a search ρ is 1;
for trials of different searches (--warm-start) it is e^(−difference).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

LEVEL_VARIANCE = 4.0
SHARED_LENGTH, OWN_LENGTH = 0.4, 0.7
"""Length scales in τ, of the curve that all trials share, and of those that differ."""

SCALARS = {
    "shared": (1.5, 0.7), "level": (1.0, 0.7), "shape": (0.5, 0.8), "trial_level": (0.25, 0.6),
    "trial_shape": (0.25, 0.6), "noise": (0.15, 0.6), "growth": (1.2, 0.35),
    "difference": (0.5, 1.0),
}  # fmt: skip
"""Median and standard deviation of the logarithm, a priori, of each amplitude (a, c₁, c₂, t₁, t₂
and σ, in the units of standardised scores), of the growth and of the difference of tasks."""
WEIGHT = (0.35, 1.3)
"""The same for the weight of each parameter: most are expected to matter little."""


@dataclass(frozen=True)
class Points:
    """N points of learning curves."""

    x_ND: Array
    """Encoded configurations (``search.forecasting.encoding``)."""
    tau_N: Array
    """Epochs as ln t / ln E: 0 for the first, 1 for the last one."""
    trial_N: NDArray[np.int64]
    """The trial's number in its task; -1 for a configuration that hasn't been tried."""
    task_N: NDArray[np.int64]
    """0 for this search, 1, 2 … for earlier ones."""

    def __len__(self) -> int:
        return len(self.tau_N)

    def __add__(self, other: "Points") -> "Points":
        return Points(
            np.concatenate([self.x_ND, other.x_ND]),
            np.concatenate([self.tau_N, other.tau_N]),
            np.concatenate([self.trial_N, other.trial_N]),
            np.concatenate([self.task_N, other.task_N]),
        )


@dataclass(frozen=True)
class Hyperparameters:
    """The amplitudes in the order of ``SCALARS``, and the weight of each parameter's distance."""

    scalars: Mapping[str, float]
    weights_P: Array
    """In the order of ``Encoder.names``."""

    @classmethod
    def from_logs(cls, logs_H: Array) -> "Hyperparameters":
        """From one vector of logarithms: the amplitudes, then the weights."""
        values = np.exp(logs_H)
        return cls(dict(zip(SCALARS, values.tolist(), strict=False)), values[len(SCALARS) :])

    def to_logs(self) -> Array:
        """The vector that ``from_logs`` takes."""
        return np.log([*(self.scalars[name] for name in SCALARS), *self.weights_P])

    @cached_property
    def variances(self) -> dict[str, float]:
        """The amplitudes squared."""
        return {name: value**2 for name, value in self.scalars.items()}

    def growth(self, tau_N: Array) -> Array:
        """g(τ)."""
        return self.scalars["growth"] ** (tau_N - 1)

    def relation(self, same_task_AB: NDArray[np.bool_]) -> Array:
        """ρ."""
        return np.where(same_task_AB, 1.0, np.exp(-self.scalars["difference"]))


def matern(r2: Array) -> Array:
    """Matérn function with ν = 5/2 of a squared distance in length scales."""
    r = np.sqrt(5 * r2)
    return (1 + r + r * r / 3) * np.exp(-r)


def matern_slope(r2: Array) -> Array:
    """Derivative of ``matern`` by the squared distance."""
    r = np.sqrt(5 * r2)
    return -5 / 6 * (1 + r) * np.exp(-r)


def covariance(a: Points, b: Points, column_D: NDArray[np.int64], h: Hyperparameters) -> Array:
    """Covariance of each point of ``a`` with each of ``b``, without noise.

    ``column_D`` says which parameter each column of ``x_ND`` belongs to.
    """
    scale_D = np.sqrt(h.weights_P[column_D])
    alike_AB = matern(cdist(a.x_ND * scale_D, b.x_ND * scale_D, "sqeuclidean"))
    shared_AB, own_AB = _in_time(a.tau_N, b.tau_N)
    v = h.variances
    same_task_AB = a.task_N[:, None] == b.task_N
    alike_AB *= h.relation(same_task_AB)
    same_AB = same_task_AB & (a.trial_N[:, None] == b.trial_N) & (a.trial_N[:, None] >= 0)
    differing_AB = alike_AB * (v["level"] + v["shape"] * own_AB)
    differing_AB += same_AB * (v["trial_level"] + v["trial_shape"] * own_AB)
    growth_AB = np.outer(h.growth(a.tau_N), h.growth(b.tau_N))
    return LEVEL_VARIANCE + v["shared"] * shared_AB + growth_AB * differing_AB


def variance(points: Points, h: Hyperparameters) -> Array:
    """Prior variance at each point, without noise."""
    v = h.variances
    differing = v["level"] + v["shape"] + v["trial_level"] + v["trial_shape"]
    return LEVEL_VARIANCE + v["shared"] + differing * h.growth(points.tau_N) ** 2


def covariance_within(tau_A: Array, tau_B: Array, h: Hyperparameters) -> Array:
    """Prior covariance of two points of one trial's curve, element by element."""
    d2 = (tau_A - tau_B) ** 2
    v, own = h.variances, matern(d2 / OWN_LENGTH**2)
    differing = v["level"] + v["trial_level"] + (v["shape"] + v["trial_shape"]) * own
    growth = h.growth(tau_A) * h.growth(tau_B)
    return LEVEL_VARIANCE + v["shared"] * matern(d2 / SHARED_LENGTH**2) + growth * differing


def _in_time(a_A: Array, b_B: Array) -> tuple[Array, Array]:
    """Matérn functions of the distance in τ, of the shared curve and of the others.

    There are few different epochs, so each pair of them is computed once.
    """
    a, a_index = np.unique(a_A, return_inverse=True)
    b, b_index = np.unique(b_B, return_inverse=True)
    d2 = (a[:, None] - b) ** 2
    grid = np.ix_(a_index, b_index)
    return matern(d2 / SHARED_LENGTH**2)[grid], matern(d2 / OWN_LENGTH**2)[grid]


class Gradient:
    """The covariance matrix of fixed points, with noise, as a function of hyperparameters."""

    def __init__(self, points: Points, column_D: NDArray[np.int64]) -> None:
        n = len(points)
        n_parameters = int(column_D.max(initial=-1)) + 1
        self._d2_PNN = np.zeros((n_parameters, n * n))
        for parameter in range(n_parameters):
            x = points.x_ND[:, column_D == parameter]
            self._d2_PNN[parameter] = cdist(x, x, "sqeuclidean").ravel()
        self._shared_NN, self._own_NN = _in_time(points.tau_N, points.tau_N)
        self._same_task_NN = points.task_N[:, None] == points.task_N
        same_NN = self._same_task_NN & (points.trial_N[:, None] == points.trial_N)
        self._same_NN = same_NN.astype(float)
        self._tau_N, self._n = points.tau_N, n

    def covariance(self, h: Hyperparameters) -> Array:
        """The covariance of the points with each other, with noise on the diagonal."""
        v = h.variances
        self._r2_NN = (h.weights_P @ self._d2_PNN).reshape(self._n, self._n)
        self._relation_NN = h.relation(self._same_task_NN)
        self._alike_NN = self._relation_NN * matern(self._r2_NN)
        growth_N = h.growth(self._tau_N)
        self._growth_NN = np.outer(growth_N, growth_N)
        self._differing_NN = self._growth_NN * (
            self._alike_NN * (v["level"] + v["shape"] * self._own_NN)
            + self._same_NN * (v["trial_level"] + v["trial_shape"] * self._own_NN)
        )
        shared_NN = LEVEL_VARIANCE + v["shared"] * self._shared_NN
        return shared_NN + self._differing_NN + v["noise"] * np.eye(self._n)

    def pull_back(self, h: Hyperparameters, slope_NN: Array) -> Array:
        """Derivative of a loss by ``h.to_logs()``, from its derivative by the covariance.

        For the hyperparameters of the last call of ``covariance``.
        """
        v = h.variances
        grown_NN = self._growth_NN * slope_NN
        alike_NN, same_NN = self._alike_NN * grown_NN, self._same_NN * grown_NN
        later_NN = self._tau_N[:, None] + self._tau_N - 2
        of_alike_NN = v["level"] + v["shape"] * self._own_NN
        across = np.sum(alike_NN * of_alike_NN, where=~self._same_task_NN)
        by_scalar = {
            "shared": 2 * v["shared"] * np.sum(self._shared_NN * slope_NN),
            "level": 2 * v["level"] * np.sum(alike_NN),
            "shape": 2 * v["shape"] * np.sum(alike_NN * self._own_NN),
            "trial_level": 2 * v["trial_level"] * np.sum(same_NN),
            "trial_shape": 2 * v["trial_shape"] * np.sum(same_NN * self._own_NN),
            "noise": 2 * v["noise"] * np.trace(slope_NN),
            "growth": np.sum(later_NN * self._differing_NN * slope_NN),
            "difference": -h.scalars["difference"] * across,
        }
        of_r2_NN = self._relation_NN * matern_slope(self._r2_NN)
        by_r2 = (grown_NN * of_alike_NN * of_r2_NN).ravel()
        by_weight = h.weights_P * (self._d2_PNN @ by_r2)
        return np.array([*(by_scalar[name] for name in SCALARS), *by_weight])
