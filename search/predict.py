"""python -m search.predict: photographs in, masks out."""

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from search.predicting.prediction_log import (
    LOG_NAME,
    Predicted,
    PredictionLog,
    recorded_files,
    settings_key,
    write_tables,
)
from search.reporting.command_line import leave, loading, run_command
from segcore.arguments import read_arguments
from segcore.errors import UserError
from segcore.folders import files_below, is_same_file, normal
from segcore.guessing.pairs import PICTURES

if TYPE_CHECKING:
    from search.predicting.products import Kind

MAP_ENDINGS = (".png", ".tif")
"""What a mask's file may end with."""


@dataclass(frozen=True)
class PredictOptions:
    """Predict the class of each pixel of photographs, with the ensemble of a search.

    What is done already in OUT, by the same bundle with the same options, is not done again.
    """

    bundle: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """The ensemble's folder, runs/NAME/ensemble of a search, or its s3:// or gs:// address."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO …")]
    """Photographs, or folders of them (searched through to the bottom). What is taken from a folder
    has the ending of a picture; a file that is named itself may have any."""
    out: Path = Path("predictions")
    """Folder for the masks: for each photograph a PNG of its size with class indices, or of a
    georeferenced one a GeoTIFF on the same grid. 255: the photograph has no data there.
    OUT/classes.csv: how many pixels of each photograph each class has, and where the size of a
    pixel on the ground is known how many square metres."""
    overlay: bool = False
    """Also write OUT/overlays: the photographs with the classes in colour."""
    probabilities: bool = False
    """Also write OUT/probabilities: a TIFF with a band for each class, 0 … 255."""
    uncertainty: bool = False
    """Also write OUT/uncertainty: how much the members disagree with the class that they name
    together, as pictures (0 … 255); and OUT/uncertainty.csv, the mean of each photograph."""
    polygons: Literal["gpkg", "geojson"] | None = None
    """Also write OUT/polygons: the outline of each region, as GeoPackage or GeoJSON."""
    submission: Path | None = None
    """Also write a CSV file in the competition's format (ImageClassId,rle_mask)."""
    tta: bool = False
    """Average over the 8 flips and rotations of each photograph: better, and 8 times slower."""
    scale: float | None = None
    """Slide windows over the photographs at this scale (0.25: a quarter of the resolution),
    however the networks were trained. Meant for mosaics: a network that was trained on whole
    photographs sees without it the whole mosaic shrunk to its input size."""
    no_factors: bool = False
    """Name the most probable class of each pixel, whatever factors the bundle has for its classes.
    Probabilities are the same either way."""
    batch_size: int | None = None
    """Windows that a network gets at once. Default: 4; on a GPU more, if they are small."""
    device: str | None = None
    """Such as cpu, cuda or cuda:1. Default: CUDA where there is one, in half precision."""
    all: bool = False
    """Tell of each photograph that is skipped, not only of the first ones of each kind."""
    allow_plugins: bool = False
    """Allow a bundle to import network code that it names. Only for a bundle that you trust."""

    @property
    def kinds(self) -> list["Kind"]:
        """The files to write of each photograph."""
        wished: dict[Kind, bool] = {
            "overlay": self.overlay,
            "probabilities": self.probabilities,
            "uncertainty": self.uncertainty,
            "gpkg": self.polygons == "gpkg",
            "geojson": self.polygons == "geojson",
        }
        return ["mask", *(kind for kind, is_wished in wished.items() if is_wished)]


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.predict") -> int:
    """Predict, and return the exit code: 0 all, 1 some photographs failed, 2 bad input."""
    given = sys.argv[1:] if arguments is None else arguments
    if any(word.startswith("--tile-scale") for word in given):
        return run_command(_refuse_old_spelling)
    options = read_arguments(PredictOptions, arguments, prog)
    console = Console(stderr=True, highlight=False, markup=False)
    return run_command(lambda: 1 if predict(options, console) else 0)


def _refuse_old_spelling() -> int:
    raise UserError("--tile-scale is gone; write --scale")


