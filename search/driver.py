"""A search from its options to its result, step by step.

``search`` is what ``python -m search.run`` does, and ``check`` what its --dry-run does.
"""

import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from search.ensembles.building import BuiltEnsemble, best_trials, build_ensemble
from search.ensembles.following import folded_trials, open_folds, open_repeats, repeated_trials
from search.ensembles.models import Model
from search.planning.plan import Plan, default_name, make_plan
from search.planning.words import (
    FREEZE_THAW,
    show_amount,
    show_final_trainings,
    show_paused,
    show_score_grids,
    show_views,
    trained_on,
)
from search.reporting.page import REPORT, write_report
from search.reporting.terminal import delivered, leaderboard_table, next_steps, result_text
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.repeats import read_repeats
from search.runs.result import SearchResult
from search.runs.rows import TrialRow, read_rows
from search.runs.storage import Location
from search.runs.study import SearchStudy
from search.tracking.addresses import default_uri, serve_command, ui_command
from search.tracking.check import check as check_tracking
from search.tracking.delivery import deliver_records
from search.tracking.experiments import read_earlier_searches
from search.tracking.registry import model_name, model_record
from search.tracking.tracker import Tracker
from search.trials.cluster import Slots, check_shared, connected
from search.trials.estimate import check_shared_memory, estimate_s
from search.trials.keeping import check_space
from search.trials.line import Line, show_about
from search.trials.progress import SearchProgress
from search.trials.session import open_plan_study, run_trials
from segcore.data.prepared import read_survey
from segcore.data.splits import SPLITS
from segcore.errors import DISK_FULL, UserError, counted, in_short
from segcore.scores.units import unit_notes
from segcore.versions import versions

EXPERIMENT = "segsearch"
"""MLflow's experiment: the searches of one tracking server stand in it side by side."""


def search(options: SearchOptions, *, progress: bool = False) -> SearchResult:
    """Run the trials, make an ensemble of the best ones, and say how good it is.

    Nothing is printed unless ``progress``: then each step and each trial that ends get a line, and
    a bar shows the rest. In a notebook it stands in the cell's output.

    Raises ``UserError`` where something can't work, if it can be known before anything is trained.
    Ctrl-C (in a notebook, its stop button) ends the search gently: all is saved, and the text of
    the ``KeyboardInterrupt`` says how to go on.
    """
    if options.dry_run:
        raise UserError("dry_run is for the command line; call search.check(options) instead")
    console = Console(highlight=False, quiet=not progress)
    hint = "Interrupted before the first trial started; nothing was trained."
    try:
        with Line(console) as line, _opened(options, line) as setup:
            hint = (
                "Interrupted; nothing is lost. Go on with:\n"
                f"  python -m search.run --resume {setup.plan.run.quoted}"
            )
            return _search(setup)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint) from None


@dataclass(frozen=True)
class Forecast:
    """What a search would take. ``str()`` says more of its plan."""

    time_s: float
    """Estimated from a few measured steps of each network."""
    checkpoints_bytes: int
    """How much the checkpoints take at most."""
    text: str

    def __str__(self) -> str:
        return self.text


def check(options: SearchOptions, *, progress: bool = False) -> Forecast:
    """Try everything that can fail, and estimate how long a search will take; train nothing.

    ``progress`` is as in ``search``. Raises ``UserError`` where something can't work.
    """
    console = Console(highlight=False, quiet=not progress)
    with Line(console) as line, _opened(options, line) as setup:
        time_s = estimate_s(setup.plan, setup.slots, line.step)
        return Forecast(time_s, setup.checkpoints_bytes, _plan_text(setup, time_s))


def deliver(options: SearchOptions) -> str:
    """Send MLflow what it has yet to get of the run ``options.resume``, and train nothing.

    Returns what a person can do then. Raises ``UserError`` where MLflow doesn't take all of it.
    """
    if options.resume is None:
        raise UserError("--deliver: give the run whose records are to be sent by --resume")
    options.check_complete()
    run, _ = _open_run(options)
    uri = _tracking_uri(options, run)
    check_tracking(uri, EXPERIMENT)
    with run.claimed():
        try:
            trials_url = deliver_records(run, uri, EXPERIMENT)
        finally:
            run.push()
    serve = serve_command(uri, _model_name(options.data))
    return delivered(run, compare=ui_command(uri), trials_url=trials_url, serve=serve)


@dataclass(frozen=True)
class _Setup:
    """All that the steps of a search need."""

    plan: Plan
    record: RunRecord
    tracking_uri: str
    slots: Slots
    checkpoints_bytes: int
    """How much checkpoints may take at most."""
    line: Line
    trackers: list[Tracker] = dataclasses.field(default_factory=list)
    """Of the search, and of the trainings that follow it."""

    @property
    def console(self) -> Console:
        """Where lines are printed that stay, above the one that moves."""
        return self.line.console


