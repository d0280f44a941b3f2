"""prepare_data: every photograph of a data set checked, decoded and written into PreparedData.

Prepared data are named by the content of the data set and the settings, so the work is done once.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from segcore.config import View
from segcore.data.dataset import Dataset, Photo, problems_error, scan_dataset
from segcore.data.duplicates import difference_hash, notes_on_duplicates
from segcore.data.fingerprint import FileState, find_state, recall_states, remember_states
from segcore.data.prepared import (
    CACHE_FORMAT,
    INDEX,
    LOCATIONS,
    PhotoFacts,
    PhotoPlan,
    PreparedData,
    Survey,
    array_layout,
    first_masks,
    first_samples,
    first_score_masks,
    open_prepared,
    prepared_folder,
)
from segcore.data.splits import assign_splits
from segcore.data.windows import (
    Grid,
    count_classes,
    locate_classes,
    plan_grid,
    plan_levels,
    scale_image,
    scale_mask,
)
from segcore.devices import usable_cores
from segcore.errors import DISK_FULL, Problem, StorageError, UserError
from segcore.files import digest, locked, reserve, sync_folder, user_cache, whole_folder
from segcore.reading.images import ImageError, image_size_px
from segcore.reading.masks import read_pair

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Job:
    """What is to be prepared."""

    dataset: Dataset
    states: Mapping[Path, FileState]
    plans: Sequence[PhotoPlan]
    finest: View
    score_view: View
    channels: int = 3
    sample_bits: int = 8

    @property
    def num_classes(self) -> int:
        return len(self.dataset.spec.class_names)

    @property
    def fingerprint(self) -> str:
        photos = [
            (
                photo.name,
                photo.split,
                *(self.states[p].sha256 for p in (photo.path, photo.mask_path)),
            )
            for photo in self.dataset.photos
        ]
        spec = self.dataset.spec.model_dump(mode="json")
        kept = [self.plans, self.finest, self.score_view]
        return digest(json.dumps({"spec": spec, "kept": kept, "photos": photos}, default=astuple))


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
    views: Sequence[View],
    *,
    score_scale: float | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PreparedData:
    """Check a data set and decode it once; where that has been done, just open the result.

    What is kept serves all ``views``. Scores are taken at ``score_scale``, a share of the
    photographs' own resolution; None: on the grid of the finest view. By default ``cache_dir`` is
    ``$SEGSEARCH_CACHE`` or ``~/.cache/segsearch``, and ``workers`` is the number of usable cores.
    Progress goes to standard error. Of several processes that prepare the same data at once, one
    does the work.

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

        job = _plan_job(dataset, states, views, score_scale)
        target = prepared_folder(cache_dir, job.fingerprint)
        with locked(target.with_suffix(".lock")):
            try:
                return open_prepared(target)
            except UserError:  # Not there yet, or damaged.
                _build(job, target, crew)
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


def _plan_job(
    dataset: Dataset,
    states: Mapping[Path, FileState],
    views: Sequence[View],
    score_scale: float | None,
) -> _Job:
    """Read the photographs' headers, and plan what is kept of each."""
    headers = [_size_of(photo) for photo in dataset.photos]
    looks = _distinct_looks(views)

    def grids(look: View) -> list[Grid]:
        return [plan_grid(size_px, look, metres) for size_px, metres in headers]

    def area_px(look: View) -> int:
        """Pixels of all photographs, none of which is counted as enlarged."""
        pairs = zip(grids(look), headers, strict=True)
        return sum(min(grid.area_px, math.prod(size_px)) for grid, (size_px, _) in pairs)

    finest = max(looks, key=area_px)
    score_view = finest if score_scale is None else View(0, 0, score_scale)
    if (score_view.scale or 0) > 1:
        score_view = View(0, 0, 1.0)
    kept = zip(*(grids(look) for look in (*looks, score_view)), strict=True)
    plans = [
        PhotoPlan(size_px, metres, plan_levels(size_px, of_photo), of_photo[-1])
        for (size_px, metres), of_photo in zip(headers, kept, strict=True)
    ]
    return _Job(dataset, states, plans, finest, score_view)


def _size_of(photo: Photo) -> tuple[Grid, float | None]:
    """A photograph's size and ground size. One that can't be read gets 1×1: it fails later."""
    try:
        return Grid(*image_size_px(photo.path)), None
    except ImageError:
        return Grid(1, 1), None


