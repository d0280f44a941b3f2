"""Shared memory, through which processes that load windows hand them to the trial on a GPU."""

import os
import shutil
from pathlib import Path

from search.planning.plan import Plan
from search.trials.cluster import Slots, alive_nodes, on_each_node
from search.trials.worker import PRETEND_GPUS
from segcore.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
"""Linux's. macOS has no such folder, and no such limit."""
BATCHES_AHEAD = 2
"""So many batches torch has each of these processes keep ready."""


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
