"""dataset.yaml → Dataset: photographs and masks are found, paired, grouped, and split as listed.

Only the names of files are looked at here. ``segcore.data.preparing`` looks into the files, and
draws the splits that are given as fractions.
"""

import difflib
import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segcore.data.spec import DatasetSpec, SplitSpec, load_spec
from segcore.data.splits import SPLITS, Split
from segcore.errors import Problem, ProblemsError

SPEC_NAME = "dataset.yaml"


@dataclass(frozen=True)
class Photo:
    """A photograph with its mask."""

    name: str
    """Its path relative to dataset.yaml, with forward slashes."""
    path: Path
    mask_path: Path
    group: str
    """Photographs of one group stay in one split; without a group, the photograph's own name."""
    split: Split | None
    """None: still to be drawn."""


@dataclass(frozen=True)
class Dataset:
    """What a ``dataset.yaml`` describes, as far as the names of files tell."""

    folder: Path
    spec: DatasetSpec
    photos: tuple[Photo, ...]
    notes: tuple[str, ...]
    """What is odd but doesn't stop a training."""


def load_dataset(folder: Path) -> Dataset:
    """Read ``folder/dataset.yaml`` and find its photographs, in order of their names.

    Raises ``UserError`` where dataset.yaml itself is wrong, ``ProblemsError`` with everything that
    is wrong with the files' names.
    """
    dataset, problems = scan_dataset(folder)
    if problems:
        raise problems_error(folder, problems)
    return dataset


def scan_dataset(folder: Path) -> tuple[Dataset, list[Problem]]:
    """Like ``load_dataset``, but give back the pairs that are right together with the problems."""
    spec = load_spec(folder / SPEC_NAME)
    problems: list[Problem] = []
    images = _find_images(folder, spec.images, problems)
    masks = {name: _mask_path(folder, spec.masks, name) for name in images}
    problems += _mask_problems(masks)
    groups = _group(images, spec.group, problems)
    splits = _listed_splits(folder, spec.split, images, problems)
    problems += _divided_groups(splits, groups)
    notes = _notes_on_masks(folder, spec.masks, masks)
    if isinstance(spec.split.train, list | str):
        if unlisted := [name for name in images if name not in splits]:
            notes.append(f"{_some_of(unlisted)}: in no list of the split, so not used")
        images = [name for name in images if name in splits]
    split_of_group = {groups[name]: split for name, split in splits.items()}
    photos = tuple(
        Photo(name, folder / name, masks[name], groups[name], split_of_group.get(groups[name]))
        for name in images
        if masks[name].is_file()
    )
    return Dataset(folder, spec, photos, tuple(notes)), problems


