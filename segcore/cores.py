"""The CPU cores of this process."""

import math
import os
from pathlib import Path, PurePosixPath

CGROUPS, MEMBERSHIPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux shows control groups, and in which of them this process is."""


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
