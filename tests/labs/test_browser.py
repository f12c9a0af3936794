"""A lab in JupyterLab in a real browser: run all, drag the slider, the picture follows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
LAB = Path(__file__).parents[2] / "notebooks" / "02_well_posedness.ipynb"
# Not the page's: JupyterLab asks for these and lives without them.
HARMLESS = re.compile(
    r"favicon|Failed to load resource.*(404|403)|was preloaded using link preload")

pytestmark = [pytest.mark.browser, pytest.mark.cpu_default]
if CHROMIUM is None and not os.environ.get("IDL_LAB_REQUIRE_BROWSER"):
    pytestmark.append(pytest.mark.skip(reason="no Chromium on this machine"))


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory):
    """JupyterLab on loopback over a copy of lab 02 without outputs: its address with the token."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(LAB, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # nothing saved may pass for something run
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, folder / LAB.name)
    home = tmp_path_factory.mktemp("home")
    log = (folder / "jupyter.log").open("w+")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
               "--allow-root", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(home / "config"), "HOME": str(home),
                                "JUPYTER_DATA_DIR": str(home / "data")}
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment,
                              start_new_session=True)
    try:
        for _ in range(240):
            text = Path(log.name).read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", text)
            if found or server.poll() is not None:
                break
            time.sleep(0.5)
        assert found, f"JupyterLab did not start:\n{text}"
        yield found.group(0)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


@pytest.fixture(scope="module")
def page(jupyterlab):
    """Lab 02 opened, with what the console said in ``page.said``."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "IDL_LAB_REQUIRE_BROWSER is set, but there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.said = []
        page.on("console", lambda m: page.said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        address, token = jupyterlab.split("?")
        page.goto(f"{address}/tree/{LAB.name}?{token}")
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=90_000)
        yield page
        browser.close()


def _picture(page) -> str:
    return page.eval_on_selector(".idl-lab-panel img", "image => image.src")


def _wait_for_another(page, before: str) -> None:
    page.wait_for_function("before => document.querySelector('.idl-lab-panel img').src !== before",
                           arg=before, timeout=30_000)


def test_lab_02_runs_and_its_panel_follows_the_slider(page, tmp_path_factory):
    # Run before the kernel answers, and JupyterLab asks which kernel is meant.
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(LAB, as_version=4).cells)
    errors = page.locator(".jp-OutputArea-output[data-mime-type*='stderr']")
    page.locator(".jp-OutputPrompt", has_text=f"[{cells}]:").or_(errors).first.wait_for(
        timeout=120_000)
    assert errors.count() == 0, errors.first.inner_text()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    assert errors.count() == 0, errors.first.inner_text()

    panel = page.locator(".idl-lab-panel")
    panel.scroll_into_view_if_needed()
    page.wait_for_selector(".idl-lab-panel img")
    page.wait_for_timeout(500)
    first, box = _picture(page), panel.bounding_box()
    assert page.locator(".idl-lab-panel img").evaluate("i => i.naturalWidth") > 900

    handle = panel.locator(".noUi-handle").first
    at = handle.bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 41):
        page.mouse.move(x + step, y)
    page.mouse.up()
    _wait_for_another(page, first)
    page.wait_for_timeout(1500)  # whatever is still queued is drawn by now
    second = _picture(page)
    assert second != first
    value = float(panel.locator(".widget-readout").first.inner_text().replace(",", "."))
    assert value > 1.0, "the drag was to take κ past 1"
    after = panel.bounding_box()
    assert (after["height"], after["width"]) == (box["height"], box["width"]), "the page jumped"
    page.screenshot(path=str(tmp_path_factory.getbasetemp() / "lab_02_panel.png"))
    assert "Error" not in panel.inner_text()

    said = [line for line in page.said if not HARMLESS.search(line)]
    assert not said, said
