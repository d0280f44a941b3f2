"""The delivery of what an outage of MLflow left in a run's outboxes, without going on with it."""

from search.runs.folder import RECORD, RunFolder
from search.tracking.tracker import Tracker
from segcore.errors import UserError, counted


def deliver_records(run: RunFolder, uri: str, experiment: str) -> str | None:
    """Send all records of a run, and of the trainings that follow its search.

    Returns the page of the search's trials; None where there was nothing to send. Raises
    ``UserError`` where some are left.
    """
    left, problem, trials_url = 0, None, None
    inner = (RunFolder(path.parent) for path in sorted(run.path.glob(f"*/{RECORD}")))
    for part in (run, *inner):
        if not part.outbox.is_file():
            continue
        record = part.read()
        tracker = Tracker(
            uri,
            experiment=experiment,
            search_name=part.path.name,
            search_id=record.search_id,
            score=record.options.score_key,
            outbox=part.outbox,
        )
        left += tracker.close()
        problem = tracker.problem or problem
        trials_url = trials_url or tracker.trials_url
    if left:
        why = f" ({problem.partition(chr(10))[0]})" if problem else ""
        raise UserError(
            f"{run.address}: MLflow has yet to get {counted(left, 'record')}{why}; they wait on "
            "disk, so try again later"
        )
    return trials_url
