"""What a person may ask of a search: the options of ``python -m search.run``."""

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from segcore.config import MetricName
from segcore.errors import UserError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PATHS = ("data", "out", "resume")


@dataclass(frozen=True)
class SearchOptions:
    """Search the best segmentation: networks, losses, learning rates and oversampling."""

    data: Path | None = None
    """Folder that holds dataset.yaml. Default: the embedded data set of drawn aerial scenes."""
    space: str = "spaces.quick:space"
    """Search space, as module:function. Shipped: spaces.quick, .competition and .aerial."""
    trials: int = 12
    """Number of configurations to try. The space's known-good ones run first and count."""
    max_epochs: int = 18
    """Epochs of training of the trials that get furthest; weak ones are stopped sooner."""
    grace_epochs: int = 2
    """Epochs that every trial gets before it may be stopped."""
    reduction_factor: int = 3
    """At 1, 3, 9 … times the grace epochs, one trial in this many goes on (successive halving)."""
    metric: MetricName = "dice"
    """The score to maximise, on the validation split. README defines each."""
    gpus_per_trial: float | None = None
    """GPUs for each trial; 0.5 puts two on a GPU. Default: 1 where there are GPUs, else 0."""
    cpus_per_trial: int = 1
    """CPU cores for each trial: threads on a CPU, processes that load images beside a GPU."""
    time_budget: str | None = None
    """Stop after this long, such as 90m or 4h (units s, m, h, d), and use what is there."""
    out: Path = Path("runs")
    """Folder for runs; MLflow's embedded database stands there too."""
    name: str | None = None
    """Name of the run and of its folder. Default: the space's name with date and time."""
    tracking_uri: str | None = None
    """MLflow server, such as http://127.0.0.1:5000. Default: a SQLite file beside the runs."""
    address: str | None = None
    """Address of a running Ray cluster, or "auto". Default: this machine alone."""
    seed: int = 0
    """Seed of the sampler and of every training."""
    ensemble_candidates: int = 8
    """How many of the best trials the ensemble may choose from."""
    resume: Path | None = None
    """Folder of an earlier run to go on with. Its options hold unless given anew."""
    dry_run: bool = False
    """Check everything that can fail, print the plan and an estimate of the time, and stop."""

    def __post_init__(self) -> None:
        for name, least in (
            ("trials", 1), ("max_epochs", 1), ("grace_epochs", 1), ("reduction_factor", 2),
            ("cpus_per_trial", 1), ("ensemble_candidates", 1), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        if self.grace_epochs > self.max_epochs:
            raise UserError(
                f"--grace-epochs {self.grace_epochs}: more than --max-epochs {self.max_epochs}"
            )
        if self.gpus_per_trial is not None and not (
            0 <= self.gpus_per_trial < 1 or self.gpus_per_trial == int(self.gpus_per_trial)
        ):
            raise UserError(
                f"--gpus-per-trial {self.gpus_per_trial}: a fraction below 1, or a whole number"
            )
        if self.name is not None and not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, '_', '.' and '-' only")
        _ = self.time_budget_s

    @property
    def time_budget_s(self) -> float | None:
        """``time_budget`` in seconds. Raises ``UserError`` where it isn't a duration."""
        if self.time_budget is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", self.time_budget.strip())
        if match is None or float(match[1]) == 0:
            raise UserError(
                f"--time-budget {self.time_budget!r}: a number and a unit s, m, h or d, such as 90m"
            )
        return float(match[1]) * SECONDS[match[2]]

    @property
    def score_key(self) -> str:
        """The key of ``metric`` in a trial's results and in MLflow."""
        return f"val/{self.metric}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without ``resume`` and ``dry_run``: what a run is resumed with."""
        values = asdict(replace(self, resume=None, dry_run=False))
        return {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SearchOptions":
        """The inverse of ``to_dict``."""
        known = {field_.name for field_ in fields(cls)}
        parsed: dict[str, Any] = {
            name: Path(value) if name in PATHS and value is not None else value
            for name, value in values.items()
            if name in known
        }
        return cls(**parsed)


@dataclass(frozen=True)
class RunRecord:
    """What a resumed search needs to know of its beginning."""

    search_id: str
    """By which MLflow's runs of this search are found again."""
    options: SearchOptions
    identity: dict[str, str]
    """What must be the same when the search is resumed."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one search lies."""

    path: Path

    @property
    def trials(self) -> Path:
        """Ray's folder: session_*/trial_*/checkpoint_*."""
        return self.path / "trials"

    @property
    def weights(self) -> Path:
        """Pretrained encoders, fetched before the first trial."""
        return self.path / "weights"

    @property
    def ensemble(self) -> Path:
        """The bundle that predicts."""
        return self.path / "ensemble"

    @property
    def study(self) -> Path:
        """Optuna's journal: parameters, scores and states of all trials."""
        return self.path / "study.journal"

    @property
    def tracking_journal(self) -> Path:
        """What MLflow was told, and what it has yet to be told."""
        return self.path / "tracking.jsonl"

    @property
    def search_json(self) -> Path:
        """The ``RunRecord``."""
        return self.path / "search.json"

    def write(self, record: RunRecord) -> None:
        """Keep the record, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        values = {
            "search_id": record.search_id,
            "options": record.options.to_dict(),
            "identity": record.identity,
        }
        partial = self.search_json.with_suffix(".partial")
        partial.write_text(json.dumps(values, indent=2))
        partial.rename(self.search_json)

    def read(self) -> RunRecord:
        """What ``write`` wrote. Raises ``UserError`` where this is no run."""
        try:
            values = json.loads(self.search_json.read_text())
            return RunRecord(
                values["search_id"],
                SearchOptions.from_dict(values["options"]),
                dict(values["identity"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path}: not the folder of a run ({self.search_json.name}: {error})"
            ) from error
