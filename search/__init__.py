"""Distributed hyperparameter search over segcore: Ray Tune, Optuna, MLflow.

    from search import SearchOptions, search

    result = search(SearchOptions(data="DIR", space="spaces.aerial"), progress=True)

Names are imported when they are first used, so that ``import search`` takes no time.
"""

from typing import TYPE_CHECKING

from segcore.importing import import_when_used

if TYPE_CHECKING:
    from search.driver import Forecast as Forecast
    from search.driver import check as check
    from search.driver import search as search
    from search.runs.folder import RunFolder as RunFolder
    from search.runs.options import SearchOptions as SearchOptions
    from search.runs.result import SearchResult as SearchResult
    from search.runs.rows import TrialRow as TrialRow
    from search.runs.rows import read_rows as read_rows
    from search.runs.study import read_study as read_study

_HOMES = {
    "Forecast": "search.driver",
    "RunFolder": "search.runs.folder",
    "SearchOptions": "search.runs.options",
    "SearchResult": "search.runs.result",
    "TrialRow": "search.runs.rows",
    "check": "search.driver",
    "read_rows": "search.runs.rows",
    "read_study": "search.runs.study",
    "search": "search.driver",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = import_when_used(__name__, _HOMES)
