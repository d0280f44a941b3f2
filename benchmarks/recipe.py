"""python -m benchmarks.recipe --weights FILE: what ``fit`` learns, against a plain PyTorch loop.

Both sides train the same network from the same weights with the same loss, Adam and batch size on
random windows of photographs at their own resolution, and are scored by one function on the whole
photographs of the split "val". Sides: "plain" (``benchmarks.plain_loop``), "same" (``fit`` with the
plain loop's settings) and "ours" (``fit`` with ``TrialConfig``'s other defaults).

At equal windows both sides take as many steps. At equal seconds the plain loop trains once more,
with as many steps as it takes in the time that ``fit`` needed (seconds of a core, so that other
work on the machine counts less; without validation). Differences are paired by seed; intervals are
Student's, 95 %.

Prediction, before the first run against the rewritten loading: "same" within ±1 point of the plain
loop at equal windows, and 0.95 of its steps in equal seconds (−0.3 points). "ours" +2 points on the
drawn scenes, most of it from rare classes, and ±0 on the satellite tiles.
"""

import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]
from torch import nn

from benchmarks.plain_loop import ENCODER, Photo, Settings, train
from segcore.config import TrialConfig
from segcore.data.dataset import load_dataset
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.networks.models import build_network
from segcore.reading.masks import read_pair
from segcore.scenes import default_scenes
from segcore.scores.metrics import score
from segcore.training.checkpoint import load_model_tensors
from segcore.training.fit import fit

RARE_SHARE = 0.01
"""A class with less of the training pixels is rare."""

Side = Literal["plain", "same", "ours"]


@dataclass(frozen=True)
class Options(Settings):
    """Train the sides seed by seed, and compare them."""

    data: Path | None = None  # Folder with a dataset.yaml; the drawn scenes by default.
    steps: tuple[int, ...] = (135, 405)  # Steps of a training, for each table.
    seeds: int = 5  # Trainings of each side and number of steps.
    sides: tuple[Side, ...] = ("plain", "same", "ours")  # The plain loop runs in any case.
    threads: int = 1  # Of torch. Windows are cut in the training process.


class Photos(NamedTuple):
    """The decoded photographs, without those of the test."""

    train: list[Photo]
    val: list[Photo]
    rare_K: NDArray[np.bool_]


@dataclass(frozen=True)
class Trained:
    """What a training reached; ``rare_dice`` is the mean over the rare classes."""

    dice: float
    rare_dice: float
    steps: int
    core_s: float


def main(options: Options) -> None:
    """Print a line for each training, and a table for each number of steps."""
    torch.set_num_threads(options.threads)
    folder = options.data or default_scenes()
    view = config_of("same", options).view
    photos = read_photos(folder, prepare_data(folder, (view,), progress=False))
    print(f"{folder}: {len(photos.train)} photographs to train on, {len(photos.val)} to validate")
    for steps in options.steps:
        found: dict[str, list[Trained]] = defaultdict(list)
        for seed in range(options.seeds):
            for name, trained in train_sides(options, folder, photos, steps, seed):
                found[name].append(trained)
                print(json.dumps({"side": name, "seed": seed} | asdict(trained)), flush=True)
        print_table(steps, found)


def train_sides(
    options: Options, folder: Path, photos: Photos, steps: int, seed: int
) -> Iterator[tuple[str, Trained]]:
    """All trainings of one seed; the first one's speed sets what equal seconds are."""
    first = plain(options, photos, steps, seed)
    yield "plain", first
    for side in options.sides:
        if side != "plain":
            trained = ours(side, options, folder, photos, steps, seed)
            yield side, trained
            as_long = max(1, round(trained.core_s / first.core_s * first.steps))
            yield f"plain, {side}'s seconds", plain(options, photos, as_long, seed)


def plain(options: Options, photos: Photos, steps: int, seed: int) -> Trained:
    """The plain loop."""
    started = time.process_time()
    network = train(photos.train, len(photos.rare_K), options, steps, seed)
    return scored(network, photos, steps, time.process_time() - started)


