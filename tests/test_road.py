"""The whole road in this process, from files to a report and a GeoTIFF, by the Python interface.

One search serves all of these tests. Its photographs have four bands of float32, are georeferenced,
and lack data in places; its trials look at them at different scales, through different windows.
"""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from optuna.trial import TrialState
from PIL import Image
from rasterio.transform import from_origin

import search as segsearch
from search import Forecast, RunFolder, SearchResult, driver, evaluate, predict
from search.ensembles import tasks
from search.reporting.page import write_report
from search.runs.checkpoints import best_checkpoint
from search.runs.rows import read_rows
from search.runs.storage import NodeCopy
from segcore import Ensemble, UserError
from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.prepared import PreparedData, find_prepared
from segcore.predicting.ensemble import write_bundle
from segcore.reading.bands import to_rgb8
from segcore.training.loading import windows_per_epoch
from tests.conftest import draw_blocks, write_blocks
from tests.test_api import options
from tests.test_search import interrupted, search, study_of

NODATA = -9999.0
GAP = np.s_[:9, 20:40]
"""Where a photograph holds no data."""
SPEC = """images: "*.tif"
masks: masks/{stem}.tif
classes: [Grass, Roof, Pool]
bands: [nir, red, green, height]
nodata: -9999
show: [red, green, nir]
split: {val: 0.25, test: 0.25}
"""


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields")
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        _, mask = draw_blocks(rng, 64)
        mask[mask == IGNORE_INDEX] = 0
        mask[50:56, 4:12] = 2
        # Reflectances around 0.2 and a height in metres: nothing that 8 bits could hold.
        levels = {"red": (0.1, 0.4, 0.2), "green": (0.3, 0.2, 0.2), "nir": (0.6, 0.2, 0.05)}
        noise = rng.normal(0, 0.02, (4, 64, 64))
        raw = [np.array(levels[name])[mask] for name in ("red", "green", "nir")]
        raw_CHW = np.stack([*raw, 30 + 6.0 * (mask == 1)]) + noise
        raw_CHW[:, *GAP] = NODATA
        raw_CHW[1, 60, 60] = np.nan
        profile = {"driver": "GTiff", "height": 64, "width": 64, "crs": "EPSG:31982",
                   "transform": from_origin(5e5 + 100 * number, 7e6, 0.5, 0.5)}  # fmt: skip
        path = folder / f"field_{number:02}.tif"
        with rasterio.open(path, "w", count=4, dtype="float32", **profile) as raster:
            raster.write(raw_CHW.astype(np.float32))
            raster.descriptions = ("red", "green", "nir", "height")
        with rasterio.open(
            folder / "masks" / path.name, "w", count=1, dtype="uint8", **profile
        ) as raster:
            raster.write(mask[None])
    (folder / "dataset.yaml").write_text(SPEC)
    return folder


