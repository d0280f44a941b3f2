"""Which photographs are for training, validation and test: random, but with a share of each class
in every split; and the same for folds."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from segcore.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Side = TypeVar("Side", Split, int)
"""One side of a random division: a split, or the number of a fold."""


def assign_splits(
    class_pixels_PK: NDArray[np.int64],
    groups: Sequence[str],
    fractions: Mapping[Split, float],
    seed: int,
    fixed: Sequence[Split | None] | None = None,
) -> list[Split]:
    """Give each of P photographs its split, so that every split has its share of every class.

    ``fractions`` of all photographs go to the splits that it names, the rest to train. Photographs
    of one group stay together; a group follows its photograph whose split is ``fixed`` (P entries,
    None: to be drawn). Photographs without a labelled pixel don't count.

    Iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label
    Data", ECML PKDD 2011, algorithm 1, on groups instead of single examples.

    Raises ``UserError`` where there are too few groups to give each split one.
    """
    group_P, weight_GK = _weigh(class_pixels_PK, groups)
    fixed_groups: dict[int, Split] = {}
    for group, split in zip(group_P, fixed or [None] * len(group_P), strict=True):
        if split is not None:
            fixed_groups[int(group)] = split
    total_K = weight_GK.sum(axis=0)
    lacks_K = {split: fraction * total_K for split, fraction in fractions.items()}
    lacks_K["train"] = total_K - sum(lacks_K.values())
    drawn_groups = _draw(weight_GK, lacks_K, fixed_groups, np.random.default_rng(seed))
    _fill_empty_splits(drawn_groups, fixed_groups, weight_GK)
    split_of_group = drawn_groups | fixed_groups
    return [split_of_group[int(group)] for group in group_P]


def assign_folds(
    class_pixels_PK: NDArray[np.int64], groups: Sequence[str], folds: int, seed: int
) -> list[int]:
    """Give each of P photographs one of the folds 0…``folds``−1, as ``assign_splits`` does splits.

    Raises ``UserError`` where there are fewer groups with labelled pixels than folds.
    """
    group_P, weight_GK = _weigh(class_pixels_PK, groups)
    labelled = int(np.count_nonzero(weight_GK[:, -1]))
    if labelled < folds:
        raise UserError(
            f"--folds {folds}: there are only {labelled} groups of labelled photographs outside of "
            "the test split; choose fewer folds, or make groups smaller"
        )
    lacks_K = {fold: weight_GK.sum(axis=0) / folds for fold in range(folds)}
    drawn = _draw(weight_GK, lacks_K, {}, np.random.default_rng(seed))
    return [drawn[int(group)] for group in group_P]


def notes_on_classes(
    class_names: Sequence[str], class_pixels_PK: NDArray[np.int64], splits: Sequence[Split]
) -> list[str]:
    """Which classes can't be learnt, or can't be scored, because no photograph holds them."""
    held_PK, split_P = class_pixels_PK > 0, np.array(splits)
    held_by = {
        split: set(np.flatnonzero(held_PK[split_P == split].any(axis=0)).tolist())
        for split in SPLITS
    }
    anywhere = set[int]().union(*held_by.values())

    def named(classes: set[int]) -> str:
        return ", ".join(class_names[k] for k in sorted(classes))

    nowhere = {*range(len(class_names))} - anywhere
    notes = [f"no photograph has {named(nowhere)}"] if nowhere else []
    for split, held in held_by.items():
        if missing := anywhere - held:
            notes.append(f"no photograph of {split} has {named(missing)}, though others have")
    return notes


def _weigh(
    class_pixels_PK: NDArray[np.int64], groups: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The group of each photograph as a number, and the weight of each group.

    The weight is, for each class, the number of the group's photographs that hold it; the last
    entry is the number of its labelled photographs.
    """
    names, group_P = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    holds_PK = np.column_stack([class_pixels_PK > 0, class_pixels_PK.sum(axis=1) > 0])
    weight_GK = np.zeros((len(names), holds_PK.shape[1]), np.int64)
    np.add.at(weight_GK, group_P, holds_PK)
    return group_P, weight_GK


def _draw(
    weight_GK: NDArray[np.int64],
    lacks_K: dict[Side, NDArray[np.float64]],
    fixed_groups: Mapping[int, Side],
    rng: np.random.Generator,
) -> dict[int, Side]:
    """Give each group that isn't fixed to the side that lacks its rarest class most.

    ``lacks_K`` is how much of each class every side is still to get. Groups without labelled
    pixels go to the last side.
    """
    last = list(lacks_K)[-1]
    for group, side in fixed_groups.items():
        short = side if side in lacks_K else last
        lacks_K[short] = lacks_K[short] - weight_GK[group]

    drawn: dict[int, Side] = {}
    left = [int(g) for g in rng.permutation(len(weight_GK)) if int(g) not in fixed_groups]
    while left:
        left_K = weight_GK[left].sum(axis=0)
        if not left_K.any():
            return drawn | dict.fromkeys(left, last)
        rarest = int(np.argmin(np.where(left_K > 0, left_K, np.iinfo(np.int64).max)))
        holders = sorted((g for g in left if weight_GK[g, rarest]), key=lambda g: -weight_GK[g, -1])
        for group in holders:
            # Of the sides that lack the class equally, take the one that lacks most photographs.
            side = max(lacks_K, key=lambda s: (lacks_K[s][rarest], lacks_K[s][-1]))
            drawn[group] = side
            lacks_K[side] = lacks_K[side] - weight_GK[group]
        left = [group for group in left if group not in drawn]
    return drawn


def _fill_empty_splits(
    drawn_groups: dict[int, Split],
    fixed_groups: dict[int, Split],
    weight_GK: NDArray[np.int64],
) -> None:
    """Move a group to each split that has no labelled photograph: the group that is missed least.

    A group's worth is the sum of its shares of each class: small for few photographs of common
    classes.
    """
    worth_G = (weight_GK / np.maximum(weight_GK.sum(axis=0), 1)).sum(axis=1)

    def members(split: Split, groups: Mapping[int, Split]) -> list[int]:
        return [g for g, own in groups.items() if own == split and weight_GK[g, -1] > 0]

    for empty in SPLITS:
        if members(empty, drawn_groups | fixed_groups):
            continue
        spare = [
            group
            for split in SPLITS
            if len(members(split, drawn_groups | fixed_groups)) > 1
            for group in members(split, drawn_groups)
        ]
        if not weight_GK[:, -1].any():
            raise UserError(
                "no photograph has a labelled pixel: all that the masks hold is ignored, or lies "
                "where the photographs hold no data (transparency, or a value for no data)"
            )
        if not spare:
            raise UserError(
                f"no photograph is left for the split {empty!r}: "
                f"{np.count_nonzero(weight_GK[:, -1])} groups of photographs with labelled pixels "
                "can't fill train, val and test; add photographs, or make groups smaller"
            )
        drawn_groups[min(spare, key=lambda group: worth_G[group])] = empty
