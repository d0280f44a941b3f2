"""A folder without dataset.yaml: pairs, classes and groups are guessed, and each guess is told."""

import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image

from segcore import prepare as command
from segcore.data.building import draw_splits
from segcore.data.dataset import load_dataset
from segcore.data.spec import DatasetSpec, load_spec
from segcore.data.splits import assign_splits
from segcore.errors import ProblemsError, UserError
from segcore.guessing.groups import guess_share
from segcore.guessing.pairs import find_pairs
from segcore.guessing.patterns import image_globs, mask_rule
from segcore.guessing.writing import guess_dataset

REAL = Path(__file__).parents[2] / "shared" / "data"

LAYOUTS: dict[str, tuple[list[str], int]] = {
    "endings": (["train/1_sat.jpg", "train/1_mask.png", "train/2_sat.jpg", "train/2_mask.png"], 2),
    "folders and endings": (
        ["2_RGB/top_2_10_RGB.tif", "5_Labels/top_2_10_label.tif", "2_RGB/top_3_11_RGB.tif",
         "5_Labels/top_3_11_label.tif", "3_IRRG/top_2_10_IRRG.tif", "1_DSM/dsm_02_10.tif"],
        2,
    ),
    "foreign folders": (["top/area1.tif", "top/area3.tif", "gts_for_all/area1.tif",
                         "gts_for_all/area3.tif"], 2),
    "nested": ([f"{s}/{d}/{k}_png/{n}.png" for s in ("Train", "Val") for d in ("Urban", "Rural")
                for k in ("images", "masks") for n in (1, 2)], 8),
    "both trees": (["images/a/x_1.jpg", "images/b/x_1.jpg", "anno/a/x_1.png", "anno/b/x_1.png"], 2),
    "depths": (["images/a.jpg", "images/s/b.jpg", "masks/a.png", "masks/s/b.png"], 2),
    "several masks": ([f"{k}/t/aa/a_0{n}_{e}.png" for n in (1, 2) for k, e in (
        ("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_color"), ("gtFine", "gtFine_labelIds"))],
        2),
    "one folder": (["1.png", "1_mask.png", "2.png", "2_mask.png"], 2),
    "prefixes": (["img_01.jpg", "img_02.jpg", "mask_01.png", "mask_02.png"], 2),
    "inside of words": (["aRGB.tif", "aMask.tif", "cityRGB.tif", "cityMask.tif"], 2),
    "words in both": (["train-org-img/10.jpg", "train-label-img/10_lab.png", "train-org-img/11.jpg",
                       "train-label-img/11_lab.png"], 2),
    "two endings": (["images/a.jpg", "images/b.JPG", "masks/a.png", "masks/b.png"], 2),
    "no words": (["a.jpg", "a.png", "b.jpg", "b.png"], 2),
    "a sign": (["1.tif", "1_m.tif", "2.tif", "2_m.tif"], 2),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_found_by_names_and_dataset_yaml_finds_the_same(
    tmp_path: Path, layout: str
) -> None:
    names, count = LAYOUTS[layout]
    pairs = find_pairs(names, lambda name: name.endswith(("_m.tif", "a.png", "b.png")))
    assert len(pairs.masks) == count
    assert not set(pairs.masks) & set(pairs.masks.values())
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rule, failing = mask_rule(pairs.masks)
    assert not failing
    masks = rule if isinstance(rule, str) else rule.model_dump()
    spec = {"images": image_globs([*pairs.masks]), "masks": masks, "classes": ["A", "B"]}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(spec))
    found = {
        photo.name: photo.mask_path.relative_to(tmp_path).as_posix()
        for photo in load_dataset(tmp_path).photos
    }
    assert found == pairs.masks


