"""Several machines on one box: each has its own address, processes, /root, /tmp, /run and sshd.

A machine is a network, mount, PID, UTS and IPC namespace. Killing it kills all of its processes, as
a pulled plug would. Its disk is a folder of the host's, so that a machine may boot again with what
it had, or empty. All see the host's other files, and the virtual environment that the tests run in,
each through an overlay of its own, so that each may install into it. No address of theirs exists on
the host: what wants to talk to a machine does it from another.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.77.0"
BRIDGE = "lab-lan"
NEEDED = ("sshd", "ssh-keygen", "ip", "unshare", "nsenter", "rsync", "pgrep")


def why_not() -> str | None:
    """What this machine lacks to be several; None where it can."""
    if os.geteuid() != 0:
        return "making machines of namespaces needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if missing:
        return f"missing: {', '.join(missing)} (openssh-server, iproute2, rsync, procps)"
    trial = _space("trial")
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", trial], check=True)
    return None


@dataclass
class Lab:
    """Machines on one network. Use it as a context manager: nothing of it is left behind."""

    folder: Path
    """Disks and keys."""
    names: tuple[str, ...]
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the login shells of a machine export; "" is for all."""
    home: Path | None = None
    """A folder of the host's that all machines see as /home, as over a network."""
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """A machine's IP address."""
        return f"{NETWORK}.{10 + self.names.index(name)}"

    def __enter__(self) -> "Lab":
        _remove_spaces_of_killed_labs()
        self.folder.mkdir(parents=True)
        for key in ("user_key", "host_key"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key)
        self._make_network()
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.kill(name)
        for name in (*self.names, BRIDGE):
            subprocess.run(["ip", "netns", "delete", _space(name)], capture_output=True)

    def _make_network(self) -> None:
        lan = _space(BRIDGE)
        _do("ip", "netns", "add", lan)
        _do("ip", "-n", lan, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", lan, "link", "set", "bridge", "up")
        for name in self.names:
            space, plug = _space(name), f"to-{name}"
            _do("ip", "netns", "add", space)
            _do("ip", "-n", space, "link", "set", "lo", "up")
            _do("ip", "link", "add", plug, "netns", lan, "type", "veth", "peer", "name", "eth0",
                "netns", space)  # fmt: skip
            _do("ip", "-n", lan, "link", "set", plug, "master", "bridge", "up")
            _do("ip", "-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _do("ip", "-n", space, "link", "set", "eth0", "up")
            # Nobody is there; but Ray finds its own address by asking for a route to the world.
            _do("ip", "-n", space, "route", "add", "default", "via", f"{NETWORK}.1")

    def boot(self, name: str, *, empty: bool = False) -> None:
        """Start a machine, with what its disk holds or an empty one; returns when sshd listens."""
        disk = self.folder / name
        if empty:
            shutil.rmtree(disk, ignore_errors=True)
        for part in ("root/.ssh", "tmp", "run/sshd", "overlay"):
            (disk / part).mkdir(parents=True, exist_ok=True)
        (disk / "run/sshd").chmod(0o755)
        (disk / "root/.ssh").chmod(0o700)
        shutil.copy(self.folder / "user_key.pub", disk / "root/.ssh/authorized_keys")
        shutil.copy(self.folder / "user_key", disk / "root/.ssh/id_ed25519")
        shutil.copy(self.folder / "host_key", disk / "run/host_key")
        self._write_profile(name, disk)
        hosts = [f"{self.address(other)} {other}" for other in self.names]
        (disk / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]))
        (disk / "init.sh").write_text(_init_script(name, disk, self.home))
        with (disk / "console.log").open("ab") as console:
            self._running[name] = subprocess.Popen(
                ["setsid", "ip", "netns", "exec", _space(name), "unshare", "--mount", "--pid",
                 "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc",
                 "bash", str(disk / "init.sh")],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        listening = ["ip", "netns", "exec", _space(name), "ss", "-ltnH", "sport = :22"]
        for _ in range(100):
            if subprocess.run(listening, capture_output=True).stdout:
                return
            time.sleep(0.1)
        raise RuntimeError((disk / "console.log").read_text())

    def _write_profile(self, name: str, disk: Path) -> None:
        exports = {**self.environment.get("", {}), **self.environment.get(name, {})}
        lines = [f"export {key}='{value}'" for key, value in exports.items()]
        lines.append(f"export PATH={sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        if not (disk / "root/.bashrc").exists():
            (disk / "root/.bashrc").write_text("\n".join([*lines, ""]))
        (disk / "root/.profile").write_text(". ~/.bashrc\n")

    def kill(self, name: str) -> None:
        """Pull the plug."""
        machine = self._running.pop(name)
        # unshare's child is the machine's first process: with it goes the whole namespace.
        os.kill(machine.pid, signal.SIGKILL)
        machine.wait()

    def run(self, name: str, command: str, *, timeout_s: float = 120, check: bool = True) -> str:
        """Run a command in a login shell of a machine; what it printed."""
        done = subprocess.run(
            self.command(name, command), capture_output=True, text=True, timeout=timeout_s
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{name}: {command}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def command(self, name: str, command: str) -> list[str]:
        """The same, to be run by oneself."""
        return ["nsenter", "-t", str(self._first_process(name)), "-m", "-p", "-u", "-i", "-n", "--",
                "env", "-i", "HOME=/root", "TERM=xterm",
                "bash", "--login", "-c", f"cd ~ && {command}"]  # fmt: skip

    def processes(self, name: str) -> list[str]:
        """Command lines of all processes of a machine."""
        return self.run(name, "ps -eo args --no-headers").splitlines()

    def _first_process(self, name: str) -> int:
        pid = self._running[name].pid
        while True:  # setsid, ip and unshare run each other; the last one's child is it
            children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
            if not children.stdout:
                return pid
            pid = int(children.stdout.split()[0])
            if Path(f"/proc/{pid}/comm").read_text().strip() == "bash":
                return pid


def _init_script(name: str, disk: Path, home: Path | None) -> str:
    """What a machine's first process does: mount what is its own, start sshd, bury its dead."""
    env, base = sys.prefix, sys.base_prefix
    # These stay visible where a machine's own /root and /tmp would hide them.
    keep = [path for path in {env, base} if path.startswith(("/root/", "/tmp/"))]
    binds = "\n".join(
        f'mkdir -p "{disk}{path}" && mount --rbind "{path}" "{disk}{path}"' for path in keep
    )
    if home is not None:
        binds += f'\nmount --bind "{home}" /home'
    overlay = f"{disk}/overlay"
    layers = f"lowerdir={env},upperdir={overlay}/upper,workdir={overlay}/work"
    return f"""
set -e
mount --make-rprivate /
hostname {name}
mount --bind "{disk}/hosts" /etc/hosts
mount -t tmpfs tmpfs "{overlay}"
mkdir "{overlay}/upper" "{overlay}/work"
mount -t overlay overlay -o "{layers}" "{env}"
{binds}
ln -sfn "{env}" "{disk}/root/segsearch-env"
mount -t tmpfs -o size=4g,mode=1777 tmpfs /dev/shm
mount --rbind "{disk}/run" /run
mount --rbind "{disk}/root" /root
mount --rbind "{disk}/tmp" /tmp
chmod 1777 /tmp
chmod 600 /run/host_key
/usr/sbin/sshd -f /dev/null -D -e -h /run/host_key -o PidFile=none -o UsePAM=no -o StrictModes=no \\
  -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o MaxStartups=100 \\
  -o MaxSessions=100 -o Subsystem='sftp internal-sftp' &
set +e
while true; do wait -n || sleep 1; done
"""


def _space(name: str) -> str:
    """A machine's network namespace; the process id keeps labs that run side by side apart."""
    return f"lab-{os.getpid()}-{name}"


def _remove_spaces_of_killed_labs() -> None:
    """A lab that was killed could not remove its namespaces, and their names outlive a reboot."""
    for space in Path("/run/netns").glob("lab-*"):
        owner = space.name.split("-")[1]
        if not (owner.isdigit() and Path("/proc", owner).exists()):
            subprocess.run(["ip", "netns", "delete", space.name], capture_output=True)


def _do(*command: str | Path) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
