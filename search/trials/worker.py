"""One trial on one worker: fit() → tune.report."""

import faulthandler
import gc
import json
import math
import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from ray import tune
from threadpoolctl import threadpool_limits

from search.runs.folder import RECORD
from search.runs.storage import SHARED, Location, NodeCopy
from segcore.config import MetricName
from segcore.data.prepared import open_prepared
from segcore.devices import choose_device
from segcore.errors import DISK_FULL, StorageError, TrainingFailedError, UserError
from segcore.scores.intervals import Jackknife, score_interval
from segcore.scores.metrics import METRICS
from segcore.training import checkpoint
from segcore.training.checkpoint import CheckpointInfo
from segcore.training.fit import EpochResult, fit

RESULTS = "results.json"
"""Beside a checkpoint, everything that was reported up to its epoch."""

JACKKNIFE = "jackknife"
"""In a result that is the best so far: the score without each independent photograph or group, by
which ``search.leaderboard`` compares trials."""

AGAIN = "_again_"
"""In the name of a trial's folder where a session of Ray had to try it several times."""

PRETEND_GPUS = "SEGSEARCH_PRETEND_GPUS"
"""Set where Ray was told of GPUs that don't exist, to try a cluster: trials run on the CPU."""


@dataclass(frozen=True)
class TrialSetting:
    """What all trials of a search have in common."""

    storage: Location
    """The run's home: its record, its trials' checkpoints."""
    data: NodeCopy
    weights: NodeCopy
    metric: MetricName
    """What is maximised."""
    cpus: int
    gpus: float
    hang_timeout_s: float
    """A worker that needs longer than this for an epoch ends itself."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint, wherever it lies."""

    location: Location
    info: CheckpointInfo

    def local(self, folder: Path) -> Path:
        """The checkpoint on this machine: where it is, or else fetched into ``folder``."""
        if self.location.is_local:
            return Path(self.location.path)
        self.location.fetch(folder)
        return folder


def run_trial(assignment: dict[str, Any], *, setting: TrialSetting) -> None:
    """Train what ``StudySearcher`` assigned, reporting and keeping a checkpoint after each epoch.

    The trial goes on where it was, in this session of Ray or an earlier one. What fails by the
    configuration's own fault is reported as ``failure`` instead of raised: what raises is tried
    again, and that is for workers that died. What no trial could do here is reported as ``fatal``.
    """
    results: list[dict[str, Any]] = []

    def end(**why: str) -> None:
        _report({"epoch": len(results), "finished": False, **why}, None, setting)

    watch_for_hang(setting.hang_timeout_s)
    try:
        _check_storage(setting.storage)
        _train(assignment, setting, results)
    except (_ClusterError, StorageError) as error:
        end(fatal=str(error))
    except (TrainingFailedError, UserError) as error:
        end(failure=str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            end(fatal=f"the disk is full ({setting.storage}): make room, then resume the search")
        else:
            failure = f"{type(error).__name__}: {error}"
            end(failure=failure, traceback=traceback.format_exc())
    finally:
        faulthandler.cancel_dump_traceback_later()


def _train(
    assignment: dict[str, Any], setting: TrialSetting, results: list[dict[str, Any]]
) -> None:
    """Train to the end, adding each epoch's result to ``results``, with those of before."""
    device = prepare_process(setting.cpus, setting.gpus)
    data = open_prepared(setting.data.folder())
    with tempfile.TemporaryDirectory() as folder:
        epochs = fit(
            assignment["config"],
            data,
            device=device,
            resume_from=_catch_up(assignment, setting, results, Path(folder)),
            weights_dir=setting.weights.folder(),
            loader_workers=setting.cpus if device.type != "cpu" else 0,
        )
        for epoch in epochs:
            add_result(results, epoch, data.class_names, setting.metric)
            with tempfile.TemporaryDirectory() as new:
                (Path(new) / RESULTS).write_text(json.dumps(results))
                epoch.save(Path(new))
                _report(results[-1], Path(new), setting)


def _catch_up(
    assignment: dict[str, Any],
    setting: TrialSetting,
    results: list[dict[str, Any]],
    folder: Path,
) -> Path | None:
    """Fetch the newest checkpoint into ``folder``, and report its epochs that nobody heard of.

    A checkpoint is in storage before its result is on its way: a driver or a worker that dies in
    between leaves it behind. Fills ``results`` with those up to the checkpoint.
    """
    found = checkpoints(setting.storage / "trials", assignment["trial_number"])
    usable = (stored for stored in found if stored.info.config == assignment["config"])
    newest = max(usable, key=lambda stored: stored.info.epoch, default=None)
    if newest is None:
        return None
    newest.location.fetch(folder)
    results += json.loads((folder / RESULTS).read_text())
    for result in results[assignment["known_epochs"] :]:
        _report(result, folder if result is results[-1] else None, setting)
    return folder


def _report(result: dict[str, Any], folder: Path | None, setting: TrialSetting) -> None:
    """Report an epoch, with the checkpoint in ``folder``; returns when the trial is to go on."""
    kept = None if folder is None else tune.Checkpoint.from_directory(folder)
    # A trial that is stopped here waits until its worker gets another one.
    faulthandler.cancel_dump_traceback_later()
    tune.report(result, checkpoint=kept)
    watch_for_hang(setting.hang_timeout_s)


def watch_for_hang(timeout_s: float) -> None:
    """End this process unless it reports in time; where it hangs is written to its log.

    faulthandler's watch needs neither Python's lock nor the thread that hangs.
    """
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=2)


