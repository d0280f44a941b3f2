"""The name under which an ensemble is registered in MLflow, and what is said where it is not."""

import shlex
from pathlib import Path

import pytest
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import _validate_logged_model_name, _validate_model_name

from search.reporting.terminal import next_steps
from search.runs.folder import RunFolder
from search.tracking.addresses import default_uri, serve_command
from search.tracking.check import check
from search.tracking.registry import model_name
from search.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = default_uri(tmp_path_factory.mktemp("runs"))
    check(uri, "segsearch")
    return uri


@pytest.mark.parametrize(
    "data",
    ["photos.v2", "50 %", "a'b", 'a"b', "a/b:c", "..", "", "-", "a?b#c;d@e", "a\\b",
     "tab\tnew\nline", "東京 2024", "नक्शा", "Gebäude", "🏠",
     "\udce4", "x" * 255, "a=b,c&d", "[1]", "`a`"],
)  # fmt: skip
def test_the_ensemble_of_any_folder_gets_a_name_that_mlflow_takes(uri: str, data: str) -> None:
    name = model_name(data)
    _validate_model_name(name)
    _validate_logged_model_name(name)
    assert _parse_model_uri(f"models:/{name}/latest").name == name
    assert shlex.split(serve_command(uri, name))[5] == f"models:/{name}/latest"
    assert name.startswith("segsearch-") and len(name) <= 256  # the column of MLflow's database
    client = MlflowClient(uri)
    client.create_registered_model(name)
    assert [model.name for model in client.search_registered_models(f"name = '{name}'")] == [name]
    assert not client.search_model_versions(f"name = '{name}'")
    client.delete_registered_model(name)


def test_a_models_name_keeps_the_letters_of_its_folder() -> None:
    names = {"my_photos": "my_photos", "photos.v2": "photos-v2", "Gebäude (1)": "Gebäude-1"}
    names |= {"नक्शा": "नक्शा"}
    assert {data: model_name(data).removeprefix("segsearch-") for data in names} == names


def test_an_ensemble_that_was_not_registered_is_told_instead_of_how_to_serve_it(
    uri: str, tmp_path: Path
) -> None:
    with Tracker(
        uri, experiment="segsearch", search_name="w", search_id="w", score="val/dice",
        outbox=tmp_path / "tracking.jsonl",
    ) as tracker:  # fmt: skip
        tracker.start_search({}, {})
        tracker.register({"name": "roofs", "bundle": str(tmp_path / "gone"), "metrics": {}})
        assert tracker.close(30) == 0
    steps = next_steps(
        RunFolder.at("runs/w"), report="report.html", compare="mlflow ui",
        trials_url="http://x", unsent=0,
        serve="mlflow models serve", refused=tracker.refusals.get("model"),
    )  # fmt: skip
    assert "MLflow          did not register the ensemble, so can't serve it" in steps
    assert "gone" in steps and "models serve" not in steps
