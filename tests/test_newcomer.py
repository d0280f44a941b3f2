"""A newcomer's walk: a clone, an empty home, photographs of one's own, and the documents' commands.

The environment is that of this process: README's first command makes it (.ci/run).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.support.wait import WebDriverWait

from tests.conftest import SHARED
from tests.machinery import chromium, needs_browser
from tests.test_docs import BLOCKS, PAGES

ROOT = Path(__file__).parents[1]
DUBAI = SHARED / "data" / "dubai"


def commands() -> list[str]:
    """What the tutorial says of one's own photographs, and how to score the result, to the letter.

    README has the same commands, with a larger search.
    """
    own = PAGES["tutorial.md"].partition("## Now your own photographs")[2].partition("\n## ")[0]
    blocks = [block for block in BLOCKS if block.page == "tutorial.md" and block.language == "sh"]
    lines = [line for block in blocks if block.code in own for line in block.code.splitlines()]
    assert len(lines) == 5, "prepare, a dry run, search, leaderboard, predict"
    scoring = [block for block in BLOCKS if "search.evaluate" in block.code]
    return [*lines, scoring[0].code]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This repository as a newcomer gets it, with a folder of photographs and masks in it."""
    clone = tmp_path / "segsearch"
    # As git has it, which isn't needed here, nor a checkout made by it.
    shutil.copytree(
        ROOT, clone,
        ignore=lambda folder, names: [
            name for name in names
            if name.startswith(".") or (Path(folder), name) == (ROOT, "runs")
        ],
    )  # fmt: skip
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        (clone / "photos" / kind).mkdir(parents=True)
        for tile in range(1, 9):
            for part in (1, 2):
                file = DUBAI / f"Tile {tile}" / kind / f"image_part_00{part}.{ending}"
                shutil.copy(file, clone / "photos" / kind / f"tile{tile}_part{part}.{ending}")
    return clone


@pytest.mark.slow
@pytest.mark.timeout(900)  # CI runs it beside the lab
@needs_browser
@pytest.mark.skipif(not DUBAI.is_dir(), reason="needs ../shared/data/dubai")
def test_the_documents_commands_lead_from_photographs_to_masks(clone: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "LANG"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands():
        done = subprocess.run(
            command, shell=True, cwd=clone, capture_output=True, text=True, timeout=400,
            env={**kept, "HOME": str(home), "PATH": path, "COLUMNS": "100"},
        )  # fmt: skip
        with (tmp_path / "transcript.txt").open("a") as transcript:
            transcript.write(f"$ {command}\n{done.stdout}{done.stderr}\n")
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr

    written = (clone / "photos" / "dataset.yaml").read_text()
    assert "masks: 'masks/{stem}.png'" in written and "group:" in written
    photos = sorted((clone / "photos" / "images").iterdir())
    for photo in photos:
        mask = Image.open(clone / "masks" / f"{photo.stem}.png")
        assert mask.size == Image.open(photo).size
        assert (clone / "masks" / "overlays" / f"{photo.stem}.jpg").is_file()
    assert (clone / "scores.json").is_file()
    assert {path.name for path in home.iterdir()} <= {".cache", ".ray", ".config"}

    logs = {"goog:loggingPrefs": {"browser": "ALL"}}
    profile = tmp_path / "profile"
    with chromium(profile, "enable-unsafe-swiftshader", capabilities=logs) as browser:
        browser.set_window_size(1280, 1000)
        browser.get((clone / "runs" / "storm" / "report.html").as_uri())
        WebDriverWait(browser, 60).until(
            lambda _: browser.execute_script("return document.documentElement.dataset.drawn")
        )
        assert re.fullmatch(r"0\.\d+", browser.find_element("id", "score").text)
        assert len(browser.find_elements("css selector", ".gallery img")) >= 3
        browser.save_screenshot(str(tmp_path / "report.png"))
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
