"""python -m search.suspects: which labels look wrong, who may say so, and where they are."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from rasterio.transform import from_origin

from search import suspects
from search.ensembles.held_out import find_judges
from search.predicting.suspects import read_suspects
from search.runs.checkpoints import trial_name
from search.runs.folder import RunFolder
from search.runs.result import LeftOutScore, SearchResult, WeightedTrial
from search.runs.study import open_study
from segcore.config import IGNORE_INDEX
from segcore.data.prepared import PreparedData, find_prepared
from segcore.predicting import suspects as finding
from segcore.predicting.ensemble import Ensemble
from segcore.predicting.polygons import outline_of
from segcore.reading.images import read_image
from segcore.scores.suspects import (
    SURE,
    Answers,
    Confidences,
    Region,
    Thresholds,
    find_regions,
)
from segcore.training.checkpoint import load_info
from segcore.training.fit import fit
from tests.drawn_run import draw_run

ROOF = np.s_[20:40, 30:50]
GRASS, BUILT, POOL = 0, 1, 2
HALVES = Thresholds(np.full(3, 0.5), np.full(3, 0.1))


def regions(
    label_HW: np.ndarray,
    named_HW: np.ndarray,
    *,
    sure: float = 0.9,
    own: float = 0.05,
    thresholds: Thresholds = HALVES,
    edge_px: int = 2,
    limit: int = 9,
) -> list[Region]:
    """Of networks that are equally sure of all that they name."""
    sure_HW, own_HW = (np.full(label_HW.shape, round(p * SURE), np.uint8) for p in (sure, own))
    answers = Answers(named_HW, sure_HW, own_HW)
    return find_regions(label_HW, answers, thresholds, edge_px=edge_px, limit=limit)


def lawn(*roofs: tuple[slice, slice]) -> np.ndarray:
    mask_HW = np.zeros((64, 80), np.uint8)
    for roof in roofs:
        mask_HW[roof] = BUILT
    return mask_HW


def test_a_removed_object_is_found_at_its_place() -> None:
    (found,) = regions(lawn(), lawn(ROOF))
    assert (found.label, found.named, found.area_px) == (GRASS, BUILT, 400)
    assert (found.rows, found.columns) == ROOF
    assert found.confidence == pytest.approx(0.9, abs=0.002)
    assert found.score == pytest.approx(360, abs=1)
    assert outline_of(found.inside_HW).bounds == (0, 0, 20, 20)


@pytest.mark.parametrize(
    ("span", "length", "crop"),
    [
        (slice(200, 220), 500, slice(162, 258)),
        (slice(0, 20), 500, slice(0, 96)),
        (slice(490, 500), 500, slice(404, 500)),
        (slice(10, 20), 64, slice(0, 64)),
    ],
)
def test_a_crop_shows_as_much_around_at_the_rim_as_elsewhere(
    span: slice, length: int, crop: slice
) -> None:
    assert finding._around(span, 96, length) == crop


def test_an_added_object_is_found_without_its_edge_and_a_swapped_one_with_it() -> None:
    (added,) = regions(lawn(ROOF), lawn())
    assert (added.label, added.named, added.area_px) == (BUILT, GRASS, 16 * 16)
    (swapped,) = regions(np.where(lawn(ROOF) == BUILT, POOL, GRASS).astype(np.uint8), lawn(ROOF))
    assert (swapped.label, swapped.named, swapped.area_px) == (POOL, BUILT, 400)


def test_edges_may_be_off_by_two_pixels_and_a_shift_by_five_is_seen_on_both_sides() -> None:
    assert not regions(lawn(np.s_[20:40, 32:52]), lawn(ROOF))
    left, right = sorted(regions(lawn(np.s_[20:40, 35:55]), lawn(ROOF)), key=lambda r: r.named)
    assert (left.label, left.named, left.columns) == (BUILT, GRASS, slice(50, 53))
    assert (right.label, right.named, right.columns) == (GRASS, BUILT, slice(30, 33))
    assert len(regions(lawn(np.s_[20:40, 32:52]), lawn(ROOF), edge_px=0)) == 2


def test_a_perfect_label_and_one_that_is_ignored_are_not_suspicious() -> None:
    assert not regions(lawn(ROOF), lawn(ROOF))
    assert not regions(np.full((64, 80), IGNORE_INDEX, np.uint8), lawn(ROOF))


def test_the_largest_come_first_and_the_limit_holds_over_all_classes() -> None:
    named_HW = lawn(ROOF, np.s_[2:6, 2:6], np.s_[50:60, 2:12])
    named_HW[2:8, 60:70] = POOL
    assert [r.area_px for r in regions(lawn(), named_HW)] == [400, 100, 60, 16]
    assert [r.area_px for r in regions(lawn(), named_HW, limit=3)] == [400, 100, 60]


def test_sure_is_what_is_usual_where_labels_have_a_class_and_where_they_have_others() -> None:
    probs_KHW = torch.zeros(3, 2, 4)
    probs_KHW[GRASS, 0], probs_KHW[BUILT, 0] = 0.95, 0.05
    probs_KHW[GRASS, 1], probs_KHW[BUILT, 1] = 0.4, 0.6
    label_HW = torch.tensor([[GRASS] * 4, [BUILT, BUILT, BUILT, IGNORE_INDEX]], dtype=torch.uint8)
    confidences = Confidences(3)
    confidences.add(label_HW, probs_KHW)
    thresholds = confidences.thresholds()
    assert thresholds.present_K[:2] == pytest.approx([0.95, 0.6])
    assert thresholds.absent_K == pytest.approx([0.4, 0.05, 0])

    assert regions(lawn(), lawn(ROOF), sure=0.7, own=0.3, thresholds=thresholds)
    assert not regions(lawn(), lawn(ROOF), sure=0.5, own=0.3, thresholds=thresholds)
    assert not regions(lawn(), lawn(ROOF), sure=0.7, own=0.42, thresholds=thresholds)
    assert not regions(lawn(ROOF), lawn(), sure=0.9, own=0.0, thresholds=thresholds)
    pool_HW = np.where(lawn(ROOF) == BUILT, POOL, GRASS).astype(np.uint8)
    assert not regions(lawn(), pool_HW, sure=1.0, thresholds=thresholds)  # No label has pools.


def test_answers_are_the_most_probable_class_and_how_probable_it_and_the_label_are() -> None:
    label_HW = torch.tensor([[GRASS, BUILT, IGNORE_INDEX]], dtype=torch.uint8)
    probs_KHW = torch.tensor([[[0.2, 0.2, 0.2]], [[0.8, 0.2, 0.2]], [[0.0, 0.6, 0.6]]])
    answers = Answers.of(label_HW, probs_KHW)
    assert [part.tolist() for part in answers] == [
        [[BUILT, POOL, POOL]], [[204, 153, 153]], [[51, 51, 0]],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> RunFolder:
    return draw_run(tmp_path_factory.mktemp("searched"), blocks, trials=4)


def data_of(run: RunFolder) -> PreparedData:
    return find_prepared(run.read().identity["data"])


def names(run: RunFolder, split: str) -> list[str]:
    data = data_of(run)
    return [name for name, own in zip(data.photos, data.photo_splits, strict=True) if own == split]


def relabelled(blocks: Path, folder: Path, **masks: np.ndarray) -> Path:
    """A copy of the data set, in which some photographs have other masks."""
    shutil.copytree(blocks, folder)
    for stem, mask_HW in masks.items():
        Image.fromarray(mask_HW).save(folder / "masks" / f"{stem}.png")
    return folder


def mask_of(blocks: Path, name: str) -> np.ndarray:
    return np.array(Image.open(blocks / "masks" / Path(name).name))


def without_roof(blocks: Path, name: str) -> np.ndarray:
    mask_HW = mask_of(blocks, name)
    mask_HW[mask_HW == BUILT] = GRASS
    return mask_HW


def look(*arguments: object) -> int:
    return suspects.main([str(argument) for argument in arguments])


def test_a_roof_removed_since_the_search_comes_first_and_training_photographs_are_not_judged(
    run: RunFolder, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, trained = names(run, "test")[0], names(run, "train")[0]
    masks = {Path(name).stem: without_roof(blocks, name) for name in (wrong, trained)}
    data = relabelled(blocks, tmp_path / "data", **masks)
    assert look(run.path, "--data", data, "--out", tmp_path / "out") == 0
    with (tmp_path / "out" / "suspects.csv").open() as file:
        first, *rest = list(csv.DictReader(file))
    assert (first["photo"], first["label"], first["prediction"]) == (wrong, "Grass", "Roof")
    rows, columns = np.nonzero(mask_of(blocks, wrong) == BUILT)
    box = [int(first[side]) for side in ("top", "left", "bottom", "right")]
    edges = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    assert box == pytest.approx(edges, abs=3)  # Its network saw it smaller.
    assert float(first["score"]) == pytest.approx(
        float(first["area_px"]) * float(first["confidence"]), abs=0.1
    )
    assert trained not in {row["photo"] for row in rest}
    assert first["longitude"] == ""
    said = capsys.readouterr().out
    assert said.startswith("8 photographs were judged by networks that were not trained on them.")
    assert f"Grass → Roof, {float(first['area_px']):,.0f} px" in said

    page = (tmp_path / "out" / "suspects.html").read_text()
    assert wrong in page and '="http' not in page
    geojson = json.loads((tmp_path / "out" / "suspects.geojson").read_text())
    ring = np.array(geojson["features"][0]["geometry"]["coordinates"][0])
    assert [*ring.min(axis=0)[::-1], *ring.max(axis=0)[::-1]] == pytest.approx(box, abs=1)
    assert geojson["features"][0]["properties"]["photo"] == wrong


def test_labels_that_networks_agree_with_give_none(
    run: RunFolder, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensemble = Ensemble.load(run.ensemble, torch.device("cpu"), use_factors=False)
    masks = {path.stem: ensemble.predict(read_image(path)) for path in blocks.glob("images/*.png")}
    data = relabelled(blocks, tmp_path / "data", **masks)
    assert look(run.path, "--data", data, "--out", tmp_path / "out") == 0
    assert "They contradict the label nowhere." in capsys.readouterr().out
    assert len((tmp_path / "out" / "suspects.csv").read_text().splitlines()) == 1
    assert not json.loads((tmp_path / "out" / "suspects.geojson").read_text())["features"]


def test_the_report_shows_what_was_found(run: RunFolder, blocks: Path, tmp_path: Path) -> None:
    wrong = names(run, "test")[0]
    data = relabelled(blocks, tmp_path / "data", **{Path(wrong).stem: without_roof(blocks, wrong)})
    assert look(run.path, "--data", data, "--limit", 3) == 0
    found = read_suspects(run.path)
    assert found is not None and 0 < len(found.rows) <= 3
    report = (run.path / "report.html").read_text()
    assert "Suspicious labels" in report and found.rows[0].crop.prediction in report
    assert not list((run.path / "suspects").glob(".*"))
    (run.path / "suspects" / "suspects.json").write_text("{}")
    with pytest.raises(suspects.UserError, match="of another version; look again"):
        read_suspects(run.path)


def test_photographs_with_a_place_are_found_on_earth(
    run: RunFolder, blocks: Path, tmp_path: Path
) -> None:
    """They have other names than those of the search, so nothing was trained on them."""
    name = names(run, "train")[0]
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    right_HW, image_HWC = mask_of(blocks, name), read_image(blocks / name)
    for x_m, mask_HW in ((5e5, without_roof(blocks, name)), (6e5, right_HW), (7e5, right_HW)):
        with rasterio.open(
            folder / "images" / f"tile_{x_m:.0f}.tif", "w", driver="GTiff", height=64, width=64,
            count=3, dtype="uint8", crs="EPSG:31982", transform=from_origin(x_m, 7e6, 2, 2),
        ) as raster:  # fmt: skip
            raster.write(np.moveaxis(image_HWC, -1, 0))
        Image.fromarray(mask_HW).save(folder / "masks" / f"tile_{x_m:.0f}.png")
    spec = yaml.safe_load((blocks / "dataset.yaml").read_text()) | {"images": "images/*.tif"}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    assert look(run.path, "--data", folder, "--out", tmp_path / "out") == 0
    geojson = json.loads((tmp_path / "out" / "suspects.geojson").read_text())
    first = geojson["features"][0]
    facts = first["properties"]
    assert facts["photo"] == "images/tile_500000.tif"
    x_m, y_m = 5e5 + 2 * facts["column"], 7e6 - 2 * facts["row"]
    (longitude,), (latitude,) = rasterio.warp.transform("EPSG:31982", "EPSG:4326", [x_m], [y_m])
    assert (facts["longitude"], facts["latitude"]) == pytest.approx((longitude, latitude), abs=2e-6)
    ring_N2 = np.array(first["geometry"]["coordinates"][0])
    (west, east), (south, north) = rasterio.warp.transform(
        "EPSG:31982", "EPSG:4326",
        [5e5 + 2 * facts["left"], 5e5 + 2 * facts["right"]],
        [7e6 - 2 * facts["bottom"], 7e6 - 2 * facts["top"]],
    )  # fmt: skip
    assert [*ring_N2.min(axis=0), *ring_N2.max(axis=0)] == pytest.approx(
        [west, south, east, north],
        abs=2e-5,  # The box is of whole pixels, 2 m each.
    )
    x_N, y_N = ring_N2.T
    assert (x_N[:-1] * y_N[1:] - x_N[1:] * y_N[:-1]).sum() > 0  # Counterclockwise (RFC 7946).


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory, run: RunFolder) -> RunFolder:
    """The same after a search with --folds 2."""
    copy = RunFolder(tmp_path_factory.mktemp("folded") / "run")
    shutil.copytree(run.path, copy.path)
    data, result = data_of(copy), SearchResult.read(copy.path)
    assert result is not None
    folds = copy.folds(2)
    folds.path.mkdir()
    study = open_study(folds.study, name="folds", create=True)
    config = load_info(copy.path / "checkpoint").config
    for fold in range(2):
        study.enqueue_trial({"trial": 0, "fold": fold})
        trial = study.ask()
        assert (trial.suggest_int("trial", 0, 9), trial.suggest_int("fold", 0, 1)) == (0, fold)
        *_, last = fit(config.model_copy(update={"fold": fold, "folds": 2}), data)
        last.save(folds.path / "trials/session_1" / trial_name(trial.number) / "checkpoint_000006")
        study.tell(trial, last.scores.dice)
    on_folds = dataclasses.replace(
        result.single, name="trial 0 on 2 folds", trials=(WeightedTrial(0, 1.0),), folds=2,
        left_out=LeftOutScore(0.3, 0.1, 0.01),
    )  # fmt: skip
    models = (*result.alternatives, on_folds)
    dataclasses.replace(result, alternatives=models).write(copy.path)
    return copy


def test_after_folds_each_photograph_is_judged_once_by_networks_not_trained_on_it(
    folded: RunFolder,
) -> None:
    data, result = data_of(folded), SearchResult.read(folded.path)
    assert result is not None
    judges = find_judges(folded, result, data, data)
    for judge in judges:
        for checkpoint, _ in judge.networks:
            divided = data.divided_for(load_info(checkpoint).config)
            assert not set(judge.photos) & set(divided.of_split("train").tolist())
    assert sorted(photo for judge in judges for photo in judge.photos) == list(range(16))
    *of_folds, bundle = judges
    assert [load_info(judge.networks[0][0]).config.fold for judge in of_folds] == [0, 1]
    assert list(bundle.photos) == data.of_split("test").tolist()


def test_without_folds_only_photographs_of_validation_and_test_are_judged(run: RunFolder) -> None:
    data, result = data_of(run), SearchResult.read(run.path)
    assert result is not None
    (bundle,) = find_judges(run, result, data, data)
    seen = {*data.of_split("val").tolist(), *data.of_split("test").tolist()}
    assert set(bundle.photos) == seen and len(bundle.networks) == 2


def test_after_folds_a_wrong_label_is_found_in_a_training_photograph(
    folded: RunFolder, blocks: Path, tmp_path: Path
) -> None:
    wrong = names(folded, "train")[0]
    data = relabelled(blocks, tmp_path / "data", **{Path(wrong).stem: without_roof(blocks, wrong)})
    assert look(folded.path, "--data", data, "--out", tmp_path / "out") == 0
    found = read_suspects_at(tmp_path / "out")
    assert (found[0]["photo"], found[0]["prediction"]) == (wrong, "Roof")


def read_suspects_at(folder: Path) -> list[dict[str, str]]:
    with (folder / "suspects.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_photograph_larger_than_a_piece_gives_the_same(
    run: RunFolder, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = names(run, "test")[0]
    data = relabelled(blocks, tmp_path / "data", **{Path(wrong).stem: without_roof(blocks, wrong)})
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert look(run.path, "--data", data, "--out", whole) == 0
    roof_rows, _ = np.nonzero(mask_of(blocks, wrong) == BUILT)
    # On the grid of 48×48 px, a piece ends at the roof's middle: it is cut in two.
    monkeypatch.setattr(finding, "PIECE_PX", 48 * int(roof_rows.mean() * 48 / 64))
    assert look(run.path, "--data", data, "--out", pieces) == 0
    (first, *_), halves = read_suspects_at(whole), read_suspects_at(pieces)[:2]
    area_px = sum(float(half["area_px"]) for half in halves)
    assert area_px == pytest.approx(float(first["area_px"]), abs=0.2)
    assert {half["prediction"] for half in halves} == {"Roof"}
    assert {half["photo"] for half in halves} == {wrong}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "0"], "--limit 0: must be at least 1"),
        (["--edge-px", "-1"], "--edge-px -1: must be at least 0"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    run: RunFolder, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(run.path, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_search_that_has_not_ended_is_told_apart(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    going_on = shutil.copytree(run.path, tmp_path / "run")
    (going_on / "result.json").unlink()
    assert look(going_on) == 2
    assert f"python -m search.run --resume {going_on}" in capsys.readouterr().err


def test_other_classes_are_refused(
    run: RunFolder, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = relabelled(blocks, tmp_path / "data")
    spec = (data / "dataset.yaml").read_text()
    (data / "dataset.yaml").write_text(spec.replace("Roof, Pool", "Pool, Roof"))
    assert look(run.path, "--data", data) == 2
    assert "in this order: Grass, Roof, Pool" in capsys.readouterr().err
