"""A search that is shot at: is anything lost, or there twice?

    python -m benchmarks.soak [--trials 200] [--strategy freeze-thaw] [--seed 0] [--out FOLDER]

A search of tiny trials runs against an MLflow server of its own, both as processes. Again and again
a random one is killed (SIGKILL): mostly a worker, now and then the search's own process, which is
then resumed, or the MLflow server, which stays away for some seconds. At the end trials, epochs and
MLflow's runs are counted, and how MLflow says that each trial ended. A search that ends in an error
without having been shot ends the benchmark, but for one that was started while the server was away:
that is refused in one line, and started again.

Predicted before the first run: lost 0, doubled 0. A trial whose workers were killed four times
counts as failed, with that reason; with a hundred trials and a hit every ten seconds, few are.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import get_args

import psutil
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import BaseTrial, TrialState

from search.planning.strategies import epoch_budget
from search.reporting.command_line import BAD_INPUT
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions, StrategyName
from search.runs.rows import status_of
from search.runs.study import read_study
from search.tracking.outbox import Outbox
from segcore.config import TrialConfig

NAME = "soak"
HIT_EVERY_S = (4.0, 16.0)
SERVER_AWAY_S = 8.0
TARGETS = ["worker"] * 8 + ["driver", "server"]


def tiny_space(trial: BaseTrial) -> TrialConfig:
    """Trials of a second or two."""
    return TrialConfig(
        height_px=64, width_px=64, architecture="scratch_unet", encoder=None,
        model_kwargs={"base_channels": 4, "depth": 2}, batch_size=10, augment_strength=0.2,
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
    )  # fmt: skip


class Soak:
    """The processes that are shot at."""

    def __init__(self, folder: Path, trials: int, strategy: StrategyName, seed: int) -> None:
        self._folder, self._rng, self._trials = folder, random.Random(seed), trials
        options = SearchOptions(strategy=strategy, trials=trials, max_epochs=4, grace_epochs=1)
        self._epochs = epoch_budget(options)
        self._run = RunFolder(folder / NAME)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.hits: Counter[str] = Counter()
        self._first = ["--space", "benchmarks.soak:tiny_space", "--trials", str(trials),
                       "--strategy", strategy, "--max-epochs", "4", "--grace-epochs", "1",
                       "--name", NAME, "--out", str(folder),
                       "--tracking-uri", self.uri]  # fmt: skip

    def run(self) -> None:
        """Search until it is done, shooting; then count."""
        self._server, self._server_is_due = self._start_server(), 0.0
        self._wait_for_server()
        self._driver = self._start_driver()
        try:
            while self._driver.poll() is None:
                time.sleep(self._rng.uniform(*HIT_EVERY_S))
                if self._driver.poll() is None:
                    self._shoot()
                self._go_on()
            self._deliver_the_rest()
            self._count()
        finally:
            for process in (self._driver, self._server):
                if process.poll() is None:
                    process.terminate()
                    process.wait()

    def _shoot(self) -> None:
        match self._rng.choice(TARGETS):
            case "worker":
                self._hit_worker()
            case "driver":
                self._hit("driver", psutil.Process(self._driver.pid))
                self._driver.wait()
            case "server" if self._server.poll() is None:
                server = psutil.Process(self._server.pid)
                self._hit("server", *server.children(recursive=True), server)
                self._server.wait()
                self._server_was_away = True
                self._server_is_due = time.monotonic() + SERVER_AWAY_S

    def _go_on(self) -> None:
        """Start again what was shot."""
        if self._server.poll() is not None and time.monotonic() > self._server_is_due:
            self._server = self._start_server()
        if self._driver.poll() == -signal.SIGKILL:
            self._driver = self._start_driver()
        elif self._driver.poll() == BAD_INPUT and self._server_was_away:
            self.hits["a start that was refused, for the server was away"] += 1
            if self._server.poll() is not None:
                self._server = self._start_server()
            self._wait_for_server()
            self._driver = self._start_driver()
        elif self._driver.poll() not in (None, 0):
            raise SystemExit(
                f"the search ended by itself with exit code {self._driver.poll()}:\n"
                f"{self._output.read_text(errors='replace')[-5000:]}"
            )

    def _deliver_the_rest(self) -> None:
        """What the last session could not deliver is delivered by the next."""
        if self._server.poll() is not None:
            self._server = self._start_server()
        self._wait_for_server()
        outbox = Outbox(self._run.outbox)
        unsent = outbox.unsent_count
        outbox.close()
        if unsent:
            print(f"{unsent} records were left for one more session to deliver")
            self._driver = self._start_driver()
            self._driver.wait()
            self._go_on()

    def _hit_worker(self) -> None:
        try:
            processes = psutil.Process(self._driver.pid).children(recursive=True)
            workers = [p for p in processes if "ImplicitFunc" in " ".join(p.cmdline())]
        except psutil.NoSuchProcess:
            return
        if workers:
            self._hit("worker", self._rng.choice(workers))

    def _hit(self, what: str, *processes: psutil.Process) -> None:
        self.hits[what] += 1
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def _start_server(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db",
             "--artifacts-destination", str(self._folder / "artifacts")],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _wait_for_server(self) -> None:
        while not self._server_answers():
            time.sleep(0.5)

    def _server_answers(self) -> bool:
        with socket.socket() as knock:
            return knock.connect_ex(("127.0.0.1", self._port)) == 0

    @property
    def _output(self) -> Path:
        return self._folder / "output.txt"

    def _start_driver(self) -> subprocess.Popen[bytes]:
        # Killed before it wrote its record, there is nothing to resume: a person starts it again.
        begun = self._run.record.is_file()
        self._server_was_away = not self._server_answers()
        arguments = ["--resume", str(self._run.path)] if begun else self._first
        with self._output.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "search.run", *arguments], stdout=output, stderr=output
            )

    def _count(self) -> None:
        trials = read_study(self._run).trials
        runs = self._trial_runs()
        lost, doubled = Counter[str](), Counter[str]()
        if self._epochs is None:  # else the search may end before all trials are begun
            lost["trials"] = max(0, self._trials - len(trials))
        doubled["trials"] = max(0, len(trials) - self._trials)
        for trial in trials:
            epochs = set(trial.intermediate_values)
            lost["epochs in the study"] += len(set(range(1, max(epochs, default=0) + 1)) - epochs)
            lost["ends of trials"] += not trial.state.is_finished()
            of_trial = runs.pop(trial.number, [])
            lost["runs"] += not of_trial
            doubled["runs"] += max(0, len(of_trial) - 1)
            for run in of_trial:
                logged = self._client.get_metric_history(run.info.run_id, "val/dice")
                steps = Counter(metric.step for metric in logged)
                doubled["epochs in MLflow"] += sum(count - 1 for count in steps.values())
                lost["epochs in MLflow"] += len(epochs - set(steps))
                status = run.data.tags.get("segsearch.status")
                lost["ends in MLflow"] += status != status_of(trial)
        doubled["runs"] += sum(map(len, runs.values()))  # of trials that the study hasn't
        states = Counter(trial.state.name for trial in trials)
        failures = Counter(trial.user_attrs.get("failure") for trial in trials) - Counter([None])
        epochs_done = sum(len(trial.intermediate_values) for trial in trials)
        # A failed trial's epochs may be left over, where all others were trained to their ends.
        all_ended = all(trial.state in (TrialState.COMPLETE, TrialState.FAIL) for trial in trials)
        if self._epochs is not None and not all_ended:
            lost["epochs of the search"] = max(0, self._epochs - epochs_done)
        print(f"{len(trials)} trials {dict(states)}, {epochs_done} epochs; shot: {dict(self.hits)}")
        for reason, count in failures.items():
            if reason is not None:
                print(f"  {count} failed: {reason}")
        print(f"lost {lost.total()} {dict(+lost)}, doubled {doubled.total()} {dict(+doubled)}")

    def _trial_runs(self) -> dict[int, list[Run]]:
        """MLflow's runs by the number of their trial."""
        self._client = MlflowClient(self.uri)
        experiment = self._client.get_experiment_by_name("segsearch")
        assert experiment is not None
        runs: dict[int, list[Run]] = {}
        for run in self._client.search_runs([experiment.experiment_id], max_results=5000):
            if "segsearch.trial" in run.data.tags:
                number = int(run.data.tags["segsearch.trial"].rpartition("/")[2])
                runs.setdefault(number, []).append(run)
        return runs


def main() -> None:
    """Shoot, count, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--strategy", choices=get_args(StrategyName), default="halving")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a new folder to keep; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept: Path = options.out or Path(folder)
        kept.mkdir(parents=True, exist_ok=kept == Path(folder))
        started = time.monotonic()
        Soak(kept.absolute(), options.trials, options.strategy, options.seed).run()
        print(f"{(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
