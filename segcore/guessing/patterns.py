"""Pairs of names → what dataset.yaml says of them: globs, and where the mask of a photograph is."""

import difflib
import glob
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from segcore.data.spec import DatasetSpec, MaskRule
from segcore.errors import UserError
from segcore.guessing.pairs import is_role_word, words


def image_globs(images: Sequence[str]) -> list[str]:
    """Globs that find the photographs: one for each ending that they have."""
    by_ending: dict[str, list[PurePosixPath]] = defaultdict(list)
    for name in images:
        path = PurePosixPath(name)
        by_ending[path.suffix].append(path)
    return [_glob(paths, ending) for ending, paths in sorted(by_ending.items())]


def mask_rule(masks: Mapping[str, str]) -> tuple[str | MaskRule, list[str]]:
    """What ``masks`` says for these pairs, as plainly as can be; and the photographs that it fails.

    ``masks`` gives the mask of each photograph. Raises ``UserError`` where nothing can say it.
    """
    best: tuple[str | MaskRule, list[str]] | None = None
    for rule in _candidates(masks):
        try:
            spec = DatasetSpec(images="*", masks=rule, classes=["a", "b"])
        except ValueError:
            continue
        failing = [
            image for image, mask in masks.items() if spec.mask_of(image) != os.path.normpath(mask)
        ]
        if best is None or len(failing) < len(best[1]):
            best = rule, failing
        if not failing:
            break
    if best is None:
        mask = next(iter(masks.values()))
        raise UserError(f"{mask}: {{ and }} mean something else in dataset.yaml; rename it")
    return best


def _glob(paths: Sequence[PurePosixPath], ending: str) -> str:
    folders = [path.parts[:-1] for path in paths]
    if len({*map(len, folders)}) == 1:
        depth = [_part({*parts}) for parts in zip(*folders, strict=True)]
    else:
        common = _common(folders)
        depth = [*map(glob.escape, common), "**"]
        last = {parts[-1] for parts in folders if len(parts) > len(common)}
        if len(last) == 1 and all(len(parts) > len(common) for parts in folders):
            depth.append(_part(last))
    prefix, suffix = _role_affixes([path.stem for path in paths])
    name = f"{glob.escape(prefix)}*{glob.escape(suffix)}{ending}"
    return "/".join([*depth, name])


def _part(names: set[str]) -> str:
    return glob.escape(*names) if len(names) == 1 else "*"


def _role_affixes(stems: Sequence[str]) -> tuple[str, str]:
    """What all stems begin and end with, if it is a word such as "rgb" in "12_rgb"."""
    prefix = "".join(_common(stems))
    suffix = "".join(_common([stem[::-1] for stem in stems]))[::-1]
    start = re.match(r"[^\W_]+[\W_]", prefix)
    end = re.search(r"[\W_][^\W_]+$", suffix)
    kept = [match.group() if match else "" for match in (start, end)]
    told = [text if text and all(map(is_role_word, words(text))) else "" for text in kept]
    return (told[0], told[1]) if len(stems) > 1 else ("", told[1])


def _common(sequences: Sequence[Sequence[str]]) -> list[str]:
    """What all sequences begin with."""
    columns = itertools.takewhile(lambda column: len({*column}) == 1, zip(*sequences, strict=False))
    return [column[0] for column in columns]


def _candidates(masks: Mapping[str, str]) -> Iterator[str | MaskRule]:
    """Rules that fit the first pair, or the first with other words, the plainest first."""
    one_folder = len({str(PurePosixPath(mask).parent) for mask in masks.values()}) == 1
    endings = {PurePosixPath(image).suffix for image in masks}
    ending = re.escape(*endings) if len(endings) == 1 else r"\.\w+"
    pairs = list(masks.items())
    for image_name, mask_name in (pairs[0], pairs[len(pairs) // 2], pairs[-1]):
        image, mask = PurePosixPath(image_name), PurePosixPath(mask_name)
        places = [_relative(mask.parent, image.parent)]
        if one_folder:
            places.insert(0, "" if str(mask.parent) == "." else f"{mask.parent}/")
        if image.stem in mask.stem:
            told = mask.stem.replace(image.stem, "{stem}", 1)
            yield from (f"{place}{told}{mask.suffix}" for place in places)
        for match, path in _aligned(image.stem, mask.stem, "[^/]*"):
            yield from (
                MaskRule(match=f"{match}{ending}$", path=f"{place}{path}{mask.suffix}")
                for place in places
            )
        whole = str(image.with_suffix("")), str(mask.with_suffix(""))
        for match, path in _aligned(*whole, ".*"):
            yield MaskRule(match=f"^{match}{ending}$", path=f"{path}{mask.suffix}")


def _relative(folder: PurePosixPath, start: PurePosixPath) -> str:
    steps = os.path.relpath(folder, start)
    return "{folder}/" if steps == "." else f"{{folder}}/{steps}/"


def _aligned(image: str, mask: str, anything: str) -> Iterator[tuple[str, str]]:
    """An expression for a photograph's name, and a mask's name of its groups: whole words first."""
    for pattern in (r"[^\W_]+|[\W_]", r"(?s:.)"):
        a, b = re.findall(pattern, image), re.findall(pattern, mask)
        blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        match, path, groups, at_a, at_b = "", "", 0, 0, 0
        for begin_a, begin_b, size in blocks:
            match += re.escape("".join(a[at_a:begin_a]))
            path += "".join(b[at_b:begin_b])
            at_a, at_b = begin_a + size, begin_b + size
            before, middle, after = _trimmed("".join(a[begin_a:at_a]))
            match += re.escape(before)
            path += before
            if middle:
                groups += 1
                match, path = f"{match}({anything})", f"{path}{{{groups}}}"
            match += re.escape(after)
            path += after
        if groups:
            yield match.replace(r"\ ", " ").replace(r"\-", "-"), path


def _trimmed(text: str) -> tuple[str, str, str]:
    """Separators at the rims, which stay as they are, and what is between them."""
    found = re.fullmatch(r"([\W_]*)(.*?)([\W_]*)", text, re.DOTALL)
    assert found is not None
    before, middle, after = found.groups()
    return (before, middle, after) if middle else (text, "", "")
