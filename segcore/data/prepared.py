"""PreparedData: a data set's photographs and masks, decoded once, as trainings read them.

On disk they are a folder of memory-mapped npy files and one ``index.json``. Each photograph is
there once, at the finest scale that a view of the search asks for, with coarser levels, from which
windows of any place, scale and angle are cut. ``segcore.data.preparing`` writes the folder;
everything else only reads it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from segcore.config import TrialConfig, View
from segcore.data.plans import (
    PhotoPlan,
    array_layout,
    first_masks,
    first_samples,
    first_score_masks,
)
from segcore.data.splits import SPLITS, Split, assign_folds
from segcore.data.windows import Grid, Window, cut_window, plan_grid
from segcore.errors import Note, UserError
from segcore.files import digest, user_cache
from segcore.reading.bands import Bands, Samples

CACHE_FORMAT = 5
INDEX = "index.json"

CONTENT_DIGITS = 64
"""Of a fingerprint, those that tell the content of a data set."""

_BANDS = TypeAdapter(Bands)

PER_VALIDATION = 4
"""An epoch of windows has so many times the pixels of a validation, each of which costs about a
third of one to train on (benchmarks/README.md)."""


@dataclass(frozen=True)
class PreparedData:
    """A data set ready for training: P photographs."""

    folder: Path
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    photos: tuple[str, ...]
    """Names relative to dataset.yaml."""
    photo_splits: tuple[Split, ...]
    photo_groups: tuple[str, ...]
    """All photographs of one group are in the same split."""
    plans: tuple[PhotoPlan, ...]
    finest: View
    """The view of the search in which the photographs have the most pixels."""
    score_view: View
    """The view on whose grid all trials are scored."""
    bands: Bands
    """What the samples mean, with the ranges that were measured on the training photographs."""
    fingerprint: str
    """Hex hash of ``content``, followed by one of what is kept of the photographs."""
    samples: Samples
    """All levels of all photographs, one after the other; ``image`` gives them their shape."""
    masks: NDArray[np.uint8]
    """The finest levels of all masks, one after the other."""
    score_masks: NDArray[np.uint8]
    """The truth on the score grids of the photographs that aren't scored as they are cached."""
    class_pixels_PK: NDArray[np.int64]
    """Labelled pixels of each class in the finest level."""
    class_locations_PKL2: NDArray[np.int32]
    """(row, column) in the finest level of up to L pixels of each class, drawn at random; -1: none.
    """

    @property
    def content(self) -> str:
        """Hex hash of the spec and the content of images and masks, whatever is kept of them."""
        return self.fingerprint[:CONTENT_DIGITS]

    @property
    def channels(self) -> int:
        """C."""
        return self.bands.channels

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def __reduce__(self) -> tuple[Any, ...]:
        # A loading process maps the same files; pickled arrays would be copies of the whole cache.
        return _reopen, (self.folder, self.photo_splits)

    def of_split(self, split: Split) -> NDArray[np.int64]:
        """The numbers of a split's photographs that have labelled pixels: others teach nothing."""
        of_split_P = np.array([own == split for own in self.photo_splits])
        return np.flatnonzero(of_split_P & self.class_pixels_PK.any(axis=1))

    def units(self, split: Split) -> int:
        """How many photographs of a split, or groups of them, are independent of each other."""
        return len({self.photo_groups[photo] for photo in self.of_split(split)})

    @property
    def scored_sizes(self) -> dict[str, tuple[int, int]]:
        """Of the splits on which networks are scored, the photographs and the units."""
        return {s: (len(self.of_split(s)), self.units(s)) for s in SPLITS if s != "train"}

    @property
    def units_text(self) -> str:
        """Such as ``Independent groups of photographs: 7 in train, 2 in val, 2 in test``."""
        grouped = len(set(self.photo_groups)) < len(self.photo_groups)
        counts = ", ".join(f"{self.units(split)} in {split}" for split in SPLITS)
        return f"Independent {'groups of photographs' if grouped else 'photographs'}: {counts}"

    def class_pixels(self, split: Split) -> NDArray[np.int64]:
        """Labelled pixels of each class (K) in a split."""
        return np.asarray(self.class_pixels_PK[self.of_split(split)].sum(axis=0), np.int64)

    def grid(self, photo: int, view: View) -> Grid:
        """The working grid of a photograph in a view."""
        plan = self.plans[photo]
        return plan_grid(plan.size_px, view, plan.metres_per_px)

    def levels(self, photo: int) -> list[Samples]:
        """A photograph's pyramid (HWC each), the finest level first."""
        first, found = self._first_samples[photo], []
        for level in self.plans[photo].levels:
            length = level.area_px * self.channels
            found.append(self.samples[first : first + length].reshape(*level, self.channels))
            first += length
        return found

    def image(self, photo: int) -> Samples:
        """A photograph as fine as it is kept (HWC)."""
        return self.levels(photo)[0]

    def mask(self, photo: int) -> NDArray[np.uint8]:
        """The mask of ``image`` (HW): classes, and IGNORE_INDEX where a pixel doesn't count."""
        first, level = self._first_mask[photo], self.plans[photo].levels[0]
        return self.masks[first : first + level.area_px].reshape(level)

    def score_mask(self, photo: int) -> NDArray[np.uint8]:
        """The truth by which a photograph is scored (HW), on its ``score_grid``."""
        plan = self.plans[photo]
        if plan.is_scored_as_cached:
            return self.mask(photo)
        first = self._first_score_mask[photo]
        return self.score_masks[first : first + plan.score_grid.area_px].reshape(plan.score_grid)

    def cut(self, photo: int, window: Window) -> tuple[Samples, NDArray[np.uint8]]:
        """A window of a photograph (HWC) and of its mask (HW)."""
        return cut_window(self.levels(photo), self.mask(photo), window)

    def epoch_px(self) -> int:
        """Pixels of an epoch by default: those of the photographs of "train" in the finest view.

        With windows they are at least ``PER_VALIDATION`` times those of "val", so that validation
        takes a small part of an epoch.
        """
        train_px, val_px = (
            sum(self.grid(photo, self.finest).area_px for photo in self.of_split(split))
            for split in SPLITS[:2]
        )
        return train_px if self.finest.is_whole else max(train_px, PER_VALIDATION * val_px)

    def divided_for(self, config: TrialConfig) -> "PreparedData":
        """The same data with the splits that a configuration trains and validates on.

        If the configuration names a fold, that fold is "val" and the other folds are "train". The
        folds divide what was "train" and "val", the same way each time; "test" stays as it is.
        Raises ``UserError`` where there are too few groups of photographs.
        """
        if config.fold is None or config.folds is None:
            return self
        searched_P = np.array([split != "test" for split in self.photo_splits])
        groups = [g for g, searched in zip(self.photo_groups, searched_P, strict=True) if searched]
        pixels_PK = self.class_pixels_PK[searched_P]
        drawn = iter(assign_folds(pixels_PK, groups, config.folds, seed=0))
        splits: list[Split] = [
            "test" if split == "test" else "val" if next(drawn) == config.fold else "train"
            for split in self.photo_splits
        ]
        return replace(self, photo_splits=tuple(splits))

    @cached_property
    def _first_samples(self) -> list[int]:
        return first_samples(self.plans, self.channels)

    @cached_property
    def _first_mask(self) -> list[int]:
        return first_masks(self.plans)

    @cached_property
    def _first_score_mask(self) -> list[int]:
        return first_score_masks(self.plans)


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
    moved_px: int = 0
    """Pixels of its mask that have no class's value, and were snapped or ignored."""
    doubtful_px: int = 0
    """Those of them that aren't clearly nearest to one class."""


