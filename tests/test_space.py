"""Search spaces: the shipped ones fit their own words, and a user's mistakes are told at once."""

from pathlib import Path

import optuna
import pytest

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
    data = prepare_data(blocks, samples[0].view)
    with pytest.raises(UserError, match="width"):
        check_samples(samples, data)
