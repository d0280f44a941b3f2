"""The names of metrics in MLflow."""

import re
from collections.abc import Iterable

_LONGEST = 200
"""Characters of a key, without its section and its number."""
BEST_SCORE = "best_score"
"""The best value so far of what the search maximises.

MLflow's page that compares trials colours them by the first metric, in alphabetical order, that all
of them have. No metric of ours may come before this name.
"""


def metric_keys(names: Iterable[str]) -> dict[str, str]:
    """The key in MLflow of each metric name: "dice/Trees / Shrubs" becomes "dice/Trees - Shrubs".

    MLflow forbids some characters, and names that are long or dots alone. It takes what stands
    before a "/" for the section of a chart, so only the first "/" stays. A number tells two names
    apart that would get the same key. It depends on what follows the first "/" in all ``names``
    together, and not on their order.
    """
    parts = {name: name.partition("/") for name in names}
    keys: dict[str, str] = {}
    # A name that MLflow takes as it is comes first, and so keeps its key.
    for rest in sorted({rest for *_, rest in parts.values()}, key=lambda r: (_allowed(r) != r, r)):
        key, number = _allowed(rest), 1
        while key in keys.values():
            number += 1
            key = f"{_allowed(rest)} {number}"
        keys[rest] = key
    return {name: section + slash + keys[rest] for name, (section, slash, rest) in parts.items()}


def _allowed(text: str) -> str:
    text = re.sub(r"[^\w.\- :]", "_", text.replace("/", "-").replace("&", "and"))
    return text[:_LONGEST] if text.strip(".") else "_" * len(text)
