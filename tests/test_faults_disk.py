"""A full disk, a real one: said clearly, nothing half-written is read, and work goes on later."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from search.predicting.submission import write_submission
from segcore.config import TrialConfig, View
from segcore.data.prepared import PreparedData, open_prepared
from segcore.data.preparing import prepare_data
from segcore.errors import StorageError, UserError
from segcore.training import checkpoint
from segcore.training.fit import fit
from tests.machinery import small_disk
from tests.test_faults_search import search
from tests.test_search import environment, study_of

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(name="small_disk")
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB in memory."""
    with small_disk(tmp_path / "disk", "4m") as folder:
        yield folder


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all room but ``leave`` bytes."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb") as file:  # somebody else may have taken it
        file.write(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave))
    return ballast


def config(**values: object) -> TrialConfig:
    small = {
        "height_px": 48, "width_px": 48, "architecture": "scratch_unet", "encoder": None,
        "model_kwargs": {"base_channels": 8, "depth": 2}, "batch_size": 4, "max_epochs": 3,
    }  # fmt: skip
    return TrialConfig.from_dict(small | values)


@pytest.mark.parametrize("leave", [0, 100_000, 200_000])
def test_a_checkpoint_that_finds_no_room_leaves_the_older_one_whole(
    small_disk: Path, data: PreparedData, leave: int
) -> None:
    folder = small_disk / "checkpoint"
    epochs = fit(config(), data, device=CPU)
    next(epochs).save(folder)
    first = checkpoint.load_model_tensors(folder), checkpoint.load_training_tensors(folder)
    ballast = fill(small_disk, leave)
    second = next(epochs)
    with pytest.raises(StorageError, match=r"a checkpoint of 0\.\d MB can't be written.*make room"):
        second.save(folder)
    assert checkpoint.load_info(folder).epoch == 1
    again = checkpoint.load_model_tensors(folder), checkpoint.load_training_tensors(folder)
    for before, after in zip(first, again, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert {path.name for path in folder.iterdir()} == {
        checkpoint.MANIFEST, checkpoint.MODEL, checkpoint.TRAINING,
    }  # fmt: skip

    ballast.unlink()
    second.save(folder)
    resumed = next(fit(config(), data, device=CPU, resume_from=folder))
    assert resumed.train_loss == next(epochs).train_loss


def test_a_first_checkpoint_that_finds_no_room_is_none(
    small_disk: Path, data: PreparedData
) -> None:
    fill(small_disk, 100_000)
    with pytest.raises(StorageError):
        next(fit(config(), data, device=CPU)).save(small_disk / "checkpoint")
    with pytest.raises(UserError, match="not a complete checkpoint"):
        checkpoint.load_info(small_disk / "checkpoint")


@pytest.mark.parametrize("room", [0, 16_384, 60_000, 150_000])
def test_a_cache_that_finds_no_room_is_not_there_and_is_made_later(
    small_disk: Path, blocks: Path, room: int
) -> None:
    whole = View(96, 96, None)  # 16 × 96 × 96 × 4 bytes and more
    ballast = fill(small_disk, room)
    with pytest.raises(StorageError, match=r"the disk of the cache is full.*make room") as caught:
        prepare_data(blocks, [whole], cache_dir=small_disk, progress=False)
    assert "\n" not in str(caught.value)
    for found in small_disk.glob("prepared/*"):
        assert found.suffix == ".lock"
    ballast.unlink()
    data = prepare_data(blocks, [whole], cache_dir=small_disk, progress=False)
    assert open_prepared(data.folder).fingerprint == data.fingerprint


def test_a_process_killed_while_it_prepares_leaves_nothing_that_is_read(
    blocks: Path, tmp_path: Path
) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; import segcore.data.preparing as p\n"
        "import segcore.data.building as b\n"
        "from segcore.config import View\n"
        "b._describe = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.prepare_data(Path(sys.argv[1]), [View(64, 64)], cache_dir=Path(sys.argv[2]))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(blocks), str(tmp_path)], timeout=120, check=False
    )
    assert killed.returncode == -9
    (partial,) = [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]
    with pytest.raises(UserError, match="no complete prepared data"):
        open_prepared(partial)
    prepare_data(blocks, [View(64, 64)], cache_dir=tmp_path, progress=False)
    assert not partial.exists()


def test_a_submission_that_finds_no_room_is_not_there(small_disk: Path) -> None:
    fill(small_disk, 8192)
    noise = np.random.default_rng(0).integers(0, 5, (1024, 1024)).astype(np.uint8)
    with pytest.raises(StorageError, match=r"out\.csv can't be written.*No space left"):
        write_submission(small_disk / "out.csv", [("photo", noise)], 5)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw"},
        {"optimizer": "adam", "ema_decay": 0.9},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "sgd", "momentum": 0.0},
    ],
)
def test_the_size_of_a_checkpoint_is_known_before_training(
    data: PreparedData, tmp_path: Path, settings: dict[str, object]
) -> None:
    chosen = config(**settings, model_kwargs={"base_channels": 16, "depth": 2}, max_epochs=1)
    next(fit(chosen, data, device=CPU)).save(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert checkpoint.checkpoint_bytes(chosen, 3) == pytest.approx(size, rel=0.05)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_full_disk_ends_the_search_which_goes_on_when_there_is_room(
    tmp_path: Path, blocks: Path
) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        arguments = ["--data", str(blocks), "--space", "tests.tiny_space:slow_space", "--trials",
                     "6", "--max-epochs", "4", "--grace-epochs", "2", "--name", "full", "--out",
                     str(disk), "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "-m", "search.run", *arguments], cwd=tmp_path, env=environment(),
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                if line.startswith("trial "):
                    ballast = fill(disk)
                    break
            process.stdout.read()
            said = process.stderr.read()
            assert process.wait(timeout=120) == 2, said
        assert "make room" in said and "Traceback" not in said

        ballast.unlink()
        done = search(tmp_path, "--resume", str(disk / "full"))
        assert done.returncode == 0, done.stdout + done.stderr
        trials = study_of(disk / "full").get_trials()
        assert len(trials) == 6
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
        assert (disk / "full/ensemble/bundle.json").is_file()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_search_that_could_not_keep_its_checkpoints_does_not_start(
    tmp_path: Path, blocks: Path
) -> None:
    with small_disk(tmp_path / "disk", "500k") as disk:
        done = search(
            tmp_path, "--data", str(blocks), "--space", "tests.tiny_space", "--out", str(disk),
            "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--dry-run",
        )  # fmt: skip
        assert done.returncode == 2
        assert f"--out {disk}: checkpoints will take up to " in done.stderr
