"""Test photographs with their truth and the ensemble's prediction, as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.runs.result import PhotoScore
from segcore.config import IGNORE_INDEX
from segcore.data.prepared import PreparedData
from segcore.predicting.ensemble import Ensemble
from segcore.predicting.pictures import Color, colour_mask

PER_KIND = 4
LONGER_SIDE_PX = 420


@dataclass(frozen=True)
class Example:
    """A photograph; of one that was cut into tiles, the tile with the most classes."""

    photo: PhotoScore
    tile: str | None
    """Such as "tile 3 of 12"; None for a whole photograph."""
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
    scored = sorted((p for p in photos if p.score == p.score), key=lambda photo: photo.score)
    count = min(PER_KIND, len(scored) // 2)
    best, worst = scored[len(scored) - count :][::-1], scored[:count]
    rest = [photo for photo in scored if photo not in best and photo not in worst]
    uncertain = sorted(rest, key=lambda photo: -photo.uncertainty)[:PER_KIND]
    return {"Best": best, "Worst": worst, "Most uncertain of the others": uncertain}


def galleries(
    photos: Sequence[PhotoScore], data: PreparedData, ensemble: Ensemble
) -> list[Gallery]:
    """Predict the chosen photographs anew, from the prepared data."""
    # The prepared items are scaled and cut already.
    members = (replace(m, view=m.view._replace(scale=None)) for m in ensemble.members)
    ensemble = replace(ensemble, members=tuple(members))
    found = [
        Gallery(title, tuple(_example(photo, data, ensemble) for photo in chosen))
        for title, chosen in choose(photos).items()
    ]
    return [gallery for gallery in found if gallery.examples]


def _example(photo: PhotoScore, data: PreparedData, ensemble: Ensemble) -> Example:
    items = np.flatnonzero(data.photo_M == photo.photo)
    classes_M = (data.class_pixels_MK[items] > 0).sum(axis=1)
    position = int(classes_M.argmax())
    image_HWC = np.array(data.images_MHWC[items[position]])
    truth_HW = np.array(data.masks_MHW[items[position]])
    predicted_HW = ensemble.probs(image_HWC).argmax(axis=0).astype(np.uint8)
    labelled_HW = truth_HW != IGNORE_INDEX
    pixels_K = np.bincount(truth_HW[labelled_HW], minlength=data.num_classes)
    pixels_K += np.bincount(predicted_HW.ravel(), minlength=data.num_classes)
    order = np.argsort(-pixels_K, kind="stable")
    return Example(
        photo=photo,
        tile=f"tile {position + 1} of {len(items)}" if len(items) > 1 else None,
        image=_photograph(image_HWC),
        truth=_mask(truth_HW, data.class_colors),
        prediction=_mask(predicted_HW, data.class_colors),
        classes=tuple(int(k) for k in order if pixels_K[k]),
    )


def _photograph(image_HWC: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(_scaled(image_HWC, cv2.INTER_AREA))
    return _data_uri(picture, "JPEG", quality=82)


def _mask(mask_HW: NDArray[np.uint8], class_colors: Sequence[Color]) -> str:
    # With a palette as PNG, because JPEG would blur the borders and be larger.
    picture = Image.fromarray(_scaled(mask_HW, cv2.INTER_NEAREST))
    picture.putpalette(colour_mask(np.arange(256), class_colors).tobytes())
    return _data_uri(picture, "PNG", optimize=True)


def _scaled(picture: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = min(1.0, LONGER_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


def _data_uri(picture: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
