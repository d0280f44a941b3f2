"""What a trial gets of a node, and what of a user's folder travels to the others."""

import ast
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from threadpoolctl import threadpool_info

from search.runs.options import SearchOptions
from search.trials import cluster, slot
from search.trials.cluster import Slots, connected, own_gpus, usual_cpus
from search.trials.slot import PRETEND_GPUS, prepare_process
from segcore.errors import UserError
from tests.machinery import free_port

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "fitting"),
    [
        (1, 0, {"CPU": 4}, 4),
        (2, 0, {"CPU": 3}, 1),
        (1, 1, {"CPU": 4, "GPU": 2}, 2),
        (1, 0.5, {"CPU": 8, "GPU": 2}, 4),
        (3, 0.5, {"CPU": 8, "GPU": 2}, 2),
        (1, 0.3, {"CPU": 8, "GPU": 1}, 3),
        (1, 0.4, {"CPU": 8, "GPU": 2}, 4),  # two on each: a trial never spans two GPUs
        (1, 2, {"CPU": 8, "GPU": 3}, 1),
        (1, 1, {"CPU": 8}, 0),  # a head, say
    ],
)
def test_how_many_trials_fit_on_a_node(
    monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: float, node: dict[str, float], fitting: int
) -> None:
    monkeypatch.setattr("search.trials.cluster.alive_nodes", lambda: [node, {"CPU": 0.0}])
    assert Slots(cpus, gpus, wanted=None).present == fitting


@pytest.mark.parametrize(
    ("gpus", "nodes", "cpus"),
    [
        (0.0, [{"CPU": 16, "GPU": 2}], 1),
        (1.0, [{"CPU": 16, "GPU": 4}], 4),
        (0.5, [{"CPU": 16, "GPU": 4}], 2),
        (1.0, [{"CPU": 128, "GPU": 1}], 8),
        (1.0, [{"CPU": 4}, {"CPU": 16, "GPU": 2}, {"CPU": 6, "GPU": 1}], 6),  # a head without GPUs
        (1.0, [{"CPU": 2, "GPU": 4}], 1),
        (1.0, [{"CPU": 4}], 1),  # nodes with GPUs come later
    ],
)
def test_beside_a_gpu_a_trial_gets_its_part_of_the_cores(
    gpus: float, nodes: list[dict[str, float]], cpus: int
) -> None:
    assert usual_cpus(nodes, gpus) == cpus


def test_a_cluster_that_is_empty_or_grows_gets_waiting_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.trials.cluster.alive_nodes", lambda: [{"CPU": 0.0}])
    assert Slots(1, 1, wanted=None).count == 1
    assert Slots(1, 1, wanted=8).count == 8


def test_a_trial_has_the_threads_of_its_cpus_in_every_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PRETEND_GPUS, "1")
    for cpus in (2, 1):  # the tests that follow have one
        assert prepare_process(cpus, gpus=0.5) == torch.device("cpu")
        assert torch.get_num_threads() == cpus
        assert cv2.getNumThreads() == cpus
        assert {pool["num_threads"] for pool in threadpool_info()} == {cpus}


def test_a_macs_gpu_is_one_that_ray_is_told_of_and_a_trial_gets_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert own_gpus() is None
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert own_gpus() == 1

    shares: list[float] = []
    monkeypatch.setattr(slot, "choose_device", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", shares.append)
    assert prepare_process(1, gpus=0.5) == torch.device("mps")
    assert prepare_process(1, gpus=0) == torch.device("cpu")
    assert shares == [0.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_half_a_gpu_is_half_of_its_memory() -> None:
    device = prepare_process(1, gpus=0.5)
    total = torch.cuda.get_device_properties(device).total_memory
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(total * 0.6), dtype=torch.uint8, device=device)
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_a_space_imports_from_a_users_folder_travels_to_the_workers(tmp_path: Path) -> None:
    (tmp_path / "mylab" / "deep").mkdir(parents=True)
    (tmp_path / "mylab" / "__init__.py").touch()
    (tmp_path / "mylab" / "deep" / "__init__.py").touch()
    (tmp_path / "mylab" / "deep" / "spaces.py").write_text("import helper\n")
    (tmp_path / "helper.py").touch()
    (tmp_path / "unused.py").touch()
    code = (
        "import mylab.deep.spaces, torch; torch.ops; "
        "from search.trials.cluster import own_modules; print(own_modules())"
    )
    for working_dir, expected in (("", ["helper.py", "mylab"]), ('{"working_dir": "x"}', [])):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "RAY_JOB_CONFIG_JSON_ENV_VAR": working_dir},
        )  # fmt: skip
        assert ast.literal_eval(done.stdout) == [str(tmp_path / name) for name in expected]


def test_a_folder_whose_name_is_too_long_for_rays_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    # Ray reads RAY_TMPDIR when it is imported.
    monkeypatch.setattr(cluster, "_QUIET", {**cluster._QUIET, "_temp_dir": str(folder)})
    with (
        pytest.raises(UserError, match=r"RAY_TMPDIR .*at most 107 characters .*shorter"),
        connected(SearchOptions()),
    ):
        pass


def test_a_machine_that_has_only_ipv6_is_told_what_ray_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(address: tuple[str, int]) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(cluster.socket, "create_server", refuse)
    with (
        pytest.raises(UserError, match=r"127.0.0.1: Cannot assign .*IPv6 alone is not enough"),
        connected(SearchOptions()),
    ):
        pass


@pytest.mark.parametrize("busy_times", [1, 2])
def test_a_machine_that_is_too_busy_gets_a_second_chance_and_then_a_line(
    busy_times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def start(**options: object) -> None:
        tried.append(options["address"])
        if len(tried) <= busy_times:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(cluster.ray, "init", start)
    monkeypatch.setattr(cluster, "alive_nodes", lambda: [{"CPU": 2.0}])
    if busy_times == 1:
        with connected(SearchOptions()) as slots:
            assert slots.count == 2
    else:
        with (
            pytest.raises(UserError, match="within 30 s, twice: it is too busy"),
            connected(SearchOptions()),
        ):
            pass
    assert tried == ["local", "local"]


def test_an_address_in_somebodys_environment_is_not_used_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody = f"[::1]:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with (
        pytest.raises(UserError, match=r"--address auto \(RAY_ADDRESS is \[::1\].*no Ray cluster"),
        connected(SearchOptions(address="auto")),
    ):
        pass
