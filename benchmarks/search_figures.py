"""The tables of ``benchmarks.search_efficiency``: budget-to-target ratios and regret."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from search.forecasting.kernel import Array

Curves = Mapping[str, Mapping[str, Array]]
"""Regret of a method on a table, by their names: (seeds, parts of the budget)."""

BOOTSTRAPS = 400
REFERENCES = ("stock", "random, ASHA", "random", "top after one epoch", "BOHB's rule")


def tables_of_figures(
    records: Iterable[Mapping[str, Any]],
    rng: np.random.Generator,
    references: Sequence[str] = REFERENCES,
) -> Iterator[str]:
    """Lines of Markdown, from the records of ``search_efficiency``.

    Intervals hold 95 % of samples with other seeds (bootstrap within each table).
    """
    records = list(records)
    family_of = {record["table"]: record["family"] for record in records}
    curves = _complete(records)
    methods = [m for m in dict.fromkeys(r["method"] for r in records) if m in curves]
    families = list(dict.fromkeys(family_of[name] for name in curves[methods[0]]))
    seeds = sorted({len(c) for by_table in curves.values() for c in by_table.values()})
    yield f"{len(curves[methods[0]])} tables, {seeds} seeds each; 95 % intervals"
    samples = [_resampled(curves, rng) for _ in range(BOOTSTRAPS)]
    for reference in [name for name in references if name in curves]:
        yield f"\n| budget, as a share of what {reference} needs | all | {' | '.join(families)} |"
        yield "|---" * (2 + len(families)) + "|"
        for method in methods:
            if method != reference:
                cells = [
                    _cell(
                        curves,
                        samples,
                        lambda c, f, m=method, r=reference: _ratio(c, m, r, f),
                        group,
                    )
                    for group in _groups(family_of, families)
                ]
                yield f"| {method} | {' | '.join(cells)} |"
    if "random, ASHA" in curves:
        yield from _regrets(curves, samples, methods, family_of, families)


def _regrets(
    curves: Curves,
    samples: Sequence[Curves],
    methods: Sequence[str],
    family_of: Mapping[str, str],
    families: Sequence[str],
) -> Iterator[str]:
    yield f"\n| regret, random + ASHA's at the end = 1 | ¼ | ½ | 1 | {' | '.join(families)} (1) |"
    yield "|---" * (4 + len(families)) + "|"
    everything, *single = _groups(family_of, families)
    for method in methods:
        cells = [
            _cell(curves, samples, lambda c, f, m=method, s=share: _regret(c, m, s, f), everything)
            for share in (0.25, 0.5, 1.0)
        ]
        cells += [
            _cell(curves, samples, lambda c, f, m=method: _regret(c, m, 1.0, f), group)
            for group in single
        ]
        yield f"| {method} | {' | '.join(cells)} |"


def _groups(family_of: Mapping[str, str], families: Sequence[str]) -> list[list[list[str]]]:
    """The tables of all families, and of each alone. Families count alike, whatever their size."""
    lists = [[t for t, family in family_of.items() if family == one] for one in families]
    return [lists, *([one] for one in lists)]


def _complete(records: Sequence[Mapping[str, Any]]) -> Curves:
    """Only those seeds of a table that every method has finished."""
    by_key = {(r["method"], r["table"], r["seed"]): np.array(r["regret"]) for r in records}
    methods = list(dict.fromkeys(r["method"] for r in records))
    curves: dict[str, dict[str, Array]] = {}
    for table in dict.fromkeys(r["table"] for r in records):
        seeds = sorted({seed for _, name, seed in by_key if name == table})
        shared = [s for s in seeds if all((m, table, s) in by_key for m in methods)]
        for method in methods:
            if shared:
                rows = np.array([by_key[method, table, seed] for seed in shared])
                curves.setdefault(method, {})[table] = rows
    return curves


def _resampled(curves: Curves, rng: np.random.Generator) -> Curves:
    """The same with seeds drawn with replacement, the same ones for every method."""
    first = next(iter(curves.values()))
    drawn = {table: rng.integers(len(rows), size=len(rows)) for table, rows in first.items()}
    return {
        method: {table: rows[drawn[table]] for table, rows in by_table.items()}
        for method, by_table in curves.items()
    }


def _ratio(curves: Curves, method: str, reference: str, families: list[list[str]]) -> float:
    """Budget to reach the worse one's final mean regret: the method's by the reference's."""
    logs = []
    for tables in families:
        found = []
        for table in tables:
            ours, theirs = (curves[m][table].mean(axis=0) for m in (method, reference))
            if ours[-1] <= theirs[-1]:
                found.append(np.log(_reached(ours, theirs[-1])))
            else:
                found.append(-np.log(_reached(theirs, ours[-1])))
        logs.append(np.mean(found))
    return float(np.exp(np.mean(logs)))


def _reached(regret_G: Array, target: float) -> float:
    """The share of the budget after which a regret is no worse than the target."""
    return (int(np.argmax(regret_G <= target)) + 1) / len(regret_G)


def _regret(curves: Curves, method: str, share: float, families: list[list[str]]) -> float:
    """Mean regret after a share of the budget; random + ASHA's at the end counts 1."""
    means = []
    for tables in families:
        found = [
            curves[method][t].mean(axis=0)[round(share * curves[method][t].shape[1]) - 1]
            / curves["random, ASHA"][t].mean(axis=0)[-1]
            for t in tables
        ]
        means.append(np.exp(np.mean(np.log(np.maximum(found, 1e-3)))))
    return float(np.exp(np.mean(np.log(means))))


def _cell(curves: Curves, samples: Sequence[Curves], figure: Any, families: list[list[str]]) -> str:
    low, high = np.quantile([figure(sample, families) for sample in samples], [0.025, 0.975])
    return f"{figure(curves, families):.2f} ({low:.2f}–{high:.2f})"
