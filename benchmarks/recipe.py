"""python -m benchmarks.recipe --weights FILE: what ``fit`` learns, against a plain PyTorch loop.

Both sides train the same network from the same weights with the same loss, Adam and batch size on
random windows of photographs at their own resolution, and are scored by one function on the whole
photographs of the split "val". Sides: "plain" (``benchmarks.plain_loop``), "same" (``fit`` with the
plain loop's settings) and "ours" (``fit`` with ``TrialConfig``'s other defaults).

At equal windows both sides take as many steps. At equal seconds the plain loop trains once more,
with as many steps as it takes in the time that ``fit`` needed, without validation: on a CPU seconds
of a core, so that other work on the machine counts less, on a GPU seconds of the clock. On a GPU
``fit`` computes in half precision where that is its own choice, the plain loop doesn't, and neither
loads in other processes. Differences are paired by seed; intervals are Student's, 95 %.

Prediction, before the first run against the rewritten loading: "same" within ±1 point of the plain
loop at equal windows, and 0.95 of its steps in equal seconds (−0.3 points). "ours" +2 points on the
drawn scenes, most of it from rare classes, and ±0 on the satellite tiles.
"""

import json
import math
import multiprocessing
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
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
from segcore.devices import choose_device
from segcore.networks.models import build_network
from segcore.reading.masks import read_pair
from segcore.scenes import default_scenes
from segcore.scores.counting import score
from segcore.scores.metrics import Scores
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
    jobs: int = 1  # Seeds at a time, each in a process of its own.


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
    train_s: float


def main(options: Options) -> None:
    """Print a line for each training, and a table for each number of steps."""
    torch.set_num_threads(options.threads)
    folder = options.data or default_scenes()
    photos = read_photos(folder, options)
    print(f"{folder}: {len(photos.train)} photographs to train on, {len(photos.val)} to validate")
    for steps in options.steps:
        found: dict[str, list[Trained]] = defaultdict(list)
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            work = partial(train_sides, options, folder, steps)
            for trainings in pool.map(work, range(options.seeds)):
                for name, trained in trainings:
                    found[name].append(trained)
        print_table(steps, found)


def train_sides(options: Options, folder: Path, steps: int, seed: int) -> list[tuple[str, Trained]]:
    """All trainings of one seed; the first one's speed sets what equal seconds are."""
    torch.set_num_threads(options.threads)
    photos = read_photos(folder, options)
    plain(options, photos, 3, seed)  # The first steps on a GPU are slow, in each precision.
    ours("same", options, folder, photos, 3, seed)
    trainings: list[tuple[str, Trained]] = []

    def add(name: str, trained: Trained) -> Trained:
        trainings.append((name, trained))
        print(json.dumps({"side": name, "seed": seed} | asdict(trained)), flush=True)
        return trained

    first = add("plain", plain(options, photos, steps, seed))
    for side in options.sides:
        if side != "plain":
            trained = add(side, ours(side, options, folder, photos, steps, seed))
            as_long = max(1, round(trained.train_s / first.train_s * first.steps))
            add(f"plain, {side}'s seconds", plain(options, photos, as_long, seed))
    return trainings


def now() -> float:
    """Seconds: of the clock on a GPU, once it is idle, and else of this process's cores."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def plain(options: Options, photos: Photos, steps: int, seed: int) -> Trained:
    """The plain loop."""
    started = now()
    device = choose_device()
    network = train(photos.train, len(photos.rare_K), options, steps, seed, device)
    return scored(network, photos, steps, now() - started)


def config_of(side: Side, options: Settings, steps: int = 1, seed: int = 0) -> TrialConfig:
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
        started = now()
        (epoch,) = fit(config, data)
        train_s = (now() - started) * (1 - epoch.val_s / epoch.epoch_s)
        epoch.save(Path(checkpoint))
        network = build_network(config, data.num_classes).to(choose_device())
        network.load_state_dict(load_model_tensors(Path(checkpoint)))
    return scored(network, photos, steps, train_s)


def read_photos(folder: Path, options: Options) -> Photos:
    """Decode the files themselves, split as the prepared data are."""
    data = prepare_data(folder, (config_of("same", options).view,), progress=False)
    dataset = load_dataset(folder)
    split_of = dict(zip(data.photos, data.photo_splits, strict=True))
    pairs: dict[str, list[Photo]] = {"train": [], "val": []}
    for photo in dataset.photos:
        if (split := split_of[photo.name]) in pairs:
            coding = dataset.spec.coding
            pair = read_pair(photo.path, photo.mask_path, coding, at_least_px=None)
            pairs[split].append((pair.image_HWC, pair.mask_HW))
    return Photos(pairs["train"], pairs["val"], rare_classes(data))


@torch.inference_mode()
def scored(network: nn.Module, photos: Photos, steps: int, train_s: float) -> Trained:
    """Score a network, which takes uint8 and gives logits, on whole photographs one by one."""
    network.eval()
    device = choose_device()
    predictions = []
    for number, (image_HWC, mask_HW) in enumerate(photos.val):
        image_NCHW = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None].to(device)
        class_NHW = network(image_NCHW).argmax(dim=1).to(torch.uint8).cpu()
        predictions.append((class_NHW, torch.from_numpy(mask_HW)[None], torch.tensor([number])))
    scores = score(predictions, len(photos.rare_K), [str(n) for n in range(len(photos.val))], "cpu")
    return Trained(scores.dice, dice_of_rare(scores, photos.rare_K), steps, train_s)


def rare_classes(data: PreparedData) -> NDArray[np.bool_]:
    """Which classes have less than RARE_SHARE of the training pixels (K)."""
    pixels_K = data.class_pixels("train")
    rare_K: NDArray[np.bool_] = pixels_K < RARE_SHARE * pixels_K.sum()
    return rare_K


def dice_of_rare(scores: Scores, rare_K: NDArray[np.bool_]) -> float:
    """The mean Dice of the rare classes that occur; NaN where none does."""
    dice = scores.class_dice_K[rare_K & ~np.isnan(scores.class_dice_K)]
    return float(dice.mean()) if len(dice) else math.nan


def print_table(steps: int, found: dict[str, list[Trained]]) -> None:
    """A line for each side: means over seeds, and how much more Dice than the plain loop's."""
    print(f"\n{f'{steps} steps':24}    Dice    rare   steps       s   more Dice than plain")
    dice = {name: np.array([trained.dice for trained in side]) for name, side in found.items()}
    for name, side in found.items():
        rare, took, seconds = np.mean([(t.rare_dice, t.steps, t.train_s) for t in side], axis=0)
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
