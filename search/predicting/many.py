"""Many photographs: several are in hand at once, and a trouble that many have is told once."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

from rich.console import Console
from rich.progress import Progress

from search.predicting.prediction_log import Predicted, PredictionLog, file_state, photo_key
from search.predicting.products import Products
from segcore.errors import UserError, in_short, is_disk_full, some_of
from segcore.inference.photographs import Photograph
from segcore.reading.headers import ImageError, count_pages, naming, read_header

IN_HAND = 3
"""Photographs at the same time: one is computed, while files of the others are read and written."""
LARGE_PX = 64_000_000
"""Of photographs with more pixels only one is in hand, so that memory stays bounded."""


def predict_all(
    todo: Mapping[Path, str],
    products: Products,
    log: PredictionLog,
    settings: str,
    console: Console,
    every: bool,
) -> int:
    """Predict, keep a record of each photograph, and return how many pixels they had.

    Photographs come with their names in ``Products.write``. Those that fail are told, ``every``
    one, or else the first one of each kind. Raises ``UserError`` where the disk is full.
    """
    pixels = 0
    told, ended = _Told(console, every), Event()
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ThreadPoolExecutor(IN_HAND) as pool,
    ):
        task = bar.add_task("predicting", total=len(todo))

        def advance(share: float) -> None:
            if ended.is_set():
                raise RuntimeError("the prediction has ended")
            bar.advance(task, share)

        work = _Work(products, log, settings, told, advance)
        try:
            for path, future in _in_turn(pool, work, todo):
                try:
                    pixels += future.result()
                except Exception as error:  # whatever it is, the other photographs may be well
                    if is_disk_full(error):
                        raise UserError(
                            f"{products.folder}: the disk is full; make room, then predict again: "
                            "what is done is not done again"
                        ) from error
                    told.tell_failure(path, error)
                    bar.advance(task)
        finally:  # after Ctrl-C, too, nobody waits for the rest of a mosaic
            ended.set()
            pool.shutdown(cancel_futures=True)
        told.tell_how_many()
    return pixels


def _in_turn(
    pool: ThreadPoolExecutor, work: "_Work", todo: Mapping[Path, str]
) -> Iterator[tuple[Path, Future[int]]]:
    """What is done of photographs, in their order; only the next few are begun."""
    begun: deque[tuple[Path, Future[int]]] = deque()
    for path, name in todo.items():
        with suppress(ImageError):  # which is told where the photograph is predicted
            _warn_of_pages(path, work.told)
        begun.append((path, pool.submit(work.predict, path, name)))
        if len(begun) > IN_HAND:
            yield begun.popleft()
    yield from begun


@dataclass(frozen=True)
class _Work:
    """Predicts photographs, in several threads."""

    products: Products
    log: PredictionLog
    settings: str
    told: "_Told"
    advance: Callable[[float], None]
    large: Lock = field(default_factory=Lock)
    """Who holds it has a large photograph in hand, and nobody else."""

    def predict(self, path: Path, name: str) -> int:
        """Predict a photograph, keep its record, and return how many pixels it has."""
        with naming(path):
            state = file_state(path)
        pixels = math.prod(read_header(path, whole=False).stored_px)
        with (
            self.large if pixels > LARGE_PX else nullcontext(),
            Photograph.open(path, self.products.ensemble.bands) as photo,
        ):
            _warn_of_shrinking(photo, self.products, self.told)
            written = self.products.write(photo, name, self.advance)
        self.log.add(
            Predicted(
                photo_key(path), self.settings, state, self.log.places(written.files),
                written.pixels, photo.metres_per_px, written.uncertainty,
            )
        )  # fmt: skip
        return pixels


class _Told:
    """Tells of each kind of trouble once, and in the end in how many other files it was."""

    def __init__(self, console: Console, every: bool) -> None:
        self._console, self._every = console, every
        self._files: dict[str, list[str]] = {}
        self._telling = Lock()

    def tell(self, kind: str, file: str, line: str, style: str) -> None:
        """Print the line, unless its kind was told of another file; in whatever thread."""
        with self._telling:
            files = self._files.setdefault(kind, [])
            if self._every or not files:
                self._console.print(line, style=style, markup=False, soft_wrap=True)
            files.append(file)

    def tell_failure(self, path: Path, error: Exception) -> None:
        """Tell why a photograph could not be predicted."""
        if isinstance(error, ImageError):
            problem = error.problem
            self.tell(problem.mend, problem.where, f"skipped: {error}", "red")
        else:
            line = f"skipped: {path}: {in_short(error)}"
            self.tell(type(error).__name__, str(path), line, "red")

    def tell_how_many(self) -> None:
        """Print which other files had the same trouble."""
        for first, *others in self._files.values():
            if others and not self._every:
                line = f"likewise, as {first}: {some_of(others, 3)} (--all tells of each)"
                self._console.print(line, style="yellow", markup=False, soft_wrap=True)


def _warn_of_shrinking(photo: Photograph, products: Products, told: _Told) -> None:
    views = [member.view for member in products.ensemble.members]
    squeezed = [view for view in views if view.is_whole]
    if photo.is_mosaic and squeezed and products.scale is None:
        view = squeezed[0]
        size = f"{view.height_px}×{view.width_px}"
        told.tell(
            "shrunk",
            str(photo.path),
            f"{photo.path}: {photo.height_px}×{photo.width_px} px are shrunk to {size} as a whole, "
            f"as in training; with --scale 0.1 windows of {view.height_px * 10}×"
            f"{view.width_px * 10} px would be",
            "yellow",
        )


def _warn_of_pages(path: Path, told: _Told) -> None:
    if (pages := count_pages(path)) > 1:
        line = f"{path}: of {pages} pages the first is predicted; make a file of each"
        told.tell("pages", str(path), line, "yellow")
