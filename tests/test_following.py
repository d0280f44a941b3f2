"""What follows a search: its best configurations trained anew, with other seeds and on folds."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from optuna.trial import TrialState

from search import driver
from search.ensembles.following import open_folds, open_repeats, repeated_trials
from search.planning.plan import Plan, make_plan
from search.planning.space import finish
from search.planning.words import show_final_trainings
from search.runs.folder import RunRecord
from search.runs.repeats import read_repeats
from search.runs.rows import TrialRow, read_rows
from search.runs.study import read_study
from segcore.errors import UserError
from tests.drawn_run import draw_run


@pytest.fixture(scope="module")
def plan(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of a search that has ended, without its result."""
    run = draw_run(tmp_path_factory.mktemp("runs"), blocks, trials=6, planned=7)
    options = dataclasses.replace(run.read().options, repeats=2, folds=3, final_trials=2)
    return make_plan(options, run)


@pytest.fixture(scope="module")
def rows(plan: Plan) -> list[TrialRow]:
    return read_rows(read_study(plan.run))


def test_repetitions_are_a_search_whose_trials_are_pairs_that_nothing_stops(
    plan: Plan, rows: list[TrialRow]
) -> None:
    best = [row.number for row in rows[:2]]
    repeats, study = open_repeats(plan, rows)
    assert repeats.run.path == plan.run.path / "repeats" and repeats.name == "drawn · repeats"
    assert [(t.system_attrs["fixed_params"]) for t in study.get_trials()] == [
        {"trial": trial, "repeat": repeat} for trial in best for repeat in (1, 2)
    ]
    options = repeats.options
    assert (options.trials, options.folds) == (4, 1)
    assert options.grace_epochs == options.max_epochs == plan.options.max_epochs
    trial = study.ask()
    config = finish(options, repeats.space.sample(trial), trial.number, follows=True)
    (searched,) = [row.config for row in rows if row.number == best[0]]
    assert searched is not None
    same = {"seed", "max_epochs", "epoch_mpx", "metric"}
    assert config.model_dump(exclude=same) == searched.model_dump(exclude=same)
    used = {finish(plan.options, searched, number).seed for number in range(1000)}
    assert config.seed not in used

    more = dataclasses.replace(plan, options=dataclasses.replace(plan.options, repeats=3))
    again, study = open_repeats(more, rows)
    assert again.options.trials == 6, "the third one of each is added to those that are there"
    assert again.identity["space"] == repeats.identity["space"], "MLflow would refuse another one"


def test_repetitions_that_finished_are_candidates_and_tell_the_seed_noise(
    plan: Plan, rows: list[TrialRow], tmp_path: Path
) -> None:
    shutil.copytree(plan.run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "repeats", ignore_errors=True)
    plan = dataclasses.replace(plan, run=dataclasses.replace(plan.run, path=tmp_path / "run"))
    assert read_repeats(plan.run).noise is None
    repeats, study = open_repeats(plan, rows)
    for score in (0.5, 0.54, None, 0.4):
        trial = study.ask()
        repeats.space.sample(trial)
        if score is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.report(score, 1)
        study.tell(trial, score)
        folder = f"trials/session_1/trial_{trial.number:04d}/checkpoint_000000"
        shutil.copytree(plan.run.path / "checkpoint", repeats.run.path / folder)
    best, second = rows[0].number, rows[1].number
    models = repeated_trials(repeats, study, rows)
    names = [f"trial {best}.1", f"trial {best}.2", f"trial {second}.2"]
    assert [model.name for model in models] == names
    assert [model.training for model in models] == ["repeat_1", "repeat_2", "repeat_2"]
    found = read_repeats(plan.run)
    assert found.scores == {best: [0.5, 0.54], second: [0.4]}
    assert found.noise is not None and found.noise.freedom == 1
    assert found.noise.deviation == pytest.approx(0.04 / 2**0.5)


def test_folds_are_held_out_one_after_the_other(plan: Plan, rows: list[TrialRow]) -> None:
    folds, study = open_folds(plan, rows)
    assert folds.name == "drawn · folds 3" and folds.options.repeats == 0
    trials = [study.ask() for _ in range(6)]
    configs = [folds.space.sample(trial) for trial in trials]
    assert [(config.fold, config.folds) for config in configs] == [(f, 3) for f in (0, 1, 2) * 2]


def test_trainings_on_another_number_of_folds_have_runs_of_their_own_in_mlflow(
    plan: Plan, rows: list[TrialRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would refuse other parameters in the runs of the first ones."""
    found: list[RunRecord] = []

    @contextlib.contextmanager
    def tracked(setup: Any) -> Iterator[MagicMock]:
        found.append(setup.record)
        yield MagicMock()

    monkeypatch.setattr(driver, "_tracked", tracked)
    monkeypatch.setattr(driver, "_run_study", MagicMock())
    record = plan.run.read()
    for folds in (3, 5):
        run = dataclasses.replace(plan.run, path=tmp_path)
        options = dataclasses.replace(plan.options, folds=folds)
        fold_plan, study = open_folds(dataclasses.replace(plan, options=options, run=run), rows)
        setup: Any = driver._Setup(plan, record, "", None, 0, None)  # type: ignore[arg-type]
        driver._train_finals(setup, fold_plan, study, "training on folds")
    first, second = found
    assert first.identity["space"] != second.identity["space"]
    assert first.search_id != second.search_id


def test_what_follows_is_said_before(plan: Plan, rows: list[TrialRow]) -> None:
    assert show_final_trainings(plan.options) == [
        "4 trainings follow: 2 trials with 2 other seeds each",
        "6 trainings follow: 2 trials on 3 folds each",
    ]
    assert plan.options.final_trainings == 10
    unscored = [row for row in rows if row.score is None]
    with pytest.raises(UserError, match="no trial finished an epoch"):
        open_repeats(plan, unscored)
