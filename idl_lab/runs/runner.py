"""Headless runs of the lab series: each notebook in a kernel of its own, with a record of it."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import platform
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import nbformat
from papermill.execute import ERROR_MARKER_TAG
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from idl_lab.records import filmed
from idl_lab.runs import results, series
from idl_lab.runs.folders import LOCK, lock, new_folder
from idl_lab.runs.kernel import Execution
from idl_lab.runs.progress import Progress, Silent
from idl_lab.runs.results import RunResult
from idl_lab.runs.widgets import widget_error

# A kernel is interrupted before it is shut down, and says so if it has not yet gone idle.
_SHUT_DOWN = b"[IPKernelApp] ERROR | KeyboardInterrupt caught in kernel.\n"


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `.results` holds the notebooks up to and with the interrupted one."""

    def __init__(self, results: list[RunResult]) -> None:
        super().__init__("interrupted")
        self.results = results


def run_notebooks(notebooks: Sequence[str | Path] = (), parameters: Mapping[str, Any] | None = None,
                  out: str | Path | None = None, progress: Progress | None = None, *,
                  resume: bool = False, timeout: float | None = None,
                  cwd: str | Path | None = None) -> list[RunResult]:
    """Run labs one after the other, each into the folder `out`.

    Parameters
    ----------
    notebooks : sequence of str or Path
        Numbers, names or paths; none means the whole series.
    parameters : mapping
        Each is given to the notebooks that have it.
    out : str or Path, optional
        A new or empty folder; default ``runs/<time>``.
    progress : Progress, optional
        Told where the run is; silent by default.
    resume : bool
        Go on in the folder `out` of an earlier run: a notebook that is there and ended well, with
        the same cells and parameters under this version, is not run again.
    timeout : float, optional
        Seconds for each notebook; none by default.
    cwd : str or Path, optional
        The folder that the notebooks work in; `out` by default.

    Returns
    -------
    list of RunResult
        One per notebook. A notebook that fails does not stop the others.

    Raises
    ------
    ValueError
        Before any work starts: unknown notebook or parameter, wrong value, missing device, a
        folder that cannot be had or that another run works in.
    RunInterrupted
        On Ctrl-C.
    """
    parameters = dict(parameters or {})
    labs = series.find(notebooks)
    series.check_parameters(labs, parameters)
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is in seconds above 0, got {timeout:g}.")
    if cwd is not None and not Path(cwd).is_dir():
        raise ValueError(f"cwd={str(cwd)!r} is no folder.")
    if resume and out is None:
        raise ValueError("to resume, name the folder of the run (--out DIR).")
    out = new_folder(out)
    progress = Silent() if progress is None else progress
    done: list[RunResult] = []
    with lock(out), filmed():
        _look_at(out, labs, resume)
        try:
            for lab in labs:
                given = {name: value for name, value in parameters.items()
                         if name in lab.parameters}
                target = out / lab.path.name
                kept = finished(lab, given, target) if resume else None
                if kept:
                    progress.keep(lab.name)
                done.append(kept or run_one(lab, given, target, timeout, cwd, progress))
                if done[-1].status == "interrupted":
                    raise KeyboardInterrupt
                done[-1] = _with_pictures(done[-1])
        except KeyboardInterrupt:
            raise RunInterrupted(done) from None
    return done


