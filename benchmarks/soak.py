"""A search that is shot at: is anything lost, or there twice?

    python -m benchmarks.soak [--trials 200] [--seed 0]

A search of tiny trials runs against an MLflow server of its own, both as processes. Again and again
a random one is killed (SIGKILL): mostly a worker, now and then the search's own process, which is
then resumed, or the MLflow server, which stays away for some seconds. At the end trials, epochs and
MLflow's runs are counted.

Predicted before the first run: lost 0, doubled 0. A trial whose workers were killed four times
counts as failed, with that reason; with a hundred trials and a hit every ten seconds, few are.
"""

import argparse
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

import optuna
import psutil
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial

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

    def __init__(self, folder: Path, trials: int, seed: int) -> None:
        self._folder, self._rng = folder, random.Random(seed)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.hits: Counter[str] = Counter()
        self._first = ["--space", "benchmarks.soak:tiny_space", "--trials", str(trials),
                       "--max-epochs", "4", "--grace-epochs", "1", "--name", NAME,
                       "--out", str(folder), "--tracking-uri", self.uri]  # fmt: skip

    def run(self) -> None:
        """Search until it is done, shooting."""
        server, server_is_due = self._start_server(), 0.0
        self._wait_for_server()
        driver = self._start_driver(self._first)
        try:
            while driver.poll() != 0:
                if driver.poll() is not None:
                    driver = self._start_driver(["--resume", str(self._folder / NAME)])
                time.sleep(self._rng.uniform(*HIT_EVERY_S))
                if server.poll() is not None and time.monotonic() > server_is_due:
                    server = self._start_server()
                match self._rng.choice(TARGETS):
                    case "worker":
                        self._hit_worker(driver)
                    case "driver":
                        self._hit("driver", psutil.Process(driver.pid))
                        driver.wait()
                    case "server" if server.poll() is None:
                        self._hit("server", *psutil.Process(server.pid).children(recursive=True))
                        self._hit("server", psutil.Process(server.pid))
                        server.wait()
                        server_is_due = time.monotonic() + SERVER_AWAY_S
            if server.poll() is not None:
                server = self._start_server()
                self._wait_for_server()
                # What the last session could not deliver is delivered by the next.
                self._start_driver(["--resume", str(self._folder / NAME)]).wait()
            self._count()
        finally:
            for process in [driver, server]:
                if process.poll() is None:
                    process.terminate()

    def _hit_worker(self, driver: subprocess.Popen[bytes]) -> None:
        try:
            processes = psutil.Process(driver.pid).children(recursive=True)
            workers = [p for p in processes if "ImplicitFunc" in " ".join(p.cmdline())]
        except psutil.NoSuchProcess:
            return
        if workers:
            self._hit("worker", self._rng.choice(workers))

    def _hit(self, what: str, *processes: psutil.Process) -> None:
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
                self.hits[what] += 1
            except psutil.NoSuchProcess:
                continue

    def _start_server(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db",
             "--artifacts-destination", str(self._folder / "artifacts")],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _wait_for_server(self) -> None:
        while True:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.5)

    def _start_driver(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "search.run", *arguments], stdout=output, stderr=output
            )

    def _count(self) -> None:
        journal = self._folder / NAME / "study.journal"
        storage = JournalStorage(JournalFileBackend(str(journal)))
        trials = optuna.load_study(study_name=NAME, storage=storage).trials
        states = Counter(trial.state.name for trial in trials)
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("segsearch")
        assert experiment is not None
        runs = [
            run
            for run in client.search_runs([experiment.experiment_id], max_results=5000)
            if "segsearch.trial" in run.data.tags
        ]
        numbers = Counter(int(r.data.tags["segsearch.trial"].rpartition("/")[2]) for r in runs)
        lost = doubled = 0
        for trial in trials:
            epochs = sorted(trial.intermediate_values)
            lost += len(set(range(1, max(epochs, default=0) + 1)) - set(epochs))
            lost += numbers[trial.number] == 0
            doubled += max(0, numbers[trial.number] - 1)
        for run in runs:
            number = int(run.data.tags["segsearch.trial"].rpartition("/")[2])
            logged = client.get_metric_history(run.info.run_id, "val/dice")
            steps = Counter(metric.step for metric in logged)
            doubled += sum(count - 1 for count in steps.values())
            lost += len(set(trials[number].intermediate_values) - set(steps))
        print(f"{len(trials)} trials ({dict(states)}), {len(runs)} MLflow runs; {dict(self.hits)}")
        print(f"lost {lost}, doubled {doubled}")


def main() -> None:
    """Shoot, count, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        Soak(Path(folder), options.trials, options.seed).run()
        print(f"{(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
