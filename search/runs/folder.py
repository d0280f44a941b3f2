"""The folder of a run: where each of its files lies, here and in a bucket."""

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from search.runs.options import SearchOptions
from search.runs.storage import Location
from segcore.errors import UserError
from segcore.files import sync, user_cache


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
        return cls(user_cache() / "runs" / digest / name, home)

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
    def outbox(self) -> Path:
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
