"""One trial on one worker: fit() → tune.report."""

import gc
import math
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from ray import tune

from segcore import checkpoint
from segcore.cache import open_prepared
from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.metrics import METRICS
from segcore.training import DivergedError, EpochResult, fit


def run_trial(
    assignment: dict[str, Any],
    *,
    data_folder: Path,
    weights_dir: Path,
    trials_folder: Path,
    cpus: int,
    use_gpu: bool,
) -> None:
    """Train what ``StudySearcher`` assigned, reporting and keeping a checkpoint after each epoch.

    Goes on from the trial's newest checkpoint, of this session or an earlier one. What fails by the
    configuration's own fault is reported as ``failure`` instead of raised: Ray tries again what
    raises, and that is for workers that died.
    """
    number: int = assignment["trial_number"]
    config = TrialConfig.from_dict(assignment["config"])
    _prepare_process(cpus, use_gpu)
    done = 0
    try:
        data = open_prepared(data_folder)
        epochs = fit(
            config,
            data,
            device=torch.device("cuda" if use_gpu else "cpu"),
            resume_from=newest_checkpoint(trials_folder, number),
            weights_dir=weights_dir,
            loader_workers=cpus if use_gpu else 0,
        )
        for epoch in epochs:
            done = epoch.epoch
            with tempfile.TemporaryDirectory() as folder:
                epoch.save(Path(folder))
                metrics = epoch_metrics(epoch, data.class_names)
                tune.report(
                    {"epoch": done, "finished": epoch.finished, **metrics},
                    checkpoint=tune.Checkpoint.from_directory(folder),
                )
    except (DivergedError, UserError) as error:
        tune.report({"epoch": done, "finished": False, "failure": str(error)})
    except Exception as error:
        tune.report(
            {
                "epoch": done,
                "finished": False,
                "failure": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        )


def trial_name(number: int) -> str:
    """Name of a trial's folder, in every session."""
    return f"trial_{number:04d}"


def checkpoints(trials_folder: Path, number: int) -> list[Path]:
    """A trial's complete checkpoints of all sessions, in the order of their epochs."""
    found = [
        folder
        for folder in trials_folder.glob(f"*/{trial_name(number)}/checkpoint_*")
        if checkpoint.is_complete(folder)
    ]
    return sorted(found, key=lambda folder: checkpoint.load_info(folder).epoch)


def newest_checkpoint(trials_folder: Path, number: int) -> Path | None:
    """The checkpoint to go on from; None for a trial that has none yet."""
    found = checkpoints(trials_folder, number)
    return found[-1] if found else None


def best_checkpoint(trials_folder: Path, number: int) -> Path | None:
    """The checkpoint with the best score on the validation split, the earlier of equals."""
    found = checkpoints(trials_folder, number)
    return max(found, key=lambda folder: checkpoint.load_info(folder).score, default=None)


def epoch_metrics(epoch: EpochResult, class_names: Sequence[str]) -> dict[str, float]:
    """What MLflow keeps of an epoch; "val/…" are the scores on the validation split.

    A class that the validation split doesn't have has no Dice there, so no value.
    """
    metrics = {
        "train/loss": epoch.train_loss,
        "val/loss": epoch.val_loss,
        "train/lr": epoch.lr,
        "train/images_per_s": epoch.images_per_s,
        "train/epoch_s": epoch.epoch_s,
    }
    metrics |= {f"val/{name}": epoch.scores.metric(name) for name in METRICS}
    for name, dice, drawn in zip(
        class_names, epoch.scores.class_dice_K, epoch.drawn_share_K, strict=True
    ):
        metrics[f"drawn_share/{name}"] = float(drawn)
        if not math.isnan(dice):
            metrics[f"dice/{name}"] = float(dice)
    return metrics


def _prepare_process(cpus: int, use_gpu: bool) -> None:
    """Make a reused worker process as good as new, with its share of the machine's cores."""
    torch.set_num_threads(cpus)
    cv2.setNumThreads(cpus)
    gc.collect()
    if use_gpu:
        torch.cuda.empty_cache()
