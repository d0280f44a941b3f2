"""Search spaces: the shipped ones fit their own words, and a user's mistakes are told at once."""

import math
from enum import StrEnum
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.planning.plan import check_samples
from search.planning.space import Space, check_baselines, finish, load_space, sample_space
from search.runs.options import SearchOptions
from segcore.config import TrialConfig
from segcore.data.preparing import prepare_data
from segcore.errors import UserError

SHIPPED = ["spaces.quick", "spaces.competition", "spaces.aerial"]


def space(trial: optuna.Trial) -> TrialConfig:
    loss = trial.suggest_categorical("loss", ["ce", "focal"])
    gamma = {"gamma": trial.suggest_float("focal_gamma", 0.5, 5.0)} if loss == "focal" else {}
    return TrialConfig(
        loss=loss,
        loss_kwargs=gamma,
        lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        batch_size=trial.suggest_int("batch_size", 2, 16, step=2),
    )


@pytest.mark.parametrize("path", SHIPPED)
def test_the_baselines_of_shipped_spaces_fit(path: str) -> None:
    shipped = load_space(path)
    check_baselines(shipped)
    assert shipped.baselines


@pytest.mark.parametrize("path", SHIPPED)
def test_a_hyperparameter_has_one_name_from_the_space_to_mlflow(path: str) -> None:
    shipped = load_space(path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        trial = study.ask()
        flat = shipped.sample(trial).flat()
        for name, value in trial.params.items():
            # A choice that depends on another has its own name: segformer_encoder.
            assert flat[name if name in flat else name.rpartition("_")[2]] == value, name


@pytest.mark.parametrize("path", SHIPPED)
def test_sampling_finds_every_network_that_a_space_can_name(path: str) -> None:
    shipped = load_space(path)
    found = {(c.architecture, c.encoder) for c in sample_space(shipped, SearchOptions())}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=99))
    more = {(c.architecture, c.encoder) for c in (shipped.sample(study.ask()) for _ in range(1000))}
    assert more <= found


def test_baselines_that_do_not_fit_are_listed_at_once_with_what_would() -> None:
    good = {"loss": "ce", "lr": 1e-3, "batch_size": 4}
    baselines = (
        good,
        {"loss": "ce", "learning_lr": 1e-3, "batch_size": 4},
        good | {"lr": 5.0},
        good | {"loss": "fokal"},
        good | {"batch_size": 5},
        good | {"focal_gamma": 2.0},
        good | {"batchsize": 4},
        {"loss": "focal", "lr": 1e-3, "batch_size": 4},
    )
    with pytest.raises(UserError) as caught:
        check_baselines(Space("mylab:space", space, baselines, ""))
    assert str(caught.value).splitlines()[1:] == [
        "  baseline 1: no value for 'lr' → add one: 0.0001 to 0.1",
        "  baseline 2: lr = 5.0 → allowed: 0.0001 to 0.1",
        "  baseline 3: loss = 'fokal' → allowed: one of ce, focal",
        "  baseline 4: batch_size = 5 → allowed: 2 to 16 in steps of 2",
        "  baseline 5: 'focal_gamma' belongs to no parameter → one of batch_size, loss, lr",
        "  baseline 6: 'batchsize' belongs to no parameter → one of batch_size",
        "  baseline 7: no value for 'focal_gamma' → add one: 0.5 to 5.0",
    ]


def test_a_space_that_fails_tells_with_which_values() -> None:
    def broken(trial: optuna.Trial) -> TrialConfig:
        return TrialConfig(lr=trial.suggest_float("lr", -2.0, -1.0))

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with pytest.raises(UserError, match=r"lr = -1\.\d+: should be greater than 0; sampled so far"):
        Space("mylab:broken", broken, (), "").sample(study.ask())


