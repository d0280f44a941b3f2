"""python -m search.evaluate: how good a bundle is on photographs with masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track

from search.reporting.command_line import leave, loading, run_command
from segcore.arguments import read_arguments
from segcore.errors import Problem, ProblemsError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from segcore.data.dataset import Dataset, Photo
    from segcore.predicting.ensemble import Ensemble
    from segcore.scores.metrics import Scores


@dataclass(frozen=True)
class EvaluateOptions:
    """Score the ensemble of a search on photographs with masks."""

    bundle: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """The ensemble's folder, runs/NAME/ensemble of a search, or its s3:// or gs:// address."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder or address with a dataset.yaml, whose classes are the bundle's."""
    split: Literal["train", "val", "test", "all"] | None = None
    """Which photographs. Default: test where the bundle was trained on these data, else all."""
    score_scale: float | None = None
    """The resolution at which predictions are compared with the masks, as a share of the
    photographs' own. Default: all of it. With a search's --score-scale it is the number that the
    search printed."""
    json: Path | None = None
    """Also write everything to this file."""
    worst: int = 5
    """How many of the worst photographs to name."""
    tta: bool = False
    """Average over the 8 flips and rotations of each photograph."""
    scale: float | None = None
    """Slide windows over the photographs at this scale, as search.predict does with it."""
    no_factors: bool = False
    """Name the most probable class of each pixel, whatever factors the bundle has for its classes.
    Probabilities are the same either way."""
    batch_size: int | None = None
    """Windows that a network gets at once. Default: 4; on a GPU more, if they are small."""
    device: str | None = None
    """Such as cpu, cuda or cuda:1. Default: CUDA where there is one."""
    allow_plugins: bool = False
    """Allow a bundle to import network code that it names. Only for a bundle that you trust."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.evaluate") -> int:
    """Evaluate, and return the exit code: 0 all, 1 some photographs failed, 2 bad input."""
    options = read_arguments(EvaluateOptions, arguments, prog)
    return run_command(
        lambda: evaluate(options, Console(stderr=True, highlight=False, markup=False))
    )


def evaluate(options: EvaluateOptions, console: Console) -> int:
    """Evaluate, print the report to standard output, and return the exit code."""
    with loading("torch"):  # not for --help
        from search.reporting.evaluation import Report, print_report
        from search.runs.storage import on_this_machine
        from segcore.data.dataset import load_dataset
        from segcore.devices import choose_device
        from segcore.predicting.ensemble import MANIFEST, Ensemble

    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: allowed is 1 or more")
    for name, scale in (("score-scale", options.score_scale), ("scale", options.scale)):
        if scale is not None and not 0 < scale <= 1:
            raise UserError(f"--{name} {scale}: allowed is above 0, up to 1")
    ensemble = Ensemble.load(
        on_this_machine(options.bundle, "bundles", MANIFEST),
        choose_device(options.device),
        allow_plugins=options.allow_plugins,
        use_factors=not options.no_factors,
    )
    dataset = load_dataset(on_this_machine(options.data, "data", "dataset.yaml"))
    _check_classes(options, ensemble.class_names, dataset.spec.class_names)
    split, photos = _choose(options, dataset, ensemble)
    scores, scored = _score(options, ensemble, dataset, photos, console)
    report = Report.of(options.bundle, options.data, split, ensemble.class_names, scored, scores)
    print_report(report, Console(highlight=False, markup=False), worst=options.worst)
    if options.json is not None:
        report.write(options.json)
    return 0 if len(scored) == len(photos) else 1


def _check_classes(options: EvaluateOptions, bundle: Sequence[str], data: Sequence[str]) -> None:
    if tuple(bundle) == tuple(data):
        return
    missing = [name for name in bundle if name not in data]
    unknown = [name for name in data if name not in bundle]
    differences = [
        f"without {', '.join(missing)}" if missing else "",
        f"with {', '.join(unknown)}, which the bundle doesn't know" if unknown else "",
        "in another order" if not missing and not unknown else "",
    ]
    raise UserError(
        f"{options.data}/dataset.yaml has other classes than {options.bundle}: "
        f"{' and '.join(text for text in differences if text)}; "
        f"allowed are these, in this order: {', '.join(bundle)}"
    )


