"""The whole comparison: measured, kept as JSON, printed, drawn, and put into words."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import asides, steps
from benchmarks.contestants import Contestant
from benchmarks.plots import draw_bench

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
SHOWN = [work.name for work in steps.WORKS[:3]]  # in the picture


def run(seconds: float, folder: Path, results: Path = RESULTS, page: Path = PAGE,
        more: Mapping[str, Contestant] = {}) -> None:
    """Measure everything; tables go to the screen and into a page, figures into JSON.

    Parameters
    ----------
    seconds : float
        Of timing, for each size.
    folder, results, page : path
        Where ``draw_bench.png``, the figures and the tables go.
    more : mapping of str to Contestant
        Of another checkout.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = kept(results) | {
        "machine": {"cores": os.cpu_count(), "threads": 1, "torch": torch.__version__,
                    "python": platform.python_version(), "load": round(os.getloadavg()[1], 1)},
        "wanted": steps.WANTED, "works": {}}
    try:
        for work in steps.WORKS:
            table = steps.compare(work, seconds, more)
            found["works"][work.name] = {"goal": work.goal, "rows": _rows(table)}
            print(markdown(work.name, found["works"][work.name]) + "\n", flush=True)
        found["asides"] = _rows(asides.all_of_them(seconds / 8))
        print(aside_table(found["asides"]) + "\n", flush=True)
        memory = asides.memory()
        found["memory"] = _rows(memory)
        print(memory_line(found["memory"]), flush=True)
    finally:
        torch.set_num_threads(threads)
    keep(found, results)
    draw(found).savefig(folder / "draw_bench.png", metadata={"Software": None})
    page.write_text(written(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"\n{results.name}, {page.name}, {folder.name}/draw_bench.png")


def _rows(table: pd.DataFrame) -> dict[str, dict]:
    """A row a name, without what is missing, at four digits."""
    return {str(name): {column: float(f"{value:.4g}") if isinstance(value, float) else value
                        for column, value in row.items() if not pd.isna(value) and value != ""}
            for name, row in table.astype(object).iterrows()}


def draw(found: dict[str, Any]):
    """The picture of kept figures.

    Parameters
    ----------
    found : dict
        What is in ``results.json``.
    """
    shown = {name: work for name, work in found["works"].items() if name in SHOWN}
    return draw_bench({name: pd.DataFrame.from_dict(work["rows"], orient="index")
                       for name, work in shown.items()},
                      {name: work["goal"] for name, work in shown.items()},
                      pd.DataFrame.from_dict(found["memory"], orient="index").rename(index=int))


def markdown(name: str, work: dict[str, Any]) -> str:
    """The table of one size, as docs/speed.md has it.

    Parameters
    ----------
    name : str
    work : dict
        Its goal and rows, as in ``results.json``.
    """
    lines = [f"| {name} | ms (quartiles) | of torchidl | of its floor | gradient error | products "
             f"| waits | MB |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row, of in work["rows"].items():
        products = f"{of['forward']:g} + {of['backward']:g}"
        ratio, floor, error = (f"{of[key]:{form}}" if key in of else "" for key, form in (
            ("of torchidl", ".2f"), ("of its floor", ".2f"), ("gradient error", ".0e")))
        lines.append(f"| {row} | {of['ms']:.3g} ({of['low']:.3g}–{of['high']:.3g}) | {ratio} "
                     f"| {floor} | {error} | {products} | {of['waits']:g} | {of['MB']:.2g} |")
    return "\n".join(lines)


def aside_table(rows: dict[str, dict]) -> str:
    """The table of the smaller comparisons, as docs/speed.md has it.

    Parameters
    ----------
    rows : dict
        As in ``results.json``.
    """
    lines = ["| what | ms | ratio | to | steps |", "| --- | --- | --- | --- | --- |"]
    for name, of in rows.items():
        ended = " ".join(f"{of[key]:,.0f}" if key == "steps" else str(of[key])
                         for key in ("steps", "ended") if key in of)
        lines.append(f"| {name} | {of['ms']:.3g} | {of['ratio']:.2g} | {of['beside']} | {ended} |")
    return "\n".join(lines)


def memory_line(rows: dict[str, dict]) -> str:
    """What forward and backward hold at once, in a sentence.

    Parameters
    ----------
    rows : dict
        As in ``results.json``.
    """
    (few, first), *_, (many, last) = rows.items()
    return (f"Forward and backward of n = 256 and 1,024 samples hold {first['Implicit']:.0f} MB at "
            f"{few} steps and {last['Implicit']:.0f} MB at {many} with the implicit gradient, "
            f"{first['Unrolled']:.0f} MB and {last['Unrolled']:,.0f} MB with back-propagation "
            f"through the steps.")


def sentence(found: dict[str, Any]) -> str:
    """The README's sentence.

    Parameters
    ----------
    found : dict
        What is in ``results.json``.
    """
    few, many, thin = (found["works"][name]["rows"]["idl_lab"]["of torchidl"] for name in SHOWN)
    return (f"With gradients equally exact (within {found['wanted']:.0e} of float64's) a training "
            f"step takes {few:.2f} of torchidl's time at n = 100, {many:.2f} at n = 1000 and "
            f"{thin:.2f} at n = 2000 with rank 10; memory does not grow with the steps of the "
            f"solve.")


def written(page: str, found: dict[str, Any]) -> str:
    """docs/speed.md with its measured part renewed.

    Parameters
    ----------
    page : str
    found : dict
        What is in ``results.json``.
    """
    of = found["machine"]
    machine = (f"Measured on {of['cores']} cores with torch {of['torch']}, on one thread and by "
               f"its own clock, with {of['load']:g} processes waiting for the cores.")
    tables = [machine, *(markdown(name, work) for name, work in found["works"].items()),
              aside_table(found["asides"]), memory_line(found["memory"])]
    return renewed(page, "make bench", "\n\n".join(tables))


def renewed(page: str, command: str, text: str) -> str:
    """A page with what a command writes into it renewed.

    Parameters
    ----------
    page : str
    command : str
        As the page's mark names it.
    text : str
    """
    mark = f"<!-- measured: {command} writes this part -->"
    end = "<!-- end of the measured part -->"
    before, rest = page.split(mark)
    return "\n\n".join([before + mark, text, end + rest.split(end, 1)[1]])


def kept(results: Path) -> dict[str, Any]:
    """What ``results.json`` holds, nothing where it is not there yet.

    Parameters
    ----------
    results : path
    """
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}


def keep(found: dict[str, Any], results: Path) -> None:
    """Write ``results.json``.

    Parameters
    ----------
    found : dict
    results : path
    """
    results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
