"""PreparedData: photographs decoded and resized once, into memory-mapped arrays.

A cache is a folder of npy files and one ``index.json``, named by the content of the data set and
the settings. It is built under another name and renamed when it is complete; trials only read it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from segcore.config import Preparation, TrialConfig
from segcore.data.arrays import open_arrays, plan_arrays
from segcore.data.building import CACHE_FORMAT, OnDone, PhotoFacts, Survey, build_cache, plan_job
from segcore.data.dataset import Dataset, Photo, problems_error, scan_dataset
from segcore.data.fingerprint import FileState, hash_files
from segcore.data.images import ImageError, read_pair
from segcore.data.splits import SPLITS, Split, assign_folds
from segcore.devices import usable_cores
from segcore.errors import DISK_FULL, Problem, StorageError, UserError
from segcore.files import locked, user_cache


@dataclass(frozen=True)
class PreparedData:
    """A data set ready for training: P photographs, M items (whole photographs or tiles)."""

    folder: Path
    preparation: Preparation
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    photos: tuple[str, ...]
    """Relative names."""
    photo_splits: tuple[Split, ...]
    photo_groups: tuple[str, ...]
    """Photographs of one group never stand on two sides of a split."""
    fingerprint: str
    """Hex hash of the content of images and masks, the spec and the preparation."""
    photo_M: NDArray[np.int32]
    """The photograph that each item belongs to."""
    images_MHWC: NDArray[np.uint8]
    masks_MHW: NDArray[np.uint8]
    """IGNORE_INDEX where nothing counts."""
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
        """The items of a split that have labelled pixels; others could teach and score nothing."""
        of_split_P = np.array([own == split for own in self.photo_splits])
        return np.flatnonzero(of_split_P[self.photo_M] & self.class_pixels_MK.any(axis=1))

    def class_pixels(self, split: Split) -> NDArray[np.int64]:
        """Labelled pixels of each class (K) in a split."""
        pixels_K: NDArray[np.int64] = self.class_pixels_MK[self.items(split)].sum(axis=0)
        return pixels_K

    def divided_for(self, config: TrialConfig) -> "PreparedData":
        """The same data, with the splits that a configuration trains and validates on.

        For one with a fold that is "val", and the others are "train". Both come from what was
        "train" and "val", the same each time; "test" stays as it is.
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


def prepare_data(
    dataset_folder: Path,
    preparation: Preparation,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PreparedData:
    """Check a data set and decode it once; where that has been done, just open the result.

    ``cache_dir`` is ``$SEGSEARCH_CACHE`` or ``~/.cache/segsearch``, ``workers`` the usable cores.
    Progress goes to standard error. Several processes that
    prepare the same data do it once.

    Raises ``ProblemsError`` with everything that is wrong with the files, ``UserError`` where
    dataset.yaml is wrong, the split can't be drawn or the cache can't be written.
    """
    cache_dir = cache_dir or user_cache()
    dataset, problems = scan_dataset(dataset_folder)
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not (progress and console.is_terminal))
    # Threads: hashing, decoding and resizing all run outside Python's lock.
    pool = ThreadPoolExecutor(workers or usable_cores())
    with pool, bar, _explaining_disk_errors(cache_dir):
        photos = dataset.photos
        paths = [path for photo in photos for path in (photo.path, photo.mask_path)]
        memory = cache_dir / "hashes" / f"{_hex(str(dataset_folder.absolute()))[:24]}.json"
        on_done = _stage(bar, "Reading", len(paths))
        states, unreadable = hash_files(paths, memory, pool, on_done)
        if problems or unreadable:
            on_done = _stage(bar, "Checking", len(photos))
            checked = pool.map(partial(_check_photo, dataset, on_done), photos)
            problems += [problem for problem in checked if problem is not None]
            told = {problem.where for problem in problems}
            problems += [problem for problem in unreadable if problem.where not in told]
            raise problems_error(dataset.folder, problems)

        fingerprint = _fingerprint(dataset, states, preparation)
        target = _cache_folder(cache_dir, fingerprint)
        with locked(target.with_suffix(".lock")):
            try:
                return open_prepared(target)
            except UserError:  # Not there yet, or damaged.
                shutil.rmtree(target, ignore_errors=True)
            job = plan_job(dataset, states, preparation)
            on_done = _stage(bar, "Preparing", len(photos))
            build_cache(job, target, fingerprint, pool, on_done)
            return open_prepared(target)


