"""What a search gains by an earlier one, and loses by one that misleads: simulated.

    python -m benchmarks.warm_start --curves DIR [--seeds 8] [--jobs 2] [--out FILE]

As ``benchmarks.search_efficiency``, with freeze-thaw alone. An earlier search of the whole budget
on another table of the same family comes first; of our own table, on the scores of the areas that
its trainings are tested on. The next search begins "cold", with the two best "configurations" of
the earlier one, or with its "curves" too. "misled" is the last one with an earlier search on the
table itself, whose scores are turned upside down: its best trials are the worst.

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
from typing import Any

import numpy as np
import optuna
import tyro

from benchmarks.curve_tables import OWN_CURVES, Params, Segmentation, Table, Training, load_tables
from benchmarks.search_efficiency import METHODS, Facts, Search, facts_of
from benchmarks.search_figures import tables_of_figures
from search.forecasting.earlier import EarlierSearch
from search.planning.warm import EarlierRun, tried

PAIRS = {
    "dubai": "dubai, tested", "sigmoid": "power",
    "hyperbola": "overfitting", "3945": "7593", "126026": "34539",
    "patch32_GRU128_bs128": "patch32_VRNN64_tanh_avg_bs128",
}  # fmt: skip
"""The table that is searched, and that of the earlier search."""


@dataclass(frozen=True)
class Options:
    """Search each table after an earlier search, and compare."""

    curves: Path  # Folder with TaskSet and LCBench.
    seeds: int = 8
    tables: tuple[str, ...] = tuple(PAIRS)
    jobs: int = 2  # Processes.
    out: Path = Path("warm_start.jsonl")  # A line for each search; those that it has aren't run.


class Tested(Segmentation):
    """Our own trainings, with the scores of the areas that they are tested on."""

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """What becomes of them."""
        return [
            Training(self.mean_of(params, "test"), float(self.mean_of(params, "epoch_s")))
            for params in configurations
        ]


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


def main(options: Options) -> None:
    """Simulate what the file lacks, and print."""
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["table"], record["seed"]) for record in records}
    jobs = [(name, seed) for seed in range(options.seeds) for name in options.tables]
    missing = [job for job in jobs if job not in done]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for found in pool.imap_unordered(partial(run, options.curves), missing):
            records += found
            with options.out.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in found)
    for line in tables_of_figures(records, np.random.default_rng(0), ["cold"]):
        print(line)


def run(curves: Path, job: tuple[str, int]) -> list[Mapping[str, Any]]:
    """Records as ``search_efficiency`` writes them, of each kind of search on a table."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, seed = job
    names = [name for pair in PAIRS.items() for name in pair if name.isdigit()]
    tables = load_tables(curves, names)
    tables["dubai, tested"] = Tested(OWN_CURVES / "dubai.jsonl")
    table, source = tables[name], tables[PAIRS[name]]
    facts = facts_of(table)
    earlier = earlier_search(source, facts_of(source), 1000 + seed)
    misleading = earlier_search(UpsideDown(table), facts, 1000 + seed)
    kinds: dict[str, list[EarlierRun]] = {
        "cold": [], "configurations": [replace(earlier, trials=[])], "curves": [earlier],
        "misled": [misleading],
    }  # fmt: skip
    return [
        {
            "family": table.family, "table": name, "method": kind, "seed": seed,
            "regret": [round(value, 6) for value in regret_G.tolist()],
        }
        for kind, before in kinds.items()
        for regret_G in [Search(table, facts, METHODS["freeze-thaw"], seed, before).run()]
    ]  # fmt: skip


def earlier_search(table: Table, facts: Facts, seed: int) -> EarlierRun:
    """Its trials, as a warm start takes them."""
    search = Search(table, facts, METHODS["freeze-thaw"], seed)
    search.run()
    trials = tried(search.study.get_trials(deepcopy=False))
    return EarlierRun.of(1, EarlierSearch(trials, table.max_epochs), table.space)


if __name__ == "__main__":
    main(tyro.cli(Options))
