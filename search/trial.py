"""One trial on one worker: fit() → tune.report."""

import gc
import json
import math
import tempfile
import traceback
from collections.abc import Mapping, Sequence
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

RESULT = "result.json"
"""Beside a checkpoint, what was reported with it."""


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

    Goes on where the trial was, in this session of Ray or an earlier one. What fails by the
    configuration's own fault is reported as ``failure`` instead of raised: Ray tries again what
    raises, and that is for workers that died.
    """
    config = TrialConfig.from_dict(assignment["config"])
    _prepare_process(cpus, use_gpu)
    done = 0
    try:
        done, resume_from = _catch_up(
            checkpoints(trials_folder, assignment["trial_number"]), assignment["known_epochs"]
        )
        data = open_prepared(data_folder)
        epochs = fit(
            config,
            data,
            device=torch.device("cuda" if use_gpu else "cpu"),
            resume_from=resume_from,
            weights_dir=weights_dir,
            loader_workers=cpus if use_gpu else 0,
        )
        for epoch in epochs:
            done = epoch.epoch
            metrics = epoch_metrics(epoch, data.class_names)
            result = {"epoch": done, "finished": epoch.finished, **metrics}
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / RESULT).write_text(json.dumps(result))
                epoch.save(Path(folder))
                tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))
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


def checkpoints(trials_folder: Path, number: int) -> dict[int, Path]:
    """A trial's complete checkpoints of all sessions, by epoch."""
    folders = trials_folder.glob(f"*/{trial_name(number)}/checkpoint_*")
    complete = (folder for folder in folders if checkpoint.is_complete(folder))
    return {checkpoint.load_info(folder).epoch: folder for folder in complete}


def best_checkpoint(trials_folder: Path, number: int) -> Path | None:
    """The checkpoint with the best score on the validation split, the earlier of equals."""
    found = sorted(checkpoints(trials_folder, number).items())
    return max(
        (folder for _, folder in found), key=lambda f: checkpoint.load_info(f).score, default=None
    )


def _catch_up(found: Mapping[int, Path], known_epochs: int) -> tuple[int, Path | None]:
    """Report the epochs that have a checkpoint, but whose results nobody heard of.

    A checkpoint is on disk before its result is on its way: a driver or a worker that dies in
    between leaves it behind. Gives the epoch to go on from, and its checkpoint.
    """
    heard = tune.get_checkpoint()
    if heard is not None:  # this session's trial, on a new worker
        known_epochs = max(known_epochs, checkpoint.load_info(Path(heard.path)).epoch)
    while known_epochs + 1 in found:
        known_epochs += 1
        folder = found[known_epochs]
        result = json.loads((folder / RESULT).read_text())
        tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))
    done = max((epoch for epoch in found if epoch <= known_epochs), default=0)
    return done, found.get(done)


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
