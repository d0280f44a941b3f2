"""What a person sees who opens MLflow's pages on a search, in a real browser."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import optuna
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from search.tracking.addresses import UI_ADDRESS, default_uri, ui_command
from search.tracking.check import check
from search.tracking.tracker import Tracker
from segcore.config import Scalar
from spaces.aerial import space
from tests.conftest import FACTS
from tests.machinery import chromium, free_port, needs_browser, serving

pytestmark = [pytest.mark.searches, needs_browser]

TRIALS = 12
CLASSES = ["Property Roof", "Trees / Shrubs", "Road/Highway", "Power Lines & Cables"]
T = TypeVar("T")


class LoggedSearch(NamedTuple):
    ui_command: str
    trials_url: str
    params: list[dict[str, Scalar]]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> LoggedSearch:
    """Twelve trials of the full space, most of them stopped early, one failed."""
    runs = tmp_path_factory.mktemp("runs")
    uri = default_uri(runs)
    check(uri, "segsearch")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    configs = [space(study.ask(), FACTS) for _ in range(TRIALS)]
    with Tracker(
        uri,
        experiment="segsearch",
        search_name="aerial",
        search_id="aerial-1",
        score="val/dice",
        outbox=runs / "aerial" / "mlflow.jsonl",
    ) as tracker:
        tracker.start_search({"space": "spaces.aerial:space", "trials": TRIALS}, {})
        for number, config in enumerate(configs):
            tracker.start_trial(number, config, {})
            epochs = (1, 3, 9)[number % 3]
            for epoch in range(1, epochs + 1):
                dice = (0.8 - 0.6 * config.rare_crop_prob) * epoch / (epoch + 1)
                metrics = {"train/loss": 1 / epoch, "val/dice": dice, "images_per_s": 90.0}
                metrics |= {f"dice/{name}": dice for name in CLASSES}
                tracker.log_epoch(number, epoch, metrics)
            if number == 5:
                tracker.end_trial(number, "failed", "loss is NaN at epoch 9, step 12")
            else:
                tracker.end_trial(number, "finished" if epochs == 9 else "stopped")
        tracker.end_search("finished")
        tracker.close()
        assert tracker.trials_url is not None
        return LoggedSearch(
            ui_command(uri), tracker.trials_url, [config.flat() for config in configs]
        )


@pytest.fixture(scope="module")
def address(search: LoggedSearch) -> Iterator[str]:
    """Where the command that a search prints at its end serves MLflow's pages."""
    port = free_port()
    command = f"{search.ui_command} --port {port} --workers 1"
    with serving(command, port, timeout_s=60) as server:
        yield server


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    with chromium(tmp_path / "profile", "window-size=1440,1300") as driver:
        yield driver
        driver.save_screenshot(str(tmp_path / "page.png"))


def wait_for(browser: WebDriver, what: Callable[[], T]) -> T:
    """The first value of ``what`` that is true and raises nothing, while the page builds itself."""
    wait = WebDriverWait(browser, 40, ignored_exceptions=[WebDriverException])
    return wait.until(lambda _: what())


def click(browser: WebDriver, how: str, what: str) -> None:
    wait_for(browser, lambda: browser.find_element(how, what).click() or True)


def trials_listed(browser: WebDriver) -> int:
    """How many links to trials, such as "007-unet-resnet34", the page shows."""
    links = browser.find_elements(By.TAG_NAME, "a")
    return sum(re.match(r"\d{3}-\w", link.text) is not None for link in links)


def words_of_plots(browser: WebDriver) -> list[str]:
    """The words in the page's drawings, from left to right."""
    words = browser.find_elements(By.CSS_SELECTOR, "svg text")
    return [word.text for word in sorted(words, key=lambda word: word.location["x"])]


def compare_all(browser: WebDriver, search: LoggedSearch) -> list[str]:
    """Select all runs of the list and press Compare; the names of the plot's axes."""
    click(browser, By.CSS_SELECTOR, "input[aria-label='Select all runs']")
    click(browser, By.XPATH, "//button[normalize-space()='Compare' and not(@disabled)]")
    names = {"best_score"}.union(*search.params)
    return wait_for(browser, lambda: [w for w in words_of_plots(browser) if w in names])


def test_all_trials_compared_show_what_differs_coloured_by_the_score(
    address: str, search: LoggedSearch, browser: WebDriver
) -> None:
    browser.get(search.trials_url.replace(UI_ADDRESS, address))
    wait_for(browser, lambda: trials_listed(browser) == TRIALS)
    axes = compare_all(browser, search)
    names = {name for trial in search.params for name in trial}
    differing = sorted(
        name for name in names if len({trial.get(name) for trial in search.params}) > 1
    )
    assert axes == [*differing[:3], "best_score"]
    assert f"Comparing {TRIALS} Runs" in browser.find_element(By.TAG_NAME, "body").text
    architectures = {str(trial["architecture"])[:10] for trial in search.params}
    assert architectures <= set(words_of_plots(browser))


def test_the_search_selected_with_its_trials_still_leaves_the_score_on_the_plot(
    address: str, search: LoggedSearch, browser: WebDriver
) -> None:
    browser.get(f"{address}/#/experiments/1/runs")
    # The only button in the row of the search unfolds its trials.
    click(browser, By.XPATH, "//*[@role='row'][.//a[normalize-space()='aerial']]//button")
    wait_for(browser, lambda: trials_listed(browser) == TRIALS)
    assert compare_all(browser, search)[-1] == "best_score"