def draw(number: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    mask = np.zeros((48, 64), np.uint8)
    for k in range(1, classes):
        top, left = rng.integers(0, (28, 44))
        mask[top : top + 20, left : left + 20] = k
    noise = rng.normal(0, 9, (48, 64, 3))
    return (mask[..., None] * 60 + 40 + noise).clip(0, 255).astype(np.uint8), mask


def write(
    folder: Path,
    change: Callable[[np.ndarray], np.ndarray],
    name: str = "{n}",
    ending: str = "png",
    classes: int = 3,
    count: int = 9,
) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, mask = draw(number, classes)
        stem = name.format(n=number, g=number // 3)
        Image.fromarray(image).save(folder / "images" / f"{stem}.jpg")
        Image.fromarray(change(mask)).save(folder / "masks" / f"{stem}.{ending}")
    return folder


def guessed(folder: Path) -> DatasetSpec:
    (folder / "dataset.yaml").write_text(guess_dataset(folder, progress=False).text)
    return load_spec(folder / "dataset.yaml")


COLORS = np.array([(0, 0, 0), (220, 20, 60), (30, 144, 255)], np.uint8)


def test_numbers_are_classes_and_255_is_ignored(tmp_path: Path) -> None:
    def with_rim(mask: np.ndarray) -> np.ndarray:
        return np.pad(mask[2:], ((2, 0), (0, 0)), constant_values=255)

    spec = guessed(write(tmp_path / "data", with_rim))
    assert spec.classes == {"Class 0": 0, "Class 1": 1, "Class 2": 2}
    assert (spec.ignore_index, spec.snap, spec.fit, spec.bands) == (255, None, None, None)
    text = guess_dataset(tmp_path / "data", progress=False).text
    assert "write `ignore_index" not in text, "there can be only one"
    plain = write(tmp_path / "plain", lambda mask: mask)
    assert "write `ignore_index: NUMBER` below" in guess_dataset(plain, progress=False).text


def test_two_values_are_background_and_foreground(tmp_path: Path) -> None:
    spec = guessed(write(tmp_path / "data", lambda mask: mask * 255, classes=2))
    assert spec.classes == {"Background": 0, "Foreground": 255}
    assert spec.ignore_index is None


def test_smoothed_masks_get_snap(tmp_path: Path) -> None:
    def smooth(mask: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(mask * 255, (5, 5), 1), np.uint8)

    spec = guessed(write(tmp_path / "data", smooth, classes=2))
    assert spec.classes == {"Background": 0, "Foreground": 255}
    assert spec.snap == "nearest"


def test_colours_saved_as_jpeg_are_found_again(tmp_path: Path) -> None:
    spec = guessed(write(tmp_path / "data", lambda mask: COLORS[mask], ending="jpg"))
    assert {*spec.class_names} == {"Black", "Crimson", "Dodgerblue"}
    found = np.array(sorted(spec.class_colors), int)
    assert np.abs(found - sorted(COLORS.tolist())).max() < 8
    assert spec.snap == "nearest"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("class_dict.csv", "name,r,g,b\nroof,220,20,60\npool,30,144,255\nunlabelled,0,0,0\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroof:220,20,60::\npool:30,144,255::\n"
                         "void:0,0,0::\n"),
        ("meta.json", '{"classes": [{"title": "roof", "color": "#DC143C"}, {"title": "pool",'
                      ' "color": "#1E90FF"}, {"title": "unknown", "color": "#000000"}]}'),
        ("colours.json", '{"roof": [220, 20, 60], "pool": "#1E90FF", "ignore": [0, 0, 0]}'),
    ],
)  # fmt: skip
def test_a_legend_names_classes_and_what_is_ignored(
    tmp_path: Path, file: str, content: str
) -> None:
    folder = write(tmp_path / "data", lambda mask: COLORS[mask])
    (folder / file).write_text(content)
    spec = guessed(folder)
    assert spec.classes == {"roof": "#DC143C", "pool": "#1E90FF"}
    assert spec.ignore_colors == ["#000000"]
    assert file in (folder / "dataset.yaml").read_text()


def test_a_legend_with_semicolons_as_excel_writes_it_in_europe(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda mask: mask)
    (folder / "classes.csv").write_text("Name;Value\nlawn, wet;0\nroof;1\npool;2\n")
    assert guessed(folder).classes == {"lawn, wet": 0, "roof": 1, "pool": 2}


def test_of_several_numbers_without_a_class_one_is_ignored_and_none_is_lost(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "data", lambda mask: mask)
    entries = {"unlabelled": 0, "roof\x07\n tile": 1, "void": 2, "pool": 300, "sea": 4}
    (folder / "classes.json").write_text(json.dumps(entries))
    spec = guessed(folder)
    assert spec.ignore_index == 0
    assert spec.classes == {"roof tile": 1, "void": 2, "sea": 4}


def test_a_number_that_files_call_no_data_is_ignored_and_not_lost_in_silence(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "data", lambda mask: mask, ending="tif")
    for path in (folder / "masks").iterdir():
        with rasterio.open(path, "r+") as raster:
            raster.nodata = 2
    spec = guessed(folder)
    assert spec.classes == {"Background": 0, "Foreground": 1} and spec.ignore_index == 2


@pytest.mark.parametrize("legend", [True, False])
def test_colours_that_are_a_level_off_are_those_of_their_classes(
    tmp_path: Path, legend: bool
) -> None:
    def drawn(mask: np.ndarray) -> np.ndarray:
        colored = COLORS[mask]
        colored[:, ::3] += (mask[:, ::3] == 1)[..., None].astype(np.uint8)
        return colored

    folder = write(tmp_path / "data", drawn)
    if legend:
        (folder / "classes.csv").write_text("name,hex\nlawn,#000000\nroof,#DC143C\npool,#1E90FF\n")
    spec = guessed(folder)
    assert {*spec.classes.values()} == {"#000000", "#DC143C", "#1E90FF"}
    assert spec.snap == "nearest" and spec.ignore_colors == []
    assert ("roof" in spec.classes) == legend


