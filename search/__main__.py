"""segsearch COMMAND: all commands in one; ``python -m search COMMAND`` is the same."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from search.reporting.command_line import leave, run_command
from segcore.errors import UserError


class Command(NamedTuple):
    """Where a command is; its module is imported only when it is needed."""

    module: str
    options: str
    line: str
    """What it does, for the list of all commands."""


COMMANDS = {
    "run": Command("search.run", "RunOptions", "Search for the best segmentation of a data set"),
    "predict": Command("search.predict", "PredictOptions", "Predict the classes of photographs"),
    "evaluate": Command("search.evaluate", "EvaluateOptions", "Score an ensemble on labelled data"),
    "suspects": Command("search.suspects", "SuspectsOptions", "List labels that look wrong"),
    "report": Command("search.report", "ReportOptions", "Write one HTML page about a search"),
    "leaderboard": Command("search.leaderboard", "LeaderboardOptions", "List a search's trials"),
    "replay": Command("search.replay", "ReplayOptions", "Train one trial again, and compare"),
    "prepare": Command("segcore.prepare", "Options", "Check a data set, and describe it"),
    "convert": Command("segcore.convert", "Options", "Make masks of drawn polygons"),
    "weights": Command("segcore.weights", "WeightsOptions", "Fetch an encoder's weights"),
}

COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
"""Tyro's own options. Both take a shell, and the second one also a file to write."""
SHELLS = ("bash", "zsh", "fish")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command, and return its exit code; 2 where there is no such command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prog = "python -m search" if Path(sys.argv[0]).name == "__main__.py" else "segsearch"
    first = arguments[0] if arguments else "--help"
    if first in COMMANDS:
        command = _imported(COMMANDS[first].module, "main")
        return int(command(arguments[1:], prog=f"{prog} {first}"))
    if first in COMPLETION:
        return run_command(lambda: _complete(arguments))
    return run_command(lambda: _show_commands(first, prog))


def _imported(module: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _complete(arguments: Sequence[str]) -> int:
    """Have tyro print or write a shell's completion of all commands; it exits."""
    if len(arguments) < 2 or arguments[1] not in SHELLS:
        raise UserError(f"{arguments[0]}: needs a shell; allowed are {', '.join(SHELLS)}")
    options = {name: _imported(c.module, c.options) for name, c in COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(options, prog="segsearch", args=arguments)
    return 0


def _show_commands(first: str, prog: str) -> int:
    if first not in ("-h", "--help"):
        raise UserError(f"{prog}: no command {first!r}; there are {', '.join(COMMANDS)}")
    lines = [f"  {name:<11}  {command.line}" for name, command in COMMANDS.items()]
    sys.stdout.write(
        f"usage: {prog} COMMAND …\n\nSearch for the best segmentation, and use what was found.\n\n"
        + "\n".join(lines)
        + f"\n\n{prog} COMMAND --help says more. Completion, for bash (zsh, fish):\n"
        f"  source <(segsearch {COMPLETION[0]} bash)\n"
    )
    return 0


def script() -> None:
    """What the script ``segsearch`` does."""
    sys.path.insert(0, "")  # as python -m does, so that a space in the current folder is found
    leave(main)


if __name__ == "__main__":
    script()
