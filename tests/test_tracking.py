import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import search.tracking.tracker as tracker_module
from search.run import main
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.tracking import addresses
from search.tracking import check as check_module
from search.tracking.addresses import default_uri, serve_command, trials_url, ui_command
from search.tracking.check import check
from search.tracking.metric_names import metric_keys
from search.tracking.mlflow_runs import MlflowRuns
from search.tracking.outbox import Outbox, Record, read_records
from search.tracking.tracker import Tracker
from segcore.config import TrialConfig
from segcore.errors import UserError
from tests.machinery import accepts, free_port, nameless, wait_until

CONFIG = TrialConfig(loss="focal", loss_kwargs={"gamma": 2.0}, lr=3e-4)


@pytest.fixture(scope="module", autouse=True)
def somebody_elses_environment() -> Iterator[None]:
    """Of other programs that use MLflow and the web from the same shell: nothing comes of it."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "http_proxy", "HTTPS_PROXY"):
            patch.setenv(name, nowhere)
        patch.setenv("MLFLOW_RUN_ID", "0" * 32)
        patch.setenv("MLFLOW_EXPERIMENT_ID", "77")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
        yield


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database, with its experiment, for all tests, because making one takes seconds."""
    runs = tmp_path_factory.mktemp("runs")
    uri = default_uri(runs)
    check(uri, "segsearch")
    with open_tracker(uri, "first", runs) as tracker:
        tracker.start_search({}, {})
    return uri


def open_tracker(uri: str, search_id: str, folder: Path) -> Tracker:
    return Tracker(
        uri,
        experiment="segsearch",
        search_name=search_id,
        search_id=search_id,
        score="val/dice",
        outbox=folder / "mlflow.jsonl",
    )


def log_epochs(tracker: Tracker, number: int, epochs: range) -> None:
    for epoch in epochs:
        tracker.log_epoch(number, epoch, {"val/dice": epoch / 100, "train/loss": 1 / epoch})


