"""prepare_data: every photograph of a data set checked, decoded and written into PreparedData.

Prepared data are named by the content of the data set and the settings, so the work is done once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from segcore.config import View
from segcore.data.dataset import Dataset, Photo, problems_error, scan_dataset
from segcore.data.duplicates import difference_hash, notes_on_copies, notes_on_duplicates
from segcore.data.fingerprint import FileState, find_state, recall_states, remember_states
from segcore.data.plans import (
    LOCATIONS,
    Kept,
    array_layout,
    first_masks,
    first_samples,
    first_score_masks,
    plan_photos,
)
from segcore.data.prepared import (
    CACHE_FORMAT,
    INDEX,
    PhotoFacts,
    PreparedData,
    Survey,
    open_prepared,
    prepared_folder,
)
from segcore.data.splits import Split, assign_splits, notes_on_classes
from segcore.data.windows import (
    Grid,
    count_classes,
    locate_classes,
    scale_image,
    scale_mask,
)
from segcore.devices import usable_cores
from segcore.errors import DISK_FULL, Note, Problem, StorageError, UserError
from segcore.files import digest, locked, reserve, sync_folder, user_cache, whole_folder
from segcore.reading.bands import Bands, to_rgb8
from segcore.reading.ground import metres_per_px
from segcore.reading.headers import ImageError, image_size_px
from segcore.reading.masks import read_mask, read_pair
from segcore.reading.measuring import complete_bands
from segcore.reading.samples import check_bands

MANY_DOUBTFUL = 0.05
"""More of a mask's pixels than smoothed edges have."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Job:
    """What is to be prepared."""

    dataset: Dataset
    states: Mapping[Path, FileState]
    kept: Kept
    bands: Bands
    """Complete only while the folder is written."""

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
        spec = self.dataset.spec.model_dump(mode="json", exclude=self.dataset.spec.unset())
        content = digest(json.dumps({"spec": spec, "photos": photos}))
        return content + digest(json.dumps(self.kept, default=astuple))[:16]


@dataclass(frozen=True)
class _Crew:
    """Threads, and the progress bar of what they do.

    Threads are enough: hashing, decoding and resizing all run outside Python's lock.
    """

    pool: ThreadPoolExecutor
    bar: Progress

    def do(
        self, title: str, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result | Problem]:
        """The results of ``work``, in the order of the items, or the problems of their files."""

        def attempt(item: Item) -> Result | Problem:
            try:
                return work(item)
            except ImageError as error:
                return error.problem

        results = self.pool.map(attempt, items)
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
            problems += [problem for problem in checked if isinstance(problem, Problem)]
            told = {problem.where for problem in problems}
            problems += [problem for problem in unreadable if problem.where not in told]
            raise problems_error(dataset.folder, problems)

        on_ground = any(view.metres_per_px is not None for view in views)
        sizes = [_size_of(photo, on_ground) for photo in dataset.photos]
        kept = plan_photos(sizes, views, score_scale)
        job = _Job(dataset, states, kept, dataset.spec.photo_bands)
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


def _check_photo(dataset: Dataset, photo: Photo) -> None:
    """Raise ``ImageError`` where a photograph or its mask can't be used."""
    read_pair(photo.path, photo.mask_path, dataset.spec.coding, at_least_px=(1, 1))


def _size_of(photo: Photo, on_ground: bool) -> tuple[Grid, float | None]:
    """A photograph's size, and its ground size where that is needed.

    One that can't be read gets 1×1 px: it fails later.
    """
    try:
        metres = metres_per_px(photo.path) if on_ground else None
        return Grid(*image_size_px(photo.path)), metres
    except ImageError:
        return Grid(1, 1), None


def _complete_bands(job: _Job, crew: _Crew) -> Bands:
    """The data set's bands, with ranges and statistics of its training photographs if need be.

    Which photographs are for training depends on all masks, so they are read first.
    """
    dataset, bands = job.dataset, job.bands

    def has_8_bits(photo: Photo) -> bool:
        return check_bands(photo.path, bands)

    def count(photo: Photo) -> list[int]:
        mask_HW = read_mask(photo.mask_path, dataset.spec.coding)
        return count_classes(mask_HW, job.num_classes).tolist()

    looked = _without_problems(dataset, crew.do("Looking", has_8_bits, dataset.photos))
    if all(looked) and bands.numbers is None:
        return bands
    pixels_PK = np.array(_without_problems(dataset, crew.do("Counting", count, dataset.photos)))
    every = list(zip(dataset.photos, looked, _draw_splits(dataset, pixels_PK), strict=True))
    training = [(photo, eight) for photo, eight, split in every if split == "train"]
    # Where only other photographs have more than 8 bits, they alone can tell the range.
    only_others = not all(looked) and all(eight for _, eight in training)
    chosen = dataset.photos if only_others else [photo for photo, _ in training]
    return complete_bands(bands, [photo.path for photo in chosen])


