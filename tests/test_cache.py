"""From a folder of photographs to the memory-mapped cache: what it holds, and what stops it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image

import segcore.data.building
from segcore import prepare as command
from segcore import scenes
from segcore.config import IGNORE_INDEX, TrialConfig, View
from segcore.data.plans import LOCATIONS
from segcore.data.prepared import PreparedData, open_prepared, read_survey
from segcore.data.preparing import prepare_data
from segcore.data.windows import Grid, scale_mask
from segcore.errors import ProblemsError, UserError
from segcore.reading.masks import read_pair

REAL = Path(__file__).parents[2] / "shared" / "data"
WHOLE = View(32, 48)
SPEC = {
    "images": "images/*",
    "masks": "masks/{stem}.png",
    "classes": ["Land", "Roof", "Pool"],
    "ignore_index": 9,
    "split": {"val": 0.25, "test": 0.25},
}


def write_pair(folder: Path, stem: str, seed: int, size_px: tuple[int, int] = (80, 120)) -> None:
    """A noisy photograph with a roof in the middle, a rare pool in some, an ignored margin."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size_px, np.uint8)
    mask[20:60, 30:90] = 1
    mask[:4] = 9
    if seed % 4 == 0:
        mask[70:74, 100:104] = 2
    image = rng.integers(0, 60, (*size_px, 3)) + mask[..., None].astype(int) * 60 % 180
    Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{stem}.jpg", quality=95)
    Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 8 photographs; caches go to a folder beside it."""
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(8):
        write_pair(folder, f"photo {index}", index)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC))
    return folder


def run(folder: Path, *views: View, **options: Any) -> PreparedData:
    return prepare_data(folder, views or (WHOLE,), progress=False, **options)


def stacked(data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """The images and masks of photographs that are kept at one size."""
    numbers = range(len(data.photos))
    return np.stack([data.image(p) for p in numbers]), np.stack([data.mask(p) for p in numbers])


def test_whole_photographs_are_resized_and_counted(folder: Path) -> None:
    data = run(folder)
    images_PHWC, masks_PHW = stacked(data)
    assert images_PHWC.shape == (8, 32, 48, 3)
    assert data.photos == tuple(f"images/photo {index}.jpg" for index in range(8))
    assert {split: len(data.of_split(split)) for split in ("train", "val", "test")} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    for mask_HW, class_pixels_K in zip(masks_PHW, data.class_pixels_PK, strict=True):
        assert set(np.unique(mask_HW)) <= {0, 1, 2, IGNORE_INDEX}
        assert class_pixels_K.tolist() == [int((mask_HW == k).sum()) for k in range(3)]
    roof = images_PHWC[0][masks_PHW[0] == 1].mean()
    land = images_PHWC[0][masks_PHW[0] == 0].mean()
    assert roof - land > 40
    assert data.class_pixels("train").tolist() == (
        data.class_pixels_PK[data.of_split("train")].sum(axis=0).tolist()
    )


def test_locations_are_pixels_of_their_class_without_repetition(folder: Path) -> None:
    data = run(folder)
    for mask_HW, class_pixels_K, located_KL2 in zip(
        stacked(data)[1], data.class_pixels_PK, data.class_locations_PKL2, strict=True
    ):
        for k in range(3):
            located = located_KL2[k][located_KL2[k, :, 0] >= 0]
            assert len(located) == len({*map(tuple, located)}) == min(LOCATIONS, class_pixels_K[k])
            assert (mask_HW[located[:, 0], located[:, 1]] == k).all()


def read_truth(folder: Path, stem: str) -> np.ndarray:
    truth = np.array(Image.open(folder / "masks" / f"{stem}.png"))
    truth[truth == 9] = IGNORE_INDEX
    return truth


def test_at_full_scale_the_cache_holds_the_files_pixels(folder: Path) -> None:
    data = run(folder, View(32, 32, 1.0))
    for number in range(8):
        photo = np.asarray(Image.open(folder / "images" / f"photo {number}.jpg"))
        np.testing.assert_array_equal(data.image(number), photo)
        np.testing.assert_array_equal(data.mask(number), read_truth(folder, f"photo {number}"))
        assert data.score_mask(number) is not None and data.plans[number].is_scored_as_cached
        assert [level.shape for level in data.levels(number)] == [(80, 120, 3)]


def test_one_cache_serves_all_views(folder: Path) -> None:
    data = run(folder, View(32, 32, 0.75), View(64, 48, 0.2), View(48, 48, 0.4), View(40, 40))
    assert data.plans[0].levels == ((60, 90), (30, 45), (15, 23))
    assert data.finest == data.score_view == View(0, 0, 0.75)
    assert data.epoch_px() == 8 * 60 * 90  # four times the 2 validation photographs
    for number in range(8):
        fine, half, quarter = data.levels(number)
        assert np.abs(half.astype(int) - fine.reshape(30, 2, 45, 2, 3).mean(axis=(1, 3))).max() <= 1
        assert abs(quarter.mean() - fine.mean()) < 2
    # Views between the extremes change nothing, nor do the sizes of windows.
    assert run(folder, View(96, 96, 0.2), View(8, 8, 0.75), View(40, 40)).folder == data.folder


def test_scores_are_taken_on_the_original_masks_at_the_scale_that_is_asked_for(
    folder: Path,
) -> None:
    coarse = run(folder, View(32, 32, 0.25), score_scale=1.0)
    assert coarse.plans[0].levels[0] == (80, 120)
    np.testing.assert_array_equal(coarse.score_mask(3), read_truth(folder, "photo 3"))
    fine = run(folder, View(32, 32, 1.0), score_scale=0.3)
    for number in range(8):
        truth = read_truth(folder, f"photo {number}")
        expected = scale_mask(truth, Grid(24, 36))
        np.testing.assert_array_equal(fine.score_mask(number), expected)
    # More than all of the resolution isn't there.
    assert run(folder, View(32, 32, 2.0)).score_view == View(0, 0, 1.0)


def test_photographs_without_labels_are_in_no_split(folder: Path) -> None:
    Image.fromarray(np.full((80, 120), 9, np.uint8)).save(folder / "masks" / "photo 1.png")
    data = run(folder, View(32, 32, 0.5))
    used = np.concatenate([data.of_split(split) for split in ("train", "val", "test")])
    assert sorted(used) == [0, 2, 3, 4, 5, 6, 7]
    notes = [str(note) for note in read_survey(data.folder).notes]
    assert "images/photo 1.jpg: nothing is labelled, so it is not used" in notes


def test_a_ground_size_needs_a_georeference(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no georeference.*give scale"):
        run(folder, View(32, 32, None, 0.5))


def test_a_second_run_reads_no_photograph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(folder)
    monkeypatch.setattr(segcore.data.building, "read_pair", None)
    again = run(folder)
    assert again.folder == first.folder
    np.testing.assert_array_equal(again.masks, first.masks)


def change_image(folder: Path) -> None:
    write_pair(folder, "photo 3", seed=99)


def change_mask(folder: Path) -> None:
    Image.fromarray(np.ones((80, 120), np.uint8)).save(folder / "masks" / "photo 3.png")


def change_classes(folder: Path) -> None:
    spec = SPEC | {"classes": ["Land", "House", "Pool"]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))


def rename_photo(folder: Path) -> None:
    for name in ("images/photo 3.jpg", "masks/photo 3.png"):
        (folder / name).rename((folder / name).with_stem("photo 33"))


@pytest.mark.parametrize("change", [change_image, change_mask, change_classes, rename_photo])
def test_whatever_changes_the_data_changes_the_fingerprint(
    folder: Path, change: Callable[[Path], None]
) -> None:
    before = run(folder)
    change(folder)
    after = run(folder)
    assert after.fingerprint != before.fingerprint
    assert after.folder != before.folder


def test_touching_and_moving_a_data_set_changes_nothing(folder: Path) -> None:
    before = run(folder)
    for path in folder.glob("*/*"):
        os.utime(path)
    assert run(folder).folder == before.folder
    assert run(folder.rename(folder.with_name("moved"))).folder == before.folder


def test_arrays_and_split_follow_from_the_content_and_the_seed_in_dataset_yaml(
    folder: Path, tmp_path: Path
) -> None:
    first = run(folder, cache_dir=tmp_path / "one", workers=1)
    second = run(folder, cache_dir=tmp_path / "two", workers=4)
    assert first.photo_splits == second.photo_splits
    for name in ("samples", "masks", "class_locations_PKL2"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    drawn = set()
    for seed in range(4):
        split = {"val": 0.25, "test": 0.25, "seed": seed}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC | {"split": split}))
        drawn.add(run(folder).photo_splits)
    assert len(drawn) > 1


def test_folds_divide_what_is_not_test_and_each_photograph_is_held_out_once(folder: Path) -> None:
    data = run(folder)
    held_out = []
    for fold in range(3):
        config = TrialConfig(fold=fold, folds=3)
        divided = data.divided_for(config)
        assert [split == "test" for split in divided.photo_splits] == [
            split == "test" for split in data.photo_splits
        ]
        held_out += divided.of_split("val").tolist()
        assert not set(divided.of_split("val")) & set(divided.of_split("train"))
        # In a loading process too, which opens the files anew.
        assert pickle.loads(pickle.dumps(divided)).photo_splits == divided.photo_splits
    assert sorted(held_out) == sorted([*data.of_split("train"), *data.of_split("val")])
    assert data.divided_for(TrialConfig()) is data


def test_photographs_of_one_group_are_in_one_fold(folder: Path) -> None:
    for path in [*folder.glob("images/*"), *folder.glob("masks/*")]:
        index = int(path.stem.removeprefix("photo "))
        path.rename(path.with_stem(f"flight {index // 2} photo {index}"))
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC | {"group": r"flight (\d)"}))
    data = run(folder)
    assert len(set(data.photo_groups)) == 4
    for fold in range(2):
        divided = data.divided_for(TrialConfig(fold=fold, folds=2))
        sides = zip(data.photo_groups, divided.photo_splits, strict=True)
        assert len(set(sides)) == len(set(data.photo_groups))


def test_a_relative_cache_folder_is_one_place_for_data_and_scenes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGSEARCH_CACHE", "kept")
    monkeypatch.setattr(scenes, "write_scenes", lambda path: path.mkdir())
    monkeypatch.chdir(tmp_path)
    data, drawn = run(folder), scenes.default_scenes()
    assert data.folder.is_absolute() and drawn.is_absolute()
    assert data.folder.parent == tmp_path / "kept" / "prepared"
    assert drawn.parent == tmp_path / "kept"
    # The paths still mean the same folders when a process works elsewhere.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert drawn.is_dir()
    loaded = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(loaded.samples, data.samples)


def truncate_image(folder: Path) -> None:
    path = folder / "images" / "photo 0.jpg"
    path.write_bytes(path.read_bytes()[:1500])


def resize_mask(folder: Path) -> None:
    Image.new("L", (60, 40)).save(folder / "masks" / "photo 1.png")


def strange_value(folder: Path) -> None:
    Image.fromarray(np.full((80, 120), 7, np.uint8)).save(folder / "masks" / "photo 2.png")


def remove_mask(folder: Path) -> None:
    (folder / "masks" / "photo 3.png").unlink()


def link_to_itself(folder: Path) -> None:
    path = folder / "images" / "photo 4.jpg"
    path.unlink()
    path.symlink_to(path)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate_image, "photo 0.jpg"),
    "size": (resize_mask, "has 40×60 px"),
    "value": (strange_value, "holds 7, which no class has"),
    "missing": (remove_mask, "photo 3.jpg"),
    "loop": (link_to_itself, "photo 4.jpg"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stops_preparing_and_leaves_nothing_behind(folder: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    make(folder)
    with pytest.raises(ProblemsError, match=message) as caught:
        run(folder)
    assert len(caught.value.problems) == 1
    prepared = folder.parent / "cache" / "prepared"
    assert not prepared.exists() or not [path for path in prepared.iterdir() if path.is_dir()]


def test_all_faults_are_listed_at_once(folder: Path) -> None:
    for make, _ in FAULTS.values():
        make(folder)
    with pytest.raises(ProblemsError) as caught:
        run(folder)
    assert len(caught.value.problems) == len(FAULTS)
    for _, message in FAULTS.values():
        assert message in str(caught.value)


def test_a_photograph_that_changes_meanwhile_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_while_someone_writes(image: Path, *rest: Any) -> Any:
        pair = read_pair(image, *rest)
        if image.stem == "photo 5":
            image.write_bytes(image.read_bytes() + b"\0")
        return pair

    monkeypatch.setattr(segcore.data.building, "read_pair", read_while_someone_writes)
    with pytest.raises(ProblemsError, match=r"photo 5\.jpg: changed while it was being prepared"):
        run(folder)


@pytest.mark.parametrize("name", ["samples.npy", "class_pixels_PK.npy", "index.json"])
def test_a_damaged_cache_is_refused_and_made_again(folder: Path, name: str) -> None:
    data = run(folder)
    os.truncate(data.folder / name, (data.folder / name).stat().st_size // 2)
    with pytest.raises(UserError, match="prepare"):
        open_prepared(data.folder)
    assert run(folder).samples.shape == data.samples.shape


def test_a_cache_of_another_format_or_with_pickles_is_refused(folder: Path) -> None:
    data = run(folder)
    np.save(data.folder / "masks.npy", np.array([{}] * 8), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        open_prepared(data.folder)
    index = json.loads((data.folder / "index.json").read_text())
    (data.folder / "index.json").write_text(json.dumps(index | {"format": 0}))
    with pytest.raises(UserError, match="not prepared by this version"):
        open_prepared(data.folder)


def test_two_processes_at_once_make_one_complete_cache(folder: Path) -> None:
    arguments = [sys.executable, "-m", "segcore.prepare", str(folder), "--height-px", "64"]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len({output.rsplit(": ", 1)[1] for output in outputs}) == 1
    (made,) = [path for path in (folder.parent / "cache" / "prepared").iterdir() if path.is_dir()]
    assert open_prepared(made).image(7).shape == (64, 120, 3)


def test_a_cache_that_cannot_be_written_is_explained(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be written.*SEGSEARCH_CACHE"):
        run(folder, cache_dir=tmp_path / "file")


def test_nearly_alike_photographs_on_two_sides_are_reported_with_a_mend(folder: Path) -> None:
    patches = np.random.default_rng(0).integers(0, 255, (10, 15, 3)).astype(np.uint8)
    photo = Image.fromarray(patches).resize((120, 80), Image.Resampling.BICUBIC)
    split = {"train": ["a_001"], "val": ["a_002"], "test": ["b_001", "c_001"]}
    (folder / "dataset.yaml").write_text(
        yaml.safe_dump(SPEC | {"split": split, "images": "images/*_00*"})
    )
    for stem in ("a_001", "a_002", "b_001", "c_001"):
        write_pair(folder, stem, seed=ord(stem[0]))
    photo.save(folder / "images" / "a_001.jpg")
    photo.point(lambda value: value * 0.9 + 5).save(folder / "images" / "a_002.jpg", quality=60)
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    assert "images/a_001.jpg (train) and images/a_002.jpg (val) look nearly alike" in notes
    assert any(r"group: '^(.*?)\d+\D*$'" in note for note in notes)


def test_the_same_file_on_two_sides_is_reported_and_blank_chips_are_not(folder: Path) -> None:
    shutil.copy(folder / "images" / "photo 0.jpg", folder / "images" / "photo 7.jpg")
    for number in (1, 2, 3, 4):
        Image.new("RGB", (120, 80), (0, 0, 60)).save(folder / "images" / f"photo {number}.jpg")
    split = {"val": ["photo 1", "photo 7"], "test": ["photo 2", "photo 5"]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC | {"split": split}))
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    assert [note for note in notes if "photo 0" in note] == [
        "images/photo 0.jpg (train) and images/photo 7.jpg (val) are the same file",
        "keep them in one split: list photo 0, photo 7 under split in dataset.yaml",
    ]


def test_the_command_shows_classes_and_oddities(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "masks" / "extra.png").touch()
    assert command.main([str(folder), "--height-px", "32", "--width-px", "48"]) == 0
    shown = capsys.readouterr().out
    assert "8 of 80×120" in shown
    assert "4 train, 2 val, 2 test" in shown
    roof, roof_size = [line.split() for line in shown.splitlines() if "Roof" in line]
    assert roof[-4:] == ["8", "4", "2", "2"]
    assert roof_size == ["Roof", "8", "40", "20", "10", "4", "16"]  # 40×60 px, squeezed by 32/80
    assert "Squeezed to 32×48, Pool would be narrower than 4 px" in shown
    assert "Scales worth a search: 0.2 to 1." in shown
    assert "masks/extra.png: masks without a photograph" in shown
    assert "has Pool, though others have" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone"], 1, "gone is no folder"),
        ([".", "--height-px", "8"], 2, "32 px or more"),
        ([".", "--scale", "3"], 2, "above 0, up to 1"),
    ],
)
def test_the_command_explains_bad_input_without_a_traceback(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="real photographs are not here")
@pytest.mark.parametrize(("name", "groups"), [("harvey", 3), ("ortho_rs", 12)])
def test_real_photographs_are_prepared(name: str, groups: int, tmp_path: Path) -> None:
    data = run(REAL / name, View(96, 96), cache_dir=tmp_path)
    assert len(data.photos) == groups
    assert all(len(data.of_split(split)) > 0 for split in ("train", "val", "test"))
    assert data.samples.std() > 20


def test_bands_beyond_the_third_are_not_dropped_in_silence(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "images" / "photo 1.jpg").unlink()
    with rasterio.open(
        folder / "images" / "photo 1.tif", "w", driver="GTiff", height=80, width=120, count=4,
        dtype="uint8", photometric="MINISBLACK", alpha="NO",
    ) as raster:  # fmt: skip
        raster.write(rng.integers(0, 255, (4, 80, 120), np.uint8))
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    assert [note for note in notes if "bands" in note] == [
        "images/photo 1.tif: of 4 bands the first three are used; name others by `bands` in "
        "dataset.yaml"
    ]
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC | {"bands": [1, 2, 3]}))
    assert not any("bands" in str(note) for note in read_survey(run(folder).folder).notes)


def test_pages_and_a_second_band_are_not_dropped_in_silence(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 255, (80, 120), np.uint8)) for _ in range(3)]
    for number, count in ((1, 1), (2, 2), (3, 2)):
        path = folder / "images" / f"photo {number}.tif"
        path.with_suffix(".jpg").unlink()
        if number == 1:
            pages[0].save(path, save_all=True, append_images=pages[1:])
            continue
        with rasterio.open(
            path, "w", driver="GTiff", height=80, width=120, count=count, dtype="uint8"
        ) as raster:
            raster.write(rng.integers(0, 255, (count, 80, 120), np.uint8))
            raster.write_mask(True)
    with rasterio.open(folder / "images" / "photo 3.tif", "r+") as raster:
        raster.build_overviews([2, 4])  # These are pages, too, but none that anybody misses.
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    assert [note for note in notes if "is used" in note] == [
        "images/photo 1.tif: of 3 pages the first is used; write pages as bands of one picture",
        "images/photo 2.tif, images/photo 3.tif: of 2 bands the first is used; name others by "
        "`bands` in dataset.yaml",
    ]


def test_infrared_that_is_called_transparency_is_told(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in (1, 2):
        path = folder / "images" / f"photo {number}.tif"
        path.with_suffix(".jpg").unlink()
        bands = rng.integers(0, 255, (4, 80, 120), np.uint8)
        bands[3] = bands[3] if number == 1 else (bands[3] > 9) * 255
        with rasterio.open(
            path, "w", driver="GTiff", height=80, width=120, count=4, dtype="uint8"
        ) as raster:
            raster.write(bands)
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    (told,) = [note for note in notes if "transparency" in note]
    assert told.startswith("images/photo 1.tif: the last band is called transparency, but looks")


def test_copies_of_a_photograph_in_one_split_are_told(folder: Path) -> None:
    shutil.copy(folder / "images" / "photo 0.jpg", folder / "images" / "photo 7.jpg")
    split = {"val": ["photo 1"], "test": ["photo 2", "photo 5"]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC | {"split": split}))
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    (copies,) = [note for note in notes if "copies" in note]
    assert copies.startswith("images/photo 7.jpg (of images/photo 0.jpg): ")


def test_the_survey_tells_what_was_snapped_and_where_it_was_much(folder: Path) -> None:
    mask = np.zeros((80, 120), np.uint8)
    mask[:20] = 200
    mask[20, :60] = 4
    for number in range(8):
        Image.fromarray(mask).save(folder / "masks" / f"photo {number}.png")
    mask[40:] = 90
    Image.fromarray(mask).save(folder / "masks" / "photo 6.png")
    spec = SPEC | {"classes": {"Land": 0, "Roof": 200}, "ignore_index": None, "snap": "nearest"}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    notes = [str(note) for note in read_survey(run(folder).folder).notes]
    moved_px = 8 * 60 + 40 * 120
    share = f"{moved_px / (8 * 80 * 120):.2%}"
    assert f"snap: {moved_px:,} pixels ({share}) of 8 masks had no class's value" in notes
    (many,) = [note for note in notes if "lies between classes" in note]
    assert many.startswith("images/photo 6.jpg (50%): ")
