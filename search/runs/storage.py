"""Where data and runs lie: in a folder that this machine sees, or in a bucket.

An address is a path, or one that pyarrow understands: ``s3://bucket/folder``, ``gs://bucket/folder``.
Credentials are taken from where each cloud's own tools take them (environment, instance role).
``AWS_ENDPOINT_URL`` names another S3 server. No other module imports pyarrow.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from pyarrow import ArrowException, fs

from search.runs.credentials import without_credentials
from segcore.errors import StorageError, UserError
from segcore.files import digest, locked, sha256_of, sync, user_cache, whole_file, whole_folder

SHARED = (
    "on several nodes --out must be an s3:// or gs:// address, or a folder that all of them see"
)
"""What to do where a node doesn't see it."""

SCHEMES = ("s3", "gs", "gcs")
CONTENTS = "contents.json"
"""``share`` writes this file last: name → [bytes, SHA-256] of every other file."""

PARALLEL_TRANSFERS = 16


@dataclass(frozen=True)
class Location:
    """A folder, local or in a bucket. Where it can't be used, methods raise ``StorageError``."""

    address: str
    """An absolute path, or an address such as s3://bucket/folder."""

    @classmethod
    def parse(cls, address: str | Path) -> "Location":
        """Check the form of an address, not whether it exists."""
        text = str(address)
        scheme, separator, _ = text.partition("://")
        if not separator:
            return cls(str(Path(text).expanduser().absolute()))
        if scheme not in SCHEMES:
            raise UserError(
                f"{without_credentials(text)}: addresses begin with "
                f"{', '.join(f'{name}://' for name in SCHEMES)}; a path has no ://"
            )
        return cls(text.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return "://" not in self.address

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        if self.is_local:
            return fs.LocalFileSystem(), self.address
        with self._explaining():
            filesystem, path = fs.FileSystem.from_uri(self.address)
        return filesystem, path

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system for Ray, which uses pyarrow itself."""
        return self._opened[0]

    @property
    def path(self) -> str:
        """The folder's path in ``filesystem``."""
        return self._opened[1]

    def __truediv__(self, name: str) -> "Location":
        base, query = self._split()
        return Location(f"{base}/{name}{query}")

    @property
    def parent(self) -> "Location":
        """The folder that holds this one."""
        base, query = self._split()
        return Location(f"{base.rpartition('/')[0]}{query}")

    def _split(self) -> tuple[str, str]:
        """The address without its query, and the query. A path has none: there "?" is a letter."""
        if self.is_local:
            return self.address, ""
        base, question_mark, query = self.address.partition("?")
        return base, question_mark + query

    def __str__(self) -> str:
        return without_credentials(self.address)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        with self._explaining():
            if self.filesystem.get_file_info(f"{self.path}/{name}").type != fs.FileType.File:
                return None
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content: bytes = stream.readall()
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; on a local disk it is there after a power cut too."""
        with self._explaining():
            if self.is_local:  # in a bucket, nothing is there before all of it is
                path = Path(self.path, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as unfinished:
                    unfinished.write_bytes(content)
                    sync(unfinished)
                return
            with self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
                stream.write(content)

    def folders(self) -> list[str]:
        """Names of the folders in this one; none where it doesn't exist."""
        infos = self._list(recursive=False)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def files(self) -> dict[str, int]:
        """Every file at any depth: its path below this folder, and its bytes."""
        return {name: size for name, (size, _) in self.listing().items()}

    def listing(self) -> dict[str, tuple[int, int]]:
        """The same, with bytes and time of change (ns)."""
        return {
            info.path.removeprefix(f"{self.path}/"): (info.size, info.mtime_ns)
            for info in self._list(recursive=True)
            if info.type == fs.FileType.File
        }

    def fetch(self, target: Path, names: list[str] | None = None) -> None:
        """Copy the named files, or all of them, into a local folder."""
        self._copy(self, Location.parse(target), names)

    def put(self, source: Path, names: list[str] | None = None) -> None:
        """Copy the named files of a local folder, or all of them, to here."""
        self._copy(Location.parse(source), self, names)

    def _copy(self, source: "Location", target: "Location", names: list[str] | None) -> None:
        def copy(name: str) -> None:
            if target.is_local:
                Path(target.path, name).parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(
                f"{source.path}/{name}",
                f"{target.path}/{name}",
                source_filesystem=source.filesystem,
                destination_filesystem=target.filesystem,
            )

        wanted = list(source.files()) if names is None else names
        with self._explaining(), ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            list(pool.map(copy, wanted))

    def delete(self) -> None:
        """Delete the folder; nothing happens where it doesn't exist."""
        with self._explaining():
            if self.filesystem.get_file_info(self.path).type == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)

    def _list(self, *, recursive: bool) -> list[fs.FileInfo]:
        with self._explaining():
            selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
            found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
            return found

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ArrowException) as error:
            reason = without_credentials(str(error)).splitlines()[0]
            mend = "make room, or check its permissions"
            if not self.is_local:
                mend = "check the address, the credentials and (AWS_ENDPOINT_URL) the server"
            raise StorageError(f"{self}: {reason}; {mend}") from error


