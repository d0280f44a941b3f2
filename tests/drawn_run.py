"""A run's folder as a search leaves it, made in seconds: for tests of what reads it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import optuna
import torch

from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.repeats import REPEAT, TRIAL
from search.runs.result import (
    Alternative,
    Cost,
    LeftOutScore,
    PhotoScore,
    SearchResult,
    WeightedTrial,
)
from search.runs.study import open_study
from search.tracking.tracker import Tracker
from search.trials.worker import epoch_metrics, plain_jackknife
from segcore.config import IGNORE_INDEX, TrialConfig, View
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.data.splits import Split
from segcore.inference.blending import Strip
from segcore.inference.scoring import prepared_photograph, score_strips
from segcore.predicting.ensemble import Ensemble, write_bundle
from segcore.scores.intervals import Evaluation, Jackknife, score_interval
from segcore.training.fit import EpochResult, fit
from tests.tiny_space import space

NOWHERE = "http://127.0.0.1:9"
GRACE_EPOCHS, MAX_EPOCHS = 2, 6
CPU = torch.device("cpu")


def draw_run(
    runs: Path, dataset: Path, *, trials: int = 12, planned: int | None = None
) -> RunFolder:
    """A search after ``trials`` of its ``planned`` trials; with all of them, also its result.

    One network is really trained; the trials' scores are multiples of its own.
    """
    planned = planned or trials
    run = RunFolder(runs / "drawn")
    data = prepare_data(dataset, [View(48, 48)], progress=False)
    options = SearchOptions(
        data=str(dataset), space="tests.tiny_space:space", trials=planned,
        max_epochs=MAX_EPOCHS, grace_epochs=GRACE_EPOCHS, out=str(runs),
    )  # fmt: skip
    identity = {"space": "tests.tiny_space:space", "data": data.fingerprint, "metric": "dice"}
    run.write(RunRecord("drawn-1", options, identity))
    config = TrialConfig.from_dict(
        space(
            optuna.trial.FixedTrial({"loss": "ce", "lr": 1e-2, "oversample_ratio": 1.0})
        ).to_dict()
        | {"max_epochs": MAX_EPOCHS}
    )
    epochs = []
    for epoch in fit(config, data):
        epochs.append(epoch)
        epoch.save(run.path / "checkpoint")
    _draw_trials(run, epochs, data, trials, is_over=trials == planned)
    if trials == planned:
        add_result(run, data, [(run.path / "checkpoint", 0.75), (run.path / "checkpoint", 0.25)])
    return run


def _draw_trials(
    run: RunFolder, epochs: list[EpochResult], data: PreparedData, trials: int, *, is_over: bool
) -> None:
    study = open_study(
        run.study, name="drawn", sampler=optuna.samplers.RandomSampler(seed=1), create=True
    )
    tracker = Tracker(
        NOWHERE, experiment="segsearch", search_name="drawn", search_id="drawn-1",
        score="val/dice", outbox=run.outbox,
    )  # fmt: skip
    tracker.start_search({}, {"gpus_per_trial": "0.5", "torch": torch.__version__})
    for number in range(trials):
        trial = study.ask()
        config = space(trial)
        trial.set_user_attr("config", config.to_dict())
        tracker.start_trial(number, config, {})
        share = 0.3 + 0.7 * trial.params["lr"] / 3e-2
        last = MAX_EPOCHS if number % 4 == 0 else GRACE_EPOCHS
        for epoch in epochs[:last]:
            drawn = epoch_metrics(epoch, data.class_names)
            metrics = {key: share * value for key, value in drawn.items()}
            jackknife = Jackknife.of(epoch.scores.counts_P3K, "dice")
            jackknife = dataclasses.replace(jackknife, score_U=share * jackknife.score_U)
            interval = score_interval(epoch.scores.counts_P3K, "dice")
            tracker.log_epoch(number, epoch.epoch, metrics)
            trial.report(metrics["val/dice"], epoch.epoch)
            trial.set_user_attr("interval", [share * interval.low, share * interval.high])
            trial.set_user_attr("jackknife", plain_jackknife(jackknife))
        if number == trials - 1 and trials % 4 == 3:
            continue  # still running
        if number == 5:
            trial.set_user_attr("failure", "the loss became NaN in epoch 3")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            tracker.end_trial(number, "failed", "the loss became NaN in epoch 3")
        elif last == MAX_EPOCHS:
            study.tell(trial, max(study.trials[number].intermediate_values.values()))
            tracker.end_trial(number, "finished")
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            tracker.end_trial(number, "stopped")
    if is_over:
        tracker.end_search("finished")
    tracker.close(timeout_s=0)


def add_repeats(run: RunFolder, scores: dict[int, list[float]]) -> None:
    """Trainings of some trials with other seeds, by what they scored, and one that still runs."""
    run.repeats.path.mkdir()
    study = open_study(run.repeats.study, name="repeats", create=True)
    whole = optuna.distributions.IntDistribution(0, 99)
    pairs = [(trial, repeat) for trial, own in scores.items() for repeat in range(len(own))]
    for trial, repeat in pairs:
        study.enqueue_trial({TRIAL: trial, REPEAT: repeat + 1})
        begun = study.ask({TRIAL: whole, REPEAT: whole})
        begun.report(scores[trial][repeat] - 0.1, 1)
        begun.report(scores[trial][repeat], 2)
        study.tell(begun, scores[trial][repeat] - 0.05)  # a trial is worth its best epoch
    study.ask({TRIAL: whole, REPEAT: whole}).report(0.9, 1)


def add_result(run: RunFolder, data: PreparedData, members: list[tuple[Path, float]]) -> None:
    """The bundle of these checkpoints, and its result, as at a search's end."""
    write_bundle(run.ensemble, members, metric="dice", scores={})
    ensemble = Ensemble.load(run.ensemble, CPU)
    alone = dataclasses.replace(ensemble.members[0], weight=1.0)
    single = dataclasses.replace(ensemble, members=(alone,))
    weights = tuple(WeightedTrial(4 * i, weight) for i, (_, weight) in enumerate(members))
    halves = WeightedTrial(0, 0.5), WeightedTrial(4, 0.5)
    drawn = [
        Alternative(
            name, trials, factors=None, cost=Cost(networks, 0.4 * networks, 2_000_000 * networks),
            left_out=LeftOutScore(left_out, round(0.41 - left_out, 3), 0.006),
            val=_score(model, data, "val"), test=_score(model, data, "test"),
        )
        for name, trials, networks, left_out, model in (
            ("trial 0", (WeightedTrial(0, 1.0),), 1, 0.38, single),
            ("soup of trials 0, 4", halves, 1, 0.39, single),
            ("mean of the best 2", halves, 2, 0.40, ensemble),
            (f"ensemble of {len(members)}", weights, 2, 0.41, ensemble),
        )
    ]  # fmt: skip
    SearchResult(
        metric="dice",
        class_names=data.class_names,
        alternatives=tuple(drawn),
        taken=3,
        prefer="balance",
        why="Ensemble of 2 was taken because it scores best on left-out photographs.",
        candidates=dict.fromkeys(("trial 0", "trial 4", "trial 8"), drawn[-1].val.metrics["dice"]),
        photos=_photos(ensemble, data),
        seconds={"make models of the trials": 12.0, "score the models": 3.0},
    ).write(run.path)


def _strips(ensemble: Ensemble, data: PreparedData, photo: int) -> Iterator[Strip]:
    size_px = data.plans[photo].score_grid
    return ensemble.strips(prepared_photograph(data, photo), size_px=size_px)


def _score(ensemble: Ensemble, data: PreparedData, split: Split) -> Evaluation:
    photos = data.of_split(split).tolist()
    strips = ((photo, strip) for photo in photos for strip in _strips(ensemble, data, photo))
    return Evaluation.of(score_strips(strips, data, CPU))


def _photos(ensemble: Ensemble, data: PreparedData) -> tuple[PhotoScore, ...]:
    found = []
    for photo in data.of_split("test").tolist():
        (strip,) = _strips(ensemble, data, photo)
        truth_HW, probs_KHW = data.score_mask(photo), strip.probs_KHW.numpy()
        right = (probs_KHW.argmax(axis=0) == truth_HW)[truth_HW != IGNORE_INDEX].mean()
        uncertainty = float(1 - probs_KHW.max(axis=0).mean())
        found.append(PhotoScore(data.photos[photo], photo, float(right), uncertainty))
    return tuple(found)
