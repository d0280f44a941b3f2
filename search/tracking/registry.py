"""An ensemble as a version of a registered model in MLflow, which MLflow serves.

The model is a folder with the bundle, ``served_model.py``, a copy of ``segcore`` (and of a plug-in
package), and the list of pinned packages that predicting needs. It runs without our repository.
"""

import base64
import importlib.util
import io
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from mlflow import pyfunc
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient
from PIL import Image

import segcore
from search.runs.repeats import describe_noise
from search.runs.result import SearchResult
from search.tracking.outbox import Record
from segcore.files import sha256_of
from segcore.plugins import is_import_path
from segcore.predicting.ensemble import MANIFEST, read_manifest
from segcore.training import checkpoint

REQUIREMENTS = (
    "torch", "torchvision", "segmentation-models-pytorch", "timm", "safetensors",
    "huggingface-hub", "numpy", "opencv-python-headless", "pillow", "rasterio", "matplotlib",
    "pydantic", "pyyaml", "rich", "tyro", "mlflow",
)  # fmt: skip
"""The packages that segcore needs to predict, pinned at the versions of this process."""

BUNDLE_TAG = "segsearch.bundle"
"""A tag of the search and the content of its bundle, by which a version is found again."""


def model_name(data: str) -> str:
    """The registered model of a data set: letters (of any script), digits, "-" and "_" only.

    MLflow refuses others in names of models, cuts them off in models:/ addresses, or takes them for
    the end of a name in a query. It keeps 256 characters.
    """
    kept = "".join(
        character if unicodedata.category(character)[0] in "LMN" or character == "_" else "-"
        for character in unicodedata.normalize("NFC", data)
    )
    return f"segsearch-{re.sub('-+', '-', kept).strip('-') or 'data'}"[:200]


def model_record(name: str, bundle: Path, result: SearchResult) -> Record:
    """What ``register`` needs to know, as JSON values: the bundle and its honest score."""
    chosen, photos = result.ensemble, result.ensemble.test.photos
    test, val = chosen.test.metrics, chosen.val.metrics
    score = test[result.metric]
    metrics = {f"test/{metric}": interval.value for metric, interval in test.items()}
    metrics[f"test/{result.metric}_low"] = score.low
    metrics[f"test/{result.metric}_high"] = score.high
    metrics[f"val/{result.metric}"] = val[result.metric].value
    noise = result.seed_noise
    if noise is not None:
        metrics[f"seed_noise/{result.metric}"] = noise.deviation
    return {
        "name": name,
        "bundle": str(bundle.resolve()),
        "metrics": metrics,
        "tags": {
            "metric": result.metric,
            "score": str(score),
            "model": chosen.name,
            "members": chosen.members,
            "why": result.why,
        },
        "description": (
            f"**{result.metric} {score}**, with its 95 % interval, on {photos} test "
            "photographs that neither training nor selection saw.\n\n"
            f"{result.why}\n\n"
            + (f"{chosen.test.caution}\n\n" if chosen.test.caution else "")
            + (f"{describe_noise(noise)}\n\n" if noise else "")
            + f"Members: {chosen.members}."
            + (f" Factors of the classes: {_factors(chosen.factors)}." if chosen.factors else "")
        ),
    }


def _factors(factors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ×{factor:.2f}" for name, factor in factors.items())


def register(client: MlflowClient, record: Record, experiment_id: str, run_id: str) -> None:
    """Make the bundle the next version of the record's model, unless it is a version already.

    Raises what MLflow raises, and ``OSError`` or ``UserError`` where the bundle is gone.
    """
    name, bundle = record["name"], Path(record["bundle"])
    identity = f"{run_id}/{sha256_of(bundle / MANIFEST)[:16]}"
    versions = client.search_model_versions(f"name = '{name}'")
    if any(version.tags.get(BUNDLE_TAG) == identity for version in versions):
        return
    model = _store(client, record, experiment_id, run_id, identity)
    for key, value in record["metrics"].items():
        client.log_metric(run_id, key, value, model_id=model.model_id)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    client.create_model_version(
        name,
        source=model.artifact_location,
        run_id=run_id,
        model_id=model.model_id,
        tags={**record["tags"], BUNDLE_TAG: identity},
        description=record["description"],
    )


def _store(
    client: MlflowClient, record: Record, experiment_id: str, run_id: str, identity: str
) -> LoggedModel:
    """Store the model in the experiment, or complete one that an outage cut off."""
    found = client.search_logged_models([experiment_id], f"tags.`{BUNDLE_TAG}` = '{identity}'")
    model = found[0] if found else None
    if model is not None and model.status == LoggedModelStatus.READY:
        return model
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model")
        write_model(Path(record["bundle"]), written)
        model = model or client.create_logged_model(
            experiment_id,
            name=record["name"],
            source_run_id=run_id,
            tags={**record["tags"], BUNDLE_TAG: identity},
            model_type="ensemble",
        )
        client.log_model_artifacts(model.model_id, str(written))
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def write_model(bundle: Path, folder: Path) -> None:
    """Write the bundle as an MLflow model into ``folder``, which must not exist."""
    pyfunc.save_model(
        folder,
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"bundle": str(bundle)},
        code_paths=[str(Path(segcore.__file__).parent), *_plugin_packages(bundle)],
        pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
        input_example=[{"image": _example_photograph()}],
    )


def _version(package: str) -> str:
    return metadata.version(package).partition("+")[0]  # no index knows a local build's suffix


def _plugin_packages(bundle: Path) -> list[str]:
    """The files or folders of the packages that define the members' architectures."""
    packages = set()
    for member in read_manifest(bundle)["members"]:
        architecture = checkpoint.load_info(bundle / member["folder"]).config.architecture
        if is_import_path(architecture):
            spec = importlib.util.find_spec(architecture.partition(":")[0].partition(".")[0])
            if spec is not None:
                packages |= {*(spec.submodule_search_locations or [str(spec.origin)])}
    return sorted(packages)


def _example_photograph() -> str:
    """A grey square, in base64; it is small because people read it."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (120, 120, 120)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()
