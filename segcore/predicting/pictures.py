"""Pictures for people: masks in colour, image | truth | prediction, and the confusion matrix.

All pictures are uint8 RGB (HWC). Masks hold 0…K−1, or ``IGNORE_INDEX``, which is shown in grey.
"""

import functools
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segcore.config import IGNORE_INDEX, IGNORED_COLOR

Color = tuple[int, int, int]
Picture = NDArray[np.uint8]
Mask = NDArray[np.integer[Any]]

PAPER: Color = (255, 255, 255)
INK: Color = (32, 36, 42)
FAINT_INK: Color = (110, 116, 124)

PANEL_PX = 640
"""The longer side of each panel of a comparison."""


def colour_mask(mask_HW: Mask, class_colors: Sequence[Color]) -> Picture:
    """Each pixel in the colour of its class."""
    table = np.full((256, 3), IGNORED_COLOR, dtype=np.uint8)
    table[: len(class_colors)] = class_colors
    table[IGNORE_INDEX] = IGNORED_COLOR
    return table[mask_HW]


def overlay(
    image_HWC: Picture, mask_HW: Mask, class_colors: Sequence[Color], opacity: float = 0.5
) -> Picture:
    """The image tinted in its classes' colours, with dark outlines; ignored ones stay bare."""
    colored_HWC = colour_mask(mask_HW, class_colors)
    tinted_HWC = cv2.addWeighted(colored_HWC, opacity, image_HWC, 1 - opacity, 0)
    ignored_HW = mask_HW == IGNORE_INDEX
    tinted_HWC[ignored_HW] = image_HWC[ignored_HW]

    # Outlines look equally thick when a large and a small photograph fill the same screen.
    outline_px = 1 + 2 * (max(mask_HW.shape) // 1200)
    square = np.ones((outline_px + 1, outline_px + 1), np.uint8)
    outline_HW = cv2.morphologyEx(mask_HW.astype(np.uint8), cv2.MORPH_GRADIENT, square) > 0
    tinted_HWC[outline_HW] = colored_HWC[outline_HW] // 2
    return np.asarray(tinted_HWC, dtype=np.uint8)


def comparison(
    image_HWC: Picture,
    truth_HW: Mask,
    predicted_HW: Mask,
    class_names: Sequence[str],
    class_colors: Sequence[Color],
) -> Picture:
    """Image | truth | prediction, with the classes that occur and their shares of labelled pixels.

    Panels are scaled to ``PANEL_PX``, so that photographs of any size give a picture for a screen.
    Where the truth is ignored the prediction is shown, but it doesn't count in the shares.
    """
    panels = [
        ("Image", image_HWC, cv2.INTER_AREA),
        ("Truth", colour_mask(truth_HW, class_colors), cv2.INTER_NEAREST),
        ("Prediction", colour_mask(predicted_HW, class_colors), cv2.INTER_NEAREST),
    ]
    scale = PANEL_PX / max(truth_HW.shape)
    height, width = (max(1, round(side * scale)) for side in truth_HW.shape)
    margin, title_px, text_px = 20, 24, 17
    panels_top = margin + round(1.6 * title_px)
    entries = _legend_entries(truth_HW, predicted_HW, class_names, class_colors)
    entry_width = max(round(_font(text_px).getlength(text)) for text, _ in entries) + 4 * text_px
    canvas_width = max(3 * width + 4 * margin, entry_width + 2 * margin)
    columns = min(len(entries), (canvas_width - 2 * margin) // entry_width)
    rows = -(-len(entries) // columns)
    row_px = round(1.6 * text_px)
    legend_top = panels_top + height + margin + row_px

    canvas = Image.new("RGB", (canvas_width, legend_top + rows * row_px + margin), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, (title, picture_HWC, interpolation) in enumerate(panels):
        left = margin + i * (width + margin)
        draw.text((left, margin), title, INK, _font(title_px, bold=True))
        scaled_HWC = cv2.resize(picture_HWC, (width, height), interpolation=interpolation)
        canvas.paste(Image.fromarray(scaled_HWC), (left, panels_top))
    caption = "Share of the labelled pixels: in the truth → in the prediction"
    draw.text((margin, legend_top - row_px), caption, FAINT_INK, _font(text_px))
    for i, (text, color) in enumerate(entries):
        # Entries run down the columns, so that the most common classes are at the left.
        column, row = divmod(i, rows)
        left, top = margin + column * entry_width, legend_top + row * row_px
        box = (left, top + 2, left + round(1.4 * text_px), top + text_px + 2)
        draw.rounded_rectangle(box, radius=3, fill=color, outline=FAINT_INK)
        draw.text((left + 2 * text_px, top), text, INK, _font(text_px))
    return np.asarray(canvas)


def confusion_matrix_picture(
    confusion_KK: NDArray[np.int64], class_names: Sequence[str]
) -> Picture:
    """How the pixels of each class in the truth were predicted, in percent of its row.

    ``confusion_KK`` counts pixels by [truth, prediction]. Classes that are only predicted share one
    column. Raises ``ValueError`` where nothing was counted.
    """
    true_K = confusion_KK.sum(axis=1) > 0
    if not true_K.any():
        raise ValueError("a confusion matrix without a pixel has no picture")
    pixels = confusion_KK[np.ix_(true_K, true_K)]
    names = [name for name, is_true in zip(class_names, true_K, strict=True) if is_true]
    columns = list(names)
    if confusion_KK[:, ~true_K].any():
        only_predicted = confusion_KK[true_K][:, ~true_K].sum(axis=1, keepdims=True)
        pixels = np.hstack([pixels, only_predicted])
        columns.append("(other classes)")
    true_pixels = pixels.sum(axis=1)
    percent = 100 * pixels / true_pixels[:, None]
    shares = true_pixels / true_pixels.sum()
    rows = [f"{name}  ({_percent(share)})" for name, share in zip(names, shares, strict=True)]

    cell_inches = 0.42
    figure = Figure(figsize=(cell_inches * len(columns), cell_inches * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in np.argwhere(percent >= 0.5):
        value = percent[row, column]
        ink = "white" if value > 55 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=9)
    # A name with two "$" is no formula.
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=9, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=9, parse_math=False)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("Prediction, % of the row", fontweight="bold")
    axes.set_ylabel("Truth (share of all pixels)", fontweight="bold")

    # Cells have a fixed size; "tight" makes the picture larger by what the names need.
    file = io.BytesIO()
    with warnings.catch_warnings():  # One for each sign that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_figure(
            file, format="png", dpi=110, bbox_inches="tight", pad_inches=0.15
        )
    return np.asarray(Image.open(file).convert("RGB"))


def _legend_entries(
    truth_HW: Mask, predicted_HW: Mask, class_names: Sequence[str], class_colors: Sequence[Color]
) -> list[tuple[str, Color]]:
    """Texts "name  truth → prediction" of the classes that occur, the most common first."""
    labelled_HW = truth_HW != IGNORE_INDEX
    labelled = max(int(labelled_HW.sum()), 1)
    k = len(class_names)
    truth_K = np.bincount(truth_HW[labelled_HW], minlength=k)
    predicted_K = np.bincount(predicted_HW[labelled_HW], minlength=k)
    shown_K = np.bincount(predicted_HW[predicted_HW != IGNORE_INDEX], minlength=k) + truth_K
    order: list[int] = sorted(
        np.flatnonzero(shown_K).tolist(), key=lambda c: (-truth_K[c], -predicted_K[c])
    )
    entries = []
    for c in order:
        shares = f"{_percent(truth_K[c] / labelled)} → {_percent(predicted_K[c] / labelled)}"
        entries.append((f"{class_names[c]}   {shares}", class_colors[c]))
    if not labelled_HW.all():
        entries.append((f"not labelled   {_percent(1 - labelled_HW.mean())}", IGNORED_COLOR))
    return entries


def _percent(share: float) -> str:
    """Text such as "12 %"; "1.2 %" below 10; "<0.1 %" for what is rare."""
    percent = 100 * share
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %"


@functools.cache
def _font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with matplotlib and knows most of the world's alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size_px)
