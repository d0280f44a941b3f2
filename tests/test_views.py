"""A search whose trials look at photographs at different scales, through windows of any size."""

import json
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

import search as segsearch
from search import evaluate
from search.ensembles.tasks import Workplace, predict
from search.reporting.page import write_report
from search.runs.folder import RunFolder
from search.runs.result import SearchResult
from search.runs.rows import read_rows
from search.runs.storage import NodeCopy
from search.trials.worker import best_checkpoint
from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData, find_prepared
from segcore.predicting.ensemble import write_bundle
from segcore.training.loading import windows_per_epoch
from tests.test_api import options
from tests.test_search import interrupted, search, study_of


@pytest.fixture(scope="module")
def result(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    out = tmp_path_factory.mktemp("views")
    return segsearch.search(
        options(blocks, out, space="tests.views_space:space", trials=4, name="views")
    )


@pytest.fixture(scope="module")
def run(result: SearchResult) -> RunFolder:
    assert result.folder is not None
    return RunFolder.opened(result.folder)


@pytest.fixture(scope="module")
def data(run: RunFolder) -> PreparedData:
    return find_prepared(run.read().identity["data"])


def configs(run: RunFolder) -> list[TrialConfig]:
    return [row.config for row in read_rows(study_of(run.path)) if row.config is not None]


def test_trials_differ_in_scale_and_window(run: RunFolder) -> None:
    views = {config.view for config in configs(run)}
    assert len(views) == 4
    assert {view.height_px for view in views} == {32, 64}
    assert {0.5, 1.0} < {view.scale for view in views}


def test_an_epoch_has_the_same_pixels_in_every_trial(run: RunFolder, data: PreparedData) -> None:
    pixels = {
        windows_per_epoch(data, config) * config.height_px * config.width_px
        for config in configs(run)
    }
    assert pixels == {3 * 4 * 64 * 64}, "three times those of the 4 validation photographs"


def test_all_trials_are_scored_on_the_same_pixels(
    result: SearchResult, run: RunFolder, data: PreparedData
) -> None:
    assert {plan.score_grid for plan in data.plans} == {(64, 64)}
    labelled = {int(sum(map(sum, scored.test.confusion))) for scored in result.alternatives}
    truth = [data.score_mask(photo) != 255 for photo in data.of_split("test")]
    assert labelled == {int(np.sum(truth))}


def evaluated(bundle: Path, blocks: Path, folder: Path, score_scale: float) -> dict[str, float]:
    """What ``search.evaluate`` prints of a bundle on the test photographs: each score."""
    report = folder / "report.json"
    arguments = [str(bundle), str(blocks), "--split", "test", "--device", "cpu"]
    wanted = ["--score-scale", str(score_scale), "--json", str(report)]
    assert evaluate.main([*arguments, *wanted]) == 0
    scores = json.loads(report.read_text())["scores"]
    return {name: interval["value"] for name, interval in scores.items()}


def test_the_result_says_what_an_evaluation_of_the_bundle_prints(
    result: SearchResult, blocks: Path, tmp_path: Path
) -> None:
    shown = {name: found.value for name, found in result.ensemble.test.metrics.items()}
    assert evaluated(result.bundle, blocks, tmp_path, 1.0) == pytest.approx(shown, abs=1e-4)


def test_a_bundle_holds_members_of_two_views(
    run: RunFolder, data: PreparedData, blocks: Path, tmp_path: Path
) -> None:
    stored = [best_checkpoint(run.trials, number) for number in (0, 1)]
    members = [(one, weight) for one, weight in zip(stored, (0.6, 0.4), strict=True) if one]
    assert len({one.info.config.view for one, _ in members}) == 2
    place = Workplace(NodeCopy("", None, data.folder), cpus=1, gpus=0)
    said, _ = predict(members, place, "test")
    folders = [(Path(one.location.path), weight) for one, weight in members]
    write_bundle(tmp_path / "both", folders, metric="dice", scores={})
    scores = evaluated(tmp_path / "both", blocks, tmp_path, 1.0)
    assert scores["dice"] == pytest.approx(said.scores.dice, abs=1e-4)


def test_pictures_and_report_are_there(result: SearchResult, run: RunFolder) -> None:
    for name in result.candidates:
        number = int(name.removeprefix("trial "))
        pictures = run.path / "pictures" / f"trial_{number:04d}"
        assert len(list(pictures.glob("val_*.png"))) == 4
    page = write_report(run).read_text()
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert "scale" in page


@pytest.mark.slow  # test_search.py resumes searches by default
def test_it_is_resumed_after_ctrl_c(blocks: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(blocks), "--space", "tests.views_space:slow_space", "--trials", "4",
                 "--max-epochs", "2", "--grace-epochs", "1", "--name", "views",
                 "--score-scale", "0.5", "--epoch-megapixels", "0.03"]  # fmt: skip
    seen = interrupted(tmp_path, arguments)
    assert "0.03 megapixels an epoch" in seen
    other = search(tmp_path, "--resume", "runs/views", "--score-scale", "1")
    assert other.returncode == 2 and "its trials could not be compared: data: was" in other.stderr
    other = search(tmp_path, "--resume", "runs/views", "--epoch-megapixels", "1")
    assert other.returncode == 2 and "epoch_megapixels: was 0.03, is 1.0" in other.stderr
    resumed = search(tmp_path, "--resume", "runs/views")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    trials = study_of(tmp_path / "runs/views").get_trials()
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    stored = [TrialConfig.from_dict(trial.user_attrs["config"]) for trial in trials]
    assert {config.epoch_mpx for config in stored} == {0.03}
    data = find_prepared(RunFolder.opened(tmp_path / "runs/views").read().identity["data"])
    assert {plan.score_grid for plan in data.plans} == {(32, 32)}
