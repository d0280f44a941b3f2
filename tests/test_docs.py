"""The documents tell the truth: every command and every block of code in them is that of the code.

A block that can't be run has its reason in a comment before it: ``<!-- not run: … -->``.
"""

import importlib
import inspect
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
import rasterio
import tyro
import yaml
from PIL import Image
from rasterio.transform import from_origin

from search.__main__ import COMMANDS
from search.planning.space import check_baselines, load_space
from search.runs.options import SearchOptions
from segcore.config import TrialConfig
from segcore.data.spec import DatasetSpec
from segcore.networks.models import check_network
from segcore.scores.metrics import METRICS
from segcore.training.augment import build_augmentation
from segcore.training.losses import build_loss
from tests.conftest import FACTS, write_blocks
from tests.drawn_run import draw_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = {"README.md": README} | {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text()
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
BLOCK = re.compile(
    r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
RUN_HERE = {"search.predict", "search.evaluate", "search.leaderboard", "search.report",
            "search.suspects", "segcore.prepare"}  # fmt: skip
"""Commands that take seconds. The others' lines are parsed: searches have tests of their own."""


class Block(NamedTuple):
    page: str
    language: str
    code: str
    excuse: str
    """Why it is not run; "" where it is."""


class Command(NamedTuple):
    module: str
    arguments: list[str]


BLOCKS = [
    Block(page, language, code, excuse)
    for page, text in PAGES.items()
    for excuse, language, code in BLOCK.findall(text)
]


def blocks(language: str, *pages: str) -> list[Block]:
    return [
        block
        for block in BLOCKS
        if block.language == language and not block.excuse and (not pages or block.page in pages)
    ]


def lines_of(block: Block) -> Iterator[list[str]]:
    """The command lines of a block, as a shell would split them."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def ours(words: list[str]) -> Command | None:
    """The command of segsearch in a line, if there is one; others may stand before it."""
    for place, word in enumerate(words[:-1]):
        module = words[place + 1]
        if word == "-m" and module.split(".")[0] in ("search", "segcore"):
            end = next((i for i, w in enumerate(words) if i > place and w in ("&&", "|")), None)
            return Command(module, words[place + 2 : end])
    return None


def parse(command: Command) -> Any:
    """Parse the arguments as the command would, without doing anything."""
    known = {listed.module: listed for listed in COMMANDS.values()}[command.module]
    return tyro.cli(
        getattr(importlib.import_module(known.module), known.options), args=command.arguments
    )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documents' commands work: photos, photo.jpg, mosaic.tif, runs/storm."""
    folder = tmp_path_factory.mktemp("desk")
    write_blocks(folder / "photos")
    run = draw_run(folder / "runs", folder / "photos", trials=4)
    shutil.move(run.path, folder / "runs" / "storm")
    pixels_HWC = np.random.default_rng(0).integers(0, 255, (80, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels_HWC).save(folder / "photo.jpg")
    with rasterio.open(
        folder / "mosaic.tif", "w", driver="GTiff", height=80, width=96, count=3, dtype="uint8",
        crs="EPSG:31982", transform=from_origin(5e5, 7e6, 0.5, 0.5),
    ) as raster:  # fmt: skip
        raster.write(np.moveaxis(pixels_HWC, -1, 0))
    return folder


def test_every_block_says_what_it_is_and_each_fence_is_closed() -> None:
    for page, text in PAGES.items():
        assert text.count("```") == 2 * len(BLOCK.findall(text)), page
    assert {block.language for block in BLOCKS} <= {"sh", "python", "yaml", "text"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood_and_all_others_say_why_they_are_not_run(page: str) -> None:
    for block in (block for block in BLOCKS if block.page == page and block.language == "sh"):
        for words in lines_of(block):
            command = ours(words)
            assert command or block.excuse, f"{page}: {' '.join(words)}"
            if command and "$(python" not in command.arguments:
                parse(command)


def test_commands_that_take_seconds_do_what_they_say(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    done = set()
    for block in blocks("sh"):
        for command in filter(None, map(ours, lines_of(block))):
            key = (command.module, *command.arguments)
            if command.module in RUN_HERE and key not in done:
                done.add(key)
                main = importlib.import_module(command.module).main
                assert main(command.arguments) == 0, f"{block.page}: {shlex.join(key)}"
    assert {module for module, *_ in done} == RUN_HERE
    written = {path.relative_to(desk).as_posix() for path in desk.rglob("*") if path.is_file()}
    assert written >= {
        "masks/photo_00.png", "masks/overlays/photo_00.jpg", "town/mosaic.tif",
        "town/polygons/mosaic.gpkg", "town/uncertainty.csv", "scores.json",
        "runs/storm/report.html", "runs/storm/run.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("page", ["how-to/python.md", "how-to/predict.md"])
def test_python_works_from_the_first_block_of_a_page_to_the_last(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    names: dict[str, Any] = {}
    for block in blocks("python", page):
        exec(compile(block.code, page, "exec"), names)
    assert names["mask_HW"].shape == (80, 96)


def modules_of(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each of a page's blocks of Python as a module; its name."""
    monkeypatch.syspath_prepend(folder)
    for number, block in enumerate(blocks("python", page)):
        name = f"{Path(page).stem.replace('-', '_')}_{number}"
        (folder / f"{name}.py").write_text(block.code)
        yield name


def test_spaces_can_be_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = []
    for name in modules_of("how-to/spaces.md", tmp_path, monkeypatch):
        found = inspect.getmembers(importlib.import_module(name), inspect.isfunction)
        functions += [f"{name}:{function}" for function, _ in found]
    assert [path.partition(":")[2] for path in functions] == ["roofs", "sized"]
    for path in functions:
        space = load_space(path, lambda: FACTS)
        check_baselines(space)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        assert all(isinstance(space.sample(study.ask()), TrialConfig) for _ in range(20))


def test_plug_ins_pass_the_checks_before_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, network, augmentation = modules_of("how-to/plug-ins.md", tmp_path, monkeypatch)
    config = TrialConfig(
        height_px=32, width_px=32, architecture=f"{network}:Tiny", encoder=None,
        loss=f"{loss}:Bootstrapped", loss_kwargs={"share": 0.5},
        augmentation=f"{augmentation}:flips_only",
    )  # fmt: skip
    build_loss(config, np.array([90, 9, 1]))
    check_network(config, 3)
    build_augmentation(config)


def test_files_of_yaml_are_taken(tmp_path: Path) -> None:
    whole = {"images": "*.png", "masks": "{stem}.png", "classes": ["Grass", "Roof", "Pool"]}
    for block in blocks("yaml"):
        if block.code.startswith("# cluster.yaml for "):
            continue  # test_cluster_yaml.py has Ray check it
        if block.code.startswith("# options: "):
            (tmp_path / "options.yaml").write_text(block.code)
            SearchOptions.from_file(tmp_path / "options.yaml")
        else:
            DatasetSpec.model_validate(whole | yaml.safe_load(block.code))


def test_options_that_sentences_name_exist() -> None:
    known = {"--help", "--tyro-print-completion", "--env-manager", "--port", "--working-dir"}
    for command in COMMANDS.values():
        options = getattr(importlib.import_module(command.module), command.options)
        names = tyro.extras.get_parser(options).format_help()
        known |= set(re.findall(r"--[a-z-]+", names))
    for page, text in PAGES.items():
        for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
            assert set(re.findall(r"(?<!\S)--[a-z-]+", code)) <= known, f"{page}: {code}"


def test_shipped_spaces_are_there() -> None:
    for path in set(re.findall(r"spaces\.(?:quick|competition|aerial)", "".join(PAGES.values()))):
        load_space(path, lambda: FACTS)


def test_the_metrics_are_defined_as_the_code_defines_them() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGES["explanation.md"], re.MULTILINE))
    assert {name: table.get(name) for name in METRICS} == METRICS


def test_the_reference_has_the_help_of_every_command() -> None:
    shown = re.findall(r"^<!-- help: (\S+) -->$", PAGES["reference/commands.md"], re.MULTILINE)
    assert sorted(shown) == sorted(command.module for command in COMMANDS.values())


def test_the_readme_is_for_ten_minutes_and_what_it_links_to_is_there() -> None:
    assert len(README.split()) <= 900
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_picture_of_the_house_names_every_part_and_what_lies_flat() -> None:
    picture = CONTRIBUTING.partition("```\n")[2].partition("```")[0]
    for wing in ("segcore", "search"):
        flat = {path.stem for path in (ROOT / wing).glob("*.py")} - {"__init__"}
        parts = {path.parent.name for path in (ROOT / wing).glob("*/__init__.py")}
        assert flat | parts <= set(re.findall(r"\w+", picture)), wing
