"""Debian's Slurm on machines of the lab: a controller, and nodes that say they have two GPUs."""

import shutil
import time

from tests.lab.machines import Lab
from tests.lab.machines import why_not as why_no_machines

CONTROLLER = "controller"
CONFIG, GPUS, KEY = "/home/slurm/slurm.conf", "/home/slurm/gres.conf", "/home/slurm/munge.key"
"""Where all machines see them."""
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
ENVIRONMENT = {"SLURM_CONF": CONFIG}


def why_not() -> str | None:
    """What this machine lacks for a lab with Slurm; None where it can be."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if missing:
        return f"missing: {', '.join(missing)} (slurm-wlm, munge)"
    return why_no_machines()


def start(lab: Lab) -> None:
    """Start Slurm on machines that run; returns when all nodes wait for work."""
    assert lab.home is not None
    (lab.home / "slurm").mkdir()
    (lab.home / "slurm" / "munge.key").write_bytes(b"of the lab only " * 8)
    (lab.home / "slurm" / "munge.key").chmod(0o600)
    nodes = [name for name in lab.names if name != CONTROLLER]
    (lab.home / "slurm" / "slurm.conf").write_text(_config(lab, nodes))
    (lab.home / "slurm" / "gres.conf").write_text("Name=gpu File=/dev/null,/dev/zero\n")
    (lab.home / "slurm" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    for name in lab.names:
        _start_munge(lab, name)
    lab.run(CONTROLLER, "mkdir -p /run/slurmctld && slurmctld")
    for name in nodes:
        start_node(lab, name)
    for _ in range(60):
        states = lab.run(CONTROLLER, "sinfo --noheader --Node --format=%T", check=False).split()
        if states == ["idle"] * len(nodes):
            return
        time.sleep(0.5)
    raise RuntimeError(lab.run(CONTROLLER, "sinfo --long --Node; cat /run/slurmctld.log"))


def start_node(lab: Lab, name: str) -> None:
    """Start the daemon of a node, whose machine has munge."""
    # slurmd looks for control groups, though nothing here uses them.
    lab.run(name, "mount -t tmpfs tmpfs /sys/fs/cgroup")
    lab.run(name, f"mkdir -p /run/slurmd && slurmd -N {name}")


def _start_munge(lab: Lab, name: str) -> None:
    lab.run(
        name,
        "mkdir -p /run/munge && munged --force --key-file=" + KEY + " --log-file=/run/munged.log "
        "--pid-file=/run/munged.pid --seed-file=/run/munge.seed",
    )


def _config(lab: Lab, nodes: list[str]) -> str:
    machines = "\n".join(
        f"NodeName={name} NodeAddr={lab.address(name)} CPUs=2 RealMemory=4000 Gres=gpu:2"
        for name in nodes
    )
    return f"""
ClusterName=lab
SlurmctldHost={CONTROLLER}({lab.address(CONTROLLER)})
SlurmUser=root
AuthInfo=cred_expire=5
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/run/slurmctld.log
SlurmdLogFile=/run/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
{machines}
PartitionName=lab Nodes={",".join(nodes)} Default=YES MaxTime=INFINITE State=UP
"""
