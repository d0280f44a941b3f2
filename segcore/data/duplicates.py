"""Photographs in different splits that look nearly alike: scores on them would be too good."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.data.splits import Split
from segcore.errors import Note

NEAR_BITS = 5
"""Photographs look alike if at most this many of the 64 bits of their hashes differ."""
CHANGES_PER_BIT = 4
LEAST_CHANGES = 10
"""How much a hash tells: the changes in it from row to row, about 20 in real photographs. Water, a
gradient or the edge of a mosaic has fewer, and its hash is much like others from anywhere; so each
bit that may differ needs some changes, and below the least number a photograph is alike to none."""

STEP = 2
"""Levels of grey (of 255) by which a cell must be brighter than its neighbour: not by noise."""
ONE_COLOR = 8
"""A picture is of one colour if each band varies by at most so many levels: JPEG's own noise."""


def difference_hash(image_HWC: NDArray[np.uint8]) -> int:
    """64 bits: where a 9×8 grey thumbnail gets brighter from left to right (dHash, N. Krawetz).

    0 for pictures of one colour, and only for those.
    """
    thumbnail = cv2.resize(image_HWC, (9, 8), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY).astype(np.int16)
    brighter = grey[:, 1:] - grey[:, :-1] >= STEP
    look = int.from_bytes(np.packbits(brighter).tobytes(), "big")
    return look or int(np.ptp(image_HWC, axis=(0, 1)).max() > ONE_COLOR)


def notes_on_duplicates(
    names: Sequence[str],
    looks: Sequence[int],
    splits: Sequence[Split],
    contents: Sequence[str] | None = None,
) -> list[str]:
    """Notes on pairs of photographs in two splits (10 at most), and one on how to mend it.

    A photograph is told with the first that it resembles. ``looks`` are ``difference_hash`` of the
    photographs; those of one colour resemble none. ``contents`` are hashes of the files.
    """
    content_P = np.unique(contents or names, return_inverse=True)[1]
    pairs = _pairs_on_two_sides(looks, splits, content_P)
    notes = [
        f"{names[a]} ({splits[a]}) and {names[b]} ({splits[b]}) "
        + ("are the same file" if content_P[a] == content_P[b] else "look nearly alike")
        for a, b in pairs[:10]
    ]
    if len(pairs) > len(notes):
        notes.append(f"{len(pairs) - len(notes)} more pairs on two sides of a split look alike")
    if pairs:
        notes.append(_mend([(names[a], names[b]) for a, b in pairs], names))
    return notes


def notes_on_copies(
    names: Sequence[str], looks: Sequence[int], splits: Sequence[Split], contents: Sequence[str]
) -> list[Note]:
    """A note on photographs that stand more than once in a split, so that they count double.

    Those of one colour are no copies of each other.
    """
    first: dict[tuple[Split, str], str] = {}
    copies = tuple(
        f"{name} (of {other})"
        for name, look, split, content in zip(names, looks, splits, contents, strict=True)
        if look and (other := first.setdefault((split, content), name)) != name
    )
    what = "copies of a photograph in the same split, which count double; remove them"
    return [Note(what, copies)] if copies else []


def _pairs_on_two_sides(
    looks: Sequence[int], splits: Sequence[Split], content_P: NDArray[np.intp]
) -> list[tuple[int, int]]:
    """Each photograph that resembles some on another side of the split, with the first of them."""
    look_P = np.array(looks, np.uint64)
    side_P = np.unique(splits, return_inverse=True)[1].astype(np.uint8)
    # The bits of a row are a byte, so a shift by 8 puts each bit beside that of the next row.
    changes_P = np.bitwise_count((look_P ^ (look_P >> np.uint64(8))) & np.uint64(2**56 - 1))
    near_P = np.minimum(changes_P // CHANGES_PER_BIT, NEAR_BITS).astype(np.int8)
    near_P[changes_P < LEAST_CHANGES] = -1
    pairs: dict[tuple[int, int], None] = {}
    for index in np.flatnonzero(look_P):
        apart_P = np.bitwise_count(look_P ^ look_P[index]).astype(np.int8)
        alike_P = apart_P <= np.minimum(near_P, near_P[index])
        alike_P |= content_P == content_P[index]
        alike_P &= side_P != side_P[index]
        first = int(alike_P.argmax())
        if alike_P[first]:
            pairs[min(first, int(index)), max(first, int(index))] = None
    return sorted(pairs)


def _mend(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> str:
    """The narrowest of some usual groupings that keeps each pair together and leaves 3 groups."""
    candidates = (
        r"^(.*?)\d+\D*$",  # the name up to its last number: frames of one flight
        r"^(.*)/",  # the folder
        r"^([^/]*)/",  # the outermost folder
    )
    for pattern in candidates:
        keys = {name: match.group(1) for name in names if (match := re.search(pattern, name))}
        together = all(a in keys and keys[a] == keys.get(b) for a, b in pairs)
        if together and len(keys) == len(names) and len(set(keys.values())) >= 3:
            return f"keep them together with this line in dataset.yaml: group: '{pattern}'"
    stems = sorted({PurePosixPath(name).stem for pair in pairs for name in pair})
    if len(stems) > 6:
        return (
            "keep what looks alike on one side: remove the copies, or name photographs of one "
            "place alike, and let `group` in dataset.yaml find that part of their names"
        )
    return f"keep them in one split: list {', '.join(stems)} under split in dataset.yaml"