def config_of(side: Side, options: Options, steps: int = 1, seed: int = 0) -> TrialConfig:
    """``fit``'s settings: the plain loop's, or the defaults beyond network, loss and windows.

    All steps are one epoch, so their number is exact and there is one validation.
    """
    settings: dict[str, Any] = {
        "height_px": options.side_px, "width_px": options.side_px, "scale": 1.0,
        "architecture": "fpn", "encoder": ENCODER, "encoder_weights": str(options.weights),
        "loss": options.loss, "optimizer": "adam", "weight_decay": 0.0, "lr": options.lr,
        "batch_size": options.batch_size, "seed": seed, "max_epochs": 1,
        "epoch_mpx": steps * options.batch_size * options.side_px**2 / 1e6,
    }  # fmt: skip
    if side == "same":
        settings |= {"schedule": options.schedule, "warmup_epochs": 0.0, "ema_decay": None}
        settings |= {"augment_strength": 0.0, "oversample_ratio": 1.0, "rare_crop_prob": 0.0}
    return TrialConfig(**settings)


def ours(
    side: Side, options: Options, folder: Path, photos: Photos, steps: int, seed: int
) -> Trained:
    """``fit``."""
    config = config_of(side, options, steps, seed)
    data = prepare_data(folder, (config.view,), progress=False)
    with tempfile.TemporaryDirectory() as checkpoint:
        started = time.process_time()
        (epoch,) = fit(config, data, device=torch.device("cpu"))
        core_s = (time.process_time() - started) * (1 - epoch.val_s / epoch.epoch_s)
        epoch.save(Path(checkpoint))
        network = build_network(config, data.num_classes)
        network.load_state_dict(load_model_tensors(Path(checkpoint)))
    return scored(network, photos, steps, core_s)


def read_photos(folder: Path, data: PreparedData) -> Photos:
    """Decode the files themselves, split as the prepared data are."""
    dataset = load_dataset(folder)
    split_of = dict(zip(data.photos, data.photo_splits, strict=True))
    pairs: dict[str, list[Photo]] = {"train": [], "val": []}
    for photo in dataset.photos:
        if (split := split_of[photo.name]) in pairs:
            coding = dataset.spec.coding
            pair = read_pair(photo.path, photo.mask_path, coding, at_least_px=None)
            pairs[split].append((pair.image_HWC, pair.mask_HW))
    pixels_K = data.class_pixels("train")
    return Photos(pairs["train"], pairs["val"], pixels_K < RARE_SHARE * pixels_K.sum())


@torch.inference_mode()
def scored(network: nn.Module, photos: Photos, steps: int, core_s: float) -> Trained:
    """Score a network, which takes uint8 and gives logits, on whole photographs one by one."""
    network.eval()
    predictions = []
    for number, (image_HWC, mask_HW) in enumerate(photos.val):
        image_NCHW = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None]
        class_NHW = network(image_NCHW).argmax(dim=1).to(torch.uint8)
        predictions.append((class_NHW, torch.from_numpy(mask_HW)[None], torch.tensor([number])))
    scores = score(predictions, len(photos.rare_K), len(photos.val), "cpu")
    rare_K = scores.class_dice_K[photos.rare_K & ~np.isnan(scores.class_dice_K)]
    rare_dice = float(rare_K.mean()) if len(rare_K) else math.nan
    return Trained(scores.dice, rare_dice, steps, core_s)


def print_table(steps: int, found: dict[str, list[Trained]]) -> None:
    """A line for each side: means over seeds, and how much more Dice than the plain loop's."""
    print(f"\n{f'{steps} steps':24}    Dice    rare   steps       s   more Dice than plain")
    dice = {name: np.array([trained.dice for trained in side]) for name, side in found.items()}
    for name, side in found.items():
        rare, took, seconds = np.mean([(t.rare_dice, t.steps, t.core_s) for t in side], axis=0)
        print(f"{name:24} {dice[name].mean():7.4f} {rare:7.4f} {took:7.0f} {seconds:7.1f}", end="")
        print("" if name == "plain" else f"   {interval(dice[name] - dice['plain'])}", end="")
        as_long = f"plain, {name}'s seconds"
        if as_long in found:
            print(f"; at equal seconds {interval(dice[name] - dice[as_long])}", end="")
        print()


def interval(difference_N: NDArray[np.float64]) -> str:
    """The mean difference with its interval."""
    if len(difference_N) < 2:
        return f"{difference_N.mean():+.4f}"
    standard_error = difference_N.std(ddof=1) / math.sqrt(len(difference_N))
    half = stats.t.ppf(0.975, len(difference_N) - 1) * standard_error
    return f"{difference_N.mean():+.4f} ± {half:.4f}"


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.recipe"))
