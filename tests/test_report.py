"""The page on a search: what it says, and what it makes of a run's files."""

import dataclasses
import html
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search import report
from search.reporting import figures as plots
from search.reporting import page as report_page
from search.reporting.history import History, TrialHistory, read_history
from search.reporting.importance import find_importance
from search.reporting.page import write_report
from search.reporting.photographs import choose
from search.reporting.terminal import result_text
from search.run import parse_options
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions
from search.runs.repeats import read_repeats
from search.runs.result import PhotoScore, SearchResult, WeightedTrial
from search.runs.study import open_study
from search.tracking.outbox import Outbox
from search.tracking.registry import model_record
from tests.drawn_run import add_repeats, draw_run

FIGURES = re.compile(r'<script type="application/json" id="figures">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> RunFolder:
    return draw_run(tmp_path_factory.mktemp("finished"), blocks)


@pytest.fixture(scope="module")
def page(finished: RunFolder) -> str:
    return write_report(finished).read_text()


def words(page: str) -> str:
    """What a person reads: without scripts, styles and tags."""
    without = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without)).split())


def figures(page: str) -> dict:
    found = FIGURES.search(page)
    assert found is not None
    return json.loads(found[1])


def test_the_headline_is_the_honest_score_with_its_interval(finished: RunFolder, page: str) -> None:
    result = SearchResult.read(finished.path)
    assert result is not None
    honest, flattering = result.ensemble.test.metrics["dice"], result.ensemble.val.metrics["dice"]
    text = words(page)
    assert f"dice on 4 test photographs {honest.value:.3f} 95 % interval {honest.low:.3f}" in text
    assert f"{honest.low:.3f} – {honest.high:.3f} ensemble of 2" in text
    assert "Test: The intervals are a guess: they rest on 4 independent photographs" in text
    assert f"{flattering.value:.3f}" in text
    assert f"{abs(flattering.value - honest.value):.3f} " in text


def test_every_part_of_a_finished_search_is_there(finished: RunFolder, page: str) -> None:
    assert set(figures(page)) == {
        "curves", "parallel", "importance", "costs", "models", "confusion"
    }  # fmt: skip
    pictures = page[: page.index("<script>")]
    assert pictures.count('src="data:image/jpeg;base64,') == 4, "each test photograph once"
    assert pictures.count('src="data:image/png;base64,') == 2 * 4
    text = words(page)
    assert "the loss became NaN in epoch 3" in text
    assert "mean of the best 2" in json.dumps(figures(page)["models"])
    assert "Ensemble of 2 was taken because it scores best on left-out photographs." in text
    assert re.search(
        r"mean of the best 2 0\.\d{3} 0\.\d{3} – 0\.\d{3} 0\.400 0\.010 ± 0\.006", text
    )
    assert f"python -m search.predict {finished.path}/ensemble PHOTOS" in text


def test_lines_stand_out_from_light_and_from_dark_paper() -> None:
    """By 3:1 (WCAG 2, 1.4.11)."""

    def light(color: str) -> float:
        parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    css = Path(report_page.__file__).with_name("page.css").read_text()
    papers = re.findall(r"--card: (#\w{6});", css)
    assert len(papers) == 2
    drawn = {*plots.STATUS_COLORS.values(), plots.MEMBER_COLOR, *(c for _, c in plots.SCORE_COLORS)}
    for color in drawn:
        for paper in papers:
            low, high = sorted((light(color), light(paper)))
            assert (high + 0.05) / (low + 0.05) >= 3, f"{color} on {paper}"


