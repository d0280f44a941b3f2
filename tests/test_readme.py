"""README tells the truth: its commands, options, spaces and definitions are those of the code."""

import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from search.__main__ import COMMANDS
from search.planning.space import load_space
from segcore.scores.metrics import METRICS
from tests.conftest import FACTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_metrics_are_defined_as_the_code_defines_them() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", README, re.MULTILINE))
    assert {name: table.get(name) for name in METRICS} == METRICS


def test_commands_name_modules_and_options_that_exist() -> None:
    used = re.findall(r"python -m ((?:search|segcore)\.\w+)([^\n`]*)", README)
    assert {module for module, _ in used} >= {"search.run", "search.predict", "segcore.prepare"}
    helps = {}
    for module, rest in used:
        assert find_spec(module) is not None, module
        if module not in helps:
            helps[module] = subprocess.run(
                [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
            ).stdout
        for option in re.findall(r"--[a-z-]+", rest.replace("--help", "")):
            assert option in helps[module], f"{module} {option}"


def test_shipped_spaces_are_there() -> None:
    for path in set(re.findall(r"spaces\.(?:quick|competition|aerial)", README)):
        load_space(path, lambda: FACTS)


def test_the_picture_of_the_house_names_every_part_and_what_lies_flat() -> None:
    picture = CONTRIBUTING.partition("```\n")[2].partition("```")[0]
    for wing in ("segcore", "search"):
        flat = {path.stem for path in (ROOT / wing).glob("*.py")} - {"__init__"}
        parts = {path.parent.name for path in (ROOT / wing).glob("*/__init__.py")}
        assert flat | parts <= set(re.findall(r"\w+", picture)), wing


def test_python_in_the_readme_imports_what_is_there_and_segsearch_has_the_commands() -> None:
    for module, names in re.findall(r"^from ([\w.]+) import (.+)$", README, re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"from {module} import {name}"
    assert set(re.findall(r"^segsearch (\w+)", README, re.MULTILINE)) <= COMMANDS.keys()
