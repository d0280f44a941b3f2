"""The report's plots, as data for plotly.js. Colours of paper and ink are the page's own.

plotly.js reads text as a little HTML: names that come from a person's files are escaped.
"""

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from search.reporting.importance import Importance
from search.runs.result import Alternative, SearchResult
from search.runs.rows import Status, status_of
from segcore.scores.intervals import Interval

Figure = dict[str, Any]
"""``data`` and ``layout``, as JSON values."""

GREY = "#7f8894"
STATUS_COLORS: dict[Status, str] = {
    "finished": "#2f7ed8",
    "stopped": GREY,
    "failed": "#d9483b",
    "paused": "#a678c9",
    "interrupted": "#8a6d4a",
    "running": "#c98210",
}
MEMBER_COLOR = "#17936a"
SCORE_COLORS = [[0, GREY], [0.5, "#3b8ad9"], [1, "#d97a00"]]
"""From low to high scores. These and all above differ by 3:1 from light and from dark paper."""
SHARE_COLORS = [[0, "rgba(47,126,216,0)"], [1, "rgba(47,126,216,1)"]]
"""From 0 to 100 %, over any paper."""
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}

MANY_TRIALS = 60
"""With more trials than this, their curves are thin."""

PARALLEL_AXES = 9
"""The eye can't follow more; the most important parameters are shown."""


def learning_curves(
    trials: Sequence[FrozenTrial], members: Sequence[int], rungs: Sequence[int], metric: str
) -> Figure | None:
    """Each trial's score by epoch, with a cross where the scheduler stopped it.

    None where no trial has done an epoch.
    """
    if not any(trial.intermediate_values for trial in trials):
        return None
    figure = go.Figure()
    groups = {status: [t for t in trials if status_of(t) == status] for status in STATUS_COLORS}
    width = 1.5 if len(trials) <= MANY_TRIALS else 0.7
    for status, group in groups.items():
        group = [trial for trial in group if trial.number not in members]
        _add_curves(figure, group, status, STATUS_COLORS[status], width)
    chosen = [trial for trial in trials if trial.number in members]
    _add_curves(figure, chosen, "in the model that was taken", MEMBER_COLOR, 2.5)
    ends = [
        (max(trial.intermediate_values.items()), trial.number)
        for trial in groups["stopped"]
        if trial.intermediate_values
    ]
    figure.add_scatter(
        x=[epoch for (epoch, _), _ in ends],
        y=[value for (_, value), _ in ends],
        customdata=[number for _, number in ends],
        mode="markers",
        marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": GREY}},
        hovertemplate="trial %{customdata} stopped<br>after epoch %{x}: %{y:.4f}<extra></extra>",
        name="stopped here",
    )
    for rung in rungs[:-1]:
        figure.add_vline(x=rung, line={"dash": "dot", "width": 1, "color": GREY})
    yaxis = {"title": f"{metric}, validation", "rangemode": "tozero", "automargin": True}
    return _finished(
        figure, 440, (60, 60, 10, 45),
        xaxis_title="epoch", yaxis=yaxis, legend=LEGEND_ABOVE, showlegend=True,
    )  # fmt: skip


def _add_curves(
    figure: go.Figure, trials: Sequence[FrozenTrial], name: str, color: str, width: float
) -> None:
    """Add all trials as one trace, because hundreds of traces would make the page slow."""
    points = [
        point
        for trial in trials
        if trial.intermediate_values
        for point in [
            *((e, v, trial.number) for e, v in sorted(trial.intermediate_values.items())),
            (0, math.nan, trial.number),  # a gap before the next trial
        ]
    ]
    if not points:
        return
    epochs, values, numbers = zip(*points, strict=True)
    longest = max(len(trial.intermediate_values) for trial in trials)
    figure.add_scatter(
        x=np.array(epochs, np.int32),
        y=np.array(values, np.float32),
        customdata=np.array(numbers, np.int32),
        mode="lines" if longest > 1 else "lines+markers",
        line={"color": color, "width": width},
        hovertemplate="trial %{customdata}<br>epoch %{x}: %{y:.4f}<extra></extra>",
        name=name,
    )


