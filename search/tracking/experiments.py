"""What MLflow knows of earlier searches, and of runs of other programs, for --warm-start.

All of it may be anybody's. It is only read: names and numbers, of so many runs at most, and what is
taken of them goes through the space (``search.planning.warm``).
"""

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from mlflow.entities import Experiment, Run
from mlflow.tracking import MlflowClient

from search.forecasting.earlier import EarlierSearch, Tried
from search.runs.credentials import without_credentials
from search.runs.options import SearchOptions, is_in_mlflow
from search.tracking.addresses import SQLITE, sqlite_path
from search.tracking.check import (
    MIGRATION_TAKES_AT_MOST_S,
    SERVER_ANSWERS_WITHIN_S,
    ask,
    refuse_deleted,
)
from search.tracking.metric_names import BEST_SCORE
from search.tracking.mlflow_runs import SAMPLED, SEARCH_ID, TRIAL
from segcore.errors import UserError, some_of

Answer = TypeVar("Answer")

OWN = "mlflow:"
"""Before a name in the MLflow to which the new search itself is logged."""

MOST_RUNS, PAGE = 2_000, 250
"""Runs of an experiment that are read, the best first, and how many with each request."""
MOST_SEARCHES = 1_000
SHOWN = 10
"""Names that an error tells."""
_AN_ID, _FOLLOWS = re.compile(r"[\w-]+"), re.compile(r"-(repeats|folds_\d+)$")
"""Ids of searches: one goes into a query, so it is no other text."""
LARGEST_SCORE = 1e300
"""MLflow keeps infinity as a number beyond."""


def read_earlier_searches(
    options: SearchOptions, own_uri: str, own_experiment: str
) -> dict[str, EarlierSearch]:
    """What MLflow knows of the searches that ``warm_start`` names in it.

    A resumed run has in its study what it took of them, and reads nothing.
    """
    earlier = () if options.resume is not None else options.warm_start
    return {
        address: read_logged(
            address, own_uri=own_uri, own_experiment=own_experiment, score=options.score_key
        )
        for address in filter(is_in_mlflow, earlier)
    }


def read_logged(address: str, *, own_uri: str, own_experiment: str, score: str) -> EarlierSearch:
    """The search, or the experiment, that a value of ``--warm-start`` names.

    A name is an experiment's or, where none has it, that of a search in ``own_experiment``.
    ``score`` is the metric by which runs of other programs are known. Curves are read when they are
    asked for. Raises ``UserError`` where MLflow doesn't answer, or has no such name or score.
    """
    where = f"--warm-start {without_credentials(address)}"
    uri, name = _parse(address, own_uri, where)
    if uri != own_uri:
        _check_readable(uri, where)
    store = _Store(uri, where)
    experiment = store.experiment(name)
    if experiment is not None:
        searches = store.searches(experiment)
        if len(searches) > 1:
            names = [run.info.run_name for run in searches]
            raise UserError(
                f"{where}: this experiment holds {len(searches)} searches: {_show(names)}; give "
                "the name of one of them instead"
            )
        if not searches:
            return _of_other_programs(store, experiment, score)
    else:
        experiment = store.experiment(own_experiment)
        known = [] if experiment is None else store.searches(experiment)
        searches = [run for run in known if run.info.run_name == name]
        if experiment is None or not searches:
            others = [*dict.fromkeys(run.info.run_name for run in known)]
            raise UserError(
                f"{where}: there is no experiment or search of that name; experiments: "
                f"{_show(store.experiment_names())}; searches: {_show(others)}"
            )
    return _of_search(store, experiment, searches[0], score)


def _parse(address: str, own_uri: str, where: str) -> tuple[str, str]:
    """MLflow's address, and a name in it."""
    if address.startswith(OWN):
        uri, name = own_uri, address.removeprefix(OWN)
    else:
        uri, _, name = address.partition("#")
        uri = uri.rstrip("/")
    is_known = uri.startswith(("http://", "https://", SQLITE))
    if not name or not is_known:
        raise UserError(
            f"{where}: give the name of an experiment or a search after the address, such as "
            f"http://127.0.0.1:5000#storm, {SQLITE}runs/mlflow.db#storm or {OWN}storm"
        )
    return uri, name


def _check_readable(uri: str, where: str) -> None:
    """MLflow would make a file that isn't there, and add its tables to one of another program."""
    path = sqlite_path(uri)
    if path is None:
        return
    reason = "it has no tables of MLflow"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        tables, reason = set(), str(error)
    if not {"experiments", "runs", "latest_metrics"} <= tables:
        raise UserError(f"{where}: {reason}; give the database of an MLflow, such as mlflow.db")


