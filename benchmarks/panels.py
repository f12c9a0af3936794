"""From a moved slider to the painted picture: every panel of every lab, in a browser."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from benchmarks.report import PAGE, RESULTS, keep, kept, renewed

ROOT = Path(__file__).parents[1]
PANELS_PAGE = PAGE.with_name("panels.md")
MOVES, SIZE, WANTED = 30, (1280, 720), (100, 200)
PARTS = ("compute", "paint", "encode")
# Keys are pressed, not values set: what a key does from the slider on is what a mouse does. A
# picture counts once it is decoded and a frame has been painted with it.
_MOVE = """async ([panel, handle, moves]) => {
    const at = name => Number(handle.getAttribute("aria-value" + name));
    const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
    const img = panel.querySelector("img"), times = [];
    const press = async key => {
        const other = new Promise(resolve => new MutationObserver((_, observer) => {
            observer.disconnect(); resolve(true);
        }).observe(img, { attributes: true, attributeFilter: ["src"] }));
        const began = performance.now();
        handle.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        if (!await Promise.race([other, pause(5000)])) return;  // the same picture again
        // Another picture may come while this one is decoded: then that one is waited for.
        for (let whole = false; !whole;) whole = await img.decode().then(() => true, () => false);
        await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
        times.push(performance.now() - began);
    };
    let up = at("now") < at("max"), before = at("now");
    await press(up ? "ArrowRight" : "ArrowLeft");
    // One step of a long slider at a time would see a part of it alone.
    const page = (at("max") - at("min")) / Math.abs(at("now") - before) > 2 * moves;
    times.length = 0;
    for (let k = 0; k < moves; k++) {
        await pause(150);
        if (at("now") >= at("max")) up = false;
        if (at("now") <= at("min")) up = true;
        await press((page ? "Page" : "Arrow") + (page ? (up ? "Up" : "Down") :
                                                         (up ? "Right" : "Left")));
    }
    return times;
}"""


def watch(path: str) -> None:
    """In the kernel: write down of each picture what it cost, a line of JSON each.

    Parameters
    ----------
    path : str
        The file.
    """
    from idl_lab.labs.kit import canvas, panel

    spent = dict.fromkeys(PARTS, 0.0)

    def timed(call, part):
        def wrapper(*args, **kwargs):
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent[part] += 1e3 * (time.thread_time() - began)
        return wrapper

    def redraw(self, original=panel.Panel._redraw):
        spent.update(dict.fromkeys(PARTS, 0.0))
        wall, began = time.perf_counter(), time.thread_time()
        original(self)
        spent["compute"] = 1e3 * (time.thread_time() - began) - spent["paint"] - spent["encode"]
        row = spent | {"wall": 1e3 * (time.perf_counter() - wall)}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    canvas._painted = timed(canvas._painted, "paint")
    canvas._encoded = timed(canvas._encoded, "encode")
    panel.Panel._redraw = redraw


def run(only: Sequence[str] = (), results: Path = RESULTS, page: Path = PANELS_PAGE) -> None:
    """Measure, keep, and write the table.

    Parameters
    ----------
    only : sequence of str
        Numbers of labs; all of them by default, and what was measured of the others is kept.
    results, page : path
        Where figures and the table go.
    """
    from tests.labs.browser import chromium, jupyterlab

    found = kept(results)
    rows = found.setdefault("panels", {}).setdefault("rows", {})
    with tempfile.TemporaryDirectory() as made:
        folder, home = Path(made) / "labs", Path(made) / "home"
        folder.mkdir()
        home.mkdir()
        with jupyterlab(folder, home) as address, chromium() as browser:
            for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
                if only and source.name[:2] not in only:
                    continue
                new = lab(source, folder, address, browser)
                for old in [name for name in rows if name.startswith(source.name[:2])]:
                    del rows[old]
                rows |= new
                print("\n".join(line(name, row) for name, row in new.items()), flush=True)
    found["panels"] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1),
                       "moves": MOVES, "rows": dict(sorted(rows.items()))}
    keep(found, results)
    page.write_text(written(page.read_text(encoding="utf-8"), found["panels"]), encoding="utf-8")


def needed(cells: list[Any]) -> list[Any]:
    """A notebook's cells as far as its last panel: what comes then is not measured.

    Parameters
    ----------
    cells : list
    """
    shown = [k for k, cell in enumerate(cells) if cell.cell_type == "code" and re.search(
        r"^\w+ = \w*(_panel|Comparison)\(", cell.source, re.M)]
    return cells[:1 + max(shown)]


def lab(source: Path, folder: Path, address: str, browser) -> dict[str, dict[str, float]]:
    """Run a lab as far as its panels and move each of their sliders.

    Parameters
    ----------
    source, folder : path
        The notebook, and where its copy is run.
    address : str
        JupyterLab's.
    browser
        Playwright's.
    """
    from tests.labs.browser import PANEL, Lab

    log, book = folder / f"{source.stem}.jsonl", nbformat.read(source, as_version=4)
    book.cells = needed(book.cells)
    book.cells.insert(0, nbformat.v4.new_code_cell(
        f"from benchmarks.panels import watch\nwatch({str(log)!r})"))
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata.pop("widgets", None)
    nbformat.write(book, folder / source.name)
    shown = Lab(browser, address, folder / source.name, SIZE)
    rows = {}
    try:
        shown.run_all(900)
        for k in range(shown.page.locator(PANEL).count()):
            box = shown.panel(k).box
            box.scroll_into_view_if_needed()
            for slider in box.locator(".widget-slider").all():
                handle = slider.locator("[role=slider]")
                before = len(log.read_text("utf-8").splitlines())
                times = shown.page.evaluate(
                    _MOVE, [box.element_handle(), handle.element_handle(), MOVES])
                new = log.read_text("utf-8").splitlines()[before + 1:]
                name = f"{source.name[:2]} {slider.locator('label').inner_text()}"
                if times:
                    rows[name] = summary(times, [json.loads(line) for line in new])
    finally:
        shown.shut_down_kernels()
        shown.page.close()
    return rows


def summary(times: Sequence[float], drawn: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median and 95th percentile in ms, and the medians of what the kernel spent.

    Parameters
    ----------
    times : sequence of float
        From the slider to the painted picture.
    drawn : sequence of dict
        Of each picture the lines that `watch` wrote.
    """
    row = {"pictures": len(times), "median": np.median(times), "p95": np.quantile(times, 0.95),
           "kernel": np.median([row["wall"] for row in drawn]),
           "cpu": np.median([sum(row[part] for part in PARTS) for row in drawn])}
    row |= {part: np.median([row[part] for row in drawn]) for part in PARTS}
    return {name: float(f"{value:.3g}") for name, value in row.items()}


