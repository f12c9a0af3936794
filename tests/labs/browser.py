"""JupyterLab on loopback and a headless Chromium, for the tests of what a class sees."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# Not the page's: JupyterLab asks for these and lives without them.
HARMLESS = re.compile(
    r"favicon|Failed to load resource.*(404|403)|was preloaded using link preload")
PANEL = ".idl-lab-panel"
# So that kernels import the tree under test, wherever another one is installed.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of these code cells."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path


def panel_cells(path: Path) -> list[str]:
    """The code cells of a lab that its panel needs, and those that move it, in their order."""
    wanted, kept = {"panel"}, []
    for cell in reversed(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code":
            continue
        source = re.sub("^%.*", "", cell.source, flags=re.M)
        nodes = list(ast.walk(ast.parse(source)))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        loaded = {name.id for name in names if isinstance(name.ctx, ast.Load)}
        made = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        made |= {(node.asname or node.name).split(".")[0] for node in nodes
                 if isinstance(node, ast.alias)}
        made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        if wanted & made or "panel" in loaded:
            kept.append(source)
            wanted |= loaded
    return kept[::-1]


@contextlib.contextmanager
def jupyterlab(folder: Path, home: Path) -> Iterator[str]:
    """JupyterLab over ``folder``, with settings of its own under ``home``: its address."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
               "--allow-root", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=t",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate", "--expose-app-in-browser"]
    environment = ENVIRONMENT | {"JUPYTER_CONFIG_DIR": str(home / "config"), "HOME": str(home),
                                 "JUPYTER_DATA_DIR": str(home / "data")}
    # Else JupyterLab asks whether it may fetch news, in front of a picture.
    asks = home / "config/lab/user-settings/@jupyterlab/apputils-extension"
    asks.mkdir(parents=True)
    (asks / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    log = home / "jupyter.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment,
                                  start_new_session=True)
    try:
        for _ in range(240):
            found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
            if found or server.poll() is not None:
                break
            time.sleep(0.25)
        assert found, f"JupyterLab did not start:\n{log.read_text()}"
        yield found.group(0)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@contextlib.contextmanager
def chromium() -> Iterator:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "IDL_LAB_REQUIRE_BROWSER is set, but there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Lab:
    """One page of JupyterLab with one notebook open; ``said`` is what the console complained of."""

    def __init__(self, browser, address: str, path: Path, size: Sequence[int] = (1500, 1000)
                 ) -> None:
        self.address, self.path, self.said = address, path, []
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.on("console", lambda m: self.said.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.open()

    def open(self) -> None:
        # A workspace a notebook: none opens what another test left open.
        self.page.goto(f"{self.address}lab/workspaces/{self.path.stem}/tree/{self.path.name}"
                       "?token=t&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=90_000)

    def idle(self) -> None:
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)

    def run_all(self, seconds: float = 120) -> None:
        """Run every cell, and fail on what one wrote to stderr."""
        # Run before the kernel answers, and JupyterLab asks which kernel is meant.
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']",
                                    timeout=60_000)
        self.idle()
        self.menu("Run", "Run All Cells")
        errors = self.page.locator(".jp-OutputArea-output[data-mime-type*='stderr']")
        # Of a cell out of sight or folded the page shows no number.
        self.page.wait_for_function("""() =>
            document.querySelector(".jp-OutputArea-output[data-mime-type*='stderr']") ||
            [...jupyterapp.shell.currentWidget.content.model.cells].every(cell =>
                cell.type !== "code" || cell.executionCount || !cell.sharedModel.source.trim())
            """, timeout=1000 * seconds)
        self.idle()
        assert errors.count() == 0, errors.first.inner_text()

    def save(self) -> None:
        before = self.path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        for _ in range(100):
            if self.path.stat().st_mtime_ns > before:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("the notebook was not saved")

    def shut_down_kernels(self) -> None:
        headers = {"Authorization": "token t"}
        for session in self.page.request.get(f"{self.address}api/sessions", headers=headers).json():
            self.page.request.delete(f"{self.address}api/sessions/{session['id']}", headers=headers)

    def menu(self, bar: str, *items: str) -> None:
        """Choose in JupyterLab's menus; a lab's own text may have the same words."""
        self.page.locator(".lm-MenuBar").get_by_text(bar, exact=True).click()
        for k, item in enumerate(items, 1):
            entry = self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True)
            entry.click() if k == len(items) else entry.hover()

    def theme(self, name: str) -> None:
        """Choose JupyterLab's theme, Light or Dark."""
        self.menu("Settings", "Theme", f"JupyterLab {name}")
        self.page.wait_for_selector(f"body[data-jp-theme-name='JupyterLab {name}']",
                                    state="attached")
        self.page.wait_for_timeout(500)

    def panel(self, k: int = 0) -> Shown:
        return Shown(self.page, k)

    @property
    def complaints(self) -> list[str]:
        """What the console complained of that is the page's."""
        return [line for line in self.said if not HARMLESS.search(line)]


class Shown:
    """The ``k``-th panel on a page."""

    def __init__(self, page, k: int = 0) -> None:
        self.page, self.box = page, page.locator(PANEL).nth(k)

    def picture(self) -> str:
        """The address of the live picture's bytes: another one, another picture."""
        return self.box.locator("img").evaluate("image => image.src")

    def alt(self) -> str:
        """What the live picture is called: its state in words."""
        return self.box.locator("img").evaluate("image => image.alt")

    def readouts(self) -> list[str]:
        return self.box.locator(".widget-readout").all_inner_texts()

    def wait_for_another(self, before: str) -> None:
        self._wait("img.src !== before", before)

    def wait_for_words(self, words: str) -> None:
        """Until the picture's text has these."""
        self._wait("img.alt.includes(before)", words)

    def wait_for_other_words(self, before: str) -> None:
        self._wait("img.alt !== before", before)

    def _wait(self, condition: str, before: str) -> None:
        self.page.wait_for_function(
            f"([panel, before]) => {{ const img = panel.querySelector('img');"
            f"                        return {condition} }}",
            arg=[self.box.element_handle(), before], timeout=60_000)
