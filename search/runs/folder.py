"""The folder of a run: where each of its files lies, here and in a bucket."""

import logging
import math
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from search.runs.options import RUNS_OWN, SearchOptions
from search.runs.storage import Location
from segcore.errors import UserError
from segcore.files import digest, locked, user_cache

RECORD = "run.yaml"
"""The file's name in a run's folder."""

_FIRST_RECORD = "search.json"
"""What runs of format 1 had instead."""

FORMAT = 2
"""Of a run. 2: the study has what each trial scores without each photograph or group."""

OTHER_VERSION = (
    "a run of another version, whose scores have other intervals: its ensemble predicts as before, "
    "but to go on with it, or to list or report it, needs the version that made it"
)

_HEADER = """\
# The options of this search, as python -m search.run takes them.
# The same again, in a new run:  python -m search.run --options THIS_FILE
# To go on with this run:        python -m search.run --resume ITS_FOLDER
"""


@dataclass(frozen=True)
class RunRecord:
    """The beginning of a search, as a resumed one needs it."""

    search_id: str
    """MLflow's runs of this search have it as a tag, by which they are found again."""
    options: SearchOptions
    identity: dict[str, str]
    """What must be the same when the search is resumed."""

    def to_yaml(self) -> bytes:
        """The content of run.yaml: what --options reads, and a last line of the run's own.

        That line is one bracket, closed by the file's last byte, so that no beginning of the file
        is taken for all of it.
        """
        options = yaml.safe_dump(
            self.options.to_dict(), sort_keys=False, allow_unicode=True, width=math.inf
        )
        own = {"format": FORMAT, "search_id": self.search_id, "identity": self.identity}
        line = yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=math.inf)
        text = f"{_HEADER}{options}{RUNS_OWN}: {line.strip()}"
        return text.encode()

    @classmethod
    def from_yaml(cls, content: bytes) -> "RunRecord":
        """The inverse of ``to_yaml``.

        Raises ``ValueError`` where the content is damaged, and ``UserError`` where it is of another
        version.
        """
        if not content:
            raise ValueError("missing or empty; a search writes it when its checks are done")
        try:
            values = yaml.safe_load(content)
            own = values.pop(RUNS_OWN)
            written_as = own["format"]
            options = SearchOptions.from_dict(values)
            record = cls(own["search_id"], options, dict(own["identity"]))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, UserError) as error:
            what = str(error) if isinstance(error, yaml.YAMLError) else repr(error)
            raise ValueError(" ".join(what.split())) from error
        if written_as != FORMAT:
            raise UserError(OTHER_VERSION)
        return record


