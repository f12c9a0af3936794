"""What became of runs: an executed notebook carries its record, and all tables come from these."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_lab.records import COLUMNS, MIME, Number, readable

if TYPE_CHECKING:
    import pandas

KEY = "idl_lab"  # of the record in a notebook's metadata
SHOWN = 20  # numbers of a notebook in the table to read: the files have all


@dataclass(frozen=True)
class RunResult:
    """What became of one notebook.

    Parameters
    ----------
    path : Path
        The executed notebook.
    record : mapping
        What the notebook's metadata says of its run: status ("ok", "failed", "timed out" or
        "interrupted"), error (a line, empty where nothing went wrong), seconds, device,
        peak_memory_mb, parameters (all, with the values that held), notebook, source (SHA-256 of
        the cells that were run), version, commit, versions, host, started; where there was a GPU
        also gpu and gpu_memory_mb.
    numbers : mapping of str to int or float
        What the notebook recorded.
    pictures : tuple of Path
        The files that its pictures were written to.
    """

    path: Path
    record: Mapping[str, Any]
    numbers: Mapping[str, Number] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()

    @property
    def notebook(self) -> str:
        """The lab's name, without the ending."""
        return self.record["notebook"]

    @property
    def status(self) -> str:
        """``ok``, ``failed``, ``timed out`` or ``interrupted``."""
        return self.record["status"]

    @property
    def error(self) -> str:
        """What stopped it, in a line; empty where nothing did."""
        return self.record["error"]

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run."""
        return self.record["seconds"] or 0.0  # none where its worker died


def recorded(notebook: Mapping[str, Any]) -> dict[str, Number]:
    """Read back what `record` kept in an executed notebook (the last value of a name counts).

    Parameters
    ----------
    notebook : nbformat.NotebookNode or dict
    """
    numbers: dict[str, Number] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for name, value in output.get("data", {}).get(MIME, {}).get("numbers", []):
                numbers[name] = float(value["float"]) if isinstance(value, dict) else value
    return numbers


def read(path: Path) -> RunResult | None:
    """What an executed notebook says of itself; None if no run wrote it.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If it is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        record = notebook["metadata"].get(KEY)
        return None if record is None else RunResult(path, record, recorded(notebook))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no notebook that can be read.") from None


def results(folder: str | Path) -> pandas.DataFrame:
    """All runs below a folder: a row per executed notebook, in the order of their paths.

    Parameters
    ----------
    folder : str or Path
        Such as ``runs/2026-01-31_09-00-00``. Notebooks that no run wrote are passed over.

    Returns
    -------
    pandas.DataFrame
        The columns ``notebook, status, error, seconds, device, peak_memory_mb, started, host,
        version, commit, python, torch, …, source, path``; then the parameters by their names;
        then the recorded numbers. Each name is one column: ``device`` is where it computed, not
        what was asked for ("auto"); a number with the name of a parameter is
        ``<name>_recorded``, a parameter with the name of a column ``<name>_parameter``. Whole
        numbers stay whole where some runs have none (Int64). `path` is relative to the folder.

    Raises
    ------
    ValueError
        If the folder is not there.
    """
    import pandas

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name the one of a run or a sweep.")
    found = []
    for path in sorted(folder.rglob("*.ipynb"), key=natural):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # not finished, or a checkpoint of Jupyter's
        try:
            found.append(read(path))
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
    rows = [_row(result, folder) for result in found if result is not None]
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row[0]),
                                *(name for row in rows for name in row[1]),
                                *(name for row in rows for name in row[2])]))
    flat = [{**fixed, **parameters, **numbers} for fixed, parameters, numbers in rows]
    return pandas.DataFrame({name: _column([row.get(name) for row in flat]) for name in names})


def natural(path: Path) -> list[Any]:
    """What paths are sorted by, so that run 10 comes after run 9.

    Parameters
    ----------
    path : Path
    """
    return [(int(part), "") if part.isdigit() else (-1, part)
            for part in re.split(r"(\d+)", str(path))]


def _row(result: RunResult, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    fixed = {name: value for name, value in result.record.items()
             if name not in ("parameters", "versions")}
    fixed |= result.record["versions"] | {"path": result.path.relative_to(folder).as_posix()}
    parameters = {f"{name}_parameter" if name in {*COLUMNS, *fixed} else name: value
                  for name, value in result.record["parameters"].items() if name != "device"}
    numbers = {f"{name}_recorded" if name in parameters or name in fixed else name: value
               for name, value in result.numbers.items()}
    return fixed, parameters, numbers


def _column(values: Sequence[Any]) -> Any:
    """Values of one kind as a column of that kind, in which a value may be missing."""
    import pandas

    kinds = {type(value) for value in values if value is not None}
    dtype = ("object" if not kinds else "boolean" if kinds == {bool} else
             "Int64" if kinds == {int} else "float64" if kinds <= {int, float} else
             "str" if kinds == {str} else "object")
    if dtype == "float64":
        values = [float("nan") if value is None else float(value) for value in values]
    return pandas.Series(list(values), dtype=dtype)


def write_tables(folder: str | Path) -> pandas.DataFrame:
    """Write `results` of a folder there as ``results.csv`` and ``results.parquet``.

    Parameters
    ----------
    folder : str or Path
        What does not have one type in all rows is text in the parquet file.

    Returns
    -------
    pandas.DataFrame
        The table, as from `results`.

    Raises
    ------
    ValueError
        If the folder is not there.
    OSError
        If it cannot be written to; what was there stays.
    """
    folder = Path(folder)
    table = results(folder)
    save(folder / "results.csv", table.to_csv(index=False).encode())
    typed = table.assign(**{name: [None if value is None else str(value) for value in table[name]]
                            for name in table if table[name].dtype == object})
    save(folder / "results.parquet", typed.to_parquet(index=False))
    return table


def save(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there: it gets its name when all of it is on the disk.

    Parameters
    ----------
    path : Path
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written; nothing of it is left.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def table(results: Iterable[RunResult], width: int | None = None) -> str:
    """The runs to read: notebook, status, seconds, the error, the first numbers.

    Parameters
    ----------
    results : iterable of RunResult
    width : int, optional
        Columns of the terminal; by default as many as it has.
    """
    results = list(results)
    width = shutil.get_terminal_size((100, 24)).columns if width is None else width
    wide = max([len(r.notebook) for r in results] + [len("notebook")])
    status = max([len(r.status) for r in results] + [len("status")])
    before = wide + status + 13
    lines = [f"{'notebook':{wide}}  {'status':{status}}  seconds  numbers"]
    for r in results:
        # No-break spaces keep a value on the line of its name.
        numbers = [f"{name}\xa0=\xa0{readable(v)}" for name, v in r.numbers.items()]
        if len(numbers) > SHOWN:
            numbers[SHOWN:] = [f"{len(numbers) - SHOWN}\xa0more"]
        said = "; ".join(filter(None, [r.error, ", ".join(numbers)]))
        text = [line.replace("\xa0", " ")
                for line in textwrap.wrap(said, max(30, width - before))] or [""]
        lines.append(f"{r.notebook:{wide}}  {r.status:{status}}  {r.seconds:7.1f}  "
                     f"{text[0]}".rstrip())
        lines += [" " * before + more for more in text[1:]]
    return "\n".join(lines)
