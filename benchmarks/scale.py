"""python -m benchmarks.scale: what a search gains by sampling the scale, on real trainings' curves.

Searches are simulated on each table of ``benchmarks/curves`` as ``benchmarks.search_efficiency``
does: once where photographs may be squeezed whole or cut into windows of any scale, and once where
all are squeezed, in as many seconds. Printed are the validation and the test score of the trial and
epoch that are best on the validation split.

Prediction, before the first run: +8 points on the validation split and +3 on the test.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import tyro
from optuna.trial import BaseTrial

from benchmarks.curve_tables import OWN_CURVES, Segmentation
from benchmarks.search_efficiency import METHODS, Facts, Search, facts_of


@dataclass(frozen=True)
class Options:
    """Simulate searches with the scale and without it."""

    seeds: int = 20
    methods: tuple[str, ...] = ("BOHB's rule", "freeze-thaw")


class Whole(Segmentation):
    """All photographs are squeezed whole."""

    def space(self, trial: BaseTrial) -> object:
        """The grid's ranges, but for the scale."""
        return self.ask_of_network(trial)


def main(options: Options) -> None:
    """Print a line for each table and method, in points of the score."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for path in sorted(OWN_CURVES.glob("*.jsonl")):
        any_scale, whole = Segmentation(path), Whole(path)
        facts = facts_of(any_scale)
        for method in options.methods:
            found = [
                [chosen(table, facts, method, seed) for seed in range(options.seeds)]
                for table in (any_scale, whole)
            ]
            print_line(f"{any_scale.name}, {method}", *found)


def chosen(table: Segmentation, facts: Facts, method: str, seed: int) -> tuple[float, float]:
    """What a search chooses: its scores on the splits "val", as reported, and "test"."""
    search = Search(table, facts, METHODS[method], seed)
    search.run()
    reports = [
        (float(live.reported_T[epoch]), live.trial.params, epoch)
        for live in search.live.values()
        for epoch in range(live.epoch)
    ]
    score, params, epoch = max(reports, key=lambda report: report[0])
    return score, float(table.mean_of(params, "test")[epoch])


def print_line(name: str, any_scale: Sequence[Any], whole: Sequence[Any]) -> None:
    """Means, and the mean of the differences with its standard error, in points."""
    ours_S2, theirs_S2 = 100 * np.array(any_scale), 100 * np.array(whole)
    gain_S2 = ours_S2 - theirs_S2
    error_2 = gain_S2.std(axis=0, ddof=1) / len(gain_S2) ** 0.5
    for column, split in enumerate(("val", "test")):
        print(
            f"{name}, {split}: any scale {ours_S2[:, column].mean():.1f}, whole "
            f"{theirs_S2[:, column].mean():.1f}, gain {gain_S2[:, column].mean():+.1f} ± "
            f"{error_2[column]:.1f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
