"""python -m search.suspects RUN: where a search's networks contradict the labels.

Only networks that were not trained on a photograph are asked about it: one that was would have
learned its errors.
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from search.reporting.command_line import leave, loading, run_command
from segcore.arguments import read_arguments
from segcore.errors import UserError, is_disk_full

if TYPE_CHECKING:
    from search.predicting.suspects import SuspectList
    from search.runs.folder import RunRecord
    from segcore.data.prepared import PreparedData
    from segcore.predicting.suspects import Judge, Suspect
    from segcore.reading.ground import Georeference

SHOWN = 5
"""So many are printed; all are in the files."""


@dataclass(frozen=True)
class SuspectsOptions:
    """List the labels that are most likely wrong: networks are sure of another class.

    Only networks that were not trained on a photograph judge it: after a search with --folds those
    of the other folds, so that all photographs are looked at, and else the ensemble, which judges
    those of validation and test.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, runs/NAME, or its s3:// or gs:// address."""
    data: str | None = None
    """The data set's folder or address, where it has moved, or has other labels than when it was
    searched. Photographs are known by their names; new ones are judged too. Default: the run's."""
    out: Path | None = None
    """Folder for suspects.html, .csv, .geojson and .json. Default: RUN/suspects, and the first few
    in RUN/report.html."""
    limit: int = 50
    """How many regions to list."""
    edge_px: int = 2
    """By so many pixels, on the grid that trials are scored on, edges of objects may be off."""
    batch_size: int | None = None
    """Windows that a network gets at once. Default: 4; on a GPU more, if they are small."""
    device: str | None = None
    """Such as cpu, cuda or cuda:1. Default: CUDA where there is one."""
    allow_plugins: bool = False
    """Allow the run to import network code that it names. Only for a run that you trust."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.suspects") -> int:
    """Look for suspicious labels, and return the exit code: 0 done, 2 bad input."""
    options = read_arguments(SuspectsOptions, arguments, prog)
    return run_command(lambda: look(options, Console(stderr=True, highlight=False)))


def look(options: SuspectsOptions, console: Console) -> int:
    """Find suspects, write and print them, and return the exit code."""
    with loading("torch"):  # not for --help
        from search.ensembles.held_out import find_judges
        from search.predicting.suspects import FOLDER, write_suspects
        from search.reporting.page import REPORT, write_report, write_suspects_page
        from search.runs.folder import RunFolder
        from search.runs.result import SearchResult

    _check_numbers(options)
    run = RunFolder.opened(options.run)
    record = run.read()
    result = SearchResult.read(run.path)
    if result is None:
        raise UserError(
            f"{run.address}: the search has not ended, so that there is no ensemble to judge "
            f"labels; go on with python -m search.run --resume {run.quoted}"
        )
    searched, data = _read_data(options, record)
    judges = find_judges(run, result, searched, data)
    if not judges:
        raise UserError(
            f"{options.data or run.address}: the networks were trained on all labelled photographs "
            "there are, so none can be judged; name others with --data"
        )
    folder = options.out or run.path / FOLDER
    with _explaining_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        suspects = _find(options, data, judges, folder, console)
        places = _places(options.data or record.options.data, data, suspects, console)
        judged = sum(len(judge.photos) for judge in judges)
        found = _list(suspects, data, places, judged)
        write_suspects(found, folder)
        write_suspects_page(found, run.path.name, folder)
    _print(found, folder, Console(highlight=False))
    if options.out is None:
        write_report(run, allow_plugins=options.allow_plugins)
        console.print(f"Report     {run.path / REPORT}", markup=False, soft_wrap=True)
        run.push()
    return 0


@contextmanager
def _explaining_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "the disk is full; make room" if is_disk_full(error) else error.strerror or error
        raise UserError(f"{folder} can't be written: {what}, or name another --out") from error


def _check_numbers(options: SuspectsOptions) -> None:
    for name, least in (("limit", 1), ("edge_px", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def _read_data(
    options: SuspectsOptions, record: "RunRecord"
) -> tuple["PreparedData", "PreparedData"]:
    """The data as they were searched, and as they are now: the same but for a --data that differs.

    Raises ``UserError`` where nothing tells which photographs were trained on, or where --data has
    other classes.
    """
    from search.planning.plan import find_dataset, searched_data
    from segcore.data.prepared import find_prepared
    from segcore.data.preparing import prepare_data

    if options.data is None:
        searched = searched_data(record)
        return searched, searched
    try:
        searched = find_prepared(record.identity["data"])
    except UserError:
        moved = dataclasses.replace(record.options, data=options.data)
        searched = searched_data(dataclasses.replace(record, options=moved))
        return searched, searched
    folder = find_dataset(options.data)
    views, score_scale = [searched.finest], record.options.score_scale
    data = prepare_data(folder, views, score_scale=score_scale)
    if data.class_names != searched.class_names:
        raise UserError(
            f"--data {options.data}: has other classes than the search; allowed are these, in this "
            f"order: {', '.join(searched.class_names)}"
        )
    return searched, searched if data.content == searched.content else data


def _find(
    options: SuspectsOptions,
    data: "PreparedData",
    judges: Sequence["Judge"],
    folder: Path,
    console: Console,
) -> list["Suspect"]:
    from segcore.devices import choose_device
    from segcore.predicting.suspects import find_suspects

    total = sum(len(judge.photos) for judge in judges)
    # Three bytes a pixel are kept meanwhile: beside the result, because /tmp may be small.
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        tempfile.TemporaryDirectory(prefix=".maps-", dir=folder) as maps,
    ):
        task = bar.add_task("predicting", total=total)
        return find_suspects(
            judges, data, Path(maps), choose_device(options.device),
            limit=options.limit, edge_px=options.edge_px, batch_size=options.batch_size,
            allow_plugins=options.allow_plugins, advance=lambda: bar.advance(task),
        )  # fmt: skip


def _places(
    address: str | None, data: "PreparedData", suspects: Sequence["Suspect"], console: Console
) -> dict[int, "Georeference | None"]:
    """Where the suspects' photographs lie on earth, by their numbers, as far as files tell.

    ``address`` is the data set's.
    """
    from search.planning.plan import find_dataset
    from segcore.data.dataset import load_dataset
    from segcore.reading.ground import place_of

    places: dict[int, Georeference | None] = dict.fromkeys(suspect.photo for suspect in suspects)
    try:
        photos = load_dataset(find_dataset(address)).photos
        paths = {photo.name: photo.path for photo in photos}
        for number in places:
            places[number] = place_of(paths[data.photos[number]])
    except (UserError, KeyError) as error:
        line = f"! Coordinates are missing, as not all photographs can be read: {error}"
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    return places


def _list(
    suspects: Sequence["Suspect"],
    data: "PreparedData",
    places: Mapping[int, "Georeference | None"],
    judged: int,
) -> "SuspectList":
    from search.predicting.suspects import SuspectList, row_of
    from search.reporting.photographs import crop_of

    rows = (
        row_of(
            suspect,
            data.photos[suspect.photo],
            data.plans[suspect.photo],
            data.class_names,
            places[suspect.photo],
            crop_of(suspect, data),
        )
        for suspect in suspects
    )
    colors = dict(zip(data.class_names, data.class_colors, strict=True))
    return SuspectList(tuple(rows), judged, time.strftime("%d %B %Y, %H:%M"), colors)


def _print(found: "SuspectList", folder: Path, console: Console) -> None:
    from search.predicting.suspects import PLACES, TABLE
    from search.reporting.page import SUSPECTS_PAGE

    console.print(found.intro, markup=False, soft_wrap=True)
    for rank, row in enumerate(found.rows[:SHOWN], start=1):
        console.print(
            f"{rank:4}  {row.label} → {row.prediction}, {row.area_px:,.0f} px × "
            f"{row.confidence:.2f}: {row.photo}, row {row.place.row:.0f}, "
            f"column {row.place.column:.0f}",
            markup=False,
            soft_wrap=True,
        )
    names = SUSPECTS_PAGE, TABLE, PLACES
    for title, name in zip(("Look", "Table", "For a GIS"), names, strict=True):
        console.print(f"{title:9}  {folder / name}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    leave(main)
