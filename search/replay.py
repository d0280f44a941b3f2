"""python -m search.replay RUN TRIAL: trains one trial again, in this process and without Ray."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from search.planning.plan import searched_data
from search.reporting.command_line import leave, run_command
from search.runs.checkpoints import best_checkpoint
from search.runs.folder import RunFolder
from search.runs.options import SearchOptions
from search.runs.study import read_study
from search.trials.slot import prepare_process
from segcore.arguments import read_arguments
from segcore.config import TrialConfig
from segcore.cores import usable_cores
from segcore.data.prepared import PreparedData
from segcore.devices import choose_device
from segcore.errors import TrainingFailedError, UserError
from segcore.training.checkpoint import CheckpointInfo
from segcore.training.fit import EpochResult, fit
from segcore.versions import versions


@dataclass(frozen=True)
class ReplayOptions:
    """Train one trial of a search again, and compare its scores with those that it had.

    On a CPU of the same kind, with the versions that the search had, all are equal to the last bit.
    On a GPU sums are taken in another order each time: give a --tolerance.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, runs/NAME, or its s3:// or gs:// address."""
    trial: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="TRIAL")]
    """The trial's number."""
    epochs: int | None = None
    """Stop after this many. Default: as many as the trial had."""
    out: Path | None = None
    """Folder for the checkpoint of the last epoch. Default: none is kept."""
    device: Literal["cpu", "cuda", "mps"] | None = None
    """Default: CUDA, unless the search gave its trials no GPU."""
    tolerance: float = 0.0
    """How far a score may be from the stored one and still count as equal."""


@dataclass(frozen=True)
class PastTrial:
    """What a run knows of one of its trials."""

    config: TrialConfig
    scores: Mapping[int, float]
    """``config.metric`` on the validation split after each epoch."""
    failure: str | None
    checkpoint: CheckpointInfo | None
    """Of its best epoch, where it is still there."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.replay") -> int:
    """Replay a trial. The exit code is 0 for equal scores, 1 for others, 2 for bad input."""
    options = read_arguments(ReplayOptions, arguments, prog)
    console = Console(highlight=False)

    def work() -> int:
        equal = replay(options, console)
        console.print("[bold green]equal[/]" if equal else "[bold red]not equal[/]")
        return 0 if equal else 1

    return run_command(work)


def replay(options: ReplayOptions, console: Console) -> bool:
    """Train the trial again and print stored and new scores; whether they are equal."""
    run = RunFolder.opened(options.run)
    record = run.read()
    past = read_trial(run, options.trial)
    data = searched_data(record)
    last_epoch = options.epochs or (None if past.failure else max(past.scores, default=None))
    equal = past.failure is None or options.epochs is not None
    epochs = _train(options, record.options, past, data, run.weights)
    try:
        for epoch in itertools.islice(epochs, last_epoch):
            score, stored = epoch.scores.metric(past.config.metric), past.scores.get(epoch.epoch)
            shown = "none" if stored is None else f"{stored:.6f}"
            console.print(
                f"epoch {epoch.epoch:3}  {past.config.metric}  stored {shown}  now {score:.6f}"
            )
            equal &= stored is None or abs(score - stored) <= options.tolerance
            if options.out is not None:
                epoch.save(options.out)
    except TrainingFailedError as error:
        console.print(f"failed now: {error}\nfailed then: {past.failure}", markup=False)
        return str(error) == past.failure
    _print_differences(past.checkpoint, epoch, console)
    return equal


def read_trial(run: RunFolder, number: int) -> PastTrial:
    """A trial from the run's study. Raises ``UserError`` if it has not begun."""
    trials = read_study(run).get_trials(deepcopy=False)
    if number not in range(len(trials)):
        raise UserError(f"{run.address}: no trial {number}; there are 0 to {len(trials) - 1}")
    trial = trials[number]
    if "config" not in trial.user_attrs:
        raise UserError(f"{run.address}: trial {number} has not begun; nothing is to be replayed")
    checkpoint = best_checkpoint(run.trials, number)
    return PastTrial(
        TrialConfig.from_dict(trial.user_attrs["config"]),
        dict(trial.intermediate_values),
        trial.user_attrs.get("failure"),
        None if checkpoint is None else checkpoint.info,
    )


def _train(
    options: ReplayOptions,
    searched: SearchOptions,
    past: PastTrial,
    data: PreparedData,
    weights_dir: Path,
) -> Iterator[EpochResult]:
    """Train as a worker does, with as many threads: they determine the order of sums."""
    device = choose_device(options.device or ("cpu" if searched.gpus_per_trial == 0 else None))
    cpus = searched.cpus_per_trial or (1 if device.type == "cpu" else usable_cores())
    prepare_process(cpus, gpus=float(device.type != "cpu"))
    return fit(
        past.config,
        data,
        device=device,
        weights_dir=weights_dir,
        loader_workers=cpus if device.type != "cpu" else 0,
    )


def _print_differences(then: CheckpointInfo | None, now: EpochResult, console: Console) -> None:
    """Print what may explain other scores: other versions, or fewer images at once."""
    if then is None:
        return
    for name, was in then.versions.items():
        if versions().get(name) != was:
            console.print(f"{name}: was {was}, is {versions().get(name)}", markup=False)
    if then.micro_batch_size not in (None, now.micro_batch_size):
        console.print(
            f"{now.micro_batch_size} images at a time fit into memory, then {then.micro_batch_size}"
        )


if __name__ == "__main__":
    leave(main)
