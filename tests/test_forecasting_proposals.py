"""Configurations drawn and mutated by calling a space: its conditions are plain Python."""

import numpy as np
from optuna.trial import BaseTrial

from search.forecasting.proposals import Proposal, draw, mutate


def space(trial: BaseTrial) -> dict[str, object]:
    loss = trial.suggest_categorical("loss", ["ce", "focal"])
    if loss == "focal":
        trial.suggest_float("gamma", 0.5, 5.0)
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    layers = trial.suggest_int("layers", 1, 4)
    return {"loss": loss, "lr": lr, "layers": layers}


def is_valid(proposal: Proposal) -> bool:
    params = dict(proposal.params)
    names = {"loss", "lr", "layers"} | ({"gamma"} if params["loss"] == "focal" else set())
    return (
        params.keys() == names == proposal.distributions.keys()
        and 0.5 <= params.get("gamma", 1) <= 5
        and 1e-5 <= params["lr"] <= 1e-1
        and params["layers"] in (1, 2, 3, 4)
    )


def test_drawn_configurations_have_the_parameters_that_their_choices_ask_for() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw(space, rng) for _ in range(200)]
    assert all(is_valid(proposal) for proposal in drawn)
    assert {proposal.params["loss"] for proposal in drawn} == {"ce", "focal"}
    assert {proposal.params["layers"] for proposal in drawn} == {1, 2, 3, 4}
    assert np.median([proposal.params["lr"] for proposal in drawn]) < 1e-2


def test_given_values_are_answered_where_the_space_asks_and_allows_them() -> None:
    given = {"loss": "ce", "lr": 7.0, "layers": 3, "gamma": 2.0, "unknown": 1}
    proposal = draw(space, np.random.default_rng(0), given)
    assert proposal.params == {"loss": "ce", "lr": 1e-1, "layers": 3}
    odd = draw(space, np.random.default_rng(0), {"loss": "gone"})
    assert is_valid(odd)


def test_mutants_are_neighbours_that_the_space_can_make() -> None:
    rng = np.random.default_rng(1)
    parent = draw(space, rng, {"loss": "ce", "lr": 1e-3, "layers": 2})
    mutants = [mutate(space, rng, parent) for _ in range(300)]
    assert all(is_valid(mutant) for mutant in mutants)
    kept = [
        sum(mutant.params.get(name) == value for name, value in parent.params.items())
        for mutant in mutants
    ]
    assert np.mean(kept) > 1.5
    assert {mutant.params["loss"] for mutant in mutants} == {"ce", "focal"}
    moved = [abs(np.log10(mutant.params["lr"]) + 3) for mutant in mutants]
    assert 0 < np.mean(moved) < 1


def test_a_space_may_ask_twice_and_keep_notes() -> None:
    def asking_twice(trial: BaseTrial) -> bool:
        trial.set_user_attr("note", 1)
        lr = trial.suggest_float("lr", 0, 1)
        return trial.user_attrs == {"note": 1} and trial.suggest_float("lr", 0, 1) == lr

    rng = np.random.default_rng(2)
    answers: list[bool] = []
    draw(lambda trial: answers.append(asking_twice(trial)), rng)
    assert answers == [True]


def test_older_names_draw_as_optunas_own_do() -> None:
    def of_old(trial: BaseTrial) -> object:
        rate = trial.suggest_loguniform("rate", 1e-6, 1.0)
        momentum = trial.suggest_uniform("momentum", 0.0, 1.0)
        return rate, momentum, trial.suggest_discrete_uniform("dropout", 0.0, 0.4, 0.2)

    rng = np.random.default_rng(3)
    drawn = [draw(of_old, rng).params for _ in range(200)]
    assert 1e-4 < np.median([params["rate"] for params in drawn]) < 1e-2
    assert 0.4 < np.median([params["momentum"] for params in drawn]) < 0.6
    assert {round(params["dropout"], 6) for params in drawn} == {0.0, 0.2, 0.4}