def compared_models(models: Sequence[tuple[str, Interval, Interval]], metric: str) -> Figure:
    """Both scores of each (name, validation, test) with their 95 % intervals.

    A name stands above its dots: beside them it would take half of a telephone's width.
    """
    figure = go.Figure()
    names = [html.escape(name, quote=False) for name, _, _ in models]
    for title, color, symbol, offset, intervals in (
        ("test: honest", MEMBER_COLOR, "circle", 0.02, [test for _, _, test in models]),
        ("validation: chosen by it", GREY, "circle-open", 0.24, [v for _, v, _ in models]),
    ):
        figure.add_scatter(
            x=[interval.value for interval in intervals],
            y=[row + offset for row in range(len(models))],
            error_x={
                "type": "data",
                "array": [interval.high - interval.value for interval in intervals],
                "arrayminus": [interval.value - interval.low for interval in intervals],
                "color": color,
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            marker={"size": 10, "symbol": symbol, "color": color},
            text=names,
            hovertemplate="%{text}<br>%{x:.4f}<extra></extra>",
            name=title,
        )
    for row, (name, _, _) in enumerate(models):
        figure.add_annotation(
            text=html.escape(_short(name, 40), quote=False), x=0, xref="paper", xanchor="left",
            y=row - 0.28, showarrow=False,
        )  # fmt: skip
    yaxis = {"visible": False, "range": [len(models) - 0.5, -0.5], "fixedrange": True}
    return _finished(
        figure, 120 + 56 * len(models), (10, 60, 15, 45),
        xaxis_title=metric, yaxis=yaxis, legend=LEGEND_ABOVE,
    )  # fmt: skip


def parallel_coordinates(
    trials: Sequence[FrozenTrial], importance: Importance | None, metric: str
) -> Figure | None:
    """A line for each trial with a score, through its parameters; None where none differ.

    Only parameters that all these trials have are shown, as plotly.js draws no line with a gap.
    """
    scored = [trial for trial in trials if trial.intermediate_values]
    if len(scored) < 2:
        return None
    shared = set.intersection(*(set(trial.params) for trial in scored))
    differing = [
        n for n in scored[0].params if n in shared and len({t.params[n] for t in scored}) > 1
    ]
    if importance is not None:
        differing.sort(key=lambda name: -importance.overall.get(name, 0.0))
    if not differing:
        return None
    score = [max(trial.intermediate_values.values()) for trial in scored]
    axes = [_axis(name, scored) for name in differing[:PARALLEL_AXES]]
    figure = go.Figure(
        go.Parcoords(
            dimensions=[*axes, {"label": metric, "values": score}],
            line={"color": score, "colorscale": SCORE_COLORS, "showscale": False},
            labelangle=-20,
            labelside="top",
        )
    )
    return _finished(figure, 430, (90, 80, 40, 25))


def _axis(name: str, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    # A parameter's name is a Python name, so there is nothing to escape in it.
    values = [trial.params[name] for trial in trials]
    match trials[0].distributions[name]:
        case FloatDistribution(log=True) | IntDistribution(log=True):
            logs = [math.log10(value) for value in values]
            ticks = np.linspace(min(logs), max(logs), 5).tolist()
            texts = [f"{10**tick:.2g}" for tick in ticks]
            return {"label": name, "values": logs, "tickvals": ticks, "ticktext": texts}
        case FloatDistribution() | IntDistribution():
            return {"label": name, "values": values}
        case _:
            words = sorted({str(value) for value in values})
            return {
                "label": name,
                "values": [words.index(str(value)) for value in values],
                "tickvals": list(range(len(words))),
                "ticktext": [_short(word) for word in words],
                "range": [-0.3, len(words) - 0.7],
            }


def importance_map(importance: Importance, class_names: Sequence[str]) -> Figure:
    """Parameters by score and classes, the most important at the top."""
    parameters = list(importance.overall)
    columns = {"<b>score</b>": importance.overall} | {
        html.escape(_short(name), quote=False): importance.by_class[name]
        for name in class_names
        if name in importance.by_class
    }
    share = np.array([[by.get(name, 0.0) for by in columns.values()] for name in parameters])
    return _map_of_shares(100 * share, list(columns), parameters, cell_px=26)


def confusion_map(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Where the pixels of each class that occurs in the truth went, in percent of its row."""
    pixels: NDArray[np.int64] = np.array(confusion, np.int64)
    rows = np.flatnonzero(pixels.sum(axis=1))
    columns = np.flatnonzero(pixels.any(axis=0) | pixels.any(axis=1))
    names = [html.escape(_short(name), quote=False) for name in class_names]
    percent = 100 * pixels[np.ix_(rows, columns)] / pixels[rows].sum(axis=1, keepdims=True)
    column_names, row_names = [names[k] for k in columns], [names[k] for k in rows]
    return _map_of_shares(percent, column_names, row_names, cell_px=30)


def _map_of_shares(
    percent: NDArray[np.float64], columns: Sequence[str], rows: Sequence[str], cell_px: int
) -> Figure:
    """A map with its numbers in the cells; those below one are left out."""
    top_px = 30 + 5 * max(map(len, columns))  # plotly.js doesn't count the height of slanted names
    figure = go.Figure(
        go.Heatmap(
            z=percent.round(1),
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            text=[[f"{value:.0f}" if value >= 1 else "" for value in row] for row in percent],
            texttemplate="%{text}",
            colorscale=SHARE_COLORS,
            zmin=0,
            zmax=100,
            showscale=False,
            xgap=1,
            ygap=1,
            customdata=[[(row, column) for column in columns] for row in rows],
            hovertemplate="%{customdata[0]} → %{customdata[1]}: %{z} %<extra></extra>",
        )
    )
    axis = {"automargin": True, "showgrid": False, "zeroline": False}
    return _finished(
        figure,
        top_px + 20 + cell_px * len(rows),
        (10, top_px, 60, 10),
        xaxis={**axis, "tickvals": list(range(len(columns))), "ticktext": columns,
               "tickangle": -45, "side": "top"},
        yaxis={**axis, "tickvals": list(range(len(rows))), "ticktext": rows,
               "autorange": "reversed"},
    )  # fmt: skip


def score_against_cost(result: SearchResult) -> Figure:
    """What each model scores on left-out photographs and on the test, by what a megapixel takes.

    The line joins those that no cheaper model equals on the left-out ones (the Pareto front).
    """
    figure = go.Figure()
    known = [model for model in result.alternatives if model.left_out is not None]
    known.sort(key=lambda model: (model.cost.seconds_per_mpx, -_left_out(model)))
    front: list[Alternative] = []
    for model in known:
        if not front or _left_out(model) > _left_out(front[-1]):
            front.append(model)
    figure.add_scatter(
        x=[model.cost.seconds_per_mpx for model in front],
        y=[_left_out(model) for model in front],
        mode="lines", line={"color": MEMBER_COLOR, "width": 1.5, "shape": "hv"},
        hoverinfo="skip", name="none is cheaper and as good",
    )  # fmt: skip
    for title, color, symbol, models, score in (
        ("left out: chosen by it", MEMBER_COLOR, "circle", known, _left_out),
        ("test", GREY, "circle-open", result.alternatives, lambda model: _test(result, model)),
    ):
        figure.add_scatter(
            x=[model.cost.seconds_per_mpx for model in models],
            y=[score(model) for model in models],
            mode="markers",
            marker={
                "symbol": symbol, "color": color,
                "size": [15 if model is result.ensemble else 9 for model in models],
            },
            text=[html.escape(model.name, quote=False) for model in models],
            customdata=[model.cost.networks for model in models],
            hovertemplate="%{text}<br>%{y:.4f}<br>%{x:.3g} s per megapixel, "
            "%{customdata} networks<extra></extra>",
            name=title,
        )  # fmt: skip
    xaxis = {"title": "seconds per megapixel", "rangemode": "tozero"}
    return _finished(
        figure, 380, (60, 75, 15, 45),
        xaxis=xaxis, yaxis={"title": result.metric, "automargin": True}, legend=LEGEND_ABOVE,
    )  # fmt: skip


def _left_out(model: Alternative) -> float:
    return model.left_out.value if model.left_out else math.nan


def _test(result: SearchResult, model: Alternative) -> float:
    return model.test.metrics[result.metric].value


def models_of(result: SearchResult) -> list[tuple[str, Interval, Interval]]:
    """What ``compared_models`` shows: all models that competed, and which one was taken."""
    return [
        (
            f"{model.name} (taken)" if model is result.ensemble else model.name,
            model.val.metrics[result.metric],
            model.test.metrics[result.metric],
        )
        for model in result.alternatives
    ]


def _short(text: str, characters: int = 24) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _finished(
    figure: go.Figure, height_px: int, margins_px: tuple[int, int, int, int], **layout: Any
) -> Figure:
    """The figure as JSON values; margins are left, top, right, bottom."""
    margin = dict(zip("ltrb", margins_px, strict=True))
    figure.update_layout(template="none", dragmode=False, height=height_px, margin=margin, **layout)
    values: Figure = json.loads(figure.to_json())
    return values
