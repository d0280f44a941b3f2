"""The house stays as it was drawn: imports go one way, and each outside system has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = ("segcore", "search", "spaces")
MODULES = [path for wing in WINGS for path in (ROOT / wing).rglob("*.py")]

# Each part may import those before it in its own wing. The modules that lie flat have no part.
SEGCORE = ("scenes", "reading", "data", "guessing", "converting", "networks", "scores", "inference",
           "training", "choosing", "predicting")  # fmt: skip
SEGCORE_FLAT = {"arguments", "config", "cores", "devices", "errors", "facts", "files", "folders",
                "importing", "plugins", "versions"}  # fmt: skip
SEGCORE_COMMANDS = {"convert", "prepare", "weights"}
SEARCH = ("runs", "predicting", "forecasting", "planning", "tracking", "reporting", "trials",
          "ensembles")  # fmt: skip
SEARCH_COMMANDS = {"__main__", "evaluate", "leaderboard", "predict", "replay", "report", "run",
                   "suspects"}  # fmt: skip
APART = {("networks", "data"), ("scores", "data"), ("scores", "networks"), ("data", "scenes"),
         ("reading", "scenes"), ("scores", "reading"),
         ("inference", "scenes"), ("choosing", "reading"),
         ("choosing", "scenes"), ("planning", "predicting"), ("tracking", "planning"),
         ("tracking", "predicting"), ("trials", "predicting"),
         ("ensembles", "predicting")}  # fmt: skip
"""Pairs of parts that the order would allow, and that have nothing to say to each other."""


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Each imported module, with the name that is taken from it; "" where that is all of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)


def importers(package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if any(module.split(".")[0] == package for module, _ in imports(path))
    }


def parts_used(path: Path, wing: str, parts: tuple[str, ...]) -> set[str]:
    """The parts of a wing that a module imports: ``search.trials.cluster`` is of trials."""
    names = [f"{module}.{name}".split(".") for module, name in imports(path)]
    return {name[1] for name in names if name[0] == wing and name[1] in parts}


@pytest.mark.parametrize(("wing", "parts"), [("segcore", SEGCORE), ("search", SEARCH)])
def test_each_part_imports_only_parts_before_it(wing: str, parts: tuple[str, ...]) -> None:
    wrong = []
    for place, part in enumerate(parts):
        for path in (ROOT / wing / part).rglob("*.py"):
            used = parts_used(path, wing, parts) - {part}
            wrong += [
                f"{path.relative_to(ROOT)} imports {other}"
                for other in sorted(used)
                if parts.index(other) > place or (part, other) in APART
            ]
    assert not wrong


def test_only_commands_and_the_driver_lie_flat() -> None:
    flat = {wing: {path.stem for path in (ROOT / wing).glob("*.py")} for wing in WINGS}
    assert flat["search"] - {"__init__"} <= SEARCH_COMMANDS | {"driver"}
    assert flat["segcore"] - {"__init__"} == SEGCORE_FLAT | SEGCORE_COMMANDS
    for wing, parts in (("segcore", SEGCORE), ("search", SEARCH)):
        folders = {path.name for path in (ROOT / wing).iterdir() if (path / "__init__.py").exists()}
        assert folders == set(parts)


def test_what_lies_flat_in_segcore_knows_no_part() -> None:
    for name in SEGCORE_FLAT:
        assert not parts_used(ROOT / "segcore" / f"{name}.py", "segcore", SEGCORE), name


def test_nothing_imports_a_command_but_the_list_of_commands() -> None:
    commands = {f"search.{name}" for name in SEARCH_COMMANDS - {"__main__"}} | {
        f"segcore.{name}" for name in SEGCORE_COMMANDS
    }
    for path in MODULES:
        if path != ROOT / "search" / "__main__.py":
            found = {
                candidate
                for module, name in imports(path)
                for candidate in (module, f"{module}.{name}")
                if candidate in commands
            }
            assert not found, path


def test_parts_are_small_and_say_what_they_are_for() -> None:
    for wing, parts in (("segcore", SEGCORE), ("search", SEARCH)):
        for part in parts:
            folder = ROOT / wing / part
            modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
            assert len(modules) <= 10, folder
            docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
            assert docstring, folder


def test_segcore_knows_nothing_of_the_search() -> None:
    for package in ("search", "spaces", "ray", "optuna", "mlflow"):
        assert not {name for name in importers(package) if name.startswith("segcore/")}, package


def test_spaces_know_only_configurations_and_facts() -> None:
    for path in (ROOT / "spaces").glob("*.py"):
        ours = [m for m, _ in imports(path) if m.split(".")[0] in ("segcore", "search")]
        assert set(ours) <= {"segcore.config", "segcore.facts"}, path


def test_mlflow_and_ray_have_one_owner_each() -> None:
    assert {Path(name).parent.as_posix() for name in importers("mlflow")} == {"search/tracking"}
    assert {Path(name).parent.as_posix() for name in importers("ray")} <= {
        "search/trials",
        "search/ensembles",
    }
    starting = {path.name for path in MODULES if "ray.init(" in path.read_text()}
    assert starting == {"cluster.py"}


def test_no_module_imports_a_private_name_of_another() -> None:
    private = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path in MODULES
        for module, name in imports(path)
        if module.split(".")[0] in WINGS and name.startswith("_")
    ]
    assert not private


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_stay_readable_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
