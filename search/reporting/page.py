"""The report of a run: one HTML page that needs nothing but itself."""

import dataclasses
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline

from search.predicting.suspects import SuspectList
from search.reporting import figures
from search.reporting.costs import find_costs
from search.reporting.facts import RunFacts, gather
from search.reporting.figures import Figure
from search.reporting.history import read_history
from search.reporting.photographs import Gallery, galleries
from search.reporting.terminal import cautions
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions
from search.runs.repeats import describe_noise
from search.runs.rows import (
    interval_caution,
    like_the_best,
    show_config,
    show_counts,
    show_duration,
    show_status,
    varying_parameters,
)
from search.tracking.addresses import default_uri, ui_command
from segcore.errors import UserError
from segcore.files import whole_file
from segcore.predicting.ensemble import Ensemble
from segcore.scores.metrics import METRICS

REPORT = "report.html"
"""The file's name in a run's folder."""

SUSPECTS_PAGE = "suspects.html"
"""The file's name in the folder of ``search.suspects``."""
RELOAD_S = 15.0
"""A live page is written, and loads itself again, so often: it has 5 MB, and takes a second."""

TABLE_TRIALS = 20
FIRST_SUSPECTS = 6
"""So many suspicious labels are in the report; all are in their own page."""

NOT_REPEATED = {"name", "out", "tracking_uri", "resume", "dry_run", "address"}
"""Options that say where a search ran, not what it did."""


def write_report(
    run: RunFolder,
    *,
    out: Path | None = None,
    allow_plugins: bool = False,
    reload_s: float | None = None,
) -> Path:
    """Write the page of a run, and return its path. The page says what isn't known yet.

    Without ``out`` it is RUN/report.html, also in the run's bucket where it has one. With
    ``reload_s`` an open page loads itself again after so many seconds. Raises ``UserError`` where
    this is no run, none of its trials has begun, or ``out`` can't be written.
    """
    page = _render(gather(run), allow_plugins, reload_s)
    path = out or run.path / REPORT
    try:
        with whole_file(path) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; write the page to another --out") from error
    if out is None and run.home is not None:
        run.home.put(run.path, [REPORT])
    return path


def follow(address: str, page: Path, *, allow_plugins: bool = False) -> None:
    """Write a run's page again and again while its search goes on; an open page loads itself again.

    Ctrl-C ends this. The last page stays to be written.
    """
    try:
        while read_history((run := RunFolder.opened(address)).outbox).is_going_on:
            write_report(run, out=page, allow_plugins=allow_plugins, reload_s=RELOAD_S)
            time.sleep(RELOAD_S)
    except KeyboardInterrupt:
        pass


def _state(facts: RunFacts) -> list[str]:
    """What a person should know of a search that isn't finished, and how it goes on."""
    resume = f"python -m search.run --resume {facts.run.quoted}"
    if facts.history.is_going_on:
        later = "What is said of models is from its last end. " if facts.result else ""
        return [f"The search goes on. {later}If its process was killed, resume it: {resume}"]
    if facts.result is not None:
        return []
    end = facts.history.end
    why = "was interrupted" if end in (None, "interrupted") else f"ended early: {end}"
    return [f"The search {why}. Go on with it: {resume}"]


def _render(facts: RunFacts, allow_plugins: bool, reload_s: float | None) -> str:
    notes = [*_state(facts), *facts.notes]
    if facts.result is not None:
        notes += [*cautions(facts.result.ensemble), *facts.result.left_out]
    if facts.repeats.noise is not None:
        notes.append(describe_noise(facts.repeats.noise))
    pictures: list[Gallery] = []
    if facts.result is not None and facts.data is not None:
        try:
            ensemble = Ensemble.load(facts.run.ensemble, allow_plugins=allow_plugins)
            pictures = galleries(facts.result.photos, facts.data, ensemble)
        except UserError as error:
            notes.append(f"There are no photographs: {error}")
    return _template("page.html").render(
        facts=facts,
        options=facts.record.options,
        result=facts.result,
        metric=facts.record.options.metric,
        definition=METRICS[facts.record.options.metric],
        notes=notes,
        galleries=pictures,
        suspects=facts.suspects,
        first_suspects=FIRST_SUSPECTS,
        figures=_figures(facts),
        trials=_trial_table(facts),
        interval_caution=interval_caution(facts.rows),
        counts=show_counts(facts.rows, facts.record.options),
        table_trials=TABLE_TRIALS,
        members=_members(facts),
        costs=find_costs(facts),
        commands=_commands(facts),
        reload_s=reload_s,
        written=time.strftime("%d %B %Y, %H:%M"),
        plotly_js=plotly.offline.get_plotlyjs(),
    )


