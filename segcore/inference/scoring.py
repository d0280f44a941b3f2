"""Scores of prepared photographs, whatever predicts them."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore.data.prepared import PreparedData
from segcore.data.windows import Grid, scale_image, scale_mask
from segcore.devices import send
from segcore.inference.blending import Strip
from segcore.inference.photographs import Photograph
from segcore.reading.bands import to_rgb8
from segcore.scores.counting import Prediction, score
from segcore.scores.metrics import Scores


def prepared_photograph(data: PreparedData, number: int) -> Photograph:
    """A photograph as fine as it was prepared, for ``predict_strips`` on its score grid."""
    plan = data.plans[number]
    return Photograph.in_memory(
        data.image(number), plan.size_px, plan.metres_per_px, bands=data.bands
    )


def prepared_picture(
    data: PreparedData, number: int, grid: Grid
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A photograph for people (HWC, RGB) and its truth (HW), at the size of ``grid``."""
    image_HWC = to_rgb8(scale_image(data.image(number), grid), data.bands)
    return image_HWC, scale_mask(np.array(data.score_mask(number)), grid)


def strip_truth(data: PreparedData, number: int, strip: Strip, device: torch.device) -> Tensor:
    """The classes that a strip of a photograph should have (HW, uint8), on ``device``."""
    # torch wants memory that it may write, but the cache is mapped read-only: so a copy.
    truth = np.array(data.score_mask(number)[strip.rows, strip.columns])
    return send(torch.from_numpy(truth), device)


def score_strips(
    strips: Iterable[tuple[int, Strip]],
    data: PreparedData,
    device: torch.device,
    observe: Callable[[Strip, Tensor], None] | None = None,
) -> Scores:
    """Scores of photographs, given as the strips that cover their score grids.

    Each strip comes with the number of its photograph. ``observe`` gets each one with the classes
    that it should have (HW, uint8).
    """

    def predictions() -> Iterator[Prediction]:
        for number, strip in strips:
            truth_HW = strip_truth(data, number, strip, device)
            if observe is not None:
                observe(strip, truth_HW)
            yield strip.classes()[None], truth_HW[None], torch.tensor([number])

    return score(predictions(), data.num_classes, data.photo_groups, device)
