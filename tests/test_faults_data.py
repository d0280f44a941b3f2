"""Every fault that a folder of photographs may have: one list, each file named, before training."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segcore import prepare as command
from segcore.config import IGNORE_INDEX, View
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.errors import ProblemsError, UserError

WHOLE = View(32, 48, None)
SPEC = {
    "images": "images/*",
    "masks": "masks/{stem}.png",
    "classes": ["Land", "Roof"],
    "ignore_index": 9,
    "split": {"val": 0.25, "test": 0.25},
}
COUNT = 8
ROWS, COLUMNS = 40, 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for m in range(COUNT):
        rng = np.random.default_rng(m)
        noise = rng.integers(0, 255, (ROWS, COLUMNS, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"photo {m}.jpg")
        roof = np.zeros((ROWS, COLUMNS), np.uint8)
        roof[m : m + 20, 10:30] = 1
        Image.fromarray(roof).save(folder / "masks" / f"photo {m}.png")
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC))
    return folder


def run(folder: Path) -> PreparedData:
    return prepare_data(folder, [WHOLE], cache_dir=folder.parent / "cache", progress=False)


def image(folder: Path) -> Path:
    return folder / "images" / "photo 3.jpg"


def mask(folder: Path) -> Path:
    return folder / "masks" / "photo 3.png"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_in_a_loop(path: Path) -> None:
    path.unlink()
    other = path.with_name("other way")
    other.symlink_to(path.name)
    path.symlink_to(other.name)


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.jpg")


def claim_size(path: Path) -> None:
    """A PNG of some hundred bytes that says it is 200,000 pixels wide and high."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999)))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def claim_jpeg_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    path.write_bytes(content)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty photograph": (lambda f: image(f).write_bytes(b"") and None, "is no picture"),
    "truncated photograph": (lambda f: cut(image(f)), "truncated"),
    "truncated mask": (lambda f: cut(mask(f)), r"photo 3\.png: can't be read"),
    "text for a photograph": (lambda f: image(f).write_text("hello") and None, "is no picture"),
    "mask missing": (lambda f: mask(f).unlink(), r"photo 3\.jpg: its mask .* does not exist"),
    "mask is a folder": (lambda f: become_folder(mask(f)), r"photo 3"),
    "mask of another size": (
        lambda f: Image.new("L", (COLUMNS, ROWS - 1)).save(mask(f)),
        r"photo 3\.png: has 39×60 px, but its photograph photo 3\.jpg has 40×60",
    ),
    "mask with unknown values": (
        lambda f: Image.new("L", (COLUMNS, ROWS), 5).save(mask(f)),
        r"photo 3\.png: holds 5, which no class has",
    ),
    "mask of 16 bit with large values": (
        lambda f: Image.fromarray(np.full((ROWS, COLUMNS), 700, np.uint16)).save(mask(f)),
        "holds 700",
    ),
    "mask in colour": (
        lambda f: Image.new("RGB", (COLUMNS, ROWS), "red").save(mask(f)),
        "is a colour picture",
    ),
    "two photographs with one mask": (
        lambda f: Image.new("RGB", (COLUMNS, ROWS)).save(image(f).with_suffix(".bmp")),
        r"photo 3\.jpg: has the same mask as images/photo 3\.bmp",
    ),
    "symlink loop": (lambda f: link_in_a_loop(image(f)), r"photo 3\.jpg"),
    "symlink to nothing": (lambda f: link_to_nothing(image(f)), r"photo 3\.jpg"),
    "photograph that is a bomb": (lambda f: claim_size(image(f)), "claims 200000×200000 px"),
    "JPEG that is a bomb": (lambda f: claim_jpeg_size(image(f)), "claims 65500×65500 px"),
    "mask that is a bomb": (lambda f: claim_size(mask(f)), r"photo 3\.png: claims 200000"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_names_its_file_and_a_mend_and_stops_before_training(
    folder: Path, fault: str
) -> None:
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(ProblemsError, match=message) as caught:
        run(folder)
    assert all(problem.mend for problem in caught.value.problems)
    assert len(caught.value.problems) <= 2  # a loop of two links is two names


def test_faults_of_several_photographs_are_in_one_list_on_the_screen(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGSEARCH_CACHE", str(folder.parent / "cache"))
    cut(folder / "images" / "photo 1.jpg")
    (folder / "masks" / "photo 2.png").unlink()
    claim_size(folder / "masks" / "photo 5.png")
    link_to_nothing(folder / "images" / "photo 6.jpg")
    assert command.main([str(folder)]) == 1
    shown = capsys.readouterr().err
    assert f"{folder}: 4 problems" in shown
    assert all(f"photo {m}" in shown for m in (1, 2, 5, 6))
    assert "Traceback" not in shown


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photograph_that_may_not_be_read_is_named(folder: Path) -> None:
    image(folder).chmod(0)
    with pytest.raises(ProblemsError, match=r"photo 3\.jpg"):
        run(folder)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.yaml does not exist; python -m segcore.prepare"):
        run(tmp_path)
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(SPEC))
    with pytest.raises(ProblemsError, match=r"'images/\*' finds nothing .*endings there: \.yaml"):
        run(tmp_path)


def test_nothing_labelled_anywhere_is_said(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        Image.new("L", (COLUMNS, ROWS), 9).save(path)
    with pytest.raises(UserError, match="no photograph has a labelled pixel: all that the masks"):
        run(folder)


ODD: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda picture: picture.convert("L"),
    "alpha": lambda picture: picture.convert("RGBA"),
    "CMYK": lambda picture: picture.convert("CMYK"),
    "palette": lambda picture: picture.convert("P"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_photographs_are_used_as_they_look(folder: Path, kind: str) -> None:
    plain = run(folder).image(3).astype(float).mean(axis=2)
    with Image.open(image(folder)) as picture:
        odd = ODD[kind](picture)
    odd.save(image(folder).with_suffix(".tif"))
    image(folder).unlink()
    found = run(folder).image(3).astype(float).mean(axis=2)
    assert np.abs(found - plain).mean() < 30
    assert np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.9


def to_16_bits(photo: Path) -> None:
    with Image.open(photo) as picture:
        deep = np.asarray(picture.convert("L"), np.uint16) * 256
    photo.unlink()
    Image.fromarray(deep).save(photo.with_suffix(".tif"))


def test_photographs_of_16_bits_are_used_as_they_look(folder: Path) -> None:
    plain = run(folder)
    for photo in list((folder / "images").iterdir()):
        to_16_bits(photo)
    deep = run(folder)
    assert deep.samples.dtype == np.uint16 and deep.bands.ranges is not None
    for p in range(COUNT):
        pair = (data.image(p).astype(float).mean(axis=2).ravel() for data in (deep, plain))
        assert np.corrcoef(*pair)[0, 1] > 0.95
        assert (deep.mask(p) == plain.mask(p)).all()


@pytest.mark.parametrize("number", range(COUNT))
def test_a_photograph_of_16_bits_among_others_of_8_is_used_as_it_looks(
    folder: Path, number: int
) -> None:
    plain = run(folder)
    to_16_bits(folder / "images" / f"photo {number}.jpg")
    mixed = run(folder)
    assert mixed.samples.dtype == np.uint16 and mixed.bands.measured
    for p in range(COUNT):
        pair = (data.image(p).astype(float).mean(axis=2).ravel() for data in (mixed, plain))
        assert np.corrcoef(*pair)[0, 1] > 0.95


def test_names_with_spaces_and_other_letters_and_all_ignored_masks_are_used_rightly(
    folder: Path,
) -> None:
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        path = folder / kind / f"photo 3.{ending}"
        path.rename(path.with_stem("Überflug №3 – 東京"))
    Image.new("L", (COLUMNS, ROWS), 9).save(folder / "masks" / "photo 4.png")
    data = run(folder)
    assert "images/Überflug №3 – 東京.jpg" in data.photos
    assert (data.mask(data.photos.index("images/photo 4.jpg")) == IGNORE_INDEX).all()
    used = {data.photos[p] for split in ("train", "val", "test") for p in data.of_split(split)}
    assert len(used) == COUNT - 1 and "images/photo 4.jpg" not in used
