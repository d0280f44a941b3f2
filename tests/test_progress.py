"""What a person sees while a search goes on: the line that moves, and the time that is left."""

import io
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from benchmarks.curve_tables import Synthetic
from benchmarks.time_left import listen, options_for, right, simulate
from search.reporting.terminal import Line, show_about
from search.runs.options import SearchOptions
from search.runs.rows import TrialRow
from search.tracking.tracker import Tracker
from search.trials import progress as progress_module
from search.trials.cluster import Slots
from search.trials.estimate import TimeLeft
from search.trials.progress import SearchProgress

UNSTOPPED = SearchOptions(trials=4, max_epochs=3, grace_epochs=3)


def row(number: int, status: Any = "finished", **values: Any) -> TrialRow:
    facts = {"score": 0.7, "interval": (0.65, 0.74), "epochs": 3, **values}
    return TrialRow(
        number, status, plain_jackknife=None, duration=None, plain_config=None, failure=None,
        **facts,
    )  # fmt: skip


# The time that is left.


def test_trials_that_are_never_stopped_take_their_epochs_on_the_workers_there_are() -> None:
    left = TimeLeft(UNSTOPPED, lambda: 2)
    for number in (0, 1):
        left.begun(number, 0.0)
    assert left.seconds(5.0) is None, "nothing is known yet"
    for number in (0, 1):
        left.epoch_done(number, 1, 0.5, 10.0)
    assert left.seconds(10.0) == pytest.approx(2 * 10 + 3 * 10)
    assert left.seconds(14.0) == pytest.approx(2 * 10 - 4 + 3 * 10)
    left.epoch_done(0, 2, 0.5, 16.0)
    assert left.seconds(16.0) == pytest.approx(3 * 6 + 4 + 6 + 4, abs=6), "the start took 4 s"


def test_what_earlier_sessions_did_is_not_done_again() -> None:
    left = TimeLeft(UNSTOPPED, lambda: 1)
    left.known(row(0))
    left.known(row(1, "running", values={1: 0.4, 2: 0.5}, epochs=2))
    left.begun(1, 0.0)
    left.epoch_done(1, 3, 0.6, 10.0)
    left.ended(1, is_over=True)
    assert left.seconds(10.0) == pytest.approx(2 * 3 * 10)


def test_a_time_budget_ends_it_sooner() -> None:
    left = TimeLeft(SearchOptions(trials=4, max_epochs=3, time_budget="30s"), lambda: 1)
    left.begun(0, 0.0)
    left.epoch_done(0, 1, 0.5, 10.0)
    assert left.seconds(10.0) == 20.0


def test_freeze_thaw_ends_with_its_epochs_or_its_time() -> None:
    options = SearchOptions(trials=4, max_epochs=4, grace_epochs=4, strategy="freeze-thaw")
    left = TimeLeft(options, lambda: 2)
    left.begun(0, 0.0)
    left.epoch_done(0, 1, 0.5, 10.0)
    assert left.seconds(10.0) == pytest.approx((16 - 1) * 10 / 2)
    timed = TimeLeft(SearchOptions(strategy="freeze-thaw", time_budget="1h"), lambda: 2)
    assert timed.seconds(600.0) == 3000.0


def test_it_is_mostly_right_within_a_factor_of_two_after_the_first_tenth() -> None:
    """Of simulated searches by halving; benchmarks/README.md has more of them ("Time left")."""
    table = Synthetic("power")
    shares = []
    for seed in range(4):
        events, end_s = simulate(table, 2, 10, seed)
        shares.append(right(listen(events, options_for(table, 10), 2), end_s))
    ours, counted = np.mean(shares, axis=0)
    assert ours > 0.85 and ours > counted + 0.2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "1 s"), (12.4, "12 s"), (47, "50 s"), (99, "100 s"), (150, "2 min"),
        (3725, "62 min"), (18300, "5 h"), (300000, "3 days"),
    ],
)  # fmt: skip
def test_a_time_that_is_not_sure_is_not_shown_to_the_second(seconds: float, shown: str) -> None:
    assert show_about(seconds) == shown


# The line.