GROWING = ("study.journal", "tracking.jsonl")
"""The files of a run to which lines are added while its search goes on."""
STATE = (RECORD, *GROWING)
"""All of its files that change meanwhile; they are small."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one search lies.

    The driver works in a local folder. Where the run's home is a bucket, the folder is a copy of
    the bucket's files but the checkpoints, which workers write to the bucket themselves. ``opened``
    fills the folder, ``push_state`` and ``push`` bring the bucket up to date.
    """

    path: Path
    home: Location | None = None
    """The bucket's folder. None: ``path`` itself is the home."""

    @classmethod
    def at(cls, address: str | Path) -> "RunFolder":
        """The run at a path or an address. It may not exist yet."""
        home = Location.parse(address)
        if home.is_local:
            return cls(Path(address).expanduser())
        name = home.path.rpartition("/")[2]
        return cls(user_cache() / "runs" / digest(home.address)[:8] / name, home)

    @classmethod
    def opened(cls, address: str | Path) -> "RunFolder":
        """An earlier run; from a bucket, all that is new there is copied, except checkpoints."""
        run = cls.at(address)
        if run.home is not None:
            files = run.home.listing()
            study_bytes, _ = files.get(run.study.name, (0, 0))
            # The files here are newer than the bucket's if the driver died here a moment ago.
            if not run.study.is_file() or run.study.stat().st_size <= study_bytes:
                wanted = (name for name in files if "/trials/" not in f"/{name}")
                new = [name for name in wanted if _is_new(run.path / name, *files[name])]
                run.home.fetch(run.path, new)
        return run

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other searches on this machine from going on with the run during the block.

        Two would train the same trials, and spoil each other's files. Raises ``UserError`` where
        another one is at it.
        """
        lock = user_cache() / "runs" / f"{digest(str(self.path.resolve()))[:24]}.lock"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"{self.address}: another search goes on with this run; wait for its end, or "
                    "stop it with Ctrl-C, and then resume"
                ) from error
            yield

    def resume_options(self, **changes: Any) -> SearchOptions:
        """The options with which ``search`` goes on with this run; ``changes`` are given anew."""
        return replace(self.read().options, resume=self.address, **changes)

    @property
    def address(self) -> str:
        """What a person types to name this run: a path, or an address without its password."""
        return str(self.path if self.home is None else self.home)

    @property
    def quoted(self) -> str:
        """``address`` as a shell takes it, where it has blanks, too."""
        return shlex.quote(self.address)

    @property
    def storage(self) -> Location:
        """The run's home, which all nodes see."""
        return self.home or Location.parse(self.path)

    @property
    def trials(self) -> Location:
        """The folder that Ray fills with session_*/trial_*/checkpoint_*."""
        return self.storage / "trials"

    def push_state(self) -> None:
        """Bring the bucket's small files up to date; without a bucket, do nothing."""
        if self.home is not None:
            self.home.put(self.path, [name for name in STATE if (self.path / name).is_file()])

    def push(self) -> None:
        """Bring the bucket up to date; unfinished and fetched files are left out."""
        if self.home is not None:
            files = [p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file()]
            fetched = self.fetched.relative_to(self.path)
            ours = [p for p in files if ".partial" not in str(p) and fetched not in p.parents]
            self.home.put(self.path, list(map(str, ours)))

    def folds(self, count: int) -> "RunFolder":
        """The run of the trainings on folds that follow the search; its folder lies in this one."""
        return self._inner(f"folds_{count}")

    @property
    def repeats(self) -> "RunFolder":
        """The run of the trainings with other seeds that follow the search, however many."""
        return self._inner("repeats")

    def _inner(self, name: str) -> "RunFolder":
        return RunFolder(self.path / name, self.home and self.home / name)

    @property
    def weights(self) -> Path:
        """Pretrained encoders, fetched before the first trial."""
        return self.path / "weights"

    @property
    def fetched(self) -> Path:
        """Checkpoints of a run in a bucket that the driver fetched."""
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
    def record(self) -> Path:
        """The ``RunRecord``."""
        return self.path / RECORD

    @property
    def previous_record(self) -> Path:
        """What ``record`` held before it was last written; after the first time, the same."""
        return self.path / f"{RECORD}.previous"

    def write(self, record: RunRecord) -> None:
        """Write ``record``, and what was there before to ``previous_record``.

        At any moment at least one of the two is whole.
        """
        here, content = Location.parse(self.path), record.to_yaml()
        before = here.read(self.record.name) or b""
        try:
            RunRecord.from_yaml(before)
        except ValueError:
            before = content
        here.write(self.previous_record.name, before)
        here.write(self.record.name, content)
        if self.home is not None:
            self.home.put(self.path, [self.previous_record.name])
        self.push_state()

    def read(self) -> RunRecord:
        """What ``write`` wrote. If that file is damaged: what it held before, with a warning.

        Raises ``UserError`` where this is no run.
        """
        problem = None
        for path in (self.record, self.previous_record):
            try:
                record = RunRecord.from_yaml(self.storage.read(path.name) or b"")
            except ValueError as error:
                problem = problem or error
                continue
            except UserError as error:
                raise UserError(f"{self.address}: {error}") from error
            if problem is not None:
                _warn_once(
                    f"{self.address}: {self.record.name} is damaged ({problem}); going on "
                    f"from its predecessor, {path.name}"
                )
            return record
        if self.storage.read(_FIRST_RECORD) is not None:
            raise UserError(f"{self.address}: {OTHER_VERSION}")
        name = self.record.name
        raise UserError(f"{self.address}: not the folder of a run ({name}: {problem})")


def _is_new(here: Path, size: int, changed_ns: int) -> bool:
    """Whether a file in a bucket, of this size and time, has what its copy here lacks."""
    if not here.is_file():
        return True
    copy = here.stat()
    if here.name in GROWING:
        return size > copy.st_size
    return size != copy.st_size or changed_ns > copy.st_mtime_ns


@cache
def _warn_once(line: str) -> None:
    """Log a warning, once in a process: the record of a resumed search is read twice."""
    logging.getLogger(__name__).warning("%s", line)
