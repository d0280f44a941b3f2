"""The interface for Python: a search in this process, and the names that the packages export."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import search
import segcore
from search import Forecast, RunFolder, SearchOptions, SearchResult
from search.reporting.terminal import next_steps
from segcore import Ensemble, UserError
from tests.conftest import write_blocks

ROOT = Path(__file__).parents[1]


def options(blocks: Path, out: Path, **changes: object) -> SearchOptions:
    chosen = {
        "data": str(blocks), "space": "tests.tiny_space:space", "trials": 2, "max_epochs": 2,
        "grace_epochs": 1, "out": str(out / "runs"), "name": "api", **changes,
    }  # fmt: skip
    return SearchOptions(**chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


def test_a_search_gives_its_result_and_prints_nothing(
    blocks: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = search.search(options(blocks, folder))
    assert capfd.readouterr() == ("", "")
    assert isinstance(result, SearchResult)
    assert result == SearchResult.read(folder / "runs/api")
    score = result.ensemble.test.metrics["dice"]
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert result.ensemble.test.photos == 4

    scores = [row.score for row in result.leaderboard]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    frame = result.data_frame()
    assert list(frame["score"]) == scores and set(frame["architecture"]) == {"scratch_unet"}

    assert result.bundle == folder / "runs/api/ensemble"
    mask_HW = Ensemble.load(result.bundle).predict(np.zeros((50, 70, 3), np.uint8))
    assert mask_HW.shape == (50, 70) and mask_HW.max() < 3


def test_a_search_goes_on_from_python_and_shows_its_progress(
    blocks: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.opened(folder / "runs/api")
    again = run.resume_options(trials=3)
    assert (again.space, again.max_epochs) == ("tests.tiny_space:space", 2)
    search.search(again, progress=True)
    shown = capfd.readouterr().out
    assert "trial   2" in shown and "Best trials by dice" in shown
    assert f"python -m search.predict {run.address}/ensemble" in shown
    assert "and open http" in shown and "None" not in shown
    assert len(search.read_rows(search.read_study(run))) == 3


def test_a_check_says_what_a_search_would_take_and_writes_no_run(
    blocks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forecast = search.check(options(blocks, tmp_path, folds=3, repeats=2))
    assert capfd.readouterr() == ("", "")
    assert isinstance(forecast, Forecast)
    assert forecast.time_s > 0 and forecast.checkpoints_bytes > 0
    assert "8 training photographs, 0.0184 megapixels an epoch, 4 for validation" in str(forecast)
    assert "48×48 px of photographs as a whole, all scored at 48×48 px" in str(forecast)
    assert "12 trainings follow: 4 trials on 3 folds each" in str(forecast)
    assert "8 trainings follow: 4 trials with 2 other seeds each" in str(forecast)
    assert not (tmp_path / "runs/api").exists()


def test_bad_options_are_user_errors_before_anything_is_trained(
    blocks: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--trials 0: must be at least 1"):
        SearchOptions(trials=0)
    with pytest.raises(UserError, match="--repeats 1: must be 0 or at least 2"):
        SearchOptions(repeats=1)
    with pytest.raises(UserError, match="--score-scale 2: must be above 0 and at most 1"):
        SearchOptions(score_scale=2)
    with pytest.raises(UserError, match="--epoch-megapixels 0: must be above 0"):
        SearchOptions(epoch_megapixels=0)
    with pytest.raises(UserError, match="--gpus-per-trial -1"):
        SearchOptions(gpus_per_trial=-1)
    with pytest.raises(UserError, match="/no/such/folder"):
        search.search(options(blocks, tmp_path, data="/no/such/folder"))
    with pytest.raises(UserError, match=r"call search\.check"):
        search.search(options(blocks, tmp_path, dry_run=True))
    with pytest.raises(UserError, match="a run of this name exists"):
        search.search(options(blocks, folder))


def test_ctrl_c_says_in_its_error_how_to_go_on(blocks: Path, tmp_path: Path) -> None:
    """As a notebook sees it, whose stop button is a SIGINT."""
    script = f"""
import os, signal, threading, time
import search
from pathlib import Path
from tests.test_api import options

def stop():
    while not list(Path({str(tmp_path)!r}).glob("runs/api/trials/*/trial_0000")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=stop, daemon=True).start()
try:
    search.search(options(Path({str(blocks)!r}), Path({str(tmp_path)!r}), trials=50,
                          space="tests.tiny_space:slow_space"))
except KeyboardInterrupt as interrupt:
    print(interrupt)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert "python -m search.run --resume " in done.stdout, done.stderr
    assert str(tmp_path / "runs/api") in done.stdout
    assert len(RunFolder.opened(tmp_path / "runs/api").read().identity["data"]) > 8


def test_what_is_odd_about_the_data_is_shown_before_anything_is_trained(
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
        search.check(options(folder, tmp_path))
    search.check(options(folder, tmp_path, allow_missing_classes=True), progress=True)
    told = capfd.readouterr().out
    notes = [line for line in told.splitlines() if line.startswith("!")]
    assert "! not in test, though elsewhere: Pool" in notes
    assert "! masks/extra.png: masks without a photograph" in notes
    # What is odd about many photographs is told once.
    (unlabelled,) = [note for note in notes if "nothing is labelled" in note]
    assert unlabelled.startswith("! images/photo_10.png, ")
    assert "photo_14.png and 25 more: " in unlabelled
    assert "Independent photographs: 4 in train, 3 in val, 3 in test" in told
    guess = "The intervals are a guess: they rest on 3 independent photographs, and it takes 6."
    assert {f"! val: {guess}", f"! test: {guess}"} <= {*notes}


def test_an_end_without_mlflow_says_how_its_records_are_delivered() -> None:
    end = next_steps(
        "runs/x", report="report.html", compare="http://host", trials_url=None, unsent=7,
        serve="mlflow models serve",
    )  # fmt: skip
    assert "None" not in end and "and open" not in end
    assert "yet to get 7 records" in end and "python -m search.run --resume runs/x" in end
    assert "models serve" not in end, "it would serve nothing yet"
    url = "http://host/#/experiments/1"
    end = next_steps(
        "runs/x", report="report.html", compare="http://host", trials_url=url, unsent=0,
        serve="mlflow models serve", others_refused=2,
    )  # fmt: skip
    assert "mlflow models serve" in end
    assert "refused 2 records for good" in end and "runs/x/tracking.jsonl.refused" in end
    assert f"and open {url}" in end and "yet to get" not in end


@pytest.mark.parametrize("package", [search, segcore], ids=lambda package: package.__name__)
def test_public_names_are_there_are_no_modules_and_type_checkers_see_them(package) -> None:  # type: ignore[no-untyped-def]
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"{package.__name__}.{name}")
    folder = Path(package.__file__).parent
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse((folder / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert seen == package._HOMES
    assert (folder / "py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'fti'"):
        package.fti  # noqa: B018


def test_importing_the_packages_imports_nothing_heavy() -> None:
    script = (
        "import sys, search, segcore, search.runs.options; search.SearchOptions;"
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() in ("[]", "['numpy']"), done.stderr  # numpy is pyarrow's
