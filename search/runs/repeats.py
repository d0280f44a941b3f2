"""What --repeats found: the scores of some trials' configurations, trained with other seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from search.runs.folder import RunFolder
from search.runs.study import read_study
from segcore.errors import UserError
from segcore.scores.intervals import SeedNoise

TRIAL, REPEAT = "trial", "repeat"
"""Parameters of the run of the repetitions: the search's trial, and which of its repetitions."""


@dataclass(frozen=True)
class Repeats:
    """The validation scores of trainings with other seeds."""

    scores: Mapping[int, Sequence[float]]
    """By the number of the search's trial, in the order of the repetitions.

    The search's own training isn't among them: it was chosen for its score, which is too high.
    """

    @property
    def noise(self) -> SeedNoise | None:
        """How much they differ; None where no configuration has two."""
        return SeedNoise.pooled(self.scores.values())

    def show(self, trial: int) -> str:
        """From the lowest to the highest score of a trial, such as ``0.581–0.604``; or nothing."""
        own = self.scores.get(trial)
        return f"{min(own):.3f}–{max(own):.3f}" if own else ""


NO_REPEATS = Repeats({})


def describe_noise(noise: SeedNoise) -> str:
    """What a person should know of it."""
    return (
        f"Seed noise ± {noise.deviation:.4f}: so much does one configuration's validation score "
        f"differ from seed to seed (standard deviation, {noise.freedom} degrees of freedom). "
        "Intervals don't contain it, ≈ does."
    )


def read_repeats(run: RunFolder) -> Repeats:
    """Those of a search that have finished by now; none where there are no --repeats."""
    try:
        study = read_study(run.repeats)
    except UserError:
        return NO_REPEATS
    scores: dict[int, dict[int, float]] = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        best = max(trial.intermediate_values.values())
        scores.setdefault(trial.params[TRIAL], {})[trial.params[REPEAT]] = best
    return Repeats({trial: [own[r] for r in sorted(own)] for trial, own in scores.items()})
