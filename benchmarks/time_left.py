"""How right the time is that a running search says is left.

    python -m benchmarks.time_left [--curves DIR] [--seeds 5] [--runs RUN …]

Searches by successive halving are simulated to their ends: the real strategy, sampler and study,
trainings out of tables (``benchmarks.curve_tables``), whose epochs take different times. Again and
again the time left is asked for. It is right where the true one is at most twice as long, and at
least half. Compared are the trials that have ended, counted (what the line did before). ``--runs``
replays the records of real searches.
"""

import argparse
import heapq
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState

from benchmarks.curve_tables import Table, load_tables
from search.planning.halving import Halving
from search.planning.sampler import RungTPESampler
from search.planning.strategies import decision_epochs
from search.runs.options import SearchOptions
from search.tracking.outbox import read_records
from search.trials.estimate import TimeLeft

START_EPOCHS = 0.5
"""What the start of a trial costs."""
SIZES = ((2, 10), (2, 30), (4, 60))
"""Workers, and trials."""


ASKED = 100
"""So often the time left is asked for in a search."""


class Said(NamedTuple):
    """What was said after an epoch."""

    now_s: float
    left_s: float | None
    counted_s: float | None
    """By the trials that ended."""


class Event(NamedTuple):
    """What happened in a search."""

    now_s: float
    number: int
    score: float | None
    """Of an epoch; None for a beginning or an end."""
    epoch: int = 0
    """0 for a beginning, −1 for an end."""


def listen(events: Sequence[Event], options: SearchOptions, slots: int) -> list[Said]:
    """Ask again and again in a search how much time is left."""
    left, ended, said = TimeLeft(options, lambda: slots), 0, []
    asked_s = every_s = max(event.now_s for event in events) / ASKED
    for event in events:
        if event.epoch == 0:
            left.begun(event.number, event.now_s)
        elif event.score is None:
            ended += 1
            left.ended(event.number, is_over=True)
        else:
            left.epoch_done(event.number, event.epoch, event.score, event.now_s)
            if event.now_s < asked_s:
                continue
            asked_s += every_s
            counted_s = event.now_s / ended * (options.trials - ended) if ended else None
            said.append(Said(event.now_s, left.seconds(event.now_s), counted_s))
    return said


def simulate(table: Table, workers: int, trials: int, seed: int) -> tuple[list[Event], float]:
    """What happens in a search, and how long it takes."""
    options = options_for(table, trials)
    study = optuna.create_study(
        direction="maximize", sampler=RungTPESampler(decision_epochs(options), seed=seed)
    )
    strategy = Halving(
        study, grace_epochs=options.grace_epochs, max_epochs=options.max_epochs, reduction_factor=3
    )
    rng = np.random.default_rng(seed)
    begun = 0

    def work(record: Callable[..., None]) -> Iterator[float]:
        nonlocal begun
        while begun < trials:
            begun += 1
            trial = study.ask()
            table.space(trial)
            (training,) = table.trainings([trial.params])
            noise_T = table.noise * rng.standard_normal(table.max_epochs)
            record(trial.number, None, 0)
            yield START_EPOCHS * training.epoch_seconds
            for epoch, score in enumerate((training.scores_T + noise_T).tolist(), 1):
                yield training.epoch_seconds * rng.uniform(0.9, 1.1)
                trial.report(score, epoch)
                record(trial.number, score, epoch)
                if not strategy.goes_on(trial.number, epoch):
                    break
            study.tell(trial, state=TrialState.PRUNED)
            record(trial.number, None, -1)

    events: list[Event] = []
    now_s = 0.0

    def record(number: int, score: float | None, epoch: int) -> None:
        events.append(Event(now_s, number, score, epoch))

    queue = [(0.0, worker, work(record)) for worker in range(workers)]
    while queue:
        now_s, worker, steps = heapq.heappop(queue)
        if (step_s := next(steps, None)) is not None:
            heapq.heappush(queue, (now_s + step_s, worker, steps))
    return events, now_s


def options_for(table: Table, trials: int) -> SearchOptions:
    """Those of a simulated search."""
    return SearchOptions(trials=trials, max_epochs=table.max_epochs, grace_epochs=2)


def replay(run: Path) -> tuple[list[Event], float, SearchOptions]:
    """What happened in a real search of one session, until its last trial ended."""
    options = SearchOptions.from_dict(yaml.safe_load((run / "run.yaml").read_text()))
    records = [r for r in read_records(run / "tracking.jsonl") if r["trial"] is not None]
    start_ms, events = records[0]["time_ms"], []
    for record in records:
        now_s, number = (record["time_ms"] - start_ms) / 1000, record["trial"]
        match record["kind"]:
            case "start":
                events.append(Event(now_s, number, None))
            case "epoch":
                score = record["metrics"][options.score_key]
                events.append(Event(now_s, number, score, record["epoch"]))
            case "end":
                events.append(Event(now_s, number, None, -1))
    return events, events[-1].now_s, options


def right(said: Sequence[Said], end_s: float) -> tuple[float, float]:
    """The share of what was said that was right, of both ways.

    It is asked at equal distances, from a tenth of the time to nine.
    """
    times = [each.now_s for each in said]
    marks = np.searchsorted(times, np.linspace(0.1, 0.9, 17) * end_s)
    later = [said[mark] for mark in marks if mark < len(said)]
    shares = []
    for place in (1, 2):
        ratios = [(each[place] or math.inf) / (end_s - each.now_s) for each in later]
        shares.append(float(np.mean([0.5 <= ratio <= 2 for ratio in ratios])))
    return shares[0], shares[1]


def main() -> None:
    """Simulate, or replay, and print."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", nargs="+")
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    for run in arguments.runs:
        events, end_s, options = replay(run)
        ours, counted = right(listen(events, options, 2), end_s)
        print(f"{run.name:<30} {end_s:6.0f} s  {ours:5.0%} {counted:5.0%}", flush=True)
    if arguments.runs:
        return
    tables = load_tables(arguments.curves, ())
    for workers, trials in SIZES:
        for name, table in tables.items():
            if arguments.tables and name not in arguments.tables:
                continue
            shares = []
            for seed in range(arguments.seeds):
                events, end_s = simulate(table, workers, trials, seed)
                shares.append(right(listen(events, options_for(table, trials), workers), end_s))
            ours, counted = np.mean(shares, axis=0)
            worst = min(share for share, _ in shares)
            print(
                f"{workers} workers  {trials:>4} trials  {name:<26} {ours:5.0%} (worst seed "
                f"{worst:.0%})  counted {counted:5.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