@contextmanager
def _opened(options: SearchOptions, line: Line) -> Iterator[_Setup]:
    """Open the run, check all that can fail, and connect to Ray.

    Of a new run, only pretrained weights and, on a cluster, an empty file are written.
    """
    options.check_complete()
    console = line.console
    run, record = _open_run(options)
    uri = _tracking_uri(options, run)
    line.step("checking that MLflow answers")
    check_tracking(uri, EXPERIMENT)
    logged = read_earlier_searches(options, uri, EXPERIMENT)
    console.print(
        f"[bold]{escape(run.path.name)}[/]: checking the space, the data and the networks …"
    )
    plan = make_plan(options, run, line.step, logged)
    _show_notes(plan, console)
    if record is None:
        record = RunRecord(secrets.token_hex(8), options, plan.identity)
    _check_identity(plan, record)
    record = dataclasses.replace(record, options=options)
    line.step("starting Ray" if options.address is None else "joining the cluster")
    with connected(options) as slots:
        if options.address is not None:
            check_shared(run.storage)
        check_shared_memory(plan, slots)
        yield _Setup(plan, record, uri, slots, check_space(plan, slots), line)


def _show_notes(plan: Plan, console: Console) -> None:
    """What is odd about the data, before hours are spent on them."""
    for note in (*read_survey(plan.data.folder).notes, *unit_notes(plan.data.scored_sizes)):
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)
    console.print(plan.data.units_text, soft_wrap=True)


def _open_run(options: SearchOptions) -> tuple[RunFolder, RunRecord | None]:
    if options.resume is not None:
        run = RunFolder.opened(options.resume)
        return run, run.read()
    name = options.name or default_name(options.space)
    out = Location.parse(options.out)
    run = RunFolder.at(Path(options.out) / name if out.is_local else (out / name).address)
    if run.storage.read(run.record.name) is not None:
        raise UserError(
            f"{run.address}: a run of this name exists; go on with it by --resume {run.quoted}, "
            "or give another --name"
        )
    return run, None


def _tracking_uri(options: SearchOptions, run: RunFolder) -> str:
    if options.tracking_uri is not None:
        return options.tracking_uri
    if run.home is not None:
        raise UserError(
            f"--out {options.out}: MLflow's embedded database can't stand in a bucket; give "
            "--tracking-uri, on a cluster of cluster.yaml http://127.0.0.1:5000"
        )
    return default_uri(run.path.parent)


def _check_identity(plan: Plan, record: RunRecord) -> None:
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


def _search(setup: _Setup) -> SearchResult:
    plan, console = setup.plan, setup.console
    with plan.run.claimed(), _tracked(setup) as tracker:
        rows = _run_study(setup, open_plan_study(plan), tracker)
        trials = best_trials(plan, rows)
        if plan.options.repeats:
            trials += _train_repeats(setup, rows)
        console.print()
        console.print(leaderboard_table(rows, plan.options.metric, read_repeats(plan.run)))
        families = [trials]
        if plan.options.folds > 1:
            families.append(_train_folds(setup, rows))
        console.print("Making models of the trials, to choose one …")
        built = build_ensemble(plan, families, setup.slots, setup.line)
        model = _model_name(plan.options.data)
        _log_best_trials(plan, built, tracker)
        tracker.register(model_record(model, plan.run.ensemble, built.result))
        tracker.end_search("finished")
        console.print(f"\n{result_text(built.result)}", soft_wrap=True)
        setup.line.step("writing the report")
        write_report(plan.run, allow_plugins=True)  # the driver has run them already
    steps = next_steps(
        plan.run,
        report=REPORT,
        compare=ui_command(setup.tracking_uri),
        trials_url=tracker.trials_url,
        unsent=sum(each.unsent for each in setup.trackers),
        serve=serve_command(setup.tracking_uri, model),
        refused=tracker.refusals.get("model"),
        others_refused=sum(each.refused for each in setup.trackers) - ("model" in tracker.refusals),
    )
    console.print(f"\n{steps}", markup=False, soft_wrap=True)
    return built.result


@contextmanager
def _tracked(setup: _Setup) -> Iterator[Tracker]:
    """Write the run's record, and log to MLflow, also why the search ended early.

    Afterwards all records that could be delivered are, and a bucket has all files.
    """
    run = setup.plan.run
    run.write(setup.record)
    try:
        with Tracker(
            setup.tracking_uri,
            experiment=EXPERIMENT,
            search_name=setup.plan.name,
            search_id=setup.record.search_id,
            score=setup.plan.options.score_key,
            outbox=run.outbox,
        ) as tracker:
            setup.trackers.append(tracker)
            try:
                yield tracker
                setup.line.step("telling MLflow the rest")
            except KeyboardInterrupt:
                tracker.end_search("stopped", "interrupted")
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise UserError(
                        f"{run.address}: the disk is full; make room, then go on with "
                        f"--resume {run.quoted}"
                    ) from error
                tracker.end_search("failed", in_short(error))
                raise
    finally:
        run.push()


