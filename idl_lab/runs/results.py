"""What became of a run: the numbers a notebook recorded, the summary, the table."""

from __future__ import annotations

import csv
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idl_lab.labs.kit.record import COLUMNS, MIME, Number, readable


def recorded(notebook: Any) -> dict[str, Number]:
    """Read back what `record` kept in an executed notebook (the last value of a name counts).

    Parameters
    ----------
    notebook : nbformat.NotebookNode
    """
    numbers: dict[str, Number] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for name, value in output.get("data", {}).get(MIME, {}).get("numbers", []):
                numbers[name] = float(value["float"]) if isinstance(value, dict) else value
    return numbers


@dataclass(frozen=True)
class RunResult:
    """What became of one notebook.

    Parameters
    ----------
    notebook : str
        Its name, without the ending.
    path : Path
        The executed notebook.
    status : str
        "ok" or "failed".
    seconds : float
        Wall-clock time of the run.
    error : str
        What stopped it, in a line; empty where nothing did.
    numbers : mapping of str to int or float
        What it recorded.
    pictures : tuple of Path
        The files that its pictures were written to.
    """

    notebook: str
    path: Path
    status: str
    seconds: float
    error: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()


def write_summary(results: Sequence[RunResult], path: Path) -> None:
    """One line per notebook: notebook, status, seconds, error, then every recorded number.

    Parameters
    ----------
    results : sequence of RunResult
    path : Path
        The CSV file.
    """
    names = list(dict.fromkeys(name for result in results for name in result.numbers))
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS, *names])
        for r in results:
            rows.writerow([r.notebook, r.status, f"{r.seconds:.2f}", r.error,
                           *(r.numbers.get(name, "") for name in names)])


def table(results: Sequence[RunResult], width: int | None = None) -> str:
    """The summary to read: notebook, status, seconds, numbers (or the error).

    Parameters
    ----------
    results : sequence of RunResult
    width : int, optional
        Columns of the terminal; by default as many as it has.
    """
    width = shutil.get_terminal_size((100, 24)).columns if width is None else width
    wide = max([len(r.notebook) for r in results] + [len("notebook")])
    lines = [f"{'notebook':{wide}}  status  seconds  numbers"]
    for r in results:
        numbers = ", ".join(f"{name} = {readable(v)}" for name, v in r.numbers.items())
        text = textwrap.wrap("; ".join(filter(None, [r.error, numbers])),
                             max(30, width - wide - 19)) or [""]
        lines.append(f"{r.notebook:{wide}}  {r.status:6}  {r.seconds:7.1f}  {text[0]}".rstrip())
        lines += [" " * (wide + 19) + more for more in text[1:]]
    return "\n".join(lines)