def test_names_with_control_characters_do_not_break_what_is_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda mask: mask)
    for name in ("odd\x07\x85.png", "images/bare\x1b\u2028\nbreak.jpg"):
        Image.new("RGB", (64, 48)).save(folder / name)
    assert guessed(folder).without_mask == "skip"
    assert len(load_dataset(folder).photos) == 9
    farmer = folder / 'masks of "👨\u200d🌾\\"'  # One picture of two, joined by what isn't seen.
    (folder / "masks").rename(farmer)
    guessed(folder)
    assert load_dataset(folder).photos[0].mask_path.parent == farmer


def test_a_folder_that_dataset_yaml_can_not_name_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda mask: mask)
    (folder / "masks").rename(folder / "masks {new}")
    with pytest.raises(UserError, match=r"masks \{new\}/0.png: \{ and \} mean .* rename it"):
        guess_dataset(folder, progress=False)


def test_lines_of_a_file_of_labels_name_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda mask: mask)
    (folder / "labels.txt").write_text("lawn\nroof\npool\ncar\n")
    assert guessed(folder).classes == {"lawn": 0, "roof": 1, "pool": 2, "car": 3}


def test_flights_and_folders_are_groups_and_folders_are_splits(tmp_path: Path) -> None:
    spec = guessed(write(tmp_path / "flights", lambda mask: mask, name="flight{g}_{n:03d}"))
    assert spec.group == r"^(.*?)\d+\D*$"
    assert (spec.split.val, spec.split.test) == (0.25, 0.25), "few groups: 0.15 would be one"
    folder = tmp_path / "split"
    for split in ("train", "val", "test"):
        write(folder / split, lambda mask: mask)
    spec = guessed(folder)
    assert (spec.split.val, spec.split.test) == (["val/*"], ["test/*"])
    splits = [photo.split for photo in load_dataset(folder).photos]
    assert (splits.count("val"), splits.count("test"), splits.count(None)) == (9, 9, 9)


@pytest.mark.parametrize("units", range(18, 48))
@pytest.mark.parametrize("grouped", [False, True])
def test_shares_give_validation_and_test_six_units_each_where_there_are_eighteen(
    units: int, grouped: bool
) -> None:
    rng = np.random.default_rng(units)
    groups = [f"flight {unit}" for unit in range(units) for _ in range(3 if grouped else 1)]
    has_PK = rng.random((len(groups), 6)) < np.array([1, 0.9, 0.6, 0.3, 0.15, 0.05])
    share = guess_share(has_PK, groups)
    drawn = assign_splits(has_PK.astype(int), groups, {"val": share, "test": share}, seed=0)
    counts = Counter(split for split, _ in {*zip(drawn, groups, strict=True)})
    assert min(counts["val"], counts["test"]) >= 6 and counts["train"] >= 4, (share, counts)
    assert share <= 0.25 or units < 26, "no more than is needed"


def test_few_photographs_get_shares_that_are_enough_and_the_reason(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda mask: mask, count=20)
    spec = guessed(folder)
    assert 0.25 < spec.split.val == spec.split.test <= 1 / 3
    text = " ".join((folder / "dataset.yaml").read_text().replace("\n#", "").split())
    assert "each of the two needs 6 of the 20 photographs" in text
    dataset = load_dataset(folder)
    pixels_PK = np.array([np.bincount(np.array(Image.open(photo.mask_path)).ravel(), minlength=3)
                          for photo in dataset.photos])  # fmt: skip
    counts = Counter(draw_splits(dataset, pixels_PK))
    assert counts["val"] >= 6 and counts["test"] >= 6
    few = write(tmp_path / "few", lambda mask: mask)
    assert guessed(few).split.val == 0.25
    assert "this large" not in (few / "dataset.yaml").read_text(), "9 can't give each six"