@dataclass(frozen=True)
class NodeCopy:
    """A folder of which each node gets a copy on its own disk when a process there first asks."""

    name: str
    """The copy's path below the node's cache folder. It changes when the content changes."""
    shared: Location | None
    """Where ``share`` put the folder. None: there is one machine only, and no copy is needed."""
    origin: Path
    """The folder on the driver's machine."""

    def folder(self) -> Path:
        """This node's copy, complete and checked. Only one of its processes fetches it."""
        if self.shared is None:
            return self.origin
        return _made_once(user_cache() / self.name, partial(_fetch_checked, self.shared))


def share(folder: Path, storage: Location | None, name: str | None = None) -> NodeCopy:
    """Put a local folder where every node can fetch it, unless it lies there already.

    ``storage`` None means that there is one machine only: nothing is copied. ``name`` must change
    when the content changes; by default it holds a hash of the content.
    """
    if storage is None:
        return NodeCopy("", None, folder)
    contents = {file: _facts(folder / file) for file in sorted(Location.parse(folder).files())}
    if name is None:
        name = f"{folder.name}/{digest(json.dumps(contents))[:24]}"
    shared = storage / name
    text = json.dumps(contents).encode()
    if shared.read(CONTENTS) != text:
        shared.put(folder, list(contents))
        shared.write(CONTENTS, text)
    return NodeCopy(name, shared, folder)


def on_this_machine(address: str, kind: str, must_have: str) -> Path:
    """A folder that a user names, such as a data set; one in a bucket is copied to here first.

    It is copied again only after its listing changed. Raises ``UserError`` where the bucket's
    folder doesn't hold the file ``must_have``.
    """
    source = Location.parse(address)
    if source.is_local:
        return Path(address).expanduser()
    listing = source.listing()
    if must_have not in listing:
        raise UserError(f"{source}: there is no {must_have}; name the folder that holds it")
    content = digest(json.dumps(sorted(listing.items())))[:24]
    fetch = partial(source.fetch, names=list(listing))
    return _made_once(user_cache() / kind / content, fetch)


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder unless it is there; if several processes of this machine ask, one makes it."""
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            with whole_folder(target) as unfinished:
                make(unfinished)
    return target


def _fetch_checked(shared: Location, folder: Path) -> None:
    """Fetch what ``share`` put there, and compare it with its table of contents."""
    text = shared.read(CONTENTS)
    if text is None:
        raise UserError(f"{shared}: has no {CONTENTS}; start the search again to make it")
    contents = json.loads(text)
    shared.fetch(folder, list(contents))
    wrong = [name for name, facts in contents.items() if _facts(folder / name) != facts]
    if wrong:
        raise UserError(
            f"{shared}: {', '.join(wrong)} is damaged; delete that folder, and start the search "
            "again: it is made anew"
        )


def _facts(file: Path) -> list[object]:
    return [file.stat().st_size, sha256_of(file)]
