"""The table of our own curves, by which strategies are judged."""

import math

import numpy as np
import pytest

from benchmarks.curve_tables import OWN_CURVES, Segmentation

NETWORK = {"architecture": "fpn", "loss": "ce"}


@pytest.fixture(scope="module")
def table() -> Segmentation:
    return Segmentation(OWN_CURVES / "dubai.jsonl")


def test_a_configuration_of_the_grid_has_its_own_curve(table: Segmentation) -> None:
    whole, finest = table.trainings([NETWORK | {"lr": 3e-4}, NETWORK | {"lr": 3e-3, "scale": 0.2}])
    assert whole.scores_T.tolist()[:3] == pytest.approx([0.27777, 0.33414, 0.4934])
    assert finest.scores_T[-1] == pytest.approx(0.65944)
    assert finest.epoch_seconds > whole.epoch_seconds


def test_between_two_of_the_grid_is_their_mean(table: Segmentation) -> None:
    low, middle, high = (
        table.mean_of(NETWORK | {"lr": lr, "scale": 0.2}, "test")
        for lr in (3e-4, math.sqrt(3e-4 * 1e-3), 1e-3)
    )
    np.testing.assert_allclose(middle, (low + high) / 2)
