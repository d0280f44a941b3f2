"""python -m segcore.prepare DIR: check a data set, show what is in it, and decode it once."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segcore.config import Preparation
from segcore.data.prepared import PreparedData, Survey, read_survey
from segcore.data.preparing import prepare_data
from segcore.data.splits import SPLITS, Split
from segcore.errors import UserError


@dataclass(frozen=True)
class Options:
    """Check a data set, show what is in it, and decode it once into the cache that trials read."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """The folder that holds dataset.yaml."""
    height_px: int = 368
    """Height of the training images, in pixels (32 or more)."""
    width_px: int = 368
    """Width of the training images, in pixels (32 or more)."""
    tile_scale: float | None = None
    """Scale photographs by this factor (above 0, up to 1) and cut them into tiles, instead of
    resizing them as a whole."""
    workers: int | None = None
    """Photographs decoded at the same time (default: as many as there are cores)."""

    def check(self) -> None:
        """Raise ``UserError`` where a value is out of range."""
        if min(self.height_px, self.width_px) < 32:
            raise UserError(f"{self.height_px}×{self.width_px} px: each side needs 32 px or more")
        if self.tile_scale is not None and not 0 < self.tile_scale <= 1:
            raise UserError(f"--tile-scale {self.tile_scale}: allowed is above 0, up to 1")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers}: allowed is 1 or more")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m segcore.prepare") -> int:
    """Run the command; the exit code: 0, 1 for problems with the data, 2 for bad arguments."""
    options = tyro.cli(Options, prog=prog, args=arguments)
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        options.check()
    except UserError as error:
        errors.print(Text(str(error)))
        return 2
    preparation = Preparation(options.height_px, options.width_px, options.tile_scale)
    begin_s = time.perf_counter()
    try:
        data = prepare_data(options.folder, preparation, workers=options.workers)
        survey = read_survey(data.folder)
    except UserError as error:
        errors.print(Text(str(error)), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("stopped; what was half prepared has been removed")
        return 130
    elapsed_s = time.perf_counter() - begin_s
    _show(data, survey, console)
    console.print(
        f"\nPrepared {len(data.photo_M)} images of {options.height_px}×{options.width_px} px "
        f"in {elapsed_s:.1f} s: {data.folder}",
        soft_wrap=True,
    )
    return 0


def _show(data: PreparedData, survey: Survey, console: Console) -> None:
    sizes = Counter(f"{facts.height_px}×{facts.width_px}" for facts in survey.photos)
    common = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(4))
    more = f", and {len(sizes) - 4} other sizes" if len(sizes) > 4 else ""
    console.print(
        f"{len(data.photos)} photographs (height×width in px): {common}{more}", soft_wrap=True
    )
    counts = Counter(data.photo_splits)
    console.print("Split: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS))
    class_pixels_PK = np.array([facts.class_pixels for facts in survey.photos])
    splits_P = np.array(data.photo_splits)
    holders_SK = {split: (class_pixels_PK[splits_P == split] > 0).sum(axis=0) for split in SPLITS}
    console.print(_class_table(data, class_pixels_PK.sum(axis=0), holders_SK))
    for note in survey.notes:
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)


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
