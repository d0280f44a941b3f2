"""Spaces of the searches on real photographs (benchmarks/README.md): small pretrained encoders.

``space`` samples the scale at which windows are cut; ``whole`` squeezes each photograph, as every
search did before. All else is equal. The environment variable WEIGHTS names
the folder of the two encoders' files, ENCODER.pth.
"""

import os

from optuna.trial import BaseTrial

from segcore.config import TrialConfig


def space(trial: BaseTrial) -> TrialConfig:
    """Windows of 128 px, anywhere, at 0.1 to 0.4 of the photographs' resolution."""
    return _in_windows(trial, 0.1, 0.4)


def scenes(trial: BaseTrial) -> TrialConfig:
    """The same for the drawn scenes, at 0.25 to 0.7 of their resolution."""
    return _in_windows(trial, 0.25, 0.7)


def native(trial: BaseTrial) -> TrialConfig:
    """Windows of 256 px at half of the photographs' resolution, up to all of it."""
    return _in_windows(trial, 0.5, 1.0, side_px=256)


def whole(trial: BaseTrial) -> TrialConfig:
    """Whole photographs, squeezed to 224×224 px."""
    rare_crop_prob = trial.suggest_float("rare_crop_prob", 0.0, 0.4)
    view = {"height_px": 224, "width_px": 224, "rare_crop_prob": rare_crop_prob}
    return _training(trial).model_copy(update=view)


def _in_windows(
    trial: BaseTrial, coarsest: float, finest: float, side_px: int = 128
) -> TrialConfig:
    scale = trial.suggest_float("scale", coarsest, finest, log=True)
    rare_crop_prob = trial.suggest_float("rare_crop_prob", 0.0, 0.4)
    view = {"height_px": side_px, "width_px": side_px, "scale": scale}
    view |= {"rare_crop_prob": rare_crop_prob}
    return _training(trial).model_copy(update=view)


def _training(trial: BaseTrial) -> TrialConfig:
    encoder = trial.suggest_categorical("encoder", ["tu-tf_efficientnet_lite0", "mobilenet_v2"])
    return TrialConfig(
        architecture=trial.suggest_categorical(
            "architecture", ["unet", "fpn", "linknet", "deeplabv3plus", "pspnet"]
        ),
        encoder=encoder,
        encoder_weights=f"{os.environ['WEIGHTS']}/{encoder}.pth",
        loss=trial.suggest_categorical("loss", ["ce", "focal", "dice_ce", "lovasz_ce"]),
        optimizer="adamw",
        lr=trial.suggest_float("lr", 1e-4, 5e-3, log=True),
        encoder_lr_factor=trial.suggest_float("encoder_lr_factor", 0.1, 1.0, log=True),
        schedule="cosine",
        clip_norm=1.0,
        batch_size=8,
        augment_strength=trial.suggest_float("augment_strength", 0.0, 0.8),
        oversample_ratio=trial.suggest_float("oversample_ratio", 1.0, 4.0, log=True),
    )
