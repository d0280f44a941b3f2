"""python -m search.run: the command line of a search, nothing else."""

import argparse
import sys

import tyro
from rich.console import Console

from search.reporting.terminal import run_command
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: list[str] | None = None) -> int:
    """Search, and return the exit code: 0 done, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console = Console(highlight=False)

    def work() -> int:
        options = parse_options(arguments)
        # Ray, MLflow and torch take seconds to import: not for --help or a misspelled option.
        from search.driver import search

        return 0 if search(options, console) else INTERRUPTED

    try:
        return run_command(work)
    except KeyboardInterrupt:
        console.print("\nInterrupted before the first trial started; nothing was trained.")
        return INTERRUPTED


def parse_options(arguments: list[str]) -> SearchOptions:
    """The command line over the defaults, or over the options of the run that is resumed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume")
    resume: str | None = first.parse_known_args(arguments)[0].resume
    defaults = SearchOptions()
    if resume is not None:
        defaults = RunFolder.at(resume).read().options
    return tyro.cli(SearchOptions, args=arguments, default=defaults, prog="python -m search.run")


if __name__ == "__main__":
    sys.exit(main())
