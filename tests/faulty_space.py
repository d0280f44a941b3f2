"""A search space whose trials break in the ways that ``fault`` names, when they train."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from optuna.trial import BaseTrial

from segcore.config import TrialConfig
from tests.tiny_space import aerial_and
from tests.tiny_space import space as tiny_space

FAULTS = ["none", "dies_once", "always_dies", "hangs_once", "always_hangs", "bug"]
BASELINES = [
    {"fault": fault, "loss": "ce", "lr": 1e-2, "oversample_ratio": 1.0} for fault in FAULTS
]


def space(trial: BaseTrial) -> TrialConfig:
    fault = trial.suggest_categorical("fault", FAULTS)
    return tiny_space(trial).model_copy(update={"augmentation": f"tests.faulty_space:{fault}"})


def _breaking(name: str, act: Any, *, image_number: int = 11, once: bool = False) -> Any:
    """An augmentation that calls ``act`` from a certain image of a trial on, whatever process.

    The 11th is in the second epoch. There is one trial of each name.
    """

    def break_sometimes(image: Any, **_: Any) -> Any:
        counter = Path(os.environ["FAULTY_FOLDER"]) / name
        with counter.open("ab") as file:
            file.write(b".")
        loaded = counter.stat().st_size
        if loaded == image_number or (loaded > image_number and not once):
            act()
        return image

    def build(strength: float, height_px: int, width_px: int) -> Any:
        return aerial_and(break_sometimes, strength, height_px, width_px)

    return build


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(10_000)


def _fail() -> None:
    raise ZeroDivisionError("a bug in a plug-in")


none = _breaking("none", lambda: None)
dies_once = _breaking("dies_once", _die, once=True)
always_dies = _breaking("always_dies", _die)
hangs_once = _breaking("hangs_once", _hang, once=True)
always_hangs = _breaking("always_hangs", _hang)
bug = _breaking("bug", _fail)
early_bug = _breaking("early_bug", _fail, image_number=1)
