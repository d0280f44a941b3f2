"""Which trials the ensemble may choose from, and whose checkpoints are kept for that."""

import itertools
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from search.planning.plan import Plan
from search.runs.checkpoints import checkpoints, trial_folders, trial_name
from search.runs.rows import TrialRow
from search.runs.storage import Location
from search.trials.cluster import Slots
from segcore.errors import UserError
from segcore.training.checkpoint import checkpoint_bytes

DIFFERENT_SHARE = 0.25
"""The share of the ensemble's candidates that is chosen for being different, not the best."""

KEPT_PER_CANDIDATE = 2
"""This many trials keep their checkpoints for each candidate of the ensemble. Later trials change
who the candidates are, paused ones may go on, and a checkpoint that was deleted can't come back."""


def choose_candidates(rows: Sequence[TrialRow], limit: int) -> list[TrialRow]:
    """The best trials (``rows`` come best first), and a few that are of another kind.

    A trial is of another kind if no better candidate has its architecture, its encoder or its loss.
    Whether it also makes other errors is found out by the selection of the ensemble's members.
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
    """Numbers of the trials whose checkpoints stay: they may become candidates, go on, or run.

    Half of the places may go to paused trials that are no candidates yet, the most promising first.
    """
    places = candidates * KEPT_PER_CANDIDATE
    promising = most_promising(rows)
    for_paused = min(len(promising), places - candidates)
    likely = [row.number for row in choose_candidates(rows, places - for_paused)]
    others = [number for number in promising if number not in likely]
    rest = [row.number for row in choose_candidates(rows, places)]
    in_order = dict.fromkeys([*likely, *others[:for_paused], *rest])
    kept = set(itertools.islice(in_order, places))
    return kept | {row.number for row in rows if row.status in ("running", "interrupted")}


def most_promising(rows: Sequence[TrialRow]) -> list[int]:
    """The paused trials' numbers, those first that the fewest trials are better than.

    Two trials are compared by their best scores up to the last epoch that both have reached.
    """
    scored = [row for row in rows if row.values]
    paused = [place for place, row in enumerate(scored) if row.status == "paused"]
    if not paused:  # halving pauses none, and this is asked whenever a trial ends
        return []
    last_N = np.array([row.epochs for row in scored])
    score_NE = np.full((len(scored), last_N.max() + 1), -np.inf)
    for score_E, row in zip(score_NE, scored, strict=True):
        score_E[list(row.values)] = list(row.values.values())
    best_NE = np.maximum.accumulate(score_NE, axis=1)
    better = {n: np.sum(best_NE[:, last_N[n]] > best_NE[n, last_N]) for n in paused}
    return [scored[n].number for n in sorted(paused, key=better.__getitem__)]


def check_space(plan: Plan, slots: Slots) -> int:
    """Bytes that checkpoints will take at most. ``UserError`` where this disk has less than that.

    Each trial that is kept or runs has its best and its newest checkpoint, and while it runs one
    that is being written. One that was paused has, while it runs, those of before, too.
    """
    options = plan.options
    largest = max(
        checkpoint_bytes(config, plan.data.num_classes, plan.data.bands) for config in plan.networks
    )
    kept = min(options.ensemble_candidates * KEPT_PER_CANDIDATE, options.trials)
    running = 5 if options.pauses else 3
    needed = largest * (2 * (kept + options.final_trainings) + running * slots.count)
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


def drop_checkpoints(trials: Location, numbers: Collection[int]) -> list[int]:
    """Delete the checkpoints of these trials; the number of each whose folder went."""
    names = {trial_name(number): number for number in numbers}
    dropped = []
    for name, folder in trial_folders(trials):
        if name in names:
            folder.delete()
            dropped.append(names[name])
    return dropped


def drop_superseded(trials: Location, number: int) -> None:
    """Delete all checkpoints of a trial but its best and its newest.

    Each time that a trial goes on, Ray keeps these two without knowing those of before.
    """
    found = sorted(checkpoints(trials, number), key=lambda stored: stored.info.epoch)
    if found:
        best = max(found, key=lambda stored: stored.info.score)
        for stored in found[:-1]:
            if stored is not best:
                stored.location.delete()
