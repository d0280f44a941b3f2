"""PreparedData: a data set's photographs and masks, decoded once, as trainings read them.

On disk they are a folder of memory-mapped npy files and one ``index.json``.
``segcore.data.preparing`` writes it; everything else only reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segcore.config import TrialConfig, View
from segcore.data.splits import SPLITS, Split, assign_folds
from segcore.errors import UserError
from segcore.files import user_cache

CACHE_FORMAT = 2
INDEX = "index.json"

LOCATIONS = 16
"""Pixels of each class that are remembered for each item."""

ArrayLayout: TypeAlias = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Shape and type of each array, by the name of its field in PreparedData and of its file."""


@dataclass(frozen=True)
class PreparedData:
    """A data set ready for training: P photographs, M items (whole photographs or tiles)."""

    folder: Path
    view: View
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    photos: tuple[str, ...]
    """Names relative to dataset.yaml."""
    photo_splits: tuple[Split, ...]
    photo_groups: tuple[str, ...]
    """All photographs of one group are in the same split."""
    fingerprint: str
    """Hex hash of the content of images and masks, the spec and the view."""
    photo_M: NDArray[np.int32]
    """The index of the photograph that each item was cut from."""
    images_MHWC: NDArray[np.uint8]
    masks_MHW: NDArray[np.uint8]
    """Classes, and IGNORE_INDEX where a pixel doesn't count."""
    class_pixels_MK: NDArray[np.int64]
    class_locations_MKL2: NDArray[np.int16]
    """(row, column) of up to L pixels of each class, drawn at random; -1: none."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def __reduce__(self) -> tuple[Any, ...]:
        # A loading process maps the same files; pickled arrays would be copies of the whole cache.
        return _reopen, (self.folder, self.photo_splits)

    def items(self, split: Split) -> NDArray[np.int64]:
        """The items of a split with labelled pixels; nothing can be learnt from any others."""
        of_split_P = np.array([own == split for own in self.photo_splits])
        return np.flatnonzero(of_split_P[self.photo_M] & self.class_pixels_MK.any(axis=1))

    def class_pixels(self, split: Split) -> NDArray[np.int64]:
        """Labelled pixels of each class (K) in a split."""
        return np.asarray(self.class_pixels_MK[self.items(split)].sum(axis=0), np.int64)

    def divided_for(self, config: TrialConfig) -> "PreparedData":
        """The same data with the splits that a configuration trains and validates on.

        If the configuration names a fold, that fold is "val" and the other folds are "train". The
        folds divide what was "train" and "val", the same way each time; "test" stays as it is.
        Raises ``UserError`` where there are too few groups of photographs.
        """
        if config.fold is None or config.folds is None:
            return self
        pixels_PK = np.zeros((len(self.photos), self.num_classes), np.int64)
        np.add.at(pixels_PK, self.photo_M, self.class_pixels_MK)
        searched_P = np.array([split != "test" for split in self.photo_splits])
        groups = [g for g, searched in zip(self.photo_groups, searched_P, strict=True) if searched]
        drawn = iter(assign_folds(pixels_PK[searched_P], groups, config.folds, seed=0))
        splits: list[Split] = [
            "test" if split == "test" else "val" if next(drawn) == config.fold else "train"
            for split in self.photo_splits
        ]
        return replace(self, photo_splits=tuple(splits))


@dataclass(frozen=True)
class PhotoFacts:
    """What was found out about one photograph while it was prepared."""

    height_px: int
    width_px: int
    class_pixels: tuple[int, ...]
    """Labelled pixels of each class at full resolution."""
    look: int
    """``segcore.data.duplicates.difference_hash`` of the photograph."""
    note: str | None


@dataclass(frozen=True)
class Survey:
    """What a person wants to know about the photographs of prepared data, in their order."""

    photos: tuple[PhotoFacts, ...]
    notes: tuple[str, ...]
    """What is odd but doesn't stop a training."""


def array_layout(items: int, num_classes: int, view: View) -> ArrayLayout:
    """The arrays of M ``items`` and K classes."""
    height_px, width_px = view.height_px, view.width_px
    return {
        "photo_M": ((items,), np.int32),
        "images_MHWC": ((items, height_px, width_px, 3), np.uint8),
        "masks_MHW": ((items, height_px, width_px), np.uint8),
        "class_pixels_MK": ((items, num_classes), np.int64),
        "class_locations_MKL2": ((items, num_classes, LOCATIONS, 2), np.int16),
    }


def open_prepared(folder: Path) -> PreparedData:
    """Open prepared data. Raises ``UserError`` where they are missing, incomplete or damaged."""
    index = _read_index(folder)
    try:
        view = View(**index["view"])
        arrays = {}
        layout = array_layout(index["items"], len(index["class_names"]), view)
        for name, (shape, dtype) in layout.items():
            array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype} {shape}")
            arrays[name] = array
        return PreparedData(
            folder=folder,
            view=view,
            class_names=tuple(index["class_names"]),
            class_colors=tuple((red, green, blue) for red, green, blue in index["class_colors"]),
            photos=tuple(index["photos"]),
            photo_splits=tuple(SPLITS[SPLITS.index(split)] for split in index["photo_splits"]),
            photo_groups=tuple(index["photo_groups"]),
            fingerprint=str(index["fingerprint"]),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the prepared data in {folder} are damaged ({error}); delete it and prepare again"
        ) from error


def _reopen(folder: Path, photo_splits: tuple[Split, ...]) -> PreparedData:
    return replace(open_prepared(folder), photo_splits=photo_splits)


def find_prepared(fingerprint: str, cache_dir: Path | None = None) -> PreparedData:
    """Open the prepared data with this fingerprint, without the data set that they came from.

    Raises ``UserError`` where they aren't, or are no longer, on this machine.
    """
    return open_prepared(prepared_folder(cache_dir or user_cache(), fingerprint))


def prepared_folder(cache_dir: Path, fingerprint: str) -> Path:
    """Where the prepared data with a fingerprint are kept."""
    return cache_dir / "prepared" / f"{fingerprint[:24]}-v{CACHE_FORMAT}"


def read_survey(folder: Path) -> Survey:
    """The survey of prepared data. Raises ``UserError`` where they are missing or damaged."""
    survey = _read_index(folder)["survey"]
    facts = [{**facts, "class_pixels": tuple(facts["class_pixels"])} for facts in survey["photos"]]
    return Survey(tuple(PhotoFacts(**values) for values in facts), tuple(survey["notes"]))


def _read_index(folder: Path) -> Mapping[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no complete prepared data ({error}); prepare the data set again"
        ) from error
    if not isinstance(index, dict) or index.get("format") != CACHE_FORMAT:
        raise UserError(
            f"{folder} was not prepared by this version (format {CACHE_FORMAT}); "
            "delete it and prepare the data set again"
        )
    return index
