"""Train every configuration of a small grid to the end, and keep its curves as a table.

    WEIGHTS=DIR python -m benchmarks.real_curves --data DIR --out FILE [--jobs 2]

The table is what ``benchmarks.search_efficiency`` searches beside those of other fields: trainings
of segmentation networks, with their scores on the validation and the test split after each epoch,
and with the seconds of a core that an epoch takes, validation included. ``WEIGHTS`` names the
folder of the encoder's file, ``tu-tf_efficientnet_lite0.pth``.
"""

import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.curve_tables import GRID
from search.ensembles.tasks import Mixture, Workplace, score_mixtures
from search.runs.checkpoints import StoredCheckpoint
from search.runs.storage import Location, share
from segcore.config import MetricName, TrialConfig
from segcore.data.prepared import open_prepared
from segcore.data.preparing import prepare_data
from segcore.scenes import default_scenes
from segcore.training.checkpoint import load_info
from segcore.training.fit import fit

ENCODER = "tu-tf_efficientnet_lite0"


@dataclass(frozen=True)
class Options:
    """Train the grid's configurations that ``out`` lacks."""

    out: Path  # A line for each configuration.
    data: Path | None = None  # Folder with a dataset.yaml; the drawn scenes by default.
    max_epochs: int = 8
    epoch_megapixels: float = 1.0
    jobs: int = 2  # Trainings at a time, each on one core.


def main(options: Options) -> None:
    """Print a line for each training that is done."""
    combinations = [
        dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())
    ]
    configs = [config_of(params, options) for params in combinations]
    folder = options.data or default_scenes()
    data = prepare_data(folder, [config.view for config in configs], progress=False)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = [json.loads(line)["params"] for line in lines]
    missing = [params for params in combinations if params not in done]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn) as pool:
        for row in pool.map(partial(trained, options, data.folder), missing):
            with options.out.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(row["params"], row["val"], row["test"], f"{row['epoch_s']:.1f} s", flush=True)


def config_of(params: Mapping[str, Any], options: Options) -> TrialConfig:
    """A configuration of the grid; without ``scale`` a photograph is squeezed to 160×160 px."""
    side_px = 160 if params["scale"] is None else 128
    return TrialConfig(
        architecture=params["architecture"],
        encoder=ENCODER,
        encoder_weights=f"{os.environ['WEIGHTS']}/{ENCODER}.pth",
        height_px=side_px,
        width_px=side_px,
        scale=params["scale"],
        loss=params["loss"],
        lr=params["lr"],
        optimizer="adamw",
        schedule="cosine",
        clip_norm=1.0,
        batch_size=8,
        augment_strength=0.3,
        rare_crop_prob=0.2,
        max_epochs=options.max_epochs,
        epoch_mpx=options.epoch_megapixels,
    )


def trained(options: Options, prepared: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table; scores are Dice, 0 to 1."""
    torch.set_num_threads(1)
    data = open_prepared(prepared)
    epochs = fit(config_of(params, options), data, device=torch.device("cpu"))
    val: list[float] = []
    test: list[float] = []
    seconds = 0.0
    while len(val) < options.max_epochs:
        started = time.process_time()
        epoch = next(epochs)
        seconds += time.process_time() - started
        val.append(round(epoch.scores.dice, 5))
        with tempfile.TemporaryDirectory() as folder:
            epoch.save(Path(folder))
            test.append(round(test_score(Path(folder), prepared, "dice"), 5))
    return {"params": params, "epoch_s": round(seconds / len(val), 2), "val": val, "test": test}


def test_score(checkpoint: Path, prepared: Path, metric: MetricName) -> float:
    """A network's score on the test, as a search computes it."""
    network = StoredCheckpoint(Location.parse(str(checkpoint)), load_info(checkpoint))
    place = Workplace(share(prepared, None), cpus=1, gpus=0)
    (said,) = score_mixtures([network], place, "test", [Mixture(((0, 1.0),), None)])
    return said.scores.metric(metric)


if __name__ == "__main__":
    main(tyro.cli(Options))
