"""What won the competition: a from-scratch UNet, DeepLabv3+ and PSPNet on 368×368 photographs.

Post-hurricane UAV imagery, 25 classes; 0.775 Dice won, by trainings tuned by hand. Here the same
networks, losses, optimizer and dynamic learning rate are searched. For a GPU; the encoders start
from ImageNet weights.
"""

from optuna.trial import BaseTrial

from segcore.config import TrialConfig

BASELINES = [
    {"architecture": "scratch_unet", "loss": "ce", "lr": 1e-3, "batch_size": 8,
     "oversample_ratio": 1.0, "rare_crop_prob": 0.0},
    {"architecture": "deeplabv3plus", "encoder": "resnet101", "loss": "ce", "lr": 1e-4,
     "batch_size": 8, "oversample_ratio": 2.0, "rare_crop_prob": 0.2},
    {"architecture": "pspnet", "encoder": "resnet101", "loss": "ce", "lr": 1e-4, "batch_size": 8,
     "oversample_ratio": 2.0, "rare_crop_prob": 0.2},
]  # fmt: skip


def space(trial: BaseTrial) -> TrialConfig:
    """The three networks with ResNet-34/101, cross entropy or focal, Adam, learning rate halved
    on plateaus."""
    architecture = trial.suggest_categorical(
        "architecture", ["scratch_unet", "deeplabv3plus", "pspnet"]
    )
    scratch = architecture == "scratch_unet"
    loss = trial.suggest_categorical("loss", ["ce", "focal"])
    return TrialConfig(
        height_px=368,
        width_px=368,
        architecture=architecture,
        encoder=None
        if scratch
        else trial.suggest_categorical("encoder", ["resnet34", "resnet101"]),
        encoder_weights=None if scratch else "imagenet",
        loss=loss,
        loss_kwargs={"gamma": trial.suggest_float("loss_kwargs.gamma", 0.5, 5.0)}
        if loss == "focal"
        else {},
        optimizer="adam",
        lr=trial.suggest_float("lr", 1e-5, 3e-3, log=True),
        weight_decay=0.0,
        schedule="plateau",
        clip_norm=None,
        batch_size=trial.suggest_categorical("batch_size", [4, 8, 16]),
        oversample_ratio=trial.suggest_float("oversample_ratio", 1.0, 8.0, log=True),
        rare_crop_prob=trial.suggest_float("rare_crop_prob", 0.0, 0.5),
    )
