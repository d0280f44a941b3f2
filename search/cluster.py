"""The only place that starts Ray, and knows its resources."""

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Read by Ray at import. Nothing is sent home; a run's own files are the record of its results, so
# that Tune's own loggers and snapshots would only cost time; a trial that failed before its first
# epoch has no score, and that is no reason to end the search. RAY_AUTH_MODE is left as it is: a
# cluster that Ray starts on this machine then asks everybody for a token.
for name, value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables are printed even when it is told to be quiet
    "TUNE_WARN_THRESHOLD_S": "5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a space mean the folder where one started
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(name, value)

import ray

from search.options import SearchOptions
from segcore.errors import UserError

CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Slots:
    """What one trial gets, and how many trials the cluster runs at once."""

    cpus_per_trial: int
    gpus_per_trial: float
    count: int

    @property
    def resources(self) -> dict[str, float]:
        """In Ray's words."""
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial}


@contextmanager
def connected(options: SearchOptions) -> Iterator[Slots]:
    """A Ray cluster for the length of a block: a running one, or this machine alone.

    Raises ``UserError`` where there is none at the address, or where no trial fits on it.
    """
    try:
        _check_reachable(options.address)
        ray.init(
            address=options.address,
            include_dashboard=None if options.address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except OSError as error:  # ConnectionError is one
        raise UserError(
            f"--address {options.address}: no Ray cluster answers there ({error}); "
            "start one with `ray up cluster.yaml` or `ray start --head`"
        ) from error
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    try:
        yield _slots(options, ray.cluster_resources())
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise ``OSError`` within seconds where nobody listens: Ray itself tries for five minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection(
            (host.removeprefix("ray://"), int(port)), CONNECT_TIMEOUT_S
        ).close()


def _slots(options: SearchOptions, resources: dict[str, float]) -> Slots:
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    gpus_per_trial = options.gpus_per_trial
    if gpus_per_trial is None:
        gpus_per_trial = 1.0 if gpus >= 1 else 0.0
    fitting = [cpus // options.cpus_per_trial]
    if gpus_per_trial > 0:
        # Fractions never span two GPUs.
        on_one = math.floor(1 / gpus_per_trial + 1e-9)
        fitting.append(gpus * on_one if on_one >= 1 else gpus // gpus_per_trial)
    count = int(min(fitting))
    if count < 1:
        raise UserError(
            f"a trial needs {options.cpus_per_trial} CPU(s) and {gpus_per_trial:g} GPU(s), but the "
            f"cluster has {cpus:g} and {gpus:g}; lower --cpus-per-trial or --gpus-per-trial"
        )
    return Slots(options.cpus_per_trial, gpus_per_trial, count)
