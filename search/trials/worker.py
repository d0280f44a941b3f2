"""One trial on one worker: fit() → tune.report."""

import faulthandler
import json
import math
import platform
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcore.importing import importing

with importing():
    from ray import tune

    from search.runs.checkpoints import RESULTS, checkpoints
    from search.runs.folder import RECORD
    from search.runs.storage import SHARED, Location, NodeCopy
    from search.trials.slot import ClusterError, prepare_process
    from segcore.config import MetricName
    from segcore.data.prepared import open_prepared
    from segcore.errors import (
        DISK_FULL,
        LostProcessError,
        StorageError,
        TrainingFailedError,
        UserError,
        in_short,
    )
    from segcore.scores.intervals import Jackknife, score_interval
    from segcore.scores.metrics import METRICS
    from segcore.training.fit import EpochResult, fit

JACKKNIFE = "jackknife"
"""In a result that is the best so far: the score without each independent photograph or group, by
which ``search.runs.rows`` compares trials."""


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
    except (ClusterError, StorageError) as error:
        end(fatal=str(error))
    except (TrainingFailedError, UserError) as error:
        end(failure=str(error))
    except LostProcessError:
        raise  # It is tried again, as where this process dies.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            end(fatal=f"the disk is full ({setting.storage}): make room, then resume the search")
        else:
            end(failure=in_short(error), traceback=traceback.format_exc())
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


def _check_storage(storage: Location) -> None:
    if storage.read(RECORD) is None:
        raise ClusterError(f"node {platform.node()} doesn't see {storage}; {SHARED}")
