"""The house stays as it was drawn: imports go one way, and each outside system has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [path for wing in ("segcore", "search", "spaces") for path in (ROOT / wing).rglob("*.py")]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def importers(package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if any(name.split(".")[0] == package for name in imported(path))
    }


def test_segcore_knows_nothing_of_the_search() -> None:
    for package in ("search", "spaces", "ray", "optuna", "mlflow"):
        assert not {name for name in importers(package) if name.startswith("segcore/")}, package


def test_spaces_know_only_the_configuration() -> None:
    for path in (ROOT / "spaces").glob("*.py"):
        ours = [n for n in imported(path) if n.split(".")[0] in ("segcore", "search")]
        assert set(ours) <= {"segcore.config"}, path


def test_mlflow_and_ray_init_have_one_owner_each() -> None:
    owners = {"search/mlflow_runs.py", "search/registry.py", "search/served_model.py"}
    assert importers("mlflow") == owners
    starting = {path.name for path in MODULES if "ray.init(" in path.read_text()}
    assert starting == {"cluster.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_stay_readable_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