@pytest.fixture(scope="module")
def result(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    out = tmp_path_factory.mktemp("road")
    return segsearch.search(options(fields, out, space="tests.views_space:space", trials=4))


@pytest.fixture(scope="module")
def run(result: SearchResult) -> RunFolder:
    assert result.folder is not None
    return RunFolder.opened(result.folder)


@pytest.fixture(scope="module")
def data(run: RunFolder) -> PreparedData:
    return find_prepared(run.read().identity["data"])


def handlers_of_signals() -> list[Any]:
    """What Ctrl-C and SIGTERM do."""
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_search_gives_its_result_and_prints_nothing(
    request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    build, before, while_building = driver.build_ensemble, handlers_of_signals(), []
    monkeypatch.setattr(
        driver, "build_ensemble",
        lambda *given: while_building.append(handlers_of_signals()) or build(*given),
    )  # fmt: skip
    result = request.getfixturevalue("result")  # only now, so that all it prints is caught
    assert all(ctrl_c is before[0] for ctrl_c, _ in while_building), "Ray Tune's would do nothing"
    assert handlers_of_signals() == before
    assert capfd.readouterr() == ("", "")
    assert isinstance(result, SearchResult)
    assert result.folder is not None and result == SearchResult.read(result.folder)
    score = result.ensemble.test.metrics["dice"]
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert result.ensemble.test.photos == 4

    scores = [row.score for row in result.leaderboard]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    frame = result.data_frame()
    assert list(frame["score"]) == scores and set(frame["architecture"]) == {"scratch_unet"}

    assert result.bundle == result.folder / "ensemble"
    mask_HW = Ensemble.load(result.bundle).predict(np.zeros((50, 70, 4), np.float32))
    assert mask_HW.shape == (50, 70) and mask_HW.max() < 3


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
    assert pixels == {4 * 4 * 64 * 64}, "four times those of the 4 validation photographs"


def test_all_trials_are_scored_on_the_same_pixels(
    result: SearchResult, run: RunFolder, data: PreparedData
) -> None:
    assert {plan.score_grid for plan in data.plans} == {(64, 64)}
    labelled = {int(sum(map(sum, scored.test.confusion))) for scored in result.alternatives}
    truth = [data.score_mask(photo) != 255 for photo in data.of_split("test")]
    assert labelled == {int(np.sum(truth))}


def evaluated(bundle: Path, photos: Path, folder: Path, score_scale: float) -> dict[str, float]:
    """What ``search.evaluate`` prints of a bundle on the test photographs: each score."""
    report = folder / "report.json"
    arguments = [str(bundle), str(photos), "--split", "test", "--device", "cpu"]
    wanted = ["--score-scale", str(score_scale), "--json", str(report)]
    assert evaluate.main([*arguments, *wanted]) == 0
    scores = json.loads(report.read_text())["scores"]
    return {name: interval["value"] for name, interval in scores.items()}


def test_the_result_says_what_an_evaluation_of_the_bundle_prints(
    result: SearchResult, fields: Path, tmp_path: Path
) -> None:
    shown = {name: found.value for name, found in result.ensemble.test.metrics.items()}
    assert evaluated(result.bundle, fields, tmp_path, 1.0) == pytest.approx(shown, abs=1e-4)


def test_a_bundle_holds_members_of_two_views(
    run: RunFolder, data: PreparedData, fields: Path, tmp_path: Path
) -> None:
    stored = [best_checkpoint(run.trials, number) for number in (0, 1)]
    members = [(one, weight) for one, weight in zip(stored, (0.6, 0.4), strict=True) if one]
    assert len({one.info.config.view for one, _ in members}) == 2
    place = tasks.Workplace(NodeCopy("", None, data.folder), cpus=1, gpus=0)
    mixture = tasks.Mixture(((0, 0.6), (1, 0.4)), None)
    (said,) = tasks.score_mixtures([one for one, _ in members], place, "test", [mixture])
    folders = [(Path(one.location.path), weight) for one, weight in members]
    write_bundle(tmp_path / "both", folders, metric="dice", scores={})
    scores = evaluated(tmp_path / "both", fields, tmp_path, 1.0)
    assert scores["dice"] == pytest.approx(said.scores.dice, abs=1e-4)


def test_pictures_and_report_are_there(result: SearchResult, run: RunFolder) -> None:
    for name in result.candidates:
        number = int(name.removeprefix("trial "))
        pictures = run.path / "pictures" / f"trial_{number:04d}"
        assert len(list(pictures.glob("val_*.png"))) == 4
    page = write_report(run).read_text()
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert "scale" in page


def test_each_band_has_one_range_of_all_training_photographs(data: PreparedData) -> None:
    assert data.channels == 4 and data.samples.dtype == np.uint16
    assert data.bands.ranges is not None
    nir, red, green, height = data.bands.ranges
    assert nir[1] > red[1] > green[1] > 0.3
    assert 29 < height[0] < 31 and 35 < height[1] < 37
    assert data.bands.mean is not None and data.bands.std is not None


def test_what_holds_no_data_counts_nowhere(data: PreparedData, result: SearchResult) -> None:
    for number in range(16):
        assert (data.mask(number)[GAP] == IGNORE_INDEX).all()
        assert not data.image(number)[GAP].any()
    labelled = [int((data.score_mask(p) < 3).sum()) for p in data.of_split("test")]
    assert sum(map(sum, result.ensemble.test.confusion)) == sum(labelled)
    assert sum(labelled) == len(labelled) * (64 * 64 - 9 * 20 - 1)  # the gap, and one NaN


def test_people_see_three_of_the_bands(data: PreparedData) -> None:
    seen = to_rgb8(data.image(0), data.bands)
    grass, roof = (seen[data.mask(0) == k].mean(axis=0) for k in (0, 1))
    assert grass[2] > roof[2] and grass[0] < roof[0]  # nir is shown as blue, red as red


def test_predictions_lie_where_the_photographs_do(
    result: SearchResult, fields: Path, tmp_path: Path
) -> None:
    photo = fields / "field_03.tif"
    arguments = [str(result.bundle), str(photo), "--out", str(tmp_path), "--device", "cpu"]
    assert predict.main([*arguments, "--overlay", "--probabilities", "--uncertainty"]) == 0
    with rasterio.open(photo) as source, rasterio.open(tmp_path / "field_03.tif") as mask:
        assert mask.crs == source.crs and mask.transform == source.transform
        predicted_HW = mask.read(1)
        assert mask.nodata == IGNORE_INDEX
    assert (predicted_HW[GAP] == IGNORE_INDEX).all() and predicted_HW[60, 60] == IGNORE_INDEX
    assert set(np.unique(predicted_HW)) <= {0, 1, 2, IGNORE_INDEX}
    assert (tmp_path / "overlays" / "field_03.jpg").is_file()


def test_a_bundle_refuses_photographs_without_its_bands(
    result: SearchResult, fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Ensemble.load(result.bundle).bands.channels == 4
    path = tmp_path / "three.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="float32", height=64, width=64
    ) as raster:
        raster.write(np.zeros((3, 64, 64), np.float32))
    arguments = [str(result.bundle), str(path), "--out", str(tmp_path / "out")]
    assert predict.main([*arguments, "--device", "cpu"]) == 1
    assert "three.tif" in capsys.readouterr().err


def test_a_search_goes_on_and_shows_its_progress(
    run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    again = run.resume_options(trials=5)
    assert (again.space, again.max_epochs) == ("tests.views_space:space", 2)
    segsearch.search(again, progress=True)
    shown = capfd.readouterr().out
    assert "trial   4" in shown and "Best trials by dice" in shown
    assert f"python -m search.predict {run.address}/ensemble" in shown
    assert "and open http" in shown and "None" not in shown
    assert len(segsearch.read_rows(segsearch.read_study(run))) == 5


def test_a_check_says_what_a_search_would_take_and_what_is_odd_about_the_data(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_blocks(tmp_path / "data", count=40)
    (folder / "masks" / "extra.png").touch()
    for number in range(10, 40):  # of which each is named
        nothing = np.full((64, 64), 255, np.uint8)
        Image.fromarray(nothing).save(folder / "masks" / f"photo_{number}.png")
    split = "{val: [photo_01, photo_03, photo_09], test: [photo_05, photo_06, photo_07]}"
    spec = (folder / "dataset.yaml").read_text().replace("{val: 0.25, test: 0.25}", split)
    (folder / "dataset.yaml").write_text(spec)
    with pytest.raises(UserError, match=r"has Pool: 1 of the 1 rare.*--allow-missing-classes"):
        segsearch.check(options(folder, tmp_path))
    assert capfd.readouterr() == ("", "")
    checked = options(folder, tmp_path, allow_missing_classes=True, folds=3, repeats=2)
    forecast = segsearch.check(checked, progress=True)
    assert isinstance(forecast, Forecast)
    assert forecast.time_s > 0 and forecast.checkpoints_bytes > 0
    assert "3 for validation, 3 for the test" in str(forecast)
    assert "48×48 px of photographs as a whole, all scored at 48×48 px" in str(forecast)
    assert "12 trainings follow: 4 trials on 3 folds each" in str(forecast)
    assert "8 trainings follow: 4 trials with 2 other seeds each" in str(forecast)
    assert not (tmp_path / "runs/api").exists()
    told = capfd.readouterr().out
    notes = [line for line in told.splitlines() if line.startswith("!")]
    assert "! no photograph of test has Pool, though others have" in notes
    assert "! masks/extra.png: masks without a photograph" in notes
    # What is odd about many photographs is told once.
    (unlabelled,) = [note for note in notes if "nothing is labelled" in note]
    assert unlabelled.startswith("! images/photo_10.png, ")
    assert "photo_14.png and 25 more: " in unlabelled
    assert "Independent photographs: 4 in train, 3 in val, 3 in test" in told
    guess = "The intervals are a guess: they rest on 3 independent photographs, and 6 are needed."
    assert {f"! val: {guess}", f"! test: {guess}"} <= {*notes}


@pytest.mark.slow  # test_search.py resumes searches, too
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
