"""One page of a run or a sweep: what failed, the numbers, the figures, panels that still move."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import nbformat

from idl_lab.labs.kit import film
from idl_lab.labs.kit.record import Number, readable
from idl_lab.runs.results import recorded

NAME = "report.html"
SHOWN = 20  # failures that are shown with their tracebacks: a sweep's are often all the same
_WIDGETS = "application/vnd.jupyter.widget-state+json"
# Colours and links of a terminal, and what HTML may not hold.
_TERMINAL = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]"
                       r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Run:
    """An executed notebook.

    Parameters
    ----------
    path : Path
        Relative to the report.
    notebook : NotebookNode
    record : dict
        What its run left in the metadata.
    numbers : dict
        What it recorded.
    """

    path: Path
    notebook: Any
    record: dict[str, Any]
    numbers: dict[str, Number] = field(default_factory=dict)

    @property
    def lab(self) -> str:
        """The notebook that was run, by its name."""
        return str(self.record.get("notebook") or self.path.stem)

    @property
    def status(self) -> str:
        """How it ended, "ok" where nothing went wrong."""
        return str(self.record.get("status", "unknown"))

    @property
    def parameters(self) -> dict[str, Any]:
        """The values it ran with."""
        return self.record.get("parameters") or {}

    @property
    def link(self) -> str:
        """Its address on the page."""
        return quote(self.path.as_posix())


class Cell(NamedTuple):
    """A cell of a table: what stands there, what it is sorted by, how it looks."""

    text: str
    sort: str | None = None
    kind: str = ""
    link: str = ""


def write(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a run or a sweep, from its notebooks alone.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path
        The page. It needs no other file and no network; its links to the notebooks are relative.

    Raises
    ------
    ValueError
        If there is no such folder, no notebook in it, or no room for the page.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; a report wants the folder of a run or a sweep.")
    runs, foreign = _read(folder)
    if not runs and not foreign:
        raise ValueError(f"there is no executed notebook in {folder}; a report wants the folder of "
                         f"a run or a sweep.")
    page = _page(runs, foreign)
    try:
        # Under its name only when it is whole: the page may be open, and the disk may be full.
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", encoding="utf-8",
                                         delete=False) as file:
            file.write(page)
        os.chmod(file.name, 0o644)
        os.replace(file.name, folder / NAME)
    except OSError as error:
        with contextlib.suppress(OSError, NameError):
            os.unlink(file.name)
        raise ValueError(f"{folder / NAME} cannot be written ({error.strerror}).") from None
    return folder / NAME


def _read(folder: Path) -> tuple[list[Run], list[tuple[str, str]]]:
    """The executed notebooks, and of the other files why they are none."""
    runs, foreign = [], []
    for path in sorted(folder.rglob("*.ipynb")):
        place = path.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception as error:  # nbformat's are many: JSON's, the schema's, the version's
            foreign.append((str(place), f"cannot be read as a notebook: {_line(error)}"))
            continue
        record = notebook.metadata.get("idl_lab")
        if not isinstance(record, dict) or "status" not in record:
            foreign.append((str(place), "was not executed by idl-lab: it carries no record"))
            continue
        runs.append(Run(place, notebook, record, recorded(notebook)))
    return runs, foreign


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _page(runs: Sequence[Run], foreign: Sequence[tuple[str, str]]) -> str:
    labs: dict[str, list[Run]] = {}
    for run in runs:
        labs.setdefault(run.lab, []).append(run)
    swept = [name for name, those in labs.items() if len(those) > 1]
    failed = [run for run in runs if run.status != "ok"]
    if swept:
        title = f"Sweep of {_list(swept)}: {len(runs)} runs"
    else:
        title = f"Run of {len(runs)} labs" if len(runs) != 1 else f"Run of {runs[0].lab}"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        Path(__file__).with_name("report.html.jinja").read_text("utf-8"))
    return template.render(
        title=title, summary=list(_summary(runs)), foreign=foreign,
        heading_of_failures=f"{len(failed)} of {len(runs)} did not end well",
        failures=[_failure(run) for run in failed[:SHOWN]],
        more_failures=f"{len(failed) - SHOWN} more stand in the tables below."
        if len(failed) > SHOWN else "",
        overview=_overview(runs) if len(runs) > 1 and not swept else None,
        labs=[_sweep(name, those) if len(those) > 1 else _lab(those[0])
              for name, those in labs.items()])


def _list(texts: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(str(text) for text in texts if str(text)))


def _summary(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """What, when, where, how long: pairs of a name and a text."""
    states = [run.status for run in runs]
    yield "outcome", ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)) or "none"
    begun, ended = zip(*(_times(run) for run in runs), strict=True) if runs else ((), ())
    if known := [time for time in begun if time]:
        yield "started", f"{min(known):%Y-%m-%d %H:%M:%S}"
        yield "ended", f"{max(time for time in ended if time):%Y-%m-%d %H:%M:%S}"
    yield "run time", _duration(sum(_seconds(run) for run in runs)) + " in all"
    for name, key in (("machine", "host"), ("device", "device"), ("idl_lab", "version"),
                      ("commit", "commit")):
        if text := _list([run.record.get(key) or "" for run in runs]):
            yield name, text
    versions: dict[str, list[str]] = {}
    for run in runs:
        for package, version in (run.record.get("versions") or {}).items():
            versions.setdefault(str(package), []).append(str(version))
    if versions:
        yield "versions", ", ".join(f"{p} {_list(those).replace(', ', ' and ')}"
                                    for p, those in versions.items())


def _seconds(run: Run) -> float:
    value = run.record.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0


def _times(run: Run) -> tuple[datetime | None, datetime | None]:
    try:
        begun = datetime.fromisoformat(str(run.record.get("started")))
    except ValueError:
        return None, None
    begun = begun.astimezone()  # so that those of several machines can be compared
    return begun, begun + timedelta(seconds=_seconds(run))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds:.1f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


# ---- tables --------------------------------------------------------------------------------------


def _value(value: Any) -> Cell:
    if value is None:
        return Cell("None", "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value), kind="text" if len(str(value)) > 40 else "")
    return Cell(readable(value), "" if math.isnan(value) else repr(value).replace("inf", "Infinity"),
                "number")


def _status(run: Run) -> Cell:
    return Cell(run.status, kind="good" if run.status == "ok" else "bad")


def _costs(run: Run) -> list[Cell]:
    memory = run.record.get("peak_memory_mb")
    return [Cell(f"{_seconds(run):.1f}", repr(_seconds(run)), "number"),
            Cell(f"{memory:.0f}", repr(memory), "number") if isinstance(memory, int | float)
            else Cell("", ""), Cell(str(run.record.get("device", "")))]


def _overview(runs: Sequence[Run]) -> tuple[list[str], list[list[Cell]]]:
    return (["lab", "status", "seconds", "memory, MB", "device", "error"],
            [[Cell(run.lab, link=f"#{_anchor(run.lab)}"), _status(run), *_costs(run),
              Cell(str(run.record.get("error", "")), kind="text")] for run in runs])


def _anchor(lab: str) -> str:
    return "lab-" + re.sub(r"\W+", "-", lab)


def _lab(run: Run) -> dict[str, Any]:
    """One notebook's part: its numbers, its figures, its panels."""
    given = ", ".join(f"{name} = {value}" for name, value in run.parameters.items())
    return {"anchor": _anchor(run.lab), "name": run.lab, "title": _title(run), "link": run.link,
            "said": f"{run.status} after {_duration(_seconds(run))}" + (f"; {given}" * bool(given)),
            "tables": [("Recorded numbers", ["number", "value"],
                        [[Cell(name), _value(value)] for name, value in run.numbers.items()])]
            if run.numbers else [], "plots": [], "shown": list(_shown(run))}


