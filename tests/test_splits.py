"""Random splits and folds: stratified by rare classes, in groups, the same for the same seed."""

import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.planning.plan import check_rare_classes
from segcore import prepare
from segcore.config import View
from segcore.data.preparing import prepare_data
from segcore.data.splits import SPLITS, Split, assign_folds, assign_splits
from segcore.errors import UserError
from tests.conftest import write_blocks

FRACTIONS: dict[Split, float] = {"val": 0.2, "test": 0.2}


def photographs(count: int, seed: int = 0) -> np.ndarray:
    """Pixels of 8 classes: class k is in about 1 of 2^k photographs."""
    rng = np.random.default_rng(seed)
    present = rng.random((count, 8)) < 0.5 ** np.arange(8)
    return np.where(present, rng.integers(1, 1000, (count, 8)), 0)


def names(count: int) -> list[str]:
    return [f"photo {index}" for index in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_every_split_has_its_share_of_photographs_and_of_every_class(seed: int) -> None:
    class_pixels_PK = photographs(300, seed)
    splits = np.array(assign_splits(class_pixels_PK, names(300), FRACTIONS, seed))
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        here = splits == split
        assert abs(here.sum() - share * 300) <= 6
        holders_K = (class_pixels_PK > 0).sum(axis=0)
        assert (np.abs((class_pixels_PK[here] > 0).sum(axis=0) - share * holders_K) <= 3).all()


def test_the_split_beats_a_plain_draw_on_rare_classes() -> None:
    class_pixels_PK = photographs(200)
    rarest = class_pixels_PK[:, -1] > 0
    assert rarest.sum() == 3  # A plain draw spreads them over all splits in 2 of 9 cases.
    splits = assign_splits(class_pixels_PK, names(200), {"val": 0.34, "test": 0.33}, seed=0)
    holders = {split for split, holds in zip(splits, rarest, strict=True) if holds}
    assert holders == set(SPLITS)


def test_a_class_of_a_single_photograph_goes_to_train() -> None:
    class_pixels_PK = np.ones((20, 2), np.int64)
    class_pixels_PK[:, 1] = 0
    class_pixels_PK[13, 1] = 5
    for seed in range(10):
        assert assign_splits(class_pixels_PK, names(20), FRACTIONS, seed)[13] == "train"


def test_the_seed_decides() -> None:
    draws = [assign_splits(photographs(60), names(60), FRACTIONS, seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_stand_on_two_sides(seed: int) -> None:
    groups = [f"flight {index // 7}" for index in range(70)]
    splits = assign_splits(photographs(70, seed), groups, FRACTIONS, seed)
    assert all(
        len({s for s, g in zip(splits, groups, strict=True) if g == own}) == 1 for own in groups
    )
    assert all(abs(splits.count(split) - 14) <= 7 for split in ("val", "test"))


def test_fixed_photographs_stay_and_take_their_group_along() -> None:
    groups = ["a", "a", "b", "c", "d", "e", "f", "g"]
    fixed: list[Split | None] = ["test", None, None, None, None, None, None, None]
    splits = assign_splits(np.ones((8, 2), np.int64), groups, {"val": 0.25}, 0, fixed)
    assert splits[:2] == ["test", "test"]
    assert Counter(splits[2:]) == {"train": 4, "val": 2}


def test_three_photographs_give_one_to_each_split() -> None:
    splits = assign_splits(np.ones((3, 2), np.int64), names(3), {"val": 0.15, "test": 0.15}, 0)
    assert set(splits) == set(SPLITS)


def test_unlabelled_photographs_count_as_nothing() -> None:
    class_pixels_PK = np.ones((6, 2), np.int64)
    class_pixels_PK[:3] = 0
    splits = assign_splits(class_pixels_PK, names(6), FRACTIONS, 0)
    assert set(splits[3:]) == set(SPLITS)


def test_too_few_groups_are_an_error_that_says_how_many() -> None:
    with pytest.raises(UserError, match=r"2 groups .* can't fill train, val and test"):
        assign_splits(np.ones((9, 2), np.int64), ["a", "b", "b"] * 3, FRACTIONS, 0)


def test_every_fold_has_its_share_of_every_class_and_no_group_is_torn() -> None:
    class_pixels_PK = photographs(300)
    groups = [f"flight {index // 3}" for index in range(300)]
    folds = np.array(assign_folds(class_pixels_PK, groups, 5, seed=0))
    assert Counter(folds.tolist()).keys() == set(range(5))
    assert all(len(set(folds[start : start + 3])) == 1 for start in range(0, 300, 3))
    for k in range(6):
        holders = np.bincount(folds[class_pixels_PK[:, k] > 0], minlength=5)
        assert np.ptp(holders) <= max(1, 0.12 * holders.mean()), f"class {k}: {holders}"
    assert folds.tolist() == assign_folds(class_pixels_PK, groups, 5, seed=0)


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(UserError, match="--folds 5: there are only 4 groups"):
        assign_folds(photographs(8) + 1, [str(index % 4) for index in range(8)], 5, seed=0)


def test_groups_are_what_is_independent_and_few_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_blocks(tmp_path / "data")
    with (folder / "dataset.yaml").open("a") as spec:
        spec.write(r"group: 'photo_\d(\d)'" + "\n")  # photo_00 and photo_10, photo_01 and photo_11
    assert prepare.main([str(folder), "--height-px", "32", "--width-px", "32"]) == 0
    told = capsys.readouterr().out
    found = re.search(
        r"Independent groups of photographs: (\d+) in train, (\d+) in val, (\d+) in test", told
    )
    assert found is not None and sum(map(int, found.groups())) == 10
    for split, units in zip(("val", "test"), found.groups()[1:], strict=True):
        assert (
            f"! {split}: The intervals are a guess: they rest on {units} independent groups" in told
        )


POOLS = {0, 2, 4, 8, 10, 12, 14, 15}
"""The photographs of ``write_blocks`` that have a pool."""


@pytest.mark.parametrize(
    ("val", "pools", "refused"),
    [
        ((1, 3), POOLS, True),
        ((0, 3), POOLS, False),
        ((1, 3), {0}, False),  # training can't spare the only photograph of a class
    ],
)
def test_a_validation_split_without_the_rare_classes_is_refused(
    val: tuple[int, int], pools: set[int], refused: bool, tmp_path: Path
) -> None:
    folder = write_blocks(tmp_path / "data")
    for number in POOLS - pools:
        path = folder / "masks" / f"photo_{number:02d}.png"
        mask_HW = np.array(Image.open(path))
        Image.fromarray(np.where(mask_HW == 2, 0, mask_HW)).save(path)
    listed = ", ".join(f"photo_{number:02d}" for number in val)
    split = f"{{val: [{listed}], test: [photo_05, photo_06]}}"
    spec = (folder / "dataset.yaml").read_text().replace("{val: 0.25, test: 0.25}", split)
    (folder / "dataset.yaml").write_text(spec)
    data = prepare_data(folder, [View(64, 64)], progress=False)
    with pytest.raises(UserError, match="has Pool: 1 of the 1") if refused else nullcontext():
        check_rare_classes(data)
