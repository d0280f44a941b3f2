"""A search from its options to its ensemble: what ``python -m search.run`` does, step by step."""

import dataclasses
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from search.ensembles.building import BuiltEnsemble, build_ensemble
from search.ensembles.folds import folded_trials, open_folds
from search.ensembles.models import Model, best_trials
from search.planning.plan import Plan, default_name, make_plan
from search.reporting.page import REPORT, write_report
from search.reporting.terminal import leaderboard_table, result_text
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.rows import TrialRow, read_rows, show_duration
from search.runs.storage import Location
from search.runs.study import SearchStudy
from search.tracking.addresses import default_uri, serve_command, ui_command
from search.tracking.check import check
from search.tracking.registry import model_record
from search.tracking.tracker import Tracker
from search.trials.cluster import Slots, check_shared, connected
from search.trials.estimate import estimate_s
from search.trials.keeping import check_space
from search.trials.progress import SearchProgress
from search.trials.session import open_plan_study, run_trials
from segcore.data.splits import SPLITS
from segcore.errors import DISK_FULL, UserError
from segcore.versions import versions

EXPERIMENT = "segsearch"
"""MLflow's experiment: the searches of one tracking server stand in it side by side."""


def search(options: SearchOptions, console: Console) -> bool:
    """Search, ensemble and report; False where Ctrl-C ended it early.

    Raises ``UserError`` before anything is trained, where something can't work.
    """
    options.check_complete()
    run, record = _open_run(options)
    uri = _tracking_uri(options, run)
    check(uri, EXPERIMENT)
    console.print(f"[bold]{run.path.name}[/]: checking the space, the data and the networks …")
    plan = make_plan(options, run)
    _check_identity(plan, record)
    with connected(options) as slots:
        if options.address is not None:
            check_shared(run.storage)
        needed_bytes = check_space(plan, slots)
        if options.dry_run:
            _print_plan(plan, slots, needed_bytes, console)
            return True
        if record is None:
            record = RunRecord(secrets.token_hex(8), options, plan.identity)
        record = dataclasses.replace(record, options=options)
        run.write(record)
        with _tracking(plan, record, uri) as tracker:
            try:
                _search(plan, record, slots, tracker, uri, console)
            except KeyboardInterrupt:
                tracker.end_search("stopped", "interrupted")
                console.print(
                    "\nInterrupted; nothing is lost. Go on with:\n"
                    f"  python -m search.run --resume {run.address}",
                    soft_wrap=True,
                )
                return False
            except UserError as error:
                tracker.end_search("failed", str(error))
                raise
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                raise UserError(
                    f"{run.address}: the disk is full; make room, then go on with "
                    f"--resume {run.address}"
                ) from error
    return True


def _tracking_uri(options: SearchOptions, run: RunFolder) -> str:
    if options.tracking_uri is not None:
        return options.tracking_uri
    if run.home is not None:
        raise UserError(
            f"--out {options.out}: MLflow's embedded database can't stand in a bucket; give "
            "--tracking-uri, on a cluster of cluster.yaml http://127.0.0.1:5000"
        )
    return default_uri(run.path.parent)


@contextmanager
def _tracking(plan: Plan, record: RunRecord, uri: str) -> Iterator[Tracker]:
    """The search's tracker; when it has delivered what it could, the bucket gets all files."""
    try:
        with Tracker(
            uri,
            experiment=EXPERIMENT,
            search_name=plan.name,
            search_id=record.search_id,
            score=plan.options.score_key,
            outbox=plan.run.outbox,
        ) as tracker:
            yield tracker
    finally:
        plan.run.push()


def _search(
    plan: Plan, record: RunRecord, slots: Slots, tracker: Tracker, uri: str, console: Console
) -> None:
    rows = _run_study(plan, open_plan_study(plan), slots, tracker, console)
    console.print()
    console.print(leaderboard_table(rows, plan.options.metric))
    if plan.options.folds > 1:
        trials = _train_folds(plan, record, rows, slots, uri, console)
    else:
        trials = best_trials(plan, rows)
    console.print("Choosing an ensemble …")
    built = build_ensemble(plan, trials, slots)
    model = _model_name(plan.options.data)
    _log_best_trials(plan, built, tracker)
    tracker.register(model_record(model, plan.run.ensemble, built.result))
    tracker.end_search("finished")
    write_report(plan.run, allow_plugins=True)  # the driver has run them already
    console.print(f"\n{result_text(built.result)}", soft_wrap=True)
    console.print(
        f"\nReport          {plan.run.address}/{REPORT}\n"
        f"Compare trials  {ui_command(uri)}\n"
        f"                and open {tracker.trials_url}\n"
        f"Predict         python -m search.predict {plan.run.address}/ensemble PHOTOS --overlay\n"
        f"Serve           {serve_command(uri, model)}",
        soft_wrap=True,
    )


def _model_name(data: str | None) -> str:
    """The registered model's: after the data set's folder or the last part of its address."""
    if data is None:
        return "segsearch-scenes"
    location = Location.parse(data)
    path = Path(location.path)
    name = path.resolve().name if location.is_local else path.name
    return re.sub(r"[/:\s]+", "-", f"segsearch-{name}")