def problems_error(folder: Path, problems: Sequence[Problem]) -> ProblemsError:
    """One error for everything that is wrong with a data set's files."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return ProblemsError(f"{folder}: {count}", problems)


def _find_images(folder: Path, pattern: str, problems: list[Problem]) -> list[str]:
    """Relative names of what the glob finds; hidden files are left out, as a shell does."""
    try:
        found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    except (ValueError, NotImplementedError, OSError, RuntimeError) as error:
        problems.append(Problem(SPEC_NAME, f"images: {pattern!r}: {error}", "correct the glob"))
        return []
    names = sorted(_relative(path, folder) for path in found if not path.is_dir())
    if not names:
        nearby = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))
        endings = sorted({path.suffix for path in nearby if path.suffix and path.is_file()})
        what = f"images: {pattern!r} finds nothing in {folder}"
        there = f"case counts; endings there: {', '.join(endings) or 'none'}"
        problems.append(Problem(SPEC_NAME, what, f"correct the glob ({there})"))
    return names


def _relative(path: Path | str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _filled(template: str, folder: str, stem: str) -> str:
    return os.path.normpath(template.replace("{folder}", folder).replace("{stem}", stem))


def _mask_path(folder: Path, template: str, name: str) -> Path:
    image = PurePosixPath(name)
    return Path(os.path.normpath(folder / _filled(template, str(image.parent), image.stem)))


def _mask_problems(masks: Mapping[str, Path]) -> Iterator[Problem]:
    """Photographs without a mask, and masks that two photographs claim."""
    owners: dict[Path, str] = {}
    for name, mask in masks.items():
        if mask in owners:
            what = f"has the same mask as {owners[mask]}: {mask}"
            yield Problem(name, what, "rename one photograph, or use {folder} in masks")
        elif not mask.is_file():
            yield Problem(name, f"its mask {mask} does not exist", "add the mask, or correct masks")
        owners.setdefault(mask, name)


def _notes_on_masks(folder: Path, template: str, masks: Mapping[str, Path]) -> list[str]:
    """One note on the masks that belong to no photograph, if there are any."""
    patterns = {
        _filled(template, glob.escape(str(PurePosixPath(name).parent)), "*") for name in masks
    }
    there = {
        Path(os.path.normpath(path))
        for pattern in patterns
        # Path.glob would refuse an absolute pattern.
        for path in glob.iglob(str(Path(glob.escape(str(folder)), pattern)))  # noqa: PTH207
    }
    extra = sorted(_relative(path, folder) for path in there - set(masks.values()))
    return [f"{_some_of(extra)}: masks without a photograph"] if extra else []


def _group(images: Sequence[str], pattern: str | None, problems: list[Problem]) -> dict[str, str]:
    """The group of each photograph; its own name where the expression doesn't match."""
    groups = {name: name for name in images}
    for name in images if pattern is not None else ():
        match = re.search(pattern or "", name)
        if match is None:
            what = f"group {pattern!r} doesn't match it"
            problems.append(Problem(name, what, "correct the expression"))
        else:
            groups[name] = match.group(match.re.groups and 1) or ""
    return groups


def _listed_splits(
    folder: Path, spec: SplitSpec, images: Sequence[str], problems: list[Problem]
) -> dict[str, Split]:
    """The splits of the photographs that the spec lists by name."""
    names_of_key: dict[str, list[str]] = defaultdict(list)
    for name in images:
        image = PurePosixPath(name)
        for key in {name, str(image.with_suffix("")), image.name, image.stem}:
            names_of_key[key].append(name)

    splits: dict[str, Split] = {}
    for split in SPLITS:
        for key in _listed_names(folder, split, getattr(spec, split), problems):
            names = names_of_key.get(key, [])
            if len(names) != 1:
                problems.append(_unclear_name(split, key, names, names_of_key))
            elif splits.setdefault(names[0], split) != split:
                what = f"is in {splits[names[0]]} and in {split}"
                problems.append(Problem(names[0], what, "keep it in one"))
    return splits


def _listed_names(
    folder: Path, split: Split, source: float | list[str] | str | None, problems: list[Problem]
) -> Sequence[str]:
    """The photographs of a list, or of a text file (one per line, # for comments)."""
    if source is None or isinstance(source, float):
        return []
    if isinstance(source, str):
        try:
            lines = (folder / source).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            what = f"split.{split}: {source} can't be read: {error}"
            problems.append(Problem(SPEC_NAME, what, "a text file with one photograph per line"))
            return []
        source = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not source:
        problems.append(Problem(SPEC_NAME, f"split.{split} lists nothing", "name a photograph"))
    return source


def _unclear_name(
    split: Split, key: str, names: Sequence[str], names_of_key: Mapping[str, object]
) -> Problem:
    """What to say about an entry of a list that means no photograph, or several."""
    if names:
        what = f"split.{split}: {key!r} means {_some_of(names)}"
        return Problem(SPEC_NAME, what, "write the relative path")
    near = difflib.get_close_matches(key, names_of_key, n=3)
    mend = f"did you mean {' or '.join(near)}?" if near else "write a stem or a relative path"
    return Problem(SPEC_NAME, f"split.{split}: there is no photograph {key!r}", mend)


def _divided_groups(splits: Mapping[str, Split], groups: Mapping[str, str]) -> Iterator[Problem]:
    """Photographs whose group is listed in two splits."""
    first: dict[str, str] = {}
    for name, split in splits.items():
        other = first.setdefault(groups[name], name)
        if splits[other] != split:
            what = f"is listed in {split}, but {other} of the same group is in {splits[other]}"
            yield Problem(name, what, "keep a group in one split, or correct group")


def _some_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
