"""A trial trained again without Ray has the scores that it had; what differs is said."""

import dataclasses
import json
import re
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import segcore.training.fit
from search import replay
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from segcore.config import TrialConfig
from segcore.data.preparing import prepare_data
from segcore.errors import TrainingFailedError
from segcore.networks.models import SegmentationNetwork
from segcore.training import checkpoint
from segcore.training.fit import fit


def config(**values: object) -> TrialConfig:
    return TrialConfig.from_dict({
        "height_px": 48, "width_px": 48, "architecture": "scratch_unet", "encoder": None,
        "model_kwargs": {"base_channels": 4, "depth": 2}, "batch_size": 4, "max_epochs": 3,
        "lr": 1e-2, "rare_crop_prob": 0.3, "seed": 5,
    } | values)  # fmt: skip


@pytest.fixture(scope="module")
def run(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run as a search leaves it: a finished trial, one that diverged, one that waits."""
    folder = tmp_path_factory.mktemp("runs") / "past"
    data = prepare_data(blocks, [config().view], progress=False)
    run = RunFolder(folder)
    folder.mkdir()
    options = SearchOptions(data=str(blocks), gpus_per_trial=0)
    run.write(RunRecord("id", options, {"data": data.fingerprint}))
    study = optuna.create_study(
        study_name="past", storage=JournalStorage(JournalFileBackend(str(run.study)))
    )
    torch.set_num_threads(1)
    for number, chosen in enumerate(
        [config(), config(optimizer="sgd", lr=1e30, schedule="constant")]
    ):
        trial = study.ask()
        trial.set_user_attr("config", chosen.to_dict())
        kept = folder / "trials" / "session_1" / f"trial_{number:04d}" / "checkpoint_000000"
        try:
            for epoch in fit(chosen, data, device=torch.device("cpu")):
                trial.report(epoch.scores.dice, epoch.epoch)
                epoch.save(kept)
        except TrainingFailedError as error:
            trial.set_user_attr("failure", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, epoch.scores.dice)
    study.enqueue_trial({})
    return run


def test_a_trial_has_the_same_scores_again(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(run.path), "0", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    pairs = re.findall(r"stored (0\.\d+)  now (0\.\d+)", shown)
    assert len(pairs) == 3 and all(stored == now for stored, now in pairs)
    assert shown.splitlines()[-1] == "equal"
    past = run.path / "trials" / "session_1" / "trial_0000" / "checkpoint_000000"
    then, now = map(checkpoint.load_model_tensors, (past, tmp_path))
    assert all(torch.equal(then[name], now[name]) for name in then)


def test_other_scores_are_not_equal_unless_within_the_tolerance(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = run.study.read_text()
    score = replay.read_trial(run, 0).scores[1]
    try:
        run.study.write_text(journal.replace(str(score), str(score + 0.01)))
        assert replay.main([str(run.path), "0", "--epochs", "1"]) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "not equal"
        assert replay.main([str(run.path), "0", "--epochs", "1", "--tolerance", "0.02"]) == 0
    finally:
        run.study.write_text(journal)


def test_some_epochs_are_enough(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(run.path), "0", "--epochs", "1"]) == 0
    assert capsys.readouterr().out.count("stored") == 1


def test_a_trial_that_failed_fails_again_for_the_same_reason(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(run.path), "1"]) == 0
    assert capsys.readouterr().out.count("loss became nan in epoch 1, step 2 of 2") == 2


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_refused(
    run: RunFolder, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if {"cuda": torch.cuda, "mps": torch.mps}[device].is_available():
        pytest.skip(f"{device} is here")
    assert replay.main([str(run.path), "0", "--device", device]) == 2
    assert f"device '{device}' can't be used" in capsys.readouterr().err


def test_other_versions_and_fewer_images_at_once_are_said(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = replay.read_trial

    def read_changed(*arguments: object) -> replay.PastTrial:
        past = read(*arguments)  # type: ignore[arg-type]
        assert past.checkpoint is not None
        info = dataclasses.replace(past.checkpoint, micro_batch_size=2, versions={"torch": "1"})
        return dataclasses.replace(past, checkpoint=info)

    monkeypatch.setattr(replay, "read_trial", read_changed)
    assert replay.main([str(run.path), "0", "--epochs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "torch: was 1, is 2." in shown
    assert "4 images at a time fit into memory, then 2" in shown
    assert shown.splitlines()[-1] == "equal"


def test_a_setting_that_does_not_arrive_is_seen_by_the_scores(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = segcore.training.fit.build_optimizer

    def build(chosen: TrialConfig, network: SegmentationNetwork) -> torch.optim.Optimizer:
        return honest(chosen.model_copy(update={"lr": 2 * chosen.lr}), network)

    monkeypatch.setattr(segcore.training.fit, "build_optimizer", build)
    assert replay.main([str(run.path), "0"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not equal"


def test_a_checkpoint_with_the_hash_of_older_versions_is_still_read(run: RunFolder) -> None:
    manifest = next(run.path.glob("trials/*/trial_0000/*/checkpoint.json"))
    text = manifest.read_text()
    values = json.loads(text) | {"built_hash": "0123456789abcdef"}
    try:
        manifest.write_text(json.dumps(values))
        past = replay.read_trial(run, 0)
    finally:
        manifest.write_text(text)
    assert past.checkpoint is not None and past.checkpoint.epoch == 3


@pytest.mark.parametrize(
    ("trial", "message"),
    [("2", "trial 2 has not begun"), ("7", "no trial 7; there are 0 to 2")],
)
def test_a_trial_that_was_never_trained_is_named(
    run: RunFolder, trial: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(run.path), trial]) == 2
    assert message in capsys.readouterr().err


def test_other_data_and_no_run_are_refused(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(tmp_path), "0"]) == 2
    told = capsys.readouterr().err
    assert "not the folder of a run (run.yaml: missing or empty; a search writes it" in told
    record = run.read()
    try:
        run.write(dataclasses.replace(record, identity={"data": "f" * 64}))
        assert replay.main([str(run.path), "0"]) == 2
    finally:
        run.write(record)
    assert "instead of ffffffff…ffffffff" in capsys.readouterr().err
