"""The ensemble in MLflow's registry: versions with honest scores, loaded and served by MLflow."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient
from PIL import Image

from search.runs.folder import RunFolder
from search.runs.result import SearchResult
from search.tracking.addresses import default_uri, serve_command
from search.tracking.check import check
from search.tracking.registry import model_record
from search.tracking.tracker import Tracker
from segcore.predicting.ensemble import Ensemble
from segcore.reading.images import read_image
from tests.conftest import CLASS_NAMES
from tests.drawn_run import draw_run
from tests.machinery import free_port, serving

MODEL = "roofs"


class Registered(NamedTuple):
    run: RunFolder
    uri: str
    versions: list[ModelVersion]

    @property
    def folder(self) -> Path:
        return Path(self.versions[0].source.removeprefix("file://"))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Registered:
    """A run whose ensemble was registered twice, as by a search that was resumed."""
    run = draw_run(tmp_path_factory.mktemp("runs"), blocks)
    uri = default_uri(run.path.parent)
    check(uri, "segsearch")
    result = SearchResult.read(run.path)
    assert result is not None
    for _ in range(2):
        with Tracker(
            uri, experiment="segsearch", search_name="drawn", search_id="drawn-1",
            score="val/dice", outbox=run.path.parent / "again" / "tracking.jsonl",
        ) as tracker:  # fmt: skip
            tracker.start_search({}, {})
            tracker.register(model_record(MODEL, run.ensemble, result))
            assert tracker.close(timeout_s=120) == 0
            assert tracker.refused == 0
    return Registered(run, uri, MlflowClient(uri).search_model_versions(f"name = '{MODEL}'"))


@pytest.fixture(scope="module")
def address(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the command that a search prints serves the model, far from the checkout."""
    port = free_port()
    command = serve_command(registered.uri, MODEL).replace("5001", str(port))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with serving(command, port, timeout_s=150, cwd=elsewhere) as server:
        yield f"{server}/invocations"


def ask(address: str, *images: bytes) -> Any:
    inputs = [{"image": base64.b64encode(image).decode()} for image in images]
    return post(address, {"inputs": inputs})["predictions"]


def post(address: str, body: object) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_honest_score_stands_beside_the_version_which_is_made_once(
    registered: Registered,
) -> None:
    (version,) = registered.versions
    result = SearchResult.read(registered.run.path)
    assert result is not None
    honest = result.ensemble.test.metrics["dice"]
    client = MlflowClient(registered.uri)
    run = client.get_run(version.run_id)
    assert run.data.tags["segsearch.search_id"] == "drawn-1"
    assert run.data.metrics["test/dice"] == pytest.approx(honest.value)
    assert run.data.metrics["test/dice_low"] == pytest.approx(honest.low)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert {m.key: m.value for m in model.metrics}["test/dice"] == pytest.approx(honest.value)
    assert version.tags["score"] == str(honest)
    assert "4 test photographs that neither training nor selection saw" in version.description
    assert "trial 0 ×0.75, trial 4 ×0.25" in version.description
    assert result.why in version.description and version.tags["why"] == result.why


def test_all_packages_are_pinned(registered: Registered) -> None:
    lines = (registered.folder / "requirements.txt").read_text().split()
    assert lines and all("==" in line and "+" not in line for line in lines)


def test_it_loads_with_nothing_but_itself_and_its_packages(
    registered: Registered, tmp_path: Path
) -> None:
    """No checkout, no Ray, no Optuna: every other import of the search's own is refused."""
    code = f"""
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("search", "spaces", "ray", "optuna", "tests"):
            raise ImportError(name + " is not part of the model")
sys.meta_path.insert(0, Refusing())
import mlflow
before = set(sys.modules)
model = mlflow.pyfunc.load_model({str(registered.folder)!r})
import segcore
assert segcore.__file__.startswith({str(registered.folder)!r}), segcore.__file__
import json, pathlib
example = json.loads(pathlib.Path({str(registered.folder)!r}, "input_example.json").read_text())
answer = model.predict(example)
assert "mask" in dict(answer[0]), answer
tops = {{name.split(".")[0] for name in set(sys.modules) - before}}
print("IMPORTED", *sorted(tops))
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported = done.stdout.partition("IMPORTED")[2].split()
    assert {"torch", "cv2", "segcore"} <= set(imported)
    # Of the project's own direct dependencies, those that were imported come with the model.
    lines = (registered.folder / "requirements.txt").read_text().split()
    pinned = {plain(line) for line in lines}
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    # boto3 is looked for by MLflow, which does without.
    direct = {plain(line) for line in project["dependencies"]} - {"boto3"}
    owners = metadata.packages_distributions()
    used = {plain(owner) for name in imported for owner in owners.get(name, [])}
    assert used & direct <= pinned


def plain(requirement: str) -> str:
    """The name alone: "opencv-python-headless>=5" without its version."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_a_photograph_sent_by_http_comes_back_as_the_ensemble_s_mask(
    registered: Registered, blocks: Path, address: str
) -> None:
    photographs = [blocks / "images" / f"photo_{m:02d}.png" for m in (3, 4)]
    answers = ask(address, *(path.read_bytes() for path in photographs))
    ensemble = Ensemble.load(registered.run.ensemble)
    for path, answer in zip(photographs, answers, strict=True):
        expected_HW = ensemble.predict(read_image(path))
        with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
            assert mask.size == (64, 64) and mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), expected_HW)
            assert mask.getpalette()[:3] == list(ensemble.class_colors[0])
        assert set(answer["shares"]) <= set(CLASS_NAMES)
        assert sum(answer["shares"].values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [{"image": "####"}]}, "not base64"),
        ({"inputs": [{"image": "aGVsbG8="}]}, "image: is no picture"),
        ({"inputs": [{"picture": "aGVsbG8="}]}, "Field required"),
    ],
)
def test_what_is_no_photograph_is_the_callers_error(
    body: object, message: str, address: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(address, body)
    assert refused.value.code == 400
    answer = json.load(refused.value)
    assert message in answer["message"] and "Traceback" not in answer["message"]
