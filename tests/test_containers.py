"""Where a container gives little: no name, no home, few cores, little shared memory."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import segcore.cores
from search.trials import estimate
from search.trials.cluster import Slots
from search.trials.estimate import check_shared_memory
from segcore.cores import usable_cores
from segcore.errors import UserError
from tests.machinery import nameless, small_disk

ROOT = Path(__file__).parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's process needs root")


@needs_root
@pytest.mark.parametrize(
    ("home", "message"),
    [
        (None, "~/.cache/segsearch: prepared data can't be kept there: this user has no home"),
        ("/proc", "/proc/.cache: prepared data can't be kept there: No such file or directory"),
        ("/", "/.cache: prepared data can't be kept there: Permission denied"),
    ],
)
def test_a_cache_that_cannot_be_written_is_told_with_what_to_set(
    home: str | None, message: str, tmp_path: Path
) -> None:
    script = "from segcore.files import user_cache; print(user_cache())"
    environment = {"PYTHONPATH": str(ROOT)} | ({} if home is None else {"HOME": home})

    def run(**more: str) -> str:
        return subprocess.run(
            [*nameless(), sys.executable, "-c", script], env=environment | more,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    failed = run()
    assert f"UserError: {message}" in failed.stderr
    assert "set SEGSEARCH_CACHE to a folder that can be written" in failed.stderr
    tmp_path.chmod(0o777)
    assert run(SEGSEARCH_CACHE=str(tmp_path)).stdout == f"{tmp_path}\n"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2),  # a container
        ("0::/", {"cpu.max": "50000 100000"}, 1),  # half a core
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/slurm/job_1/step_0", {"slurm/job_1/cpu.max": "400000 100000"}, 4),
        (  # a container of Docker's on an older system, whose own files stand at the top
            "4:cpu,cpuacct:/docker/0a1b",
            {"cpu/cpu.cfs_quota_us": "350000", "cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("2:memory:/", {}, 8),
    ],
)
def test_cores_are_those_that_control_groups_grant(
    membership: str, files: dict[str, str], cores: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """``test_search.py`` has a real group."""
    for name, text in {"memberships": membership, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(segcore.cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(segcore.cores, "MEMBERSHIPS", tmp_path / "memberships")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_shared_memory_for_the_windows_beside_a_gpu_is_checked_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 8 windows of 512×768 in RGB take 12.6 MB: 4 of them fit into 64 MB."""
    config = SimpleNamespace(batch_size=8, height_px=512, width_px=768)
    data = SimpleNamespace(channels=3, bands=SimpleNamespace(eight_bits=True))
    plan: Any = SimpleNamespace(data=data, networks=[config])
    monkeypatch.setattr(estimate, "alive_nodes", lambda: [{"CPU": 16.0, "GPU": 2.0}])
    monkeypatch.setattr("search.trials.cluster.alive_nodes", estimate.alive_nodes)
    monkeypatch.setattr(estimate, "on_each_node", lambda of, *given: {"gpu-7": of(*given)})
    monkeypatch.delenv(estimate.PRETEND_GPUS, raising=False)
    with small_disk(tmp_path / "shm", "64m") as shm:
        monkeypatch.setattr(estimate, "SHARED_MEMORY", shm)
        check_shared_memory(plan, Slots(1, 1.0, wanted=None))
        check_shared_memory(plan, Slots(8, 0.0, wanted=None))  # on CPUs
        with pytest.raises(UserError, match=r"201 MB are needed .* 67 MB are free \(gpu-7\)"):
            check_shared_memory(plan, Slots(4, 1.0, wanted=None))
    monkeypatch.setattr(estimate, "SHARED_MEMORY", tmp_path / "nowhere")  # macOS
    check_shared_memory(plan, Slots(4, 1.0, wanted=None))
