"""The array files of a cache: their shapes, creating and filling them, opening them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segcore.config import Preparation

LOCATIONS = 16
"""Pixels of each class that are remembered for each item."""

Arrays: TypeAlias = dict[str, NDArray[Any]]
Layout: TypeAlias = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Shape and type of each array, by the name of its field in PreparedData."""


def plan_arrays(items: int, num_classes: int, preparation: Preparation) -> Layout:
    """The arrays of a cache of M ``items`` and K classes."""
    height_px, width_px, _ = preparation
    return {
        "photo_M": ((items,), np.int32),
        "images_MHWC": ((items, height_px, width_px, 3), np.uint8),
        "masks_MHW": ((items, height_px, width_px), np.uint8),
        "class_pixels_MK": ((items, num_classes), np.int64),
        "class_locations_MKL2": ((items, num_classes, LOCATIONS, 2), np.int16),
    }


def create_arrays(folder: Path, layout: Layout) -> Arrays:
    """Create writable memory-mapped arrays that own their disk space. Raises ``OSError``."""
    arrays: Arrays = {}
    for name, (shape, dtype) in layout.items():
        path = _file(folder, name)
        arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # Writing into a sparse map on a full disk would end the process with SIGBUS.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return arrays


def open_arrays(folder: Path, layout: Layout) -> Arrays:
    """Open arrays for reading. Raises ``OSError``, or ``ValueError`` where one isn't as planned."""
    arrays: Arrays = {}
    for name, (shape, dtype) in layout.items():
        array = np.load(_file(folder, name), mmap_mode="r", allow_pickle=False)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype.__name__} {shape}")
        arrays[name] = array
    return arrays


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"