@dataclass(frozen=True)
class Survey:
    """What a person wants to know about the photographs of prepared data, in their order."""

    photos: tuple[PhotoFacts, ...]
    notes: tuple[Note, ...]
    """What is odd but doesn't stop a training."""


def open_prepared(folder: Path) -> PreparedData:
    """Open prepared data. Raises ``UserError`` where they are missing, incomplete or damaged."""
    index = _read_index(folder)
    try:
        plans = tuple(_read_plan(values) for values in index["plans"])
        bands = _BANDS.validate_python(index["bands"])
        arrays = {}
        layout = array_layout(plans, len(index["class_names"]), bands)
        for name, (shape, dtype) in layout.items():
            array = np.load(
                folder / f"{name}.npy",
                mmap_mode="r" if shape[0] else None,  # an empty file can't be mapped
                allow_pickle=False,
            )
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype} {shape}")
            arrays[name] = array
        return PreparedData(
            folder=folder,
            class_names=tuple(index["class_names"]),
            class_colors=tuple((red, green, blue) for red, green, blue in index["class_colors"]),
            photos=tuple(index["photos"]),
            photo_splits=tuple(SPLITS[SPLITS.index(split)] for split in index["photo_splits"]),
            photo_groups=tuple(index["photo_groups"]),
            plans=plans,
            finest=View(*index["finest"]),
            score_view=View(*index["score_view"]),
            bands=bands,
            fingerprint=str(index["fingerprint"]),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the prepared data in {folder} are damaged ({error}); delete it and prepare again"
        ) from error


def _read_plan(values: Sequence[Any]) -> PhotoPlan:
    size_px, metres_per_px, levels, score_grid = values
    return PhotoPlan(
        Grid(*size_px), metres_per_px, tuple(Grid(*level) for level in levels), Grid(*score_grid)
    )


def _reopen(folder: Path, photo_splits: tuple[Split, ...]) -> PreparedData:
    return replace(open_prepared(folder), photo_splits=photo_splits)


def find_prepared(fingerprint: str, cache_dir: Path | None = None) -> PreparedData:
    """Open the prepared data with this fingerprint, without the data set that they came from.

    Raises ``UserError`` where they aren't, or are no longer, on this machine.
    """
    return open_prepared(prepared_folder(cache_dir or user_cache(), fingerprint))


def prepared_folder(cache_dir: Path, fingerprint: str) -> Path:
    """Where the prepared data with a fingerprint are kept."""
    return cache_dir / "prepared" / f"{digest(fingerprint)[:24]}-v{CACHE_FORMAT}"


def read_survey(folder: Path) -> Survey:
    """The survey of prepared data. Raises ``UserError`` where they are missing or damaged."""
    survey = _read_index(folder)["survey"]
    facts = [{**facts, "class_pixels": tuple(facts["class_pixels"])} for facts in survey["photos"]]
    notes = (Note(what=note["what"], files=tuple(note["files"])) for note in survey["notes"])
    return Survey(tuple(PhotoFacts(**values) for values in facts), tuple(notes))


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
