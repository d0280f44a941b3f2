"""Which photographs train, validate and test: a random split, stratified by the rare classes."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segcore.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def assign_splits(
    class_pixels_PK: NDArray[np.int64],
    groups: Sequence[str],
    fractions: Mapping[Split, float],
    seed: int,
    fixed: Sequence[Split | None] | None = None,
) -> list[Split]:
    """Give each of P photographs its split, so that every split has its share of every class.

    ``fractions`` of all photographs go to the splits it names, the rest to train. Photographs of
    one group stay together, and follow one that ``fixed`` (P entries, None: to be drawn) has
    placed. Photographs without a labelled pixel count as nothing.

    Iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label
    Data", ECML PKDD 2011, algorithm 1, on groups instead of single examples.

    Raises ``UserError`` where there are too few groups to give each split one.
    """
    names, group_P = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    # What a group weighs: for each class its photographs that hold it, and last all of them.
    holds_PK = np.column_stack([class_pixels_PK > 0, class_pixels_PK.sum(axis=1) > 0])
    weight_GK = np.zeros((len(names), holds_PK.shape[1]), np.int64)
    np.add.at(weight_GK, group_P, holds_PK)

    fixed_groups: dict[int, Split] = {}
    for group, split in zip(group_P, fixed or [None] * len(group_P), strict=True):
        if split is not None:
            fixed_groups[int(group)] = split
    drawn_groups = _draw(weight_GK, fractions, fixed_groups, np.random.default_rng(seed))
    _fill_empty_splits(drawn_groups, fixed_groups, weight_GK)
    split_of_group = drawn_groups | fixed_groups
    return [split_of_group[int(group)] for group in group_P]


def _draw(
    weight_GK: NDArray[np.int64],
    fractions: Mapping[Split, float],
    fixed_groups: Mapping[int, Split],
    rng: np.random.Generator,
) -> dict[int, Split]:
    """Hand out the groups that aren't fixed, those of the rarest class first, where it lacks."""
    total_K = weight_GK.sum(axis=0)
    lacks_K = {split: fraction * total_K for split, fraction in fractions.items()}
    lacks_K["train"] = total_K - sum(lacks_K.values())
    for group, split in fixed_groups.items():
        lacks_K[split if split in lacks_K else "train"] -= weight_GK[group]

    drawn: dict[int, Split] = {}
    left = [int(g) for g in rng.permutation(len(weight_GK)) if int(g) not in fixed_groups]
    while left:
        left_K = weight_GK[left].sum(axis=0)
        if not left_K.any():
            return drawn | dict.fromkeys(left, "train")  # Nothing labelled: weighs nothing.
        rarest = int(np.argmin(np.where(left_K > 0, left_K, np.iinfo(np.int64).max)))
        holders = sorted((g for g in left if weight_GK[g, rarest]), key=lambda g: -weight_GK[g, -1])
        for group in holders:
            # Of splits that lack the class equally, the one that lacks most photographs.
            split = max(lacks_K, key=lambda s: (lacks_K[s][rarest], lacks_K[s][-1]))
            drawn[group] = split
            lacks_K[split] = lacks_K[split] - weight_GK[group]
        left = [group for group in left if group not in drawn]
    return drawn


def _fill_empty_splits(
    drawn_groups: dict[int, Split],
    fixed_groups: dict[int, Split],
    weight_GK: NDArray[np.int64],
) -> None:
    """Move to each split without a labelled photograph the group that its split misses least."""
    # A group's share of each class, summed: small for few photographs of common classes.
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
        if not spare:
            raise UserError(
                f"no photograph is left for the split {empty!r}: "
                f"{np.count_nonzero(weight_GK[:, -1])} groups of photographs with labelled pixels "
                "can't fill train, val and test; add photographs, or make groups smaller"
            )
        drawn_groups[min(spare, key=lambda group: worth_G[group])] = empty
