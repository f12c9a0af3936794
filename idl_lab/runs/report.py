"""One page of a run or a sweep: what failed, the numbers, the figures, panels that still move."""

from __future__ import annotations

import base64
import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import nbformat
import pandas

from idl_lab.labs.kit import canvas, film
from idl_lab.labs.kit.record import readable
from idl_lab.labs.sweeps.plots import draw_runs
from idl_lab.runs import results
from idl_lab.runs.results import RunResult

NAME = "report.html"
SHOWN = 20  # failures that are shown with their tracebacks: a sweep's are often all the same
_WIDGETS = "application/vnd.jupyter.widget-state+json"
# Colours and links of a terminal, and what HTML may not hold.
_TERMINAL = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]"
                       r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Cell(NamedTuple):
    """A cell of a table: what stands there, what it is sorted by, how it looks."""

    text: str
    sort: str | None = None
    kind: str = ""
    link: str = ""


def write(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a run or a sweep, from its notebooks alone.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Path
        The page. It needs no other file and no network; its links to the notebooks are relative.

    Raises
    ------
    ValueError
        If there is no such folder, no notebook in it, or the page cannot be written there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name the one of a run or a sweep.")
    runs, foreign = _read(folder)
    if not runs and not foreign:
        raise ValueError(f"there is no executed notebook in {folder}; a report wants the folder of "
                         f"a run or a sweep.")
    page = _page(folder, runs, foreign)
    try:
        results.save(folder / NAME, page.encode())
    except OSError as error:
        raise ValueError(f"{folder / NAME} cannot be written ({error.strerror}).") from None
    return folder / NAME


def _read(folder: Path) -> tuple[list[RunResult], list[tuple[str, str]]]:
    """The runs, and of the other notebooks why they are none."""
    runs, foreign = [], []
    for path in sorted(folder.rglob("*.ipynb"), key=results.natural):
        place = path.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue  # not finished, or a checkpoint of Jupyter's
        try:
            run = results.read(path)
            nbformat.validate(_notebook(path))
        except Exception as error:  # nbformat's are many: JSON's, the schema's, the version's
            said = " ".join(str(error).split())[:120] or type(error).__name__
            foreign.append((str(place), f"cannot be read as a notebook: {said}"))
            continue
        if run is None or not _whole(run):
            foreign.append((str(place), "carries no record of a run: idl-lab did not execute it"))
        else:
            runs.append(run)
    return runs, foreign


def _notebook(path: Path) -> Any:
    return nbformat.reads(path.read_text("utf-8"), as_version=4)


def _whole(run: RunResult) -> bool:
    """Whether it has what this page is made of: another program's metadata may have our key."""
    kinds = {"status": str, "notebook": str, "error": str, "parameters": dict, "versions": dict}
    return isinstance(run.record, dict) and all(
        isinstance(run.record.get(key), kind) for key, kind in kinds.items())


def _page(folder: Path, runs: Sequence[RunResult], foreign: Sequence[tuple[str, str]]) -> str:
    labs: dict[str, list[RunResult]] = {}
    for run in runs:
        labs.setdefault(run.notebook, []).append(run)
    swept = [name for name, those in labs.items() if len(those) > 1]
    failed = [run for run in runs if run.status != "ok"]
    title = (f"Sweep of {_list(swept)}: {len(runs)} runs" if swept
             else f"Run of {runs[0].notebook}" if len(runs) == 1 else f"Run of {len(runs)} labs")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        Path(__file__).with_name("report.html.jinja").read_text("utf-8"))
    return template.render(
        title=title, summary=list(_summary(runs, foreign)), foreign=foreign,
        failures=[_failure(run, folder) for run in failed[:SHOWN]], failed=len(failed),
        ran=len(runs), overview=_overview(runs) if len(runs) > 1 and not swept else None,
        labs=[_sweep(name, those, folder) if len(those) > 1 else _lab(those[0], folder)
              for name, those in labs.items()])


def _link(run: RunResult, folder: Path) -> str:
    return quote(run.path.relative_to(folder).as_posix())


def _list(texts: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(str(text) for text in texts if str(text)))


