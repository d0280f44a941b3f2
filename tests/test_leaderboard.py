"""What a person reads of a search's trials, finished or going on."""

import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from rich.console import Console

from search import leaderboard
from search.reporting.page import write_report
from search.reporting.terminal import leaderboard_table
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions
from search.runs.rows import TrialRow, like_the_best, show_counts
from search.runs.study import open_study, read_study
from search.tracking.outbox import read_records
from search.tracking.tracker import Tracker
from search.trials.session import _Watcher
from search.trials.worker import JACKKNIFE, add_result, plain_jackknife
from segcore.scores.intervals import Jackknife
from segcore.scores.metrics import Scores
from segcore.training.fit import EpochResult
from tests.conftest import write_blocks
from tests.drawn_run import NOWHERE, add_repeats, draw_run
from tests.test_intervals import counts_of

TRIALS = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("finished")
    data = write_blocks(folder / "data", count=32)  # 8 for validation, enough to tell trials apart
    return draw_run(folder, data, trials=TRIALS)


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> RunFolder:
    return draw_run(tmp_path_factory.mktemp("going_on"), blocks, trials=7, planned=TRIALS)


def show(run: RunFolder, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert leaderboard.main([str(run.path), *arguments]) == 0
    return capsys.readouterr().out


def as_json(run: RunFolder, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    return json.loads(show(run, capsys, "--json", *arguments))["trials"]


def test_json_has_every_trial_with_its_score_and_its_whole_configuration(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = as_json(finished, capsys)
    trials = {trial.number: trial for trial in read_study(finished).get_trials()}
    assert {row["trial"] for row in rows} == set(trials) == set(range(TRIALS))
    for row in rows:
        trial = trials[row["trial"]]
        assert row["score"] == max(trial.intermediate_values.values())
        assert row["config"] == trial.user_attrs["config"]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["failure"] == "the loss became NaN in epoch 3"


def test_every_score_has_its_interval_and_says_if_it_may_be_as_good_as_the_best(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = as_json(finished, capsys)
    assert all(0 <= row["low"] < row["high"] <= 1 for row in rows)
    equals = [row["trial"] for row in rows if row["like_the_best"]]
    # All trials of this run are the same training, times a factor: only equal factors are equal.
    best = rows[0]["score"]
    assert equals == [row["trial"] for row in rows[1:] if row["score"] > 0.999 * best]
    shown = show(finished, capsys, "--top", "12")
    assert shown.count("≈") == len(equals) + bool(equals), "and the sentence that explains it"


def row_of(counts_P3K: np.ndarray, number: int, **config: int) -> TrialRow:
    jackknife = Jackknife.of(counts_P3K, "dice")
    return TrialRow(
        number, "finished", jackknife.value, (0.0, 1.0), plain_jackknife(jackknife), 1, None,
        config, None,
    )  # fmt: skip


def test_a_paused_trial_is_said_to_be_paused() -> None:
    values = {1: 0.3, 7: 0.5}
    rows = [
        TrialRow(0, "finished", 0.6, None, None, 9, None, None, None, {9: 0.6}),
        TrialRow(1, "paused", 0.5, None, None, 7, None, None, None, values),
        TrialRow(2, "waiting", None, None, None, 0, None, None, None),
    ]
    console = Console(file=io.StringIO(), width=120)
    console.print(leaderboard_table(rows, "dice"))
    assert "paused at epoch 7, may go on" in console.file.getvalue()  # type: ignore[attr-defined]
    options = SearchOptions(strategy="freeze-thaw", trials=12)
    assert show_counts(rows, options) == "2 of at most 12 begun, 1 paused, 1 ended"
    assert show_counts(rows, SearchOptions(trials=12)) == "1 of 12 ended"


def test_a_trial_that_the_end_of_the_search_cut_off_is_said_to_be_interrupted(
    going_on: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As is the one that no worker had begun with, which MLflow doesn't know."""
    run = RunFolder(Path(shutil.copytree(going_on.path, tmp_path / "run")))
    study = open_study(run.study, name="drawn", create=False)
    study.ask().set_user_attr("paused", 1)
    study.ask()
    tracker = Tracker(
        NOWHERE, experiment="segsearch", search_name="drawn", search_id="drawn-1",
        score="val/dice", outbox=run.outbox,
    )  # fmt: skip
    watcher: Any = SimpleNamespace(study=study, tracker=tracker)
    _Watcher.end_session(watcher, "out of time")
    tracker.close(timeout_s=0)
    told = [(r["trial"], r["status"], r["reason"]) for r in read_records(run.outbox)
            if r["kind"] == "end"]  # fmt: skip
    running = read_study(going_on).get_trials(states=[TrialState.RUNNING])
    (cut_off,) = [trial.number for trial in running]
    assert told[-1] == (cut_off, "interrupted", "out of time") and told[-2][0] != 8

    statuses = {row["trial"]: row["status"] for row in as_json(run, capsys)}
    assert [statuses[n] for n in (cut_off, 7, 8)] == ["interrupted", "paused", "interrupted"]
    shown = show(run, capsys)
    assert shown.count("interrupted, can be resumed") == 2 and "running" not in shown
    assert "were interrupted, and can be resumed" in write_report(run).read_text()


def test_of_a_trials_results_the_best_one_keeps_what_comparisons_need() -> None:
    def epoch_of(number: int, accuracy: float) -> EpochResult:
        is_nan = math.isnan(accuracy)
        counts_P3K = counts_of(
            np.full(5, 0.0 if is_nan else accuracy), pixels=0 if is_nan else 1000
        )
        scores = Scores.of(counts_P3K, np.zeros((2, 2), np.int64))
        return EpochResult(
            epoch=number, finished=False, train_loss=1.0, val_loss=1.0, scores=scores, lr=0.1,
            images_per_s=1.0, epoch_s=1.0, val_s=0.2, drawn_share_K=np.full(2, 0.5),
            micro_batch_size=4, save=lambda folder: None,
        )  # fmt: skip

    results: list[dict] = []
    kept = []
    for number, accuracy in enumerate((math.nan, 0.5, 0.8, 0.8, 0.6, 0.9), start=1):
        add_result(results, epoch_of(number, accuracy), ("Roof", "Road"), "dice")
        kept.append([result["epoch"] for result in results if JACKKNIFE in result])
    assert kept == [[], [2], [3], [3], [3], [6]]
    assert results[-1][JACKKNIFE] == pytest.approx([0.9] * 5)


def test_photographs_that_both_find_hard_do_not_hide_which_trial_is_better() -> None:
    rng = np.random.default_rng(0)
    difficulty_P = rng.normal(0, 0.1, 40)
    best = counts_of(0.72 + difficulty_P)
    worse_everywhere = counts_of(0.69 + difficulty_P + rng.normal(0, 0.005, 40))
    worse_by_chance = counts_of(0.715 + difficulty_P + rng.normal(0, 0.05, 40))
    rows = [row_of(c, i) for i, c in enumerate((worse_by_chance, best, worse_everywhere))]
    assert like_the_best(rows) == {0}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(leaderboard_table(rows, "dice"))
    marked, *others = [line for line in console.export_text().splitlines() if "0.000–" in line]
    assert marked.split()[0] == "0" and "≈" in marked and not any("≈" in line for line in others)
    assert like_the_best(rows[1:2]) == like_the_best([]) == set()
    folds = [row_of(best, 0, fold=0), row_of(worse_by_chance, 1, fold=1)]
    assert like_the_best(folds) == set(), "these are other photographs"


def test_other_seeds_and_their_noise_stand_beside_the_interval(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials that another seed might have put first can't be told from the best one."""
    shutil.copytree(finished.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    before = as_json(run, capsys)
    best, second = [row["trial"] for row in before if not row["like_the_best"]][:2]
    add_repeats(run, {best: [0.31, 0.35], second: [0.3, 0.38, 0.34]})
    shown = json.loads(show(run, capsys, "--json"))
    deviation = math.sqrt((0.0008 + 0.0032) / 3)
    assert shown["seed_noise"] == {"deviation": pytest.approx(deviation), "freedom": 3}
    rows = {row["trial"]: row for row in shown["trials"]}
    assert rows[best]["other_seeds"] == pytest.approx([0.31, 0.35])
    assert {n for n, row in rows.items() if row["other_seeds"]} == {best, second}
    assert not rows[best]["like_the_best"] and rows[second]["like_the_best"]
    table = show(run, capsys, "--top", "12")
    assert "other seeds" in table and "0.310–0.350" in table and "0.300–0.380" in table
    assert f"Seed noise ± {deviation:.4f}" in table
    assert "3 degrees of freedom" in " ".join(table.split())
    assert "Seed noise" not in show(finished, capsys)


def test_intervals_over_few_photographs_are_said_to_be_a_guess() -> None:
    for photos in (5, 6):
        console = Console(width=120, record=True, file=io.StringIO())
        rows = [row_of(counts_of(np.linspace(0.5, 0.9, photos)), number=0)]
        console.print(leaderboard_table(rows, "dice"))
        guess = "The intervals are a guess: they rest on 5 independent photographs or groups"
        assert (guess in console.export_text()) == (photos == 5)


@pytest.mark.parametrize(
    ("sort", "key"), [("trial", "trial"), ("epochs", "epochs"), ("time", "duration_s")]
)
def test_sorting_puts_the_largest_first(
    sort: str, key: str, finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [row[key] for row in as_json(finished, capsys, "--sort", sort)]
    assert values == sorted(values, reverse=True) and len(set(values)) > 1


def test_a_short_list_still_says_what_failed_and_why(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = show(finished, capsys, "--top", "1")
    assert "the loss became NaN in epoch 3" in " ".join(shown.split())
    assert shown.count("stopped") == 0 or shown.count("finished") + shown.count("stopped") == 1


def test_a_running_search_is_shown_and_not_disturbed(
    going_on: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with going_on.study.open("ab") as file:
        file.write(b'{"op_code": 6, "wor')  # the driver is in the middle of a line
    before = going_on.study.read_bytes()
    shown = show(going_on, capsys)
    assert "6 of 12 ended" in shown and "running" in shown
    assert "95 %" in shown
    assert going_on.study.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["/no/such/run"], "/no/such/run"), (["RUN", "--top", "0"], "--top 0: must be at least 1")],
)
def test_what_can_not_be_shown_is_said_in_one_line(
    arguments: list[str],
    message: str,
    finished: RunFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(finished.path) if word == "RUN" else word for word in arguments]
    assert leaderboard.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_a_trial_says_so(tmp_path: Path, finished: RunFolder) -> None:
    run = RunFolder(tmp_path / "new")
    run.write(finished.read())
    assert leaderboard.main([str(run.path)]) == 2
