"""A process of Ray's as a slot that a trial or a task works in: its threads, its part of a GPU."""

import gc
import os
import platform

import cv2
import torch
from threadpoolctl import threadpool_limits

from segcore.devices import choose_device
from segcore.errors import UserError

PRETEND_GPUS = "SEGSEARCH_PRETEND_GPUS"
"""Set where Ray was told of GPUs that don't exist, to try a cluster: trials run on the CPU."""


class ClusterError(UserError):
    """No trial can run on this node."""


def prepare_process(cpus: int, gpus: float) -> torch.device:
    """Make a reused worker process as good as new, with its share of the node; its device.

    torch, OpenCV, OpenMP and BLAS get ``cpus`` threads. A share of a GPU is a limit on its memory
    too, so that a greedy trial runs out of memory itself instead of its neighbour.
    """
    torch.set_num_threads(cpus)
    cv2.setNumThreads(cpus)
    threadpool_limits(cpus)
    os.environ["OMP_NUM_THREADS"] = str(cpus)  # for processes that this one starts
    gc.collect()
    if gpus == 0 or os.environ.get(PRETEND_GPUS):
        return torch.device("cpu")
    device = choose_device()
    if device.type == "cpu":
        raise ClusterError(
            f"node {platform.node()} has a GPU by Ray's word, but torch finds none; check its "
            "driver with nvidia-smi, or search with --gpus-per-trial 0"
        )
    memory = torch.mps if device.type == "mps" else torch.cuda
    memory.empty_cache()
    memory.set_per_process_memory_fraction(min(gpus, 1.0))
    return device
