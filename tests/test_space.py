"""Search spaces: the shipped ones fit their own words, and a user's mistakes are told at once."""

import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.planning.plan import check_samples, prepare_searched
from search.planning.space import Space, check_baselines, finish, load_space, sample_space
from search.runs.options import SearchOptions
from segcore.config import TrialConfig
from segcore.data.preparing import prepare_data
from segcore.errors import UserError
from segcore.facts import DataFacts, ObjectSizes
from tests.conftest import FACTS

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
    shipped = load_space(path, lambda: FACTS)
    check_baselines(shipped)
    assert shipped.baselines


@pytest.mark.parametrize("path", SHIPPED)
def test_a_hyperparameter_has_one_name_from_the_space_to_mlflow(path: str) -> None:
    shipped = load_space(path, lambda: FACTS)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        trial = study.ask()
        flat = shipped.sample(trial).flat()
        for name, value in trial.params.items():
            # A choice that depends on another has its own name: segformer_encoder.
            assert flat[name if name in flat else name.rpartition("_")[2]] == value, name


@pytest.mark.parametrize("path", SHIPPED)
def test_sampling_finds_every_network_that_a_space_can_name(path: str) -> None:
    shipped = load_space(path, lambda: FACTS)
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
    options = SearchOptions(max_epochs=9, metric="iou", seed=2, epoch_megapixels=1.5)
    config = TrialConfig(model_kwargs={"depth": 2}).model_copy(update={"lr": 0.5})
    finished = finish(options, config, 7)
    assert (finished.max_epochs, finished.metric, finished.seed) == (9, "iou", 2_000_007)
    assert finished.epoch_mpx == 1.5
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
    data = prepare_data(blocks, [samples[0].view])
    with pytest.raises(UserError, match="width"):
        check_samples(samples, data)


def views_space(trial: optuna.Trial) -> TrialConfig:
    """Two kinds of networks, each with sizes and scales of its own."""
    side_px = trial.suggest_int("side_px", 32, 96, step=32)
    if trial.suggest_categorical("kind", ["wide", "deep"]) == "wide":
        scale = 2 ** trial.suggest_float("log_scale", -2.0, -0.5)
    else:
        scale = trial.suggest_float("deep_scale", 0.3, 0.9) * trial.suggest_float("more", 0.5, 1.0)
    return TrialConfig(
        height_px=side_px,
        width_px=side_px,
        scale=scale,
        batch_size=trial.suggest_int("batch_size", 2, 16),
        architecture="scratch_unet",
        encoder=None,
        model_kwargs={"base_channels": 4, "depth": 2},
    )


def test_sampling_finds_the_extremes_of_what_a_space_can_ask_for() -> None:
    samples = sample_space(Space("mylab:space", views_space, (), ""), SearchOptions())
    scales = [config.scale for config in samples if config.scale is not None]
    assert (min(scales), max(scales)) == (0.3 * 0.5, 0.9)
    assert {config.height_px for config in samples} == {32, 64, 96}
    assert min(config.batch_size for config in samples) == 2
    assert len(samples) < 12, "scales don't multiply the networks"


def test_a_ground_size_has_extremes_too_and_squeezed_sizes_are_all_found() -> None:
    def mixed(trial: optuna.Trial) -> TrialConfig:
        if trial.suggest_categorical("whole", [True, False]):
            side_px = trial.suggest_categorical("squeezed_px", [48, 64, 80])
            return TrialConfig(height_px=side_px, width_px=side_px)
        return TrialConfig(metres_per_px=trial.suggest_float("metres", 0.05, 0.8, log=True))

    samples = sample_space(Space("mylab:space", mixed, (), ""), SearchOptions())
    metres = [config.metres_per_px for config in samples if config.metres_per_px is not None]
    assert (min(metres), max(metres)) == (0.05, 0.8)
    assert {c.height_px for c in samples if c.view.is_whole} == {48, 64, 80}


def test_a_ground_size_for_photographs_without_a_place_is_refused(
    blocks: Path, tmp_path: Path
) -> None:
    samples = [TrialConfig(metres_per_px=0.1)]
    with pytest.raises(UserError, match=r"metres_per_px 0\.1: .*no georeference"):
        prepare_searched(blocks, SearchOptions(), samples, progress=False)


def test_a_network_is_checked_with_each_size_of_its_window(blocks: Path) -> None:
    samples = sample_space(Space("mylab:space", views_space, (), ""), SearchOptions())
    data = prepare_searched(blocks, SearchOptions(), samples, progress=False)
    networks = check_samples(samples, data)
    assert [(config.height_px, config.batch_size) for config in networks] == [
        (32, 2), (64, 2), (96, 2),
    ]  # fmt: skip


def test_of_many_sizes_some_are_checked_with_the_smallest_and_the_largest(blocks: Path) -> None:
    samples = [
        TrialConfig(
            height_px=height_px, width_px=width_px, scale=1.0, architecture="scratch_unet",
            encoder=None, model_kwargs={"base_channels": 4, "depth": 2},
        )
        for height_px in range(32, 80, 8) for width_px in range(32, 80, 8)
    ]  # fmt: skip
    networks = check_samples(samples, prepare_data(blocks, [samples[0].view], progress=False))
    sizes = [(config.height_px, config.width_px) for config in networks]
    assert len(sizes) == 8 and sizes[0] == (32, 32) and sizes[-1] == (72, 72)


def test_one_cache_serves_all_views_and_trials_are_scored_on_the_finest(blocks: Path) -> None:
    samples = sample_space(Space("mylab:space", views_space, (), ""), SearchOptions())
    data = prepare_searched(blocks, SearchOptions(), samples, progress=False)
    assert {plan.levels[0] for plan in data.plans} == {(58, 58)}  # 0.9 of 64
    assert {plan.score_grid for plan in data.plans} == {(58, 58)}
    options = SearchOptions(score_scale=0.5)
    other = prepare_searched(blocks, options, samples, progress=False)
    assert {plan.score_grid for plan in other.plans} == {(32, 32)}
    assert other.fingerprint != data.fingerprint, "scores can't be compared"


def of_data(trial: optuna.trial.BaseTrial, data: DataFacts) -> TrialConfig:
    coarsest, finest = data.objects.scale_bounds()
    return TrialConfig(scale=trial.suggest_float("scale", coarsest, finest))


def test_a_space_of_two_arguments_learns_about_the_data() -> None:
    space = load_space(f"{__name__}:of_data", lambda: FACTS)
    scales = [config.scale for config in sample_space(space, SearchOptions())]
    assert {min(scales), max(scales)} == {0.125, 1.0}


def test_a_space_of_one_argument_asks_for_nothing_about_the_data() -> None:
    def fail() -> DataFacts:
        raise AssertionError("looked at the data")

    load_space("spaces.quick", fail)


def test_the_full_space_takes_its_scales_from_the_objects() -> None:
    large = replace(FACTS, objects=ObjectSizes((9, 9, 9), (800.0, 640.0, 160.0)))
    for facts, bounds in ((FACTS, (0.125, 1.0)), (large, (0.05, 0.1))):
        space = load_space("spaces.aerial", lambda facts=facts: facts)
        check_baselines(space)
        assert space.baselines[0]["scale"] == bounds[1]
        scales = [config.scale for config in sample_space(space, SearchOptions())]
        assert (min(scales), max(scales)) == pytest.approx(bounds)


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
