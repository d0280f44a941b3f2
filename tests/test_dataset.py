"""dataset.yaml: pairs are found and split as it says; whatever is wrong is said at once."""

import datetime
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segcore.config import IGNORED_COLOR
from segcore.data.dataset import Dataset, load_dataset
from segcore.data.spec import DatasetSpec, distinct_colors
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


def notes_of(dataset: Dataset) -> list[str]:
    return [str(note) for note in dataset.notes]


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
    assert notes_of(dataset) == ["images/d.jpg: in no list of the split, so not used"]


def test_masks_without_a_photograph_are_a_note(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "masks" / "extra.png").touch()
    assert notes_of(load_dataset(tmp_path)) == ["masks/extra.png: masks without a photograph"]


def test_masks_may_lie_in_another_place_that_is_named_in_full(tmp_path: Path) -> None:
    make(tmp_path / "data")
    masks = (tmp_path / "data" / "masks").rename(tmp_path / "masks elsewhere")
    (masks / "extra.png").touch()
    make(tmp_path / "data", masks=f"{masks}/{{stem}}.png")
    dataset = load_dataset(tmp_path / "data")
    assert [photo.mask_path for photo in dataset.photos] == [masks / f"{k}.png" for k in "abcd"]
    assert notes_of(dataset) == ["../masks elsewhere/extra.png: masks without a photograph"]


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
        (["images/a.jpg"], {"masks": f"masks/{{stem}}{'x' * 300}.png"}, "does not exist"),
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


def test_photographs_behind_links_to_folders_are_found_and_circles_end(tmp_path: Path) -> None:
    folder = make(tmp_path / "data", images="images/**/*.jpg", masks="masks/{stem}.png")
    (tmp_path / "disk2").mkdir()
    (folder / "images" / "d.jpg").rename(tmp_path / "disk2" / "d.jpg")
    (folder / "images" / "flight2").symlink_to("../../disk2", target_is_directory=True)
    (tmp_path / "disk2" / "back").symlink_to(folder, target_is_directory=True)
    dataset = load_dataset(folder)
    assert [photo.name for photo in dataset.photos] == [
        "images/a.jpg", "images/b.jpg", "images/c.jpg", "images/flight2/d.jpg"
    ]  # fmt: skip
    assert dataset.notes == ()


