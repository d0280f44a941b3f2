"""Whether one driver keeps many slots busy, by freeze-thaw: its real code, without the trainings.

    python -m benchmarks.many_slots [--slots 100 1000] [--epoch-s 60] [--reports 1000]

A clock is simulated: slots train epochs out of a synthetic table (``benchmarks.curve_tables``), and
each report and each free slot waits until the one driver has time for it. What the driver does
then is real, on a journal file: searcher, scheduler, strategy, and which checkpoints stay. It takes
as long as it took on one core here. Busy is the share of the slots' time in which they train or
start; the first ``--reports`` reports of epochs are left out, and as many are measured.

Ray's own share and the worker's are not in it.
"""

import argparse
import heapq
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import BaseTrial

from benchmarks.curve_tables import Synthetic
from search.planning.freeze_thaw import FreezeThaw
from search.runs.rows import read_rows
from search.runs.study import SearchStudy, open_study
from search.trials.keeping import kept_trials
from search.trials.searcher import EPOCH_S, StudyScheduler, StudySearcher
from segcore.config import TrialConfig

METRIC = "val/dice"
START_EPOCHS = 0.3
CANDIDATES = 16
"""Trials that the ensemble may choose from: they bound how many checkpoints stay."""


@dataclass
class Cluster:
    """Slots that train, and one driver that they all wait for."""

    slots: int
    mean_epoch_s: float
    study: SearchStudy
    table: Synthetic = field(default_factory=lambda: Synthetic("power"))
    driver_free_s: float = 0.0
    reports: int = 0
    waited_s: float = 0.0
    driver_s: float = 0.0
    since_s: float = 0.0

    def __post_init__(self) -> None:
        strategy = FreezeThaw(self.study, self._space, max_epochs=self.table.max_epochs)
        self._searcher = StudySearcher(
            self.study, self._space, strategy,
            metric=METRIC, planned_trials=10**6, finish=lambda config, number: config,
            capacity=lambda: self.slots, pauses=True,
        )  # fmt: skip
        self._scheduler = StudyScheduler(self._searcher, why=str)
        self._rng = np.random.default_rng(0)
        self._events: list[tuple[float, int, Any]] = [(0.0, i, None) for i in range(self.slots)]
        self._count = self.slots

    def _space(self, trial: BaseTrial) -> TrialConfig:
        self.table.space(trial)
        return TrialConfig()

    def run(self, reports: int) -> None:
        """Until so many more epochs are reported; figures are of these."""
        self.reports, self.waited_s, self.driver_s = 0, 0.0, 0.0
        self.since_s = self.driver_free_s
        while self.reports < reports:
            at_s, _, trial = heapq.heappop(self._events)
            begin_s = max(at_s, self.driver_free_s)
            began = time.thread_time()
            following = self._begin() if trial is None else self._report(trial)
            took_s = time.thread_time() - began
            self.driver_free_s = begin_s + took_s
            self.waited_s += self.driver_free_s - at_s
            self.driver_s += took_s
            delay_s = 0.0 if following is None else following.next_s
            self._count += 1
            heapq.heappush(self._events, (self.driver_free_s + delay_s, self._count, following))

    def _begin(self) -> SimpleNamespace:
        """A free slot gets a trial."""
        trial = SimpleNamespace(trial_id=f"turn-{self._count}")
        trial.config = self._searcher.suggest(trial.trial_id)
        params = self.study.get_trials(deepcopy=False)[trial.config["trial_number"]].params
        (training,) = self.table.trainings([params])
        trial.scores_T = training.scores_T
        trial.epoch_s = self.mean_epoch_s * self._rng.uniform(0.5, 1.5)
        trial.next_s = (1 + START_EPOCHS) * trial.epoch_s
        trial.epoch = trial.config["known_epochs"]
        return trial

    def _report(self, trial: SimpleNamespace) -> SimpleNamespace | None:
        """An epoch is reported; the trial, if it goes on."""
        self.reports += 1
        trial.epoch += 1
        score = trial.scores_T[trial.epoch - 1] + self.table.noise * self._rng.standard_normal()
        result = {
            "epoch": trial.epoch, METRIC: float(score), EPOCH_S: trial.epoch_s,
            "finished": trial.epoch == self.table.max_epochs,
        }  # fmt: skip
        trial.next_s = trial.epoch_s
        if self._scheduler.on_trial_result(None, trial, result) == StudyScheduler.CONTINUE:
            return trial
        self._searcher.on_trial_complete(trial.trial_id, result)
        rows = read_rows(self.study)
        kept = kept_trials(rows, CANDIDATES)
        for row in rows:
            if row.status == "paused" and row.number not in kept:
                self.study.stop_paused(row.number)
        return None


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--epoch-s", type=float, default=60.0, help="mean seconds of an epoch")
    parser.add_argument("--reports", type=int, default=1000, help="epochs that are measured")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for slots in options.slots:
        with tempfile.TemporaryDirectory() as folder:
            study = open_study(Path(folder) / "study.journal", name="many", create=True)
            cluster = Cluster(slots, options.epoch_s, study)
            cluster.run(options.reports)
            cluster.run(options.reports)
            passed_s = cluster.driver_free_s - cluster.since_s
            print(
                f"{slots} slots: busy {1 - cluster.waited_s / (slots * passed_s):.3f}; "
                f"{cluster.reports / passed_s:.1f} reports a second, of "
                f"{cluster.reports / cluster.driver_s:.1f} that the driver could take; "
                f"{len(study.get_trials(deepcopy=False))} trials begun",
                flush=True,
            )


if __name__ == "__main__":
    main()
