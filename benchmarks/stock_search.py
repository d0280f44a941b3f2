"""A search as one writes it with Ray Tune alone, for ``benchmarks.real_search``.

``OptunaSearch`` and ``ASHAScheduler`` are as they come. Space, data and training are those of a
search of ours.
"""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from optuna.trial import BaseTrial, FixedTrial
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.real_curves import test_score
from search.planning.plan import find_dataset, prepare_searched
from search.planning.space import Space, finish, load_space, sample_space
from search.runs.options import SearchOptions
from search.trials.slot import prepare_process
from segcore.cores import usable_cores
from segcore.data.objects import look_at
from segcore.data.prepared import open_prepared
from segcore.training.fit import fit

SCORE = "score"


class Curves(tune.Callback):
    """Writes down what trials report."""

    def __init__(self) -> None:
        self.of_trial: dict[str, dict[str, Any]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """After each epoch."""
        curve = self.of_trial.setdefault(
            trial.trial_id, {"params": dict(trial.config), "scores": []}
        )
        curve["scores"].append(result[SCORE])


def by_stock(options: SearchOptions) -> dict[str, Any]:
    """What Ray Tune finds with its own sampler and scheduler."""
    data_folder = find_dataset(options.data)
    space = load_space(options.space, lambda: look_at(data_folder))
    prepared = prepare_searched(data_folder, options, sample_space(space, options)).folder

    curves = Curves()
    ray.init("local", num_cpus=usable_cores(), include_dashboard=False)  # and no other search's
    tuner = tune.Tuner(
        tune.with_resources(
            partial(train, space=space, options=options, prepared=prepared),
            {"CPU": options.cpus_per_trial or 1, "GPU": options.gpus_per_trial or 0},
        ),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                partial(ask, space), metric=SCORE, mode="max", seed=options.seed
            ),
            scheduler=ASHAScheduler(metric=SCORE, mode="max", max_t=options.max_epochs),
            num_samples=-1,
            max_concurrent_trials=options.parallel,
            time_budget_s=options.time_budget_s,
        ),
        run_config=tune.RunConfig(
            storage_path=options.out,
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
            ),
            callbacks=[curves],
            verbose=1,
        ),
    )
    results = tuner.fit()
    best = results.get_best_result(SCORE, "max", scope="all")
    checkpoint = best.get_best_checkpoint(SCORE, "max")
    assert checkpoint is not None
    test = test_score(Path(checkpoint.path), prepared, options.metric)
    return {
        "single_val": max(max(curve["scores"]) for curve in curves.of_trial.values()),
        "single_test": test,
        "chosen_test": test,
        "curves": list(curves.of_trial.values()),
    }


def ask(space: Space, trial: BaseTrial) -> None:
    """A configuration's parameters, of which stock Ray Tune makes the trial's."""
    space.sample(trial)


def train(
    params: Mapping[str, Any], *, space: Space, options: SearchOptions, prepared: Path
) -> None:
    """A trial of stock Ray Tune."""
    cpus = options.cpus_per_trial or 1
    device = prepare_process(cpus, options.gpus_per_trial or 0)
    config = finish(options, space.sample(FixedTrial(dict(params))), 0)
    workers = cpus if device.type != "cpu" else 0
    for epoch in fit(config, open_prepared(prepared), device=device, loader_workers=workers):
        with tempfile.TemporaryDirectory() as folder:
            epoch.save(Path(folder))
            score = epoch.scores.metric(options.metric)
            tune.report({SCORE: score}, checkpoint=tune.Checkpoint.from_directory(folder))