def _without_problems(dataset: Dataset, results: Sequence[Result | Problem]) -> list[Result]:
    """The results. Raises ``ProblemsError`` with the problems that stand in some places of them."""
    if problems := [result for result in results if isinstance(result, Problem)]:
        raise problems_error(dataset.folder, problems)
    return [result for result in results if not isinstance(result, Problem)]


def _draw_splits(dataset: Dataset, class_pixels_PK: NDArray[np.int64]) -> list[Split]:
    """The split of each photograph, given its labelled pixels at full resolution."""
    groups, fixed = zip(*((photo.group, photo.split) for photo in dataset.photos), strict=True)
    spec = dataset.spec.split
    return assign_splits(class_pixels_PK, groups, spec.fractions, spec.seed, fixed)


def _build(job: _Job, target: Path, crew: _Crew) -> None:
    """Write the folder ``target``, and force it to the disk before it gets its name."""
    job = replace(job, bands=_complete_bands(job, crew))
    with whole_folder(target) as building:
        arrays = {}
        layout = array_layout(job.kept.plans, job.num_classes, job.bands)
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
        facts = _without_problems(job.dataset, found)
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
            first_samples(job.kept.plans, job.bands.channels),
            first_masks(job.kept.plans),
            first_score_masks(job.kept.plans),
        )


def _fill_photo(
    job: _Job, places: _Places, arrays: Mapping[str, NDArray[Any]], number: int
) -> PhotoFacts:
    """Decode one photograph into its places in the arrays. Raises ``ImageError``."""
    photo, plan = job.dataset.photos[number], job.kept.plans[number]
    coding = job.dataset.spec.coding
    pair = read_pair(photo.path, photo.mask_path, coding, plan.levels[0], job.bands)
    for path in (photo.path, photo.mask_path):
        if not path.exists() or not job.states[path].is_of(path):
            what = "changed while it was being prepared"
            raise ImageError(path, what, "prepare again when nothing writes to it")

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
    look = difference_hash(to_rgb8(pair.image_HWC, job.bands))
    pixels = tuple(class_pixels_K.tolist())
    return PhotoFacts(height_px, width_px, pixels, look, note, *pair.snapped)


def _describe(job: _Job, facts: Sequence[PhotoFacts]) -> dict[str, Any]:
    """Draw the split; the contents of index.json."""
    photos, spec = job.dataset.photos, job.dataset.spec
    names, groups = [photo.name for photo in photos], [photo.group for photo in photos]
    class_pixels_PK = np.array([fact.class_pixels for fact in facts], np.int64)
    splits = _draw_splits(job.dataset, class_pixels_PK)
    contents = [job.states[photo.path].sha256 for photo in photos]
    looks = [fact.look for fact in facts]
    notes = [
        *map(Note, notes_on_classes(spec.class_names, class_pixels_PK, splits)),
        *job.dataset.notes,
        *map(Note, notes_on_duplicates(names, looks, splits, contents)),
        *notes_on_copies(names, looks, splits, contents),
        *_notes_on_photos(names, facts),
    ]
    return {
        "format": CACHE_FORMAT,
        "fingerprint": job.fingerprint,
        "plans": [astuple(plan) for plan in job.kept.plans],
        "finest": job.kept.finest,
        "score_view": job.kept.score_view,
        "bands": asdict(job.bands),
        "class_names": spec.class_names,
        "class_colors": spec.class_colors,
        "photos": names,
        "photo_splits": splits,
        "photo_groups": groups,
        "survey": asdict(Survey(tuple(facts), tuple(notes))),
    }


def _notes_on_photos(names: Sequence[str], facts: Sequence[PhotoFacts]) -> list[Note]:
    """What was odd about single photographs, each kind once."""
    files: dict[str, list[str]] = {}
    for name, fact in zip(names, facts, strict=True):
        if fact.note is not None:
            files.setdefault(fact.note, []).append(name)
    notes = [Note(what, tuple(found)) for what, found in files.items()]
    moved_px = sum(fact.moved_px for fact in facts)
    if moved_px:
        share = moved_px / sum(fact.height_px * fact.width_px for fact in facts)
        masks = sum(fact.moved_px > 0 for fact in facts)
        what = f"snap: {moved_px:,} pixels ({share:.2%}) of {masks} masks had no class's value"
        notes.append(Note(what))
    shares = [fact.doubtful_px / (fact.height_px * fact.width_px) for fact in facts]
    worst = sorted(zip(shares, names, strict=True), reverse=True)
    if many := [f"{name} ({share:.0%})" for share, name in worst if share > MANY_DOUBTFUL]:
        what = "more than 5 % of the mask lies between classes; does a class lack its value?"
        notes.append(Note(what, tuple(many)))
    return notes


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
