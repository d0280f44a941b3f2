"""What a search found, with honest scores: RUN/result.json."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from segcore.config import MetricName
from segcore.errors import UserError
from segcore.files import whole_file
from segcore.scores.intervals import Interval, bootstrap_interval
from segcore.scores.metrics import METRICS, Scores

RESULT_JSON = "result.json"
"""The file's name in a run's folder."""


@dataclass(frozen=True)
class Member:
    """A trial of which the bundle holds the network; with --folds one for each fold."""

    trial: int
    weight: float
    """The weights of all members sum to 1."""


@dataclass(frozen=True)
class SplitScores:
    """How a model did on one split. Intervals are 95 %, over photographs."""

    metrics: dict[str, Interval]
    """By the names of ``segcore.scores.metrics.METRICS``."""
    class_dice: tuple[float | None, ...]
    """None: the class isn't in the split's truth."""
    class_iou: tuple[float | None, ...]
    """None: the class isn't in the split's truth."""
    confusion: list[list[int]]
    """Pixels; rows are the truth, columns what was predicted."""

    @classmethod
    def of(cls, scores: Scores) -> "SplitScores":
        """With an interval for every score."""
        return cls(
            metrics={name: bootstrap_interval(scores.counts_P3K, name) for name in METRICS},
            class_dice=_known(scores.class_dice_K),
            class_iou=_known(scores.class_iou_K),
            confusion=scores.confusion_KK.tolist(),
        )


@dataclass(frozen=True)
class Evaluated:
    """A model's scores on both splits."""

    val: SplitScores
    """Too good: by this split trials and members were chosen."""
    test: SplitScores
    """Honest: nothing was chosen by this split."""


@dataclass(frozen=True)
class Alternative:
    """Another way to make one model of the trials; the scores are the search's metric."""

    name: str
    val: Interval
    test: Interval


@dataclass(frozen=True)
class CandidateScore:
    """A trial that could become a member."""

    trial: int
    val: Interval


@dataclass(frozen=True)
class PhotoScore:
    """A test photograph under what was chosen."""

    name: str
    photo: int
    """Its index in ``PreparedData.photos``."""
    score: float
    """Mean Dice over the classes that occur in its truth."""
    uncertainty: float
    """0 to 1, ``segcore.predicting.ensemble.disagreement``."""


@dataclass(frozen=True)
class SearchResult:
    """What stands in the bundle, how good it really is, and what else there was."""

    metric: MetricName
    class_names: tuple[str, ...]
    val_photos: int
    test_photos: int
    members: tuple[Member, ...]
    """One: no ensemble was better than the best single model."""
    ensemble: Evaluated
    """What was chosen and stands in the bundle, also where it is a single model."""
    single: Evaluated
    """The trial that is best on the validation split."""
    single_trial: int
    expected_gain: float | None
    """How much better ensembles were than single models on validation photographs by which neither
    was chosen; None where the photographs were too few to leave any out."""
    alternatives: tuple[Alternative, ...]
    candidates: tuple[CandidateScore, ...]
    """Best first."""
    photos: tuple[PhotoScore, ...]
    """Of the test split."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went."""
    left_out: tuple[str, ...] = ()
    """What could not be computed, and why: a sentence each."""
    folds: int = 1
    """Networks of each trial. More than one: "val" holds each photograph of all folds together,
    predicted by networks that didn't train on it."""

    @property
    def members_text(self) -> str:
        """Such as ``trial 3 ×0.75, trial 7 ×0.25``."""
        return ", ".join(f"trial {member.trial} ×{member.weight:.2f}" for member in self.members)

    @property
    def optimism(self) -> float:
        """By how much the score of what was chosen is better where it was chosen."""
        val, test = self.ensemble.val.metrics[self.metric], self.ensemble.test.metrics[self.metric]
        return val.value - test.value

    def write(self, folder: Path) -> None:
        """Write ``folder``/result.json, whole or not at all."""
        with whole_file(folder / RESULT_JSON) as unfinished:
            unfinished.write_bytes(_ADAPTER.dump_json(self, indent=1))

    @classmethod
    def read(cls, folder: Path) -> "SearchResult | None":
        """What ``write`` wrote; None before a search's end. ``UserError`` where it is damaged."""
        path = folder / RESULT_JSON
        if not path.is_file():
            return None
        try:
            return _ADAPTER.validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path}: damaged, or of another version ({where}: {first['msg']}); resume the "
                "search to write it again"
            ) from error


_ADAPTER = TypeAdapter(SearchResult)


def _known(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(None if value != value else float(value) for value in values)
