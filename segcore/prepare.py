"""python -m segcore.prepare DIR: describe a data set, check it, and show what is in it."""

import os
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segcore.arguments import read_arguments
from segcore.config import View
from segcore.data.dataset import SPEC_NAME
from segcore.data.objects import measure_objects
from segcore.data.prepared import PreparedData, Survey, read_survey
from segcore.data.preparing import prepare_data
from segcore.data.spec import refuse_misspelled
from segcore.data.splits import SPLITS, Split
from segcore.data.windows import Grid
from segcore.errors import SHOWN, UserError
from segcore.facts import VISIBLE_PX, ObjectSizes
from segcore.files import whole_file
from segcore.guessing.writing import guess_dataset
from segcore.scores.units import unit_notes


@dataclass(frozen=True)
class Options:
    """Check a data set, and show what is in it.

    The photographs are decoded into the cache on the way, at the size that is given here; a search
    decodes them by itself at the sizes that it needs.
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """The folder of the photographs and masks. Where it holds no dataset.yaml, one is written."""
    height_px: int = 368
    """Height to which whole photographs are squeezed, in pixels (32 or more)."""
    width_px: int = 368
    """Width to which whole photographs are squeezed, in pixels (32 or more)."""
    scale: float | None = None
    """Keep photographs at this share of their resolution (above 0, up to 1), for windows of any
    size, instead of squeezing them."""
    workers: int | None = None
    """Photographs decoded at the same time (default: as many as there are cores)."""
    all: bool = False
    """Name each file that has a problem, not only the first ones of each kind."""

    def check(self) -> None:
        """Raise ``UserError`` where a value is out of range."""
        if min(self.height_px, self.width_px) < 32:
            raise UserError(f"{self.height_px}×{self.width_px} px: each side needs 32 px or more")
        if self.scale is not None and not 0 < self.scale <= 1:
            raise UserError(f"--scale {self.scale}: allowed is above 0, up to 1")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers}: allowed is 1 or more")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m segcore.prepare") -> int:
    """Run the command; the exit code: 0, 1 for problems with the data, 2 for bad arguments."""
    options = read_arguments(Options, arguments, prog)
    console = Console(highlight=False, markup=False)
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        options.check()
    except UserError as error:
        errors.print(Text(str(error)))
        return 2
    is_guess = not os.path.lexists(options.folder / SPEC_NAME)
    try:
        if is_guess:
            _write_guess(options, console)
    except UserError as error:
        errors.print(Text(str(error)), soft_wrap=True)
        return 1
    view = View(options.height_px, options.width_px, options.scale)
    begin_s = time.perf_counter()
    try:
        data = prepare_data(options.folder, [view], workers=options.workers)
        survey = read_survey(data.folder)
        objects = measure_objects(options.folder, data.folder)
    except UserError as error:
        errors.print(Text(error.each() if options.all else str(error)), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("stopped; what was half prepared has been removed")
        return 130
    elapsed_s = time.perf_counter() - begin_s
    _show(data, survey, console, options.all)
    _show_objects(data, objects, view, console)
    console.print(
        f"\nPrepared in {elapsed_s:.1f} s, {_sizes(plan.levels[0] for plan in data.plans)}: "
        f"{data.folder}",
        soft_wrap=True,
    )
    _show_next(options.folder, prog, console, is_guess=is_guess)
    return 0


def _show_next(folder: Path, prog: str, console: Console, *, is_guess: bool) -> None:
    """What a person does next, as a command that is called as this one was."""
    run = prog.replace("segcore.prepare", "search.run").replace(" prepare", " run")
    first = (
        f"Correct in {folder / SPEC_NAME} what was guessed wrong. Then ask" if is_guess else "Ask"
    )
    console.print(
        f"\n{first} how long a search will take, which trains nothing yet:", soft_wrap=True
    )
    console.print(f"  {run} --data {shlex.quote(str(folder))} --dry-run", soft_wrap=True)
    console.print("With a GPU, add --space spaces.aerial --trials 100 --max-epochs 81.")


def _write_guess(options: Options, console: Console) -> None:
    """Write dataset.yaml, and show it. Raises ``UserError`` where there is nothing to go by."""
    if not options.folder.is_dir():
        raise UserError(f"{options.folder} is no folder; name the one that holds the photographs")
    path = options.folder / SPEC_NAME
    refuse_misspelled(path)
    guess = guess_dataset(options.folder, workers=options.workers)
    try:
        with whole_file(path) as unfinished:
            unfinished.write_text(guess.text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror or error}; make the folder writable, or "
            f"link its folders into one that is. It would say:\n{guess.text}"
        ) from error
    console.print(f"There was no dataset.yaml. Wrote {path}:\n", soft_wrap=True)
    console.print(Text(textwrap.indent(guess.text, "    ")), soft_wrap=True)
    if guess.checks:
        console.print("Please check these, and correct in that file what is wrong:")
        for check in guess.checks:
            console.print(Text(f"  - {check}"), soft_wrap=True)
    console.print()


def _sizes(grids: Iterable[Grid]) -> str:
    """Such as "8 of 80×120 px"."""
    sizes = Counter(f"{grid.height_px}×{grid.width_px}" for grid in grids)
    common = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(4))
    return f"{common} px" + (f", and {len(sizes) - 4} other sizes" if len(sizes) > 4 else "")


def _show(data: PreparedData, survey: Survey, console: Console, every: bool) -> None:
    sizes = _sizes(plan.size_px for plan in data.plans)
    console.print(f"{len(data.photos)} photographs (height×width): {sizes}", soft_wrap=True)
    counts = Counter(data.photo_splits)
    console.print("Split: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS))
    console.print(data.units_text)
    class_pixels_PK = np.array([facts.class_pixels for facts in survey.photos])
    splits_P = np.array(data.photo_splits)
    holders_SK = {split: (class_pixels_PK[splits_P == split] > 0).sum(axis=0) for split in SPLITS}
    console.print(_class_table(data, class_pixels_PK.sum(axis=0), holders_SK))
    for note in survey.notes:
        for line in note.each() if every else [str(note)]:
            console.print(Text(f"! {line}", style="yellow"), soft_wrap=True)
    doubts = unit_notes(data.scored_sizes)
    for sentence in doubts:
        console.print(Text(f"! {sentence}", style="yellow"), soft_wrap=True)
    if doubts:
        console.print(
            "  Intervals say how far scores on a split may be off. Larger shares under `split`, or "
            "more photographs, give them more to rest on.",
            style="yellow",
            soft_wrap=True,
        )
    if not every and any(len(note.files) > SHOWN for note in survey.notes):
        console.print("  --all names each file", style="yellow")


SHOWN_SCALES = (0.5, 0.25, 0.1)


def _show_objects(data: PreparedData, objects: ObjectSizes, view: View, console: Console) -> None:
    """How many pixels of each class's objects are left at some scales, and what to make of it."""
    squeezed = View(view.height_px, view.width_px)
    shares = [min(np.divide(data.grid(p, squeezed), data.plans[p].size_px))
              for p in range(len(data.photos))]  # fmt: skip
    columns = {f"{scale:g}": scale for scale in SHOWN_SCALES}
    whole = float(np.median(shares))
    columns[f"{view.height_px}×{view.width_px}"] = whole
    table = Table(box=None, title="Typical width of objects, in pixels", title_justify="left")
    table.add_column("class", overflow="fold")
    for title in ("objects", "scale 1", *columns):
        table.add_column(title, justify="right", no_wrap=True)
    for name, count, size_px in zip(
        data.class_names, objects.count_K, objects.typical_px_K, strict=True
    ):
        if size_px is not None:
            left = (size_px * scale for scale in (1.0, *columns.values()))
            table.add_row(Text(name), str(count), *(_width(px) for px in left))
    console.print(table)
    coarsest, finest = objects.scale_bounds()
    unseen = [name for name, px in zip(data.class_names, objects.typical_px_K, strict=True)
              if px is not None and px * whole < VISIBLE_PX]  # fmt: skip
    if unseen:
        console.print(
            f"Squeezed to {view.height_px}×{view.width_px}, {', '.join(unseen)} would be narrower "
            f"than {VISIBLE_PX} px: hardly to be seen.",
            soft_wrap=True,
        )
    console.print(f"Scales worth a search: {coarsest:g} to {finest:g}.")


def _width(size_px: float) -> Text:
    return Text(f"{size_px:.3g}", style="yellow" if size_px < VISIBLE_PX else "")


Holders = Mapping[Split, NDArray[np.int64]]
"""For each split, the number of photographs that hold each class (K)."""


def _class_table(data: PreparedData, pixels_K: NDArray[np.int64], holders_SK: Holders) -> Table:
    """Each class with its share of the labelled pixels and the photographs that hold it."""
    table = Table("", "", box=None)
    table.add_column("class", overflow="fold")
    for title in ("pixels", "images", *SPLITS):
        table.add_column(title, justify="right", no_wrap=True)
    for k, name in enumerate(data.class_names):
        red, green, blue = data.class_colors[k]
        per_split = [int(holders_K[k]) for holders_K in holders_SK.values()]
        table.add_row(
            str(k),
            Text("██", style=f"rgb({red},{green},{blue})"),
            Text(name),
            f"{100 * pixels_K[k] / max(pixels_K.sum(), 1):.3g} %",
            str(sum(per_split)),
            *(str(count) if count else Text("–", style="yellow") for count in per_split),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
