"""What a search finds in the same seconds, with real trainings: ours, and stock Ray Tune.

    WEIGHTS=DIR python -m benchmarks.real_search [--data DIR] [--seconds 240] [--seeds 0 1 2 3 4]

All search the same space, train by ``fit`` on the same prepared data with as many trials at a time,
and get the same seconds for their trials. "stock" is what one writes without this project: Ray Tune
with ``OptunaSearch`` and ``ASHAScheduler`` as they come, and the checkpoint that is best on the
validation split at the end. Of a search of ours its best single trial is compared, and beside it
the model that its bundle holds, which takes further seconds to make. Each search is a process of
its own; the seeds take turns, so that other work on the machine meets all alike.

Prediction, before the first run, in points of Dice on the test, against stock's best: halving +0.5,
freeze-thaw +1.5, the model in the bundle 2 more than the single trial; all within the noise of
five seeds on Dubai, whose test photographs are of areas that nobody trained on.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.stock_search import by_stock
from search.driver import search
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions
from search.runs.study import read_study
from segcore.config import MetricName

Method = Literal["stock", "halving", "freeze-thaw"]


@dataclass(frozen=True)
class Options:
    """Search by each method, seed by seed, and compare what was found."""

    data: Path | None = None  # Folder with a dataset.yaml; the drawn scenes by default.
    space: str = "benchmarks.real_space:space"
    metric: MetricName = "dice"
    seconds: int = 240  # For the trials of a search.
    max_epochs: int = 18
    epoch_megapixels: float = 3.0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    methods: tuple[Method, ...] = ("stock", "halving", "freeze-thaw")
    parallel: int = 2  # Trials at a time.
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0
    score_scale: float | None = None  # Of all trials; by default the finest that the space names.
    members: int = 8  # Of an ensemble at most; with 1 only single trials are scored at the end.
    out: Path = Path("real_search.jsonl")  # A line for each search; those that it has aren't run.
    report: bool = False  # Only print what "out" has.

    def of_search(self, method: Method, seed: int, folder: str) -> SearchOptions:
        """The options of a search of ours."""
        return SearchOptions(
            data=None if self.data is None else str(self.data.resolve()),
            space=self.space,
            metric=self.metric,
            strategy="halving" if method == "stock" else method,
            trials=500,
            max_epochs=self.max_epochs,
            epoch_megapixels=self.epoch_megapixels,
            time_budget=f"{self.seconds}s",
            parallel=self.parallel,
            cpus_per_trial=self.cpus_per_trial,
            gpus_per_trial=self.gpus_per_trial,
            score_scale=self.score_scale,
            ensemble_members=self.members,
            seed=seed,
            out=folder,
            name="run",
        )


class Found(NamedTuple):
    """What a search found."""

    method: Method
    seed: int
    single_val: float
    single_test: float
    """Of the trial that is best on the validation split."""
    chosen_test: float
    """Of the model in the bundle; stock makes none, and has that trial again."""
    wall_s: float
    """From the beginning of the process to its end."""
    curves: list[dict[str, Any]]
    """The parameters of each trial ("params") and its score after each epoch ("scores")."""


def main(options: Options) -> None:
    """Run the searches that ``out`` lacks, and compare the methods."""
    found = read(options.out)
    known = {(each.method, each.seed) for each in found}
    for seed in options.seeds if not options.report else ():
        for method in options.methods:
            if (method, seed) not in known:
                found.append(in_own_process(options, method, seed))
                with options.out.open("a") as out:
                    out.write(f"{line_of(found[-1])}\n")
                print(describe(found[-1]), flush=True)
    print_table(found)


def read(out: Path) -> list[Found]:
    """The searches of a file."""
    lines = out.read_text().splitlines() if out.exists() else []
    return [Found(**json.loads(line)) for line in lines]


def line_of(found: Found) -> str:
    """A search as JSON, with five digits behind the point."""
    exact = json.dumps(found._asdict())
    return json.dumps(json.loads(exact, parse_float=lambda digits: round(float(digits), 5)))


def describe(found: Found) -> str:
    """A search on a line."""
    epochs = sum(len(curve["scores"]) for curve in found.curves)
    return (
        f"{found.method:<11} seed {found.seed}: {len(found.curves)} trials, {epochs} epochs; "
        f"val {found.single_val:.4f}, test {found.single_test:.4f}, "
        f"in the bundle {found.chosen_test:.4f}; {found.wall_s:.0f} s"
    )


def in_own_process(options: Options, method: Method, seed: int) -> Found:
    """One search, which leaves nothing behind."""
    started = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, spawn) as pool:
        settings = options.of_search(method, seed, folder)
        work = by_stock if method == "stock" else by_us
        facts = pool.submit(work, settings).result()
    return Found(method, seed, wall_s=time.monotonic() - started, **facts)


def by_us(options: SearchOptions) -> dict[str, Any]:
    """What ``python -m search.run`` finds."""
    result = search(options, progress=True)
    single, metric = result.single, options.metric
    study = read_study(RunFolder.at(str(Path(options.out) / "run")))
    return {
        "single_val": single.val.metrics[metric].value,
        "single_test": single.test.metrics[metric].value,
        "chosen_test": result.ensemble.test.metrics[metric].value,
        "curves": [
            {"params": trial.params, "scores": list(trial.intermediate_values.values())}
            for trial in study.get_trials(deepcopy=False)
        ],
    }


def print_table(found: Sequence[Found]) -> None:
    """Means and their distance from stock's, paired by seed, with 95 % of Student's t."""
    print(f"\n{'':<24}{'mean':>8}   {'− stock, points':>16}")
    for method in dict.fromkeys(each.method for each in found):
        for column in ("single_val", "single_test", "chosen_test"):
            values = scores_of(found, method, column)
            if (method, column) != ("stock", "chosen_test"):
                gain = difference(values, scores_of(found, "stock", column))
                print(f"{method:<11} {column:<12}{np.mean(list(values.values())):>8.4f}   {gain}")


def scores_of(found: Sequence[Found], method: str, column: str) -> dict[int, float]:
    """By seed."""
    return {each.seed: getattr(each, column) for each in found if each.method == method}


def difference(ours: Mapping[int, float], stock: Mapping[int, float]) -> str:
    """The mean over the seeds that both have."""
    gains = 100 * np.array([ours[seed] - stock[seed] for seed in ours if seed in stock])
    if len(gains) < 2:
        return ""
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return f"{gains.mean():+.1f} ± {half:.1f} ({len(gains)} seeds)"


if __name__ == "__main__":
    main(tyro.cli(Options))
