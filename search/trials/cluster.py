"""The only place that starts Ray, knows its nodes and resources, and takes signals back from it."""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.runs.options import SearchOptions
from search.runs.storage import SHARED, Location
from segcore.cores import usable_cores
from segcore.errors import UserError

CONNECT_TIMEOUT_S = 10
OURS = [Path(__file__).parents[2] / name for name in ("search", "segcore", "spaces")]
"""The folders of our own packages."""
PROBE = "seen-by-all-nodes"
"""A file of the driver's that each node looks for."""
_QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": True,
}
TIMED_OUT = "timed out during startup"
"""In what Ray 2.60 says where its node doesn't start within 30 s, which can't be changed."""
MOST_USUAL_CPUS = 8
"""A single GPU in a large node needs no process on each of its cores to feed it."""
NODES_KNOWN_FOR_S = 2.0
"""How long an answer about the nodes is used: the question comes with every suggestion."""


@dataclass
class Slots:
    """What one trial gets, and how many run at once on the nodes that are there."""

    cpus_per_trial: int
    gpus_per_trial: float
    wanted: int | None
    """``--parallel``."""
    _count: int = field(default=0, init=False)
    _asked_at: float = field(default=-math.inf, init=False)

    @property
    def resources(self) -> dict[str, float]:
        """What one trial gets, as Ray names it."""
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial}

    @property
    def present(self) -> int:
        """How many trials fit on the nodes that are there at this moment."""
        if time.monotonic() - self._asked_at > NODES_KNOWN_FOR_S:
            self._count = sum(map(self.fitting, alive_nodes()))
            self._asked_at = time.monotonic()
        return self._count

    @property
    def count(self) -> int:
        """How many trials to run at a time. Those that wait make a cluster grow."""
        return self.wanted or max(1, self.present)

    def fitting(self, node: dict[str, float]) -> int:
        """How many trials fit on a node with these resources of Ray's."""
        fitting = [node.get("CPU", 0.0) // self.cpus_per_trial]
        if self.gpus_per_trial > 0:
            # Fractions never span two GPUs.
            on_one = math.floor(1 / self.gpus_per_trial + 1e-9)
            gpus = node.get("GPU", 0.0)
            fitting.append(gpus * on_one if on_one >= 1 else gpus // self.gpus_per_trial)
        return int(min(fitting))


@contextmanager
def connected(options: SearchOptions) -> Iterator[Slots]:
    """A Ray cluster for the length of a block: a running one, or this machine alone.

    The workers of a cluster get our own packages, and what the space imported from folders of the
    user's: all nodes then run what the driver runs, and a new node needs nothing installed of it.
    So load the space before. In the block SIGTERM means Ctrl-C. Raises ``UserError`` where Ray
    doesn't start here, where no cluster is at the address, or where no trial fits on it.
    """
    with handlers_restored():
        if options.address is None:
            _give_token()
            _start()
        else:
            _join(options.address)
        take_sigterm()
        _quieten()
        try:
            yield _slots(options)
        finally:
            ray.shutdown()


def _quieten() -> None:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # repeats what failed
    # It speaks of a record of the experiment that we don't use.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)


def _give_token() -> None:
    """Keep the token of Ray's cluster in memory, where Ray can't write it to the home folder."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    try:
        kept = Path.home() / ".ray"
        kept.mkdir(exist_ok=True)
        has_home = os.access(kept, os.W_OK, effective_ids=True)
    except (OSError, RuntimeError):  # a read-only file system; a user id without a name
        has_home = False
    if not has_home:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _start() -> None:
    """Start Ray on this machine. Raises ``UserError`` where it doesn't start."""
    _check_loopback()
    for last in (False, True):
        try:
            ray.init(
                address="local",  # else Ray joins any cluster that it finds here
                num_cpus=usable_cores(),
                num_gpus=own_gpus(),
                include_dashboard=False,
                **_QUIET,
            )
        except Exception as error:  # Ray raises many, and a bare Exception after 30 seconds
            ray.shutdown()
            if last or TIMED_OUT not in str(error):
                raise UserError(_why_not_started(error)) from error
        else:
            return


def _why_not_started(error: Exception) -> str:
    reason = " ".join(str(error).split())
    if TIMED_OUT in reason:
        return (
            "Ray didn't start on this machine within 30 s, twice: it is too busy; start the search "
            "when there is less to do, or look into /tmp/ray/session_latest/logs"
        )
    if "AF_UNIX" in reason:
        return (
            f"RAY_TMPDIR {os.environ.get('RAY_TMPDIR', '')}: too long for Ray's sockets, whose "
            f"paths have at most 107 characters ({reason}); name a shorter folder, or none"
        )
    return f"Ray can't start on this machine: {reason}; see /tmp/ray/session_latest/logs"


def _check_loopback() -> None:
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        raise UserError(
            f"127.0.0.1: {error.strerror}; Ray needs it, IPv6 alone is not enough: "
            "`ip address add 127.0.0.1/8 dev lo` gives this machine that address"
        ) from error


def _join(address: str) -> None:
    """Join a running cluster. Raises ``UserError`` where there is none."""
    elsewhere = os.environ.get("RAY_ADDRESS") if address == "auto" else None
    try:
        _check_reachable(elsewhere or address)
        ray.init(
            address=address,
            runtime_env={"py_modules": [*map(str, OURS), *own_modules()]},
            **_QUIET,
        )
    except OSError as error:  # ConnectionError is one
        found = f" (RAY_ADDRESS is {elsewhere})" if elsewhere else ""
        raise UserError(
            f"--address {address}{found}: no Ray cluster answers there ({error}); "
            "start one with `ray up cluster.yaml` or `ray start --head`"
        ) from error


def own_gpus() -> int | None:
    """How many GPUs Ray is told that this machine has; None: it finds them by itself.

    It doesn't find that of a Mac, which torch uses through Metal.
    """
    return 1 if torch.backends.mps.is_available() else None


def alive_nodes() -> list[dict[str, float]]:
    """Ray's resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def on_each_node(function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """What a function gives on each node that is alive, by the node's name."""
    task = ray.remote(num_cpus=0)(function)
    nodes = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    given = [task.options(scheduling_strategy=node).remote(*arguments) for node in there]
    return dict(zip(nodes.values(), map(result_of, given), strict=True))


def result_of(task: Any) -> Any:
    """Wait for a task of Ray's, and give what its function gave, or raise what it raised."""
    try:
        return ray.get(task)
    except RayTaskError as error:  # its text has all of the worker's traceback
        raise error.cause from error


def check_shared(storage: Location) -> None:
    """Raise ``UserError`` naming the nodes that don't see what the driver wrote to ``storage``."""
    storage.write(PROBE, b"")
    if len(alive_nodes()) < 2:
        return
    seen = on_each_node(_sees, storage)
    if blind := sorted(name for name, sees in seen.items() if not sees):
        raise UserError(
            f"--out {storage}: {len(blind)} of {len(seen)} nodes don't see it "
            f"({', '.join(blind)}); {SHARED}"
        )


def own_modules() -> list[str]:
    """The files and folders that a user's space and plug-ins imported from the user's folders.

    None where Ray itself brought the folder to all nodes (``ray job submit --working-dir``).
    """
    if "working_dir" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""):
        return []
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platlib", "purelib")]
    known = tuple(f"{folder.resolve()}{os.sep}" for folder in [*installed, *OURS])
    paths = set()
    for name, module in list(sys.modules.items()):
        # Some modules, such as torch.ops, name a file that isn't there.
        file = Path(getattr(module, "__file__", None) or "")
        if file.is_file() and name != "__main__" and not str(file.resolve()).startswith(known):
            paths.add(_top(module))
    return sorted(str(path) for path in paths)


def _top(module: ModuleType) -> Path:
    """The file or folder that makes a module's top-level package importable."""
    file = Path(str(module.__file__))
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    return file if depth == 0 else file.parents[depth - 1]


def _sees(storage: Location) -> bool:
    return storage.read(PROBE) is not None


def _check_reachable(address: str) -> None:
    """Raise ``OSError`` within seconds where nobody listens: Ray itself tries for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


def _slots(options: SearchOptions) -> Slots:
    nodes = alive_nodes()
    gpus_per_trial, cpus_per_trial = options.gpus_per_trial, options.cpus_per_trial
    if gpus_per_trial is None:
        gpus_per_trial = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    if cpus_per_trial is None:
        cpus_per_trial = usual_cpus(nodes, gpus_per_trial)
    slots = Slots(cpus_per_trial, gpus_per_trial, options.parallel)
    if slots.present < 1 and options.parallel is None:
        cluster = ray.cluster_resources()
        raise UserError(
            f"a trial needs {cpus_per_trial} CPU(s) and {gpus_per_trial:g} GPU(s) on one "
            f"node, but the cluster has {cluster.get('CPU', 0):g} and {cluster.get('GPU', 0):g}; "
            "lower --cpus-per-trial or --gpus-per-trial, or give --parallel where nodes come when "
            "trials wait"
        )
    return slots


def usual_cpus(nodes: Sequence[dict[str, float]], gpus_per_trial: float) -> int:
    """How many cores a trial gets where nobody says it; ``nodes`` are resources as Ray names them.

    On a CPU one. Beside a GPU it loads images with all that a node has for it, of those nodes where
    that is the least.
    """
    if gpus_per_trial == 0:
        return 1
    trials = [(node, Slots(1, gpus_per_trial, wanted=None).fitting(node)) for node in nodes]
    shares = [int(node["CPU"] // fitting) for node, fitting in trials if fitting]
    return min(MOST_USUAL_CPUS, *shares) if shares else 1


@contextmanager
def handlers_restored() -> Iterator[None]:
    """After the block Ctrl-C and SIGTERM mean what they meant before it.

    Ray takes SIGTERM for a cluster that it starts, and Ray Tune keeps SIGINT when its trials have
    ended: the next Ctrl-C would do nothing.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if _may_set_handlers():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def take_sigterm() -> None:
    """Let SIGTERM, by which batch systems and ``docker stop`` end a process, mean Ctrl-C.

    Ray's own handler would end Ray's processes at once, and this one with them.
    """
    if _may_set_handlers():
        signal.signal(signal.SIGTERM, _interrupt)


def _may_set_handlers() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does now, also where a shell in the background has it ignored."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    if callable(ctrl_c):  # Ray Tune's own, while trials run
        ctrl_c(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt
