"""python -m benchmarks.defaults --weights FILE: what each setting of a training is worth.

``fit`` trains the yardstick's network (``benchmarks.recipe``) with the defaults of ``TrialConfig``
and, seed by seed, once for each change of one setting. The score is the validation Dice of the last
epoch, on whole photographs. Differences to the defaults are paired by seed; intervals are
Student's, 95 %. With ``--seconds``, no training begins after that time, and the table shows
what there is.

Prediction, before the first run (points of Dice, 405 and 1,215 steps, drawn scenes): constant rate
+2 and −1; three times the rate with cosine +3 and 0; no augmentation +2 and −1; average of weights
0 and 0; 0.4 of the windows near rare classes +4 and +4; Dice + cross entropy +2 and +2; encoder
with a third of the rate −2 and 0. On Dubai all of them within ±2.
"""

import json
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.plain_loop import Settings
from benchmarks.recipe import config_of, dice_of_rare, interval, rare_classes
from segcore.data.preparing import prepare_data
from segcore.scenes import default_scenes
from segcore.training import loading
from segcore.training.fit import fit

BEYOND = loading.BEYOND
EPOCHS = 5
"""Of a training, so that there is a schedule to follow and a warm-up of a part of an epoch."""

TOGETHER: dict[str, Any] = {
    "rare_crop_prob": 0.4, "loss": "dice_ce", "lr": 3e-3, "clip_norm": 1.0,
    "warmup_epochs": 0.1 * EPOCHS,
}  # fmt: skip
"""What helped each by itself, in the first run."""

CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "together": TOGETHER,
    "together, no augmentation": TOGETHER | {"augment_strength": 0.0},
    "together, augmentation 0.25": TOGETHER | {"augment_strength": 0.25},
    "together, constant rate": TOGETHER | {"schedule": "constant"},
    "together, poly": TOGETHER | {"schedule": "poly"},
    "together, average 0.99": TOGETHER | {"ema_decay": 0.99},
    "together, rate 0.0015": TOGETHER | {"lr": 1.5e-3},
    "together, rate 0.006": TOGETHER | {"lr": 6e-3},
    "together, 0.2 near rare": TOGETHER | {"rare_crop_prob": 0.2},
    "together, 0.7 near rare": TOGETHER | {"rare_crop_prob": 0.7},
    "together, encoder 0.3": TOGETHER | {"encoder_lr_factor": 0.3},
    "together, not clipped": TOGETHER | {"clip_norm": None},
    "together, no warm-up": TOGETHER | {"warmup_epochs": 0.0},
    "together, cross entropy": TOGETHER | {"loss": "ce"},
    "together, Lovász": TOGETHER | {"loss": "lovasz_ce"},
    "together, inside only": TOGETHER | {"BEYOND": 0.0},
    "rare classes and clipping": {"rare_crop_prob": 0.4, "loss": "dice_ce", "clip_norm": 1.0},
    "constant rate": {"schedule": "constant"},
    "0.4 near rare classes": {"rare_crop_prob": 0.4},
    "no augmentation": {"augment_strength": 0.0},
    "Dice + cross entropy": {"loss": "dice_ce"},
    "rate 0.003": {"lr": 3e-3},
    "average 0.99": {"ema_decay": 0.99},
    "augmentation 0.25": {"augment_strength": 0.25},
    "augmentation 1": {"augment_strength": 1.0},
    "0.2 near rare classes": {"rare_crop_prob": 0.2},
    "warm-up of a tenth": {"warmup_epochs": 0.1 * EPOCHS},
    "poly": {"schedule": "poly"},
    "rate 0.003, constant": {"lr": 3e-3, "schedule": "constant"},
    "rate 0.0003": {"lr": 3e-4},
    "encoder with 0.3 of the rate": {"encoder_lr_factor": 0.3},
    "clipped at 1": {"clip_norm": 1.0},
    "average 0.998": {"ema_decay": 0.998},
    "oversampling 3": {"oversample_ratio": 3.0},
    "Lovász + cross entropy": {"loss": "lovasz_ce"},
    "windows inside only": {"BEYOND": 0.0},
    "windows half beyond": {"BEYOND": 0.5},
}
"""``BEYOND`` is ``segcore.training.loading.BEYOND``, and the rest are fields of TrialConfig."""


@dataclass(frozen=True)
class Options(Settings):
    """Train with the defaults, and with each setting changed."""

    data: Path | None = None  # Folder with a dataset.yaml; the drawn scenes by default.
    steps: tuple[int, ...] = (405, 1215)  # Steps of a training, for each table.
    seeds: int = 3  # Trainings of each setting and number of steps.
    jobs: int = 1  # Trainings at a time.
    seconds: float = float("inf")  # No training begins later.
    only: tuple[str, ...] = tuple(CHANGES)  # The changes to try, beside the defaults.


def main(options: Options) -> None:
    """Print a line for each training, and a table for each number of steps."""
    folder = options.data or default_scenes()
    prepare_data(folder, (config_of("ours", options).view,), progress=False)
    until = time.time() + options.seconds
    work = [
        (steps, seed, name)
        for seed in range(options.seeds)
        for steps in options.steps
        for name in dict.fromkeys(("defaults", *options.only))
    ]
    found: dict[int, dict[str, dict[int, tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        trained = pool.map(partial(train, options, folder, until), work)
        for (steps, seed, name), scores in zip(work, trained, strict=True):
            if scores is not None:
                found[steps][name][seed] = scores
    for steps, of_steps in found.items():
        print_table(steps, of_steps)


def train(
    options: Options, folder: Path, until: float, work: tuple[int, int, str]
) -> tuple[float, float] | None:
    """Dice, and Dice of the rare classes; None where time is up."""
    if time.time() > until:
        return None
    torch.set_num_threads(1)
    steps, seed, name = work
    changes = dict(CHANGES[name])
    loading.BEYOND = changes.pop("BEYOND", BEYOND)
    config = config_of("ours", options, steps, seed)
    assert config.epoch_mpx is not None
    config = config.model_copy(
        update={
            "optimizer": "adamw", "weight_decay": 1e-4, "max_epochs": EPOCHS,
            "epoch_mpx": config.epoch_mpx / EPOCHS, **changes,
        }
    )  # fmt: skip
    data = prepare_data(folder, (config.view,), progress=False)
    *_, last = fit(config, data)
    rare_dice = dice_of_rare(last.scores, rare_classes(data))
    line = {"steps": steps, "seed": seed, "change": name, "dice": last.scores.dice}
    line |= {"rare": rare_dice, "accuracy": last.scores.pixel_accuracy, "epoch_s": last.epoch_s}
    print(json.dumps(line), flush=True)
    return last.scores.dice, rare_dice


def print_table(steps: int, found: dict[str, dict[int, tuple[float, float]]]) -> None:
    """A line for each change: means over seeds, and the difference to the defaults."""
    print(f"\n{f'{steps} steps':30}   seeds    Dice    rare   more Dice than the defaults")
    base = found["defaults"]
    for name, of_seed in found.items():
        dice, rare = np.mean(list(of_seed.values()), axis=0)
        print(f"{name:30} {len(of_seed):7} {dice:7.4f} {rare:7.4f}", end="")
        both = sorted(of_seed.keys() & base.keys())
        more = np.array([of_seed[seed][0] - base[seed][0] for seed in both])
        print("" if name == "defaults" or not both else f"   {interval(more)}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.defaults"))