def predict(options: PredictOptions, console: Console) -> list[Path]:
    """Predict all photographs that aren't done; name those that fail, and return them."""
    with loading("torch"):  # not for --help
        from search.predicting.many import predict_all
        from search.predicting.products import Products
        from search.predicting.submission import write_submission
        from search.runs.storage import on_this_machine
        from segcore.devices import choose_device
        from segcore.predicting.ensemble import MANIFEST, Ensemble
        from segcore.predicting.rasters import read_map

    _check_numbers(options)
    out = options.out
    photos = find_photos(options.inputs, out)
    if options.submission is not None:
        _check_stems(photos)
    bundle = on_this_machine(options.bundle, "bundles", MANIFEST)
    ensemble = Ensemble.load(
        bundle,
        choose_device(options.device),
        allow_plugins=options.allow_plugins,
        use_factors=not options.no_factors,
    )
    products = Products(
        ensemble, out, options.kinds, options.tta, options.batch_size, options.scale
    )
    log = PredictionLog(out)
    changing = {"tta": options.tta, "scale": options.scale, "no_factors": options.no_factors}
    settings = settings_key(bundle, changing)

    def find_done() -> dict[Path, Predicted]:
        found = {p: log.find(p, name, settings, options.kinds) for p, name in photos.items()}
        return {photo: record for photo, record in found.items() if record is not None}

    earlier = find_done()
    todo = {photo: name for photo, name in photos.items() if photo not in earlier}
    began = time.monotonic()
    pixels = predict_all(todo, products, log, settings, console, options.all)
    seconds = time.monotonic() - began

    done = find_done()
    write_tables(out, log.done(settings))
    if options.submission is not None:
        # From the files, because the masks of an earlier run are nowhere else.
        masks = ((normal(photo.stem), read_map(out / done[photo].files["mask"])) for photo in done)
        write_submission(options.submission, masks, len(ensemble.class_names))
    console.print(
        f"{len(done)} of {len(photos)} photographs predicted"
        + (f", {len(earlier)} of them earlier" if earlier else "")
        + f": masks in {out}",
        soft_wrap=True,
    )
    if pixels:
        console.print(
            f"{pixels / 1e6:.1f} megapixels in {seconds:.1f} s: "
            f"{pixels / 1e6 / seconds:.2f} megapixels/s on {ensemble.device}"
        )
    return [photo for photo in photos if photo not in done]


def find_photos(inputs: Sequence[Path], out: Path) -> dict[Path, str]:
    """Each photograph, and its files' path below ``out`` without an ending, folders kept.

    What a prediction wrote is no photograph, nor is what lies in a folder ``out`` below, nor what
    is hidden. Links are followed. Raises ``UserError`` where there are none, where two would write
    the same files, or where a mask would replace its photograph.
    """
    if not inputs:
        raise UserError("no photographs given; name files, or folders of them, after the bundle")
    names: dict[Path, str] = {}
    for given in inputs:
        if given.is_dir():
            for path in _not_ours(given, out):
                if path.suffix.lower() in PICTURES:
                    names[path] = _output_name(path.relative_to(given).with_name(path.stem))
        elif given.exists():
            names[given] = _output_name(Path(given.stem))
        else:
            raise UserError(f"{given}: no such file or folder")
    if not names:
        raise UserError(
            f"{', '.join(map(str, inputs))}: no photographs; allowed endings: "
            f"{', '.join(sorted(PICTURES))}"
        )
    # Where a file system takes "Roof" and "roof" for one name, as that of macOS does, so do we.
    folded = sys.platform == "darwin"
    if twins := _namesakes({p: n.casefold() if folded else n for p, n in names.items()}):
        raise UserError(
            f"{_both(twins)} would both write {out / names[twins[0]]}; "
            "predict them with two --out folders, or name the folder that holds both"
        )
    for photo, name in names.items():
        masks = (out / f"{name}{ending}" for ending in MAP_ENDINGS)
        if any(is_same_file(mask, photo) for mask in masks):
            raise UserError(f"{photo} would be replaced by its mask; name another --out folder")
    return names


def _output_name(photo: Path) -> str:
    """The same name on every machine; a line break or a byte that is no UTF-8 becomes "_"."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", normal(str(photo)))


def _namesakes(names: Mapping[Path, str]) -> tuple[Path, Path] | None:
    """Two photographs with the same name, where there are such."""
    first: dict[str, Path] = {}
    for photo, name in names.items():
        if (other := first.setdefault(name, photo)) != photo:
            return other, photo
    return None


def _both(twins: tuple[Path, Path]) -> str:
    """Two photographs, told apart even where a screen would show the same name twice."""
    first, second = map(str, twins)
    differ = Path(normal(first)).with_suffix("") != Path(normal(second)).with_suffix("")
    return f"{second} and {first}" if differ else f"{second!a} and {first!a}"


def _not_ours(given: Path, out: Path) -> Iterator[Path]:
    """The files below a folder that no prediction wrote, into ``out`` or elsewhere."""
    found, around = files_below(given), (given.resolve(), *given.resolve().parents)
    # Photographs and masks may share a folder: its log tells which files are masks.
    logs = {path.parent.resolve() for path in found if path.name == LOG_NAME}
    logs |= {folder for folder in around if (folder / LOG_NAME).is_file()}
    ours = {file for folder in logs for file in recorded_files(folder)}
    # But of a folder below that is only for masks, a killed prediction may have left others there.
    apart = {out.resolve()} - {*around}
    for path in found:
        file = path.resolve()
        if file not in ours and apart.isdisjoint(file.parents):
            yield path


def _check_numbers(options: PredictOptions) -> None:
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: allowed is 1 or more")
    if options.scale is not None and not 0 < options.scale <= 1:
        raise UserError(f"--scale {options.scale}: allowed is above 0, up to 1")


def _check_stems(photos: Mapping[Path, str]) -> None:
    """The competition's file knows photographs by their names without folder and ending."""
    if twins := _namesakes({photo: normal(photo.stem) for photo in photos}):
        raise UserError(
            f"{_both(twins)} have the same name, by which --submission tells "
            "photographs apart; rename one of them"
        )


if __name__ == "__main__":
    leave(main)
