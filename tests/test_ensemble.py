"""A bundle predicts without anything else."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.config import TrialConfig, View
from segcore.data.prepared import PreparedData
from segcore.errors import UserError
from segcore.predicting.ensemble import Ensemble, write_bundle
from segcore.reading.bands import Bands
from segcore.reading.headers import create_raster
from segcore.training.fit import fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoints(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for seed in (0, 1):
        config = TrialConfig(
            height_px=48, width_px=48, architecture="scratch_unet", encoder=None,
            model_kwargs={"base_channels": 4, "depth": 2}, batch_size=4, max_epochs=1, seed=seed,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("trial")
        next(fit(config, data, device=CPU)).save(folder)
        folders.append(folder)
    return folders


@pytest.fixture
def bundle(checkpoints: list[Path], tmp_path: Path) -> Path:
    weighted = list(zip(checkpoints, (0.75, 0.25), strict=True))
    write_bundle(tmp_path / "bundle", weighted, metric="dice", scores={"test": 0.5})
    return tmp_path / "bundle"


def test_a_bundle_predicts_alone_and_at_the_photographs_size(
    bundle: Path, tmp_path: Path, data: PreparedData
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(bundle, moved)
    ensemble = Ensemble.load(moved, CPU)
    assert ensemble.class_names == data.class_names
    assert [member.weight for member in ensemble.members] == [0.75, 0.25]
    photo = np.random.default_rng(0).integers(0, 255, (75, 130, 3)).astype(np.uint8)
    mask = ensemble.predict(photo)
    assert mask.shape == (75, 130) and mask.max() < 3
    np.testing.assert_allclose(ensemble.probs(photo).sum(axis=0), 1, atol=1e-5)


def test_a_file_is_read_as_the_networks_need_it_and_other_samples_are_refused(
    bundle: Path, tmp_path: Path
) -> None:
    ensemble = Ensemble.load(bundle, CPU)
    sixteen = replace(ensemble, bands=Bands(ranges=((0, 4095),) * 3))
    raw = np.random.default_rng(0).integers(0, 4096, (75, 130, 3)).astype(np.uint16)
    photo = (raw >> 4).astype(np.uint8)
    for model, image, samples in (
        (ensemble, photo, photo), (sixteen, raw, sixteen.bands.encode(raw)),
    ):  # fmt: skip
        path = tmp_path / "photo.tif"
        with create_raster(
            path, driver="GTiff", count=3, height=75, width=130, dtype=image.dtype
        ) as raster:
            raster.write(image.transpose(2, 0, 1))
        np.testing.assert_array_equal(model.predict(str(path)), model.predict(samples))
    wrong = photo[..., 0], photo[..., [0, 1, 2, 0]], photo.astype(np.float64), raw
    for model, odd in (*((ensemble, image) for image in wrong), (sixteen, photo)):
        with pytest.raises(UserError, match=r"; allowed: \(height, width, 3\) and uint"):
            model.predict(odd)  # type: ignore[arg-type]


def test_members_of_different_views_are_mixed_on_the_photographs_own_grid(
    checkpoints: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoints[1], other)
    manifest = json.loads((other / "checkpoint.json").read_text())
    manifest["config"] |= {"height_px": 32, "width_px": 40, "scale": 0.5}
    (other / "checkpoint.json").write_text(json.dumps(manifest))
    weighted = [(checkpoints[0], 0.75), (other, 0.25)]
    write_bundle(tmp_path / "bundle", weighted, metric="dice", scores={})
    ensemble = Ensemble.load(tmp_path / "bundle", CPU)
    views = [View(48, 48, None), View(32, 40, 0.5)]
    assert [member.view for member in ensemble.members] == views
    photo = np.random.default_rng(0).integers(0, 255, (75, 130, 3)).astype(np.uint8)
    alone = [Ensemble.of_checkpoints([(folder, 1.0)], CPU).probs(photo) for folder, _ in weighted]
    expected = 0.75 * alone[0] + 0.25 * alone[1]
    np.testing.assert_allclose(ensemble.probs(photo), expected, atol=1e-4)
    np.testing.assert_array_equal(ensemble.predict(photo), ensemble.probs(photo).argmax(axis=0))


def test_members_of_different_classes_are_refused(checkpoints: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoints[1], other)
    manifest = json.loads((other / "checkpoint.json").read_text())
    manifest["class_names"] = ["Lawn", "Roof", "Pool"]
    (other / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its members differ in their classes"):
        Ensemble.of_checkpoints([(checkpoints[0], 0.5), (other, 0.5)], CPU)


def test_a_bundle_of_an_older_version_is_refused_in_plain_words(bundle: Path) -> None:
    path = bundle / "member_00" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    del manifest["config"]["scale"]
    manifest["config"]["tile_scale"] = 0.25
    path.write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(UserError, match="member_00: format 1; this version reads 2: train it anew"):
        Ensemble.load(bundle, CPU)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"tile_scale is gone; write scale=0\.25"):
        Ensemble.load(bundle, CPU)


def test_a_bundle_of_a_format_without_factors_names_the_most_probable_class(bundle: Path) -> None:
    path = bundle / "bundle.json"
    manifest = json.loads(path.read_text())
    del manifest["factors"]
    path.write_text(json.dumps(manifest | {"format": 1}))
    assert Ensemble.load(bundle, CPU).factors is None
    path.write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(UserError, match="format 3; this version reads 1 to 2: use the version"):
        Ensemble.load(bundle, CPU)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"Grass": 1.0, "Roof": 2.0}, "its factors are not those of its classes, Grass, Roof"),
        ({"Grass": 1.0, "Roof": 0.0, "Pool": 1.0}, "the factor of 'Roof' is 0.0; allowed: a numb"),
        ([1.0, 2.0, 3.0], "damaged"),
    ],
)
def test_factors_that_make_no_sense_are_refused(
    factors: object, message: str, bundle: Path
) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"factors": factors}))
    with pytest.raises(UserError, match=message):
        Ensemble.load(bundle, CPU)


def test_a_bundle_holds_weights_and_json_and_no_training_state(bundle: Path) -> None:
    files = {path.name for path in bundle.rglob("*") if path.is_file()}
    assert files == {"bundle.json", "checkpoint.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["../trial", "/etc", "member_00/..", "."])
def test_a_bundle_cannot_name_what_is_outside_of_it(bundle: Path, name: str) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["members"][0]["folder"] = name
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="allowed: a folder member_NN"):
        Ensemble.load(bundle, CPU)


@pytest.mark.parametrize(
    "name", ["bundle.json", "member_01", "member_00/model.safetensors", "member_00/checkpoint.json"]
)
def test_a_bundle_cannot_link_to_what_is_outside_of_it(bundle: Path, name: str) -> None:
    outside = bundle.with_name("outside")
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(outside)
    with pytest.raises(UserError, match=rf"{name}: a link out of the bundle \(/.*outside\)"):
        Ensemble.load(bundle, CPU)


def test_a_link_may_lead_to_the_bundle_and_within_it(bundle: Path, tmp_path: Path) -> None:
    kept = bundle / "member_01" / "weights.safetensors"
    (bundle / "member_01" / "model.safetensors").rename(kept)
    (bundle / "member_01" / "model.safetensors").symlink_to("weights.safetensors")
    (tmp_path / "newest").symlink_to(bundle)
    assert len(Ensemble.load(tmp_path / "newest", CPU).members) == 2
    kept.unlink()  # then it leads nowhere
    with pytest.raises(UserError, match=r"member_01/model\.safetensors: a link out"):
        Ensemble.load(bundle, CPU)


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_one_flipped_bit_in_a_bundles_weights_is_refused_by_name(bundle: Path) -> None:
    path = bundle / "member_01" / "model.safetensors"
    bits = path.stat().st_size * 8
    for bit in (0, bits - 1, *(random.Random(0).randrange(bits) for _ in range(20))):
        flip_bit(path, bit)
        with pytest.raises(UserError, match=r"member_01/model\.safetensors: damaged"):
            Ensemble.load(bundle, CPU)
        flip_bit(path, bit)
    assert len(Ensemble.load(bundle, CPU).members) == 2


def test_a_bundle_is_not_made_of_a_damaged_checkpoint(
    checkpoints: list[Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "trial"
    shutil.copytree(checkpoints[0], damaged)
    flip_bit(damaged / "model.safetensors", 50_000)
    with pytest.raises(UserError, match=r"trial/model\.safetensors: damaged"):
        write_bundle(tmp_path / "bundle", [(damaged, 1.0)], metric="dice", scores={})
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_from_before_there_was_a_hash_still_loads(bundle: Path) -> None:
    for path in bundle.glob("member_*/checkpoint.json"):
        manifest = json.loads(path.read_text())
        assert len(manifest.pop("model_sha256")) == 64
        path.write_text(json.dumps(manifest))
    assert len(Ensemble.load(bundle, CPU).members) == 2


def test_code_that_a_bundle_names_runs_only_when_allowed(bundle: Path) -> None:
    path = bundle / "member_00" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["architecture"] = "antigravity:fly"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="--allow-plugins"):
        Ensemble.load(bundle, CPU)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "members": []}', "\x00"])
def test_a_damaged_bundle_is_refused(bundle: Path, content: str) -> None:
    (bundle / "bundle.json").write_text(content)
    with pytest.raises(UserError, match=r"bundle\.json"):
        Ensemble.load(bundle, CPU)