def test_what_systems_leave_in_folders_is_no_photograph_and_no_mask(tmp_path: Path) -> None:
    make(tmp_path, "images/a.jpg", images="**/images/**/*")
    for name in (
        "images/._a.jpg", "__MACOSX/images/._a.jpg", "__MACOSX/images/b.jpg", "images/Thumbs.db",
        "images/.ipynb_checkpoints/a-checkpoint.jpg", "images/@eaDir/a.jpg/thumb.jpg",
        "masks/._a.png", "masks/.ipynb_checkpoints/a.png",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    dataset = load_dataset(tmp_path)
    assert [photo.name for photo in dataset.photos] == ["images/a.jpg"]
    assert dataset.notes == ()


NAMES = [
    "ä ö",
    "#0 roof",
    "it's #2",
    "c.v2",
    "x\\y",
    "  pad ",
    "“q”",
    "50% [1]",
    "-",
    "日本",
    "é\u2028",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "line",
    [
        "{stem}", "{stem}.jpg", "images/{stem}.jpg", "./images/{stem}.jpg", "images\\{stem}.jpg",
        "{folder}/images/{stem}.jpg", "{stem}.jpg\t ", '"{stem}.jpg"', "'images/{stem}'",
        "{stem}.JPG", "IMAGES\\{stem}.jpg", "{stem}.jpg\t17\tgood", "{stem}.jpg  # checked",
    ],
)  # fmt: skip
def test_a_line_of_a_list_means_the_photograph_that_a_person_would_read(
    tmp_path: Path, name: str, line: str
) -> None:
    folder = make(tmp_path, f"images/{name}.jpg", "images/b.jpg", split={"val": "val.txt"})
    entry = line.format(stem=name, folder=folder)
    (folder / "val.txt").write_text(f"# a comment\n#b\n\n{entry}\n", encoding="utf-8")
    assert splits_of(load_dataset(folder)) == {name: "val", "b": None}


@pytest.mark.parametrize(
    ("encoding", "newline"),
    [
        ("utf-8", "\r\n"), ("utf-8", "\r"), ("utf-8-sig", "\r\n"), ("utf-16", "\n"),
        ("utf-16", "\r\n"), ("utf-16-be", "\r\n"), ("utf-32", "\n"), ("cp1252", "\r\n"),
        ("latin-1", "\n"),
    ],
)  # fmt: skip
def test_lists_and_dataset_yaml_are_read_as_editors_write_them(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    folder = make(tmp_path, "images/Übersicht.jpg", "images/b.jpg", split={"val": "Wörter.txt"})
    text = newline.join(["# Größe", "Übersicht", ""])
    (folder / "Wörter.txt").write_bytes(text.encode(encoding))
    assert splits_of(load_dataset(folder)) == {"Übersicht": "val", "b": None}
    spec = newline.join((folder / "dataset.yaml").read_text().splitlines())
    (folder / "dataset.yaml").write_bytes(spec.encode(encoding))
    if encoding in ("cp1252", "latin-1"):  # nothing would tell that names of classes are wrong
        with pytest.raises(UserError, match=r"can't be read.*save it as UTF-8"):
            load_dataset(folder)
    else:
        assert splits_of(load_dataset(folder)) == {"Übersicht": "val", "b": None}


def test_a_list_in_an_encoding_that_can_not_be_told_is_one_problem(tmp_path: Path) -> None:
    folder = make(tmp_path, "images/Крыша.jpg", "images/b.jpg", split={"val": "val.txt"})
    (folder / "val.txt").write_bytes("Крыша\n".encode("cp1251"))
    (problem,) = problems_of(folder)
    assert "val.txt is no UTF-8" in problem and "save it as a text file" in problem


def test_an_entry_that_differs_in_case_from_two_photographs_is_asked_about(tmp_path: Path) -> None:
    folder = make(tmp_path, "images/Roof.jpg", "images/roof.jpg", "images/b.jpg")
    make(folder, "images/b.jpg", split={"val": ["ROOF"]})
    (problem,) = problems_of(folder)
    assert "'ROOF' means images/Roof.jpg, images/roof.jpg" in problem
    make(folder, "images/b.jpg", split={"val": ["Roof"]})
    assert splits_of(load_dataset(folder)) == {"Roof": "val", "roof": None, "b": None}


NFC, NFD = (unicodedata.normalize(form, "Gebäude Å é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("image", [NFC, NFD])
@pytest.mark.parametrize("mask", [NFC, NFD])
@pytest.mark.parametrize("written", [NFC, NFD])
def test_names_in_any_normal_form_are_one_name(
    tmp_path: Path, image: str, mask: str, written: str
) -> None:
    for kind, name, ending in (("i", image, "jpg"), ("m", mask, "png")):
        for number in (0, 1):
            path = tmp_path / name / kind / f"{name} {number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    spec = SPEC | {
        "images": f"{written}/i/*.jpg", "masks": f"{written}/m/{{stem}}.png",
        "group": f"{written} (.)",
        "split": {"val": [f"{written} 0"], "test": f"{written}.txt"},
    }  # fmt: skip
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True))
    (tmp_path / f"{image}.txt").write_text(f"{written} 1\n")
    dataset = load_dataset(tmp_path)
    # What is shown and stored is the same on every machine.
    assert [(photo.name, photo.group, photo.split) for photo in dataset.photos] == [
        (f"{NFC}/i/{NFC} 0.jpg", "0", "val"), (f"{NFC}/i/{NFC} 1.jpg", "1", "test")
    ]  # fmt: skip
    assert all(photo.path.is_file() and photo.mask_path.is_file() for photo in dataset.photos)
    assert dataset.notes == ()


def test_files_whose_names_differ_only_in_normal_form_are_told_apart(tmp_path: Path) -> None:
    make(tmp_path, f"images/{NFC}.jpg", f"images/{NFD}.jpg", "images/b.jpg")
    problems = problems_of(tmp_path)
    assert len(problems) == 2
    assert all("differ only in Unicode's normal form" in problem for problem in problems)
    assert all(r"Geb\xe4ude" in problem and r"Geba\u0308ude" in problem for problem in problems)


def test_a_name_that_is_no_unicode_is_a_problem_that_can_be_printed(tmp_path: Path) -> None:
    make(tmp_path, "images/b.jpg", os.fsdecode("images/Gebäude.jpg".encode("latin-1")))
    (problem,) = problems_of(tmp_path)
    assert problem.encode() and "Geb\\udce4ude.jpg': its name is no UTF-8" in problem


def test_symlink_loops_end(tmp_path: Path) -> None:
    make(tmp_path, images="**/*.jpg")
    (tmp_path / "images" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "images" / "self.jpg").symlink_to("self.jpg")
    assert [text for text in problems_of(tmp_path) if "self" in text]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "images: is missing$"),
        ({"extra": 1}, "extra = 1: there is no such setting"),
        ({"split": 0.2}, "split = 0.2: should be a mapping$"),
        ({"classes": {0: "A", 1: "B"}}, "the name comes first: {A: 0, …}"),
        ({"images": {"x" * 1000: 1}}, "x…: should be a valid string"),
        ({"masks": "masks/one.png"}, r"needs \{stem\}"),
        ({"masks": "{stem}/{name}.png"}, r"\{name\} means nothing"),
        ({"classes": ["One"]}, "2 to 255 classes"),
        ({"classes": [str(k) for k in range(256)]}, "2 to 255 classes"),
        ({"classes": ["A", "A", "B"]}, "A stand twice"),
        ({"classes": ["A", False]}, "False is no name"),
        ({"classes": ["A\nB", "C"]}, r"'A\\nB' holds a control character; write it on one line"),
        ({"classes": {"A": 1, "B": "#FFFFFF"}}, "all index values 0 to 255, or all colours"),
        ({"classes": {"A": "#ffffff", "B": "#FFFFFF"}}, "same value"),
        ({"ignore_index": 1}, "both a class and ignored"),
        ({"ignore_colors": ["#000000"]}, "ignore_colors is for colour masks"),
        ({"group": "("}, "no regular expression"),
        ({"group": {"cell_m": 0}}, "greater than 0"),
        ({"masks": {"match": "(", "path": "{1}"}}, "no regular expression"),
        ({"masks": {"match": "a", "path": "{1}.png"}}, r"needs \{stem\}"),
        ({"masks": {"match": "(a)", "path": "{1}{2}.png"}}, r"\{2\} means nothing"),
        ({"snap": "near"}, "nearest"),
        ({"snap": {"ignore": 0.6}}, "less than 0.5"),
        ({"fit": "stretch"}, "crop"),
        ({"colors": {"Rof": "#000000"}}, "'Rof' is no class"),
        ({"split": {"val": 0.6, "test": 0.5}}, "train needs some"),
        ({"split": {"val": 1.5}}, "between 0 and 1"),
        ({"split": {"val": True}}, "expected a fraction"),
        ({"split": {"val": [datetime.date(2021, 5, 1)]}}, "2021-05-01 is no name as YAML reads it"),
        ({"split": {"val": [1.10]}}, "1.1 is no name as YAML reads it; put quotes"),
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
        ("images: **/*.png", "put quotes around what begins with"),
        ("- a\n- b", "holds no mapping"),
        ("images: a\nimages: b", "'images' stands twice"),
        ("classes: {Road: 010}", "010 means 8 in YAML; write that, or put quotes around it"),
        ("split: {val: [1:30]}", "1:30 means 90 in YAML"),
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