def _train_folds(
    plan: Plan,
    searched: RunRecord,
    rows: Sequence[TrialRow],
    slots: Slots,
    uri: str,
    console: Console,
) -> list[Model]:
    """Train the best trials on every fold: a run of its own, in MLflow too."""
    console.print(f"Training the best trials on {plan.options.folds} folds …")
    fold_plan, study = open_folds(plan, rows)
    record = RunRecord(f"{searched.search_id}-folds", fold_plan.options, fold_plan.identity)
    fold_plan.run.write(record)
    with _tracking(fold_plan, record, uri) as tracker:
        try:
            _run_study(fold_plan, study, slots, tracker, console)
        except BaseException as error:
            tracker.end_search("stopped", str(error) or "interrupted")
            raise
        tracker.end_search("finished")
    return folded_trials(fold_plan, study, rows)


def _run_study(
    plan: Plan, study: SearchStudy, slots: Slots, tracker: Tracker, console: Console
) -> list[TrialRow]:
    """Run what the study lacks; its trials, best first. KeyboardInterrupt where Ctrl-C ended it."""
    options = plan.options
    # Parameters are what can't change when the search is resumed; MLflow would refuse that.
    tracker.start_search(
        plan.identity,
        {
            "trials": str(options.trials),
            "time_budget": str(options.time_budget),
            "seed": str(options.seed),
            "gpus_per_trial": f"{slots.gpus_per_trial:g}",
            **versions(),
        },
    )
    console.print(
        f"{options.trials} trials of up to {options.max_epochs} epochs, {slots.count} at a time, "
        f"on {_training_images(plan)} training images · Ctrl-C stops gently",
        soft_wrap=True,
    )
    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    with SearchProgress(
        console, metric=options.metric, planned_trials=options.trials, ended_trials=ended
    ) as progress:
        started = time.monotonic()
        run_trials(plan, study, slots, tracker, progress)
        spent_s = time.monotonic() - started
    rows = read_rows(study)
    unfinished = [row.number for row in rows if row.status == "running"]
    out_of_time = options.time_budget_s is not None and spent_s >= options.time_budget_s
    for number in unfinished:
        tracker.end_trial(number, "stopped", "out of time" if out_of_time else "interrupted")
    if (unfinished or len(rows) < options.trials) and not out_of_time:
        raise KeyboardInterrupt  # Ray Tune took it for its own, and ended gently
    return rows


def _training_images(plan: Plan) -> int:
    if plan.searched is None:
        return len(plan.data.items("train"))
    searched = len(plan.data.items("train")) + len(plan.data.items("val"))
    return searched * (plan.options.folds - 1) // plan.options.folds


def _open_run(options: SearchOptions) -> tuple[RunFolder, RunRecord | None]:
    if options.resume is not None:
        run = RunFolder.opened(options.resume)
        return run, run.read()
    name = options.name or default_name(options.space)
    out = Location.parse(options.out)
    run = RunFolder.at(Path(options.out) / name if out.is_local else (out / name).address)
    if run.storage.read(run.search_json.name) is not None:
        raise UserError(
            f"{run.address}: a run of this name exists; go on with it by --resume {run.address}, "
            "or give another --name"
        )
    return run, None


def _check_identity(plan: Plan, record: RunRecord | None) -> None:
    if record is None:
        return
    changed = [
        f"{name}: was {record.identity.get(name)}, is {value}"
        for name, value in plan.identity.items()
        if record.identity.get(name) != value
    ]
    if changed:
        raise UserError(
            f"{plan.run.address}: can't go on, its trials could not be compared: "
            f"{'; '.join(changed)}. Change it back, or start a new run"
        )


def _log_best_trials(plan: Plan, built: BuiltEnsemble, tracker: Tracker) -> None:
    for number, folder in built.pictures.items():
        tracker.log_artifacts(number, *sorted(folder.iterdir()), artifact_path="validation")
    for number, folders in built.checkpoints.items():
        for fold, folder in enumerate(folders):
            name = "checkpoint" if len(folders) == 1 else f"checkpoint/fold_{fold}"
            tracker.log_artifacts(number, *sorted(folder.iterdir()), artifact_path=name)
    tracker.log_artifacts(None, plan.run.ensemble / "bundle.json", artifact_path="ensemble")


def _print_plan(plan: Plan, slots: Slots, needed_bytes: int, console: Console) -> None:
    options = plan.options
    seconds = estimate_s(plan, slots)
    images = {split: len(plan.data.items(split)) for split in SPLITS}
    console.print(
        f"\n{options.trials} trials of up to {options.max_epochs} epochs, {slots.count} at a time: "
        f"{slots.cpus_per_trial} CPU and {slots.gpus_per_trial:g} GPU each\n"
        f"data       {plan.data_folder}: {images['train']} training images, "
        f"{images['val']} for validation, {images['test']} for the test\n"
        f"space      {plan.space.path}: {len(plan.networks)} networks, "
        f"{len(plan.space.baselines)} known-good configurations first\n"
        f"{_planned_folds(options)}"
        f"disk       up to {needed_bytes / 1e9:.2g} GB for checkpoints\n"
        f"time       about {show_duration(seconds)}, from a few measured steps of each network\n"
        f"\nAll checks passed. Nothing was trained; leave out --dry-run to start."
    )


def _planned_folds(options: SearchOptions) -> str:
    if options.folds == 1:
        return ""
    trainings = f"{options.fold_trials} trials on {options.folds} folds each"
    return f"folds      {options.folds * options.fold_trials} trainings follow: {trainings}\n"
