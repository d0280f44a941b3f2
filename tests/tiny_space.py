"""A search space whose trainings take a second: for tests of the search itself."""

import time

from optuna.trial import BaseTrial

from segcore.config import TrialConfig

BASELINES = [{"loss": "ce", "lr": 1e-2, "oversample_ratio": 1.0}]


def space(trial: BaseTrial) -> TrialConfig:
    return TrialConfig(
        height_px=48,
        width_px=48,
        architecture="scratch_unet",
        encoder=None,
        model_kwargs={"base_channels": 4, "depth": 2},
        loss=trial.suggest_categorical("loss", ["ce", "dice_ce"]),
        lr=trial.suggest_float("lr", 1e-3, 3e-2, log=True),
        oversample_ratio=trial.suggest_float("oversample_ratio", 1.0, 3.0),
        batch_size=4,
        augment_strength=0.2,
    )


def slow_space(trial: BaseTrial) -> TrialConfig:
    """The same, with a second more for each image that is loaded: time to interrupt it."""
    return space(trial).model_copy(update={"augmentation": "tests.tiny_space:slow_augmentation"})


def slow_augmentation(strength: float, height_px: int, width_px: int):  # type: ignore[no-untyped-def]
    def wait(image, **_):  # type: ignore[no-untyped-def]
        time.sleep(0.1)
        return image

    return aerial_and(wait, strength, height_px, width_px)


def aerial_and(act, strength: float, height_px: int, width_px: int):  # type: ignore[no-untyped-def]
    """The usual augmentation, and then ``act`` on each image."""
    from segcore.training.augment import A, Augmentation, aerial

    usual = aerial(strength, height_px, width_px)
    pixels = A.Compose([*usual.pixels.transforms, A.Lambda(image=act, p=1.0)])
    return Augmentation(usual.geometry, pixels)
