"""What a search found, with honest scores: RUN/result.json."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from search.runs.folder import RunFolder
from search.runs.rows import TrialRow, read_rows
from search.runs.study import read_study
from segcore.config import MetricName, Prefer, describe_validation_error
from segcore.errors import UserError
from segcore.files import whole_file
from segcore.scores.intervals import Evaluation, Interval, SeedNoise

RESULT_JSON = "result.json"
"""The file's name in a run's folder."""
FORMAT = 5


@dataclass(frozen=True)
class Cost:
    """What it takes to predict with a model."""

    networks: int
    seconds_per_mpx: float
    """For a megapixel of photographs in their own resolution, measured on the search's workers."""
    weights_bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.networks + other.networks,
            self.seconds_per_mpx + other.seconds_per_mpx,
            self.weights_bytes + other.weights_bytes,
        )


@dataclass(frozen=True)
class LeftOutScore:
    """What a way of making a model scores on the validation photographs that were left out when it
    was rehearsed, so that nothing was chosen by them."""

    value: float
    behind: float
    """By how much the best alternative is better, on photographs that were left out for both."""
    error: float | None
    """The standard error of ``behind``; None where there are too few independent photographs."""


@dataclass(frozen=True)
class WeightedTrial:
    """A trial in a model."""

    number: int
    weight: float
    repeat: int = 0
    """0: as the search trained it. Else which of its repetitions with other seeds (--repeats)."""

    @property
    def label(self) -> str:
        """Such as "7", or "7.2" for its second repetition."""
        return f"{self.number}.{self.repeat}" if self.repeat else f"{self.number}"


@dataclass(frozen=True)
class Alternative:
    """A model that was made of the trials: one of those that the bundle could hold."""

    name: str
    """For people, such as "trial 7" or "ensemble of 3 trials"."""
    trials: tuple[WeightedTrial, ...]
    """Their weights sum to 1."""
    factors: dict[str, float] | None
    """By class, what its probability is multiplied with before the largest one is named; None: the
    most probable class is named."""
    cost: Cost
    left_out: LeftOutScore | None
    """By this it is chosen. None where all validation photographs are of one group."""
    val: Evaluation
    """Too good: trials, members and factors were chosen by the photographs of this split."""
    test: Evaluation
    """Honest: nothing was chosen by the photographs of this split."""
    folds: int = 1
    """Networks of each trial. Where there are more than one, "val" is all folds together, and each
    photograph is predicted by networks that weren't trained on it."""

    @property
    def number(self) -> int:
        """The number of its first trial."""
        return self.trials[0].number

    @property
    def members(self) -> str:
        """Such as ``trial 3 ×0.75, trial 7 ×0.25``."""
        return ", ".join(f"trial {trial.label} ×{trial.weight:.2f}" for trial in self.trials)


@dataclass(frozen=True)
class PhotoScore:
    """A test photograph under the model that was chosen."""

    name: str
    photo: int
    """Its index in ``PreparedData.photos``."""
    score: float | None
    """Mean Dice over the classes of its truth; None where the score grid has none of its labels."""
    uncertainty: float
    """0 to 1, ``segcore.predicting.ensemble.disagreement``."""


@dataclass(frozen=True)
class SearchResult:
    """The model in the bundle, how good it really is, and what else there was."""

    metric: MetricName
    class_names: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    """All models that competed; the first one is the trial that is best on the validation split."""
    taken: int
    """The place among them of the one in the bundle."""
    prefer: Prefer
    why: str
    """Why it was taken: a sentence."""
    candidates: dict[str, Interval]
    """The validation score of each trial that could become a member, by its name, best first."""
    photos: tuple[PhotoScore, ...]
    """Of the test split."""
    seed_noise: SeedNoise | None = None
    """How much one configuration's validation score differs from seed to seed; None without
    ``repeats``."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went."""
    left_out: tuple[str, ...] = ()
    """What could not be computed, and why: a sentence each."""
    format: int = FORMAT
    folder: Path | None = field(default=None, compare=False)
    """The run's, where the result was read or written; it isn't stored."""

    @property
    def ensemble(self) -> Alternative:
        """The model in the bundle, be it an ensemble or not."""
        return self.alternatives[self.taken]

    @property
    def single(self) -> Alternative:
        """The trial that is best on the validation split."""
        return self.alternatives[0]

    @property
    def optimism(self) -> float:
        """By how much the ensemble scores higher on the split by which it was chosen."""
        val, test = self.ensemble.val.metrics, self.ensemble.test.metrics
        return val[self.metric].value - test[self.metric].value

    @property
    def bundle(self) -> Path:
        """The folder of the model that was chosen, for ``Ensemble.load``."""
        return self._run.ensemble

    @cached_property
    def leaderboard(self) -> list[TrialRow]:
        """All trials of the search, best first, read from its study."""
        return read_rows(read_study(self._run))

    def data_frame(self) -> Any:
        """The leaderboard as a pandas ``DataFrame`` with a column for each setting.

        Raises ``UserError`` where pandas isn't installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped]
        except ImportError as error:
            raise UserError("a data frame needs pandas: pip install pandas") from error
        return pd.DataFrame(
            {
                "trial": row.number,
                "status": row.status,
                "score": row.score,
                "low": row.interval[0] if row.interval else None,
                "high": row.interval[1] if row.interval else None,
                "epochs": row.epochs,
                "duration_s": row.duration.total_seconds() if row.duration else None,
                "failure": row.failure,
                **(row.config.flat() if row.config else {}),
            }
            for row in self.leaderboard
        )

    @property
    def _run(self) -> RunFolder:
        if self.folder is None:
            raise ValueError("this result was neither read from a run's folder nor written to one")
        return RunFolder(self.folder)

    def write(self, folder: Path) -> "SearchResult":
        """Write ``folder``/result.json, whole or not at all; the result that knows its folder."""
        with whole_file(folder / RESULT_JSON) as unfinished:
            unfinished.write_bytes(_ADAPTER.dump_json(self, indent=1, exclude={"folder"}))
        return replace(self, folder=folder)

    @classmethod
    def read(cls, folder: Path) -> "SearchResult | None":
        """What ``write`` wrote; None before the end of a search.

        Raises ``UserError`` where the file is damaged or of another version.
        """
        path = folder / RESULT_JSON
        if not path.is_file():
            return None
        again = "resume the search to write it again"
        try:
            values = json.loads(path.read_bytes())
            if values.get("format") != FORMAT:
                raise UserError(f"{path}: of another version; {again}")
            return replace(_ADAPTER.validate_python(values), folder=folder)
        except ValidationError as error:
            raise UserError(
                f"{path}: damaged ({describe_validation_error(error)}); {again}"
            ) from error
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({error}); {again}") from error


_ADAPTER = TypeAdapter(SearchResult)
