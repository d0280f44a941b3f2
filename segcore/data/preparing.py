"""prepare_data: every photograph of a data set checked, decoded and written into PreparedData.

Prepared data are named by the content of the data set and the settings, so the work is done once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from segcore.config import Preparation
from segcore.data.dataset import Dataset, Photo, problems_error, scan_dataset
from segcore.data.duplicates import difference_hash, notes_on_duplicates
from segcore.data.fingerprint import FileState, find_state, recall_states, remember_states
from segcore.data.images import ImageError, image_size_px
from segcore.data.items import Grid, count_classes, cut_items, locate_classes, plan_grid
from segcore.data.masks import read_pair
from segcore.data.prepared import (
    CACHE_FORMAT,
    INDEX,
    LOCATIONS,
    PhotoFacts,
    PreparedData,
    Survey,
    array_layout,
    open_prepared,
    prepared_folder,
)
from segcore.data.splits import assign_splits, notes_on_classes
from segcore.devices import usable_cores
from segcore.errors import DISK_FULL, Problem, StorageError, UserError
from segcore.files import digest, locked, reserve, sync_folder, user_cache, whole_folder

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Job:
    """What is to be prepared; the items of photograph p are ``first_items[p]`` and following."""

    dataset: Dataset
    states: Mapping[Path, FileState]
    preparation: Preparation
    grids: Sequence[Grid]
    first_items: Sequence[int]

    @property
    def num_classes(self) -> int:
        return len(self.dataset.spec.class_names)


@dataclass(frozen=True)
class _Crew:
    """Threads, and the progress bar of what they do.

    Threads are enough: hashing, decoding and resizing all run outside Python's lock.
    """

    pool: ThreadPoolExecutor
    bar: Progress

    def do(self, title: str, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results of ``work``, in the order of the items."""
        results = self.pool.map(work, items)
        return list(self.bar.track(results, total=len(items), description=title))


def prepare_data(
    dataset_folder: Path,
    preparation: Preparation,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PreparedData:
    """Check a data set and decode it once; where that has been done, just open the result.

    By default ``cache_dir`` is ``$SEGSEARCH_CACHE`` or ``~/.cache/segsearch``, and ``workers`` is
    the number of usable cores. Progress goes to standard error. Of several processes that prepare
    the same data at once, one does the work.

    Raises ``ProblemsError`` with everything that is wrong with the files, ``UserError`` where
    dataset.yaml is wrong or the split can't be drawn, ``StorageError`` where the cache can't be
    written.
    """
    cache_dir = cache_dir or user_cache()
    dataset, problems = scan_dataset(dataset_folder)
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not (progress and console.is_terminal))
    pool = ThreadPoolExecutor(workers or usable_cores())
    with pool, bar, _explaining_disk_errors(cache_dir):
        crew = _Crew(pool, bar)
        states, unreadable = _find_states(dataset, cache_dir, crew)
        if problems or unreadable:
            checked = crew.do("Checking", partial(_check_photo, dataset), dataset.photos)
            problems += [problem for problem in checked if problem is not None]
            told = {problem.where for problem in problems}
            problems += [problem for problem in unreadable if problem.where not in told]
            raise problems_error(dataset.folder, problems)

        fingerprint = _fingerprint(dataset, states, preparation)
        target = prepared_folder(cache_dir, fingerprint)
        with locked(target.with_suffix(".lock")):
            try:
                return open_prepared(target)
            except UserError:  # Not there yet, or damaged.
                _build(_plan_job(dataset, states, preparation), target, fingerprint, crew)
            return open_prepared(target)


def _find_states(
    dataset: Dataset, cache_dir: Path, crew: _Crew
) -> tuple[dict[Path, FileState], list[Problem]]:
    """The states of all files, and the problems of those that can't be read."""
    memory = cache_dir / "hashes" / f"{digest(str(dataset.folder.absolute()))[:24]}.json"
    remembered = recall_states(memory)
    paths = [path for photo in dataset.photos for path in (photo.path, photo.mask_path)]
    found = crew.do("Reading", partial(find_state, remembered=remembered), paths)
    states = {
        path: state
        for path, state in zip(paths, found, strict=True)
        if isinstance(state, FileState)
    }
    if states.items() - remembered.items():
        remember_states(memory, remembered | states)
    return states, [problem for problem in found if isinstance(problem, Problem)]


