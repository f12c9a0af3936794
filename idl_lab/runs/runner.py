"""Headless runs of the lab series: papermill, a summary, the pictures."""

from __future__ import annotations

import base64
import logging
import textwrap
import time
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from queue import Empty
from typing import Any, BinaryIO

import nbformat
import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

from idl_lab.runs import series
from idl_lab.runs.progress import Progress, Silent
from idl_lab.runs.results import RunResult, recorded, write_summary

_WIDGETS = "application/vnd.jupyter.widget-state+json"
_VIEW = "application/vnd.jupyter.widget-view+json"
logging.getLogger("papermill").addHandler(logging.NullHandler())  # the summary has its errors


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `.results` holds the notebooks up to and with the interrupted one."""

    def __init__(self, results: list[RunResult]) -> None:
        super().__init__("interrupted")
        self.results = results


def run_notebooks(notebooks: Sequence[str | Path] = (), parameters: Mapping[str, Any] | None = None,
                  out: str | Path | None = None, progress: Progress | None = None,
                  ) -> list[RunResult]:
    """Run labs one after the other, each into the folder `out`, and summarise them there.

    Parameters
    ----------
    notebooks : sequence of str or Path
        Numbers, names or paths; none means the whole series.
    parameters : mapping
        Given to every notebook; each has to know all of them.
    out : str or Path, optional
        A new or empty folder; default ``runs/<time>``.
    progress : Progress, optional
        Told where the run is; silent by default.

    Returns
    -------
    list of RunResult
        One per notebook. A notebook that fails does not stop the others.

    Raises
    ------
    ValueError
        Before any work starts: unknown notebook or parameter, wrong type, missing device.
    RunInterrupted
        On Ctrl-C, after what was finished has been summarised.
    """
    parameters = dict(parameters or {})
    labs = series.find(notebooks)
    series.check_parameters(labs, parameters)
    out = _new_folder(out)
    progress = Silent() if progress is None else progress
    results: list[RunResult] = []
    for lab in labs:
        progress.start(lab.name)
        result, interrupted = _run(lab, parameters, out, progress)
        progress.end(result.status, result.error)
        results.append(result)
        write_summary(results, out / "summary.csv")
        if interrupted:
            raise RunInterrupted(results)
    return results


def _new_folder(out: str | Path | None) -> Path:
    if out is not None:
        path = Path(out).resolve()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} is not an empty folder; a run wants a new one.")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{path} cannot be made ({error.strerror}); a run wants a folder "
                             f"that it may write to.") from None
        return path
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for again in range(100):
        path = Path.cwd() / "runs" / (f"{stamp}_{again:02d}" if again else stamp)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise ValueError(f"a hundred runs started in the second {stamp}; wait for the next.")


def _run(lab: series.Lab, parameters: dict[str, Any], out: Path, progress: Progress,
         ) -> tuple[RunResult, bool]:
    target = out / lab.path.name
    begun = time.perf_counter()
    error, interrupted = "", False
    at = _Place(progress, target)
    try:
        try:
            _execute(lab, parameters, target, at)
        except RuntimeError:  # also a kernel that dies; before its first cell it gets another go
            if at.cell:
                raise
            _execute(lab, parameters, target, at)
    except KeyboardInterrupt:
        error, interrupted = "interrupted", True
    except Exception as failure:
        error = f"cell {at.cell}: {_one_line(failure)}" if at.cell else _one_line(failure)
    seconds = time.perf_counter() - begun
    notebook = (nbformat.read(target, as_version=4) if target.exists()
                else nbformat.v4.new_notebook())
    error = error or _widget_error(notebook)
    if _log(target).exists() and not (error and _log(target).stat().st_size):
        _log(target).unlink()
    return RunResult(lab.name, target, "failed" if error else "ok", seconds, error,
                     recorded(notebook), _save_pictures(notebook, out / "pictures", lab.name),
                     ), interrupted


class _Place:
    """Which cell runs. Code cells are counted, so cell 7 is the one that shows In [7]."""

    def __init__(self, progress: Progress, target: Path) -> None:
        self.progress, self.target, self.cell, self.total = progress, target, 0, 0

    def __call__(self, cell: Any, cell_index: int) -> None:
        if not self.total:
            cells = nbformat.read(self.target, as_version=4).cells
            self.total = sum(_runs(c) for c in cells)
        if _runs(cell):
            self.cell += 1
            self.progress.cell(self.cell, self.total)


def _runs(cell: Any) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _execute(lab: series.Lab, parameters: dict[str, Any], target: Path, at: _Place) -> None:
    with _log(target).open("ab") as log:
        papermill.execute_notebook(
            lab.path, target, parameters, kernel_name="python3", language="python",
            progress_bar=False, cwd=target.parent, kernel_manager_class=_this_python(log),
            on_cell_start=at)


def _log(target: Path) -> Path:
    return target.with_suffix(".log")


class _LookingAgain(AsyncZMQSocketChannel):
    """A channel that looks every second whether a message is there.

    nbclient answers an Output widget by a send on the socket whose reply it awaits. A reply that
    comes during that send wakes nobody: its run would wait for ever, the kernel idle.
    """

    async def get_msg(  # type: ignore[override]
            self, timeout: float | None = None) -> dict[str, Any]:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1.0 if end is None else min(1.0, max(0.0, end - time.monotonic()))
            try:
                return await super().get_msg(left)
            except Empty:
                if end is not None and time.monotonic() >= end:
                    raise


class _Client(AsyncKernelClient):
    shell_channel_class = Type(_LookingAgain)


def _this_python(log: BinaryIO) -> type:
    """A kernel manager that starts this interpreter, whatever kernels the user has installed.

    What the kernel itself says, a crash's stack say, goes to `log`.
    """
    class ThisPythonSpec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            pictures_inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
            return KernelSpec(resource_dir=RESOURCES, env=pictures_inline, **get_kernel_dict())

    class ThisPython(AsyncKernelManager):
        client_factory = Type(_Client)

        def __init__(self, **options: Any) -> None:
            super().__init__(**options, kernel_spec_manager=ThisPythonSpec(),
                             transport_encryption="auto")

        def start_kernel(self, **options: Any) -> Awaitable[None]:  # type: ignore[override]
            return super().start_kernel(**options, stderr=log)

    return ThisPython


def _one_line(failure: Exception) -> str:
    name = getattr(failure, "ename", type(failure).__name__)
    text = " ".join(str(getattr(failure, "evalue", failure)).split())
    return textwrap.shorten(f"{name}: {text}" if text else name, 300, placeholder=" ...")


def _widget_error(notebook: Any) -> str:
    """The error that a callback left in an Output widget, where no cell shows it."""
    state = notebook.metadata.get("widgets", {}).get(_WIDGETS, {}).get("state", {})
    for model, entry in state.items():
        for output in entry["state"].get("outputs", []):
            if output["output_type"] == "error":
                text = " ".join(f"{output['ename']}: {output['evalue']}".split())
                return f"{_cell_showing(model, notebook, state)}{text} (in a widget's callback)"
    return ""


def _cell_showing(model: str, notebook: Any, state: Mapping[str, Any]) -> str:
    """`cell 7: ` for the first code cell whose output shows the model or a box that holds it."""
    for cell in notebook.cells:
        shown = [output.get("data", {}).get(_VIEW, {}).get("model_id")
                 for output in cell.get("outputs", [])]
        seen: set[str] = set()
        while shown:
            current = shown.pop()
            if current == model:
                return f"cell {cell.execution_count}: "
            if current in state and current not in seen:
                seen.add(current)
                children = state[current]["state"].get("children", [])
                shown += [child.removeprefix("IPY_MODEL_") for child in children]
    return ""


def _save_pictures(notebook: Any, folder: Path, name: str) -> tuple[Path, ...]:
    images = [output.data["image/png"] for cell in notebook.cells
              for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    saved = []
    for k, image in enumerate(images, start=1):
        folder.mkdir(exist_ok=True)
        saved.append(folder / f"{name}-{k:02d}.png")
        saved[-1].write_bytes(base64.b64decode(image))
    return tuple(saved)
