"""What a search will take: time, from a few measured steps of each network, and shared memory."""

import math
import os
import shutil
from pathlib import Path

import ray

from search.planning.plan import Plan
from search.planning.strategies import most_epochs
from search.runs.storage import NodeCopy
from search.trials.cluster import Slots, alive_nodes, on_each_node, result_of
from search.trials.slot import PRETEND_GPUS, prepare_process
from segcore.config import TrialConfig
from segcore.data.building import Tell, untold
from segcore.data.prepared import PreparedData, open_prepared
from segcore.errors import UserError
from segcore.training.fit import time_steps
from segcore.training.loading import windows_per_epoch

SHARED_MEMORY = Path("/dev/shm")
"""Where processes that load windows hand them to the trial on a GPU, on Linux. macOS has no such
folder, and no such limit."""
BATCHES_AHEAD = 2
"""So many batches torch has each of these processes keep ready."""


def estimate_s(plan: Plan, slots: Slots, tell: Tell = untold) -> float:
    """Seconds that a search will take, from training steps measured where trials will run.

    The same number of pixels goes through each network in an epoch. Validation isn't measured: each
    of its pixels counts as a third of a trained one, because nothing is learned from it.
    """
    options = plan.options
    steps_s = zip(measure(plan, slots, tell), plan.networks, strict=True)
    epoch_s = [
        step_s / config.batch_size / _window_px(config) * _epoch_px(plan.data, config)
        for step_s, config in steps_s
    ]
    mean_s = sum(epoch_s) / len(epoch_s) / slots.count
    search_s = min(most_epochs(options) * mean_s, options.time_budget_s or math.inf)
    return search_s + options.final_trainings * options.max_epochs * mean_s


def _epoch_px(data: PreparedData, config: TrialConfig) -> float:
    """Pixels of an epoch, with a third of those that the network sees of the validation split."""
    trained_px = windows_per_epoch(data, config) * _window_px(config)
    grids = (data.grid(photo, config.view) for photo in data.of_split("val"))
    return trained_px + sum(max(grid.area_px, _window_px(config)) for grid in grids) / 3


def _window_px(config: TrialConfig) -> int:
    return config.height_px * config.width_px


def measure(plan: Plan, slots: Slots, tell: Tell = untold) -> list[float]:
    """Seconds of a training step of each of the plan's networks, in the same order."""
    cpus, gpus = slots.cpus_per_trial, slots.gpus_per_trial
    task = ray.remote(_measure_one).options(num_cpus=cpus, num_gpus=gpus)
    data = plan.data_on_nodes
    tasks = [task.remote(config, data, cpus, gpus) for config in plan.networks]
    steps_s = []
    for done, measured in enumerate(tasks):
        tell("measuring a few steps of each network", done, len(tasks))
        steps_s.append(result_of(measured))
    return steps_s


def _measure_one(config: TrialConfig, data: NodeCopy, cpus: int, gpus: float) -> float:
    device = prepare_process(cpus, gpus)
    return time_steps(
        config,
        open_prepared(data.folder()),
        device=device,
        loader_workers=cpus if device.type != "cpu" else 0,
    )


def check_shared_memory(plan: Plan, slots: Slots) -> None:
    """Raise ``UserError`` naming the nodes whose shared memory can't hold what trials load.

    Docker gives a container 64 MB, and a process that needs more is killed with a bus error. A
    trial on a CPU loads its windows itself, and needs none.
    """
    if slots.gpus_per_trial == 0 or os.environ.get(PRETEND_GPUS):
        return
    at_once = min(slots.count, max(map(slots.fitting, alive_nodes())))
    needed = at_once * slots.cpus_per_trial * BATCHES_AHEAD * _batch_bytes(plan)
    free = on_each_node(_free_bytes, SHARED_MEMORY)
    if small := sorted(name for name, room in free.items() if room is not None and room < needed):
        raise UserError(
            f"{SHARED_MEMORY}: {needed / 1e6:.0f} MB are needed for windows that are loaded beside "
            f"GPUs, and {min(free[name] for name in small) / 1e6:.0f} MB are free "
            f"({', '.join(small)}); start a container with --ipc=host or a larger --shm-size, or "
            "lower --cpus-per-trial"
        )


def _batch_bytes(plan: Plan) -> int:
    """Of the largest batch among the plan's networks: images, and masks of a byte a pixel."""
    pixel_bytes = plan.data.channels * (1 if plan.data.bands.eight_bits else 4) + 1
    sizes_px = (c.batch_size * c.height_px * c.width_px for c in plan.networks)
    return pixel_bytes * max(sizes_px)


def _free_bytes(folder: Path) -> int | None:
    return shutil.disk_usage(folder).free if folder.is_dir() else None