def find_runs(uri: str, search_id: str) -> dict[str, Run]:
    """The runs of a search by name; fails where a name is there twice."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("segsearch")
    runs = [
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags.get("segsearch.search_id") == search_id
        or run.data.tags.get("segsearch.trial", "").startswith(f"{search_id}/")
    ]
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs)
    return named


def steps(uri: str, run: Run, metric: str = "val/dice") -> list[int]:
    return [entry.step for entry in MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


@contextmanager
def mlflow_server(uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: accepts(port), 60)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_search_is_read_back_as_it_was_logged(uri: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.txt"
    picture.write_text("roofs")
    with open_tracker(uri, "whole", tmp_path) as tracker:
        tracker.start_search({"space": "spaces.quick:space", "trials": 2}, {"segsearch.data": "d4"})
        tracker.start_trial(0, CONFIG, {"segsearch.data": "d4"})
        tracker.start_trial(1, CONFIG, {})
        tracker.start_trial(2, CONFIG, {})
        tracker.log_epoch(
            0, 1, {"val/dice": 0.5, "dice/Trees / Shrubs": 0.25, "dice/Boat": math.nan}
        )
        tracker.log_epoch(
            0, 2, {"val/dice": 0.4, "dice/Trees / Shrubs": 0.3, "dice/Boat": math.inf}
        )
        tracker.log_artifacts(0, picture, artifact_path="pictures")
        tracker.end_trial(0, "stopped", "halving at epoch 2")
        tracker.end_trial(1, "failed", "loss is NaN at epoch 1")
        tracker.end_trial(2, "paused", "paused at epoch 1, may go on")
        tracker.start_trial(3, CONFIG, {})
        tracker.end_trial(3, "interrupted", "out of time")
        tracker.end_search("finished")
        assert tracker.close(30) == 0
    runs = find_runs(uri, "whole")
    parent, stopped, failed, paused, interrupted = (
        runs[name] for name in ("whole", *(f"00{number}-unet-resnet34" for number in range(4)))
    )
    assert parent.data.params == {"space": "spaces.quick:space", "trials": "2"}
    assert stopped.data.params == {key: str(value) for key, value in CONFIG.flat().items()}
    assert stopped.data.params["loss_kwargs.gamma"] == "2.0"
    assert stopped.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert stopped.data.tags["segsearch.data"] == "d4"
    assert stopped.data.metrics == {
        "val/dice": 0.4,
        "best_score": 0.5,
        "dice/Trees - Shrubs": 0.3,
    }
    assert steps(uri, stopped) == [1, 2]
    assert parent.data.metrics == {"best_score": 0.5}
    status = [
        (run.info.status, run.data.tags["segsearch.status"], run.data.tags.get("segsearch.reason"))
        for run in (parent, stopped, failed, paused, interrupted)
    ]
    assert status == [
        ("FINISHED", "finished", None),
        ("FINISHED", "stopped", "halving at epoch 2"),
        ("FAILED", "failed", "loss is NaN at epoch 1"),
        ("SCHEDULED", "paused", "paused at epoch 1, may go on"),
        ("SCHEDULED", "interrupted", "out of time"),
    ]
    copy = MlflowClient(uri).download_artifacts(stopped.info.run_id, "pictures/picture.txt")
    assert Path(copy).read_text() == "roofs"
    beside_the_file = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert stopped.info.artifact_uri.startswith(beside_the_file.as_uri())


def test_a_resumed_trial_goes_on_in_its_run_with_no_epoch_twice(uri: str, tmp_path: Path) -> None:
    with open_tracker(uri, "resumed", tmp_path) as tracker:
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        log_epochs(tracker, 0, range(1, 4))
        tracker.end_trial(0, "failed", "worker died")
    with open_tracker(uri, "resumed", tmp_path) as tracker:
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        tracker.log_epoch(0, 3, {"val/dice": 0.999})
        log_epochs(tracker, 0, range(4, 6))
        tracker.end_trial(0, "finished")
    runs = find_runs(uri, "resumed")
    assert steps(uri, runs["resumed"], "best_score") == [1, 2, 3, 4, 5]
    run = runs["000-unet-resnet34"]
    assert steps(uri, run) == [1, 2, 3, 4, 5]
    assert run.data.metrics["best_score"] == 0.05
    assert (run.info.status, run.data.tags["segsearch.status"]) == ("FINISHED", "finished")
    assert "segsearch.reason" not in run.data.tags


def test_what_a_killed_process_could_not_send_arrives_once(uri: str, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    script = (
        "import time; from pathlib import Path\n"
        "from tests.test_tracking import CONFIG, log_epochs, open_tracker\n"
        f"tracker = open_tracker({nobody!r}, 'killed', Path({str(tmp_path)!r}))\n"
        "tracker.start_search({}, {}); tracker.start_trial(0, CONFIG, {})\n"
        "log_epochs(tracker, 0, range(1, 51)); print('logged', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"logged\n"
        process.kill()
    with (tmp_path / "mlflow.jsonl").open("a") as file:
        file.write('{"kind": "epo')  # As if it had died in mid-write.
    with open_tracker(uri, "killed", tmp_path) as tracker:
        log_epochs(tracker, 0, range(50, 52))
    assert steps(uri, find_runs(uri, "killed")["000-unet-resnet34"]) == [*range(1, 52)]


def test_delivering_a_whole_outbox_again_doubles_nothing(uri: str, tmp_path: Path) -> None:
    with open_tracker(uri, "again", tmp_path) as tracker:
        tracker.start_search({"trials": 1}, {})
        tracker.start_trial(0, CONFIG, {})
        log_epochs(tracker, 0, range(1, 4))
        tracker.end_trial(0, "finished")
    before = find_runs(uri, "again")
    (tmp_path / "mlflow.jsonl.sent").unlink()
    open_tracker(uri, "again", tmp_path).close()
    after = find_runs(uri, "again")
    assert {name: run.to_dictionary() for name, run in after.items()} == {
        name: run.to_dictionary() for name, run in before.items()
    }
    assert steps(uri, after["000-unet-resnet34"]) == [1, 2, 3]


def test_a_store_that_does_not_know_the_search_gets_all_of_it(uri: str, tmp_path: Path) -> None:
    """A run's folder is moved: MLflow's file beside its new place is another one."""
    run = tmp_path / "run"
    picture = run / "pictures" / "sky.txt"
    picture.parent.mkdir(parents=True)
    picture.write_text("blue")
    with Tracker(
        uri, experiment="where it began", search_name="moved", search_id="moved",
        score="val/dice", outbox=run / "mlflow.jsonl",
    ) as tracker:  # fmt: skip
        tracker.start_search({"trials": 1}, {})
        tracker.start_trial(0, CONFIG, {})
        log_epochs(tracker, 0, range(1, 4))
        tracker.log_artifacts(0, picture)
    assert tracker.unsent == 0
    moved = run.rename(tmp_path / "another name")
    with open_tracker(uri, "moved", moved) as tracker:
        log_epochs(tracker, 0, range(4, 6))
    assert (tracker.unsent, tracker.refused) == (0, 0)
    found = find_runs(uri, "moved")
    assert steps(uri, found["000-unet-resnet34"]) == [1, 2, 3, 4, 5]
    trial_id = found["000-unet-resnet34"].info.run_id
    assert [file.path for file in MlflowClient(uri).list_artifacts(trial_id)] == ["sky.txt"]


def test_nothing_is_lost_or_slowed_by_a_server_that_dies_or_hangs(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(tracker_module, "LONGEST_PAUSE_S", 1.0)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with mlflow_server(uri, port) as server:
        check(address, "segsearch")
        tracker = open_tracker(address, "outage", tmp_path)
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        log_epochs(tracker, 0, range(1, 11))
        wait_until(lambda: tracker.unsent == 0, 20)

        os.killpg(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        tracker.start_trial(1, CONFIG, {})
        log_epochs(tracker, 1, range(1, 201))
        assert time.monotonic() - began < 1
        wait_until(lambda: tracker.problem is not None, 20)
        assert "timed out" in str(tracker.problem)
        assert tracker.unsent > 200
        os.killpg(server.pid, signal.SIGCONT)
        wait_until(lambda: tracker.unsent == 0, 30)
        assert tracker.problem is None

    tracker.end_trial(0, "finished")
    log_epochs(tracker, 1, range(201, 211))
    wait_until(lambda: "refused" in str(tracker.problem), 20)
    with mlflow_server(uri, port):
        tracker.end_trial(1, "finished")
        tracker.end_search("finished")
        assert tracker.close(30) == 0
    assert tracker.refused == 0
    runs = find_runs(uri, "outage")
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert steps(uri, runs["000-unet-resnet34"]) == [*range(1, 11)]
    assert steps(uri, runs["001-unet-resnet34"]) == [*range(1, 211)]


def test_a_run_that_a_hanging_server_made_twice_is_left_once(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(uri)
    with open_tracker(uri, "twin", tmp_path) as tracker:
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        log_epochs(tracker, 0, range(1, 3))
        wait_until(lambda: tracker.unsent == 0, 20)
        info = find_runs(uri, "twin")["000-unet-resnet34"].info
        client.create_run(info.experiment_id, tags={"segsearch.trial": "twin/0"})
        tracker.end_trial(0, "finished")
    assert find_runs(uri, "twin").keys() == {"twin", "000-unet-resnet34"}
    assert client.get_run(info.run_id).data.metrics["val/dice"] == 0.02


def test_closing_leaves_what_cannot_be_sent_in_the_outbox(tmp_path: Path) -> None:
    tracker = open_tracker(f"http://user:secret@127.0.0.1:{free_port()}", "x", tmp_path)
    tracker.start_search({}, {})
    tracker.start_trial(0, CONFIG, {})
    wait_until(lambda: tracker.problem is not None, 20)
    assert "secret" not in str(tracker.problem)
    assert tracker.close(0.2) == 2


def test_a_server_that_is_slow_but_well_gets_all_records(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the pictures and checkpoints of an ensemble over a slow line."""
    write = MlflowRuns.write

    def write_slowly(runs: MlflowRuns, group: list[Record]) -> None:
        time.sleep(0.3)
        write(runs, group)

    monkeypatch.setattr(MlflowRuns, "write", write_slowly)
    tracker = open_tracker(uri, "slow", tmp_path)
    tracker.start_search({}, {})
    for number in range(5):
        tracker.start_trial(number, CONFIG, {})
    assert tracker.close(0.5) == 0
    assert len(find_runs(uri, "slow")) == 6


