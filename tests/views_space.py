"""A search space whose trials look at photographs at different scales, through other windows."""

from optuna.trial import BaseTrial

from segcore.config import TrialConfig
from tests.tiny_space import slow_space as slow_tiny_space
from tests.tiny_space import space as tiny_space

BASELINES = [
    {"side_px": side_px, "scale": scale, "loss": "ce", "lr": 1e-2, "oversample_ratio": 1.0}
    for side_px, scale in ((64, 1.0), (32, 0.5))
]


def space(trial: BaseTrial) -> TrialConfig:
    return tiny_space(trial).model_copy(update=_view(trial))


def slow_space(trial: BaseTrial) -> TrialConfig:
    return slow_tiny_space(trial).model_copy(update=_view(trial))


def _view(trial: BaseTrial) -> dict[str, object]:
    side_px = trial.suggest_int("side_px", 32, 64, step=32)
    scale = trial.suggest_float("scale", 0.5, 1.0)
    return {"height_px": side_px, "width_px": side_px, "scale": scale}
