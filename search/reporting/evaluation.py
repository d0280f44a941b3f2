"""What an evaluation found, as tables for a terminal and as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from segcore.errors import UserError
from segcore.files import whole_file
from segcore.scores.intervals import Evaluation
from segcore.scores.metrics import METRICS, Scores, metric_of_each


@dataclass(frozen=True)
class ClassRow:
    """How well one class is found; NaN where there is nothing to divide by."""

    name: str
    share: float
    """Of the labelled pixels, in the truth."""
    dice: float
    iou: float
    precision: float
    recall: float


@dataclass(frozen=True)
class PhotoRow:
    """The scores of one photograph."""

    name: str
    dice_per_image: float
    pixel_accuracy: float


@dataclass(frozen=True)
class Report:
    """How a bundle did on photographs, class by class and photograph by photograph."""

    bundle: str
    data: str
    split: str
    evaluation: Evaluation
    classes: tuple[ClassRow, ...]
    photos: tuple[PhotoRow, ...]
    """The worst come first, and those without a labelled pixel last."""

    @classmethod
    def of(
        cls,
        bundle: str,
        data: str,
        split: str,
        class_names: Sequence[str],
        photos: Sequence[str],
        scores: Scores,
    ) -> "Report":
        """Put scores into words; ``photos``: names in the order of ``scores.counts_P3K``."""
        true_positive_K, predicted_K, truth_K = scores.counts_P3K.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            share_K = truth_K / truth_K.sum()
            precision_K, recall_K = true_positive_K / predicted_K, true_positive_K / truth_K
        columns = (share_K, scores.class_dice_K, scores.class_iou_K, precision_K, recall_K)
        classes = (
            ClassRow(name, *map(float, values))
            for name, *values in zip(class_names, *columns, strict=True)
        )
        alone_P13K = scores.counts_P3K[:, None]
        dice_P = metric_of_each("dice_per_image", alone_P13K).tolist()
        accuracy_P = metric_of_each("pixel_accuracy", alone_P13K).tolist()
        rows = [PhotoRow(*row) for row in zip(photos, dice_P, accuracy_P, strict=True)]
        rows.sort(key=lambda row: (math.isnan(row.dice_per_image), row.dice_per_image))
        return cls(bundle, data, split, Evaluation.of(scores), tuple(classes), tuple(rows))

    def write(self, path: Path) -> None:
        """Write everything as JSON; NaN becomes null. Raises ``UserError``."""
        values = asdict(self)
        evaluation = values.pop("evaluation")
        values |= {name: evaluation[name] for name in ("units", "confusion")}
        values["scores"] = evaluation["metrics"]
        values["definitions"] = METRICS
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps(_without_nan(values), indent=2), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} can't be written: {error}") from error


def print_report(report: Report, console: Console, *, worst: int) -> None:
    """Print the tables."""
    photos = "photograph" if len(report.photos) == 1 else "photographs"
    which = f"{len(report.photos)} {photos} of {report.data}, split {report.split}"
    console.print(f"\n{report.bundle} on {which}\n", markup=False, soft_wrap=True)
    console.print(_scores_table(report))
    if report.evaluation.units < 2:
        console.print("One photograph says nothing about others: no interval.\n")
    elif report.evaluation.caution:
        console.print(f"{report.evaluation.caution}\n", soft_wrap=True)
    console.print(_classes_table(report))
    matrix = _confusion_table(report)
    fits = console.measure(matrix).minimum <= console.width
    console.print(matrix if fits else _confusions_table(report))
    if worst and report.photos:
        console.print(_worst_table(report, worst))


def _scores_table(report: Report) -> Table:
    table = _table("Scores")
    for heading in ("score", "", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "score" else "right", no_wrap=True)
    for name, interval in report.evaluation.metrics.items():
        ends = f"{interval.low:.4f} – {interval.high:.4f}" if report.evaluation.units > 1 else "–"
        table.add_row(name, _number(interval.value), ends)
    return table


def _classes_table(report: Report) -> Table:
    table = _table("Classes")
    table.add_column("class")
    for heading in ("% of pixels", "dice", "iou", "precision", "recall"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.classes:
        values = map(_number, (row.dice, row.iou, row.precision, row.recall))
        table.add_row(row.name, f"{100 * row.share:.2f}", *values)
    return table


def _confusion_table(report: Report) -> Table:
    table = _table("Where the pixels of each class went, % of its row")
    table.add_column("truth", no_wrap=True)
    for k in range(len(report.classes)):
        table.add_column(str(k), justify="right", no_wrap=True)
    for k, (row, pixels) in enumerate(
        zip(report.classes, report.evaluation.confusion, strict=True)
    ):
        total = sum(pixels)
        cells = (f"{100 * n / total:.0f}" if n * 200 >= total else "·" for n in pixels)
        if total:
            table.add_row(f"{k} {row.name}", *cells)
    return table


def _confusions_table(report: Report, top: int = 12) -> Table:
    """The largest errors of the matrix, for a terminal that is too narrow for all of it."""
    table = _table("Largest confusions, by the share of the true class")
    for heading in ("truth", "predicted as"):
        table.add_column(heading)
    table.add_column("% of truth", justify="right")
    names = [row.name for row in report.classes]
    confusion_KK = np.array(report.evaluation.confusion, float)
    with np.errstate(invalid="ignore"):
        share_KK = np.nan_to_num(confusion_KK / confusion_KK.sum(axis=1, keepdims=True))
    np.fill_diagonal(share_KK, 0)
    for index in np.argsort(-share_KK, axis=None, kind="stable")[:top]:
        truth, predicted = np.unravel_index(index, share_KK.shape)
        if share_KK[truth, predicted] > 0:
            share = f"{100 * share_KK[truth, predicted]:.0f}"
            table.add_row(names[truth], names[predicted], share)
    return table


def _worst_table(report: Report, count: int) -> Table:
    table = _table("Worst photographs")
    table.add_column("photograph", overflow="fold")
    for heading in ("dice_per_image", "pixel_accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.photos[:count]:
        table.add_row(row.name, _number(row.dice_per_image), _number(row.pixel_accuracy))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _without_nan(values: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(values, dict):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
