"""The checkpoints of trials, where a run keeps them: a folder for each session and each attempt."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.runs.storage import Location
from segcore.errors import UserError
from segcore.training import checkpoint
from segcore.training.checkpoint import CheckpointInfo

RESULTS = "results.json"
"""Beside a checkpoint, everything that was reported up to its epoch."""

AGAIN = "_again_"
"""In the name of a trial's folder where a session of Ray had to try it several times."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint, wherever it lies."""

    location: Location
    info: CheckpointInfo

    def local(self, folder: Path) -> Path:
        """The checkpoint on this machine: where it is, or else fetched into ``folder``."""
        if self.location.is_local:
            return Path(self.location.path)
        self.location.fetch(folder)
        return folder


def trial_name(number: int) -> str:
    """Name of a trial, and of its folder in a session."""
    return f"trial_{number:04d}"


def folder_name(number: int, attempt: int) -> str:
    """Name of the folder of a session's attempt at a trial, the first of which is 1."""
    return trial_name(number) if attempt == 1 else f"{trial_name(number)}{AGAIN}{attempt}"


def trial_folders(trials: Location) -> Iterator[tuple[str, Location]]:
    """Each trial's name with its folder, for all sessions and attempts."""
    for session in trials.folders():
        for folder in (trials / session).folders():
            yield folder.partition(AGAIN)[0], trials / session / folder


def checkpoints(trials: Location, number: int) -> Iterator[StoredCheckpoint]:
    """A trial's complete checkpoints of all sessions."""
    for trial, folder in trial_folders(trials):
        if trial != trial_name(number):
            continue
        sizes: dict[str, dict[str, int]] = {}
        for path, size in folder.files().items():
            name, _, file = path.partition("/")
            if file and name.startswith("checkpoint_"):
                sizes.setdefault(name, {})[file] = size
        for name, files in sizes.items():
            location = folder / name
            manifest = location.read(checkpoint.MANIFEST)
            try:
                info = checkpoint.parse_manifest(manifest or b"", files, str(location))
            except UserError:
                continue  # cut off while it was written
            yield StoredCheckpoint(location, info)


def kept_results(trials: Location, number: int) -> dict[int, dict[str, Any]]:
    """What a trial reported, by epoch, as far as its newest checkpoint tells."""
    newest = max(checkpoints(trials, number), key=lambda stored: stored.info.epoch, default=None)
    text = newest.location.read(RESULTS) if newest else None
    return {result["epoch"]: result for result in json.loads(text or b"[]")}


def best_checkpoint(trials: Location, number: int) -> StoredCheckpoint | None:
    """The checkpoint with the best score on the validation split, the earlier of equals."""
    found = sorted(checkpoints(trials, number), key=lambda stored: stored.info.epoch)
    return max(found, key=lambda stored: stored.info.score, default=None)