def line(name: str, row: dict[str, float]) -> str:
    """A row of the table.

    Parameters
    ----------
    name : str
    row : dict
        From `summary`.
    """
    return (f"| {name} | {row['median']:.0f} | {row['p95']:.0f} | {row['kernel']:.0f} | "
            f"{row['cpu']:.0f} | " + " | ".join(f"{row[part]:.0f}" for part in PARTS) + " |")


def written(page: str, of: dict[str, Any]) -> str:
    """docs/panels.md with the table renewed.

    Parameters
    ----------
    page : str
    of : dict
        ``panels`` in ``results.json``.
    """
    late = [name for name, row in of["rows"].items()
            if row["median"] > WANTED[0] or row["p95"] > WANTED[1]]
    said = f"{len(of['rows']) - len(late)} of {len(of['rows'])} sliders are within " \
           f"{WANTED[0]} ms in the median and {WANTED[1]} ms in 95 of 100 moves"
    lines = [f"Measured on {of['cores']} cores, {of['moves']} moves a slider, with {of['load']:g} "
             f"processes waiting for the cores. {said}"
             + (f"; not {', '.join(late)}." if late else "."), "",
             f"| lab, slider | median | p95 | in the kernel | its CPU | {' | '.join(PARTS)} |",
             "| --- " * (5 + len(PARTS)) + "|"]
    return renewed(page, "make bench ARGS=panels",
                   "\n".join(lines + [line(name, row) for name, row in of["rows"].items()]))
