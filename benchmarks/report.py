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
SHOWN = [work.name for work in steps.WORKS[:3]]  # in the picture


def run(seconds: float, folder: Path, results: Path = RESULTS,
        works: tuple[steps.Work, ...] = steps.WORKS,
        more: Mapping[str, Contestant] = {}) -> None:
    """Measure everything; tables go to the screen, figures into JSON, the picture into a folder.

    Parameters
    ----------
    seconds : float
        Of timing, for each size.
    folder, results : path
        Where ``draw_bench.png`` and the figures go.
    works : tuple of Work
    more : mapping of str to Contestant
        Of another checkout.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "threads": 1, "torch": torch.__version__,
                    "python": platform.python_version(), "load": round(os.getloadavg()[1], 1)},
        "wanted": steps.WANTED, "works": {}}
    try:
        for work in works:
            table = steps.compare(work, seconds, more)
            found["works"][work.name] = {"goal": work.goal, "rows": _rows(table)}
            print(markdown(work.name, found["works"][work.name]) + "\n", flush=True)
        found["asides"] = _rows(asides.all_of_them(seconds / 8))
        print(aside_table(found["asides"]) + "\n", flush=True)
        memory = asides.memory()
        found["memory"] = _rows(memory)
        print("peak memory of forward + backward, MB\n"
              + memory.to_string(float_format="{:.1f}".format))
    finally:
        torch.set_num_threads(threads)
    results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(found).savefig(folder / "draw_bench.png", metadata={"Software": None})
    print(f"\n{results.name}, {folder.name}/draw_bench.png")


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
        ended = " ".join(str(of[key]) for key in ("steps", "ended") if key in of)
        lines.append(f"| {name} | {of['ms']:.3g} | {of['ratio']:.2g} | {of['beside']} | {ended} |")
    return "\n".join(lines)


def document(found: dict[str, Any]) -> list[str]:
    """Every table of docs/speed.md.

    Parameters
    ----------
    found : dict
        What is in ``results.json``.
    """
    return [*(markdown(name, work) for name, work in found["works"].items()),
            aside_table(found["asides"])]
