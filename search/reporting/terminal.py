"""What a person reads in a terminal: the leaderboard, a search's result, how to go on."""

from collections.abc import Container, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from search.runs.folder import RunFolder
from search.runs.repeats import NO_REPEATS, Repeats, describe_noise
from search.runs.result import Alternative, SearchResult
from search.runs.rows import (
    TrialRow,
    interval_caution,
    like_the_best,
    show_config,
    show_duration,
    show_status,
    varying_parameters,
)
from segcore.errors import counted


def leaderboard_table(
    rows: Sequence[TrialRow],
    metric: str,
    repeats: Repeats = NO_REPEATS,
    *,
    top: int = 10,
    title: str | None = None,
) -> RenderableType:
    """The first trials and all that failed, each with the parameters in which trials differ.

    Trials that can't be told from the best one are marked with ``≈``.
    """
    equals, differing = like_the_best(rows, repeats.noise), varying_parameters(rows)
    shown = [*rows[:top], *(row for row in rows[top:] if row.status == "failed")]
    seeds = bool(repeats.scores)
    table = [("trial", metric, "95 %", *["other seeds"] * seeds, "epochs", "time", "status")]
    table += [
        (
            str(row.number),
            "–" if row.score is None else f"{row.score:.4f}",
            _interval(row, equals),
            *[repeats.show(row.number)] * seeds,
            str(row.epochs),
            "–" if row.duration is None else show_duration(row.duration.total_seconds()),
            show_status(row),
        )
        for row in shown
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  " + "  ".join([*map(str.rjust, cells[:-1], widths), cells[-1]]) for cells in table]
    parts: list[RenderableType] = [
        Text(title or f"Best trials by {metric} on the validation split", style="italic"),
        Text(f"\n{lines[0]}", style="bold"),
    ]
    for row, line in zip(shown, lines[1:], strict=True):
        parts.append(Text(line))
        if what := _describe(row, differing):
            parts.append(Padding(what, (0, 0, 0, widths[0] + 4), expand=False))
    notes = [
        "≈ not distinguishable from the best: the difference may be chance" if equals else None,
        interval_caution(rows),
        describe_noise(repeats.noise) if repeats.noise else None,
    ]
    parts += [Text(f"\n  {note}", style="dim italic") for note in notes if note]
    return Group(*parts)


def _interval(row: TrialRow, equals: Container[int]) -> str:
    if row.interval is None:
        return ""
    mark = "≈ " if row.number in equals else ""
    low, high = row.interval
    return f"{mark}{low:.3f}–{high:.3f}"


def _describe(row: TrialRow, names: Sequence[str]) -> Text:
    """The configuration in short, and why the trial failed."""
    text = Text(show_config(row.config, names) if row.config else "", style="dim")
    if row.failure:
        text.append("\n" if text else "")
        text.append(row.failure, style="not dim red")
    return text


def result_text(result: SearchResult) -> str:
    """What a person reads at the end of a search, with rich's markup: the honest score first."""
    chosen = result.ensemble
    score, higher = chosen.test.metrics[result.metric], "higher" if result.optimism > 0 else "lower"
    made_of = [chosen.members] if len(chosen.trials) > 1 else []
    if chosen.folds > 1:
        made_of.append(f"each is the mean of its {chosen.folds} folds' networks")
    lines = [
        f"[bold]{escape(chosen.name[:1].upper() + chosen.name[1:])}[/]: {result.metric} "
        f"[bold]{score.value:.4f}[/] (95 % interval {score.low:.4f} – {score.high:.4f}) on "
        f"{counted(chosen.test.photos, 'test image')} that nothing before has seen",
        *([f"  {'; '.join(made_of)}"] if made_of else []),
        f"  {escape(result.why)}",
        *(f"  {sentence}" for sentence in cautions(chosen)),
        *([f"  {describe_noise(result.seed_noise)}"] if result.seed_noise else []),
        f"  It was chosen by {counted(chosen.val.photos, 'validation image')}, where it scores "
        f"{abs(result.optimism):.4f} {higher}.",
        *(f"  [red]{escape(sentence)}[/]" for sentence in result.left_out),
        "",
        *_alternative_lines(result),
        "  left out: its score on validation images that were left out when it was made",
    ]
    return "\n".join(lines)


def cautions(model: Alternative) -> list[str]:
    """Where the intervals of a model's scores are a guess, and why."""
    sides = (("Test", model.test), ("Validation", model.val))
    return [f"{name}: {side.caution}" for name, side in sides if side.caution]


def _alternative_lines(result: SearchResult) -> list[str]:
    """A table of all models that competed, the one that was taken with an arrow."""
    table = [("model", "test", "95 % interval", "left out", "s per megapixel")]
    for model in result.alternatives:
        test, left_out = model.test.metrics[result.metric], model.left_out
        table.append(
            (
                model.name,
                f"{test.value:.4f}",
                f"{test.low:.4f} – {test.high:.4f}",
                f"{left_out.value:.4f}" if left_out else "–",
                f"{model.cost.seconds_per_mpx:.3g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in table
    ]
    marks = [" ", *("→" if model is result.ensemble else " " for model in result.alternatives)]
    styles = ["dim", *("bold" if mark == "→" else "none" for mark in marks[1:])]
    return [
        f"  [{style}]{mark} {escape(line)}[/]"
        for style, mark, line in zip(styles, marks, lines, strict=True)
    ]


def next_steps(
    run: RunFolder,
    *,
    report: str,
    compare: str,
    trials_url: str | None,
    unsent: int,
    serve: str,
    refused: str | None = None,
    others_refused: int = 0,
) -> str:
    """The commands with which a person goes on after a search.

    ``unsent`` is how many records have not reached MLflow; ``trials_url`` is None before the first
    of them has. ``refused`` is why MLflow did not register the ensemble, so that it serves none;
    ``others_refused`` counts the other records that it will never take.
    """
    lines = [
        f"Report          {run.address}/{report}",
        f"Predict         python -m search.predict {run.quoted}/ensemble PHOTOS --overlay",
    ]
    if trials_url is not None:
        lines += _compare_lines(compare, trials_url)
    if unsent or trials_url is None:
        lines += [
            f"MLflow          has yet to get {counted(unsent, 'record')}; deliver them when it "
            "answers:",
            f"                python -m search.run --resume {run.quoted} --deliver",
        ]
    if others_refused:
        lines.append(
            f"MLflow          refused {counted(others_refused, 'record')} for good; each is kept "
            f"with the reason in {run.address}/tracking.jsonl.refused"
        )
    if refused is not None:
        lines.append(f"MLflow          did not register the ensemble, so can't serve it: {refused}")
    elif not unsent and trials_url is not None:
        lines.append(_serve_line(serve))
    else:
        lines.append("Serve           once MLflow has all records; --deliver prints how")
    return "\n".join(lines)


def delivered(run: RunFolder, *, compare: str, trials_url: str | None, serve: str) -> str:
    """What a person can do once MLflow has all records of a run.

    ``trials_url`` is None where the run has no trial.
    """
    lines = [f"MLflow has all records of {run.address}.", *_compare_lines(compare, trials_url)]
    return "\n".join([*lines, *([_serve_line(serve)] if run.ensemble.is_dir() else [])])


def _compare_lines(compare: str, trials_url: str | None) -> list[str]:
    opened = [f"                and open {trials_url}"] if trials_url is not None else []
    return [f"Compare trials  {compare}", *opened]


def _serve_line(serve: str) -> str:
    return f"Serve           {serve}"
