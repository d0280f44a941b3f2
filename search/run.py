"""python -m search.run: search for the best segmentation."""

import argparse
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from search.reporting.command_line import run_command
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.run") -> int:
    """Search, and return the exit code: 0 done, 2 bad input, 130 interrupted."""

    def work() -> int:
        options = parse_options(sys.argv[1:] if arguments is None else arguments, prog)
        # Ray, MLflow and torch take seconds to import: not for --help or a misspelled option.
        from search.driver import check, search

        if options.dry_run:
            console = Console(highlight=False)
            console.print(f"\n{check(options, progress=True)}", markup=False, soft_wrap=True)
            console.print("\nAll checks passed. Nothing was trained; leave out --dry-run to start.")
        else:
            search(options, progress=True)
        return 0

    return run_command(work)


def parse_options(arguments: Sequence[str], prog: str) -> SearchOptions:
    """The command line over the defaults, or over the options of the run that is resumed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume")
    resume: str | None = first.parse_known_args(arguments)[0].resume
    defaults = SearchOptions() if resume is None else RunFolder.at(resume).read().options
    return tyro.cli(SearchOptions, args=arguments, default=defaults, prog=prog)


if __name__ == "__main__":
    sys.exit(main())
