"""The device that a network runs on, its precision, and the CPU cores of this process."""

import math
import os
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

import torch

from segcore.errors import UserError

CGROUPS, MEMBERSHIPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux shows control groups, and in which of them this process is."""


def choose_device(name: str | None = None) -> torch.device:
    """The device with this name, such as ``cuda:1``; without a name, the fastest one.

    CUDA is preferred, then Metal (``mps``, on Apple silicon), then the CPU. Raises ``UserError`` if
    the device can't be used.
    """
    name = name or _fastest()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both if it lacks a backend.
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name!r} can't be used ({reason}); allowed: cpu, cuda, cuda:1 …, mps"
        ) from error
    return device


def _fastest() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision that a device computes with; None for full precision.

    CUDA has bfloat16 on newer GPUs and float16 on all. A CPU is not faster in half precision, and
    Metal was not tried.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision on CUDA, and full precision elsewhere."""
    dtype = amp_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device, for which this process doesn't wait where the device is CUDA."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only from pinned memory can a copy run in the background.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def usable_cores() -> int:
    """CPU cores that this process may use.

    On Linux its affinity and its control groups limit them, as those of a container; a part of a
    core counts where there is no whole one. On macOS it has all cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.floor(min(_granted_cores(), cores)))


def _granted_cores() -> float:
    """What this process's control groups and those above them grant; infinity without a limit."""
    try:
        lines = MEMBERSHIPS.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    granted = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "cpu", "cpu,cpuacct"):
            top = CGROUPS / "cpu" if controllers else CGROUPS
            # In a container the path may be one of the host's, but the top is the container's.
            group = PurePosixPath(path)
            granted += [_quota(top / str(g).lstrip("/")) for g in (group, *group.parents)]
    return min(granted)


def _quota(group: Path) -> float:
    """Cores that a control group has, by version 2 or else version 1 of their interface."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
