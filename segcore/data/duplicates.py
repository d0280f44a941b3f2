"""Photographs in different splits that look nearly alike: scores on them would be too good."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from segcore.data.splits import Split

NEAR_BITS = 5
"""Photographs look alike if at most this many of the 64 bits of their hashes differ."""


def difference_hash(image_HWC: NDArray[np.uint8]) -> int:
    """64 bits: where a 9×8 grey thumbnail gets brighter from left to right (dHash, N. Krawetz)."""
    thumbnail = cv2.resize(image_HWC, (9, 8), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    brighter = grey[:, 1:] > grey[:, :-1]
    return int.from_bytes(np.packbits(brighter).tobytes(), "big")


def notes_on_duplicates(
    names: Sequence[str], looks: Sequence[int], splits: Sequence[Split]
) -> list[str]:
    """A note for each pair in two splits (10 at most), and one on how to mend it.

    ``looks`` are ``difference_hash`` of the photographs.
    """
    look_P = np.array(looks, np.uint64)
    side_P = np.array(splits)
    pairs = []
    for index in range(len(names)):
        later = slice(index + 1, None)
        apart = np.bitwise_count(look_P[later] ^ look_P[index])
        found = np.flatnonzero((apart <= NEAR_BITS) & (side_P[later] != side_P[index]))
        pairs += [(index, index + 1 + int(other)) for other in found]
    notes = [
        f"{names[a]} ({splits[a]}) and {names[b]} ({splits[b]}) look nearly alike"
        for a, b in pairs[:10]
    ]
    if len(pairs) > len(notes):
        notes.append(f"{len(pairs) - len(notes)} more pairs on two sides of a split look alike")
    if pairs:
        notes.append(_mend([(names[a], names[b]) for a, b in pairs], names))
    return notes


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
    return f"keep them in one split: list {', '.join(stems[:6])} under split in dataset.yaml"