def test_an_expression_finds_masks_that_are_named_otherwise(tmp_path: Path) -> None:
    for name in ("a/1_sat.jpg", "a/1_mask.png", "b/2_sat.jpg", "b/2_mask.png", "b/3_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rule = {"match": r"(?P<id>\d+)_sat", "path": "{folder}/{id}_mask.png"}
    spec = SPEC | {"images": ["a/*.jpg", "b/*.jpg"], "masks": rule}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(spec))
    dataset = load_dataset(tmp_path)
    assert [photo.mask_path.name for photo in dataset.photos] == ["1_mask.png", "2_mask.png"]
    assert notes_of(dataset) == ["b/3_mask.png: masks without a photograph"]
    (tmp_path / "a" / "other.jpg").touch()
    assert any(
        "a/other.jpg: masks: match doesn't match it" in text for text in problems_of(tmp_path)
    )


def test_what_is_a_mask_is_no_photograph(tmp_path: Path) -> None:
    for name in ("1.png", "1_mask.png", "2.png", "2_mask.png"):
        (tmp_path / name).touch()
    spec = SPEC | {"images": "*.png", "masks": "{stem}_mask.png"}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(spec))
    assert [photo.name for photo in load_dataset(tmp_path).photos] == ["1.png", "2.png"]


def test_a_list_may_name_folders(tmp_path: Path) -> None:
    names = ["train/images/a.jpg", "train/images/b.jpg", "val/images/c.jpg", "test/images/d.jpg"]
    spec = {"images": "*/images/*.jpg", "masks": "{folder}/../masks/{stem}.png"}
    split = {"val": ["val/*"], "test": ["test/*"]}
    dataset = load_dataset(make(tmp_path, *names, **spec, split=split))
    assert splits_of(dataset) == {"a": None, "b": None, "c": "val", "d": "test"}
    make(tmp_path, *names, **spec, split=split | {"test": ["tests/*"]})
    assert "there is no photograph 'tests/*'" in problems_of(tmp_path)[0]


