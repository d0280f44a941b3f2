"""A search space whose first worker to train dies as Ray gives it its second trial."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import ray
from optuna.trial import BaseTrial
from ray.tune.trainable import function_trainable

from segcore.config import TrialConfig
from segcore.training.augment import aerial
from tests.tiny_space import space as tiny_space


def space(trial: BaseTrial) -> TrialConfig:
    return tiny_space(trial).model_copy(update={"augmentation": "tests.reusing_space:fatal"})


def fatal(strength: float, height_px: int, width_px: int) -> Any:
    """The usual augmentation, built once in a worker that won't be reused."""
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        with contextlib.suppress(FileExistsError):
            (Path(os.environ["FAULTY_FOLDER"]) / "built").touch(exist_ok=False)
            session = type(function_trainable.get_session())
            session.finish = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    return aerial(strength, height_px, width_px)