def _run_study(
    setup: _Setup, study: SearchStudy, tracker: Tracker, phase: str = "training"
) -> list[TrialRow]:
    """Run the trials that the study lacks, and return all of them, best first.

    ``phase`` is what the line that moves calls it.

    Raises ``KeyboardInterrupt`` where Ctrl-C ended it.
    """
    plan, options, slots = setup.plan, setup.plan.options, setup.slots
    # Parameters are what can't change when the search is resumed; MLflow would refuse that.
    tracker.start_search(
        plan.identity,
        {
            "strategy": options.strategy,
            "trials": str(options.trials),
            "time_budget": str(options.time_budget),
            "seed": str(options.seed),
            "gpus_per_trial": f"{slots.gpus_per_trial:g}",
            **versions(),
        },
    )
    setup.console.print(
        f"{_amount(options, slots)}, with {trained_on(plan)} · Ctrl-C stops gently",
        soft_wrap=True,
    )
    if options.pauses:
        setup.console.print(f"{FREEZE_THAW.capitalize()}.", soft_wrap=True)
    progress = SearchProgress(setup.line, options, slots, tracker, phase)
    if run_trials(plan, study, slots, tracker, progress) == "interrupted":
        raise KeyboardInterrupt
    rows = read_rows(study)
    if paused := sum(row.status == "paused" for row in rows):
        words = show_paused(paused, options, plan.run.quoted)
        setup.console.print(words, markup=False, soft_wrap=True)
    return rows


def _train_repeats(setup: _Setup, rows: Sequence[TrialRow]) -> list[Model]:
    """Train the best trials with other seeds."""
    repeats = setup.plan.options.repeats
    setup.console.print(f"Training the best trials again, with {repeats} other seeds each …")
    plan, study = open_repeats(setup.plan, rows)
    _train_finals(setup, plan, study, "training with other seeds")
    return repeated_trials(plan, study, rows)


def _train_folds(setup: _Setup, rows: Sequence[TrialRow]) -> list[Model]:
    """Train the best trials on every fold."""
    setup.console.print(f"Training the best trials on {setup.plan.options.folds} folds …")
    plan, study = open_folds(setup.plan, rows)
    _train_finals(setup, plan, study, "training on folds")
    return folded_trials(plan, study, rows)


def _train_finals(setup: _Setup, plan: Plan, study: SearchStudy, phase: str) -> None:
    """Carry out trainings that follow the search: in a run of their own, in MLflow too."""
    search_id = f"{setup.record.search_id}-{plan.run.path.name}"
    record = RunRecord(search_id, plan.options, plan.identity)
    final_setup = dataclasses.replace(setup, plan=plan, record=record)
    with _tracked(final_setup) as tracker:
        _run_study(final_setup, study, tracker, phase)
        tracker.end_search("finished")


def _log_best_trials(plan: Plan, built: BuiltEnsemble, tracker: Tracker) -> None:
    """Give each candidate's files to its trial's run; those of later trainings get a folder."""

    def log(number: int, folder: Path, *path: str) -> None:
        files, inside = sorted(folder.iterdir()), "/".join(filter(None, path))
        tracker.log_artifacts(number, *files, artifact_path=inside)

    for candidate in built.candidates:
        number, training = candidate.number, candidate.training
        log(number, candidate.pictures, "validation", training)
        for fold, folder in enumerate(candidate.networks):
            several = len(candidate.networks) > 1
            log(number, folder, "checkpoint", f"fold_{fold}" if several else training)
    tracker.log_artifacts(None, plan.run.ensemble / "bundle.json", artifact_path="ensemble")


def _model_name(data: str | None) -> str:
    """The registered model's: after the data set's folder or the last part of its address."""
    if data is None:
        return model_name("scenes")
    location = Location.parse(data)
    path = Path(location.path)
    return model_name(path.resolve().name if location.is_local else path.name)


def _amount(options: SearchOptions, slots: Slots) -> str:
    return show_amount(options, slots.count, on_cpu=slots.gpus_per_trial == 0)


def _plan_text(setup: _Setup, time_s: float) -> str:
    plan, slots, options = setup.plan, setup.slots, setup.plan.options
    photos = {split: len(plan.data.of_split(split)) for split in SPLITS}
    lines = [
        f"{_amount(options, slots)}: {slots.cpus_per_trial} CPU and "
        f"{slots.gpus_per_trial:g} GPU each",
        f"data       {plan.data_folder}: {trained_on(plan)}, "
        f"{photos['val']} for validation, {photos['test']} for the test",
        f"space      {plan.space.path}: {counted(len(plan.networks), 'network')}, "
        f"{counted(len(plan.space.baselines), 'known-good configuration')} first",
        f"views      {show_views(plan)}, all scored at {show_score_grids(plan)}",
    ]
    if options.pauses:
        lines.append(f"strategy   freeze-thaw: {FREEZE_THAW}")
    lines += [f"afterwards {words}" for words in show_final_trainings(options)]
    lines += [
        f"disk       up to {setup.checkpoints_bytes / 1e9:.2g} GB for checkpoints",
        f"time       about {show_about(time_s)}, from a few measured steps of each network",
    ]
    return "\n".join(lines)
