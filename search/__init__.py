"""Distributed hyperparameter search over segcore: Ray Tune, Optuna, MLflow.

    from search import SearchOptions, search

    result = search(SearchOptions(data="DIR", space="spaces.aerial"), progress=True)

Names are imported when they are first used, so that ``import search`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
