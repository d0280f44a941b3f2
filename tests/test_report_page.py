"""The report in a real browser: on a desk, on a telephone, in the dark, on paper."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from search.reporting.page import write_report
from tests.conftest import write_blocks
from tests.drawn_run import draw_run
from tests.machinery import chromium, needs_browser

pytestmark = needs_browser

PLOTS = {
    "curves": ("epoch", "dice, validation", "finished", "stopped here"),
    "parallel": ("lr", "dice"),
    "importance": ("score", "lr"),
    "costs": ("seconds per megapixel", "dice", "left out: chosen by it", "test"),
    "models": ("ensemble of 2 (taken)", "trial 0", "mean of the best 2", "test: honest"),
    "confusion": ("Grass",),
}
"""The words that a person reads in each."""
HACK = "<img src=x onerror='hacked=1'>"
CLASSES = [f"Grass {HACK}", "<b>Roof</b> & Sons", "</script><script>hacked=1</script>"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, of a data set whose names try to be more than names."""
    folder = write_blocks(tmp_path_factory.mktemp("data") / "blocks")
    settings = folder / "dataset.yaml"
    text = settings.read_text().replace("[Grass, Roof, Pool]", json.dumps(CLASSES))
    settings.write_text(text)
    for kind in ("images", "masks"):
        for path in (folder / kind).iterdir():
            path.rename(path.with_name(f"{HACK} {path.name}"))
    return write_report(draw_run(tmp_path_factory.mktemp("runs"), folder))


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Chromium with the page drawn; each test chooses its own screen."""
    logs = {"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
    profile = tmp_path_factory.mktemp("profile")
    with chromium(profile, "enable-unsafe-swiftshader", capabilities=logs) as driver:
        driver.get(page.as_uri())
        wait(driver, "return document.documentElement.dataset.drawn === 'yes'")
        yield driver


def wait(driver: WebDriver, condition: str) -> None:
    WebDriverWait(driver, 60).until(lambda _: driver.execute_script(condition))


def show(driver: WebDriver, width_px: int, *, dark: bool = False) -> None:
    """As a screen of that width, in that mode."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    command: Any = driver.execute_cdp_cmd  # type: ignore[attr-defined]
    command("Emulation.setEmulatedMedia", {"features": [scheme]})
    screen = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600}
    command("Emulation.setDeviceMetricsOverride", screen)
    wait(driver, f"return window.innerWidth === {width_px}")
    # plotly.js redraws when it hears of the new width.
    wait(
        driver,
        "return [...document.querySelectorAll('.plot')].every(plot => { const svg = "
        "plot.querySelector('svg'); return svg && "
        "Math.abs(svg.getBoundingClientRect().width - plot.clientWidth) < 2; })",
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width_px", [1280, 390])
def test_the_page_fits_and_its_plots_are_drawn(
    width_px: int, dark: bool, browser: WebDriver
) -> None:
    show(browser, width_px, dark=dark)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    plots = browser.find_elements(By.CSS_SELECTOR, "[role='img'][aria-label]")
    assert {plot.get_attribute("id") for plot in plots} == set(PLOTS)
    for plot in plots:
        name = str(plot.get_attribute("id"))
        shown = str(plot.get_attribute("textContent"))
        assert not [word for word in PLOTS[name] if word not in shown], (name, shown)
    # Lines, areas and maps of some size, as SVG or on a canvas, in a colour that isn't grey.
    coloured = browser.execute_script(
        "const vivid = css => { const c = (css.match(/[\\d.]+/g) || []).map(Number); "
        "return c.length > 2 && Math.max(...c.slice(0, 3)) - Math.min(...c.slice(0, 3)) > 60; };"
        "const marks = plot => [...plot.querySelectorAll('path, rect, image, canvas')].filter("
        "mark => { const box = mark.getBoundingClientRect(), style = getComputedStyle(mark); "
        "return box.width > 3 && (['image', 'CANVAS'].includes(mark.tagName) || "
        "vivid(style.stroke) || vivid(style.fill)); });"
        "return Object.fromEntries([...document.querySelectorAll('.plot')]"
        ".map(plot => [plot.id, marks(plot).length]))"
    )
    assert set(coloured) == set(PLOTS) and all(coloured.values()), coloured


@pytest.mark.parametrize("width_px", [1280, 390])
def test_no_word_of_a_plot_runs_out_of_it(width_px: int, browser: WebDriver) -> None:
    show(browser, width_px)
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].filter(plot => !plot.closest('.wide'))"
        ".flatMap(plot => { const room = plot.getBoundingClientRect(); "
        "return [...plot.querySelectorAll('text')].filter(word => { "
        "const box = word.getBoundingClientRect(); return box.width && "
        "(box.left < room.left - 1 || box.right > room.right + 1); }).map(w => w.textContent); })"
    )
    assert not outside


