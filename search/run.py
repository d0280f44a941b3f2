"""python -m search.run: search for the best segmentation."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console

from search.reporting.command_line import leave, loading, run_command
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions
from segcore.arguments import read_arguments
from segcore.errors import UserError


@dataclass(frozen=True)
class RunOptions(SearchOptions):
    """Search for the best segmentation: networks, losses, learning rates and oversampling."""

    options: str | None = None
    """A YAML file of these options, such as run.yaml in the folder of an earlier run, which starts
    the same search anew. What the command line says stands over it."""
    deliver: bool = False
    """With --resume: send MLflow the records that it has yet to get, train nothing, and stop."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.run") -> int:
    """Search, and return the exit code: 0 done, 2 bad input, 130 interrupted."""

    def work() -> int:
        given = _parse(sys.argv[1:] if arguments is None else arguments, prog)
        options = _to_search(given)
        with loading("torch, Ray and MLflow"):  # not for --help or a misspelled option
            from search.driver import check, deliver, search

        console = Console(highlight=False)
        if given.deliver:
            console.print(deliver(options), markup=False, soft_wrap=True)
        elif options.dry_run:
            console.print(f"\n{check(options, progress=True)}", markup=False, soft_wrap=True)
            console.print("\nAll checks passed. Nothing was trained; leave out --dry-run to start.")
        else:
            search(options, progress=True)
        return 0

    return run_command(work)


def parse_options(arguments: Sequence[str], prog: str) -> SearchOptions:
    """The command line, over a file of options or over those of the run that is resumed."""
    return _to_search(_parse(arguments, prog))


def _parse(arguments: Sequence[str], prog: str) -> RunOptions:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume")
    first.add_argument("--options")
    given = first.parse_known_args(arguments)[0]
    defaults = SearchOptions()
    if given.resume is not None and given.options is not None:
        raise UserError("--resume and --options: a resumed run has its own options; give only one")
    if given.resume is not None:
        defaults = RunFolder.at(given.resume).read().options
    if given.options is not None:
        defaults = SearchOptions.from_file(given.options)
    return read_arguments(RunOptions, arguments, prog, RunOptions(**_values(defaults)))


def _to_search(options: RunOptions) -> SearchOptions:
    return SearchOptions(**_values(options))


def _values(options: SearchOptions) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(SearchOptions)}


if __name__ == "__main__":
    leave(main)
