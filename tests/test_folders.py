"""People's folders: links, what systems leave there, and names in whatever Unicode form."""

import codecs
import os
import unicodedata
from pathlib import Path

import pytest

from segcore.errors import UserError
from segcore.folders import Finder, decode, files_below, normal

NFC, NFD = (unicodedata.normalize(form, "Übersicht Ångström 가") for form in ("NFC", "NFD"))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path, pattern: str) -> list[str]:
    paths = Finder().matching(folder, pattern)
    return [path.relative_to(folder).as_posix() for path in paths]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["a.png"]),
        ("./in//*.png", ["in/b.png"]),
        ("*/*.png", ["[1]/d.png", "in/b.png"]),
        ("**/*.png", ["[1]/d.png", "a.png", "in/b.png", "in/er/c.png"]),
        ("in/**/*.png", ["in/b.png", "in/er/c.png"]),
        ("**/er/*", ["in/er/c.png"]),
        ("in/**", ["in/b.png", "in/er/c.png"]),
        ("in/b.png", ["in/b.png"]),
        ("in/../a.pn?", ["in/../a.png"]),
        ("[1]/*.png", ["[1]/d.png"]),
        ("[[]1]/*.png", ["[1]/d.png"]),
        ("*.PNG", []),
        ("gone/*.png", []),
        ("a\0/*.png", []),
    ],
)
def test_a_pattern_finds_what_a_shell_would(tmp_path: Path, pattern: str, names: list[str]) -> None:
    touch(tmp_path, "a.png", "in/b.png", "in/er/c.png", "[1]/d.png")
    assert found(tmp_path, pattern) == names


@pytest.mark.parametrize("pattern", ["", ".", "/etc/*", "in/**.png"])
def test_a_pattern_that_means_nothing_is_an_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"relative|stand alone"):
        Finder().matching(tmp_path, pattern)


def test_links_to_folders_are_followed_and_each_real_folder_once(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "images/flight1/a.png", "masks/a.png")
    touch(tmp_path / "disk2", "b.png", "deeper/c.png")
    images = data / "images"
    (images / "another name").symlink_to("flight1")
    (images / "flight2").symlink_to(tmp_path / "disk2")
    (images / "flight2 again").symlink_to(tmp_path / "disk2")
    assert found(data, "images/**/*.png") == [
        "images/flight1/a.png",
        "images/flight2/b.png",
        "images/flight2/deeper/c.png",
    ]
    assert found(data, "images/another name/*.png") == ["images/another name/a.png"]


def test_links_in_circles_end_and_lead_to_nothing_outside(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "images/a.png", "masks/a.png")
    touch(tmp_path / "disk2", "b.png")
    images = data / "images"
    targets = {
        "itself": "itself", "one": "other", "other": "one", "here": ".", "up": "..",
        "top": str(tmp_path), "gone": "gone", "flight2": "../../disk2",
    }  # fmt: skip
    for name, target in targets.items():
        (images / name).symlink_to(target)
    (tmp_path / "disk2" / "back").symlink_to(data)
    assert found(data, "images/**/*.png") == ["images/a.png", "images/flight2/b.png"]
    (tmp_path / "way in").symlink_to(images)
    assert found(tmp_path / "way in", "**/*.png") == ["a.png", "flight2/b.png"]


def test_links_to_files_are_files_and_those_to_nothing_are_told_later(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg", "images/b.jpg")
    (tmp_path / "images" / "a.jpg").symlink_to("../elsewhere/a.jpg")
    (tmp_path / "images" / "gone.jpg").symlink_to("nothing")
    (tmp_path / "images" / "self.jpg").symlink_to("self.jpg")
    assert found(tmp_path, "images/*.jpg") == [
        f"images/{name}.jpg" for name in ("a", "b", "gone", "self")
    ]


def test_what_systems_leave_among_files_is_hidden_unless_it_is_named(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", ".b.jpg", "._a.jpg", "Thumbs.db", "Desktop.ini", ".DS_Store", "Icon\r",
        ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/._a.jpg", "__MACOSX/in/x.jpg",
        "@eaDir/a.jpg", "in/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".hidden/x.jpg", "in/b.jpg",
        "$RECYCLE.BIN/c.jpg",
    )  # fmt: skip
    assert found(tmp_path, "**/*") == ["a.jpg", "in/b.jpg"]
    assert found(tmp_path, "*/*") == ["in/b.jpg"]
    assert found(tmp_path, ".hidden/*") == [".hidden/x.jpg"]
    assert found(tmp_path, ".hid*/*") == [".hidden/x.jpg"]
    # The folders above the given one are not looked at.
    assert found(tmp_path / ".hidden", "**/*") == ["x.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg")
    (tmp_path / "in").chmod(0)
    with pytest.raises(PermissionError, match="in"):
        Finder().matching(tmp_path, "**/*.jpg")
    (tmp_path / "in").chmod(0o700)


@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("wished", [NFC, NFD])
def test_names_are_found_whatever_their_normal_form(
    tmp_path: Path, on_disk: str, wished: str
) -> None:
    assert NFC != NFD
    there = touch(tmp_path, f"{on_disk}/in/{on_disk}.png") / on_disk / "in" / f"{on_disk}.png"
    assert Finder().named(tmp_path / wished / "in" / f"{wished}.png") == [there]
    for pattern in (f"{wished}/**/{wished}*", f"*/in/{wished}.png", f"**/{wished}.p?g"):
        assert Finder().matching(tmp_path, pattern) == [there]
    assert Finder().named(tmp_path / wished / "gone" / f"{wished}.png") == []


def test_names_that_differ_only_in_normal_form_are_both_given(tmp_path: Path) -> None:
    touch(tmp_path, f"{NFC}.png", f"{NFD}.png")
    assert len(Finder().named(tmp_path / f"{NFC}.png")) == 2
    assert normal(NFD) == NFC


def test_a_folder_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="Permission denied; make it readable"):
        files_below(tmp_path)


@pytest.mark.parametrize(
    "encoded",
    [
        "Straße\n".encode(),
        "Straße\n".encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + "Straße\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "Straße\n".encode("utf-16-be"),
        "Straße\n".encode("utf-16-le"),
        "Straße\n".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "Straße\n".encode("utf-32-le"),
        codecs.BOM_UTF32_BE + "Straße\n".encode("utf-32-be"),
    ],
)
def test_texts_are_read_as_editors_write_them(encoded: bytes) -> None:
    assert decode(encoded) == "Straße\n"


def test_bytes_that_are_no_such_text_are_an_error() -> None:
    for content in ("Straße".encode("cp1252"), codecs.BOM_UTF16_LE + b"a"):
        with pytest.raises(UnicodeDecodeError):
            decode(content)