def write_suspects_page(found: SuspectList, name: str, folder: Path) -> None:
    """Write a page of suspicious labels; ``name`` is the run's. Raises ``OSError``."""
    page = _template("suspects.html").render(suspects=found, name=name)
    with whole_file(folder / SUSPECTS_PAGE) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(_FILTERS)
    return environment.get_template(name)


def _figures(facts: RunFacts) -> dict[str, Figure]:
    """The plots by the ids of their places in the page; those that lack data are missing."""
    result, metric = facts.result, facts.record.options.metric
    members = [one.number for one in result.ensemble.trials if not one.repeat] if result else []
    plots: dict[str, Figure | None] = {
        "curves": figures.learning_curves(facts.trials, members, facts.rungs, metric),
        "parallel": figures.parallel_coordinates(facts.trials, facts.importance, metric),
    }
    if facts.importance is not None:
        plots["importance"] = figures.importance_map(facts.importance, facts.class_names)
    if result is not None:
        plots["costs"] = figures.score_against_cost(result)
        plots["models"] = figures.compared_models(figures.models_of(result), metric)
        plots["confusion"] = figures.confusion_map(
            result.ensemble.test.confusion, result.class_names
        )
    return {name: plot for name, plot in plots.items() if plot is not None}


def _trial_table(facts: RunFacts) -> list[dict[str, Any]]:
    """The best trials, and all others that failed."""
    differing = varying_parameters(facts.rows)
    equals = like_the_best(facts.rows, facts.repeats.noise)
    failed = [row for row in facts.rows[TABLE_TRIALS:] if row.status == "failed"]
    return [
        {
            "row": row,
            "like_the_best": row.number in equals,
            "other_seeds": facts.repeats.show(row.number),
            "config": show_config(row.config, differing) if row.config else "",
            "seconds": past.worker_s if (past := facts.history.trials.get(row.number)) else None,
        }
        for row in [*facts.rows[:TABLE_TRIALS], *failed]
    ]


def _members(facts: RunFacts) -> list[dict[str, Any]]:
    if facts.result is None:
        return []
    configs = {row.number: row.config for row in facts.rows}
    return [
        {
            "trial": trial.label,
            "weight": trial.weight,
            "config": show_config(config) if config else "",
        }
        for trial in facts.result.ensemble.trials
        for config in [configs.get(trial.number)]
    ]


def _commands(facts: RunFacts) -> list[tuple[str, str]]:
    """Commands to type, each after what it does. A run's record has no passwords in addresses."""
    options, address = facts.record.options, facts.run.quoted
    again = ["python -m search.run"]
    for field in dataclasses.fields(SearchOptions):
        value = getattr(options, field.name)
        if field.name not in NOT_REPEATED and value != field.default:
            words = () if value is True else value if isinstance(value, tuple) else (value,)
            again.append(shlex.join([f"--{field.name.replace('_', '-')}", *map(str, words)]))
    uri = options.tracking_uri or default_uri(facts.run.path.parent)
    resume = f"python -m search.run --resume {address}"
    first = [("Go on with this search", resume)]
    if facts.result is not None:
        first = [
            ("Predict", f"python -m search.predict {address}/ensemble PHOTOS --overlay"),
            ("Look for wrong labels", f"python -m search.suspects {address}"),
            ("Go on, with more trials", f"{resume} --trials {2 * options.trials}"),
        ]
    return [
        *first,
        ("The same search again", " ".join(again)),
        ("All trials, sorted otherwise", f"python -m search.leaderboard {address} --sort time"),
        ("Compare trials in MLflow", ui_command(uri)),
    ]


def _score(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _css_color(color: tuple[int, int, int]) -> str:
    red, green, blue = color
    return f"rgb({red},{green},{blue})"


_FILTERS: dict[str, Callable[..., str]] = {
    "score": _score,
    "percent": _percent,
    "duration": show_duration,
    "status": show_status,
    "css_color": _css_color,
}
