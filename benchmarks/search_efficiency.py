"""How much search a second buys: strategies on learning curves, synthetic and real.

    python -m benchmarks.search_efficiency --curves DIR [--seeds 20] [--jobs 2] [--out FILE]
    python -m benchmarks.search_efficiency --report FILE [FILE …]

Four workers run asynchronously until each has spent the seconds of five mean full trainings
(20 altogether). To start a trial, or to resume a paused one, costs 0.3 of its epochs. The
strategies are the real ones, on a real study; only the trainings are tables
(``benchmarks.curve_tables``). Regret is the best attainable score minus the noise-free score of the
epoch that reported the best one.
"""

import argparse
import functools
import heapq
import json
import multiprocessing
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.curve_tables import (
    Table,
    Training,
    best_score,
    load_tables,
    mean_epoch_seconds,
)
from benchmarks.search_figures import tables_of_figures
from search.forecasting.kernel import Array
from search.planning.freeze_thaw import FreezeThaw
from search.planning.halving import Halving, rungs
from search.planning.sampler import RungTPESampler
from search.planning.strategy import Resume, Start, Strategy
from search.planning.warm import EarlierRun, begin_warm
from search.runs.attributes import EPOCH_SECONDS, PAUSED, STARTED_SECONDS, is_paused

WORKERS = 4
FULL_TRAININGS = 20
START_EPOCHS = 0.3
GRID = 200
"""Regret is noted at so many equal parts of the budget."""
LCBENCH_TASKS = ("3945", "7593", "34539", "126026", "146212", "167104")


class Unstopped:
    """Every trial is trained to the end."""

    def next(self) -> Resume | Start:
        """A new trial."""
        return Start(None)

    def goes_on(self, number: int, epoch: int) -> bool:
        """Always."""
        return True


class TopAfterOneEpoch:
    """Half of the budget goes to random trials of one epoch, then the best are trained on.

    Bohdal et al. (arXiv 2307.15422): one epoch is a strong baseline.
    """

    def __init__(self, search: "Search") -> None:
        self._search = search

    def next(self) -> Resume | Start:
        """The best that is paused, once half of the budget is spent."""
        paused = [t for t in self._search.study.get_trials(deepcopy=False) if is_paused(t)]
        if self._search.spent < 0.5 or not paused:
            return Start(None)
        return Resume(max(paused, key=lambda t: t.intermediate_values[1]).number)

    def goes_on(self, number: int, epoch: int) -> bool:
        """In the second half, or past its first epoch."""
        return epoch > 1 or self._search.spent >= 0.5


class Method(NamedTuple):
    """A strategy, its sampler, and what becomes of trials that don't go on."""

    strategy: Callable[["Search", int], Strategy]
    sampler: Callable[["Search", int], optuna.samplers.BaseSampler]
    leaves: Literal["paused", "stopped", "told their last value"] = "paused"


def _halving(search: "Search", reduction_factor: int) -> Strategy:
    return Halving(
        search.study,
        grace_epochs=1,
        max_epochs=search.table.max_epochs,
        reduction_factor=reduction_factor,
    )


def _random(search: "Search", seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed)


def _bohb(search: "Search", seed: int) -> optuna.samplers.BaseSampler:
    return RungTPESampler(rungs(1, search.table.max_epochs, 3), seed=seed)


METHODS = {
    "stock": Method(
        lambda search, seed: _halving(search, 4),
        lambda search, seed: optuna.samplers.TPESampler(seed=seed),
        "told their last value",
    ),
    "random, ASHA": Method(lambda search, seed: _halving(search, 3), _random, "stopped"),
    "random": Method(lambda search, seed: Unstopped(), _random),
    "top after one epoch": Method(lambda search, seed: TopAfterOneEpoch(search), _random),
    "BOHB's rule": Method(lambda search, seed: _halving(search, 3), _bohb, "stopped"),
    "freeze-thaw": Method(
        lambda search, seed: FreezeThaw(
            search.study,
            search.table.space,
            max_epochs=search.table.max_epochs,
            seconds_left=lambda: (1 - search.spent) * search.facts.budget_s,
            seed=seed,
        ),
        _random,
    ),
}
"""``stock`` is Ray's ``ASHAScheduler`` and ``OptunaSearch`` with their defaults."""


class Facts(NamedTuple):
    """What is to be known of a table beforehand."""

    best: float
    budget_s: float
    """Wall-clock seconds of a search."""


@dataclass
class Live:
    """A trial with what its training will report."""

    trial: optuna.Trial
    training: Training
    reported_T: Array
    epoch: int = 0


