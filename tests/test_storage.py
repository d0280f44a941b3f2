"""Runs, data and checkpoints in a bucket: a real S3 server on loopback."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from search.runs.credentials import without_credentials
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import SearchOptions
from search.runs.storage import Location, NodeCopy, on_this_machine, share
from segcore.errors import UserError
from tests.conftest import write_blocks
from tests.machinery import free_port


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket: the address of a folder in it."""
    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["bucket", "folder"])
def location(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> Location:
    place = f"{s3}/{tmp_path.name}" if request.param == "bucket" else tmp_path / "shared"
    return Location.parse(place)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's own disk."""
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_put_is_listed_read_fetched_and_deleted(location: Location, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("one")
    (source / "deep" / "b c.txt").write_text("twenty")
    assert location.files() == {} and location.folders() == [] and location.read("a.txt") is None
    location.put(source)
    assert location.files() == {"a.txt": 3, "deep/b c.txt": 6}
    assert location.folders() == ["deep"]
    assert (location / "deep").read("b c.txt") == b"twenty"
    assert (location / "deep").parent == location
    location.fetch(tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "b c.txt").read_text() == "twenty"
    (location / "deep").delete()
    assert location.files() == {"a.txt": 3}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/folder", "ftp://host/folder: addresses begin with s3://, gs://"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x: .*bucket does not exist"),
    ],
)
def test_a_bad_address_is_named(s3: str, address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Location.parse(address).write("file", b"")


def test_a_password_in_an_address_is_never_shown(s3: str) -> None:
    location = Location.parse("s3://KEY:SECRET@no-such-bucket/x")
    assert "SECRET" not in str(location)
    with pytest.raises(UserError) as error:
        location.write("file", b"")
    assert "SECRET" not in str(error.value) and "KEY" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://host/mlflow?token=SECRET&page=2 does not answer",
        "GET https://account.blob.core.windows.net/runs?sv=2024&sig=SECRET%3D: 403",
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=SECRET==;EndpointSuffix=net",
        "host=db password=SECRET port=5432",
        "connection refused (password = 'SECRET with SECRET spaces')",
        "postgresql://me:SECRET@db:5432/mlflow",
        "s3://bucket/x?access_key=SECRET&secret_key=SECRET&endpoint_override=host:9000",
        "https://bucket/x?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET&X-Amz-Security-Token=SECRET",
        "tried 'http://me:SECRET@one:5000/a', http://me:SECRET@two/?Token=SECRET",
        "http://host/?next=http://other?token=SECRET",
        "http://me:SECRET@one,http://you:SECRET@two",
        "http://me:SECRET@SECRET@one:5000/",
    ],
)
def test_no_message_shows_a_secret_of_an_address(text: str) -> None:
    masked = without_credentials(text)
    assert "SECRET" not in masked and "***" in masked


def test_what_is_no_secret_stays_readable() -> None:
    for text in (
        "http://127.0.0.1:5000/#/experiments/1/runs?searchFilter=x&orderByAsc=false",
        "s3://bucket/x?region=eu-west-1&endpoint_override=http%3A%2F%2Fhost",
        "/data/me@home/runs: design=2 is wrong",
    ):
        assert without_credentials(text) == text
    masked = without_credentials("http://me:pw@host:5000/mlflow?token=t&page=2 does not answer")
    assert masked == "http://***@host:5000/mlflow?token=***&page=2 does not answer"


def test_a_long_word_is_masked_in_no_time() -> None:
    started = time.perf_counter()
    without_credentials("a" * 200_000 + " " + "key" * 60_000)
    assert time.perf_counter() - started < 1


def _copy_of(node_copy: NodeCopy) -> str:
    return str(node_copy.folder())


def test_a_node_fetches_once_however_many_ask_at_once(s3: str, cache: Path, tmp_path: Path) -> None:
    origin = tmp_path / "driver" / "prepared"
    origin.mkdir(parents=True)
    (origin / "images.npy").write_bytes(b"x" * 2_000_000)
    node_copy = share(origin, Location.parse(f"{s3}/once"), "prepared/abc")
    # A second search of the same data puts nothing: the file's time would change.
    put_at = boto3.client("s3").head_object(Bucket="bucket", Key="once/prepared/abc/images.npy")
    share(origin, Location.parse(f"{s3}/once"), "prepared/abc")
    again = boto3.client("s3").head_object(Bucket="bucket", Key="once/prepared/abc/images.npy")
    assert put_at["LastModified"] == again["LastModified"]

    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = set(pool.map(_copy_of, [node_copy] * 8))
    assert folders == {str(cache / "prepared" / "abc")}
    assert (cache / "prepared/abc/images.npy").read_bytes() == b"x" * 2_000_000
    boto3.client("s3").delete_object(Bucket="bucket", Key="once/prepared/abc/contents.json")
    assert node_copy.folder() == cache / "prepared" / "abc", "it is there: nobody is asked"


