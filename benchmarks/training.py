"""Training throughput with the real loader, against the same network fed one resident batch.

``python -m benchmarks.training`` (on a GPU where there is one). The aim is a ratio of 0.95 on a
GPU and 0.9 on a CPU: loading, augmentation and copying must hide behind the network.

Prediction, before the first run: augmentation of a 368×368 image takes 3 ms, a step of U-Net with
ResNet-34 on two CPU cores about 250 ms an image, so 0.98 on a CPU without worker processes. On a
GPU a step takes some 3 ms an image: eight workers would just do, 0.95.
"""

from dataclasses import dataclass
from statistics import median

import torch
import tyro

from segcore.config import TrialConfig
from segcore.data.preparing import prepare_data
from segcore.scenes import default_scenes
from segcore.training.fit import time_steps


@dataclass(frozen=True)
class Options:
    """Time training steps with and without loading."""

    architecture: str = "unet"
    """As in TrialConfig."""
    encoder: str = "resnet34"
    """As in TrialConfig."""
    side_px: int = 368
    """Height and width of the input."""
    batch_size: int = 8
    """Images in a step."""
    workers: int = 0
    """Processes that load."""
    steps: int = 6
    """Steps in a measurement."""
    rounds: int = 3
    """Measurements of each side, in turn; the median counts."""


def main(options: Options) -> None:
    """Print images per second of both sides, and their ratio."""
    config = TrialConfig(
        height_px=options.side_px, width_px=options.side_px, architecture=options.architecture,
        encoder=options.encoder, batch_size=options.batch_size, rare_crop_prob=0.2,
    )  # fmt: skip
    data = prepare_data(default_scenes(), [config.view])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.rounds):
        for loading, measured in seconds.items():
            measured.append(
                time_steps(
                    config, data, device=device, loader_workers=options.workers,
                    steps=options.steps, loading=loading,
                )
            )  # fmt: skip
    loaded, resident = (options.batch_size / median(seconds[loading]) for loading in (True, False))
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{config.architecture} {config.encoder} {config.height_px}×{config.width_px} on {where}")
    print(f"real loader, {options.workers} workers   {loaded:8.1f} images/s")
    print(f"one resident batch       {resident:8.1f} images/s")
    print(f"ratio                    {loaded / resident:8.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.training"))
