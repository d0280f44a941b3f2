"""Files that are whole or not there, disk space, locks; and what macOS has instead of Linux."""

import errno
import os
from pathlib import Path

import pytest

from segcore.cores import usable_cores
from segcore.files import reserve, whole_file, whole_folder
from tests.machinery import small_disk


@pytest.fixture(params=["Linux", "macOS"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine as it is, and without the calls that macOS lacks."""
    if request.param == "macOS":
        monkeypatch.delattr(os, "posix_fallocate")
        monkeypatch.delattr(os, "sched_getaffinity")


@pytest.mark.usefixtures("system")
def test_a_sparse_file_gets_its_disk_space_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(b"header")
    size = (5 << 20) + 7
    os.truncate(path, size)
    assert path.stat().st_blocks * 512 < size
    reserve(path)
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 >= size
    assert path.read_bytes() == b"header" + bytes(size - 6)


@pytest.mark.usefixtures("system")
def test_a_full_disk_is_told_when_space_is_reserved(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "sparse"
        path.touch()
        os.truncate(path, 2 << 20)
        with pytest.raises(OSError) as caught:
            reserve(path)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.usefixtures("system")
def test_the_cores_of_this_process_are_counted() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".png", "é" * 125 + ".png", "日" * 84 + ".c"):
        with whole_file(tmp_path / name) as unfinished:
            unfinished.touch()
        assert (tmp_path / name).exists()
    assert len([*tmp_path.iterdir()]) == 3


def test_what_fails_or_was_left_behind_is_never_under_the_final_name(tmp_path: Path) -> None:
    for make in (whole_file, whole_folder):
        target = tmp_path / f"{make.__name__}.bin"
        with pytest.raises(ValueError, match="half"), make(target) as unfinished:
            part = unfinished / "part" if unfinished.is_dir() else unfinished
            part.write_bytes(b"half")
            raise ValueError("half")
        assert not any(tmp_path.iterdir())
        with make(target) as unfinished:
            part = unfinished / "part" if unfinished.is_dir() else unfinished
            part.write_bytes(b"whole")
            assert not target.exists()
        assert (target / "part" if target.is_dir() else target).read_bytes() == b"whole"
        assert [path.name for path in tmp_path.iterdir()] == [target.name]
        _ = target.unlink() if target.is_file() else [(target / "part").unlink(), target.rmdir()]