@pytest.mark.parametrize("line", ["IMG{:02d}.jpg", "images/{0:02d}.jpg masks/{0:02d}.png"])
def test_a_list_in_another_form_is_one_problem_to_a_reader(tmp_path: Path, line: str) -> None:
    names = [f"images/{number:02d}.jpg" for number in range(20)]
    make(tmp_path, *names, split={"val": "val.txt"})
    (tmp_path / "val.txt").write_text("\n".join(map(line.format, range(12))))
    with pytest.raises(ProblemsError) as caught:
        load_dataset(tmp_path)
    told = str(caught.value).splitlines()
    assert len(told) == 4
    assert told[1].endswith("write stems or relative paths, such as images/00.jpg, one an entry")
    assert f"likewise 11 more: split.val: there is no photograph {line.format(1)!r}" in told[2]
    make(tmp_path, *names, images="photos/*.jpg", split={"val": "val.txt"})
    assert len(problems_of(tmp_path)) == 1, "which names nothing because there is nothing"


def test_a_glob_in_a_list_is_found_whatever_its_normal_form(tmp_path: Path) -> None:
    folder = make(tmp_path, f"images/{NFC} 0.jpg", "images/b.jpg", split={"val": "val.txt"})
    (folder / "val.txt").write_text(f"images/{NFD} *\n")
    assert splits_of(load_dataset(folder)) == {f"{NFC} 0": "val", "b": None}


@pytest.mark.parametrize("name", ["dataset.yml", "Dataset.yaml"])
def test_a_dataset_yaml_of_another_name_is_not_passed_over(tmp_path: Path, name: str) -> None:
    (make(tmp_path) / "dataset.yaml").rename(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} must be called dataset\.yaml"):
        load_dataset(tmp_path)


def test_problems_of_one_kind_are_told_once_and_each_if_asked_for(tmp_path: Path) -> None:
    names = [f"images/{number:02d}.jpg" for number in range(12)]
    make(tmp_path, *names)
    for number in range(10):
        (tmp_path / "masks" / f"{number:02d}.png").unlink()
    with pytest.raises(ProblemsError) as caught:
        load_dataset(tmp_path)
    told = str(caught.value).splitlines()
    assert len(told) == 4
    assert told[0].endswith("10 problems")
    assert "images/00.jpg: its mask" in told[1]
    others = "images/01.jpg, images/02.jpg, images/03.jpg and 6 more"
    assert told[2].strip() == f"likewise 9 more: {others}"
    assert told[3].strip() == f"each of them: python -m segcore.prepare {tmp_path} --all"
    assert len(caught.value.each().splitlines()) == 11