def test_seed_noise_stands_beside_the_interval(finished: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    add_repeats(run, {0: [0.3, 0.34], 4: [0.25, 0.29]})
    result = SearchResult.read(run.path)
    assert result is not None
    repeated = dataclasses.replace(
        result,
        seed_noise=read_repeats(run).noise,
        alternatives=tuple(
            dataclasses.replace(one, trials=(WeightedTrial(4, 0.5, repeat=2), *one.trials[1:]))
            for one in result.alternatives
        ),
    )
    repeated.write(run.path)
    text = words(write_report(run).read_text())
    assert "; seed noise ± 0.028" in text
    assert "Seed noise ± 0.0283: so much does one" in text
    assert "0.300–0.340" in text and "followed, with other seeds 5 9" in text
    assert "trial weight configuration 4.2 0.50" in text
    assert "trial 4.2 ×0.50" in result_text(repeated) and "Seed noise" in result_text(repeated)
    record = model_record("roofs", run.ensemble, repeated)
    assert record["metrics"]["seed_noise/dice"] == pytest.approx(0.02828, abs=1e-5)
    assert "Seed noise ± 0.0283" in record["description"]


def test_gpu_hours_are_the_time_of_workers_times_their_share_of_a_gpu(
    finished: RunFolder, page: str
) -> None:
    worker_s = sum(t.worker_s for t in read_history(finished.outbox).trials.values())
    assert f"{0.5 * worker_s / 3600:.2f} GPU-hours" in words(page)


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> RunFolder:
    return draw_run(tmp_path_factory.mktemp("going_on"), blocks, trials=7, planned=20)


def test_in_mid_search_the_page_says_what_is_still_missing(going_on: RunFolder) -> None:
    page = write_report(going_on).read_text()
    assert "Going on: 6 of 20 trials" in words(page)
    assert "There is no honest score yet" in words(page)
    assert set(figures(page)) == {"curves", "parallel"}
    assert "Confusion matrix" not in words(page) and "data:image/jpeg" not in page


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("interrupted", "Ended early: 6 of 20 trials … The search was interrupted. Go on with it:"),
        ("UserError: no <b>disk</b>", "… The search ended early: UserError: no <b>disk</b>. Go on"),
    ],
)
def test_a_search_that_ended_early_says_why_and_how_it_goes_on(
    reason: str, told: str, going_on: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(Path(shutil.copytree(going_on.path, tmp_path / "my runs")))
    end = {"kind": "end", "trial": None, "status": "stopped", "reason": reason, "time_ms": 9}
    Outbox(run.outbox).append(end)
    text = words(write_report(run).read_text())
    for part in told.split(" … "):
        assert part.strip("… ") in text
    assert text.count(f"python -m search.run --resume {shlex.quote(str(run.path))}") == 2


def test_where_all_trials_failed_there_are_reasons_and_no_empty_plots(
    going_on: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(Path(shutil.copytree(going_on.path, tmp_path / "run")))
    run.study.unlink()
    study = open_study(run.study, name="failed", create=True)
    for _ in range(3):
        trial = study.ask()
        trial.set_user_attr("failure", "UserError: <b>no</b> memory")
        study.tell(trial, state=TrialState.FAIL)
    page = write_report(run).read_text()
    assert figures(page) == {}
    assert "No trial has done an epoch." in words(page)
    assert words(page).count("UserError: <b>no</b> memory") == 3
    assert "There is no honest score yet" not in words(page), "there is none at all"


@pytest.mark.parametrize("ends_by", ["itself", "Ctrl-C"])
def test_a_live_page_loads_itself_again_while_the_search_goes_on(
    ends_by: str, going_on: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(Path(shutil.copytree(going_on.path, tmp_path / "run")))
    pages: list[str] = []

    def time_passes(seconds: float) -> None:
        pages.append((run.path / "report.html").read_text())
        if len(pages) == 2 and ends_by == "Ctrl-C":
            raise KeyboardInterrupt
        if len(pages) == 2:
            end = {"kind": "end", "trial": None, "status": "finished", "time_ms": 9}
            Outbox(run.outbox).append(end)

    monkeypatch.setattr("search.reporting.page.time.sleep", time_passes)
    assert report.main([str(run.path), "--live"]) == 0
    assert len(pages) == 2 and all("location.reload(), 15000.0)" in page for page in pages)
    assert "location.reload" not in (run.path / "report.html").read_text()


def test_without_the_photographs_the_rest_is_told(finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "moved")
    for path in (finished.study, finished.outbox, finished.path / "result.json"):
        run.path.mkdir(exist_ok=True)
        (run.path / path.name).write_bytes(path.read_bytes())
    record = finished.read()
    record.identity["data"] = "0" * 64
    run.write(record)
    page = write_report(run, out=tmp_path / "page.html").read_text()
    assert "doesn't have the prepared photographs" in words(page)
    assert "confusion" in figures(page) and "data:image/jpeg" not in page


def test_the_same_search_again_is_a_command_that_can_be_typed(finished: RunFolder) -> None:
    run = RunFolder(finished.path.parent / "quoted")
    for path in (finished.study, finished.outbox):
        run.path.mkdir(exist_ok=True)
        (run.path / path.name).write_bytes(path.read_bytes())
    record = finished.read()
    options = SearchOptions(
        data="/my data/it's", trials=30, tracking_uri="http://host:5000", seed=7,
        warm_start=("/runs/a b", "/runs/c"), allow_missing_classes=True,
    )  # fmt: skip
    run.write(type(record)(record.search_id, options, record.identity))
    text = words(write_report(run).read_text())
    assert """python -m search.run --data '/my data/it'"'"'s'""" in text
    assert "Compare trials in MLflow http://host:5000" in text
    typed = text.partition("The same search again")[2].partition("All trials, sorted")[0]
    again = parse_options(shlex.split(typed)[3:], "search.run")
    assert again == dataclasses.replace(options, tracking_uri=None)


@pytest.mark.parametrize(
    "arguments", [["/no/such/run"], ["RUN", "--out", "/no/such/folder/x.html"]]
)
def test_what_can_not_be_reported_is_said_in_one_line(
    arguments: list[str], finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(finished.path) if a == "RUN" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert "/no/such" in error and error.count("\n") == 1


def test_time_of_workers_leaves_out_the_pause_between_two_sessions(tmp_path: Path) -> None:
    journal = tmp_path / "tracking.jsonl"
    records = [
        {"kind": "start", "trial": None, "time_ms": 0, "tags": {"gpus_per_trial": "1"}},
        {"kind": "start", "trial": 3, "time_ms": 0},
        {"kind": "epoch", "trial": 3, "time_ms": 10_000, "epoch": 1,
         "metrics": {"train/epoch_s": 8.5, "train/validation_s": 0.5,
                     "dice/Trees - Shrubs": 0.25, "val/dice": 0.5}},
        {"kind": "start", "trial": None, "time_ms": 90_000, "tags": {"gpus_per_trial": "1"}},
        {"kind": "start", "trial": 3, "time_ms": 100_000},
        {"kind": "epoch", "trial": 3, "time_ms": 105_000, "epoch": 2,
         "metrics": {"train/epoch_s": 4.0}},
        {"kind": "end", "trial": 3, "time_ms": 107_000},
        {"kind": "artifact", "trial": 3, "time_ms": 999_000},
    ]  # fmt: skip
    text = "".join(json.dumps(record) + "\n" for record in records) + '{"kind": "epo'
    journal.write_text(text)
    history = read_history(journal, ["Trees / Shrubs"])
    assert history.trials[3].worker_s == 17
    assert history.trials[3].training_s == 12
    assert history.sessions == 2 and history.gpus_per_trial == 1
    assert history.trials[3].class_dice == {1: {"Trees / Shrubs": 0.25}, 2: {}}
    assert journal.read_text() == text, "another process may be writing it"


def test_a_paused_trial_that_is_let_go_later_had_no_worker_meanwhile(tmp_path: Path) -> None:
    """Nor had one whose driver was killed, and of which the next session told what was missing."""
    journal = tmp_path / "tracking.jsonl"
    records = [
        {"kind": "start", "trial": None, "time_ms": 0, "tags": {}},
        {"kind": "start", "trial": 1, "time_ms": 0},
        {"kind": "end", "trial": 1, "time_ms": 5_000, "status": "paused"},
        {"kind": "start", "trial": 2, "time_ms": 5_000},
        {"kind": "epoch", "trial": 2, "time_ms": 9_000, "epoch": 1, "metrics": {}},
        {"kind": "end", "trial": 1, "time_ms": 60_000, "status": "stopped"},
        {"kind": "start", "trial": None, "time_ms": 90_000, "tags": {}},
        {"kind": "epoch", "trial": 2, "time_ms": 90_000, "epoch": 2, "metrics": {}},
        {"kind": "end", "trial": 2, "time_ms": 90_000, "status": "stopped"},
    ]  # fmt: skip
    journal.write_text("".join(json.dumps(record) + "\n" for record in records))
    trials = read_history(journal).trials
    assert (trials[1].worker_s, trials[2].worker_s) == (5, 4)
    assert set(trials[2].class_dice) == {1, 2}


def test_importance_finds_what_decides_the_score_and_what_decides_a_class() -> None:
    rng = np.random.default_rng(0)
    floats = optuna.distributions.FloatDistribution(0, 1)
    trials, history = [], History()
    for number in range(60):
        params = {name: float(rng.random()) for name in ("lr", "dropout", "crops")}
        scores = {1: params["lr"], 2: params["lr"] + 0.01}
        if number % 3:  # stopped after the first rung, as most are
            del scores[2]
        trial = create_trial(
            state=TrialState.COMPLETE if 2 in scores else TrialState.PRUNED,
            value=params["lr"] if 2 in scores else None,
            params=params,
            distributions=dict.fromkeys(params, floats),
            intermediate_values=scores,
        )
        trial.number = number
        trials.append(trial)
        dice = {"Boat": params["crops"], "Never": 0.0}
        history.trials[number] = TrialHistory({1: dice, 2: dice})
    importance = find_importance(trials, history, [1, 2], ["Boat", "Never", "Not measured"])
    assert importance is not None
    assert (importance.epoch, importance.trials) == (1, 60), "only there all can be compared"
    assert next(iter(importance.overall)) == "lr" and importance.overall["lr"] > 0.8
    assert set(importance.by_class) == {"Boat"}, "no difference, nothing to explain"
    assert importance.by_class["Boat"]["crops"] > 0.8


def test_too_few_trials_have_no_importance() -> None:
    assert find_importance([], History(), [1, 3], []) is None


def test_photographs_are_the_best_the_worst_and_the_most_uncertain_of_the_rest() -> None:
    photos = [PhotoScore(f"{n}.jpg", n, score=n / 20, uncertainty=n % 7 / 7) for n in range(20)]
    photos.append(PhotoScore("unlabelled.jpg", 20, score=None, uncertainty=1.0))
    chosen = {kind: [photo.photo for photo in some] for kind, some in choose(photos).items()}
    assert chosen["Best"] == [19, 18, 17, 16]
    assert chosen["Worst"] == [0, 1, 2, 3]
    assert chosen["Most uncertain of the others"] == [6, 13, 5, 12]
