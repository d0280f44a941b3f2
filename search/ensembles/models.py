"""A model that a search may choose: what it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from search.runs.result import WeightedTrial
from segcore.training.checkpoint import CheckpointInfo, StateDict, save_checkpoint


class Network(Protocol):
    """A trained network, wherever it is: a trial's ``StoredCheckpoint``, or a ``Soup``."""

    @property
    def info(self) -> CheckpointInfo:
        """What it is, and how it sees photographs."""

    def local(self, folder: Path) -> Path:
        """Its checkpoint on this machine: where it is, or else written into ``folder``."""


@dataclass(frozen=True)
class Soup:
    """A network whose weights are the mean of several trials'."""

    info: CheckpointInfo
    """That of the first ingredient."""
    tensors: StateDict

    def local(self, folder: Path) -> Path:
        """As ``Network`` has it."""
        save_checkpoint(folder, self.info, self.tensors, training=None)
        return folder


WeightedNetworks = list[tuple[Network, float]]
"""Networks with the weights of their probabilities, which sum to 1."""


@dataclass(frozen=True)
class Model:
    """A model that may be chosen: one trial, a soup of trials, or a weighted mean of trials."""

    name: str
    """For people, such as "trial 7"."""
    trials: tuple[WeightedTrial, ...]
    """Their weights sum to 1."""
    members: tuple[tuple[tuple[Network, ...], float], ...]
    """Each member's network, or with --folds one for each fold, which was validated there; and its
    weight. The weights sum to 1."""
    factors: tuple[float, ...] | None = None
    """What each class's probability is multiplied with before the largest one is named."""

    @classmethod
    def of_trial(cls, number: int, networks: Sequence[Network], repeat: int = 0) -> "Model":
        """One trial alone, with a network for each fold where it was trained on folds."""
        folds = f" on {len(networks)} folds" if len(networks) > 1 else ""
        trial = WeightedTrial(number, 1.0, repeat)
        return cls(f"trial {trial.label}{folds}", (trial,), ((tuple(networks), 1.0),))

    @classmethod
    def of_soup(cls, ingredients: Sequence["Model"], soup: Soup) -> "Model":
        """A soup of models of one trial."""
        trials = [replace(one.trial, weight=1 / len(ingredients)) for one in ingredients]
        name = f"soup of trials {', '.join(trial.label for trial in trials)}"
        return cls(name, tuple(trials), (((soup,), 1.0),))

    @classmethod
    def mean_of(cls, name: str, models: Sequence["Model"], weights: Sequence[float]) -> "Model":
        """The weighted mean of models of one trial, without those of weight 0.

        A trial alone stays what it is.
        """
        pairs = [(model, weight) for model, weight in zip(models, weights, strict=True) if weight]
        if len(pairs) == 1:
            return pairs[0][0]
        members = tuple((model.members[0][0], weight) for model, weight in pairs)
        trials = tuple(replace(model.trial, weight=weight) for model, weight in pairs)
        return cls(name, trials, members)

    def with_factors(self, factors: tuple[float, ...] | None) -> "Model":
        """The same, whose classes are decided otherwise."""
        if factors is None:
            return self
        return replace(self, name=f"{self.name}, fitted decision", factors=factors)

    @property
    def trial(self) -> WeightedTrial:
        """The trial, or the first one."""
        return self.trials[0]

    @property
    def folds(self) -> int:
        """How many networks each member has."""
        return len(self.members[0][0])

    @property
    def training(self) -> str:
        """Of one trial: "" as the search trained it, or such as "repeat_2", or "folds"."""
        if self.folds > 1:
            return "folds"
        return f"repeat_{self.trial.repeat}" if self.trial.repeat else ""

    def all_networks(self) -> WeightedNetworks:
        """All networks: what a bundle holds, and what predicts the test split."""
        return [
            (network, weight / self.folds)
            for networks, weight in self.members
            for network in networks
        ]

    def fold_networks(self, fold: int) -> WeightedNetworks:
        """The networks that were validated on this fold: only they may predict it."""
        return [(networks[fold], weight) for networks, weight in self.members]
