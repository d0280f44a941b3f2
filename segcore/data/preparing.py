"""prepare_data: every photograph of a data set checked, decoded and written into PreparedData.

Prepared data are named by the content of the data set and the settings, so the work is done once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from segcore.config import View
from segcore.data.building import Crew, Job, Tell, build, crew_of, draw_splits, without_problems
from segcore.data.dataset import Dataset, Photo, problems_error, scan_dataset
from segcore.data.plans import plan_photos
from segcore.data.prepared import PreparedData, open_prepared, prepared_folder
from segcore.data.windows import Grid, count_classes
from segcore.errors import DISK_FULL, Note, Problem, StorageError, UserError
from segcore.files import (
    FileState,
    digest,
    find_state,
    locked,
    recall_states,
    remember_states,
    user_cache,
)
from segcore.reading.bands import Bands
from segcore.reading.ground import metres_per_px
from segcore.reading.headers import ImageError, count_pages, image_size_px
from segcore.reading.masks import read_mask, read_pair
from segcore.reading.measuring import complete_bands
from segcore.reading.samples import check_bands, count_bands, is_odd_alpha


def prepare_data(
    dataset_folder: Path,
    views: Sequence[View],
    *,
    score_scale: float | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: bool | Tell = True,
) -> PreparedData:
    """Check a data set and decode it once; where that has been done, just open the result.

    What is kept serves all ``views``. Scores are taken at ``score_scale``, a share of the
    photographs' own resolution; None: on the grid of the finest view. By default ``cache_dir`` is
    ``$SEGSEARCH_CACHE`` or ``~/.cache/segsearch``, and ``workers`` is the number of usable cores.
    How far it is, ``progress`` is told; True: a bar on standard error shows it. Of several
    processes that prepare the same data at once, one does the work.

    Raises ``ProblemsError`` with everything that is wrong with the files, ``UserError`` where
    dataset.yaml is wrong or the split can't be drawn, ``StorageError`` where the cache can't be
    written.
    """
    cache_dir = cache_dir or user_cache()
    dataset, problems = scan_dataset(dataset_folder)
    with crew_of(workers, progress) as crew, _explaining_disk_errors(cache_dir):
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
        job = Job(dataset, states, kept, dataset.spec.photo_bands)
        target = prepared_folder(cache_dir, job.fingerprint)
        with locked(target.with_suffix(".lock")):
            try:
                return open_prepared(target)
            except UserError:  # Not there yet, or damaged.
                notes = _notes_on_the_unused(job, crew)
                build(replace(job, bands=_complete_bands(job, crew), notes=notes), target, crew)
            return open_prepared(target)


def _find_states(
    dataset: Dataset, cache_dir: Path, crew: Crew
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


def _notes_on_the_unused(job: Job, crew: Crew) -> tuple[Note, ...]:
    """Which photographs have pages, or bands that nobody has named, that aren't used."""

    def notes_of(photo: Photo) -> list[str]:
        notes = []
        if (pages := count_pages(photo.path)) > 1:
            notes.append(f"of {pages} pages the first is used; write pages as bands of one picture")
        if job.bands.numbers is not None:
            return notes
        mend = "name others by `bands` in dataset.yaml"
        if (bands := count_bands(photo.path)) not in (1, 3):
            used = "three are" if bands > 3 else "is"
            notes.append(f"of {bands} bands the first {used} used; {mend}")
        if is_odd_alpha(photo.path):
            what = "the last band is called transparency, but looks like a picture, as of infrared"
            notes.append(f"{what}, and isn't used; {mend}")
        return notes

    photos = job.dataset.photos
    found = crew.do("Looking", notes_of, photos)
    files: dict[str, list[str]] = {}
    for photo, notes in zip(photos, without_problems(job.dataset, found), strict=True):
        for note in notes:
            files.setdefault(note, []).append(photo.name)
    return tuple(Note(what, tuple(of)) for what, of in files.items())


def _complete_bands(job: Job, crew: Crew) -> Bands:
    """The data set's bands, with ranges and statistics of its training photographs if need be.

    Which photographs are for training depends on all masks, so they are read first.
    """
    dataset, bands = job.dataset, job.bands

    def has_8_bits(photo: Photo) -> bool:
        return check_bands(photo.path, bands)

    def count(photo: Photo) -> list[int]:
        mask_HW = read_mask(photo.mask_path, dataset.spec.coding)
        return count_classes(mask_HW, job.num_classes).tolist()

    looked = without_problems(dataset, crew.do("Looking", has_8_bits, dataset.photos))
    if all(looked) and bands.numbers is None:
        return bands
    pixels_PK = np.array(without_problems(dataset, crew.do("Counting", count, dataset.photos)))
    every = list(zip(dataset.photos, looked, draw_splits(dataset, pixels_PK), strict=True))
    training = [(photo, eight) for photo, eight, split in every if split == "train"]
    # Where only other photographs have more than 8 bits, they alone can tell the range.
    only_others = not all(looked) and all(eight for _, eight in training)
    chosen = dataset.photos if only_others else [photo for photo, _ in training]
    return complete_bands(bands, [photo.path for photo in chosen])


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
