"""The full space for aerial photographs: scale, window, network, loss, optimisation, oversampling.

For a GPU: ``python -m search.run --data DIR --space spaces.aerial --trials 100 --max-epochs 81``.
The encoders start from ImageNet weights. Networks see windows of the photographs, at a scale
between the two that suit the sizes of the objects (``python -m segcore.prepare DIR`` prints them).
"""

import math
from typing import Any

from optuna.trial import BaseTrial

from segcore.config import Scalar, TrialConfig
from segcore.facts import DataFacts


def BASELINES(data: DataFacts) -> list[dict[str, Any]]:  # noqa: N802  (the name of spaces' lists)
    """A convolutional network at the finest scale, and a transformer halfway to the coarsest."""
    coarsest, finest = data.objects.scale_bounds()
    common = {
        "height_px": 512, "loss": "dice_ce", "loss_kwargs.region_share": 0.5,
        "encoder_lr_factor": 0.3, "schedule": "poly", "warmup_epochs": 0.5, "batch_size": 8,
        "augment_strength": 0.5, "oversample_ratio": 1.0, "rare_crop_prob": 0.4,
    }  # fmt: skip
    return [
        {"architecture": "deeplabv3plus", "encoder": "resnet101", "lr": 3e-4, "weight_decay": 1e-4,
         "scale": finest, **common},
        {"architecture": "segformer", "segformer_encoder": "mit_b2", "lr": 2e-4,
         "weight_decay": 1e-2, "scale": math.sqrt(coarsest * finest), **common},
    ]  # fmt: skip


CNN_ENCODERS = ["resnet34", "resnet101", "se_resnext50_32x4d", "efficientnet-b3"]


def space(trial: BaseTrial, data: DataFacts) -> TrialConfig:
    """Everything that is worth sampling; conditions are plain ``if``."""
    architecture = trial.suggest_categorical(
        "architecture", ["unet", "unetplusplus", "fpn", "deeplabv3plus", "pspnet", "segformer",
                         "upernet"]
    )  # fmt: skip
    # The choices of one name never change: where they depend on another, they have their own name.
    if architecture == "segformer":
        encoder = trial.suggest_categorical("segformer_encoder", ["mit_b1", "mit_b2", "mit_b3"])
    elif architecture == "upernet":
        encoder = trial.suggest_categorical(
            "upernet_encoder", ["resnet101", "mit_b2", "tu-convnext_tiny"]
        )
    else:
        encoder = trial.suggest_categorical("encoder", CNN_ENCODERS)
    loss, loss_kwargs = _loss(trial)
    coarsest, finest = data.objects.scale_bounds()
    window_px = trial.suggest_categorical("height_px", [384, 512, 640])
    return TrialConfig(
        height_px=window_px,
        width_px=window_px,
        scale=trial.suggest_float("scale", coarsest, finest, log=True),
        architecture=architecture,
        encoder=encoder,
        encoder_weights="imagenet",
        loss=loss,
        loss_kwargs=loss_kwargs,
        optimizer="adamw",
        lr=trial.suggest_float("lr", 3e-5, 3e-3, log=True),
        encoder_lr_factor=trial.suggest_float("encoder_lr_factor", 0.05, 1.0, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        schedule=trial.suggest_categorical("schedule", ["cosine", "poly", "plateau"]),
        warmup_epochs=trial.suggest_float("warmup_epochs", 0.0, 2.0, step=0.5),
        batch_size=trial.suggest_categorical("batch_size", [4, 8, 16]),
        clip_norm=1.0,
        ema_decay=0.998,
        augment_strength=trial.suggest_float("augment_strength", 0.0, 1.0),
        oversample_ratio=trial.suggest_float("oversample_ratio", 1.0, 8.0, log=True),
        rare_crop_prob=trial.suggest_float("rare_crop_prob", 0.0, 0.5),
    )


def _loss(trial: BaseTrial) -> tuple[str, dict[str, Scalar]]:
    loss = trial.suggest_categorical(
        "loss", ["ce", "focal", "dice_ce", "jaccard_ce", "tversky_ce", "lovasz_ce"]
    )
    kwargs: dict[str, Scalar] = {}
    match loss:
        case "ce":
            kwargs["class_weight_power"] = trial.suggest_float(
                "loss_kwargs.class_weight_power", 0.0, 1.0
            )
        case "focal":
            kwargs["gamma"] = trial.suggest_float("loss_kwargs.gamma", 0.5, 5.0)
        case _:
            kwargs["region_share"] = trial.suggest_float("loss_kwargs.region_share", 0.1, 0.9)
    return loss, kwargs
