"""Building a cache: every photograph decoded, checked and written into the arrays, in parallel."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from segcore.config import Preparation
from segcore.data.arrays import LOCATIONS, Arrays, create_arrays, plan_arrays
from segcore.data.dataset import Dataset, problems_error
from segcore.data.duplicates import difference_hash, notes_on_duplicates
from segcore.data.fingerprint import FileState, read_stamp
from segcore.data.images import ImageError, image_size_px, read_pair
from segcore.data.items import Grid, count_classes, cut_items, locate_classes, plan_grid
from segcore.data.splits import assign_splits
from segcore.errors import Problem
from segcore.files import sync_folder

CACHE_FORMAT = 2

OnDone = Callable[[], None]


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
    """What a person wants to know about the photographs behind a cache, in its order."""

    photos: tuple[PhotoFacts, ...]
    notes: tuple[str, ...]
    """What is odd, but no hindrance."""


@dataclass(frozen=True)
class Job:
    """What is to be prepared; the items of photograph p are ``first_items[p]`` and following."""

    dataset: Dataset
    states: Mapping[Path, FileState]
    preparation: Preparation
    grids: Sequence[Grid]
    first_items: Sequence[int]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.dataset.spec.class_names)


def plan_job(dataset: Dataset, states: Mapping[Path, FileState], preparation: Preparation) -> Job:
    """Read the photographs' headers. One that can't be read gets an empty grid: it fails later."""
    grids = []
    for photo in dataset.photos:
        try:
            grids.append(plan_grid(image_size_px(photo.path), preparation))
        except ImageError:
            grids.append(Grid(0, 0, 0, 0))
    first_items = list(accumulate((grid.items for grid in grids), initial=0))
    return Job(dataset, states, preparation, grids, first_items)


def build_cache(job: Job, target: Path, fingerprint: str, pool: Executor, on_done: OnDone) -> None:
    """Write a cache beside ``target``, force it to disk and rename it."""
    building = target.with_suffix(".partial")
    shutil.rmtree(building, ignore_errors=True)  # Of a process that was killed.
    building.mkdir()
    try:
        items = job.first_items[-1]
        layout = plan_arrays(items, job.num_classes, job.preparation)
        arrays = create_arrays(building, layout)
        fill = partial(_fill_photo, job, arrays, on_done)
        found = list(pool.map(fill, range(len(job.dataset.photos))))
        problems = [result for result in found if isinstance(result, Problem)]
        if problems:
            raise problems_error(job.dataset.folder, problems)
        facts = [result for result in found if isinstance(result, PhotoFacts)]
        index = _describe(job, facts, fingerprint)
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        (building / "index.json").write_text(json.dumps(index), encoding="utf-8")
        sync_folder(building)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _fill_photo(job: Job, arrays: Arrays, on_done: OnDone, position: int) -> PhotoFacts | Problem:
    """Decode one photograph into its items of the arrays."""
    photo, grid = job.dataset.photos[position], job.grids[position]
    at_least_px = (max(1, grid.height_px), max(1, grid.width_px))
    try:
        pair = read_pair(photo.path, photo.mask_path, job.dataset.spec.coding, at_least_px)
    except ImageError as error:
        return error.problem
    for path in (photo.path, photo.mask_path):
        if not path.exists() or read_stamp(path) != job.states[path].stamp:
            what = "changed while it was being prepared"
            return Problem(str(path), what, "prepare again when nothing writes to it")

    cut = cut_items(pair.image_HWC, pair.mask_HW, grid, job.preparation)
    for item, (image, mask) in enumerate(cut, start=job.first_items[position]):
        class_pixels_K = count_classes(mask, job.num_classes)
        rng = np.random.default_rng(item)
        arrays["photo_M"][item] = position
        arrays["images_MHWC"][item] = image
        arrays["masks_MHW"][item] = mask
        arrays["class_pixels_MK"][item] = class_pixels_K
        arrays["class_locations_MKL2"][item] = locate_classes(mask, class_pixels_K, LOCATIONS, rng)

    class_pixels_K = count_classes(pair.mask_HW, job.num_classes)
    note = pair.note or (None if class_pixels_K.any() else "nothing is labelled, so it is not used")
    on_done()
    height_px, width_px = pair.mask_HW.shape
    look = difference_hash(pair.image_HWC)
    return PhotoFacts(height_px, width_px, tuple(class_pixels_K.tolist()), look, note)


def _describe(job: Job, facts: Sequence[PhotoFacts], fingerprint: str) -> dict[str, Any]:
    """Draw the split; the contents of index.json."""
    photos, spec = job.dataset.photos, job.dataset.spec
    names, groups = [photo.name for photo in photos], [photo.group for photo in photos]
    class_pixels_PK = np.array([fact.class_pixels for fact in facts], np.int64)
    fixed = [photo.split for photo in photos]
    splits = assign_splits(class_pixels_PK, groups, spec.split.fractions, spec.split.seed, fixed)
    notes = [
        *job.dataset.notes,
        *(f"{name}: {fact.note}" for name, fact in zip(names, facts, strict=True) if fact.note),
        *notes_on_duplicates(names, [fact.look for fact in facts], splits),
    ]
    return {
        "format": CACHE_FORMAT,
        "fingerprint": fingerprint,
        "preparation": job.preparation._asdict(),
        "items": job.first_items[-1],
        "class_names": spec.class_names,
        "class_colors": spec.class_colors,
        "photos": names,
        "photo_splits": splits,
        "photo_groups": groups,
        "survey": asdict(Survey(tuple(facts), tuple(notes))),
    }
