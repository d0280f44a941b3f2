"""A search that goes on must be the same search: otherwise its trials could not be compared."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from search import run
from search.planning.plan import make_plan
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from segcore.errors import UserError

SPACE = "from tests.tiny_space import space as tiny\n\ndef space(trial):\n    return tiny(trial)\n"


@pytest.fixture
def begun(tmp_path: Path, blocks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a search that has just begun, beside its data and its space."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "resumed_space", raising=False)
    shutil.copytree(blocks, tmp_path / "data")
    (tmp_path / "resumed_space.py").write_text(SPACE)
    options = SearchOptions(data=str(tmp_path / "data"), space="resumed_space", max_epochs=3)
    folder = RunFolder(tmp_path / "runs" / "begun")
    folder.path.mkdir(parents=True)
    plan = make_plan(options, folder)
    folder.write(RunRecord("id", plan.options, plan.identity))
    monkeypatch.delitem(sys.modules, "resumed_space")
    return folder.path


HOLD = """
import sys
from search.runs.folder import RunFolder
with RunFolder.at(sys.argv[1]).claimed():
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_run_is_gone_on_with_by_one_search_at_a_time(tmp_path: Path) -> None:
    """Until the other process has ended, be it by a kill."""
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"claimed\n"
        message = "run: another search goes on with this run"
        with pytest.raises(UserError, match=message), run.claimed():
            pass
        with RunFolder(tmp_path / "another").claimed():
            other.kill()
    with run.claimed():
        assert not list(tmp_path.iterdir()), "nothing is written into the run's folder"


def change_space(folder: Path) -> None:
    (folder / "resumed_space.py").write_text(SPACE.replace("tiny(trial)", "tiny( trial)"))


def change_data(folder: Path) -> None:
    mask = next((folder / "data" / "masks").iterdir())
    Image.new("L", Image.open(mask).size).save(mask)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (change_space, [], "space: was resumed_space:space "),
        (change_data, [], "data: was "),
        (None, ["--metric", "iou"], "metric: was dice, is iou"),
        (None, ["--max-epochs", "5"], "max_epochs: was 3, is 5"),
    ],
    ids=["space", "data", "metric", "max_epochs"],
)
def test_a_search_that_would_not_be_the_same_is_refused(
    begun: Path, change: object, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if callable(change):
        change(begun.parents[1])
    assert run.main(["--resume", str(begun), *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{begun}: can't go on, its trials could not be compared: {message}" in error
    assert error.count(": was ") == 1, "nothing else has changed"
    assert not (begun / "study.journal").exists()
