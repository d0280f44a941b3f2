"""The interface for Python: options, errors, and names that the packages export.

``test_road`` searches by it.
"""

import ast
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import search
import segcore
from search import RunFolder, SearchOptions
from search.reporting.terminal import next_steps
from search.runs.folder import RunRecord
from segcore import UserError

ROOT = Path(__file__).parents[1]


def options(blocks: Path, out: Path, **changes: object) -> SearchOptions:
    chosen = {
        "data": str(blocks), "space": "tests.tiny_space:space", "trials": 2, "max_epochs": 2,
        "grace_epochs": 1, "out": str(out / "runs"), "name": "api", **changes,
    }  # fmt: skip
    return SearchOptions(**chosen)  # type: ignore[arg-type]


def test_bad_options_are_user_errors_before_anything_is_trained(
    blocks: Path, tmp_path: Path
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
        run = RunFolder.at(tmp_path / "runs" / "api")
        run.path.mkdir(parents=True)
        run.write(RunRecord("id", options(blocks, tmp_path), {}))
        search.search(options(blocks, tmp_path))


def test_an_end_without_mlflow_says_how_its_records_are_delivered() -> None:
    end = next_steps(
        RunFolder.at("runs/x"), report="report.html", compare="http://host",
        trials_url=None, unsent=7,
        serve="mlflow models serve",
    )  # fmt: skip
    assert "None" not in end and "and open" not in end
    assert "yet to get 7 records" in end and "python -m search.run --resume runs/x --deliver" in end
    assert "models serve" not in end, "it would serve nothing yet"
    url = "http://host/#/experiments/1"
    end = next_steps(
        RunFolder.at("runs/x"), report="report.html", compare="http://host",
        trials_url=url, unsent=0,
        serve="mlflow models serve", others_refused=2,
    )  # fmt: skip
    assert "mlflow models serve" in end
    assert "refused 2 records for good" in end and "runs/x/tracking.jsonl.refused" in end
    assert f"and open {url}" in end and "yet to get" not in end


def test_commands_that_are_printed_can_be_typed_where_a_folder_has_blanks() -> None:
    run = RunFolder.at("my runs/x")
    end = next_steps(
        run, report="report.html", compare="http://host", trials_url=None, unsent=1, serve="",
    )  # fmt: skip
    commands = [line.partition("python")[2] for line in end.splitlines() if "python -m" in line]
    words = [shlex.split(command) for command in commands]
    assert words == [
        ["-m", "search.predict", "my runs/x/ensemble", "PHOTOS", "--overlay"],
        ["-m", "search.run", "--resume", "my runs/x", "--deliver"],
    ]


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
