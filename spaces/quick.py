"""Small networks on small images, for minutes on two CPU cores. The default of ``search.run``.

It is made for the embedded data set, to see a whole search once. Don't expect high scores.
"""

from optuna.trial import BaseTrial

from segcore.config import Scalar, TrialConfig

BASELINES = [
    {
        "architecture": "fpn",
        "loss": "dice_ce",
        "lr": 2e-3,
        "oversample_ratio": 2.0,
        "rare_crop_prob": 0.2,
    },
]


SMALL: dict[str, dict[str, Scalar]] = {
    "fpn": {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32},
    "linknet": {},
    "scratch_unet": {"base_channels": 12, "depth": 3},
}


def space(trial: BaseTrial) -> TrialConfig:
    """Three small networks, three losses, learning rate and both kinds of oversampling."""
    architecture = trial.suggest_categorical("architecture", list(SMALL))
    return TrialConfig(
        height_px=96,
        width_px=128,
        architecture=architecture,
        encoder=None if architecture == "scratch_unet" else "tu-mobilenetv3_small_100",
        model_kwargs=SMALL[architecture],
        loss=trial.suggest_categorical("loss", ["ce", "focal", "dice_ce"]),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        oversample_ratio=trial.suggest_float("oversample_ratio", 1.0, 4.0),
        rare_crop_prob=trial.suggest_float("rare_crop_prob", 0.0, 0.5),
        augment_strength=0.3,
        batch_size=8,
    )
