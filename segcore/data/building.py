"""build: everything of a data set decoded and written into a folder of PreparedData."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from segcore.cores import usable_cores
from segcore.data.dataset import Dataset, problems_error
from segcore.data.duplicates import difference_hash, notes_on_copies, notes_on_duplicates
from segcore.data.plans import (
    LOCATIONS,
    Kept,
    array_layout,
    first_masks,
    first_samples,
    first_score_masks,
)
from segcore.data.prepared import CACHE_FORMAT, INDEX, PhotoFacts, Survey
from segcore.data.splits import Split, assign_splits, notes_on_classes
from segcore.data.windows import count_classes, locate_classes, scale_image, scale_mask
from segcore.errors import Note, Problem
from segcore.files import FileState, digest, reserve, sync_folder, whole_folder
from segcore.reading.bands import Bands, to_rgb8
from segcore.reading.headers import ImageError
from segcore.reading.masks import read_pair

MANY_DOUBTFUL = 0.05
"""More of a mask's pixels than smoothed edges have."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """What is to be prepared."""

    dataset: Dataset
    states: Mapping[Path, FileState]
    kept: Kept
    bands: Bands
    """With all that is measured, once the folder is written."""
    notes: tuple[Note, ...] = ()
    """What was odd before the photographs were decoded."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.dataset.spec.class_names)

    @property
    def fingerprint(self) -> str:
        """Of the content of the data set, followed by one of what is kept of it."""
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


Tell = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


def untold(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Crew:
    """Threads, and who is told how far they are.

    Threads are enough: hashing, decoding and resizing all run outside Python's lock.
    """

    pool: ThreadPoolExecutor
    tell: Tell

    def do(
        self, title: str, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result | Problem]:
        """The results of ``work``, in the order of the items, or the problems of their files."""

        def attempt(item: Item) -> Result | Problem:
            try:
                return work(item)
            except ImageError as error:
                return error.problem

        results = []
        for result in self.pool.map(attempt, items):
            results.append(result)
            self.tell(title, len(results), len(items))
        return results


@contextmanager
def crew_of(workers: int | None, progress: bool | Tell) -> Iterator[Crew]:
    """A crew of so many threads (None: one for each usable core).

    ``progress`` is told how far it is; True: a bar on standard error shows that.
    """
    with ThreadPoolExecutor(workers or usable_cores()) as pool, _Bar(progress is True) as bar:
        yield Crew(pool, bar.show if isinstance(progress, bool) else progress)


class _Bar:
    """A bar on standard error, which is gone at the end; in a file, nothing."""

    def __init__(self, is_shown: bool) -> None:
        console = Console(stderr=True)
        disable = not (is_shown and console.is_terminal)
        self._bar = Progress(console=console, transient=True, disable=disable)
        self._task = self._bar.add_task("")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, title: str, done: int, total: int) -> None:
        """Show how far it is."""
        self._bar.update(self._task, description=title, completed=done, total=total)


def build(job: Job, target: Path, crew: Crew) -> None:
    """Write the folder ``target``, and force it to the disk before it gets its name."""
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
        facts = without_problems(job.dataset, found)
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
    def of(cls, job: Job) -> "_Places":
        return cls(
            first_samples(job.kept.plans, job.bands.channels),
            first_masks(job.kept.plans),
            first_score_masks(job.kept.plans),
        )


def _fill_photo(
    job: Job, places: _Places, arrays: Mapping[str, NDArray[Any]], number: int
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


def _describe(job: Job, facts: Sequence[PhotoFacts]) -> dict[str, Any]:
    """Draw the split; the contents of index.json."""
    photos, spec = job.dataset.photos, job.dataset.spec
    names, groups = [photo.name for photo in photos], [photo.group for photo in photos]
    class_pixels_PK = np.array([fact.class_pixels for fact in facts], np.int64)
    splits = draw_splits(job.dataset, class_pixels_PK)
    contents = [job.states[photo.path].sha256 for photo in photos]
    looks = [fact.look for fact in facts]
    notes = [
        *map(Note, notes_on_classes(spec.class_names, class_pixels_PK, splits)),
        *job.dataset.notes,
        *job.notes,
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


def draw_splits(dataset: Dataset, class_pixels_PK: NDArray[np.int64]) -> list[Split]:
    """The split of each photograph, given its labelled pixels at full resolution."""
    groups, fixed = zip(*((photo.group, photo.split) for photo in dataset.photos), strict=True)
    spec = dataset.spec.split
    return assign_splits(class_pixels_PK, groups, spec.fractions, spec.seed, fixed)


def without_problems(dataset: Dataset, results: Sequence[Result | Problem]) -> list[Result]:
    """The results. Raises ``ProblemsError`` with the problems that stand in some places of them."""
    if problems := [result for result in results if isinstance(result, Problem)]:
        raise problems_error(dataset.folder, problems)
    return [result for result in results if not isinstance(result, Problem)]
