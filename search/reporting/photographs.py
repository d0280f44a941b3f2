"""Photographs with their truth and what networks say of them, as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.predicting.suspects import Crop
from search.runs.result import PhotoScore
from segcore.config import IGNORE_INDEX
from segcore.data.prepared import PreparedData
from segcore.data.windows import scale_image, scale_mask
from segcore.inference.scoring import prepared_photograph, prepared_picture
from segcore.predicting.ensemble import Ensemble
from segcore.predicting.pictures import Color, colour_mask
from segcore.predicting.polygons import outline_of
from segcore.predicting.suspects import Suspect
from segcore.reading.bands import to_rgb8

PER_KIND = 4
LONGER_SIDE_PX = 420


@dataclass(frozen=True)
class Example:
    """A photograph, at the size of a picture."""

    photo: PhotoScore
    image: str
    truth: str
    prediction: str
    classes: tuple[int, ...]
    """The classes in the truth or the prediction, the most common first."""


@dataclass(frozen=True)
class Gallery:
    """Photographs of one kind, the most remarkable first."""

    title: str
    examples: tuple[Example, ...]


def choose(photos: Sequence[PhotoScore]) -> dict[str, list[PhotoScore]]:
    """The best, the worst and the most uncertain photographs; none is shown twice."""
    known = [(photo.score, photo.photo, photo) for photo in photos if photo.score is not None]
    scored = [photo for *_, photo in sorted(known)]
    count = min(PER_KIND, len(scored) // 2)
    best, worst = scored[len(scored) - count :][::-1], scored[:count]
    rest = [photo for photo in scored if photo not in best and photo not in worst]
    uncertain = sorted(rest, key=lambda photo: -photo.uncertainty)[:PER_KIND]
    return {"Best": best, "Worst": worst, "Most uncertain of the others": uncertain}


def galleries(
    photos: Sequence[PhotoScore], data: PreparedData, ensemble: Ensemble
) -> list[Gallery]:
    """Predict the chosen photographs anew, from the prepared data."""
    found = [
        Gallery(title, tuple(_example(photo, data, ensemble) for photo in chosen))
        for title, chosen in choose(photos).items()
    ]
    return [gallery for gallery in found if gallery.examples]


def _example(photo: PhotoScore, data: PreparedData, ensemble: Ensemble) -> Example:
    grid = data.plans[photo.photo].score_grid.within(LONGER_SIDE_PX)
    image_HWC, truth_HW = prepared_picture(data, photo.photo, grid)
    predicted_HW = ensemble.classes(prepared_photograph(data, photo.photo), grid)
    pixels_K = np.bincount(truth_HW[truth_HW != IGNORE_INDEX], minlength=data.num_classes)
    pixels_K += np.bincount(predicted_HW.ravel(), minlength=data.num_classes)
    order = np.argsort(-pixels_K, kind="stable")
    return Example(
        photo=photo,
        image=_data_uri(Image.fromarray(image_HWC), "JPEG", quality=82),
        truth=_mask(truth_HW, data.class_colors),
        prediction=_mask(predicted_HW, data.class_colors),
        classes=tuple(int(k) for k in order if pixels_K[k]),
    )


def crop_of(suspect: Suspect, data: PreparedData) -> Crop:
    """The surroundings of a suspect, with its outline."""
    assert suspect.named_HW is not None
    grid, rows, columns = suspect.crop_grid, suspect.rows, suspect.columns
    label_HW = np.array(data.score_mask(suspect.photo)[rows, columns])
    image_HWC = data.image(suspect.photo)
    finer = np.divide(image_HWC.shape[:2], data.plans[suspect.photo].score_grid)
    part_HWC = image_HWC[_scaled(rows, finer[0]), _scaled(columns, finer[1])]
    picture_HWC = to_rgb8(scale_image(np.array(part_HWC), grid), data.bands)
    share = grid.height_px / (rows.stop - rows.start)
    region = suspect.region
    corner = region.columns.start - columns.start, region.rows.start - rows.start
    return Crop(
        image=_data_uri(Image.fromarray(picture_HWC), "JPEG", quality=85),
        label=_mask(scale_mask(label_HW, grid), data.class_colors),
        prediction=_mask(suspect.named_HW, data.class_colors),
        width_px=grid.width_px,
        height_px=grid.height_px,
        outline=_svg_path(outline_of(region.inside_HW, corner, share)),
    )


def _scaled(span: slice, factor: float) -> slice:
    return slice(round(span.start * factor), max(round(span.stop * factor), 1))


def _svg_path(polygon: Any) -> str:
    """A polygon with its holes, in pixels."""
    return "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring.coords[:-1]) + "Z"
        for ring in (polygon.exterior, *polygon.interiors)
    )


def _mask(mask_HW: NDArray[np.uint8], class_colors: Sequence[Color]) -> str:
    # With a palette as PNG, because JPEG would blur the borders and be larger.
    picture = Image.fromarray(mask_HW)
    picture.putpalette(colour_mask(np.arange(256), class_colors).tobytes())
    return _data_uri(picture, "PNG", optimize=True)


def _data_uri(picture: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