def test_text_that_no_database_takes_holds_nothing_up(uri: str, tmp_path: Path) -> None:
    """Of a file whose name isn't UTF-8: Python has half a character there."""
    picture = tmp_path / os.fsdecode(b"d\xff.png")
    picture.write_text("roofs")
    with open_tracker(uri, "half", tmp_path) as tracker:
        tracker.start_search({}, {"segsearch.data": "d\udcff"})
        tracker.start_trial(0, CONFIG, {})
        tracker.end_trial(0, "failed", f"{picture.name}\0: no photograph")
        tracker.log_artifacts(0, picture)
        tracker.start_trial(1, CONFIG, {})
        log_epochs(tracker, 1, range(1, 3))
        assert tracker.close(5) == 0
    runs = find_runs(uri, "half")
    assert runs["half"].data.tags["segsearch.data"] == "d?"
    assert runs["000-unet-resnet34"].data.tags["segsearch.reason"] == "d?.png?: no photograph"
    assert steps(uri, runs["001-unet-resnet34"]) == [1, 2]


def test_what_an_outage_left_is_sent_without_training(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "left")
    for part in (folder, folder.repeats):
        part.write(RunRecord(f"left-{part.path.name}", SearchOptions(time_budget="9h"), {}))
        tracker = Tracker(
            f"http://127.0.0.1:{free_port()}", experiment="segsearch", search_name=part.path.name,
            search_id=f"left-{part.path.name}", score="val/dice", outbox=part.outbox,
        )  # fmt: skip
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        log_epochs(tracker, 0, range(1, 3))
        wait_until(lambda: tracker.problem is not None, 20)  # noqa: B023
        assert tracker.close(0.1) == 6
    arguments = ["--resume", str(folder.path), "--deliver", "--tracking-uri"]
    assert main([*arguments, f"http://127.0.0.1:{free_port()}"]) == 2
    assert "Connection refused" in capsys.readouterr().err
    for _ in range(2):  # the second time nothing is left
        assert main([*arguments, uri]) == 0
        said = capsys.readouterr().out
        assert f"MLflow has all records of {folder.path}." in said and "Serve" not in said
        for name in ("left", "repeats"):
            assert steps(uri, find_runs(uri, f"left-{name}")["000-unet-resnet34"]) == [1, 2]
    assert {path.name for path in folder.path.iterdir()} == {
        "run.yaml", "run.yaml.previous", "repeats", "tracking.jsonl", "tracking.jsonl.sent",
    }, "nothing was trained"  # fmt: skip
    assert main(["--deliver"]) == 2
    assert "--deliver: give the run" in capsys.readouterr().err


