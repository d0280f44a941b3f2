"""The whole road with real processes: search, interrupt, go on, ensemble, predict."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image

from search import predict
from search.runs.result import SearchResult
from search.runs.rows import read_rows
from segcore.training import checkpoint
from tests.machinery import CONTAINER_BYTES, container, wait_until

pytestmark = pytest.mark.searches

ROOT = Path(__file__).parents[1]
SEARCH = [sys.executable, "-m", "search.run"]


SOMEBODY_ELSES = {
    "RAY_ADDRESS": "192.0.2.1:6379",
    "MLFLOW_TRACKING_URI": "http://192.0.2.1:5000",
    "MLFLOW_REGISTRY_URI": "http://192.0.2.1:5000",
    "MLFLOW_RUN_ID": "0" * 32,
    "http_proxy": "http://192.0.2.1:3128",
    "https_proxy": "http://192.0.2.1:3128",
    "CUDA_VISIBLE_DEVICES": "",
}
"""What other programs left in the shell; nobody has these addresses. A search must not mind."""


def environment() -> dict[str, str]:
    ours = {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **SOMEBODY_ELSES, **ours}


def search(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEARCH, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip


def study_of(run_folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(run_folder / "study.journal")))
    return optuna.load_study(study_name=None, storage=storage)  # the only one


def is_in_midst_of_a_trial(run_folder: Path) -> bool:
    trials = study_of(run_folder).get_trials(states=[TrialState.RUNNING])
    return any(trial.intermediate_values for trial in trials)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


def interrupted(
    cwd: Path,
    arguments: Sequence[str],
    when: Callable[[], None] = lambda: None,
    at: str = "trial ",
    by: signal.Signals = signal.SIGINT,
) -> str:
    """What a search says that gets Ctrl-C at a line that begins so, and after ``when``.

    By default that is when its first trial has ended.
    """
    with subprocess.Popen(
        [*SEARCH, *arguments], cwd=cwd, env=environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith(at):
                when()
                process.send_signal(by)
                break
        seen += process.stdout.read()
        process.wait(timeout=120)
    assert process.returncode == 130, seen
    return seen


@pytest.fixture(scope="module")
def output(folder: Path, blocks: Path) -> str:
    """What a user sees of a search that was interrupted with Ctrl-C, and then resumed."""
    arguments = ["--data", str(blocks), "--space", "tests.tiny_space:slow_space", "--trials", "4",
                 "--max-epochs", "3", "--grace-epochs", "1", "--name", "road"]  # fmt: skip
    seen = interrupted(
        folder, arguments,
        when=lambda: wait_until(lambda: is_in_midst_of_a_trial(folder / "runs/road"), timeout_s=60),
    )  # fmt: skip
    assert "python -m search.run --resume runs/road" in seen
    resumed = search(folder, "--resume", "runs/road")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "NotGeoreferencedWarning" not in seen + resumed.stdout + resumed.stderr
    return resumed.stdout


def test_an_interrupted_search_ends_with_exactly_the_planned_trials(
    folder: Path, output: str
) -> None:
    trials = study_of(folder / "runs" / "road").get_trials()
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert trials[0].params["lr"] == 1e-2, "the known-good configuration runs first"
    assert len({trial.params["lr"] for trial in trials}) == 4, "none is sampled a second time"
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert finished
    assert all(max(trial.intermediate_values) == 3 for trial in finished)


def test_every_trial_can_be_compared_with_the_best(folder: Path, output: str) -> None:
    rows = read_rows(study_of(folder / "runs" / "road"))
    assert all(row.jackknife is not None and len(row.jackknife.score_U) > 1 for row in rows)
    assert all(row.interval[0] <= row.score <= row.interval[1] for row in rows)  # type: ignore


def test_mlflow_has_one_run_for_the_search_and_one_for_each_trial(
    folder: Path, output: str
) -> None:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("segsearch")
    runs = client.search_runs([experiment.experiment_id])
    parent = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    trials = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parent) == 1 and len(trials) == 4
    study = study_of(folder / "runs" / "road")
    for trial in study.get_trials():
        (found,) = [
            r for r in trials if r.data.tags["segsearch.trial"].endswith(f"/{trial.number}")
        ]
        assert found.data.params["lr"] == str(trial.params["lr"])
        logged = {m.step: m.value for m in client.get_metric_history(found.info.run_id, "val/dice")}
        assert logged == pytest.approx(trial.intermediate_values)
        assert "dice/Roof" in found.data.metrics and "drawn_share/Pool" in found.data.metrics
    result = SearchResult.read(folder / "runs" / "road")
    assert result is not None and len(result.candidates) >= 3
    for name in result.candidates:
        (found,) = [
            r for r in trials if name == f"trial {r.data.tags['segsearch.trial'].split('/')[-1]}"
        ]
        pictures = client.list_artifacts(found.info.run_id, "validation")
        assert any("confusion" in picture.path for picture in pictures)
        assert client.list_artifacts(found.info.run_id, "checkpoint")


def test_the_output_says_what_came_out_and_how_to_go_on(output: str) -> None:
    assert "Best trials by dice" in output
    assert "4 test images that nothing before has seen" in output
    assert "mlflow ui --backend-store-uri sqlite:///" in output
    assert "python -m search.predict runs/road/ensemble" in output


def test_the_bundle_keeps_honest_scores_beside_the_flattering_ones(
    folder: Path, output: str
) -> None:
    manifest = json.loads((folder / "runs/road/ensemble/bundle.json").read_text())
    scores = manifest["scores"]
    assert scores["test_photos"] == 4
    for model in ("ensemble", "best_single"):
        assert 0 <= scores[model]["test"]["dice"] <= 1
    assert scores["ensemble"] == scores["best_single"], "four photographs can't tell them apart"
    result = SearchResult.read(folder / "runs/road")
    assert result is not None
    # Whether the others know enough to be members depends on when they were stopped.
    alone = len(result.alternatives) == 1
    why = "no other trial could add to it" if alone else "too few independent photographs (4)"
    assert why in scores["why"]
    assert manifest["factors"] is None


def test_each_trial_keeps_its_best_and_its_newest_checkpoint(folder: Path, output: str) -> None:
    for trial in study_of(folder / "runs" / "road").get_trials():
        folders = list(
            (folder / "runs/road/trials").glob(f"*/trial_{trial.number:04d}/checkpoint_*")
        )
        infos = [checkpoint.load_info(found) for found in folders]
        epochs = {info.epoch for info in infos}
        best = max(trial.intermediate_values, key=trial.intermediate_values.__getitem__)
        assert {best, max(trial.intermediate_values)} <= epochs


def test_prediction_writes_masks_overlays_and_a_submission_and_skips_what_is_broken(
    folder: Path, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "flight 2").mkdir(parents=True)
    for name, size in (("a.jpg", (90, 70)), ("flight 2/ü.png", (64, 64))):
        noise = rng.integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 not a photograph")
    out = tmp_path / "out"
    code = predict.main(
        [str(folder / "runs/road/ensemble"), str(tmp_path / "photos"), "--out", str(out),
         "--overlay", "--submission", str(out / "submission.csv"), "--device", "cpu"]
    )  # fmt: skip
    assert code == 1
    assert "broken.jpg" in capsys.readouterr().err
    with Image.open(out / "a.png") as mask:
        assert mask.size == (90, 70) and np.asarray(mask).max() < 3
    assert (out / "flight 2" / "ü.png").is_file()
    assert (out / "overlays" / "a.jpg").is_file()
    assert len((out / "submission.csv").read_text().splitlines()) == 1 + 2 * 2


def test_a_finished_run_gets_more_trials_until_its_time_is_up_though_one_can_not_predict(
    folder: Path, output: str
) -> None:
    best = read_rows(study_of(folder / "runs/road"))[0].number
    weights = list((folder / "runs/road/trials").glob(f"*/trial_{best:04d}/*/model.safetensors"))
    for path in weights:
        path.write_bytes(b"?" * path.stat().st_size)
    # Also under another name.
    renamed = (folder / "runs/road").rename(folder / "runs/renamed")
    more = search(folder, "--resume", "runs/renamed", "--trials", "500", "--time-budget", "10s")
    assert more.returncode == 0, more.stdout + more.stderr
    assert 4 < len(study_of(renamed).get_trials()) < 100
    assert f"trial {best} could not predict, and is no candidate: " in more.stdout
    assert "was taken" in more.stdout
    result = SearchResult.read(renamed)
    assert result is not None and f"trial {best}" not in result.candidates
    assert result.single.number != best and result.left_out


DRY_RUN = """
import sys
import ray
from search import run

