"""The Gaussian process over learning curves: fitted by maximum a posteriori, and its posterior."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from search.forecasting.kernel import (
    SCALARS,
    WEIGHT,
    Array,
    Gradient,
    Hyperparameters,
    Points,
    covariance,
    covariance_within,
    variance,
)

JITTER = 1e-6
"""Added to variances, so that points which are alike leave the matrix invertible."""
FIT_STEPS = 60


def prior(n_parameters: int) -> tuple[Array, Array]:
    """Mean and standard deviation of the logarithm of each hyperparameter."""
    rows = np.array([*SCALARS.values(), *[WEIGHT] * n_parameters])
    return np.log(rows[:, 0]), rows[:, 1]


class LogPosterior:
    """The negative log posterior density of hyperparameters, up to a constant."""

    def __init__(self, points: Points, z_N: Array, column_D: NDArray[np.int64]) -> None:
        self._gradient, self._z_N = Gradient(points, column_D), z_N
        self._mean_H, self._sd_H = prior(int(column_D.max(initial=-1)) + 1)

    def __call__(self, logs_H: Array) -> tuple[float, Array]:
        """Value and gradient at logarithms of the hyperparameters."""
        h = Hyperparameters.from_logs(logs_H)
        k_NN = self._gradient.covariance(h)
        k_NN[np.diag_indices_from(k_NN)] += JITTER
        lower_NN = cholesky(k_NN, lower=True, check_finite=False)
        inverse_NN = cho_solve((lower_NN, True), np.eye(len(k_NN)), check_finite=False)
        alpha_N = inverse_NN @ self._z_N
        misfit_H = (logs_H - self._mean_H) / self._sd_H
        value = self._z_N @ alpha_N / 2 + np.log(np.diag(lower_NN)).sum() + misfit_H @ misfit_H / 2
        slope_NN = (inverse_NN - np.outer(alpha_N, alpha_N)) / 2
        slope_H = self._gradient.pull_back(h, slope_NN) + misfit_H / self._sd_H
        return float(value), slope_H


def fit(
    points: Points, z_N: Array, column_D: NDArray[np.int64], start: Hyperparameters | None = None
) -> Hyperparameters:
    """The most probable hyperparameters, by L-BFGS from ``start``, or from the prior's median."""
    mean_H, sd_H = prior(int(column_D.max(initial=-1)) + 1)
    log_posterior = LogPosterior(points, z_N, column_D)

    def in_prior_units(u_H: Array) -> tuple[float, Array]:
        """The search is quick where all hyperparameters have the same scale."""
        value, slope_H = log_posterior(mean_H + sd_H * u_H)
        return value, sd_H * slope_H

    found = minimize(
        in_prior_units,
        np.zeros(len(mean_H)) if start is None else (start.to_logs() - mean_H) / sd_H,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-4, 4)] * len(mean_H),
        options={"maxiter": FIT_STEPS},
    )
    return Hyperparameters.from_logs(mean_H + sd_H * found.x)


@dataclass(frozen=True)
class Posterior:
    """What is believed of other points, after N points were seen."""

    points: Points
    column_D: NDArray[np.int64]
    hyperparameters: Hyperparameters
    lower_NN: Array
    alpha_N: Array
    z_N: Array

    @classmethod
    def of(
        cls, points: Points, z_N: Array, column_D: NDArray[np.int64], h: Hyperparameters
    ) -> "Posterior":
        """Condition on standardised scores."""
        k_NN = covariance(points, points, column_D, h)
        k_NN[np.diag_indices_from(k_NN)] += h.variances["noise"] + JITTER
        lower_NN = cholesky(k_NN, lower=True, check_finite=False, overwrite_a=True)
        alpha_N = cho_solve((lower_NN, True), z_N, check_finite=False)
        return cls(points, column_D, h, lower_NN, alpha_N, z_N)

    def mean_of_seen(self) -> Array:
        """Mean of the standardised score at the points that were seen, without noise."""
        noise = self.hyperparameters.variances["noise"] + JITTER
        return self.z_N - noise * self.alpha_N

    def mean(self, points: Points) -> Array:
        """Mean of the standardised score at each point."""
        k_NM = covariance(self.points, points, self.column_D, self.hyperparameters)
        return self.alpha_N @ k_NM

    def foresee(self, sooner: Points, later: Points) -> tuple[Array, Array, Array]:
        """Of the later of two points of each of M curves, without noise: its mean and standard
        deviation, and the standard deviation that is left once the sooner one is seen, with noise.
        """
        h = self.hyperparameters
        mean_M, later_NM = self._solve(later)
        _, sooner_NM = self._solve(sooner)
        later_M = np.maximum(variance(later, h) - np.sum(later_NM**2, axis=0), JITTER)
        sooner_M = np.maximum(variance(sooner, h) - np.sum(sooner_NM**2, axis=0), JITTER)
        both_M = covariance_within(sooner.tau_N, later.tau_N, h)
        both_M -= np.sum(sooner_NM * later_NM, axis=0)
        left_M = later_M - both_M**2 / (sooner_M + h.variances["noise"])
        return mean_M, np.sqrt(later_M), np.sqrt(np.clip(left_M, JITTER, later_M))

    def _solve(self, points: Points) -> tuple[Array, Array]:
        k_NM = covariance(self.points, points, self.column_D, self.hyperparameters)
        solved_NM = solve_triangular(self.lower_NN, k_NM, lower=True, check_finite=False)
        return self.alpha_N @ k_NM, solved_NM

    def fantasise(self, points: Points) -> "Posterior":
        """The same after these M points were seen too, and had the mean that is believed now.

        Seeing what was believed moves no mean, so ``alpha_N`` gets zeros, and the Cholesky factor
        is extended by M rows.
        """
        h, (mean_M, solved_NM) = self.hyperparameters, self._solve(points)
        k_MM = covariance(points, points, self.column_D, h) - solved_NM.T @ solved_NM
        k_MM[np.diag_indices_from(k_MM)] += h.variances["noise"] + JITTER
        corner_MM = cholesky(k_MM, lower=True, check_finite=False)
        above_NM = np.zeros_like(solved_NM)
        return Posterior(
            self.points + points,
            self.column_D,
            h,
            np.block([[self.lower_NN, above_NM], [solved_NM.T, corner_MM]]),
            np.concatenate([self.alpha_N, np.zeros_like(mean_M)]),
            np.concatenate([self.z_N, mean_M]),
        )
