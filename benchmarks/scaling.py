"""How well a search uses its slots, and how the driver's own time grows with finished trials.

    python -m benchmarks.scaling [--slots 1 2 4] [--trials-per-slot 6] [--finished 100 1000 5000]

Slots: a real search (`python -m search.run`) on drawn scenes, whose trials are tiny networks that
sleep for each image, so that a trial takes as long on any machine. Slot use is the time from the
start of each trial's first epoch to the end of its last, summed, over slots × the time from the
first to the last of all; the gap is from one trial's last report to the next one's first step.

Driver: a study with so many finished trials in its journal; then what one more trial costs the
driver, from being asked for to being told, beside the sampler's own share of that.

Predicted before the first run: use 0.97 with 1 and 2 slots, where a gap of half a second stands
against trials of 20 s; less with 4 on two cores. The driver's time grows with the sampler's, at
5,000 trials to less than twice that, reading all trials for the best of them being the rest.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import BaseTrial, TrialState

from search.planning.halving import Halving, rungs
from search.planning.sampler import RungTPESampler
from search.planning.space import finish
from search.runs.options import SearchOptions
from search.runs.rows import read_rows
from search.runs.storage import Location
from search.runs.study import open_study
from search.trials.keeping import drop_checkpoints, kept_trials
from search.trials.searcher import StudyScheduler, StudySearcher
from segcore.config import TrialConfig
from segcore.facts import DataFacts, ObjectSizes
from spaces.aerial import space

IMAGE_S = 0.05
"""How long each training image sleeps."""
EPOCHS = 6
PHOTOGRAPHS = DataFacts(
    ("Grass", "Roof", "Pool"), 261, (3000, 4000), ObjectSizes((9,) * 3, (320.0, 64.0, 16.0))
)
"""What ``spaces.aerial`` takes its scales from."""


def aerial(trial: BaseTrial) -> TrialConfig:
    """The full space, for UAV photographs with small objects."""
    return space(trial, PHOTOGRAPHS)


def sleeping_space(trial: BaseTrial) -> TrialConfig:
    """Trials of a known length."""
    return TrialConfig(
        height_px=64, width_px=64, architecture="scratch_unet", encoder=None,
        model_kwargs={"base_channels": 4, "depth": 2}, batch_size=10,
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        augmentation="benchmarks.scaling:sleeping",
    )  # fmt: skip


def sleeping(strength: float, height_px: int, width_px: int) -> Any:
    """An augmentation that waits."""
    import albumentations as A

    from segcore.training.augment import Augmentation
    from segcore.training.augment import aerial as usual

    def wait(image: Any, **_: Any) -> Any:
        time.sleep(IMAGE_S)
        return image

    made = usual(strength, height_px, width_px)
    pixels = A.Compose([*made.pixels.transforms, A.Lambda(image=wait, p=1.0)])
    return Augmentation(made.geometry, pixels)


def slot_use(slots: int, trials: int, folder: Path) -> tuple[float, float]:
    """Share of the slots' time that trials trained, and the mean gap between them in seconds."""
    name = f"slots-{slots}"
    # As many CPUs as slots, whatever this machine has: the trials sleep.
    environment = os.environ | {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": slots})}
    subprocess.run(
        [sys.executable, "-m", "search.run", "--space", "benchmarks.scaling:sleeping_space",
         "--trials", str(trials), "--max-epochs", str(EPOCHS), "--grace-epochs", str(EPOCHS),
         "--out", str(folder), "--name", name, "--ensemble-candidates", "1"],
        check=True, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    spans: dict[int, list[float]] = {}
    for line in (folder / name / "tracking.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("kind") == "epoch" and record["trial"] is not None:
            end_s = record["time_ms"] / 1000
            spans.setdefault(record["trial"], []).extend(
                [end_s - record["metrics"]["train/epoch_s"], end_s]
            )
    ordered = sorted((min(span), max(span)) for span in spans.values())
    busy_s = sum(end - start for start, end in ordered)
    whole_s = max(end for _, end in ordered) - ordered[0][0]
    free = [end for _, end in ordered[:slots]]
    gaps = []
    for start, end in ordered[slots:]:
        free.sort()
        gaps.append(start - free[0])
        free[0] = end
    # The last trials end at different times: that is no idle time of the search's making.
    tail_s = sum(max(free) - end for end in free)
    return busy_s / (slots * whole_s - tail_s), sum(gaps) / len(gaps)


def driver_time_s(finished: int, folder: Path) -> tuple[float, float]:
    """Seconds that one more trial costs the driver, and the sampler's own share of them."""
    options = SearchOptions(trials=finished + 20, max_epochs=81, grace_epochs=3)
    sampler = RungTPESampler(rungs(3, 81, 3), seed=0)
    study = open_study(folder / "study.journal", name="s", sampler=sampler, create=True)
    _fill(study, finished, options)
    searcher = StudySearcher(
        study, aerial, Halving(study, grace_epochs=3, max_epochs=81, reduction_factor=3),
        metric=options.score_key, planned_trials=options.trials,
        finish=functools.partial(finish, options), capacity=lambda: 99,
    )  # fmt: skip
    scheduler = StudyScheduler(searcher, why=str)
    aerial(study.ask())  # the first reads the journal
    asked = time.perf_counter()
    for _ in range(3):
        aerial(study.ask())
    sampler_s = (time.perf_counter() - asked) / 3
    started = time.perf_counter()
    for number in range(5):
        trial = SimpleNamespace(trial_id=f"new-{number}")
        trial.config = searcher.suggest(trial.trial_id)
        for epoch in range(1, 4):
            result = {"epoch": epoch, options.score_key: 0.1, "finished": epoch == 3}
            scheduler.on_trial_result(None, trial, result)
        searcher.on_trial_complete(trial.trial_id, result)
        rows = read_rows(study)
        others = {row.number for row in rows} - kept_trials(rows, 8)
        drop_checkpoints(Location.parse(folder / "trials"), others)
    return (time.perf_counter() - started) / 5, sampler_s


def _fill(study: optuna.Study, count: int, options: SearchOptions) -> None:
    """Finished trials, as random sampling of the same space and halving would have left them."""
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = []
    for number in range(count):
        asked = source.ask()
        config = finish(options, aerial(asked), number)
        last = (3, 9, 27, 81)[min(3, (number * 7919) % 40 // 13)]
        values = {epoch: 0.5 * epoch / (epoch + 5) for epoch in range(1, last + 1)}
        trials.append(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE, params=asked.params, distributions=asked.distributions,
                intermediate_values=values, value=max(values.values()),
                user_attrs={"config": config.to_dict()},
            )
        )  # fmt: skip
    study.add_trials(trials)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--trials-per-slot", type=int, default=6)
    parser.add_argument("--finished", type=int, nargs="*", default=[100, 1000, 5000])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for slots in options.slots:
            use, gap_s = slot_use(slots, slots * options.trials_per_slot, folder)
            print(f"{slots} slots: use {use:.3f}, {gap_s:.2f} s from one trial to the next")
        for finished in options.finished:
            (folder / str(finished)).mkdir()
            driver_s, sampler_s = driver_time_s(finished, folder / str(finished))
            print(
                f"{finished} finished trials: {driver_s * 1000:.0f} ms of the driver's time for a "
                f"trial of 3 epochs, the sampler's ask alone {sampler_s * 1000:.0f} ms "
                f"(×{driver_s / sampler_s:.2f})"
            )


if __name__ == "__main__":
    main()
