"""python -m search.evaluate: the scores of a bundle on photographs with masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search import evaluate, predict
from segcore.config import TrialConfig
from segcore.data.preparing import prepare_data
from segcore.inference.photographs import Photograph
from segcore.predicting.ensemble import Ensemble, write_bundle
from segcore.reading.images import read_image
from segcore.training.fit import fit
from tests.conftest import CLASS_NAMES


@pytest.fixture(scope="module")
def bundle(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = TrialConfig(
        height_px=48, width_px=48, architecture="scratch_unet", encoder=None, lr=0.01,
        model_kwargs={"base_channels": 4, "depth": 2}, batch_size=2, max_epochs=5,
    )  # fmt: skip
    *_, last = fit(config, prepare_data(blocks, [config.view], progress=False))
    last.save(folder / "0")
    write_bundle(folder / "bundle", [(folder / "0", 1.0)], metric="dice", scores={})
    return folder / "bundle"


def run(*arguments: object) -> int:
    return evaluate.main([str(argument) for argument in arguments])


def test_scores_are_those_of_the_predicted_masks(
    bundle: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "scores.json"
    assert run(bundle, blocks, "--split", "all", "--json", found, "--worst", 3) == 0
    report = json.loads(found.read_text())
    assert report["split"] == "all" and len(report["photos"]) == 16

    ensemble = Ensemble.load(bundle)
    confusion = np.zeros((3, 3), int)
    accuracy = {}
    for path in sorted((blocks / "images").glob("*.png")):
        truth = np.asarray(Image.open(blocks / "masks" / path.name))
        predicted = ensemble.predict(read_image(path))
        labelled = truth != 255
        np.add.at(confusion, (truth[labelled], predicted[labelled]), 1)
        accuracy[f"images/{path.name}"] = (truth == predicted)[labelled].mean()
    assert report["confusion"] == confusion.tolist()
    assert {row["name"]: row["pixel_accuracy"] for row in report["photos"]} == pytest.approx(
        accuracy
    )

    diagonal, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    dice = 2 * diagonal / (truth + predicted)
    assert [row["dice"] for row in report["classes"]] == pytest.approx(dice)
    assert [row["recall"] for row in report["classes"]] == pytest.approx(diagonal / truth)
    score = report["scores"]["dice"]
    assert score["value"] == pytest.approx(dice.mean())
    assert score["low"] < score["value"] < score["high"]
    assert "dice" in report["definitions"]

    told = capsys.readouterr().out
    assert f"{dice.mean():.4f}" in told and all(name in told for name in CLASS_NAMES)
    worst = min(report["photos"], key=lambda row: row["dice_per_image"])
    assert worst == report["photos"][0] and worst["name"] in told
    assert report["photos"][3]["name"] not in told


@pytest.mark.parametrize("scale", [0.5, 0.3])
def test_scores_may_be_those_at_another_resolution(
    bundle: Path, blocks: Path, tmp_path: Path, scale: float
) -> None:
    found = tmp_path / "scores.json"
    arguments = ["--split", "all", "--json", found, "--score-scale", scale]
    assert run(bundle, blocks, *arguments) == 0
    ensemble = Ensemble.load(bundle)
    confusion = np.zeros((3, 3), int)
    side = round(64 * scale)
    for path in sorted((blocks / "images").glob("*.png")):
        truth = np.asarray(Image.open(blocks / "masks" / path.name))
        nearest = ((np.arange(side) + 0.5) * 64 / side).astype(int)
        truth = truth[np.ix_(nearest, nearest)]
        image = Photograph.in_memory(read_image(path))
        for strip in ensemble.strips(image, size_px=(side, side)):
            labelled = truth[strip.rows, strip.columns] != 255
            predicted = strip.probs_KHW.argmax(dim=0).cpu().numpy()
            pair = (truth[strip.rows, strip.columns][labelled], predicted[labelled])
            np.add.at(confusion, pair, 1)
    assert json.loads(found.read_text())["confusion"] == confusion.tolist()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_windows_may_be_slid_as_by_predict(
    bundle: Path, blocks: Path, tmp_path: Path, scale: float
) -> None:
    found = tmp_path / "scores.json"
    assert run(bundle, blocks, "--split", "all", "--json", found, "--scale", scale) == 0
    out = tmp_path / "out"
    assert (
        predict.main([str(bundle), str(blocks / "images"), f"--out={out}", f"--scale={scale}"]) == 0
    )
    confusion = np.zeros((3, 3), int)
    for path in sorted((blocks / "masks").glob("*.png")):
        truth, named = np.asarray(Image.open(path)), np.asarray(Image.open(out / path.name))
        labelled = truth != 255
        np.add.at(confusion, (truth[labelled], named[labelled]), 1)
    assert json.loads(found.read_text())["confusion"] == confusion.tolist()


def test_a_scale_that_cannot_be_is_told(
    bundle: Path, blocks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--scale", "--score-scale"):
        assert run(bundle, blocks, option, 2) == 2
        assert f"{option} 2.0: allowed is above 0, up to 1" in capsys.readouterr().err


def test_what_was_trained_on_is_left_out(
    bundle: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle, blocks) == 0
    assert f"4 photographs of {blocks}, split test" in capsys.readouterr().out.replace("\n", " ")
    # The same photographs as a data set of their own: nothing tells that they were trained on.
    shutil.copytree(blocks, tmp_path / "new")
    spec = (tmp_path / "new" / "dataset.yaml").read_text()
    (tmp_path / "new" / "dataset.yaml").write_text(spec.replace("val: 0.25", "val: 0.3"))
    assert run(bundle, tmp_path / "new") == 0
    assert "16 photographs of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ("[Grass, Roof, Lake]", "without Pool and with Lake, which the bundle doesn't know"),
        ("[Roof, Grass, Pool]", "in another order"),
        ("[Grass, Roof, Pool, Car]", "with Car"),
    ],
)
def test_other_classes_are_refused(
    bundle: Path,
    blocks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: str,
    told: str,
) -> None:
    shutil.copytree(blocks, tmp_path / "data")
    spec = (tmp_path / "data" / "dataset.yaml").read_text()
    (tmp_path / "data" / "dataset.yaml").write_text(spec.replace("[Grass, Roof, Pool]", classes))
    assert run(bundle, tmp_path / "data") == 2
    error = capsys.readouterr().err
    assert told in error and "in this order: Grass, Roof, Pool" in error


def test_a_broken_photograph_is_told_and_left_out(
    bundle: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(blocks, tmp_path / "data")
    for number in (3, 5, 6, 7, 8):
        path = tmp_path / "data" / "images" / f"photo_{number:02d}.png"
        path.write_bytes(b"\x89PNG broken")
    assert run(bundle, tmp_path / "data", "--split", "all") == 1
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if "photo_" in line]
    assert "photo_03.png" in told[0] and "likewise 4 more: " in told[1] and len(told) == 2
    assert "11 photographs of" in captured.out


def test_masks_in_which_nothing_is_labelled_have_no_score(
    bundle: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(blocks, tmp_path / "data")
    for path in (tmp_path / "data" / "masks").iterdir():
        Image.new("L", (64, 64), 255).save(path)
    assert run(bundle, tmp_path / "data", "--split", "all") == 2
    captured = capsys.readouterr()
    assert "none of 16 photographs has a labelled pixel" in captured.err and not captured.out


def test_names_in_brackets_are_shown_as_they_are(
    bundle: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(blocks, tmp_path / "data [red]")
    for part in ("images", "masks"):
        path = tmp_path / "data [red]" / part / "photo_03.png"
        path.rename(path.with_name("[bold].png"))
    assert run(bundle, tmp_path / "data [red]", "--split", "all", "--worst", 16) == 0
    told = capsys.readouterr().out
    assert "images/[bold].png" in told and "data [red]" in told
