"""What an epoch of a configuration costs: ridge regression of the logarithm of its seconds."""

import numpy as np

from search.forecasting.kernel import Array

RIDGE = 0.3
"""Weight of the penalty on squared coefficients, against one trial."""


def predict_seconds(x_ND: Array, seconds_N: Array, x_MD: Array) -> Array:
    """Seconds per epoch of M encoded configurations, from those of N trials; 1 without any."""
    if not len(seconds_N):
        return np.ones(len(x_MD))
    logs_N = np.log(seconds_N)
    mean_D, mean = x_ND.mean(axis=0), logs_N.mean()
    centred_ND = x_ND - mean_D
    penalty_DD = RIDGE * np.eye(x_ND.shape[1])
    coefficients_D = np.linalg.solve(
        centred_ND.T @ centred_ND + penalty_DD, centred_ND.T @ (logs_N - mean)
    )
    return np.exp(mean + (x_MD - mean_D) @ coefficients_D)