def _distinct_looks(views: Sequence[View]) -> list[View]:
    """What the views ask for: every size of a squeezed photograph, the finest and coarsest scale.

    The size of a window doesn't matter to what is kept of a photograph.
    """
    scales = sorted({view.scale for view in views if view.scale is not None})
    ground = sorted({view.metres_per_px for view in views if view.metres_per_px is not None})
    squeezed = {view for view in views if view.scale is None and view.metres_per_px is None}
    return [
        *sorted(squeezed, key=lambda view: view[:2]),
        *(View(0, 0, scale) for scale in scales[:: max(1, len(scales) - 1)]),
        *(View(0, 0, None, metres) for metres in ground[:: max(1, len(ground) - 1)]),
    ]


def _build(job: _Job, target: Path, crew: _Crew) -> None:
    """Write the folder ``target``, and force it to the disk before it gets its name."""
    with whole_folder(target) as building:
        arrays = {}
        layout = array_layout(job.plans, job.num_classes, job.channels, job.sample_bits)
        for name, (shape, dtype) in layout.items():
            path = building / f"{name}.npy"
            if not shape[0]:  # an empty file can't be mapped
                np.save(path, np.zeros(shape, dtype))
                continue
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            # Writing into a sparse map on a full disk would end the process with SIGBUS.
            reserve(path)
        fill = partial(_fill_photo, job, _Places.of(job), arrays)
        found = crew.do("Preparing", fill, range(len(job.dataset.photos)))
        if problems := [result for result in found if isinstance(result, Problem)]:
            raise problems_error(job.dataset.folder, problems)
        facts = [result for result in found if isinstance(result, PhotoFacts)]
        for array in arrays.values():
            array.flush()
        index = _describe(job, facts)
        (building / INDEX).write_text(json.dumps(index), encoding="utf-8")
        sync_folder(building)


class _Places(NamedTuple):
    """Where each photograph begins in the arrays."""

    samples: list[int]
    masks: list[int]
    score_masks: list[int]

    @classmethod
    def of(cls, job: _Job) -> "_Places":
        return cls(
            first_samples(job.plans, job.channels),
            first_masks(job.plans),
            first_score_masks(job.plans),
        )


def _fill_photo(
    job: _Job, places: _Places, arrays: Mapping[str, NDArray[Any]], number: int
) -> PhotoFacts | Problem:
    """Decode one photograph into its places in the arrays."""
    photo, plan = job.dataset.photos[number], job.plans[number]
    try:
        pair = read_pair(photo.path, photo.mask_path, job.dataset.spec.coding, plan.levels[0])
    except ImageError as error:
        return error.problem
    for path in (photo.path, photo.mask_path):
        if not path.exists() or not job.states[path].is_of(path):
            what = "changed while it was being prepared"
            return Problem(str(path), what, "prepare again when nothing writes to it")

    def put(name: str, first: int, pixels: NDArray[Any]) -> int:
        end = first + pixels.size
        arrays[name][first:end] = pixels.ravel()
        return end

    level_HWC, end = pair.image_HWC, places.samples[number]
    for level in plan.levels:
        level_HWC = scale_image(level_HWC, level)
        end = put("samples", end, level_HWC)
    mask_HW = scale_mask(pair.mask_HW, plan.levels[0])
    put("masks", places.masks[number], mask_HW)
    if not plan.is_scored_as_cached:
        put("score_masks", places.score_masks[number], scale_mask(pair.mask_HW, plan.score_grid))
    kept_K = count_classes(mask_HW, job.num_classes)
    rng = np.random.default_rng(number)
    arrays["class_pixels_PK"][number] = kept_K
    arrays["class_locations_PKL2"][number] = locate_classes(mask_HW, kept_K, LOCATIONS, rng)

    class_pixels_K = count_classes(pair.mask_HW, job.num_classes)
    note = pair.note or (None if class_pixels_K.any() else "nothing is labelled, so it is not used")
    height_px, width_px = pair.mask_HW.shape
    look = difference_hash(pair.image_HWC)
    return PhotoFacts(height_px, width_px, tuple(class_pixels_K.tolist()), look, note)


def _describe(job: _Job, facts: Sequence[PhotoFacts]) -> dict[str, Any]:
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
        "fingerprint": job.fingerprint,
        "plans": [astuple(plan) for plan in job.plans],
        "finest": job.finest,
        "score_view": job.score_view,
        "channels": job.channels,
        "sample_bits": job.sample_bits,
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
