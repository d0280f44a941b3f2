"""python -m search.predict: photographs in, masks out."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track

from segcore.errors import UserError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
"""What is taken from a folder; a file that is named itself may have any."""


@dataclass(frozen=True)
class PredictOptions:
    """Predict the class of each pixel of photographs, with the ensemble of a search."""

    bundle: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """The ensemble's folder: runs/NAME/ensemble of a search."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO …")]
    """Photographs, or folders of them (searched through to the bottom)."""
    out: Path = Path("predictions")
    """Folder for the masks: for each photograph a PNG of its size with class indices."""
    overlay: bool = False
    """Also write OUT/overlays: the photographs with the classes in colour."""
    submission: Path | None = None
    """Also write a CSV file in the competition's format (ImageClassId,rle_mask)."""
    device: str | None = None
    """Such as cpu, cuda or cuda:1. Default: CUDA where there is one."""
    allow_plugins: bool = False
    """Allow a bundle to import network code that it names. Only for a bundle that you trust."""


def main(arguments: list[str] | None = None) -> int:
    """Predict, and return the exit code: 0 all, 1 some photographs failed, 2 bad input."""
    options = tyro.cli(PredictOptions, args=arguments, prog="python -m search.predict")
    console = Console(stderr=True, highlight=False)
    try:
        failed = predict(options, console)
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    return 1 if failed else 0


def predict(options: PredictOptions, console: Console) -> list[Path]:
    """Predict all photographs; those that can't be read are reported and returned."""
    # Imported here: torch takes seconds, and --help needs none of them.
    import torch

    from search.submission import SubmissionFile
    from segcore.ensemble import Ensemble
    from segcore.images import read_image, write_image
    from segcore.pictures import overlay

    photos = find_photos(options.inputs, options.out)
    ensemble = Ensemble.load(
        options.bundle,
        torch.device(options.device) if options.device else None,
        allow_plugins=options.allow_plugins,
    )
    failed = []
    with ExitStack() as stack:
        submission = None
        if options.submission is not None:
            submission = stack.enter_context(
                SubmissionFile(options.submission, len(ensemble.class_names))
            )
        for photo, mask_path in track(
            photos.items(), "predicting", console=console, disable=not console.is_terminal
        ):
            try:
                image_HWC = read_image(photo)
            except UserError as error:
                console.print(f"skipped: {error}", style="red", markup=False, soft_wrap=True)
                failed.append(photo)
                continue
            mask_HW = ensemble.predict(image_HWC)
            mask_path.parent.mkdir(parents=True, exist_ok=True)
            write_image(mask_path, mask_HW)
            if options.overlay:
                relative = mask_path.relative_to(options.out).with_suffix(".jpg")
                picture_path = options.out / "overlays" / relative
                picture_path.parent.mkdir(parents=True, exist_ok=True)
                write_image(picture_path, overlay(image_HWC, mask_HW, ensemble.class_colors))
            if submission is not None:
                submission.add(photo.stem, mask_HW)
    done = len(photos) - len(failed)
    console.print(f"{done} of {len(photos)} photographs predicted: masks in {options.out}")
    return failed


def find_photos(inputs: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Each photograph and the path of its mask below ``out``; a folder's own folders are kept.

    Raises ``UserError`` where there are none, or where two would write the same mask.
    """
    masks: dict[Path, Path] = {}
    for given in inputs:
        if given.is_dir():
            found = sorted(p for p in given.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
            masks |= {p: out / p.relative_to(given).with_suffix(".png") for p in found}
        elif given.exists():
            masks[given] = out / f"{given.stem}.png"
        else:
            raise UserError(f"{given}: no such file or folder")
    if not inputs:
        raise UserError("no photographs given; name files, or folders of them, after the bundle")
    if not masks:
        raise UserError(
            f"{', '.join(map(str, inputs))}: no photographs; allowed endings: "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    taken: dict[Path, Path] = {}
    for photo, mask in masks.items():
        other = taken.setdefault(mask, photo)
        if other != photo:
            raise UserError(
                f"{photo} and {other} would both write {mask}; predict them with two --out folders"
            )
    return masks


if __name__ == "__main__":
    sys.exit(main())
