"""The documents tell the truth: every command and every block of code in them is that of the code.

A block that can't be run has its reason in a comment before it: ``<!-- not run: … -->``.
"""

import importlib
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
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
from search.tracking.addresses import default_uri
from search.tracking.check import check
from search.tracking.tracker import Tracker
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
EXIT_CODES = {
    "search.predict": 0, "search.evaluate": 0, "search.leaderboard": 0, "search.report": 0,
    "search.suspects": 0,
    "segcore.prepare": 0, "search.run": 0,
    "search.replay": 1,  # the drawn run's scores are not those of a training
}  # fmt: skip
"""What each command gives that is run here. A search is begun, and ends before it checks anything:
tests/test_newcomer.py trains by the commands of README and of the tutorial."""


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


def test_commands_do_what_they_say(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    begun: list[SearchOptions] = []
    for step in ("search", "check"):
        monkeypatch.setattr(
            f"search.driver.{step}", lambda options, progress: begun.append(options)
        )
    done = set()
    for block in blocks("sh"):
        for command in filter(None, map(ours, lines_of(block))):
            key = (command.module, *command.arguments)
            if key not in done:
                done.add(key)
                main = importlib.import_module(command.module).main
                code = main(command.arguments)
                assert code == EXIT_CODES[command.module], f"{block.page}: {shlex.join(key)}"
    assert {module for module, *_ in done} == {*EXIT_CODES}
    assert {options.trials for options in begun} >= {4, 10, 20, 100, 200}, "4: the resumed run's"
    written = {path.relative_to(desk).as_posix() for path in desk.rglob("*") if path.is_file()}
    assert written >= {
        "masks/photo_00.png", "masks/overlays/photo_00.jpg", "town/mosaic.tif",
        "town/polygons/mosaic.gpkg", "town/uncertainty.csv", "scores.json",
        "runs/storm/report.html", "runs/storm/run.yaml",
    }  # fmt: skip


def test_every_page_with_python_has_a_test_that_runs_it() -> None:
    with_python = {block.page for block in BLOCKS if block.language == "python" if not block.excuse}
    pages = {"spaces", "plug-ins", "python", "predict", "watch"}
    assert with_python == {f"how-to/{page}.md" for page in pages}, "the tests below"


@pytest.mark.parametrize("page", ["how-to/python.md", "how-to/predict.md"])
def test_python_works_from_the_first_block_of_a_page_to_the_last(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    names: dict[str, Any] = {}
    for block in blocks("python", page):
        exec(compile(block.code, page, "exec"), names)
    assert names["mask_HW"].shape == (80, 96)


def test_trials_are_copied_to_tensorboard_and_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is installed: each has a stand-in that hears what it is told."""
    told: dict[str, list[tuple[str, float, int]]] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            self._told = told.setdefault(folder, [])

        def __enter__(self) -> "Writer":
            return self

        def __exit__(self, *_: object) -> None: ...

        def add_scalar(self, name: str, value: float, step: int, time_s: float) -> None:
            self._told.append((name, value, step))

        def log(self, metrics: dict[str, float], step: int) -> None:
            self._told += [(name, value, step) for name, value in metrics.items()]

        def finish(self) -> None: ...

    def init(*, project: str, name: str, config: dict[str, str], mode: str) -> Writer:
        assert (project, mode, config["loss"]) == ("segsearch", "offline", "focal")
        return Writer(f"wandb/{name}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    uri = default_uri(tmp_path / "runs")
    check(uri, "segsearch")
    with Tracker(
        uri, experiment="segsearch", search_name="storm", search_id="storm", score="val/dice",
        outbox=tmp_path / "outbox" / "tracking.jsonl",
    ) as tracker:  # fmt: skip
        tracker.start_search({}, {})
        tracker.start_trial(0, TrialConfig(loss="focal"), {})
        for epoch in (1, 2):
            tracker.log_epoch(0, epoch, {"val/dice": epoch / 10})
    copies = blocks("python", "how-to/watch.md")
    assert len(copies) == 2
    for block in copies:
        exec(compile(block.code, block.page, "exec"), {})
    expected = {("val/dice", 0.1, 1), ("val/dice", 0.2, 2)}
    expected |= {("best_score", 0.1, 1), ("best_score", 0.2, 2)}
    assert {folder: set(lines) for folder, lines in told.items()} == {
        "tensorboard/000-unet-resnet34": expected, "wandb/000-unet-resnet34": expected
    }  # fmt: skip


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
    known = {"--help", "--tyro-print-completion", "--env-manager", "--port", "--working-dir",
             "--logdir"}  # fmt: skip
    known |= set(re.findall(r"--[a-z-]+", (ROOT / "slurm.sh").read_text()))
    known |= {"--gpus", "--ipc", "--shm-size", "--user", "--init", "--cpus", "--memory"}  # Docker's
    known.add("--nv")  # Apptainer's
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
