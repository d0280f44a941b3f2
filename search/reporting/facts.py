"""Everything that a report tells, read from a run's folder once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial

from search.planning.strategies import decision_epochs
from search.predicting.suspects import SuspectList, read_suspects
from search.reporting.history import History, read_history
from search.reporting.importance import Importance, find_importance
from search.runs.folder import RunFolder, RunRecord
from search.runs.repeats import Repeats, read_repeats
from search.runs.result import SearchResult
from search.runs.rows import TrialRow, read_rows
from search.runs.study import read_study
from segcore.data.prepared import PreparedData, find_prepared
from segcore.data.spec import distinct_colors
from segcore.errors import UserError


class ClassFacts(NamedTuple):
    """A class: how rare it is, and how well it was found on the test split."""

    name: str
    color: tuple[int, int, int]
    share: float | None
    """Of the training split's labelled pixels; None without the prepared data."""
    photos: int | None
    """How many of the training split have it."""
    dice: float | None
    """The chosen model's; None before the search's end, and for a class that the split lacks."""
    iou: float | None
    single_dice: float | None
    """The best single model's."""


@dataclass(frozen=True)
class RunFacts:
    """A run at one moment."""

    run: RunFolder
    record: RunRecord
    trials: Sequence[FrozenTrial]
    rows: Sequence[TrialRow]
    """The best first."""
    rungs: Sequence[int]
    """The epochs at which it is decided which trials go on, and the last epoch."""
    history: History
    finals: Mapping[str, tuple[Sequence[TrialRow], History]]
    """The trainings that follow the search and have begun, by what they were trained on."""
    repeats: Repeats
    """What those with other seeds found."""
    result: SearchResult | None
    """None before the search's end."""
    data: PreparedData | None
    """None where this machine doesn't have the data."""
    suspects: SuspectList | None
    """The labels that networks contradict; None where nobody has looked for any."""
    importance: Importance | None
    classes: Sequence[ClassFacts]
    notes: Sequence[str]
    """What the report can't show, and why."""

    @property
    def class_names(self) -> list[str]:
        """In the order of the data set."""
        return [facts.name for facts in self.classes]

    @property
    def ended(self) -> int:
        """How many trials have ended, whatever became of them."""
        return sum(row.is_over for row in self.rows)


def gather(run: RunFolder) -> RunFacts:
    """Read a run. Raises ``UserError`` where this is none, or none of its trials has begun."""
    record = run.read()
    options = record.options
    study = read_study(run)
    trials = study.get_trials(deepcopy=False)
    milestones = decision_epochs(options)
    result = SearchResult.read(run.path)
    data, notes = None, []
    try:
        data = find_prepared(record.identity["data"])
    except UserError:
        notes.append(
            "This machine doesn't have the prepared photographs, so they and the classes' rarity "
            "are missing; search.run --dry-run with the same data prepares them."
        )
    suspects = None
    try:
        suspects = read_suspects(run.path)
    except UserError as error:
        notes.append(f"There are no suspicious labels: {error}")
    classes = _classes(data, result)
    names = [facts.name for facts in classes]
    history = read_history(run.outbox, names)
    finals = {"on folds": run.folds(options.folds), "with other seeds": run.repeats}
    return RunFacts(
        run=run,
        record=record,
        trials=trials,
        rows=read_rows(study),
        rungs=milestones,
        history=history,
        finals={
            words: (read_rows(read_study(final)), read_history(final.outbox))
            for words, final in finals.items()
            if final.study.is_file()
        },
        repeats=read_repeats(run),
        result=result,
        data=data,
        suspects=suspects,
        importance=find_importance(trials, history, milestones, names),
        classes=classes,
        notes=notes,
    )


def _classes(data: PreparedData | None, result: SearchResult | None) -> list[ClassFacts]:
    names = data.class_names if data else result.class_names if result else ()
    columns: list[Sequence[Any]] = [
        names,
        data.class_colors if data else distinct_colors(len(names)),
        *(_rarity(data) if data else [()] * 2),
        *(
            (result.ensemble.test.class_dice, result.ensemble.test.class_iou)
            if result
            else [()] * 2
        ),
        result.single.test.class_dice if result else (),
    ]
    unknown = [None] * len(names)
    return [ClassFacts(*facts) for facts in zip(*(c or unknown for c in columns), strict=True)]


def _rarity(data: PreparedData) -> tuple[list[float], list[int]]:
    """Each class's share of the training split's labelled pixels, and how many photographs."""
    pixels_K = data.class_pixels("train")
    has_PK = data.class_pixels_PK[data.of_split("train")] > 0
    return (pixels_K / max(1, pixels_K.sum())).tolist(), has_PK.sum(axis=0).tolist()
