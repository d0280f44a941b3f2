"""Which checkpoints are deleted, and how long a search is said to take."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.runs.options import SearchOptions
from search.runs.rows import Status, TrialRow
from search.runs.storage import Location
from search.trials import estimate
from search.trials.cluster import Slots
from search.trials.estimate import estimate_s
from search.trials.keeping import (
    KEPT_PER_CANDIDATE,
    drop_checkpoints,
    kept_trials,
    most_promising,
)
from segcore.config import TrialConfig
from tests.conftest import make_data

CONFIG = TrialConfig(architecture="scratch_unet", encoder=None).to_dict()


def row(number: int, score: float | None, status: Status = "stopped") -> TrialRow:
    return TrialRow(number, status, score, None, None, 3, None, CONFIG, None)


def put_checkpoints(trials: Path, *folders: str) -> None:
    for folder in folders:
        (trials / folder / "checkpoint_000000").mkdir(parents=True)
        (trials / folder / "checkpoint_000000" / "model.safetensors").write_bytes(b"weights")


def left(trials: Path) -> list[str]:
    files = (path.relative_to(trials) for path in trials.rglob("*.safetensors"))
    return sorted(path.parents[1].as_posix() for path in files)


def test_only_trials_that_can_not_become_candidates_lose_their_checkpoints(tmp_path: Path) -> None:
    put_checkpoints(
        tmp_path,
        "session_1/trial_0000", "session_1/trial_0001", "session_1/trial_0002",
        "session_1/trial_0003", "session_1/trial_0003_again_2", "session_2/trial_0003",
        "session_2/trial_0004", "session_2/trial_0005", "session_2/trial_0100",
        "session_2/trial_10000",
    )  # fmt: skip
    (tmp_path / "session_1" / "tuner.pkl").touch()
    rows = [
        row(1, 0.9), row(10000, 0.8), row(0, 0.7), row(3, 0.6), row(100, 0.5),
        row(4, 0.1, "running"), row(2, None, "failed"), row(5, None, "interrupted"),
    ]  # fmt: skip
    assert KEPT_PER_CANDIDATE == 2
    others = {row.number for row in rows} - kept_trials(rows, candidates=1)
    dropped = drop_checkpoints(Location.parse(tmp_path), others)
    assert sorted(dropped) == [0, 2, 3, 3, 3, 100]
    assert left(tmp_path) == [
        "session_1/trial_0001", "session_2/trial_0004", "session_2/trial_0005",
        "session_2/trial_10000",
    ]  # fmt: skip
    assert (tmp_path / "session_1" / "tuner.pkl").is_file()
    assert drop_checkpoints(Location.parse(tmp_path), others) == []


def paused(number: int, *values: float) -> TrialRow:
    return TrialRow(
        number, "paused", max(values), None, None, len(values), None, CONFIG, None,
        dict(enumerate(values, 1)),
    )  # fmt: skip


def test_half_of_the_checkpoints_are_those_of_the_most_promising_paused_trials() -> None:
    """A long training has a higher score than what is young, and may be worse all the same."""
    old = [
        TrialRow(number, "stopped", score, None, None, 3, None, CONFIG, None,
                 {1: score / 2, 2: score / 1.5, 3: score})
        for number, score in enumerate((0.9, 0.8, 0.7, 0.6))
    ]  # fmt: skip
    young = [paused(4, 0.3), paused(5, 0.5), paused(6, 0.39, 0.41), paused(7, 0.2, 0.62)]
    rows = sorted([*old, *young], key=lambda row: -(row.score or 0))
    # Better than them at the last common epoch: 5 none; 7 (0 and 2 later); 6 three; 4 all.
    assert most_promising(rows) == [5, 7, 6, 4]
    assert kept_trials(rows, candidates=2) == {0, 1, 5, 7}
    assert kept_trials(rows, candidates=4) == {0, 1, 2, 7, 4, 5, 6, 3}
    assert kept_trials(rows[:3], candidates=1) == {0, 1}, "none is paused"


def plan_of(*networks: TrialConfig, photos: int = 8, **options: Any) -> Any:
    """Half of the photographs, of 48×48 px, are for training, and a quarter for validation."""
    return SimpleNamespace(
        options=SearchOptions(**options),
        networks=networks,
        data=make_data(photos),
        data_on_nodes=None,
    )


def test_the_time_is_that_of_the_mean_network_on_all_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 training photographs and 30 for validation, which cost a third: 70 of them an epoch."""
    step_s = {2: 0.2, 10: 0.5}  # 7 and 3.5 s an epoch
    monkeypatch.setattr(estimate, "measure", lambda plan, slots, tell: [
        step_s[config.batch_size] for config in plan.networks
    ])  # fmt: skip
    networks = [TrialConfig(height_px=48, width_px=48, batch_size=size) for size in step_s]
    plan = plan_of(*networks, photos=120, trials=10, grace_epochs=4, max_epochs=4)
    assert estimate_s(plan, Slots(1, 0, wanted=2)) == pytest.approx(10 * 4 * 5.25 / 2)
    plan.options = SearchOptions(trials=10, grace_epochs=4, max_epochs=4, time_budget="50s")
    assert estimate_s(plan, Slots(1, 0, wanted=2)) == 50
    plan.options = SearchOptions(
        trials=10, grace_epochs=4, max_epochs=4, folds=3, repeats=5, final_trials=2
    )
    after = 2 * (3 + 5)
    assert estimate_s(plan, Slots(1, 0, wanted=2)) == pytest.approx((10 + after) * 4 * 5.25 / 2)


def test_windows_cost_what_their_pixels_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrialConfig(height_px=32, width_px=32, scale=1.0, batch_size=4, epoch_mpx=1.024)
    plan = plan_of(config, photos=120, trials=1, grace_epochs=1, max_epochs=1)
    monkeypatch.setattr(estimate, "measure", lambda plan, slots, tell: [0.4])
    trained_s = 1000 / 4 * 0.4  # 1000 windows
    validated_s = 30 * 48 * 48 / (32 * 32) / 3 * 0.1
    assert estimate_s(plan, Slots(1, 0, wanted=1)) == pytest.approx(trained_s + validated_s)
