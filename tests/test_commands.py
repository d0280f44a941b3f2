"""segsearch, one command for all, and what it has in common with ``python -m``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search import __main__ as segsearch
from search.run import parse_options

ROOT = Path(__file__).parents[1]


def shell(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip


@pytest.fixture
def called_segsearch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/segsearch"])


@pytest.mark.parametrize("name", segsearch.COMMANDS)
def test_every_command_has_its_help(
    name: str, called_segsearch: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        segsearch.main([name, "--help"])
    assert not exited.value.code
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: segsearch {name} ")
    for nobody_understands in ("{None}|", "default: None", "default: False", "--no-no-"):
        assert nobody_understands not in shown


def test_help_breaks_lines_where_the_terminal_ends_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 2000):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            segsearch.main(["suspects", "--help"])
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= width
    lines = [line.strip("│ ") for line in shown.splitlines()]
    assert (
        "--data STR        The data set's folder or address, where it has moved, or has other "
        "labels than when it was searched. Photographs are known by their names; new ones are "
        "judged too. Default: the run's."
    ) in lines


def test_a_flag_of_a_resumed_run_can_be_taken_back(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("allow-missing-classes: true\ntime-budget: 2m\n")
    given = ["--options", str(tmp_path / "options.yaml")]
    assert parse_options(given, "run").allow_missing_classes
    changed = parse_options([*given, "--no-allow-missing-classes", "--time-budget", "None"], "run")
    assert not changed.allow_missing_classes and changed.time_budget is None


def test_without_the_script_commands_are_those_of_a_module() -> None:
    assert shell("-m", "search", "report", "--help").stdout.startswith(
        "usage: python -m search report "
    )


def test_alone_a_command_is_called_by_its_module() -> None:
    assert shell("-m", "search.predict", "--help").stdout.startswith(
        "usage: python -m search.predict "
    )


def test_the_script_finds_a_space_in_the_current_folder_as_python_m_does(tmp_path: Path) -> None:
    (tmp_path / "mylab.py").write_text("roofs = 1\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "segsearch").write_text(
        "from search import __main__\n"
        "__main__.leave = lambda main: print(__import__('mylab').roofs)\n"
        "__main__.script()\n"
    )
    done = shell("bin/segsearch", cwd=tmp_path)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_all_commands_with_a_line_each(
    arguments: list[str], called_segsearch: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segsearch.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: segsearch COMMAND")
    for name, command in segsearch.COMMANDS.items():
        assert f"{name:<11}  {command.line}\n" in shown


def test_an_unknown_command_is_named_in_one_line(
    called_segsearch: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segsearch.main(["predcit"]) == 2
    error = capsys.readouterr().err
    assert "segsearch: no command 'predcit'" in error and error.count("\n") == 1
    assert all(name in error for name in segsearch.COMMANDS)


def test_exit_codes_are_those_of_the_single_commands(
    called_segsearch: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segsearch.main(["leaderboard", str(tmp_path)]) == 2
    assert segsearch.main(["run", "--trials", "0"]) == 2
    assert segsearch.main(["prepare", str(tmp_path)]) == 1
    assert "--trials 0: must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_completion_knows_the_commands_and_their_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        segsearch.main(["--tyro-print-completion", name])
    assert not exited.value.code
    script = capsys.readouterr().out
    for command in segsearch.COMMANDS:
        assert f"'{command}'" in script
    assert "--max-epochs" in script and "--allow-plugins" in script and "segsearch" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("pre", {"predict", "prepare"}),
        ("run --max-e", {"--max-epochs"}),
        ("leaderboard --s", {"--sort"}),
    ],
)
def test_bash_completes_what_is_typed(
    typed: str, expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        segsearch.main(["--tyro-write-completion", "bash", str(tmp_path / "completion")])
    words = ["segsearch", *typed.split()]
    script = (
        f"source {tmp_path}/completion; COMP_WORDS=({' '.join(words)}); "
        f"COMP_CWORD={len(words) - 1}; _tyro_segsearch; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == expected, done.stderr


def test_completion_for_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--tyro-print-completion"], ["--tyro-print-completion", "csh"]):
        assert segsearch.main(arguments) == 2
        assert "bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "predict", "evaluate", "report", "leaderboard"])
def test_help_imports_nothing_that_takes_seconds(name: str) -> None:
    done = shell("-X", "importtime", "-m", f"search.{name}", "--help")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "ray", "mlflow", "optuna"}


@pytest.mark.parametrize(
    "modules",
    ["segcore.prepare", "segcore.convert", "search.reporting.terminal, search.runs.study"],
)
def test_what_trains_nothing_answers_without_torch(modules: str) -> None:
    told = shell(
        "-c", f"import {modules}, sys; print({{'torch', 'ray', 'mlflow'}} & {{*sys.modules}})"
    )
    assert told.stdout == "set()\n", told.stderr


LEAVING = """
import atexit, sys
from search.reporting.command_line import leave

class Slow:
    def __del__(self):
        print("taken apart")

slow = Slow()

def command():
    atexit.register(print, "what was registered")
    {body}

leave(command)
"""


@pytest.mark.parametrize(
    ("body", "code", "seen"),
    [
        ("print('done'); return 1", 1, "done\nwhat was registered\n"),
        ("sys.exit(3)", 3, "what was registered\ntaken apart\n"),
        ("raise OSError('unforeseen')", 1, "what was registered\ntaken apart\n"),
    ],
)
def test_a_command_ends_at_once_with_its_code_once_all_is_done(
    body: str, code: int, seen: str
) -> None:
    ended = shell("-c", LEAVING.format(body=body))
    assert (ended.returncode, ended.stdout) == (code, seen)
    assert ("unforeseen" in ended.stderr) == ("unforeseen" in body)