def test_a_terminal_has_one_line_and_a_file_none() -> None:
    for is_terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, width=100)
        with Line(console) as line:
            line.step("Reading", 3, 12)
            line.console.print("a note that stays")
        shown = file.getvalue()
        assert "a note that stays" in shown
        assert ("Reading" in shown and "3 of 12 · about 1 s left" in shown) == is_terminal
        if not is_terminal:
            assert shown == "a note that stays\n"


def test_a_notebook_shows_the_same_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    states: list[str] = []

    class Shown:
        def update(self, bar: Any) -> None:
            states.append(bar.data)

    def begin(bar: Any, display_id: bool) -> Shown:
        assert display_id and not states, "one bar"
        states.append(bar.data)
        return Shown()

    monkeypatch.setattr(display, "display", begin)
    with Line(Console(force_jupyter=True)) as line:
        line.step("checking that MLflow answers")
        line.step("Reading", 1, 12)
        line.step("Reading", 1, 12)
        line.show("training", 2, 8, "2 of 8 trials", "best <dice>")
    assert states == [
        "<progress></progress> checking that MLflow answers ",
        '<progress value="1" max="12"></progress> Reading 1 of 12',
        '<progress value="2" max="8"></progress> training 2 of 8 trials · best &lt;dice&gt;',
        '<progress value="1" max="1"></progress> done after 1 s',
    ]


# What it says of trials.


@dataclass
class Heard:
    """A line that keeps what it was told."""

    console: Console
    states: list[str] = field(default_factory=list)

    def show(self, phase: str, done: float, total: float, *parts: str) -> None:
        self.states.append(" · ".join([phase, *parts]))


@dataclass
class Mlflow:
    """A tracker as far as the line asks it."""

    problem: str | None = None
    unsent: int = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, to be changed by a test."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Slots, "present", property(lambda slots: 2))
    return now


def watched(options: SearchOptions) -> tuple[Heard, Mlflow, SearchProgress]:
    line, mlflow = Heard(Console(file=io.StringIO(), width=200)), Mlflow()
    slots = Slots(1, 0, 2)
    progress = SearchProgress(cast(Line, line), options, slots, cast(Tracker, mlflow), "training")
    return line, mlflow, progress


def test_training_shows_what_is_done_the_time_left_and_the_best_with_its_interval(
    clock: list[float],
) -> None:
    line, _, progress = watched(UNSTOPPED)
    progress.beat(waiting=0)
    clock[0] += 2
    progress.beat(waiting=2)
    assert line.states[-1] == "starting workers · 0 of 4 trials"
    progress.trial_begun(0)
    clock[0] += 10
    progress.epoch_done(0, 1, 0.71, (0.65, 0.77))
    assert line.states[-1] == (
        "training · 0 of 4 trials · about 60 s left · "
        "best dice 0.7100 (0.650–0.770, trial 0) · 1 running"
    )
    clock[0] += 4
    progress.beat(waiting=2)
    assert "about 60 s left" in line.states[-1] and "1 waiting for a node" in line.states[-1]
    progress.trial_ended(row(0))
    assert line.states[-1].startswith("starting workers · 1 of 4 trials")


def test_a_cluster_without_a_node_is_waited_for(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _, progress = watched(UNSTOPPED)
    monkeypatch.setattr(Slots, "present", property(lambda slots: 0))
    clock[0] += 2
    progress.beat(waiting=2)
    assert line.states[-1].startswith("waiting for nodes · 0 of 4 trials")


def test_mlflow_that_takes_nothing_is_in_the_line_and_soon_has_one_that_stays(
    clock: list[float],
) -> None:
    line, mlflow, progress = watched(UNSTOPPED)
    progress.trial_begun(0)
    mlflow.problem, mlflow.unsent = "Connection refused\nand a traceback", 12
    for _ in range(10):
        clock[0] += 2
        progress.beat(waiting=0)
    assert "MLflow takes no records, 12 wait" in line.states[-1]
    said = cast(io.StringIO, line.console.file).getvalue()
    assert said.count("MLflow takes no records: Connection refused; they wait on disk") == 1
    mlflow.problem = None
    clock[0] += 2
    progress.beat(waiting=0)
    assert "MLflow" not in line.states[-1]
