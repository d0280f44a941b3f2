"""dataset.yaml: pairs are found and split as it says; whatever is wrong is said at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segcore.data.dataset import Dataset, load_dataset
from segcore.data.spec import IGNORED_COLOR, DatasetSpec, distinct_colors
from segcore.errors import ProblemsError, UserError

REAL = Path(__file__).parents[2] / "shared" / "data"

SPEC: dict[str, Any] = {
    "images": "images/*.jpg",
    "masks": "masks/{stem}.png",
    "classes": ["Land", "Roof"],
}


def make(folder: Path, *names: str, **changes: Any) -> Path:
    """Write a data set of empty files; only names count here."""
    for name in names or ("images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        mask = path.parent.parent / "masks" / f"{path.stem}.png"
        mask.parent.mkdir(exist_ok=True)
        mask.touch()
    spec = {key: value for key, value in (SPEC | changes).items() if value is not None}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True))
    return folder


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        load_dataset(folder)
    return [str(problem) for problem in caught.value.problems]


def splits_of(dataset: Dataset) -> dict[str, str | None]:
    return {photo.path.stem: photo.split for photo in dataset.photos}


def test_pairs_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    dataset = load_dataset(make(tmp_path, "images/Straße 2.jpg", "images/b.jpg", "images/.c.jpg"))
    assert [photo.name for photo in dataset.photos] == ["images/Straße 2.jpg", "images/b.jpg"]
    assert dataset.photos[0].mask_path == tmp_path / "masks" / "Straße 2.png"
    assert splits_of(dataset) == {"Straße 2": None, "b": None}
    assert dataset.spec.split.fractions == {"val": 0.15, "test": 0.15}


def test_folder_in_the_mask_template_tells_equal_stems_apart(tmp_path: Path) -> None:
    names = [f"Tile {tile}/images/part.jpg" for tile in (1, 2, 3)]
    spec = {"images": "*/images/*.jpg", "masks": "{folder}/../masks/{stem}.png"}
    folder = make(tmp_path, *names, **spec, group=r"^(Tile \d+)/")
    photos = load_dataset(folder).photos
    assert [photo.mask_path for photo in photos] == [
        tmp_path / f"Tile {tile}" / "masks" / "part.png" for tile in (1, 2, 3)
    ]
    assert [photo.group for photo in photos] == ["Tile 1", "Tile 2", "Tile 3"]

    make(tmp_path, *names, **spec, split={"val": ["part"], "test": ["Tile 2/images/part.jpg"]})
    assert any("means Tile 1/images/part.jpg, Tile 2" in text for text in problems_of(folder))


@pytest.mark.parametrize("form", ["stems", "numbers", "names", "paths", "file"])
def test_splits_are_listed_by_stem_name_path_or_in_a_text_file(tmp_path: Path, form: str) -> None:
    make(tmp_path, *(f"images/{number}.jpg" for number in range(10, 14)))
    (tmp_path / "val.txt").write_text("# chosen by hand\n11\n\n12 \n")
    val = {
        "stems": ["11", "12"],
        "numbers": [11, 12],
        "names": ["11.jpg", "12.jpg"],
        "paths": ["images/11.jpg", "images/12"],
        "file": "val.txt",
    }[form]
    dataset = load_dataset(make(tmp_path, "images/10.jpg", split={"val": val, "test": 0.3}))
    assert splits_of(dataset) == {"10": None, "11": "val", "12": "val", "13": None}
    assert dataset.spec.split.fractions == {"test": 0.3}


def test_with_all_splits_listed_the_others_are_left_out_with_a_note(tmp_path: Path) -> None:
    split = {"train": ["a"], "val": ["b"], "test": ["c"]}
    dataset = load_dataset(make(tmp_path, split=split))
    assert splits_of(dataset) == {"a": "train", "b": "val", "c": "test"}
    assert dataset.notes == ("images/d.jpg: in no list of the split, so not used",)


def test_masks_without_a_photograph_are_a_note(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "masks" / "extra.png").touch()
    assert load_dataset(tmp_path).notes == ("masks/extra.png: masks without a photograph",)


def test_masks_may_lie_in_another_place_that_is_named_in_full(tmp_path: Path) -> None:
    make(tmp_path / "data")
    masks = (tmp_path / "data" / "masks").rename(tmp_path / "masks elsewhere")
    (masks / "extra.png").touch()
    make(tmp_path / "data", masks=f"{masks}/{{stem}}.png")
    dataset = load_dataset(tmp_path / "data")
    assert [photo.mask_path for photo in dataset.photos] == [masks / f"{k}.png" for k in "abcd"]
    assert dataset.notes == ("../masks elsewhere/extra.png: masks without a photograph",)


def test_every_problem_is_told_at_once_with_its_mend(tmp_path: Path) -> None:
    split = {"val": ["a", "bb"], "test": ["a", "c"]}
    make(tmp_path, split=split, group="images/([abc])")
    (tmp_path / "masks" / "b.png").unlink()
    found = problems_of(tmp_path)
    assert len(found) == 4
    assert any(text.startswith("images/b.jpg: its mask") for text in found)
    assert any("there is no photograph 'bb' → did you mean" in text for text in found)
    assert any(text.startswith("images/a.jpg: is in val and in test") for text in found)
    assert any(text.startswith("images/d.jpg: group") for text in found)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["images/a.JPG"], {}, r"finds nothing .* endings there: \.JPG"),
        (["images/a.jpg"], {"images": "/absolute/*.jpg"}, "images: '/absolute"),
        (["images/a.jpg", "images/a.png"], {"images": "images/*"}, "has the same mask as"),
        (["images/a.jpg"], {"split": {"val": "gone.txt"}}, "gone.txt can't be read"),
        (["images/a.jpg"], {"split": {"val": []}}, "split.val lists nothing"),
        (
            ["images/f1_a.jpg", "images/f1_b.jpg"],
            {"group": "(f1)", "split": {"val": ["f1_a"], "test": ["f1_b"]}},
            "of the same group is in val",
        ),
    ],
)
def test_each_problem_with_names_is_explained(
    tmp_path: Path, names: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProblemsError, match=message):
        load_dataset(make(tmp_path, *names, **changes))


def test_symlink_loops_end(tmp_path: Path) -> None:
    make(tmp_path, images="**/*.jpg")
    (tmp_path / "images" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "images" / "self.jpg").symlink_to("self.jpg")
    assert [text for text in problems_of(tmp_path) if "self" in text]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "images"),
        ({"extra": 1}, "extra = 1"),
        ({"masks": "masks/one.png"}, r"needs \{stem\}"),
        ({"masks": "{stem}/{name}.png"}, r"\{name\} means nothing"),
        ({"classes": ["One"]}, "2 to 255 classes"),
        ({"classes": [str(k) for k in range(256)]}, "2 to 255 classes"),
        ({"classes": ["A", "A", "B"]}, "A stand twice"),
        ({"classes": ["A", False]}, "False is no name"),
        ({"classes": {"A": 1, "B": "#FFFFFF"}}, "all index values 0 to 255, or all colours"),
        ({"classes": {"A": "#ffffff", "B": "#FFFFFF"}}, "same value"),
        ({"ignore_index": 1}, "both a class and ignored"),
        ({"ignore_colors": ["#000000"]}, "ignore_colors is for colour masks"),
        ({"group": "("}, "no regular expression"),
        ({"colors": {"Rof": "#000000"}}, "'Rof' is no class"),
        ({"split": {"val": 0.6, "test": 0.5}}, "train needs some"),
        ({"split": {"val": 1.5}}, "between 0 and 1"),
        ({"split": {"val": True}}, "expected a fraction"),
        ({"split": {"train": ["a"]}}, "list val and test too"),
        ({"split": {"train": 0.5, "val": 0.1, "test": 0.1}}, "don't add up to 1"),
    ],
)
def test_a_wrong_dataset_yaml_is_told_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(make(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: [", "no valid YAML"),
        ("- a\n- b", "holds no mapping"),
        ("images: a\nimages: b", "'images' stands twice"),
        ("!!python/object/apply:os.system [exit]", "no valid YAML"),
        ("a: 2020-99-99", "no valid YAML"),
        ("? [a]\n: b", "no valid YAML"),
    ],
)
def test_text_that_is_no_dataset_yaml_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_dataset(tmp_path)


def test_a_missing_or_undecodable_dataset_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.yaml").write_bytes(b"images: \xff")
    with pytest.raises(UserError, match="can't be read"):
        load_dataset(tmp_path)


def test_class_colours_come_from_the_spec_the_masks_or_stay_apart(tmp_path: Path) -> None:
    spec = load_dataset(make(tmp_path, classes=["A", "B"], colors={"B": "#0102ff"})).spec
    assert spec.class_colors[1] == (1, 2, 255)
    spec = load_dataset(make(tmp_path, classes={"A": "#FF0000", "B": "#00FF00"})).spec
    assert spec.class_colors == ((255, 0, 0), (0, 255, 0))
    spec = load_dataset(make(tmp_path, classes=[str(k) for k in range(255)])).spec
    assert len(set(spec.class_colors[:25])) == 25


@pytest.mark.skipif(not REAL.is_dir(), reason="real photographs are not here")
@pytest.mark.parametrize(
    ("name", "photos", "groups", "notes"),
    [("harvey", 3, 3, 1), ("dubai", 72, 8, 0), ("ortho_rs", 12, 12, 0)],
)
def test_real_data_sets_are_read(name: str, photos: int, groups: int, notes: int) -> None:
    dataset = load_dataset(REAL / name)
    assert len(dataset.photos) == photos
    assert len({photo.group for photo in dataset.photos}) == groups
    assert len(dataset.notes) == notes


def test_classes_without_colours_get_some_that_are_told_apart_and_that_stay() -> None:
    # Also from the grey of pixels that are ignored.
    apart = np.array([*distinct_colors(25), IGNORED_COLOR], dtype=float)
    distances = np.linalg.norm(apart[:, None] - apart[None], axis=-1)
    assert distances[~np.eye(26, dtype=bool)].min() > 40
    assert len(set(distinct_colors(254))) == 254

    def colors_of(classes: list[str]) -> tuple[tuple[int, int, int], ...]:
        return DatasetSpec(images="*", masks="{stem}", classes=classes).class_colors

    assert colors_of(["Land", "Roof", "Pool"])[:2] == colors_of(["Land", "Roof"])
