"""How long a search will take, from a few measured steps of each network."""

import math

import ray

from search.planning.plan import Plan
from search.planning.strategies import most_epochs
from search.runs.storage import NodeCopy
from search.trials.cluster import Slots
from search.trials.worker import prepare_process
from segcore.config import TrialConfig
from segcore.data.building import Tell, untold
from segcore.data.prepared import PreparedData, open_prepared
from segcore.training.fit import time_steps
from segcore.training.loading import windows_per_epoch


def estimate_s(plan: Plan, slots: Slots, tell: Tell = untold) -> float:
    """Seconds for all trials, from training steps measured where trials will run.

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
    search_s = most_epochs(options) * mean_s
    if options.pauses:
        search_s = min(search_s, options.time_budget_s or math.inf)
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
        steps_s.append(ray.get(measured))
    return steps_s


def _measure_one(config: TrialConfig, data: NodeCopy, cpus: int, gpus: float) -> float:
    device = prepare_process(cpus, gpus)
    return time_steps(
        config,
        open_prepared(data.folder()),
        device=device,
        loader_workers=cpus if device.type != "cpu" else 0,
    )
