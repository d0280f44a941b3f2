"""Which trials the ensemble may choose from, and whose checkpoints are kept for that."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from search.planning.plan import Plan
from search.runs.rows import TrialRow
from search.runs.storage import Location
from search.trials.cluster import Slots
from search.trials.worker import trial_name
from segcore.errors import UserError
from segcore.training.checkpoint import checkpoint_bytes

DIFFERENT_SHARE = 0.25
"""Of the ensemble's candidates those that are there for being different, not for being the best."""

KEPT_PER_CANDIDATE = 2
"""Trials whose checkpoints stay, for each one that the ensemble considers: later ones push some
out, and a checkpoint that is gone can't come back."""


def choose_candidates(rows: Sequence[TrialRow], limit: int) -> list[TrialRow]:
    """The best trials (``rows`` come best first), and a few that are of another kind.

    Another kind: an architecture, encoder or loss that no better candidate has. Which errors are
    other ones is for the selection itself to see, on the score.
    """
    scored = [row for row in rows if row.score is not None and row.plain_config]
    chosen = scored[: limit - int(limit * DIFFERENT_SHARE)]
    seen = {part for row in chosen for part in _kind(row)}
    for row in scored[len(chosen) :]:
        if len(chosen) < limit and not seen.issuperset(_kind(row)):
            chosen.append(row)
            seen.update(_kind(row))
    numbers = {row.number for row in chosen}
    rest = (row.number for row in scored if row.number not in numbers)
    numbers.update(itertools.islice(rest, limit - len(chosen)))
    return [row for row in scored if row.number in numbers]


def _kind(row: TrialRow) -> set[tuple[str, str | None]]:
    config = row.plain_config or {}
    return {(name, config.get(name)) for name in ("architecture", "encoder", "loss")}


def kept_trials(rows: Sequence[TrialRow], candidates: int) -> set[int]:
    """Numbers of the trials whose checkpoints stay: those that may become candidates, or run."""
    kept = {row.number for row in choose_candidates(rows, candidates * KEPT_PER_CANDIDATE)}
    return kept | {row.number for row in rows if row.status == "running"}


def check_space(plan: Plan, slots: Slots) -> int:
    """Bytes that checkpoints will take at most. ``UserError`` where this disk has less than that.

    The best checkpoint and the newest of each trial that is kept or runs, and one being written.
    """
    options = plan.options
    largest = max(checkpoint_bytes(config, plan.data.num_classes) for config in plan.networks)
    kept = options.ensemble_candidates * KEPT_PER_CANDIDATE
    folds = options.folds * options.fold_trials if options.folds > 1 else 0
    needed = largest * (2 * (min(kept, options.trials) + folds) + 3 * slots.count)
    storage = plan.run.storage
    if storage.is_local:
        free = shutil.disk_usage(_existing(Path(storage.path))).free
        if free < needed:
            raise UserError(
                f"--out {options.out}: checkpoints will take up to {needed / 1e9:.2g} GB there, "
                f"and {free / 1e9:.2g} GB are free; make room, choose another --out, or keep fewer "
                "by --ensemble-candidates"
            )
    return needed


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def drop_checkpoints(trials: Location, rows: Sequence[TrialRow], candidates: int) -> list[int]:
    """Delete the checkpoints of all other trials; the numbers of those that had some."""
    kept = kept_trials(rows, candidates)
    names = {trial_name(row.number): row.number for row in rows if row.number not in kept}
    dropped = []
    for session in trials.folders():
        for name in (trials / session).folders():
            if name in names:
                (trials / session / name).delete()
                dropped.append(names[name])
    return dropped
