"""Which networks of a run may judge which photographs: those that were not trained on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from search.ensembles.following import FOLD, finished_trainings
from search.runs.checkpoints import trial_name
from search.runs.folder import RunFolder
from search.runs.result import Alternative, SearchResult
from search.runs.study import read_study
from segcore.data.prepared import PreparedData
from segcore.errors import UserError
from segcore.predicting.ensemble import bundle_networks
from segcore.predicting.suspects import Judge
from segcore.training.checkpoint import CheckpointInfo, load_info

WeightedCheckpoints = list[tuple[Path, float]]


def find_judges(
    run: RunFolder, result: SearchResult, searched: PreparedData, data: PreparedData
) -> list[Judge]:
    """Who judges the photographs of ``data``, which are numbered as there.

    With --folds the networks of each fold judge the photographs that were left out when they were
    trained. The bundle judges all others that it was not trained on, and those that are not in
    ``searched``, the data of the search: photographs are known by their names.

    Raises ``UserError`` where a network is damaged, or was trained on other data.
    """
    left = {data.photos[photo] for photo in np.flatnonzero(data.class_pixels_PK.any(axis=1))}
    judges = []
    for networks, held_out in _by_fold(run, result, searched):
        judges.append(_judge(networks, left & held_out, searched, data))
        left -= held_out
    judges.append(_judge(bundle_networks(run.ensemble), left, searched, data))
    return [judge for judge in judges if judge.photos]


def _judge(
    networks: WeightedCheckpoints, names: set[str], searched: PreparedData, data: PreparedData
) -> Judge:
    """The networks, and those of the named photographs that none of them was trained on."""
    trained = {name for folder, _ in networks for name in _trained_on(load_info(folder), searched)}
    numbers = (n for n, name in enumerate(data.photos) if name in names - trained)
    return Judge(tuple(networks), tuple(numbers))


def _trained_on(info: CheckpointInfo, searched: PreparedData) -> set[str]:
    if info.data_fingerprint != searched.fingerprint:
        raise UserError(
            "a network of the run was trained on other data than the search's; which photographs "
            "it has seen can't be known: resume the search to make its bundle again"
        )
    return _of_split("train", info, searched)


def _of_split(split: str, info: CheckpointInfo, searched: PreparedData) -> set[str]:
    divided = searched.divided_for(info.config)
    pairs = zip(divided.photos, divided.photo_splits, strict=True)
    return {name for name, own in pairs if own == split}


def _by_fold(
    run: RunFolder, result: SearchResult, searched: PreparedData
) -> Iterator[tuple[WeightedCheckpoints, set[str]]]:
    """The networks of each fold, with the names of the photographs that were left out for them."""
    model = _on_folds(result.alternatives, result.ensemble)
    if model is None:
        return
    folds_run = run.folds(model.folds)
    trained = finished_trainings(folds_run, read_study(folds_run), FOLD)
    for fold in range(model.folds):
        networks = []
        for trial in model.trials:
            stored = trained.get((trial.number, fold))
            if stored is None:
                raise UserError(
                    f"{folds_run.address}: trial {trial.label} has no network on fold {fold} any "
                    "more; resume the search to train it again"
                )
            folder = run.fetched / trial_name(trial.number) / f"network_{fold}"
            networks.append((stored.local(folder), trial.weight))
        yield networks, _of_split("val", load_info(networks[0][0]), searched)


def _on_folds(models: Sequence[Alternative], taken: Alternative) -> Alternative | None:
    """The model whose networks were trained on folds: the one in the bundle, or else the best."""
    if taken.folds > 1:
        return taken
    on_folds = [model for model in models if model.folds > 1 and model.left_out is not None]
    return max(on_folds, key=lambda m: m.left_out.value if m.left_out else 0, default=None)
