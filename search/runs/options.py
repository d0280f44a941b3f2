"""The options of a search: those of ``python -m search.run``, and of ``search.search``."""

import difflib
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from search.runs.credentials import is_masked, without_credentials
from search.runs.storage import Location
from segcore.config import MetricName, Prefer, describe_validation_error
from segcore.errors import UserError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ADDRESSES = ("data", "out", "tracking_uri")
"""Options whose value may hold a password."""
LOCAL = "local"
"""The address of this machine alone, as Ray calls it."""

RUNS_OWN = "run"
"""The key of what a run's own run.yaml holds beside options; ``from_file`` passes over it."""

LARGEST_SEED = 100_000_000
"""Of it each epoch of each trial has a seed of its own, and torch takes 64 bits."""

IN_MLFLOW = ("http://", "https://", "sqlite:", "mlflow:")
"""How names of earlier searches begin that stand in MLflow instead of a run's folder."""

COMMAND_LINE_ONLY = ("resume", "dry_run")
"""Fields that say what to do with the options, and are none themselves."""


StrategyName = Literal["halving", "freeze-thaw"]


@dataclass(frozen=True)
class SearchOptions:
    """Search for the best segmentation: networks, losses, learning rates and oversampling."""

    data: str | None = None
    """Folder, or s3:// or gs:// address, with a dataset.yaml. Default: drawn scenes."""
    space: str = "spaces.quick:space"
    """Search space, as module:function. Shipped: spaces.quick, and for a GPU spaces.competition and
    spaces.aerial."""
    warm_start: tuple[str, ...] = ()
    """Earlier searches: folders or addresses of runs, or the names of searches or experiments in
    MLflow, as http://HOST:5000#NAME, sqlite:///FILE#NAME, or mlflow:NAME for the MLflow of this
    search. The two best configurations of each that the space can make are tried right after the
    known-good ones, and count; freeze-thaw also learns from the curves of the others."""
    trials: int = 10
    """Number of configurations to try; the space's known-good ones come first and count."""
    strategy: StrategyName = "halving"
    """halving: successive halving stops weak trials for good. freeze-thaw: trials are paused after
    1, 2, 4, 7 … epochs, and those go on that promise most per second. It ends with --time-budget,
    or else after as many epochs, all trials together, as halving would take."""
    max_epochs: int = 18
    """Epochs of the longest trainings; weak trials are stopped sooner."""
    grace_epochs: int = 2
    """Epochs that every trial gets before halving may stop it."""
    reduction_factor: int = 3
    """Of this many trials halving lets one go on at 1, 3, 9 … times the grace epochs."""
    epoch_megapixels: float | None = None
    """Megapixels that go through the network in an epoch, in every trial alike, whatever its scale
    and window. Default: as many as the training photographs have in the space's finest view, and at
    least four times as many as those of the validation; where photographs are squeezed whole, each
    of them once."""
    score_scale: float | None = None
    """Share of the photographs' own resolution, up to 1, at which all trials are scored, whatever
    their own. Default: the finest that the space names."""
    allow_missing_classes: bool = False
    """Search although most of the rare classes are in no photograph of the validation split, so
    that nothing is chosen by how well they are found."""
    metric: MetricName = "dice"
    """The score to maximise, on the validation split. docs/explanation.md has their definitions."""
    gpus_per_trial: float | None = None
    """GPUs for each trial; 0.5 puts two trials on a GPU. Default: 1 if there are any, else 0."""
    cpus_per_trial: int | None = None
    """CPU cores for each trial: for training on a CPU, or for loading images beside a GPU. Default:
    1 on a CPU; beside a GPU the node's cores divided among its trials, 8 at most."""
    parallel: int | None = None
    """Trials at a time. Default: as many as fit on the nodes. Give a larger number where a cluster
    adds nodes for waiting trials."""
    time_budget: str | None = None
    """Train trials for this long, such as 90m or 4h (units s, m, h, d), and choose a model of those
    that there are by then, which takes minutes more. A resumed search trains as long again."""
    hang_timeout: str = "1h"
    """A trial that completes no epoch for this long (s, m, h, d) is ended, and goes on once, from
    its last checkpoint."""
    out: str = "runs"
    """Folder, or s3:// or gs:// address, for runs. All nodes of a cluster must see it."""
    name: str | None = None
    """Name of the run and of its folder. Default: the space's name with date and time."""
    tracking_uri: str | None = None
    """MLflow server, such as http://127.0.0.1:5000. Default: a SQLite file beside the runs."""
    address: str | None = None
    """Address of a running Ray cluster, or "auto". Default, also "local": this machine alone."""
    seed: int = 0
    """Seed of the sampler and of every training."""
    ensemble_candidates: int = 16
    """Trials that the ensemble may choose from: the best, and a few of another kind."""
    ensemble_members: int = 8
    """The largest number of members that the ensemble may have."""
    ensemble_latency: float | None = None
    """Seconds that all members together may take for one photograph, as it is measured on those of
    the validation split. Default: no limit."""
    prefer: Prefer = "balance"
    """Which model is taken: the one that scores best on validation photographs that were left out
    when it was made (accuracy), or the cheapest that is worse by no more than the standard error of
    that difference (balance), or by twice as much (speed)."""
    folds: int = 1
    """With K > 1 the best trials are trained anew on K folds of the training and validation images,
    after the search and its --time-budget. Members are then chosen on all of these images, and each
    is the mean of its K networks."""
    repeats: int = 0
    """With K > 1 the best trials are trained anew with K other seeds each, after the search and its
    --time-budget: so that it is known how much of a score is luck, and more models compete."""
    final_trials: int = 4
    """Trials that --folds and --repeats train anew: the best, and one of another kind."""
    resume: str | None = None
    """Folder or address of an earlier run to go on with. Its options hold unless given anew."""
    dry_run: bool = False
    """Check everything that can fail, print the plan and an estimate of the time, and stop."""

    def __post_init__(self) -> None:
        if self.address == LOCAL:
            object.__setattr__(self, "address", None)
        for name, least in (
            ("trials", 1), ("max_epochs", 1), ("grace_epochs", 1), ("reduction_factor", 2),
            ("cpus_per_trial", 1), ("parallel", 1), ("ensemble_candidates", 1),
            ("ensemble_members", 1), ("folds", 1), ("final_trials", 1), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        if self.repeats < 0 or self.repeats == 1:
            raise UserError(
                f"--repeats {self.repeats}: must be 0 or at least 2: one more training of a "
                "configuration does not say how much trainings differ"
            )
        if self.grace_epochs > self.max_epochs:
            raise UserError(
                f"--grace-epochs {self.grace_epochs}: more than --max-epochs {self.max_epochs}"
            )
        gpus = self.gpus_per_trial
        if gpus is not None and not (0 <= gpus < 1 or (gpus >= 1 and gpus % 1 == 0)):
            raise UserError(f"--gpus-per-trial {gpus}: a fraction below 1, or a whole number")
        if self.seed > LARGEST_SEED:
            raise UserError(f"--seed {self.seed}: must be at most {LARGEST_SEED}")
        most_of = {"epoch_megapixels": math.inf, "ensemble_latency": math.inf, "score_scale": 1}
        for name, most in most_of.items():
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                allowed = "above 0" if most == math.inf else f"above 0 and at most {most}"
                raise UserError(f"--{name.replace('_', '-')} {value:g}: must be {allowed}")
        if self.name is not None and not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, '_', '.' and '-' only")
        _ = self.time_budget_s, self.hang_timeout_s

    def check_complete(self) -> None:
        """Raise ``UserError`` if ``to_dict`` masked a password in one of the addresses."""
        given = [(name, getattr(self, name)) for name in ADDRESSES]
        if self.resume is None:  # a resumed run doesn't read earlier ones again
            given += [("warm_start", address) for address in self.warm_start]
        for name, address in given:
            if is_masked(str(address)):
                raise UserError(
                    f"--{name.replace('_', '-')} {address}: its password isn't kept; give the "
                    "address again, or keep the password in the environment"
                )

    @property
    def time_budget_s(self) -> float | None:
        """``time_budget`` in seconds. Raises ``UserError`` where it isn't a duration."""
        return None if self.time_budget is None else _seconds("--time-budget", self.time_budget)

    @property
    def hang_timeout_s(self) -> float:
        """``hang_timeout`` in seconds. Raises ``UserError`` where it isn't a duration."""
        return _seconds("--hang-timeout", self.hang_timeout)

    @property
    def score_key(self) -> str:
        """The key of ``metric`` in a trial's results and in MLflow."""
        return f"val/{self.metric}"

    @property
    def pauses(self) -> bool:
        """Whether a trial that doesn't go on is paused instead of stopped for good."""
        return self.strategy == "freeze-thaw"

    @property
    def final_trainings(self) -> int:
        """How many trainings follow the search."""
        return self.final_trials * (self.repeats + (self.folds if self.folds > 1 else 0))

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values, without ``resume`` and ``dry_run``.

        Paths are made absolute, and passwords in addresses are masked.
        """
        values = asdict(self)
        for name in COMMAND_LINE_ONLY:
            del values[name]
        for name in ("data", "out"):
            if values[name] is not None:
                values[name] = Location.parse(values[name]).address
        for name in ADDRESSES:
            if values[name] is not None:
                values[name] = without_credentials(values[name])
        values["warm_start"] = [
            without_credentials(run if is_in_mlflow(run) else Location.parse(run).address)
            for run in self.warm_start
        ]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SearchOptions":
        """The inverse of ``to_dict``; options that only another version knows are left out."""
        known = {field_.name for field_ in fields(cls)}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{name: value for name, value in (values | lists).items() if name in known})

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> "SearchOptions":
        """The options in a YAML file, such as a run's own run.yaml; ``changes`` stand over them.

        Their names are those of the command line, without the two hyphens; ``max-epochs`` and
        ``max_epochs`` are one. Relative paths begin where the search is started, as there. Raises
        ``UserError`` naming each option that is unknown or has a wrong value.
        """
        path = Path(path).expanduser()
        try:
            values = yaml.safe_load(path.read_text())
        except OSError as error:
            raise UserError(f"--options {path}: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--options {path}: no valid YAML: {reason}") from error
        if not isinstance(values, dict):
            raise UserError(f"--options {path}: expected lines such as `trials: 100`")
        given = {str(name).replace("-", "_"): value for name, value in values.items()}
        given.pop(RUNS_OWN, None)
        allowed = [field_.name for field_ in fields(cls) if field_.name not in COMMAND_LINE_ONLY]
        if unknown := [name for name in given if name not in allowed]:
            near = difflib.get_close_matches(unknown[0], allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed)}"
            raise UserError(f"--options {path}: no option {unknown[0]!r}; {hint}")
        try:
            return TypeAdapter(cls).validate_python(given | changes)
        except ValidationError as error:
            raise UserError(f"--options {path}: {describe_validation_error(error)}") from error


def is_in_mlflow(earlier: str) -> bool:
    """Whether a value of ``--warm-start`` names what MLflow knows, instead of a run's folder."""
    return earlier.startswith(IN_MLFLOW)


def _seconds(option: str, duration: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(f"{option} {duration!r}: a number and a unit s, m, h or d, such as 90m")
    return float(match[1]) * SECONDS[match[2]]