def test_what_a_space_copied_unchecked_is_checked_with_what_the_search_decides() -> None:
    options = SearchOptions(max_epochs=9, metric="iou", seed=2)
    config = TrialConfig(model_kwargs={"depth": 2}).model_copy(update={"lr": 0.5})
    finished = finish(options, config, 7)
    assert (finished.max_epochs, finished.metric, finished.seed) == (9, "iou", 2_000_007)
    assert (finished.model_kwargs, finished.lr) == ({"depth": 2}, 0.5)
    with pytest.raises(UserError, match="lr = -1"):
        finish(options, config.model_copy(update={"lr": -1}), 7)
    with pytest.raises(UserError, match="leaves nothing of max_epochs 9"):
        finish(options, config.model_copy(update={"warmup_epochs": 9}), 7)


def test_a_space_must_return_a_configuration() -> None:
    study = optuna.create_study()
    with pytest.raises(UserError, match="gave dict; it must return a TrialConfig"):
        Space("mylab:space", lambda trial: {}, (), "").sample(study.ask())  # type: ignore[arg-type, return-value]


def test_networks_of_one_name_are_each_checked_with_their_own_settings(blocks: Path) -> None:
    samples = [
        TrialConfig(
            height_px=48,
            width_px=48,
            architecture="scratch_unet",
            encoder=None,
            model_kwargs=kwargs,
        )
        for kwargs in ({"width": 1}, {"base_channels": 4, "depth": 2})
    ]
    data = prepare_data(blocks, samples[0].preparation)
    with pytest.raises(UserError, match="width"):
        check_samples(samples, data)


class Thing:
    def __repr__(self) -> str:
        return "Thing()"


UNSTORABLE = [(1e-3, 1e-4), [1e-3, 1e-4], {"lr": 1e-3}, Thing(), np.int64(2), b"x", {"a"}]


@pytest.mark.parametrize("choice", UNSTORABLE, ids=lambda choice: type(choice).__name__)
@pytest.mark.parametrize("where", ["always", "in a rare branch", "before a bug"])
def test_a_choice_that_the_study_can_not_keep_is_refused_in_one_line(
    choice: object, where: str, recwarn: pytest.WarningsRecorder
) -> None:
    def odd(trial: optuna.Trial) -> TrialConfig:
        rare = trial.suggest_float("dropout", 0.0, 1.0)
        if where != "in a rare branch" or rare > 0.99:
            trial.suggest_categorical("lr_wd", [None, True, 1, 0.5, "adamw", choice])
            if where == "before a bug":
                raise IndexError(0)
        return TrialConfig()

    with pytest.raises(UserError) as caught:
        sample_space(Space("odd", odd, (), ""), SearchOptions())
    said = str(caught.value)
    assert said.startswith(f"space odd: lr_wd has the choice {choice!r}; allowed are None, bool,")
    assert "\n" not in said and not recwarn.list

    baselines = ({"dropout": 0.995, "lr_wd": choice},)
    with pytest.raises(UserError, match="lr_wd has the choice") as caught:
        check_baselines(Space("odd", odd, baselines, ""))
    assert not recwarn.list


def test_choices_of_the_allowed_types_come_back_from_a_study_on_disk(tmp_path: Path) -> None:
    class Loss(StrEnum):
        CE = "ce"

    choices = [None, True, 3, 0.5, math.nan, math.inf, "adamw", Loss.CE, np.float64(1.5)]

    def every(trial: optuna.Trial) -> TrialConfig:
        trial.suggest_categorical("any", choices)
        return TrialConfig()

    for _ in range(2):  # as by a search that is resumed
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        for _ in range(4):
            trial = study.ask()
            Space("all", every, (), "").sample(trial)
            study.tell(trial, 0.5)
    assert len(study.trials) == 8


def test_a_branch_of_the_space_that_is_seldom_taken_is_sampled_on() -> None:
    def deep(trial: optuna.Trial) -> TrialConfig:
        depth = 0
        while depth < 7 and trial.suggest_categorical(f"deeper_{depth}", [False, True]):
            depth += 1
        return TrialConfig(loss="focal" if depth == 7 else "ce")

    found = sample_space(Space("deep", deep, (), ""), SearchOptions())
    assert {config.loss for config in found} == {"ce", "focal"}
