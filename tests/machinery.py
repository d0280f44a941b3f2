"""Real things that tests use: servers, a browser, a small disk."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"
)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)


@contextmanager
def serving(command: str, port: int, *, timeout_s: float, cwd: Path | None = None) -> Iterator[str]:
    """A server that a shell command starts, as it is printed for people; its address."""
    server = subprocess.Popen(
        command,
        shell=True,
        cwd=cwd,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: accepts(port), timeout_s)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def chromium(
    profile: Path, *arguments: str, capabilities: dict[str, Any] | None = None
) -> Iterator[WebDriver]:
    """Debian's Chromium without a window, and without looking for its makers."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-dev-shm-usage",
        "disable-background-networking", "disable-component-update", "disable-sync",
        f"user-data-dir={profile}", *arguments,
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    for name, value in (capabilities or {}).items():
        options.set_capability(name, value)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


NAMELESS = 54321
"""A user id that no system knows."""
READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""The tests' own files may be root's."""


def nameless() -> list[str]:
    """The words before a command that run it as a user without a name; needs root."""
    user = (f"--reuid={NAMELESS}", f"--regid={NAMELESS}", "--clear-groups")
    return ["setpriv", *user, *READS_ALL]


CONTAINER_BYTES = 6_000_000_000


@contextmanager
def container(folder: Path) -> Iterator[list[str]]:
    """The words before a command that run it as Docker or Kubernetes would, without an image.

    Its user has no name and no home that can be written. There are 64 MB of shared memory, one
    core, ``CONTAINER_BYTES`` of memory, and a ``folder`` to write into. No words where this can't
    be had: it takes root.
    """
    home, groups = folder / "home", Path("/sys/fs/cgroup")
    limits = {
        "cpu": ("cpu.cfs_quota_us", 100_000),
        "memory": ("memory.limit_in_bytes", CONTAINER_BYTES),
    }
    own = {controller: groups / controller / f"segsearch-{os.getpid()}" for controller in limits}
    try:
        for controller, (file, limit) in limits.items():
            own[controller].mkdir()
            (own[controller] / file).write_text(str(limit))
    except OSError:
        yield []
        return
    home.mkdir()
    os.chown(folder, NAMELESS, NAMELESS)
    joined = [f'echo $$ > "{group}/cgroup.procs"' for group in own.values()]
    # A container sees its own group as the top one.
    seen = f'mount --bind "{own["memory"]}" {groups}/memory'
    mounts = f'mount -t tmpfs -o size=64m tmpfs /dev/shm && mount -t tmpfs -o ro tmpfs "{home}"'
    script = " && ".join([*joined, seen, mounts, f'export HOME="{home}"', 'exec "$@"'])
    try:
        yield ["unshare", "--mount", "bash", "-c", script, "container", *nameless()]
    finally:
        for group in own.values():
            wait_until(lambda of=group: not (of / "cgroup.procs").read_text(), timeout_s=30)
            group.rmdir()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory, such as of size 4m; skips the test where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no file system can be mounted here ({error})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)