def _check_photo(dataset: Dataset, photo: Photo) -> Problem | None:
    """Read a photograph and its mask only to see whether they can be used."""
    try:
        read_pair(photo.path, photo.mask_path, dataset.spec.coding, at_least_px=(1, 1))
    except ImageError as error:
        return error.problem
    return None


def _fingerprint(
    dataset: Dataset, states: Mapping[Path, FileState], preparation: Preparation
) -> str:
    photos = [
        (photo.name, photo.split, states[photo.path].sha256, states[photo.mask_path].sha256)
        for photo in dataset.photos
    ]
    spec = dataset.spec.model_dump(mode="json")
    return digest(json.dumps({"spec": spec, "preparation": preparation, "photos": photos}))


def _plan_job(dataset: Dataset, states: Mapping[Path, FileState], preparation: Preparation) -> _Job:
    """Read the photographs' headers. One that can't be read gets an empty grid: it fails later."""
    grids = []
    for photo in dataset.photos:
        try:
            grids.append(plan_grid(image_size_px(photo.path), preparation))
        except ImageError:
            grids.append(Grid(0, 0, 0, 0))
    first_items = list(accumulate((grid.items for grid in grids), initial=0))
    return _Job(dataset, states, preparation, grids, first_items)


def _build(job: _Job, target: Path, fingerprint: str, crew: _Crew) -> None:
    """Write the folder ``target``, and force it to the disk before it gets its name."""
    with whole_folder(target) as building:
        arrays = {}
        layout = array_layout(job.first_items[-1], job.num_classes, job.preparation)
        for name, (shape, dtype) in layout.items():
            path = building / f"{name}.npy"
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            # Writing into a sparse map on a full disk would end the process with SIGBUS.
            reserve(path)
        fill = partial(_fill_photo, job, arrays)
        found = crew.do("Preparing", fill, range(len(job.dataset.photos)))
        if problems := [result for result in found if isinstance(result, Problem)]:
            raise problems_error(job.dataset.folder, problems)
        facts = [result for result in found if isinstance(result, PhotoFacts)]
        for array in arrays.values():
            array.flush()
        index = _describe(job, facts, fingerprint)
        (building / INDEX).write_text(json.dumps(index), encoding="utf-8")
        sync_folder(building)


def _fill_photo(
    job: _Job, arrays: Mapping[str, NDArray[Any]], position: int
) -> PhotoFacts | Problem:
    """Decode one photograph into its items of the arrays."""
    photo, grid = job.dataset.photos[position], job.grids[position]
    at_least_px = (max(1, grid.height_px), max(1, grid.width_px))
    try:
        pair = read_pair(photo.path, photo.mask_path, job.dataset.spec.coding, at_least_px)
    except ImageError as error:
        return error.problem
    for path in (photo.path, photo.mask_path):
        if not path.exists() or not job.states[path].is_of(path):
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
    height_px, width_px = pair.mask_HW.shape
    look = difference_hash(pair.image_HWC)
    return PhotoFacts(height_px, width_px, tuple(class_pixels_K.tolist()), look, note)


def _describe(job: _Job, facts: Sequence[PhotoFacts], fingerprint: str) -> dict[str, Any]:
    """Draw the split; the contents of index.json."""
    photos, spec = job.dataset.photos, job.dataset.spec
    names, groups = [photo.name for photo in photos], [photo.group for photo in photos]
    class_pixels_PK = np.array([fact.class_pixels for fact in facts], np.int64)
    fixed = [photo.split for photo in photos]
    splits = assign_splits(class_pixels_PK, groups, spec.split.fractions, spec.split.seed, fixed)
    contents = [job.states[photo.path].sha256 for photo in photos]
    notes = [
        *notes_on_classes(spec.class_names, class_pixels_PK, splits),
        *job.dataset.notes,
        *notes_on_duplicates(names, [fact.look for fact in facts], splits, contents),
        *(f"{name}: {fact.note}" for name, fact in zip(names, facts, strict=True) if fact.note),
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


@contextmanager
def _explaining_disk_errors(cache_dir: Path) -> Iterator[None]:
    """Errors of reading photographs are handled elsewhere: these are about writing the cache."""
    try:
        yield
    except OSError as error:
        what = f"the cache in {cache_dir} can't be written: {error.strerror or error}"
        if error.errno in DISK_FULL:
            what = f"the disk of the cache is full: {cache_dir}"
        raise StorageError(
            f"{what}; make room, or set SEGSEARCH_CACHE to another folder"
        ) from error
