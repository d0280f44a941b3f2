"""A model that a search may choose, and the trials that it considers for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from search.planning.plan import Plan
from search.runs.rows import TrialRow
from search.trials.keeping import choose_candidates
from search.trials.worker import StoredCheckpoint, best_checkpoint
from segcore.errors import UserError

WeightedNetworks = list[tuple[StoredCheckpoint, float]]
"""Networks with the weights of their probabilities, which sum to 1."""


@dataclass(frozen=True)
class Model:
    """A model that may be chosen: one trial, or the weighted mean of several trials."""

    name: str
    """For people, such as "trial 7"."""
    trials: dict[int, float]
    """The weight of each trial, by its number. The weights sum to 1."""
    networks: dict[int, tuple[StoredCheckpoint, ...]]
    """Of each trial its network; with --folds one for each fold, which was validated there."""

    @classmethod
    def of_trial(cls, number: int, networks: Sequence[StoredCheckpoint]) -> "Model":
        """One trial alone."""
        return cls(f"trial {number}", {number: 1.0}, {number: tuple(networks)})

    @classmethod
    def mean_of(cls, name: str, trials: Sequence["Model"], weights: Sequence[float]) -> "Model":
        """The weighted mean of trials without those of weight 0; a trial alone stays what it is."""
        pairs = [(trial, weight) for trial, weight in zip(trials, weights, strict=True) if weight]
        if len(pairs) == 1:
            return pairs[0][0]
        return cls(
            name,
            {trial.number: weight for trial, weight in pairs},
            {trial.number: trial.networks[trial.number] for trial, _ in pairs},
        )

    @property
    def number(self) -> int:
        """The number of the trial, or of the first one."""
        return next(iter(self.trials))

    @property
    def folds(self) -> int:
        """How many networks each trial has."""
        return len(self.networks[self.number])

    def all_networks(self) -> WeightedNetworks:
        """All networks of all trials: what a bundle holds, and what predicts the test split."""
        return [
            (network, weight / self.folds)
            for number, weight in self.trials.items()
            for network in self.networks[number]
        ]

    def fold_networks(self, fold: int) -> WeightedNetworks:
        """The networks that were validated on this fold: only they may predict it."""
        return [(self.networks[number][fold], weight) for number, weight in self.trials.items()]


def best_trials(plan: Plan, rows: Sequence[TrialRow]) -> list[Model]:
    """The trials (``rows`` come best first) from which the ensemble is chosen.

    Raises ``UserError`` where no trial has a checkpoint.
    """
    found = []
    for row in choose_candidates(rows, plan.options.ensemble_candidates):
        stored = best_checkpoint(plan.run.trials, row.number)
        if stored is not None:
            found.append(Model.of_trial(row.number, [stored]))
    if not found:
        raise UserError(
            f"{plan.run.address}: no trial finished an epoch, so there is nothing to ensemble; "
            "the trials' failures are above"
        )
    return found