def run_one(lab: series.Lab, parameters: Mapping[str, Any], target: Path,
            timeout: float | None = None, cwd: str | Path | None = None,
            progress: Progress | None = None) -> RunResult:
    """Run one notebook in a kernel of its own and keep it, with its record, as `target`.

    It appears under that name when it has ended, well or not, and so is always whole. What the
    kernel itself said, a crash's stack say, stands beside it (``.log``) where it did not end well.

    Parameters
    ----------
    lab : Lab
    parameters : mapping
        Names and values, all known to the lab; the others keep their defaults.
    target : Path
        The executed notebook, in a folder that is there.
    timeout : float, optional
        Seconds for all its cells.
    cwd : str or Path, optional
        The folder that it works in; that of `target` by default.
    progress : Progress, optional
        Told where it is; silent by default.

    Returns
    -------
    RunResult
        Whatever happens: an error, a kernel that dies, a disk that is full, or Ctrl-C are told
        in its status and error.
    """
    progress = Silent() if progress is None else progress
    progress.start(lab.name)
    begun = time.perf_counter()
    record = expected(lab, parameters) | {
        "status": "failed", "error": "", "seconds": 0.0, "device": "", "peak_memory_mb": None,
        "commit": _commit(), "versions": _versions(), "host": platform.node(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds")}
    numbers: dict[str, results.Number] = {}
    try:
        notebook = load_notebook_node(str(lab.path))
        if parameters:
            notebook = parameterize_notebook(notebook, dict(parameters), kernel_name="python3",
                                             language="python")
        with tempfile.TemporaryFile() as log:
            record |= _execute(notebook, Path(cwd or target.parent), log, timeout, progress)
            record["seconds"] = round(time.perf_counter() - begun, 2)
            numbers = results.recorded(notebook)
            _keep(notebook, record, target, log)
    except (KeyboardInterrupt, Exception) as failure:  # a second Ctrl-C, a disk that is full
        stopped = isinstance(failure, KeyboardInterrupt)
        error = "interrupted" if stopped else _one_line(type(failure).__name__, failure)
        if isinstance(failure, OSError):
            error = f"{target.name} cannot be written: {failure.strerror or failure}"
        record |= {"status": "interrupted" if stopped else "failed",
                   "error": "; ".join(filter(None, [record["error"], error])),
                   "seconds": round(time.perf_counter() - begun, 2)}
    progress.end(record["status"], record["error"])
    return RunResult(target, record, numbers)


def expected(lab: series.Lab, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a run before it is made: notebook, source, parameters, version.

    Parameters
    ----------
    lab : Lab
    parameters : mapping
        Those that are given; all others have their defaults.
    """
    cells = nbformat.read(lab.path, as_version=4).cells
    source = json.dumps([[cell.cell_type, cell.source] for cell in cells])
    return {"notebook": lab.name, "source": hashlib.sha256(source.encode()).hexdigest(),
            "parameters": json.loads(json.dumps(lab.effective(parameters), default=str)),
            "version": sys.modules["idl_lab"].__version__}


def finished(lab: series.Lab, parameters: Mapping[str, Any], target: Path) -> RunResult | None:
    """The run that `target` holds, if it ended well and another would be the same; else None.

    Parameters
    ----------
    lab : Lab
    parameters : mapping
    target : Path
    """
    result = results.read(target) if target.exists() else None
    if result is None or result.status != "ok":
        return None
    wanted = expected(lab, parameters)
    return result if wanted == {name: result.record.get(name) for name in wanted} else None


@contextlib.contextmanager
def told_to_end() -> Iterator[dict[str, int]]:
    """SIGTERM, as Slurm and `timeout` send it, is an interrupt: what was done is told and kept.

    Yields
    ------
    dict
        Its `status`, 143, is there when the signal came. It is for the main thread.

    Raises
    ------
    KeyboardInterrupt
        When the signal comes.
    """
    came: dict[str, int] = {}

    def interrupt(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one does not cut the ending short
        came["status"] = 128 + number
        raise KeyboardInterrupt("told to end (SIGTERM)")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _look_at(out: Path, labs: Sequence[series.Lab], resume: bool) -> None:
    """A run replaces nothing but what a run wrote."""
    if not resume and any(path.name != LOCK for path in out.iterdir()):
        raise ValueError(f"{out} is not an empty folder; a run wants a new one, or --resume to go "
                         f"on with the one that is there.")
    for target in (out / lab.path.name for lab in labs):
        if target.exists() and results.read(target) is None:
            raise ValueError(f"{target} was not written by a run, and is not replaced by one.")


def _execute(notebook: nbformat.NotebookNode, cwd: Path, log: BinaryIO, timeout: float | None,
             progress: Progress) -> dict[str, Any]:
    """Run the cells; what the record then says of status, error, device and memory."""
    status, error = "failed", ""
    run = Execution(notebook, cwd, log, timeout, progress.cell)
    try:
        try:
            run.run()
        except RuntimeError:  # a kernel that dies before its first cell gets another go
            if run.cell:
                raise
            run.run()
    except KeyboardInterrupt as stop:
        status, error = "interrupted", str(stop) or "interrupted"
    except Exception as failure:
        error = _one_line(type(failure).__name__, failure)
        if run.time_is_up:
            status, error = "timed out", f"timed out after {timeout:g} s"
    else:
        if run.error:
            failure = run.facts.get("failure") or {}
            error = _one_line(run.error["ename"], failure.get("message", run.error["evalue"]))
            error += _line_and_values(failure, run.cell)
    if error:
        error = f"cell {run.cell}: {error}" if run.cell else error
    else:
        error = widget_error(notebook)
        status = "failed" if error else "ok"
    said = {name: value for name, value in run.facts.items() if name != "failure"}
    return {"status": status, "error": error, "peak_memory_mb": run.peak_memory_mb, **said}


def _one_line(name: str, text: object) -> str:
    text = " ".join(str(text).split())
    return textwrap.shorten(f"{name}: {text}" if text else name, 300, placeholder=" ...")


def _line_and_values(failure: Mapping[str, Any], cell: int) -> str:
    """` (line 3: assert gap < tol, where gap = 0.2, tol = 0.1)`."""
    if not failure:
        return ""
    where = f"line {failure['line']}"
    if failure["cell"] != cell:  # a function of an earlier cell
        where = f"cell {failure['cell']}, {where}"
    names = ", ".join(f"{name} = {value}" for name, value in failure["values"].items())
    said = [textwrap.shorten(text, 200, placeholder=" ...") for text in (failure["source"], names)]
    return f" ({where}: {', where '.join(filter(None, said))})"


def _keep(notebook: nbformat.NotebookNode, record: Mapping[str, Any], target: Path, log: BinaryIO,
          ) -> None:
    """Save the notebook with its record, and on top of it what stopped it."""
    notebook.metadata[results.KEY] = dict(record)
    if record["error"]:
        text = f"**{record['status']}**\n```text\n{record['error']}\n```"
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(
            text, metadata={"tags": [ERROR_MARKER_TAG]}))  # a next papermill takes it away
    results.save(target, nbformat.writes(notebook).encode())
    log.seek(max(0, log.seek(0, 2) - 2**20))  # of a kernel that talks without end its last words
    last_words, beside = log.read().replace(_SHUT_DOWN, b""), target.with_suffix(".log")
    if record["error"] and last_words:
        results.save(beside, last_words)
    else:
        beside.unlink(missing_ok=True)


@functools.cache
def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


@functools.cache
def _commit() -> str:
    """The commit of the checkout that this package stands in, ``-dirty`` if it was changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed: a repository around it is not this one
        return ""
    try:
        return subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40",
             "--exclude=*"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _with_pictures(result: RunResult) -> RunResult:
    """The result with its notebook's pictures as files, in the folder `pictures/` beside it."""
    if not result.path.exists():
        return result
    cells = json.loads(result.path.read_text(encoding="utf-8"))["cells"]
    images = [output["data"]["image/png"] for cell in cells for output in cell.get("outputs", [])
              if "image/png" in output.get("data", {})]
    folder, saved = result.path.parent / "pictures", []
    try:
        for k, image in enumerate(images, start=1):
            folder.mkdir(exist_ok=True)
            saved.append(folder / f"{result.path.stem}-{k:02d}.png")
            content = base64.b64decode("".join(image))
            if not (saved[-1].exists() and saved[-1].read_bytes() == content):
                results.save(saved[-1], content)
    except OSError as error:
        because = f"{saved[-1].name} cannot be written: {error.strerror}"
        return replace(result, record={**result.record, "status": "failed", "error": because})
    return replace(result, pictures=tuple(saved))
