"""A bundle predicts without anything else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.cache import PreparedData
from segcore.config import TrialConfig
from segcore.ensemble import Ensemble, write_bundle
from segcore.errors import UserError
from segcore.training import fit

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
    assert [weight for _, weight in ensemble.members] == [0.75, 0.25]
    photo = np.random.default_rng(0).integers(0, 255, (75, 130, 3)).astype(np.uint8)
    mask = ensemble.predict(photo)
    assert mask.shape == (75, 130) and mask.max() < 3
    np.testing.assert_allclose(ensemble.probs(photo).sum(axis=0), 1, atol=1e-5)


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