def told():
    if ray.is_initialized():
        print({name: ray.cluster_resources()[name] for name in ("memory", "object_store_memory")})
    shutdown()

shutdown, ray.shutdown = ray.shutdown, told
sys.exit(run.main(sys.argv[1:]))
"""


def test_a_dry_run_in_a_container_checks_all_and_trains_nothing(
    blocks: Path, tmp_path: Path
) -> None:
    arguments = ["--data", str(blocks), "--space", "tests.tiny_space", "--dry-run"]
    with container(tmp_path) as words:
        result = subprocess.run(
            [*words, sys.executable, "-c", DRY_RUN, *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
            env={
                "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COLUMNS": "120",
                "OMP_NUM_THREADS": "1", "SEGSEARCH_CACHE": str(tmp_path / "cache"),
            },
        )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert not words or "1 at a time on the CPU: 1 CPU and 0 GPU each" in result.stdout
    assert "8 training photographs, 0.0184 megapixels an epoch, 4 for validation" in result.stdout
    assert "about" in result.stdout and "Nothing was trained" in result.stdout
    assert not list(tmp_path.glob("runs/*/trials"))
    memory = ast.literal_eval(re.findall(r"\{'memory': .*\}", result.stdout)[-1])
    assert not words or CONTAINER_BYTES / 2 < sum(memory.values()) < CONTAINER_BYTES, "Ray sees it"


def is_under_way(run_folder: Path) -> bool:
    try:
        return (run_folder / "study.journal").exists() and is_in_midst_of_a_trial(run_folder)
    except KeyError:  # the study is yet to be written into its file
        return False


def test_the_best_trials_are_trained_anew_with_other_seeds_and_on_folds(
    blocks: Path, tmp_path: Path
) -> None:
    """Both are runs of their own, which are resumed with the search."""
    arguments = ["--data", str(blocks), "--space", "tests.tiny_space:slow_space", "--trials", "1",
                 "--repeats", "2", "--folds", "2", "--max-epochs", "3",
                 "--name", "finals"]  # fmt: skip
    folder = tmp_path / "runs" / "finals"
    seen = interrupted(
        tmp_path, arguments, at="Training the best trials again",
        when=lambda: wait_until(lambda: is_under_way(folder / "repeats"), timeout_s=180),
        by=signal.SIGTERM,  # as Slurm and `docker stop` do
    )  # fmt: skip
    assert "with 2 other seeds each" in seen and "on 2 folds" not in seen
    resumed = search(tmp_path, "--resume", "runs/finals")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    finals = {name: study_of(folder / name).get_trials() for name in ("repeats", "folds_2")}
    for trained in finals.values():
        assert [trial.state for trial in trained] == [TrialState.COMPLETE] * 2
        assert all(len(trial.intermediate_values) == 3 for trial in trained), "none is stopped"
    searched = study_of(folder).get_trials()
    seeds = {trial.user_attrs["config"]["seed"] for trial in [*searched, *finals["repeats"]]}
    assert len(seeds) == 3, "a repetition has a seed that no trial has"

    result = SearchResult.read(folder)
    assert result is not None
    every = {"trial 0", "trial 0.1", "trial 0.2", "trial 0 on 2 folds"}
    assert set(result.candidates) == every
    assert len(list((folder / "pictures").glob("trial_0000_repeat_*"))) == 2
    scores = [max(trial.intermediate_values.values()) for trial in finals["repeats"]]
    assert result.seed_noise is not None and result.seed_noise.freedom == 1
    assert result.seed_noise.deviation == pytest.approx(np.std(scores, ddof=1))
    assert resumed.stdout.count(f"Seed noise ± {result.seed_noise.deviation:.4f}") == 2

    assert {(model.folds, model.val.photos) for model in result.alternatives} == {(1, 4), (2, 12)}
    folded = next(model for model in result.alternatives if model.folds == 2)
    assert folded.name == "trial 0 on 2 folds" and folded.cost.networks == 2
    taken = result.ensemble
    members = json.loads((folder / "ensemble" / "bundle.json").read_text())["members"]
    assert len(members) == taken.cost.networks
    assert sum(member["weight"] for member in members) == pytest.approx(1)
    folds = [
        checkpoint.load_info(folder / "ensemble" / member["folder"]).config.fold
        for member in members
    ]
    assert folds == ([0, 1] if taken.folds == 2 else [None]) * len(taken.trials)

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("segsearch")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {"finals", "finals · repeats", "finals · folds 2"} <= set(runs)
    parent = runs["finals · repeats"].info.run_id
    tags = [
        run.data.tags
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags.get("mlflow.parentRunId") == parent
    ]
    assert {tag["segsearch.final_trial"] for tag in tags} == {"0"}
    assert {tag["segsearch.final_repeat"] for tag in tags} == {"1", "2"}
