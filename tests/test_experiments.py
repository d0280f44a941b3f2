"""A warm start from MLflow: searches of ours, runs of other programs, and what can't be read."""

import json
import math
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import search as segsearch
from search.driver import EXPERIMENT
from search.forecasting.earlier import EARLIER, EarlierSearch
from search.planning.space import load_space
from search.planning.warm import read_earlier
from search.runs.folder import RunFolder
from search.runs.study import read_study
from search.tracking import experiments
from search.tracking.addresses import default_uri
from search.tracking.check import check
from search.tracking.experiments import read_logged
from search.tracking.mlflow_runs import SAMPLED
from search.tracking.tracker import Tracker
from segcore.config import TrialConfig
from segcore.errors import UserError
from tests.machinery import free_port
from tests.test_api import options
from tests.test_tracking import LockedServer, mlflow_server

SAMPLED_BY_TRIAL = [
    {"loss": "ce", "lr": 2e-3, "oversample_ratio": 1.5},
    {"loss": "dice_ce", "lr": 9e-3, "oversample_ratio": 2.0},
    {"loss": "focal", "lr": 1e-3, "oversample_ratio": 2.0},
    {"loss": "ce", "lr": 0.5, "oversample_ratio": 2.5},
]
"""As tests.tiny_space samples them; it has no focal loss, and no rate above 0.03."""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow with two searches, one of which was followed, and experiments of others."""
    runs = tmp_path_factory.mktemp("lab")
    uri = default_uri(runs)
    check(uri, EXPERIMENT)
    log_search(uri, runs / "a", "storm", "5704")
    log_search(uri, runs / "b", "storm · repeats", "5704-repeats")
    log_search(uri, runs / "c", "roofs", "400f", scores=(0.2, 0.1))
    client = MlflowClient(uri)
    keras = client.create_experiment("Keras: roofs & pools")
    for lr, scores in (("0.02", [0.1, 0.3, 0.6]), ("1e-3", [0.2, math.nan, 0.4]), ("fast", [0.9])):
        params = {"loss": "ce", "lr": lr, "oversample_ratio": "2", "epochs": "3"}
        log_run(client, keras, params, {"val_dice": scores, "loss": [9.0] * len(scores)})
    gone = log_run(client, keras, {"loss": "ce", "lr": "0.01"}, {"val_dice": [0.99]})
    client.delete_run(gone)
    log_run(client, keras, {}, {"val_dice": [math.nan]})
    log_run(client, client.create_experiment("losses"), {"lr": "1"}, {"loss": [1.0], "acc": [0.5]})
    client.create_experiment("empty")
    client.delete_experiment(client.create_experiment("thrown away"))
    return uri


def log_search(
    uri: str,
    folder: Path,
    name: str,
    search_id: str,
    scores: tuple[float, ...] = (0.4, 0.5, 0.7, 0.6),
) -> None:
    with Tracker(
        uri, experiment=EXPERIMENT, search_name=name, search_id=search_id, score="val/iou",
        outbox=folder / "tracking.jsonl",
    ) as tracker:  # fmt: skip
        tracker.start_search({"metric": "iou", "max_epochs": "4"}, {})
        for number, (score, sampled) in enumerate(zip(scores, SAMPLED_BY_TRIAL, strict=False)):
            config = TrialConfig(lr=sampled["lr"], loss=sampled["loss"])
            tracker.start_trial(number, config, {SAMPLED: json.dumps(sampled)})
            for epoch, share in ((1, 0.5), (2, 1.0), (4, 0.9)):
                tracker.log_epoch(number, epoch, {"val/iou": share * score, "val/dice": 0.01})
        tracker.start_trial(9, TrialConfig(), {})  # it has yet to score
        assert tracker.close(30) == 0


def log_run(
    client: MlflowClient,
    experiment: str,
    params: Mapping[str, str],
    metrics: Mapping[str, list[float]],
) -> str:
    run_id = client.create_run(experiment).info.run_id
    for key, value in params.items():
        client.log_param(run_id, key, value)
    for key, values in metrics.items():
        for step, value in enumerate(values):
            client.log_metric(run_id, key, value, step=100 * step)
    return str(run_id)


def read(address: str, own_uri: str = "http://127.0.0.1:9") -> EarlierSearch:
    return read_logged(address, own_uri=own_uri, own_experiment=EXPERIMENT, score="val/dice")


def test_a_search_of_ours_is_read_with_its_own_metric_and_curves(uri: str) -> None:
    for address, own in ((f"{uri}#storm", "http://127.0.0.1:9"), ("mlflow:storm", uri)):
        earlier = read(address, own)
        assert earlier.max_epochs == 4
        assert [trial.best for trial in earlier.trials] == [0.7, 0.6, 0.5, 0.4]
        best = earlier.trials[0]
        assert best.last == pytest.approx(0.63) and best.params["lr"] == 1e-3
        assert best.read_curve() == {1: 0.35, 2: 0.7, 4: pytest.approx(0.63)}
        taken = read_earlier(address, load_space("tests.tiny_space", dict), 2, {address: earlier})
        assert taken.bests == [
            {"loss": "ce", "lr": pytest.approx(0.03), "oversample_ratio": 2.5},
            {"loss": "dice_ce", "lr": pytest.approx(9e-3), "oversample_ratio": 2.0},
        ]
        assert len(taken.trials) == 3 and taken.misfits == [
            "loss is 'focal', which is no choice (1)"
        ]


def test_runs_of_another_program_count_where_their_names_fit(uri: str) -> None:
    address = f"{uri}#Keras: roofs & pools"
    earlier = read(address)
    assert [trial.params["lr"] for trial in earlier.trials] == ["fast", "0.02", "1e-3"]
    assert earlier.trials[2].read_curve() == {1: 0.2, 2: 0.4}, (
        "numbered from 1, what is NaN left out"
    )
    taken = read_earlier(address, load_space("tests.tiny_space", dict), 1, {address: earlier})
    assert [best["lr"] for best in taken.bests] == pytest.approx([0.02, 1e-3])
    assert taken.trials[0].curve[-1] == (pytest.approx(1), pytest.approx(2, rel=0.5))


def test_the_page_of_an_experiment_stands_for_its_name(uri: str) -> None:
    experiment = MlflowClient(uri).get_experiment_by_name("Keras: roofs & pools")
    for page in ("", "/runs?searchFilter=&orderByKey=x"):
        found = read(f"{uri}#/experiments/{experiment.experiment_id}{page}")
        assert len(found.trials) == 3


def test_of_thousands_of_runs_the_best_are_read_page_by_page(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "PAGE", 1)
    assert len(read(f"{uri}#storm").trials) == 4
    monkeypatch.setattr(experiments, "PAGE", 2)
    monkeypatch.setattr(experiments._Store.runs, "__kwdefaults__", {"most": 2})
    assert [trial.best for trial in read(f"{uri}#storm").trials] == [0.7, 0.6]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("strom", r"no experiment or search of that name; experiments: .*'empty'.*; searches: "
                  "'roofs', 'storm'$"),
        ("storm · repeats", "no experiment or search of that name"),
        ("' OR 1=1 --", "no experiment or search of that name"),
        (EXPERIMENT, "this experiment holds 2 searches: 'roofs', 'storm'; give the name of one"),
        ("thrown away", "the experiment 'thrown away' was deleted; `mlflow experiments restore"),
        ("losses", "no run of this experiment has the metric val/dice or val_dice; there are "
                   "'acc', 'loss'$"),
        ("empty", "no run of this experiment has the metric .*; it has no runs"),
        ("/experiments/987654", "No Experiment with id=987654 exists"),
        ("", "give the name of an experiment or a search after the address, such as http://"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_one_line(uri: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(f"{uri}#{name}")
    assert "\n" not in str(error.value) and str(error.value).startswith("--warm-start sqlite:")


def test_files_of_others_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database" * 100)
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE experiments (name)")
    before = (tmp_path / "other.db").read_bytes()
    for name, message in (
        ("none.db", "unable to open database file"),
        ("text.db", "file is not a database"),
        ("other.db", "it has no tables of MLflow; give the database of an MLflow"),
    ):
        with pytest.raises(UserError, match=message):
            read(f"sqlite:///{tmp_path / name}#storm")
    assert (tmp_path / "other.db").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"text.db", "other.db"}


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "mlflow:", "sqlite:mlflow.db#storm"])
def test_an_address_without_what_it_needs_is_told_what_to_give(address: str) -> None:
    with pytest.raises(UserError, match=r"such as http://127.0.0.1:5000#storm, sqlite:///runs"):
        read(address)


def test_a_server_is_read_and_its_password_never_told(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    address = f"http://user:secret@127.0.0.1:{port}"
    with mlflow_server(uri, port):
        earlier = read(f"{address}/#storm")
        assert earlier.trials[0].read_curve() == {1: 0.35, 2: 0.7, 4: pytest.approx(0.63)}
        with pytest.raises(UserError, match="no experiment or search") as unknown:
            read(f"{address}#strom")
    with pytest.raises(UserError, match="check the address, and that MLflow runs there") as gone:
        earlier.trials[1].read_curve()
    with pytest.raises(UserError, match="check the address") as away:
        read(f"{address}#storm")
    for error in (unknown, gone, away):
        assert str(error.value).startswith(f"--warm-start http://***@127.0.0.1:{port}")
        assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_server_behind_a_password_or_silent_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), LockedServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="set MLFLOW_TRACKING_USERNAME"):
            read(f"http://127.0.0.1:{server.server_port}#storm")
        server.shutdown()
    monkeypatch.setattr(experiments, "SERVER_ANSWERS_WITHIN_S", 1.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}#storm"
        with pytest.raises(UserError, match="no answer within 1 s"):
            read(address)


@pytest.fixture
def thrown_away(uri: str, tmp_path: Path) -> Iterator[Path]:
    """A copy of the database, which is deleted in the end."""
    copy = tmp_path / "old" / "mlflow.db"
    copy.parent.mkdir()
    shutil.copyfile(Path(uri.removeprefix("sqlite:///")), copy)
    yield copy


@pytest.mark.searches
def test_a_search_begins_with_what_mlflow_knows_and_goes_on_without_it(
    thrown_away: Path, blocks: Path, tmp_path: Path
) -> None:
    names = (f"sqlite:///{thrown_away}#storm", f"sqlite:///{thrown_away}#Keras: roofs & pools")
    result = segsearch.search(options(blocks, tmp_path, trials=4, warm_start=names))
    assert result.folder is not None
    run = RunFolder.opened(result.folder)
    study = read_study(run)
    lrs = [trial.params["lr"] for trial in study.trials[:4]]
    assert lrs == pytest.approx([1e-2, 0.03, 9e-3, 0.02]), "the baseline, and then the best of each"
    assert {trial["task"] for trial in study.user_attrs[EARLIER]} == {1, 2}
    again = read_logged(
        f"mlflow:{run.path.name}", own_uri=default_uri(run.path.parent),
        own_experiment=EXPERIMENT, score="val/dice",
    )  # fmt: skip
    assert {trial.params["oversample_ratio"] for trial in again.trials} == {
        trial.params["oversample_ratio"] for trial in study.trials[:4]
    }, "what the space asked for, to the last digit"
    shutil.rmtree(thrown_away.parent)
    segsearch.search(run.resume_options(trials=5))
    *_, last = read_study(run).trials
    assert last.number == 4 and last.params["lr"] == pytest.approx(1e-3), "the last of the bests"
