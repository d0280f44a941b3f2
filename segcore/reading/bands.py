"""Stand-in until the reader's own module is merged."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def to_tensor(samples_HWC: NDArray[Any]) -> torch.Tensor:
    """``image_CHW``: uint8 as it is; uint16, and float32 of 0…1, as float32 of 0…255."""
    if samples_HWC.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(samples_HWC.transpose(2, 0, 1)))
    factor = 255 if samples_HWC.dtype == np.float32 else 255 / 65535
    return torch.from_numpy(
        np.ascontiguousarray(samples_HWC.transpose(2, 0, 1), np.float32) * np.float32(factor)
    )


def to_rgb8(samples_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """The picture that people see of samples: HWC, uint8, RGB."""
    return np.ascontiguousarray(samples_HWC[..., :3], np.uint8)
