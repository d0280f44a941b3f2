"""What MLflow is told about a search, and knows of earlier ones. No other part imports mlflow."""

import os

# MLflow reads these when it is imported, or when it first connects. It would report its use to its
# makers, and would log a line for each of the hundred migrations of a new database. It would also
# repeat a request that timed out, and so create a run twice: the tracker repeats with more care.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)

# A proxy for the web knows nothing of a server on this machine.
_unproxied = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
_unproxied += {"localhost", "127.0.0.1", "::1"} - {*_unproxied}
os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, _unproxied))