@dataclass(frozen=True)
class _Store:
    """An MLflow that is only asked. Methods raise ``UserError`` where it doesn't answer."""

    uri: str
    where: str

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def _ask(self, question: Callable[[MlflowClient], Answer]) -> Answer:
        is_file = sqlite_path(self.uri) is not None
        return ask(
            lambda: question(self._client),
            self.uri,
            where=self.where,
            mend="check the address, and that MLflow runs there",
            timeout_s=MIGRATION_TAKES_AT_MOST_S if is_file else SERVER_ANSWERS_WITHIN_S,
        )

    def experiment(self, name: str) -> Experiment | None:
        """By its name, or by what the address of its page has after the "#"."""
        page = re.fullmatch(r"/experiments/(\d+)(?:[/?].*)?", name)
        if page is not None:
            experiment = self._ask(lambda client: client.get_experiment(page[1]))
        else:
            experiment = self._ask(lambda client: client.get_experiment_by_name(name))
        refuse_deleted(experiment, self.where)
        return experiment

    def experiment_names(self) -> list[str]:
        """The newest ones."""
        found = self._ask(lambda client: client.search_experiments(max_results=SHOWN + 1))
        return [experiment.name for experiment in found]

    def searches(self, experiment: Experiment) -> list[Run]:
        """The runs of segsearch's own searches, the newest first; none of trainings that follow."""
        runs = self.runs(experiment, f"tags.`{SEARCH_ID}` LIKE '%'", most=MOST_SEARCHES)
        ids = [(run, run.data.tags.get(SEARCH_ID, "")) for run in runs]
        return [run for run, name in ids if _AN_ID.fullmatch(name) and not _FOLLOWS.search(name)]

    def runs(
        self, experiment: Experiment, condition: str, *order: str, most: int = MOST_RUNS
    ) -> Iterator[Run]:
        """Runs that were not deleted, page by page."""
        token, count = None, 0
        while count < most:
            search = partial(
                MlflowClient.search_runs,
                experiment_ids=[experiment.experiment_id],
                filter_string=condition,
                max_results=PAGE,
                order_by=list(order),
                page_token=token,
            )
            page = self._ask(search)
            yield from page[: most - count]
            token, count = page.token, count + len(page)
            if not token or not page:
                return

    def curve(self, run_id: str, key: str, *, steps_are_epochs: bool) -> dict[int, float]:
        """A metric by epoch. Of two values of one step the newer counts."""
        points = self._ask(lambda client: client.get_metric_history(run_id, key))
        newest = {point.step: point.value for point in sorted(points, key=lambda p: p.timestamp)}
        values = {step: value for step, value in sorted(newest.items()) if _is_score(value)}
        if steps_are_epochs:
            return {epoch: value for epoch, value in values.items() if epoch >= 1}
        return dict(enumerate(values.values(), 1))


def _of_search(store: _Store, experiment: Experiment, search: Run, score: str) -> EarlierSearch:
    """Of the trials of a search that segsearch logged."""
    key = f"val/{search.data.params['metric']}" if "metric" in search.data.params else score
    epochs = search.data.params.get("max_epochs", "")
    condition = f"tags.`{TRIAL}` LIKE '{search.data.tags[SEARCH_ID]}/%'"
    # A hanging server may have made a run twice: the one in use is the first.
    trials: dict[str, Run] = {}
    for run in store.runs(experiment, condition, f"metrics.`{BEST_SCORE}` DESC"):
        trials.setdefault(run.data.tags.get(TRIAL, run.info.run_id), run)
    found = []
    for run in trials.values():
        best = run.data.metrics.get(BEST_SCORE, math.nan)
        last = run.data.metrics.get(key, best)
        if _is_score(best) and _is_score(last):
            curve = partial(store.curve, run.info.run_id, key, steps_are_epochs=True)
            found.append(Tried(_params(run), best, last, curve))
    return EarlierSearch(found, int(epochs) if re.fullmatch(r"\d{1,6}", epochs) else None)


def _of_other_programs(store: _Store, experiment: Experiment, score: str) -> EarlierSearch:
    """Of the runs of an experiment that have the score."""
    keys = (score, score.replace("/", "_"))
    for key in keys:
        found = []
        for run in store.runs(experiment, f"metrics.`{key}` >= 0", f"metrics.`{key}` DESC"):
            last = run.data.metrics.get(key, math.nan)
            if _is_score(last):
                curve = partial(store.curve, run.info.run_id, key, steps_are_epochs=False)
                found.append(Tried(_params(run), last, last, curve))
        if found:
            return EarlierSearch(found, None)
    some = list(store.runs(experiment, "", most=PAGE))
    names = sorted({name for run in some for name in run.data.metrics})
    raise UserError(
        f"{store.where}: no run of this experiment has the metric {' or '.join(keys)}; "
        + (f"there are {_show(names)}" if some else "it has no runs")
    )


def _params(run: Run) -> Mapping[str, Any]:
    """What was logged, as text; and what a space of ours asked for, under its own names."""
    try:
        sampled = json.loads(run.data.tags.get(SAMPLED, "{}"))
    except (ValueError, RecursionError):  # MLflow cuts off what is very long
        sampled = {}
    return {**run.data.params, **(sampled if isinstance(sampled, dict) else {})}


def _is_score(value: float) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST_SCORE


def _show(names: Sequence[str | None]) -> str:
    """Names, with what else they may hold made visible."""
    return some_of([repr(str(name)[:60]) for name in names], SHOWN) or "none"
