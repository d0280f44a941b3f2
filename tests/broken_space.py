"""A search space of which nothing can be trained for an epoch."""

from optuna.trial import BaseTrial

from segcore.config import TrialConfig
from tests.tiny_space import space as tiny_space


def space(trial: BaseTrial) -> TrialConfig:
    return tiny_space(trial).model_copy(update={"augmentation": "tests.faulty_space:early_bug"})
