"""What a person may ask of a search: the options of ``python -m search.run``."""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from search.credentials import is_masked, without_credentials
from search.storage import Location
from segcore.cache import default_cache_dir
from segcore.config import MetricName
from segcore.errors import UserError
from segcore.files import sync

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ADDRESSES = ("data", "out", "tracking_uri")
"""Options that may hold a password."""


@dataclass(frozen=True)
class SearchOptions:
    """Search the best segmentation: networks, losses, learning rates and oversampling."""

    data: str | None = None
    """Folder, or s3:// or gs:// address, with dataset.yaml. Default: the embedded drawn scenes."""
    space: str = "spaces.quick:space"
    """Search space, as module:function. Shipped: spaces.quick, .competition and .aerial."""
    trials: int = 10
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
    parallel: int | None = None
    """Trials at a time. Default: all that fit on the nodes that are there; say more where they come
    when trials wait."""
    time_budget: str | None = None
    """Stop after this long, such as 90m or 4h (units s, m, h, d), and use what is there."""
    hang_timeout: str = "1h"
    """A trial that reports no epoch for this long (s, m, h, d) is ended, and begun again once."""
    out: str = "runs"
    """Folder, or s3:// or gs:// address, for runs. On several nodes all of them must see it."""
    name: str | None = None
    """Name of the run and of its folder. Default: the space's name with date and time."""
    tracking_uri: str | None = None
    """MLflow server, such as http://127.0.0.1:5000. Default: a SQLite file beside the runs."""
    address: str | None = None
    """Address of a running Ray cluster, or "auto". Default: this machine alone."""
    seed: int = 0
    """Seed of the sampler and of every training."""
    ensemble_candidates: int = 16
    """Trials that the ensemble may choose from: the best, and a few of another kind."""
    ensemble_members: int = 8
    """The ensemble has at most this many members."""
    ensemble_latency: float | None = None
    """Seconds that its members may take together for one image, as measured. Default: no limit."""
    folds: int = 1
    """With K > 1 the best trials are trained anew on K folds of the training and validation images,
    after the search and its --time-budget; members are chosen on all of these images, and each is
    the mean of its K networks."""
    fold_trials: int = 4
    """Trials that --folds trains anew: the best, and one of another kind."""
    resume: str | None = None
    """Folder or address of an earlier run to go on with. Its options hold unless given anew."""
    dry_run: bool = False
    """Check everything that can fail, print the plan and an estimate of the time, and stop."""

    def __post_init__(self) -> None:
        for name, least in (
            ("trials", 1), ("max_epochs", 1), ("grace_epochs", 1), ("reduction_factor", 2),
            ("cpus_per_trial", 1), ("parallel", 1), ("ensemble_candidates", 1),
            ("ensemble_members", 1), ("folds", 1), ("fold_trials", 1), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
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
        _ = self.time_budget_s, self.hang_timeout_s

    def check_complete(self) -> None:
        """Raise ``UserError`` where an address lacks the password that ``to_dict`` masked."""
        for name in ADDRESSES:
            if is_masked(getattr(self, name) or ""):
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: its password isn't kept; "
                    "give the address again, or keep the password in the environment"
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without ``resume`` and ``dry_run``: what a run is resumed with.

        Paths are made absolute, and passwords in addresses masked.
        """
        values = asdict(replace(self, resume=None, dry_run=False))
        for name in ("data", "out"):
            if values[name] is not None:
                values[name] = Location.parse(values[name]).address
        for name in ADDRESSES:
            if values[name] is not None:
                values[name] = without_credentials(values[name])
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SearchOptions":
        """The inverse of ``to_dict``; an option of another version is left out."""
        known = {field_.name for field_ in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def _seconds(option: str, duration: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(f"{option} {duration!r}: a number and a unit s, m, h or d, such as 90m")
    return float(match[1]) * SECONDS[match[2]]


@dataclass(frozen=True)
class RunRecord:
    """What a resumed search needs to know of its beginning."""

    search_id: str
    """By which MLflow's runs of this search are found again."""
    options: SearchOptions
    identity: dict[str, str]
    """What must be the same when the search is resumed."""


STATE = ("search.json", "study.journal", "tracking.jsonl")
"""Of a run's files those that change while it goes on; all are small."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one search lies.

    The driver works in a local folder. Where the run's home is a bucket, that folder is a mirror:
    ``pull`` fills it, ``push`` keeps the bucket as new as it; checkpoints go to the bucket at once.
    """

    path: Path
    home: Location | None = None
    """The bucket; None: ``path`` itself is the home."""

    @classmethod
    def at(cls, address: str | Path) -> "RunFolder":
        """The run at a path or an address, new or not."""
        home = Location.parse(address)
        if home.is_local:
            return cls(Path(address).expanduser())
        digest = hashlib.sha256(home.address.encode()).hexdigest()[:8]
        name = home.path.rpartition("/")[2]
        return cls(default_cache_dir() / "runs" / digest / name, home)

    @classmethod
    def opened(cls, address: str | Path) -> "RunFolder":
        """An earlier run, with all its files but checkpoints here."""
        run = cls.at(address)
        if run.home is not None:
            files = run.home.files()
            sizes = {k: v for k, v in files.items() if "/trials/" not in f"/{k}"}
            # Where the driver died and its machine did not, the mirror is the newer one.
            here = run.study.stat().st_size if run.study.is_file() else -1
            if here < sizes.get(run.study.name, 0):
                run.home.fetch(run.path, list(sizes))
        return run

    @property
    def address(self) -> str:
        """What a person types to name this run."""
        return str(self.path if self.home is None else self.home)

    @property
    def storage(self) -> Location:
        """Where all nodes find what they share."""
        return self.home or Location.parse(self.path)

    @property
    def trials(self) -> Location:
        """Ray's folder: session_*/trial_*/checkpoint_*."""
        return self.storage / "trials"

    def push_state(self) -> None:
        """Bring the bucket's small files up to date; nothing to do without one."""
        if self.home is not None:
            self.home.put(self.path, [name for name in STATE if (self.path / name).is_file()])

    def push(self) -> None:
        """Bring all of the bucket up to date, but for what is still being made or came from it."""
        if self.home is not None:
            files = [p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file()]
            fetched = self.fetched.relative_to(self.path)
            ours = [p for p in files if ".partial" not in str(p) and fetched not in p.parents]
            self.home.put(self.path, list(map(str, ours)))

    def folds(self, count: int) -> "RunFolder":
        """The run of the trainings on folds that follow the search; it lies in this one."""
        name = f"folds_{count}"
        return RunFolder(self.path / name, self.home and self.home / name)

    @property
    def weights(self) -> Path:
        """Pretrained encoders, fetched before the first trial."""
        return self.path / "weights"

    @property
    def fetched(self) -> Path:
        """Checkpoints of a run in a bucket that were needed here."""
        return self.path / "checkpoints"

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

    @property
    def previous_json(self) -> Path:
        """What ``search_json`` held before it was last written; at first, the same."""
        return self.path / "search.json.previous"

    def write(self, record: RunRecord) -> None:
        """Keep the record, whole or not at all, and what was there before beside it."""
        values = {
            "search_id": record.search_id,
            "options": record.options.to_dict(),
            "identity": record.identity,
        }
        text = json.dumps(values, indent=2).encode()
        here = Location.parse(self.path)
        before = here.read(self.search_json.name)
        if before is None or isinstance(_parsed(before), Exception):
            before = text
        # One after the other, on the disk too: at any moment one of the two is whole.
        for path, content in ((self.previous_json, before), (self.search_json, text)):
            here.write(path.name, content)
            sync(path)
        if self.home is not None:
            self.home.put(self.path, [self.previous_json.name])
        self.push_state()

    def read(self) -> RunRecord:
        """What ``write`` wrote; if that file is damaged, what it wrote before, and it says so.

        Raises ``UserError`` where this is no run.
        """
        name = self.search_json.name
        found = _parsed(self.storage.read(name) or b"")
        if isinstance(found, RunRecord):
            return found
        before = _parsed(self.storage.read(self.previous_json.name) or b"")
        if isinstance(before, RunRecord):
            _say_once(
                f"{self.address}: {name} is damaged ({found}); going on from its predecessor, "
                f"{self.previous_json.name}"
            )
            return before
        raise UserError(f"{self.address}: not the folder of a run ({name}: {found})") from found


def _parsed(text: bytes) -> RunRecord | Exception:
    """The record in a file, or why there is none."""
    try:
        values = json.loads(text)
        options = SearchOptions.from_dict(values["options"])
        return RunRecord(values["search_id"], options, dict(values["identity"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return error


@cache
def _say_once(line: str) -> None:
    """A warning, once in a process: a resumed search reads its record twice."""
    logging.getLogger(__name__).warning("%s", line)
