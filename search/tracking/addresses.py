"""Where MLflow keeps what a search logs, and the addresses and commands that show it to people."""

import re
import shlex
import sys
from pathlib import Path
from urllib.parse import quote, unquote

from search.runs.credentials import without_credentials
from search.tracking.metric_names import BEST_SCORE

UI_PORT = 5050 if sys.platform == "darwin" else 5000
"""MLflow's own choice is 5000, which the AirPlay receiver of macOS occupies."""
UI_ADDRESS = f"http://127.0.0.1:{UI_PORT}"
"""Where ``ui_command`` serves MLflow's pages."""

SQLITE = "sqlite:///"


def default_uri(runs_folder: Path) -> str:
    """The address of the embedded database: a SQLite file beside the runs."""
    path = str(runs_folder.resolve() / "mlflow.db")
    return SQLITE + re.sub(r"[%?#]", lambda char: quote(char[0]), path)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite address; None for any other address."""
    return Path(unquote(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def _public(uri: str) -> str:
    """The address as a browser takes it: it asks for a name and a password by itself."""
    return without_credentials(uri).replace("***@", "")


def ui_command(uri: str) -> str:
    """What a person types to see the trials in a browser; for a server, its address."""
    if sqlite_path(uri) is None:
        return _public(uri)
    # Without its job runner the server has two processes instead of ten.
    command = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri"
    port = "" if UI_PORT == 5000 else f" --port {UI_PORT}"
    return f"{command} {shlex.quote(uri)}{port}"


def serve_command(uri: str, model: str) -> str:
    """What a person types to serve the newest version of a registered model on this machine."""
    address = f"MLFLOW_TRACKING_URI={shlex.quote(_public(uri))}"
    source = shlex.quote(f"models:/{model}/latest")
    return f"{address} mlflow models serve -m {source} --env-manager local --port 5001"


def trials_url(uri: str, experiment_id: str, search_id: str) -> str:
    """The page that lists the trials of one search, the best first.

    It leaves out the search's own run, which has none of the training's parameters and would only
    disturb a comparison.
    """
    server = _public(uri).rstrip("/") if sqlite_path(uri) is None else UI_ADDRESS
    trials = quote(f"tags.`segsearch.trial` LIKE '{search_id}/%'", safe="")
    score = quote(f"metrics.`{BEST_SCORE}`", safe="")
    return (
        f"{server}/#/experiments/{experiment_id}/runs"
        f"?searchFilter={trials}&orderByKey={score}&orderByAsc=false"
    )