def trial_name(number: int) -> str:
    """Name of a trial, and of its folder in a session."""
    return f"trial_{number:04d}"


def folder_name(number: int, attempt: int) -> str:
    """Name of the folder of a session's attempt at a trial, the first of which is 1."""
    return trial_name(number) if attempt == 1 else f"{trial_name(number)}{AGAIN}{attempt}"


def trial_folders(trials: Location) -> Iterator[tuple[str, Location]]:
    """Each trial's name with its folder, for all sessions and attempts."""
    for session in trials.folders():
        for folder in (trials / session).folders():
            yield folder.partition(AGAIN)[0], trials / session / folder


def checkpoints(trials: Location, number: int) -> Iterator[StoredCheckpoint]:
    """A trial's complete checkpoints of all sessions."""
    for trial, folder in trial_folders(trials):
        if trial != trial_name(number):
            continue
        sizes: dict[str, dict[str, int]] = {}
        for path, size in folder.files().items():
            name, _, file = path.partition("/")
            if file and name.startswith("checkpoint_"):
                sizes.setdefault(name, {})[file] = size
        for name, files in sizes.items():
            location = folder / name
            manifest = location.read(checkpoint.MANIFEST)
            try:
                info = checkpoint.parse_manifest(manifest or b"", files, str(location))
            except UserError:
                continue  # cut off while it was written
            yield StoredCheckpoint(location, info)


def kept_results(trials: Location, number: int) -> dict[int, dict[str, Any]]:
    """What a trial reported, by epoch, as far as its newest checkpoint tells."""
    newest = max(checkpoints(trials, number), key=lambda stored: stored.info.epoch, default=None)
    text = newest.location.read(RESULTS) if newest else None
    return {result["epoch"]: result for result in json.loads(text or b"[]")}


def best_checkpoint(trials: Location, number: int) -> StoredCheckpoint | None:
    """The checkpoint with the best score on the validation split, the earlier of equals."""
    found = sorted(checkpoints(trials, number), key=lambda stored: stored.info.epoch)
    return max(found, key=lambda stored: stored.info.score, default=None)


def add_result(
    results: list[dict[str, Any]],
    epoch: EpochResult,
    class_names: Sequence[str],
    metric: MetricName,
) -> None:
    """Add an epoch's result to those before.

    Beside ``epoch_metrics``, "…_low" and "…_high" are the ends of the 95 % interval of the score
    that is maximised. Only the best result keeps ``JACKKNIFE``: those of all would fill the disk.
    """
    scores = epoch.scores
    interval = score_interval(scores.counts_P3K, metric, scores.groups)
    score, value = f"val/{metric}", interval.value
    is_best = math.isfinite(value) and not any(result[score] >= value for result in results)
    results.append(
        {
            "epoch": epoch.epoch,
            "finished": epoch.finished,
            **epoch_metrics(epoch, class_names),
            f"{score}_low": interval.low,
            f"{score}_high": interval.high,
        }
    )
    if is_best:
        for result in results:
            result.pop(JACKKNIFE, None)
        jackknife = Jackknife.of(scores.counts_P3K, metric, scores.groups)
        results[-1][JACKKNIFE] = plain_jackknife(jackknife)


def plain_jackknife(jackknife: Jackknife) -> list[float]:
    """What a result has under ``JACKKNIFE``."""
    return jackknife.score_U.round(7).tolist()


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
        "train/validation_s": epoch.val_s,
        "train/micro_batch_size": float(epoch.micro_batch_size),
    }
    metrics |= {f"val/{name}": epoch.scores.metric(name) for name in METRICS}
    for name, dice, drawn in zip(
        class_names, epoch.scores.class_dice_K, epoch.drawn_share_K, strict=True
    ):
        metrics[f"drawn_share/{name}"] = float(drawn)
        if not math.isnan(dice):
            metrics[f"dice/{name}"] = float(dice)
    return metrics


class _ClusterError(Exception):
    """No trial can run on this node."""


def _check_storage(storage: Location) -> None:
    if storage.read(RECORD) is None:
        raise _ClusterError(f"node {platform.node()} doesn't see {storage}; {SHARED}")


def prepare_process(cpus: int, gpus: float) -> torch.device:
    """Make a reused worker process as good as new, with its share of the node; its device.

    torch, OpenCV, OpenMP and BLAS get ``cpus`` threads. A share of a GPU is a limit on its memory
    too, so that a greedy trial runs out of memory itself instead of its neighbour.
    """
    torch.set_num_threads(cpus)
    cv2.setNumThreads(cpus)
    threadpool_limits(cpus)
    os.environ["OMP_NUM_THREADS"] = str(cpus)  # for processes that this one starts
    gc.collect()
    if gpus == 0 or os.environ.get(PRETEND_GPUS):
        return torch.device("cpu")
    device = choose_device()
    if device.type == "cpu":
        raise _ClusterError(
            f"node {platform.node()} has a GPU by Ray's word, but torch finds none; check its "
            "driver with nvidia-smi, or search with --gpus-per-trial 0"
        )
    memory = torch.mps if device.type == "mps" else torch.cuda
    memory.empty_cache()
    memory.set_per_process_memory_fraction(min(gpus, 1.0))
    return device