def open_prepared(folder: Path) -> PreparedData:
    """Open a complete cache. Raises ``UserError`` where it is missing or damaged."""
    index = _read_index(folder)
    try:
        preparation = Preparation(**index["preparation"])
        layout = plan_arrays(index["items"], len(index["class_names"]), preparation)
        return PreparedData(
            folder=folder,
            preparation=preparation,
            class_names=tuple(index["class_names"]),
            class_colors=tuple((red, green, blue) for red, green, blue in index["class_colors"]),
            photos=tuple(index["photos"]),
            photo_splits=tuple(SPLITS[SPLITS.index(split)] for split in index["photo_splits"]),
            photo_groups=tuple(index["photo_groups"]),
            fingerprint=str(index["fingerprint"]),
            **open_arrays(folder, layout),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the prepared data in {folder} are damaged ({error}); delete it and prepare again"
        ) from error


def _reopen(folder: Path, photo_splits: tuple[Split, ...]) -> PreparedData:
    return replace(open_prepared(folder), photo_splits=photo_splits)


def find_prepared(fingerprint: str, cache_dir: Path | None = None) -> PreparedData:
    """Open what ``prepare_data`` made of the data set with this fingerprint, without the data set.

    Raises ``UserError`` where this machine has it no more.
    """
    return open_prepared(_cache_folder(cache_dir or user_cache(), fingerprint))


def _cache_folder(cache_dir: Path, fingerprint: str) -> Path:
    return cache_dir / "prepared" / f"{fingerprint[:24]}-v{CACHE_FORMAT}"


def read_survey(folder: Path) -> Survey:
    """The survey of a complete cache. Raises ``UserError`` where it is missing or damaged."""
    survey = _read_index(folder)["survey"]
    facts = [{**facts, "class_pixels": tuple(facts["class_pixels"])} for facts in survey["photos"]]
    return Survey(tuple(PhotoFacts(**values) for values in facts), tuple(survey["notes"]))


def _read_index(folder: Path) -> Mapping[str, Any]:
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
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


def _check_photo(dataset: Dataset, on_done: OnDone, photo: Photo) -> Problem | None:
    """Read a photograph and its mask only to see whether they can be used."""
    try:
        read_pair(photo.path, photo.mask_path, dataset.spec.coding, at_least_px=(1, 1))
    except ImageError as error:
        return error.problem
    finally:
        on_done()
    return None


def _fingerprint(
    dataset: Dataset, states: Mapping[Path, FileState], preparation: Preparation
) -> str:
    return _hex(
        json.dumps(
            {
                "spec": dataset.spec.model_dump(mode="json"),
                "preparation": preparation,
                "photos": [
                    (
                        photo.name,
                        photo.split,
                        states[photo.path].sha256,
                        states[photo.mask_path].sha256,
                    )
                    for photo in dataset.photos
                ],
            }
        )
    )


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _stage(bar: Progress, title: str, total: int) -> OnDone:
    """Begin a line of the progress bar; the result moves it on by one."""
    return partial(bar.advance, bar.add_task(title, total=total))


@contextmanager
def _explaining_disk_errors(cache_dir: Path) -> Iterator[None]:
    """Reading is checked elsewhere: an OSError here is about writing the cache."""
    try:
        yield
    except OSError as error:
        what = f"the cache in {cache_dir} can't be written: {error.strerror or error}"
        if error.errno in DISK_FULL:
            what = f"the disk of the cache is full: {cache_dir}"
        raise StorageError(
            f"{what}; make room, or set SEGSEARCH_CACHE to another folder"
        ) from error
