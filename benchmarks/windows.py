"""What a training window costs, what the cache takes, and validation's share of an epoch.

``python -m benchmarks.windows --data DIR`` (a folder with photographs of full size, such as UAV
photographs of 4000×3000 px). One core cuts windows of 512×512 and 368×368 px from the cache, with
the augmentation of strength 0.5: anywhere at full resolution, and of photographs that are squeezed
whole. The other side is the chain that was there before: the squeezed photograph, or a tile of a
fixed grid, from an array, then albumentations' D4, padding, affine warp and colour jitter.

Prediction, before the first run: the chain spends its time in the affine warp and the colour
jitter, about 2 ms each for 512×512 px. One warp instead of three passes over the pixels saves less
than half: ratio 0.7. The cache at full resolution is four thirds of the decoded pixels of images,
and a third of them again for masks: ten times the JPEG files.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import albumentations as A
import cv2
import numpy as np
import torch
import tyro

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.dataset import load_dataset
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.data.windows import scale_image, scale_mask
from segcore.training.fit import fit
from segcore.training.loading import Draw, EpochSampler, TrainingWindows

STRENGTH = 0.5


@dataclass(frozen=True)
class Options:
    """Measure windows, the cache and validation."""

    data: Path
    """A folder with a dataset.yaml."""
    windows: int = 100
    """How many windows each side cuts in a round."""
    rounds: int = 5
    """Both sides in turn; the median counts."""
    train: bool = False
    """Also train a small network for two epochs, to see validation's share."""


def main(options: Options) -> None:
    """Print a table for each kind of window, the cache's size, and validation's share."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    configs = [
        TrialConfig(height_px=side, width_px=side, scale=scale, augment_strength=STRENGTH)
        for side in (368, 512)
        for scale in (None, 1.0)
    ]
    print(f"{'window':22} {'before':>10} {'now':>10}   ratio")
    for config in configs:
        data = prepare_data(options.data, [config.view])
        sides = {"before": _before(config, data, options), "now": _now(config, data, options)}
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, cut in sides.items():
                began = time.process_time()
                for number in range(options.windows):
                    cut(number)
                taken[name].append(1e3 * (time.process_time() - began) / options.windows)
        before, now = (median(taken[name]) for name in ("before", "now"))
        kind = "whole photograph" if config.scale is None else "full resolution"
        print(
            f"{config.height_px} px, {kind:16} {before:7.2f} ms {now:7.2f} ms   {now / before:.2f}"
        )
    _print_sizes(options)
    if options.train:
        _print_validation(options)


def _now(config: TrialConfig, data: PreparedData, options: Options) -> Callable[[int], object]:
    windows = TrainingWindows(data, config)
    drawn: list[Draw] = []
    sampler = EpochSampler(data, config)
    while len(drawn) < options.windows:
        drawn += list(sampler)
        sampler.epoch += 1
    return lambda number: windows[drawn[number]]


def _before(config: TrialConfig, data: PreparedData, options: Options) -> Callable[[int], object]:
    """The chain of the version before: an item of an array, then albumentations."""
    side = config.height_px
    items = []
    for photo in data.of_split("train")[: options.windows]:
        grid = data.grid(photo, config.view)
        image_HWC, mask_HW = (
            scale_image(data.image(photo), grid),
            scale_mask(data.mask(photo), grid),
        )
        items.append((image_HWC[:side, :side].copy(), mask_HW[:side, :side].copy()))
    jitter = (1 - 0.4 * STRENGTH, 1 + 0.4 * STRENGTH)
    chain = A.Compose(
        [
            A.D4(p=1.0),
            A.PadIfNeeded(side, side, border_mode=cv2.BORDER_CONSTANT, fill_mask=IGNORE_INDEX),
            A.CenterCrop(side, side),
            A.Affine(
                rotate=(-45 * STRENGTH, 45 * STRENGTH),
                scale=(1 - 0.4 * STRENGTH, 1 + 0.6 * STRENGTH),
                translate_percent=(-0.2 * STRENGTH, 0.2 * STRENGTH), balanced_scale=True,
                border_mode=cv2.BORDER_CONSTANT, fill_mask=IGNORE_INDEX, p=0.75,
            ),
            A.ColorJitter(
                brightness=jitter, contrast=jitter, saturation=jitter,
                hue=(-0.05 * STRENGTH, 0.05 * STRENGTH), p=0.75,
            ),
        ]
    )  # fmt: skip

    def cut(number: int) -> object:
        chain.set_random_seed(number)
        image_HWC, mask_HW = items[number % len(items)]
        changed = chain(image=np.asarray(image_HWC), mask=np.asarray(mask_HW))
        image_CHW = torch.from_numpy(np.array(changed["image"])).permute(2, 0, 1)
        return image_CHW, torch.from_numpy(np.array(changed["mask"]))

    return cut


def _print_sizes(options: Options) -> None:
    dataset = load_dataset(options.data)
    files = sum(path.stat().st_size for p in dataset.photos for path in (p.path, p.mask_path))
    for scale in (None, 0.25, 1.0):
        data = prepare_data(options.data, [TrialConfig(scale=scale).view])
        cached = data.samples.nbytes + data.masks.nbytes + data.score_masks.nbytes
        what = "squeezed to 368×368" if scale is None else f"at scale {scale:g}"
        print(f"cache {what}: {cached / 1e6:.0f} MB, {cached / files:.2f} of the files")


def _print_validation(options: Options) -> None:
    for view in ({"scale": None}, {"scale": 0.5}, {"scale": 0.25}):
        config = TrialConfig(
            height_px=256, width_px=256, architecture="fpn", encoder="tu-mobilenetv3_small_100",
            batch_size=8, max_epochs=2, **view,
        )  # fmt: skip
        *_, last = fit(config, prepare_data(options.data, [config.view]))
        share = last.val_s / last.epoch_s
        print(f"validation at {view}: {last.val_s:.1f} s of {last.epoch_s:.1f} s, {share:.0%}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.windows"))
