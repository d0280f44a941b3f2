"""A search from its options to its ensemble: what ``python -m search.run`` does, step by step."""

import dataclasses
import secrets
import time

from rich.console import Console

from search.cluster import Slots, connected
from search.ensemble import EnsembleResult, build_ensemble
from search.estimate import estimate_s
from search.leaderboard import leaderboard_table, read_rows, show_duration
from search.mlflow_runs import check, default_uri, ui_command
from search.options import RunFolder, RunRecord, SearchOptions
from search.plan import Plan, default_name, make_plan
from search.progress import SearchProgress
from search.study import open_plan_study, run_trials
from search.tracking import Tracker
from segcore.errors import UserError
from segcore.splits import SPLITS
from segcore.versions import versions

EXPERIMENT = "segsearch"
"""MLflow's experiment: the searches of one tracking server stand in it side by side."""


def search(options: SearchOptions, console: Console) -> bool:
    """Search, ensemble and report; False where Ctrl-C ended it early.

    Raises ``UserError`` before anything is trained, where something can't work.
    """
    run, record = _open_run(options)
    runs_folder = run.path.parent
    uri = options.tracking_uri or default_uri(runs_folder)
    check(uri, EXPERIMENT)
    console.print(f"[bold]{run.path.name}[/]: checking the space, the data and the networks …")
    plan = make_plan(options, run)
    _check_identity(plan, record)
    with connected(options) as slots:
        if options.dry_run:
            _print_plan(plan, slots, console)
            return True
        if record is None:
            record = RunRecord(secrets.token_hex(8), options, plan.identity)
        record = dataclasses.replace(record, options=options)
        run.write(record)
        with Tracker(
            uri,
            experiment=EXPERIMENT,
            search_name=run.path.name,
            search_id=record.search_id,
            score=options.score_key,
            journal=run.tracking_journal,
        ) as tracker:
            try:
                _search(plan, slots, tracker, uri, console)
            except KeyboardInterrupt:
                tracker.end_search("stopped", "interrupted")
                console.print(
                    "\nInterrupted; nothing is lost. Go on with:\n"
                    f"  python -m search.run --resume {run.path}",
                    soft_wrap=True,
                )
                return False
    return True


def _search(plan: Plan, slots: Slots, tracker: Tracker, uri: str, console: Console) -> None:
    options = plan.options
    # Parameters are what can't change when the search is resumed; MLflow would refuse that.
    tracker.start_search(
        plan.identity,
        {
            "trials": str(options.trials),
            "time_budget": str(options.time_budget),
            "seed": str(options.seed),
            **versions(),
        },
    )
    study = open_plan_study(plan)
    console.print(
        f"{options.trials} trials of up to {options.max_epochs} epochs, {slots.count} at a time, "
        f"on {len(plan.data.items('train'))} training images · Ctrl-C stops gently",
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
    console.print()
    console.print(leaderboard_table(rows, options.metric))
    unfinished = [row.number for row in rows if row.status == "running"]
    out_of_time = options.time_budget_s is not None and spent_s >= options.time_budget_s
    for number in unfinished:
        tracker.end_trial(number, "stopped", "out of time" if out_of_time else "interrupted")
    if (unfinished or len(rows) < options.trials) and not out_of_time:
        raise KeyboardInterrupt  # Ray Tune took it for its own, and ended gently
    result = build_ensemble(plan, rows, slots)
    _log_best_trials(plan, result, tracker)
    tracker.end_search("finished")
    _print_result(plan, result, console)
    console.print(
        f"\nCompare trials  {ui_command(uri)}\n"
        f"                and open {tracker.trials_url}\n"
        f"Predict         python -m search.predict {plan.run.ensemble} PHOTOS --overlay",
        soft_wrap=True,
    )


def _open_run(options: SearchOptions) -> tuple[RunFolder, RunRecord | None]:
    if options.resume is not None:
        run = RunFolder(options.resume)
        return run, run.read()
    run = RunFolder(options.out / (options.name or default_name(options.space)))
    if run.search_json.exists():
        raise UserError(
            f"{run.path}: a run of this name exists; go on with it by --resume {run.path}, "
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
            f"{plan.run.path}: can't go on, its trials could not be compared: "
            f"{'; '.join(changed)}. Change it back, or start a new run"
        )


def _log_best_trials(plan: Plan, result: EnsembleResult, tracker: Tracker) -> None:
    for number, folder in result.pictures.items():
        tracker.log_artifacts(number, *sorted(folder.iterdir()), artifact_path="validation")
    for number, folder in result.checkpoints.items():
        tracker.log_artifacts(number, *sorted(folder.iterdir()), artifact_path="checkpoint")
    tracker.log_artifacts(None, plan.run.ensemble / "bundle.json", artifact_path="ensemble")


def _print_plan(plan: Plan, slots: Slots, console: Console) -> None:
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
        f"time       about {show_duration(seconds)}, from a few measured steps of each network\n"
        f"\nAll checks passed. Nothing was trained; leave out --dry-run to start."
    )


def _print_result(plan: Plan, result: EnsembleResult, console: Console) -> None:
    metric = plan.options.metric
    members = ", ".join(f"trial {number} ×{weight:.2f}" for number, weight in result.members)
    headline = f"[bold]Ensemble[/] of {members}"
    if len(result.members) == 1:
        headline = f"No ensemble was better than trial {result.members[0][0]} alone"
    images = f"{result.test_photos} test images that nothing before has seen"
    console.print(
        f"\n{headline}\n"
        f"  {metric} on {images}:\n"
        f"    ensemble               [bold]{result.ensemble.test.metric(metric):.4f}[/]\n"
        f"    best single (trial {result.single_number})  {result.single.test.metric(metric):.4f}\n"
        f"  (on the validation split, by which they were chosen: "
        f"{result.ensemble.val.metric(metric):.4f} and {result.single.val.metric(metric):.4f})",
        soft_wrap=True,
    )