def _summary(runs: Sequence[RunResult], foreign: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """What, when, where, how long: pairs of a name and a text."""
    states = [run.status for run in runs] + ["not a run"] * len(foreign)
    yield "outcome", ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    begun, ended = zip(*(_times(run) for run in runs), strict=True) if runs else ((), ())
    if known := [time for time in begun if time]:
        yield "started", f"{min(known):%Y-%m-%d %H:%M:%S %Z}"
        yield "ended", f"{max(time for time in ended if time):%Y-%m-%d %H:%M:%S %Z}"
    yield "run time", _duration(sum(_seconds(run) for run in runs)) + " in all"
    for name, key in (("machine", "host"), ("device", "device"), ("idl_lab", "version"),
                      ("commit", "commit")):
        if text := _list([run.record.get(key) or "" for run in runs]):
            yield name, text
    versions: dict[str, list[str]] = {}
    for run in runs:
        for package, version in run.record["versions"].items():
            versions.setdefault(str(package), []).append(str(version))
    if versions:
        yield "versions", ", ".join(f"{p} {_list(those).replace(', ', ' and ')}"
                                    for p, those in versions.items())


def _seconds(run: RunResult) -> float:
    value = run.record.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0


def _times(run: RunResult) -> tuple[datetime | None, datetime | None]:
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
    order = "" if math.isnan(value) else repr(value).replace("inf", "Infinity")
    return Cell(readable(value), order, "number")


def _status(run: RunResult) -> Cell:
    return Cell(run.status, kind="good" if run.status == "ok" else "bad")


def _costs(run: RunResult) -> list[Cell]:
    memory = run.record.get("peak_memory_mb")
    return [Cell(f"{_seconds(run):.1f}", repr(_seconds(run)), "number"),
            Cell(f"{memory:.0f}", repr(memory), "number") if isinstance(memory, int | float)
            else Cell("", ""), Cell(str(run.record.get("device", "")))]


def _overview(runs: Sequence[RunResult]) -> tuple[list[str], list[list[Cell]]]:
    return (["lab", "status", "seconds", "memory, MB", "device", "error"],
            [[Cell(run.notebook, link=f"#{_anchor(run.notebook)}"), _status(run), *_costs(run),
              Cell(run.error, kind="text")] for run in runs])


def _anchor(lab: str) -> str:
    return "lab-" + re.sub(r"\W+", "-", lab)


def _lab(run: RunResult, folder: Path) -> dict[str, Any]:
    """One notebook's part: its numbers, its figures, its panels."""
    notebook = _notebook(run.path)
    given = ", ".join(f"{name} = {value}" for name, value in run.record["parameters"].items())
    return {"anchor": _anchor(run.notebook), "name": run.path.name, "link": _link(run, folder),
            "title": _title(notebook, run.notebook), "plots": [], "shown": list(_shown(notebook)),
            "said": f"{run.status} after {_duration(_seconds(run))}" + (f"; {given}" * bool(given)),
            "tables": [("Recorded numbers", ["number", "value"],
                        [[Cell(name), _value(value)] for name, value in run.numbers.items()])]
            if run.numbers else []}


def _sweep(name: str, runs: Sequence[RunResult], folder: Path) -> dict[str, Any]:
    """Many runs of one notebook: a table, and pictures of it."""
    given = [run.record["parameters"] for run in runs]
    names = list(dict.fromkeys(key for values in given for key in values))
    moved = [key for key in names if len({repr(values.get(key)) for values in given}) > 1]
    numbers = list(dict.fromkeys(key for run in runs for key in run.numbers))
    fixed = ", ".join(f"{key} = {given[0].get(key)}" for key in names if key not in moved)
    rows = [[Cell(run.path.stem, link=_link(run, folder)),
             *(_value(values.get(key)) for key in moved), _status(run), *_costs(run),
             *(_value(run.numbers[key]) if key in run.numbers else Cell("", "") for key in numbers)]
            for run, values in zip(runs, given, strict=True)]
    columns = ["run", *moved, "status", "seconds", "memory, MB", "device", *numbers]
    return {"anchor": _anchor(name), "name": name, "link": "", "shown": [],
            "title": _title(_notebook(runs[0].path), name),
            "said": f"{len(runs)} runs" + (f"; {fixed} in all of them" * bool(fixed)),
            "tables": [("Each run", columns, rows)], "plots": list(_plots(runs, moved, numbers))}


def _plots(runs: Sequence[RunResult], moved: Sequence[str], numbers: Sequence[str]
           ) -> Iterator[dict[str, str]]:
    """A picture per number against each parameter that varies, of the runs that ended well."""
    well = [run for run in runs if run.status == "ok"]
    table = pandas.DataFrame({
        key: pandas.Series([run.record["parameters"].get(key) for run in well], dtype=object)
        for key in moved})
    swept = [key for key in moved if table[key].map(repr).nunique() > 1]
    for name in numbers:
        values = [run.numbers.get(name) for run in well]
        if not any(isinstance(v, int | float) and math.isfinite(v) for v in values):
            continue
        column = f"{name}_recorded" if name in table else name
        numbered = table.assign(**{column: values})
        # Repetitions are the dots of a line; if nothing else varies, they are looked at.
        for against in [key for key in swept if key != "seed"] or swept:
            others = [key for key in swept if key not in (against, "seed")]
            picture = canvas.small_png(draw_runs(numbered, column, against, by=others))
            yield {"source": f"data:image/png;base64,{base64.b64encode(picture).decode()}",
                   "alt": f"{name} against {against}; its numbers stand in the table."}


# ---- what a notebook shows -----------------------------------------------------------------------


def _title(notebook: Any, name: str) -> str:
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return _plain(found[1]) if found else name


def _plain(markdown: str) -> str:
    """Markdown as a sentence: links by their text, no marks of emphasis."""
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", markdown).split())


def _shown(notebook: Any) -> Iterator[dict[str, Any]]:
    """Figures and panels in their order, each under its heading; a heading comes once."""
    heading, said, cells = "", None, notebook.cells
    for k, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{2,} +(.+)$", cell.source, re.MULTILINE)
            heading = _plain(headings[-1]) if headings else heading
        for output in cell.get("outputs", []):
            if shown := _picture(output.get("data", {})):
                after = cells[k + 1] if k + 1 < len(cells) else None
                reading = (_plain(after.source.split("\n\n")[0])
                           if after and after.cell_type == "markdown" else "")
                alt = shown["alt"] or f"{heading or 'A figure'}. {reading}".strip()
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


def _failure(run: RunResult, folder: Path) -> dict[str, str]:
    """A run that did not end well: the cell it stopped in, and what was said there."""
    notebook = _notebook(run.path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stopped = next((cell for cell in code if _errors(cell)), None)
    lines = [line for output in _errors(stopped) for line in output.get("traceback", [])]
    number = re.match(r"cell (\d+):", run.error)  # of time that was up, or a kernel that died
    if stopped is None and number:
        ran = [cell for cell in code if cell.source.strip()
               and "skip-execution" not in cell.metadata.get("tags", [])]
        stopped = next(iter(ran[int(number[1]) - 1:]), None)
        lines = _widget_traceback(notebook)
    text = _TERMINAL.sub("", "\n".join(lines))
    if len(text) > 20_000:  # of a recursion, say
        text = f"{text[:2_000]}\n…\n{text[-18_000:]}"
    return {"status": run.status, "name": str(run.path.relative_to(folder).with_suffix("")),
            "link": _link(run, folder), "error": run.error, "traceback": text,
            "source": stopped.source if stopped else ""}


def _errors(cell: Any) -> list[Any]:
    """What stopped a cell; a lesson's error that is to be seen did not."""
    if cell is None or "raises-exception" in cell.metadata.get("tags", []):
        return []
    return [output for output in cell.outputs if output.output_type == "error"]


def _widget_traceback(notebook: Any) -> list[str]:
    """Of an error in a widget's callback, which no cell shows."""
    state = notebook.metadata.get("widgets", {}).get(_WIDGETS, {}).get("state", {})
    return [line for entry in state.values() for output in entry["state"].get("outputs", [])
            if output["output_type"] == "error" for line in output.get("traceback", [])]
