"""Which photographs belong together, and how they are to be split, by their names and places."""

import glob
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segcore.data.splits import assign_splits
from segcore.facts import FEWEST_UNITS
from segcore.guessing.pairs import SPLIT_FOLDERS, words
from segcore.reading.ground import cell_of

LEAST_GROUPS = 3
USUAL_SHARE = 0.25
"""Of a few photographs, for validation and for the test each."""
SHARES = (0.15, *(percent / 100 for percent in range(25, 35)))
"""Which are tried. With more than a third, less than a third would be left for training."""
_BY_NAME = (
    (r"^(.*?)\d+\D+\d+\D*$", "photographs whose names differ only in their last two numbers"),
    (r"^(.*?)\d+\D*$", "photographs whose names differ only in their last number"),
)


@dataclass(frozen=True)
class Grouping:
    """The value of ``group``, and which photographs that keeps together."""

    value: str | None
    """As YAML."""
    reason: str
    keys: tuple[str, ...] = ()
    """The group of each photograph, as ``segcore.data.dataset`` names it."""


def split_globs(images: Sequence[str]) -> dict[str, str]:
    """For "train", "val" and "test" the glob of their folders, where folders are called so."""
    found: dict[str, set[str]] = {}
    for name in images:
        told = _split_of(name)
        if told is None:
            return {}
        split, glob = told
        found.setdefault(split, set()).add(glob)
    if len(found) < 2 or any(len(globs) > 1 for globs in found.values()):
        return {}
    return {split: glob for split, (glob,) in found.items()}


def _split_of(name: str) -> tuple[str, str] | None:
    parts = PurePosixPath(name).parts[:-1]
    for place, part in enumerate(parts):
        said = {SPLIT_FOLDERS[word] for word in words(part) if word in SPLIT_FOLDERS}
        if len(said) == 1:
            return said.pop(), "/".join([*("*" * place), glob.escape(part), "*"])
    return None


def guess_group(images: Sequence[str], places: Sequence[tuple[float, float] | None]) -> Grouping:
    """By where photographs lie, else by their folders, else by flights in their names."""
    if all(place is not None for place in places):
        grouping = _by_area([place for place in places if place is not None])
        if grouping is not None:
            return grouping
    for pattern, what in (*_by_folder(images), *_BY_NAME):
        keys = [str(match.group(1)) for name in images if (match := re.search(pattern, name))]
        groups = len({*keys})
        if len(keys) == len(images) and LEAST_GROUPS <= groups <= len(images) / 1.5:
            return Grouping(f"'{pattern}'", what, (*keys,))
    return Grouping(None, "")


def _by_folder(images: Sequence[str]) -> list[tuple[str, str]]:
    """The outermost folder whose name differs; the inner ones."""
    depth = min(name.count("/") for name in images)
    patterns = []
    for level in range(depth):
        folders = {PurePosixPath(name).parts[level] for name in images}
        if len(folders) >= LEAST_GROUPS:
            folder = "/".join(["[^/]*"] * (level + 1))
            patterns.append((f"^({folder})/", "photographs in the same folder"))
    return patterns


def _by_area(places: Sequence[tuple[float, float]]) -> Grouping | None:
    """The largest round cells of which there are enough, and that hold photographs together."""
    for exponent in range(6, -1, -1):
        for digit in (5, 3, 2, 1):
            cell_m = digit * 10**exponent
            keys = tuple(",".join(map(str, cell_of(place, cell_m))) for place in places)
            cells = len({*keys})
            if cells >= min(10, max(LEAST_GROUPS, math.ceil(len(places) / 3))):
                if cells == len(places):
                    return None
                what = f"photographs in the same square of {cell_m} m"
                return Grouping(f"{{cell_m: {cell_m}}}", what, keys)
    return None


def guess_share(has_PK: NDArray[np.bool_], groups: Sequence[str]) -> float:
    """The share of the photographs for validation, and as much for the test.

    It is the smallest of ``SHARES`` that gives both ``FEWEST_UNITS`` groups, if one does. What
    ``has_PK`` says is which classes each photograph has.
    """
    labelled = {group for group, has_K in zip(groups, has_PK, strict=True) if has_K.any()}
    if len(labelled) < 3 * FEWEST_UNITS:
        return USUAL_SHARE
    for share in SHARES:
        splits = assign_splits(has_PK.astype(int), groups, {"val": share, "test": share}, seed=0)
        units = Counter(split for split, _ in {*zip(splits, groups, strict=True)})
        if min(units["val"], units["test"]) >= FEWEST_UNITS:
            return share
    return USUAL_SHARE
