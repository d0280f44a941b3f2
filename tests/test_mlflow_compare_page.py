"""What a person sees who opens MLflow's pages on a search, in a real browser."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import optuna
import pytest

from search.mlflow_runs import check, default_uri, ui_command
from search.tracking import Tracker
from spaces.aerial import space
from test_tracking import accepts, free_port, wait_until

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"
)

TRIALS = 12
CLASSES = ["Property Roof", "Trees / Shrubs", "Road/Highway", "Power Lines & Cables"]
T = TypeVar("T")


def log_search(runs: Path, uri: str) -> None:
    """Twelve trials of the full space, two thirds of them stopped early, one failed."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    with Tracker(
        uri,
        experiment="segsearch",
        search_name="aerial",
        search_id="aerial-1",
        score="val/dice",
        journal=runs / "aerial" / "mlflow.jsonl",
    ) as tracker:
        tracker.start_search({"space": "spaces.aerial:space", "trials": TRIALS}, {})
        for number in range(TRIALS):
            config = space(study.ask())
            tracker.start_trial(number, config, {})
            epochs = (1, 3, 9)[number % 3]
            for epoch in range(1, epochs + 1):
                dice = (0.75 - 0.4 * config.rare_crop_prob) * epoch / (epoch + 1)
                tracker.log_epoch(
                    number,
                    epoch,
                    {"train/loss": 1 / epoch, "val/loss": 1.2 / epoch, "val/dice": dice}
                    | {"train/lr": config.lr / epoch, "images_per_s": 90.0}
                    | {f"dice/{name}": dice for name in CLASSES},
                )
            if number == 5:
                tracker.end_trial(number, "failed", "loss is NaN at epoch 9, step 12")
            else:
                tracker.end_trial(number, "finished" if epochs == 9 else "stopped")
        tracker.end_search("finished")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the pages that the printed command serves."""
    runs = tmp_path_factory.mktemp("runs")
    uri = default_uri(runs)
    check(uri, "segsearch")
    log_search(runs, uri)
    port = free_port()
    server = subprocess.Popen(
        f"{ui_command(uri)} --port {port} --workers 1",
        shell=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: accepts(port), 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-dev-shm-usage",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "window-size=1440,1300", f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(browser: WebDriver, what: Callable[[WebDriver], T]) -> T:
    """The first value of ``what`` that is true and raises nothing, while the page builds itself."""
    return WebDriverWait(browser, 40, ignored_exceptions=[Exception]).until(what)


def texts(browser: WebDriver, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def compare_all(browser: WebDriver) -> list[str]:
    """Select all runs of the list and press Compare; the names of the plot's axes."""
    select_all = "input[aria-label='Select all runs']"
    wait_for(browser, lambda page: page.find_element(By.CSS_SELECTOR, select_all).click() or True)
    button = "//button[normalize-space()='Compare' and not(@disabled)]"
    wait_for(browser, lambda page: page.find_element(By.XPATH, button).click() or True)
    return wait_for(browser, lambda page: texts(page, ".parcoords .axis-title"))


def test_all_trials_compared_show_their_parameters_coloured_by_the_score(
    page: str, browser: WebDriver
) -> None:
    browser.get(f"{page}/#/experiments/1/runs")
    wait_for(browser, lambda page: page.find_element(By.LINK_TEXT, "aerial").click() or True)
    wait_for(
        browser,
        lambda page: page.find_element(By.LINK_TEXT, "All trials, best first").click() or True,
    )
    names = wait_for(browser, lambda page: texts(page, ".ag-row a"))
    axes = compare_all(browser)
    assert axes == ["architecture", "augment_strength", "batch_size", "best_score"]
    assert f"Comparing {TRIALS} Runs" in browser.find_element(By.TAG_NAME, "h2").text
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/compare.png")