class RefusingServer(BaseHTTPRequestHandler):
    """Refuses every request, with a message that repeats the address."""

    def do_GET(self) -> None:
        message = f"not allowed: http://{self.headers['Host']}{self.path}"
        body = {"error_code": "INVALID_PARAMETER_VALUE", "message": message}
        self.send_response(400)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class LockedServer(BaseHTTPRequestHandler):
    """Asks for a name and a password, as a proxy does."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        self.end_headers()
        self.wfile.write(b"<html>401 Authorization Required</html>")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_a_server_that_wants_a_password_is_named_with_where_to_put_it() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), LockedServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"let this user in; set MLFLOW_TRACKING_USERNAME"):
            check(f"http://127.0.0.1:{server.server_port}/lab/mlflow", "segsearch")
        server.shutdown()


def test_a_token_in_the_address_is_never_told(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusingServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://user:secret@127.0.0.1:{server.server_port}/?token=secret"
        with pytest.raises(UserError, match="not allowed") as error:
            check(uri, "segsearch")
        with open_tracker(uri, "token", tmp_path) as tracker:
            tracker.start_search({}, {})
            assert tracker.close(20) == 0
        server.shutdown()
    assert tracker.refused == 1
    refused = (tmp_path / "mlflow.jsonl.refused").read_text()
    assert "not allowed" in refused
    with open_tracker(uri, "token", tmp_path) as tracker:
        tracker.end_search("finished")
        wait_until(lambda: tracker.problem is not None, 20)
        problem = str(tracker.problem)
        tracker.close(0.2)
    told = [str(error.value), refused, problem, ui_command(uri), serve_command(uri, "roofs"),
            trials_url(uri, "1", "token"), (tmp_path / "mlflow.jsonl").read_text()]  # fmt: skip
    assert not [text for text in told if "secret" in text]


def test_records_of_a_run_that_a_person_deleted_hold_nothing_up(uri: str, tmp_path: Path) -> None:
    with open_tracker(uri, "deleted", tmp_path) as tracker:
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        tracker.start_trial(1, CONFIG, {})
        wait_until(lambda: tracker.unsent == 0, 20)
        run = find_runs(uri, "deleted")["000-unet-resnet34"]
        MlflowClient(uri).delete_run(run.info.run_id)
        tracker.log_artifacts(1, tmp_path / "gone.png")
        log_epochs(tracker, 0, range(1, 3))
        log_epochs(tracker, 1, range(1, 3))
        assert tracker.close(20) == 0
        assert tracker.refused == 3
    assert steps(uri, find_runs(uri, "deleted")["001-unet-resnet34"]) == [1, 2]
    refused = (tmp_path / "mlflow.jsonl.refused").read_text()
    assert "gone.png" in refused
    assert "active" in refused


def test_a_full_disk_is_named_and_leaves_the_outbox_whole(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow.jsonl")
    outbox.append({"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(UserError, match=r"mlflow.jsonl: .*make room"):
            outbox.append({"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outbox.append({"epoch": 3})
    assert [*read_records(outbox.path)] == [{"epoch": 1}, {"epoch": 3}]


def test_a_server_that_is_not_there_is_named_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"MLflow at http://\*\*\*@127.0.0.1.*mlflow server"
    ) as error:
        check(f"http://user:secret@127.0.0.1:{free_port()}", "segsearch")
    assert time.monotonic() - began < 5
    assert "secret" not in str(error.value)


def test_a_server_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "SERVER_ANSWERS_WITHIN_S", 1.0)
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        pytest.raises(UserError, match="no answer within 1 s"),
    ):
        check(f"http://127.0.0.1:{silent.getsockname()[1]}", "segsearch")


@pytest.mark.parametrize("address", ["file:///tmp/mlruns", "mlruns", "postgresql://u:p@db/mlflow"])
def test_an_address_of_another_kind_is_refused_with_what_to_give(address: str) -> None:
    with pytest.raises(
        UserError, match=r"http://127.0.0.1:5000, or a SQLite file, such as sqlite:"
    ):
        check(address, "segsearch")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database" * 100)
    with pytest.raises(UserError, match=r"mlflow.db: file is not a database; .*move the file"):
        check(default_uri(tmp_path), "segsearch")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_file_of_somebody_else_is_named_before_the_search(uri: str, tmp_path: Path) -> None:
    """It could be read, and would take no record in all of the search."""
    tmp_path.chmod(0o777)
    code = "import sys; from search.tracking.check import check; check(sys.argv[1], 'segsearch')"
    done = subprocess.run(
        [*nameless(), sys.executable, "-c", code, uri], capture_output=True, text=True,
        env={**os.environ, "SEGSEARCH_CACHE": str(tmp_path)},
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert f"{uri}: can't be written; make the file and its folder writable" in done.stderr


def test_an_experiment_that_was_deleted_is_named_with_how_to_bring_it_back(uri: str) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(UserError, match="experiment 'deleted' was deleted; `mlflow experiments re"):
        check(uri, "deleted")


def test_two_searches_that_make_the_file_at_the_same_moment_both_can(tmp_path: Path) -> None:
    code = "import sys; from search.tracking.check import check; check(sys.argv[1], 'segsearch')"
    searches = [
        subprocess.Popen(
            [sys.executable, "-c", code, default_uri(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [search.communicate()[1] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], said


def test_the_command_for_the_page_quotes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ui_command(default_uri(Path("/data/my runs")))
    assert command.endswith("mlflow ui --backend-store-uri 'sqlite:////data/my runs/mlflow.db'")
    monkeypatch.setattr(addresses, "UI_PORT", 5050)  # as on macOS
    command = ui_command(default_uri(Path("/data/runs")))
    assert command.endswith("sqlite:////data/runs/mlflow.db --port 5050")
    assert ui_command("https://me:secret@mlflow.example.org") == "https://mlflow.example.org"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("val/dice", "val/dice"),
        ("dice/Trees / Shrubs", "dice/Trees - Shrubs"),
        ("dice/Road/Highway", "dice/Road-Highway"),
        ("dice/Power Lines & Cables", "dice/Power Lines and Cables"),
        ("dice/Bäume (hoch)", "dice/Bäume _hoch_"),
        ("dice/..", "dice/__"),
        (f"dice/{'Roof ' * 60}", f"dice/{'Roof ' * 40}"),
    ],
)
def test_class_names_become_names_that_mlflow_takes(name: str, key: str) -> None:
    assert metric_keys([name]) == {name: key}


def test_no_two_classes_share_a_metric(uri: str, tmp_path: Path) -> None:
    dice = {"Roof (a)": 0.1, "Roof [a]": 0.2, "A/B": 0.3, "A-B": 0.4, "R&B": 0.5, "RandB": 0.6}
    dice |= {"🏠" * 300: 0.8, "🌳" * 300: 0.9}
    metrics = {"val/dice": 0.5, **{f"dice/{name}": value for name, value in dice.items()}}
    with open_tracker(uri, "alike", tmp_path) as tracker:
        tracker.start_search({}, {})
        tracker.start_trial(0, CONFIG, {})
        tracker.log_epoch(0, 1, metrics)
        # The score function leaves out a class that the validation split lacks.
        tracker.log_epoch(0, 2, {"dice/A/B": 0.7, **{f"drawn_share/{name}": 0 for name in dice}})
        assert tracker.close(30) == 0
    logged = find_runs(uri, "alike")["000-unet-resnet34"].data.metrics
    assert logged["dice/A-B"] == 0.4, "a name that MLflow takes stays as it is"
    assert logged["dice/A-B 2"] == 0.7
    assert sorted(v for k, v in logged.items() if k.startswith("dice/")) == [
        0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9
    ]  # fmt: skip


def test_the_key_of_a_metric_does_not_depend_on_the_order() -> None:
    names = ["dice/A/B", "dice/A-B", "dice/A-B 2", "val/dice"]
    expected = {
        "dice/A-B": "dice/A-B",
        "dice/A-B 2": "dice/A-B 2",
        "dice/A/B": "dice/A-B 3",
        "val/dice": "val/dice",
    }
    assert metric_keys(names) == metric_keys(names[::-1]) == expected