def test_dark_is_dark_and_light_is_light(browser: WebDriver) -> None:
    def brightness(what: str, style: str) -> float:
        color = browser.execute_script(f"return getComputedStyle({what}).{style}")
        return sum(map(float, color.strip("rgba()").split(",")[:3])) / 3

    for dark in (True, False):
        show(browser, 1280, dark=dark)
        paper = brightness("document.body", "backgroundColor")
        ink = brightness("document.body", "color")
        word = "[...document.querySelectorAll('#curves text')].find(e => e.textContent === 'epoch')"
        wait(browser, f"return {word} !== undefined")
        plot_ink = brightness(word, "fill")
        assert (paper < 60 and min(ink, plot_ink) > 150) if dark else paper > 200 > 100 > ink
        assert abs(paper - plot_ink) > 120


PALE = """
const parts = css => (css.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
function paper(element) {
  const color = parts(getComputedStyle(element).backgroundColor);
  return color.length === 3 ? color : paper(element.parentElement);
}
return [...document.body.querySelectorAll(":not(script, style)")].filter(element =>
  !element.closest(".plot") && [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())
).filter(element => {
  const style = getComputedStyle(element);
  const [a, b] = [light(parts(style.color)), light(paper(element))];
  const least = parseFloat(style.fontSize) < 24 ? 4.5 : 3;
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < least;
}).map(element => `${element.tagName} ${element.className}: ${element.textContent.trim()}`);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_paper(dark: bool, browser: WebDriver) -> None:
    """By 4.5:1, large ones by 3:1 (WCAG 2, 1.4.3)."""
    show(browser, 1280, dark=dark)
    assert not browser.execute_script(PALE)


def test_what_is_wider_than_a_telephone_is_moved_by_keys(browser: WebDriver) -> None:
    show(browser, 390)
    wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
    wait(browser, f"return {wide}.length > 2 && {wide}.every(e => e.tabIndex === 0)")


def test_names_from_files_are_shown_as_they_are_and_run_nothing(browser: WebDriver) -> None:
    show(browser, 1280)
    assert browser.execute_script("return typeof hacked") == "undefined"
    text = browser.find_element(By.TAG_NAME, "body").text
    for name in CLASSES:
        assert name in text
    assert f"{HACK} photo_" in text
    labels = browser.execute_script(
        "return [...document.querySelectorAll('#confusion text')].map(e => e.textContent)"
    )
    assert any(label.startswith("<b>Roof</b> & Sons") for label in labels), labels


def test_paper_gets_every_section_in_ink_on_white(browser: WebDriver) -> None:
    show(browser, 1280, dark=True)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})  # type: ignore[attr-defined]
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    # The page goes back to its own colours afterwards.
    wait(browser, "return !matchMedia('print').matches")
    assert browser.execute_script("return document.querySelectorAll('.plot svg').length")


def test_nothing_was_fetched_and_nothing_complained(page: Path, browser: WebDriver) -> None:
    show(browser, 1280)
    requests = [
        event["params"]["request"]["url"]
        for entry in browser.get_log("performance")  # type: ignore[no-untyped-call]
        for event in [json.loads(entry["message"])["message"]]
        if event["method"] == "Network.requestWillBeSent"
        and event["params"]["documentURL"].partition("#")[0] == page.as_uri()
    ]
    assert page.as_uri() in requests
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert not severe