def _sweep(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Many runs of one notebook: a table, and pictures of it."""
    names = list(dict.fromkeys(key for run in runs for key in run.parameters))
    values = {key: [run.parameters.get(key) for run in runs] for key in names}
    moved = [key for key in names if any(value != values[key][0] for value in values[key])]
    numbers = list(dict.fromkeys(key for run in runs for key in run.numbers))
    fixed = ", ".join(f"{key} = {values[key][0]}" for key in names if key not in moved)
    rows = [[Cell(run.path.stem, link=run.link), *(_value(values[key][k]) for key in moved),
             _status(run), *_costs(run),
             *(_value(run.numbers[key]) if key in run.numbers else Cell("", "") for key in numbers)]
            for k, run in enumerate(runs)]
    columns = ["run", *moved, "status", "seconds", "memory, MB", "device", *numbers]
    return {"anchor": _anchor(name), "name": name, "title": _title(runs[0]), "link": "",
            "said": f"{len(runs)} runs" + (f"; {fixed} in all of them" * bool(fixed)),
            "tables": [("Each run", columns, rows)], "plots": [], "shown": []}


# ---- what a notebook shows -----------------------------------------------------------------------


def _title(run: Run) -> str:
    text = "\n".join(c.source for c in run.notebook.cells if c.cell_type == "markdown")
    found = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return _plain(found[1]) if found else run.lab


def _plain(markdown: str) -> str:
    """Markdown as a sentence: links by their text, no marks of emphasis."""
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", markdown).split())


def _shown(run: Run) -> Iterator[dict[str, Any]]:
    """Figures and panels in their order, each under its heading; a heading comes once."""
    heading, said = "", None
    cells = run.notebook.cells
    for k, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{2,} +(.+)$", cell.source, re.MULTILINE)
            heading = _plain(headings[-1]) if headings else heading
        for output in cell.get("outputs", []):
            if shown := _picture(output.get("data", {})):
                after = cells[k + 1] if k + 1 < len(cells) else None
                reading = (_plain(after.source.split("\n\n")[0])
                           if after and after.cell_type == "markdown" else "")
                alt = shown["alt"] or f"Figure of: {heading or _title(run)}. {reading}".strip()
                yield shown | {"heading": heading if heading != said else "", "alt": alt}
                said = heading


def _picture(data: dict[str, Any]) -> dict[str, Any] | None:
    """What an output shows: a film of a panel, or the address of a picture and its words."""
    words = str(data.get("text/plain", ""))
    words = "" if words.startswith("<") else words  # <Figure size 640x480 with 1 Axes>
    if film.MIME in data:
        with contextlib.suppress(ValueError):  # then it is a picture
            return {"film": film.to_html(data[film.MIME]), "source": "", "alt": words}
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return {"film": "", "source": f"data:{kind};base64,{''.join(data[kind].split())}",
                    "alt": words}
    if "image/svg+xml" in data:
        encoded = base64.b64encode(data["image/svg+xml"].encode()).decode()
        return {"film": "", "source": f"data:image/svg+xml;base64,{encoded}", "alt": words}
    return None


# ---- what failed ---------------------------------------------------------------------------------


def _failure(run: Run) -> dict[str, str]:
    """A run that did not end well: the cell it stopped in, and what was said there."""
    source, lines = "", []
    for cell in run.notebook.cells:
        errors = [o for o in cell.get("outputs", []) if o.output_type == "error"]
        if errors or cell.metadata.get("papermill", {}).get("status") in ("running", "failed"):
            source, lines = cell.source, [line for o in errors for line in o.traceback]
            break
    else:
        lines = _widget_traceback(run.notebook)
        number = re.match(r"cell (\d+):", str(run.record.get("error", "")))
        source = next((cell.source for cell in run.notebook.cells if number
                       and cell.get("execution_count") == int(number[1])), "")
    text = _TERMINAL.sub("", "\n".join(lines))
    if len(text) > 20_000:  # a recursion's, say
        text = f"{text[:2_000]}\n…\n{text[-18_000:]}"
    return {"status": run.status, "name": str(run.path.with_suffix("")), "link": run.link,
            "error": str(run.record.get("error", "")), "source": source, "traceback": text}


def _widget_traceback(notebook: Any) -> list[str]:
    """Of an error in a widget's callback, which no cell shows."""
    state = notebook.metadata.get("widgets", {}).get(_WIDGETS, {}).get("state", {})
    return [line for entry in state.values() for output in entry["state"].get("outputs", [])
            if output["output_type"] == "error" for line in output.get("traceback", [])]