def _choose(
    options: EvaluateOptions, dataset: "Dataset", ensemble: "Ensemble"
) -> tuple[str, list["Photo"]]:
    """The photographs to score, and what to call them."""
    from segcore.config import View
    from segcore.data.preparing import prepare_data

    if options.split == "all":
        return "all", list(dataset.photos)
    # Preparing draws the split, as it was drawn for the search. Nothing else of it is needed, so
    # the photographs are kept as small as can be.
    data = prepare_data(dataset.folder, [View(1, 1)])
    searched = (ensemble.data_fingerprint or "").startswith(data.content)
    split = options.split or ("test" if searched else "all")
    if split == "all":
        return "all", list(dataset.photos)
    of_split = {
        name for name, own in zip(data.photos, data.photo_splits, strict=True) if own == split
    }
    return split, [photo for photo in dataset.photos if photo.name in of_split]


def _score(
    options: EvaluateOptions,
    ensemble: "Ensemble",
    dataset: "Dataset",
    photos: Sequence["Photo"],
    console: Console,
) -> tuple["Scores", list[str]]:
    """Scores of the photographs that could be read, and their names."""
    import torch

    from segcore.reading.headers import ImageError
    from segcore.scores.counting import Prediction, score

    scored: list[str] = []
    problems: list[Problem] = []

    def predictions() -> Iterator[Prediction]:
        shown = track(photos, "scoring", console=console, disable=not console.is_terminal)
        for place, photo in enumerate(shown):
            try:
                pieces = _compare(options, ensemble, dataset, photo)
            except ImageError as error:
                problems.append(error.problem)
                continue
            number = torch.tensor([place])
            yield from ((class_HW[None], truth_HW[None], number) for class_HW, truth_HW in pieces)
            scored.append(photo.name)

    groups = [photo.group for photo in photos]
    scores = score(predictions(), len(ensemble.class_names), groups, ensemble.device)
    if problems:
        skipped = str(ProblemsError("skipped:", problems))
        console.print(skipped, style="red", markup=False, soft_wrap=True)
    if not scored:
        raise UserError(f"{options.data}: there was no photograph to score")
    if not scores.confusion_KK.any():
        raise UserError(
            f"{options.data}: none of {len(scored)} photographs has a labelled pixel; correct the "
            "masks, or what is ignored in dataset.yaml"
        )
    return scores, scored


def _compare(
    options: EvaluateOptions, ensemble: "Ensemble", dataset: "Dataset", photo: "Photo"
) -> list[tuple["Tensor", "Tensor"]]:
    """What is predicted for the pieces of a photograph, and their truth, on the score grid.

    Raises ``ImageError`` where either file can't be read.
    """
    import torch

    from segcore.config import IGNORE_INDEX, View
    from segcore.data.windows import plan_grid, scale_mask
    from segcore.inference.photographs import Photograph
    from segcore.reading.headers import read_header
    from segcore.reading.masks import read_mask_of

    with Photograph.open(photo.path, ensemble.bands) as image:
        mask_HW, *_ = read_mask_of(read_header(photo.path), photo.mask_path, dataset.spec.coding)
        if image.has_holes:
            whole = slice(0, image.height_px), slice(0, image.width_px)
            mask_HW[~image.valid(*whole)] = IGNORE_INDEX
        grid = plan_grid(image.size_px, View(1, 1, options.score_scale or 1.0))
        truth_HW = torch.from_numpy(scale_mask(mask_HW, grid))
        strips = ensemble.strips(
            image, size_px=grid, tta=options.tta, batch_size=options.batch_size, scale=options.scale
        )
        return [(strip.classes(), truth_HW[strip.rows, strip.columns]) for strip in strips]


if __name__ == "__main__":
    leave(main)
