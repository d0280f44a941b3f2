"""Where data and runs lie: a folder that this machine sees, or a bucket. The only user of pyarrow.

An address is a path, or what pyarrow understands: ``s3://bucket/folder``, ``gs://bucket/folder``.
Credentials come from where each cloud's own tools take them (environment, instance role); another
S3 server is named by ``AWS_ENDPOINT_URL``.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from pyarrow import ArrowException, fs

from search.runs.credentials import without_credentials
from segcore.errors import StorageError, UserError
from segcore.files import locked, sha256_of, user_cache, whole_file

SHARED = (
    "on several nodes --out must be an s3:// or gs:// address, or a folder that all of them see"
)
"""What to do where one doesn't."""

SCHEMES = ("s3", "gs", "gcs")
CONTENTS = "contents.json"
"""Written last into what ``share`` puts: name → [bytes, SHA-256] of every file."""

PARALLEL_TRANSFERS = 16


@dataclass(frozen=True)
class Location:
    """A folder, local or in a bucket. Methods raise ``StorageError`` naming it where it fails."""

    address: str
    """An absolute path, or an address such as s3://bucket/folder."""

    @classmethod
    def parse(cls, address: str | Path) -> "Location":
        """Check an address, without asking anybody whether it exists."""
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
        """For those who know pyarrow themselves: Ray."""
        return self._opened[0]

    @property
    def path(self) -> str:
        """The folder's path in ``filesystem``."""
        return self._opened[1]

    def __truediv__(self, name: str) -> "Location":
        base, question_mark, query = self.address.partition("?")
        return Location(f"{base}/{name}{question_mark}{query}")

    @property
    def parent(self) -> "Location":
        """The folder that holds this one."""
        base, question_mark, query = self.address.partition("?")
        return Location(f"{base.rpartition('/')[0]}{question_mark}{query}")

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
        """Write a file, whole or not at all."""
        with self._explaining():
            if self.is_local:  # in a bucket, nothing is there before all of it is
                path = Path(self.path, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as unfinished:
                    unfinished.write_bytes(content)
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
        """Copy files, or all of them, into ``target``."""
        wanted = list(self.files()) if names is None else names
        with self._explaining(), ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            list(pool.map(lambda name: self._fetch_file(name, target / name), wanted))

    def put(self, source: Path, names: list[str] | None = None) -> None:
        """Copy files of a local folder, or all of them, to here."""
        if names is None:
            names = [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
        with self._explaining(), ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            list(pool.map(lambda name: self._put_file(source / name, name), names))

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

    def _fetch_file(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.filesystem.open_input_stream(f"{self.path}/{name}") as stream,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, 8 << 20)

    def _put_file(self, source: Path, name: str) -> None:
        if self.is_local:
            Path(self.path, name).parent.mkdir(parents=True, exist_ok=True)
        with (
            source.open("rb") as file,
            self.filesystem.open_output_stream(f"{self.path}/{name}") as stream,
        ):
            shutil.copyfileobj(file, stream, 8 << 20)

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
    """A folder that each node has on its own disk, fetched once by the first process that asks."""

    name: str
    """Below the node's cache folder; it names the content."""
    shared: Location | None
    """Where ``share`` put it. None: there is one machine only, and the folder is at ``origin``."""
    origin: Path
    """The driver's own."""

    def folder(self) -> Path:
        """The node's copy: there, complete and checked. However many ask at once, one fetches."""
        if self.shared is None:
            return self.origin
        return _made_once(user_cache() / self.name, partial(_fetch_checked, self.shared))


def share(folder: Path, storage: Location | None, name: str | None = None) -> NodeCopy:
    """Put a local folder where every node can fetch it, unless it is there; None: nothing to do.

    ``name`` must change with the content; by default it holds a hash of it.
    """
    if storage is None:
        return NodeCopy("", None, folder)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    contents = {file: _facts(folder / file) for file in files}
    if name is None:
        digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
        name = f"{folder.name}/{digest[:24]}"
    shared = storage / name
    text = json.dumps(contents).encode()
    if shared.read(CONTENTS) != text:
        shared.put(folder, files)
        shared.write(CONTENTS, text)
    return NodeCopy(name, shared, folder)


def on_this_machine(address: str, kind: str, must_have: str) -> Path:
    """A folder that a user names, such as a data set: if in a bucket, fetched to here first.

    It is fetched again only when its listing changed. ``UserError`` where it lacks ``must_have``.
    """
    source = Location.parse(address)
    if source.is_local:
        return Path(address).expanduser()
    listing = source.listing()
    if must_have not in listing:
        raise UserError(f"{source}: there is no {must_have}; name the folder that holds it")
    digest = hashlib.sha256(json.dumps(sorted(listing.items())).encode()).hexdigest()[:24]
    fetch = partial(source.fetch, names=list(listing))
    return _made_once(user_cache() / kind / digest, fetch)


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is there, whole, or made now; by one process of this machine, if many ask."""
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            unfinished = target.with_name(f"{target.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(target)
    return target


def _fetch_checked(shared: Location, folder: Path) -> None:
    """Fetch what ``share`` put there, and compare it with its contents."""
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