def test_a_damaged_copy_is_refused_before_use(s3: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "masks.npy").write_bytes(b"right")
    node_copy = share(tmp_path / "origin", Location.parse(f"{s3}/damaged"), "prepared/abc")
    Location.parse(f"{s3}/damaged/prepared/abc").write("masks.npy", b"wrong")
    with pytest.raises(UserError, match=r"masks\.npy is damaged; delete that folder"):
        node_copy.folder()
    assert not (cache / "prepared" / "abc").exists()


def test_a_data_set_in_a_bucket_is_fetched_again_only_when_it_changed(
    s3: str, cache: Path, tmp_path: Path
) -> None:
    source = Location.parse(f"{s3}/photos")
    with pytest.raises(UserError, match=r"there is no dataset\.yaml"):
        on_this_machine(source.address, "data", "dataset.yaml")
    source.put(write_blocks(tmp_path / "blocks", count=4))
    first = on_this_machine(source.address, "data", "dataset.yaml")
    assert len(list((first / "images").iterdir())) == 4
    assert on_this_machine(source.address, "data", "dataset.yaml") == first
    source.write("dataset.yaml", b"images: images/*.png\n")
    assert (
        on_this_machine(source.address, "data", "dataset.yaml") / "dataset.yaml"
    ).read_bytes() == b"images: images/*.png\n"


def test_a_run_in_a_bucket_is_opened_on_another_machine(
    s3: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.at(f"{s3}/runs/storm")
    options = SearchOptions(out=f"{s3}/runs", trials=7, tracking_uri="http://me:pw@host:5000")
    run.write(RunRecord("id", options, {"data": "abc"}))
    run.study.write_text("line 1\n")
    run.push()
    Location.parse(f"{s3}/runs/storm").write("run.yaml", run.record.read_bytes()[:50])

    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "another"))
    there = RunFolder.opened(f"{s3}/runs/storm")
    assert there.study.read_text() == "line 1\n"
    with pytest.raises(UserError, match=r"--tracking-uri http://\*\*\*@host:5000: its password"):
        there.read().options.check_complete()  # from the predecessor, in the bucket too
    # Where only the process died, this machine's own files are newer than the bucket's.
    there.study.write_text("line 1\nline 2\n")
    assert RunFolder.opened(f"{s3}/runs/storm").study.read_text() == "line 1\nline 2\n"
    there.push_state()
    monkeypatch.setenv("SEGSEARCH_CACHE", str(cache))
    assert RunFolder.opened(f"{s3}/runs/storm").study.read_text() == "line 1\nline 2\n"


def test_what_a_search_wrote_after_its_last_trial_is_seen_on_a_machine_that_opened_it_before(
    s3: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its study doesn't grow any more then."""
    address = f"{s3}/runs/ended"
    run = RunFolder.at(address)
    run.write(RunRecord("id", SearchOptions(out=f"{s3}/runs"), {}))
    run.study.write_text("line 1\n")
    run.outbox.write_text("one\n")
    (run.path / "result.json").write_text("before")
    run.push()
    monkeypatch.setenv("SEGSEARCH_CACHE", str(tmp_path / "another"))
    assert (RunFolder.opened(address).path / "result.json").read_text() == "before"

    time.sleep(1.1)  # a bucket's times are in seconds
    run.outbox.write_text("one\ntwo\n")
    run.repeats.path.mkdir()
    run.repeats.study.write_text("line 1\n")
    (run.path / "result.json").write_text("after!")
    run.push()
    there = RunFolder.opened(address)
    assert there.outbox.read_text() == "one\ntwo\n" and there.repeats.study.is_file()
    assert (there.path / "result.json").read_text() == "after!"
    with there.outbox.open("a") as file:
        file.write("three\n")
    assert RunFolder.opened(address).outbox.read_text().endswith("three\n"), "it only grows"


def test_a_folder_that_is_no_run_is_refused(s3: str, cache: Path) -> None:
    with pytest.raises(UserError, match="s3://bucket/nothing: not the folder of a run"):
        RunFolder.at(f"{s3}/nothing").read()


def test_a_question_mark_begins_a_query_in_an_address_alone(tmp_path: Path) -> None:
    folder = Location.parse(tmp_path / "what?" / "runs")
    assert (folder / "trials").path == f"{tmp_path}/what?/runs/trials"
    assert folder.parent.path == f"{tmp_path}/what?"
    bucket = Location.parse("s3://bucket/runs?region=eu")
    assert (bucket / "trials").address == "s3://bucket/runs/trials?region=eu"
    assert bucket.parent.address == "s3://bucket?region=eu"
