"""What a search gains by an earlier one, and loses by one that misleads: simulated.

    python -m benchmarks.warm_start --curves DIR [--seeds 8] [--jobs 2] [--out FILE]

As ``benchmarks.search_efficiency``, with freeze-thaw alone. An earlier search of the whole budget
on another table of the same family comes first; the next one begins "cold", with the two best
"configurations" of it, or with its "curves" too. "misled" is the last one with an earlier search on
the table itself, whose scores are turned upside down: its best trials are the worst.

Prediction, before the first run: of the budget that a cold search needs, configurations need 0.85
and curves 0.6; a misled one needs 1.1 times as much, which is two of twenty full trainings.
"""

import json
import multiprocessing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import tyro

from benchmarks.curve_tables import Params, Table, Training, load_tables
from benchmarks.search_efficiency import METHODS, Facts, Search, facts_of
from benchmarks.search_figures import tables_of_figures
from search.planning.warm import EarlierRun

PAIRS = {
    "sigmoid": "power", "hyperbola": "overfitting", "3945": "7593", "126026": "34539",
    "patch32_GRU128_bs128": "patch32_VRNN64_tanh_avg_bs128",
}  # fmt: skip
"""The table that is searched, and that of the earlier search."""
KINDS = ("cold", "configurations", "curves", "misled")


@dataclass(frozen=True)
class Options:
    """Search each table after an earlier search, and compare."""

    curves: Path  # Folder with TaskSet and LCBench.
    seeds: int = 8
    jobs: int = 2  # Processes.
    out: Path = Path("warm_start.jsonl")  # A line for each search; those that it has aren't run.


class UpsideDown:
    """A table whose best trainings are the worst."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.family, self.name = table.family, table.name
        self.max_epochs, self.space = table.max_epochs, table.space
        self.noise, self.seed_noise = table.noise, table.seed_noise

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """What becomes of them."""
        found = self._table.trainings(configurations)
        return [Training(-training.scores_T, training.epoch_seconds) for training in found]


class Job(NamedTuple):
    """One earlier search, and one after it."""

    table: str
    seed: int
    kind: str


def main(options: Options) -> None:
    """Simulate what the file lacks, and print."""
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(r["table"], r["seed"], r["method"]) for r in records}
    jobs = [Job(t, s, k) for s in range(options.seeds) for t in PAIRS for k in KINDS]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        missing = [job for job in jobs if job not in done]
        for record in pool.imap_unordered(partial(run, options.curves), missing):
            records.append(record)
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
    for line in tables_of_figures(records, np.random.default_rng(0), ["cold"]):
        print(line)


def run(curves: Path, job: Job) -> Mapping[str, Any]:
    """A record as ``search_efficiency`` writes them."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables = load_tables(
        curves, [name for pair in PAIRS.items() for name in pair if name.isdigit()]
    )
    table = tables[job.table]
    earlier = []
    if job.kind != "cold":
        source = UpsideDown(table) if job.kind == "misled" else tables[PAIRS[job.table]]
        earlier.append(earlier_search(source, 1000 + job.seed))
    if job.kind == "configurations":
        earlier = [replace(each, trials=[]) for each in earlier]
    search = Search(table, facts_of(table), METHODS["freeze-thaw"], job.seed, earlier)
    return {
        "family": table.family, "table": job.table, "method": job.kind, "seed": job.seed,
        "regret": [round(value, 6) for value in search.run().tolist()],
    }  # fmt: skip


def earlier_search(table: Table, seed: int) -> EarlierRun:
    """Its trials, as a warm start takes them."""
    budget_s = facts_of(table).budget_s
    search = Search(table, Facts(0.0, budget_s), METHODS["freeze-thaw"], seed)
    search.run()
    trials = search.study.get_trials(deepcopy=False)
    return EarlierRun.of(1, trials, table.space, table.max_epochs)


if __name__ == "__main__":
    main(tyro.cli(Options))