def test_photographs_on_the_ground_are_grouped_by_area_with_all_their_bands(tmp_path: Path) -> None:
    for part in ("tiles", "gt"):
        (tmp_path / part).mkdir()
    for number in range(12):
        image, mask = draw(number)
        deep = np.concatenate([image, image[..., :1]], -1).astype(np.uint16) * 20
        east = 500_000 + 64 * (number % 2) + 5000 * (number // 2)
        for path, array in (("tiles/{}.tif", deep), ("gt/{}_gt.tif", mask[..., None])):
            size = {"height": 48, "width": 64, "count": array.shape[2], "dtype": array.dtype}
            place = {"crs": "EPSG:32632", "transform": rasterio.Affine(1, 0, east, 0, -1, 5e6)}
            with rasterio.open(tmp_path / path.format(number), "w", **size, **place) as raster:
                raster.write(array.transpose(2, 0, 1))
    guess = guess_dataset(tmp_path, progress=False)
    assert "uint16" in guess.text
    spec = guessed(tmp_path)
    assert spec.bands == [1, 2, 3, 4]
    groups = {photo.path.stem: photo.group for photo in load_dataset(tmp_path).photos}
    assert len({*groups.values()}) >= 3
    together = [groups[str(n)] == groups[str(n + 1)] for n in range(0, 12, 2)]
    assert sum(together) >= 4, "neighbours are mostly in one cell"


def test_photographs_without_a_mask_are_left_out_and_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda mask: mask)
    Image.fromarray(draw(0)[0]).save(folder / "images" / "bare.jpg")
    guess = guess_dataset(folder, progress=False)
    assert any("no mask, so they are left out (1)" in check for check in guess.checks)
    guessed(folder)
    dataset = load_dataset(folder)
    assert len(dataset.photos) == 9
    assert [str(note) for note in dataset.notes] == ["images/bare.jpg: no mask, so not used"]


def test_masks_a_pixel_off_are_fitted(tmp_path: Path) -> None:
    assert guessed(write(tmp_path / "data", lambda mask: mask[:-1])).fit == "crop"


def test_what_can_not_be_guessed_is_a_list(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="there are no pictures"):
        guess_dataset(tmp_path, progress=False)
    for number in range(3):
        Image.fromarray(draw(number)[0]).save(tmp_path / f"{number}.jpg")
    (tmp_path / "polygons.json").write_text("{}")
    with pytest.raises(ProblemsError, match=r"3 \./\*\.jpg") as caught:
        guess_dataset(tmp_path, progress=False)
    assert "segcore.convert" in str(caught.value)
    phone = write(tmp_path / "phone", lambda mask: mask)
    for path in (phone / "images").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(ProblemsError, match=r"\.webp\) is named .* 9 images/\*\.heic"):
        guess_dataset(phone, progress=False)
    with pytest.raises(ProblemsError, match="only one value"):
        guess_dataset(write(tmp_path / "blank", lambda mask: mask * 0), progress=False)


def test_the_command_writes_shows_and_prepares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "data", lambda mask: mask)
    assert command.main([str(folder), "--height-px", "32", "--width-px", "32"]) == 0
    shown = capsys.readouterr().out
    assert "There was no dataset.yaml. Wrote" in shown
    assert "the names of the classes: no file in the folder tells them" in shown
    assert "9 photographs (height×width): 9 of 48×64 px" in shown
    assert f"Correct in {folder / 'dataset.yaml'} what was guessed wrong. Then ask how" in shown
    assert f"\n  python -m search.run --data {folder} --dry-run\n" in shown
    written = (folder / "dataset.yaml").read_text()
    assert command.main([str(folder), "--height-px", "32", "--width-px", "32"]) == 0
    assert "Wrote" not in capsys.readouterr().out
    assert (folder / "dataset.yaml").read_text() == written


@pytest.mark.parametrize(
    ("called", "run"),
    [
        ("python -m segcore.prepare", "python -m search.run"),
        ("python -m search prepare", "python -m search run"),
        ("segsearch prepare", "segsearch run"),
    ],
)
def test_the_next_command_can_be_typed_where_this_one_was(
    called: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "my 'photos'", lambda mask: mask)
    guessed(folder)
    assert command.main([folder.name, "--height-px", "32", "--width-px", "32"], called) == 0
    shown = capsys.readouterr().out
    (line,) = [line.strip() for line in shown.splitlines() if "--dry-run" in line]
    assert shlex.split(line) == [*run.split(), "--data", "my 'photos'", "--dry-run"]
    assert "guessed wrong" not in shown


@pytest.mark.skipif(not REAL.exists(), reason="there are no real photographs here")
def test_real_photographs_are_paired_as_their_own_dataset_yaml_does(tmp_path: Path) -> None:
    for name in ("dubai", "ortho_rs", "harvey"):
        real = load_dataset(REAL / name)
        expected = {p.name: p.mask_path.relative_to(REAL / name).as_posix() for p in real.photos}
        files = [
            path.relative_to(REAL / name).as_posix()
            for path in (REAL / name).rglob("*")
            if path.suffix in {".jpg", ".png", ".tif"}
        ]
        assert find_pairs(sorted(files), lambda name: False).masks == expected