@dataclass
class Search:
    """One simulated search."""

    table: Table
    facts: Facts
    method: Method
    seed: int
    earlier: Sequence[EarlierRun] = ()
    study: optuna.Study = field(init=False)
    strategy: Strategy = field(init=False)
    live: dict[int, Live] = field(default_factory=dict)
    now_s: float = 0.0
    best: tuple[float, float] = (-np.inf, 0.0)
    """The best reported score, and that epoch's without noise."""
    trail: list[tuple[float, float]] = field(default_factory=list)
    """Share of the budget, and the regret from then on."""

    def __post_init__(self) -> None:
        self.study = optuna.create_study(
            direction="maximize", sampler=self.method.sampler(self, self.seed)
        )
        begin_warm(self.study, self.earlier)
        self.strategy = self.method.strategy(self, self.seed)

    @property
    def spent(self) -> float:
        """Share of the budget."""
        return self.now_s / self.facts.budget_s

    def run(self) -> Array:
        """Regret at each part of the budget."""
        queue: list[tuple[float, int, Iterator[float]]] = [
            (0.0, worker, self._work()) for worker in range(WORKERS)
        ]
        while queue:
            self.now_s, worker, work = heapq.heappop(queue)
            if self.spent > 1:
                break
            heapq.heappush(queue, (self.now_s + next(work), worker, work))
        times, regrets = zip(*self.trail, strict=True)
        places = np.searchsorted(times, np.linspace(0, 1, GRID + 1)[1:], side="right")
        return np.array(regrets)[np.maximum(places - 1, 0)]

    def _work(self) -> Iterator[float]:
        """A worker's life: yields how long each step takes, and acts when that has passed."""
        while True:
            answer = self.strategy.next()
            live = self.live[answer.number] if isinstance(answer, Resume) else self._begin(answer)
            live.trial.set_user_attr(PAUSED, None)
            seconds = live.training.epoch_seconds
            live.trial.set_user_attr(STARTED_SECONDS, START_EPOCHS * seconds)
            yield START_EPOCHS * seconds
            while True:
                yield seconds
                live.trial.set_user_attr(EPOCH_SECONDS, seconds)
                if not self._report(live):
                    break

    def _begin(self, start: Start) -> Live:
        if start.params is not None:
            self.study.enqueue_trial(dict(start.params))
        trial = self.study.ask()
        self.table.space(trial)
        (training,) = self.table.trainings([trial.params])
        rng = np.random.default_rng([self.seed, trial.number])
        noise_T = self.table.noise * rng.standard_normal(self.table.max_epochs)
        luck = self.table.seed_noise * rng.standard_normal()
        self.live[trial.number] = Live(trial, training, training.scores_T + noise_T + luck)
        return self.live[trial.number]

    def _report(self, live: Live) -> bool:
        """Report an epoch; whether the trial goes on."""
        live.epoch += 1
        score, truth = live.reported_T[live.epoch - 1], live.training.scores_T[live.epoch - 1]
        live.trial.report(score, live.epoch)
        if score > self.best[0]:
            self.best = (float(score), float(truth))
            self.trail.append((self.spent, self.facts.best - float(truth)))
        if live.epoch >= self.table.max_epochs:
            self.study.tell(live.trial, float(live.reported_T.max()))
            return False
        if self.strategy.goes_on(live.trial.number, live.epoch):
            return True
        match self.method.leaves:
            case "paused":
                live.trial.set_user_attr(PAUSED, live.epoch)
            case "stopped":
                self.study.tell(live.trial, state=TrialState.PRUNED)
            case "told their last value":
                self.study.tell(live.trial, float(score))
        return False


@functools.cache
def _tables(curves: Path | None, tasks: tuple[str, ...]) -> Mapping[str, Table]:
    return load_tables(curves, tasks)


def facts_of(table: Table) -> Facts:
    """The same for every method and seed."""
    rng = np.random.default_rng(1)
    epochs = FULL_TRAININGS * table.max_epochs / WORKERS
    return Facts(best_score(table, rng), epochs * mean_epoch_seconds(table, rng))


def _facts(curves: Path | None, tasks: tuple[str, ...], name: str) -> tuple[str, Facts]:
    return name, facts_of(_tables(curves, tasks)[name])


class Job(NamedTuple):
    """One search to simulate."""

    curves: Path | None
    tasks: tuple[str, ...]
    table: str
    facts: Facts
    method: str
    seed: int


def _run(job: Job) -> dict[str, Any]:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.process_time()
    table = _tables(job.curves, job.tasks)[job.table]
    search = Search(table, job.facts, METHODS[job.method], job.seed)
    regret_G = search.run()
    return {
        "family": table.family, "table": job.table, "method": job.method, "seed": job.seed,
        "trials": len(search.live),
        "finished": sum(live.epoch == table.max_epochs for live in search.live.values()),
        "cpu_s": round(time.process_time() - started, 1),
        "regret": [round(value, 6) for value in regret_G.tolist()],
    }  # fmt: skip


def simulate(
    arguments: argparse.Namespace, done: Collection[tuple[str, str, int]]
) -> Iterator[dict[str, Any]]:
    """Every method on every table with every seed, until the time is up; seed after seed.

    Those that are ``done`` (table, method, seed) are left out.
    """
    deadline = time.monotonic() + 60 * arguments.minutes
    where = (arguments.curves, tuple(arguments.tasks))
    names = [name for name in _tables(*where) if not arguments.tables or name in arguments.tables]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        facts = dict(pool.imap_unordered(functools.partial(_facts, *where), names))
        jobs = [
            Job(*where, name, facts[name], method, seed)
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            for name in names
            for method in arguments.methods
            if (name, method, seed) not in done
        ]
        results = pool.imap_unordered(_run, jobs)
        for _ in jobs:
            try:
                yield results.next(timeout=max(deadline - time.monotonic(), 0))
            except multiprocessing.TimeoutError:
                return


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Simulate and print, or print what was simulated before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, help="folder with TaskSet and LCBench")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tables", nargs="+", help="names of tables; default: all")
    parser.add_argument("--tasks", nargs="+", default=LCBENCH_TASKS, help="tasks of LCBench")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=1e4, help="then print what is there")
    parser.add_argument(
        "--out", type=Path, help="file of the records, one JSON line each; what it has isn't redone"
    )
    parser.add_argument("--report", type=Path, nargs="+", help="print these files' records")
    arguments = parser.parse_args()
    if arguments.report:
        records = [record for path in arguments.report for record in _read(path)]
    else:
        records = _read(arguments.out) if arguments.out and arguments.out.exists() else []
        done = {(record["table"], record["method"], record["seed"]) for record in records}
        for record in simulate(arguments, done):
            records.append(record)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    for line in tables_of_figures(records, np.random.default_rng(0)):
        print(line)


if __name__ == "__main__":
    main()
