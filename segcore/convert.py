"""python -m segcore.convert SOURCE MASKS: polygons of annotation tools and of a GIS → masks."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track
from rich.text import Text

from segcore.arguments import read_arguments
from segcore.converting.drawings import Drawing, Export, draw, number_classes, write_mask
from segcore.converting.tools import read_export
from segcore.converting.vectors import VECTORS, read_polygons
from segcore.data.spec import distinct_colors
from segcore.errors import Problem, ProblemsError, UserError, some_of
from segcore.folders import Names, files_below, is_same_file, normal
from segcore.guessing.pairs import PICTURES

CLASSES = "classes.csv"


@dataclass(frozen=True)
class Options:
    """Make masks of what was drawn in LabelMe, COCO, Label Studio, CVAT, or a GIS.

    A GIS gives GeoPackage, GeoJSON or shapefiles; the photographs must be georeferenced then. Each
    mask is a PNG of class numbers that is called like its photograph. classes.csv beside the masks
    names the classes, and segcore.prepare reads it.
    """

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SOURCE")]]
    """The export: a file, or LabelMe's folder of JSON files."""
    masks: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MASKS")]]
    """The folder to write, such as data/masks beside data/images."""
    images: Path | None = None
    """The folder of the photographs; masks then lie as they do. Polygons of a GIS need it."""
    label_field: str | None = None
    """The attribute that tells a polygon's class in a GIS file (default: class, label, name …)."""
    ignore_rest: bool = False
    """Let pixels on which nothing is drawn count nowhere, instead of being Background."""
    all: bool = False
    """Name each problem, not only the first ones of each kind."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m segcore.convert") -> int:
    """Run the command; the exit code: 0, or 1 where something could not be converted."""
    options = read_arguments(Options, arguments, prog)
    console = Console(highlight=False, markup=False)
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        export, pictures = _read(options)
        drawings = [drawing for drawing in export.drawings if drawing.image in pictures]
        places = {image: _safe(picture) for image, picture in pictures.items()}
        _check_places(options, drawings, pictures, places)
        numbers = number_classes(export, ignore_rest=options.ignore_rest)
        colors = [*distinct_colors(len(numbers))]
        for drawing in track(drawings, "drawing", console=errors, disable=not errors.is_terminal):
            mask_HW = draw(drawing, numbers, ignore_rest=options.ignore_rest)
            write_mask(options.masks / places[drawing.image], mask_HW, colors)
        _write_classes(options.masks / CLASSES, numbers)
    except UserError as error:
        errors.print(Text(error.each() if options.all else str(error)), soft_wrap=True)
        return 1
    except OSError as error:  # What can't be read is a UserError.
        what = f"{options.masks} can't be written: {error.strerror or error}"
        errors.print(Text(f"{what}; name a folder that may be written"), soft_wrap=True)
        return 1
    console.print(f"{len(drawings)} masks: {options.masks}", soft_wrap=True)
    console.print(Text(f"Classes: {', '.join(numbers)}"), soft_wrap=True)
    if export.problems:
        told = ProblemsError("Left out:", export.problems)
        errors.print(Text(told.each() if options.all else str(told)), soft_wrap=True)
    return 1 if export.problems else 0


def _read(options: Options) -> tuple[Export, Mapping[str, str]]:
    """What was drawn, and the photograph that each drawing's ``image`` means."""
    pictures = [] if options.images is None else _pictures(options.images)
    if options.source.suffix.lower() in VECTORS:
        if options.images is None:
            raise UserError("polygons of a GIS need the orthophotos that they lie on: --images DIR")
        export = read_polygons(options.source, options.images, pictures, options.label_field)
    else:
        export = read_export(options.source)
    if options.images is None:
        return export, {drawing.image: drawing.image for drawing in export.drawings}
    names = Names(options.images, pictures)
    meant = {drawing.image: _pictures_of(drawing, names) for drawing in export.drawings}
    if meant and not any(meant.values()):
        raise UserError(f"{options.images} holds none of the photographs: {some_of([*meant])}")
    problems = [
        Problem(image, f"may be {some_of(several)}", "rename them, and export again")
        if several
        else Problem(image, f"isn't in {options.images}", "add it")
        for image, several in meant.items()
        if len(several) != 1
    ]
    export = Export(export.drawings, export.labels, (*export.problems, *problems))
    return export, {image: several[0] for image, several in meant.items() if len(several) == 1}


def _check_places(
    options: Options,
    drawings: Sequence[Drawing],
    pictures: Mapping[str, str],
    places: Mapping[str, str],
) -> None:
    """Raise ``UserError`` where one mask would be that of two drawings, or hide a photograph."""
    source = options.source
    folder = options.images or (source if source.is_dir() else source.parent)
    images: dict[str, str] = {}
    for image in (drawing.image for drawing in drawings):
        place = places[image]
        if (other := images.get(place)) is not None:
            what = f"{image} and {other} would both get the mask {place}; rename one"
            twice = f"{image} is drawn on twice; put both drawings into one, or remove one"
            raise UserError(twice if other == image else what)
        images[place] = image
        photo = folder / pictures[image]
        if is_same_file(options.masks / place, photo):
            raise UserError(f"{photo} would be replaced by its mask; name another folder for masks")


def _pictures(folder: Path) -> list[str]:
    found = (path for path in files_below(folder) if path.suffix.lower() in PICTURES)
    return [normal(path.relative_to(folder).as_posix()) for path in found]


def _pictures_of(drawing: Drawing, names: Names) -> list[str]:
    """The photographs that a tool may mean; Label Studio puts eight digits before a name."""
    name = PurePosixPath(normal(drawing.image))
    readings = (str(name), name.name, name.name.partition("-")[2])
    return next((found for text in readings if text and (found := names.by(text))), [])


def _safe(name: str) -> str:
    """Where the mask of a photograph goes, which is never outside of the folder of masks."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in "/.."]
    if not parts or "\0" in name:
        raise UserError(f"{name!r} is no name of a photograph; correct it in the export")
    return str(PurePosixPath(*parts).with_suffix(".png"))


def _write_classes(path: Path, numbers: Mapping[str, int]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "value"])
        writer.writerows(numbers.items())


if __name__ == "__main__":
    sys.exit(main())
