"""Sweeps: a notebook run for every point of a grid, the runs shared out by Dask."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from dask._task_spec import Task
from distributed import Client, KilledWorker, as_completed

from idl_lab.labs.sweeps.plots import draw_runs
from idl_lab.runs import results, runner, series
from idl_lab.runs.folders import lock, new_folder
from idl_lab.runs.grid import plan
from idl_lab.runs.workers import Job, client_of, execute, one_line, version

if TYPE_CHECKING:
    import pandas


def sweep(notebook: str | Path, grid: Mapping[str, Sequence[Any]], repeat: int = 1,
          parameters: Mapping[str, Any] | None = None, out: str | Path | None = None, *,
          workers: int | None = None, scheduler: str | None = None,
          timeout: float | None = None, resume: bool = False,
          say: Callable[[str], object] | None = None) -> pandas.DataFrame:
    """Run a notebook once for every point of a grid, and tabulate what the runs recorded.

    The folder then holds an executed notebook a run, ``results.csv``, ``results.parquet``, and in
    ``pictures/`` every recorded number against every swept parameter. Called from a script rather
    than from a notebook, it has to stand below ``if __name__ == "__main__":``, since workers are
    processes that import the script.

    Parameters
    ----------
    notebook : str or Path
        Number, name or path, as for `run`.
    grid : mapping of str to sequence
        Parameters of the notebook, and the values of each; every combination is run.
    repeat : int
        Runs of each combination, with seeds seed, seed + 1, …
    parameters : mapping, optional
        Given to all runs.
    out : str or Path, optional
        A new or empty folder; default ``runs/<time>``.
    workers : int, optional
        Processes on this machine, each with one run at a time. By default one a GPU where the
        runs use these, else as many as there are cores, and memory for 2 GiB each.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers are used instead.
    timeout : float, optional
        Seconds for each run.
    resume : bool
        Go on in the folder ``out``: a run that is there and ended well, with the same cells and
        parameters under this version, is not run again.
    say : callable, optional
        Given each line of progress, such as `print`.

    Returns
    -------
    pandas.DataFrame
        All runs of the folder, as from `results`.

    Raises
    ------
    ValueError
        Before any work starts: a grid that is empty, says a value twice or has one that is not
        legal, a folder that cannot be had, a scheduler that does not answer, or whose workers
        have another version of idl_lab.
    KeyboardInterrupt
        On Ctrl-C, when the tables of what is done are written.
    ConnectionError
        If the scheduler is lost on the way; again with the tables written.
    """
    [lab] = series.find([notebook])
    runs = plan(lab, grid, repeat, parameters)
    if scheduler is None:  # a device of the workers need not be one of this machine
        for given in runs.values():
            series.check_parameters([lab], given)
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is in seconds above 0, got {timeout:g}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    if workers is not None and scheduler is not None:
        raise ValueError("give workers or a scheduler: its workers are its own.")
    if resume and out is None:
        raise ValueError("to resume, name the folder of the sweep (--out DIR).")
    say = say or (lambda line: None)
    folder = new_folder(out)
    with lock(folder):
        todo = _todo(lab, runs, folder, resume)
        if len(todo) < len(runs):
            say(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")
        if not todo:
            return _tabulate(folder, list(grid), say)
        with client_of(scheduler, workers, [lab.effective(run) for run in todo.values()],
                       say) as client:
            try:
                _share_out(client, lab, todo, folder, timeout, say)
            finally:  # before the workers are stopped: a batch system gives little time for both
                table = _tabulate(folder, list(grid), say)
        return table


def _tabulate(folder: Path, swept: Sequence[str], say: Callable[[str], object],
              ) -> pandas.DataFrame:
    table = results.write_tables(folder)
    counts = ", ".join(f"{count} {status}" for status, count in
                       table["status"].value_counts().items())
    pictures = draw_all(folder, swept)
    say(f"{counts or 'no run ended'}: results.csv, results.parquet and {len(pictures)} pictures "
        f"are in {folder}")
    return table


def _todo(lab: series.Lab, runs: Mapping[str, dict[str, Any]], folder: Path, resume: bool,
          ) -> dict[str, dict[str, Any]]:
    """The runs that are not there; those that are there are never replaced by others."""
    targets = {name: folder / f"{name}.ipynb" for name in runs}
    if not resume and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"{folder} is not an empty folder; a sweep wants a new one, or --resume "
                         f"to go on with the one that is there.")
    for target in targets.values():
        if target.exists() and results.read(target) is None:
            raise ValueError(f"{target} was not written by a run, and is not replaced by one.")
    return {name: given for name, given in runs.items()
            if not (resume and runner.finished(lab, given, targets[name]))}


def _share_out(client: Client, lab: series.Lab, runs: Mapping[str, dict[str, Any]], folder: Path,
               timeout: float | None, say: Callable[[str], object]) -> None:
    """Let the workers do all runs, and write each as it comes back."""
    notebook = nbformat.read(lab.path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    source, sweep_id = nbformat.writes(notebook), uuid.uuid4().hex[:8]
    futures = []
    for k, (name, given) in enumerate(runs.items()):
        key = f"{lab.name}-{sweep_id}", name
        job = Job(lab.name, source, given, timeout, version(),
                  lab.effective(given).get("device", "cpu"))
        # Data producers wait at the scheduler for a worker that is free, be they many or few.
        task = Task(key, execute, job, _data_producer=True)
        futures.append(client.get({key: task}, key, sync=False, priority=-k))
    done, spent = 0, 0.0
    for future in as_completed(futures):
        name = future.key[1]
        target = folder / f"{name}.ipynb"
        try:
            executed, log = future.result()
        except asyncio.CancelledError:
            raise ConnectionError(f"the scheduler was lost after {done} of {len(runs)} runs; "
                                  f"--resume goes on.") from None
        except Exception as error:
            executed, log = _failed(notebook, lab, runs[name], error), b""
        results.save(target, executed)
        if log:
            results.save(target.with_suffix(".log"), log)
        else:
            target.with_suffix(".log").unlink(missing_ok=True)
        future.release()  # the scheduler need not keep what is written
        done += 1
        record = results.read(target).record
        took = "" if record["seconds"] is None else f"  {record['seconds']:.1f} s"
        spent += record["seconds"] or 0.0
        left = spent / done * (len(runs) - done) / max(1, sum(client.nthreads().values()))
        say(f"[{done}/{len(runs)}] {name.partition(',')[2] or name}  {record['status']}{took}"
            f"{'  ' if record['error'] else ''}{record['error']}"
            + (f"  (about {_duration(left)} left)" if done < len(runs) else ""))


def _failed(notebook: nbformat.NotebookNode, lab: series.Lab, parameters: Mapping[str, Any],
            error: Exception) -> bytes:
    """The notebook of a run that came to nothing, with a record that says why."""
    said, host = one_line(error), ""
    if isinstance(error, KilledWorker):
        said = (f"the worker died each of the {error.allowed_failures + 1} times that it was run "
                f"(the last at {error.last_worker.address}); often the memory is not enough")
        host = error.last_worker.host or ""
    notebook.metadata[results.KEY] = runner.expected(lab, parameters) | {
        "status": "failed", "error": said, "seconds": None, "device": "", "peak_memory_mb": None,
        "commit": "", "versions": {}, "host": host, "started": ""}
    return nbformat.writes(notebook).encode()


def _duration(seconds: float) -> str:
    return (f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
            if seconds < 6000 else f"{seconds / 3600:.1f} h")


def draw_all(folder: Path, swept: Sequence[str]) -> list[Path]:
    """Draw every recorded number against every swept parameter, into ``pictures/``.

    Parameters
    ----------
    folder : Path
        Of a sweep.
    swept : sequence of str
        The parameters.

    Returns
    -------
    list of Path
        The pictures.
    """
    table = results.results(folder)
    table = table[table["status"] == "ok"]
    numbers = list(dict.fromkeys(
        name for path in table["path"]
        for name, value in results.read(folder / path).numbers.items()
        if not isinstance(value, str)))
    drawn = []
    columns = {name: f"{name}_recorded" if f"{name}_recorded" in table else name
               for name in numbers} | {"seconds": "seconds"}
    swept = [name for name in swept if name in table and table[name].nunique(dropna=False) > 1]
    for name, column in columns.items():
        for against in swept:
            others = [other for other in swept if other not in (against, "seed")]
            figure = draw_runs(table, column, against, by=others)
            drawn.append(folder / "pictures" / f"{name}-against-{against}.png")
            drawn[-1].parent.mkdir(exist_ok=True)
            figure.savefig(drawn[-1])
    return drawn
