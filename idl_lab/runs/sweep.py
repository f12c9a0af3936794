"""Sweeps: a notebook run for every point of a grid, the runs shared out by Dask.

A worker gets all that a run needs and gives the executed notebook back; the process that called
`sweep` writes it. So the workers share no files with it, nor with one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import nbformat
import torch
from dask._task_spec import Task
from dask.system import CPU_COUNT
from distributed import (
    Client,
    KilledWorker,
    Lock,
    Nanny,
    Scheduler,
    SpecCluster,
    as_completed,
    get_worker,
)

from distributed.system import MEMORY_LIMIT

import idl_lab
from idl_lab.labs.sweeps.plots import draw_runs
from idl_lab.runs import results, runner, series
from idl_lab.runs.progress import Silent
from idl_lab.validation import resolve_device

if TYPE_CHECKING:
    import pandas

GIGABYTES = 2  # of memory that a run is given room for, where the number of workers is ours
CONNECT = 10.0  # seconds in which a scheduler has to answer
# A run is tried again twice where its worker died. And a worker is given no second run to hold
# while the first goes on: that one would be blamed for the worker's death as well.
SCHEDULER = {"distributed.scheduler.allowed-failures": 2,
             "distributed.scheduler.worker-saturation": 1.0}
# Ctrl-C goes to every process of a terminal: the workers leave it to the one that they work for.
DEAF = "import signal\nsignal.signal(signal.SIGINT, lambda *arguments: None)\n"


@dataclass(frozen=True)
class Job:
    """What a worker needs for one run.

    Parameters
    ----------
    lab : str
        Its name.
    source : str
        The notebook, without outputs.
    parameters : mapping
    timeout : float, optional
        Seconds for all its cells.
    version : str
        The caller's idl_lab.
    """

    lab: str
    source: str
    parameters: Mapping[str, Any]
    timeout: float | None
    version: str


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
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is in seconds above 0, got {timeout:g}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    if workers is not None and scheduler is not None:
        raise ValueError("give workers or a scheduler: its workers are its own.")
    if resume and out is None:
        raise ValueError("to resume, name the folder of the sweep (--out DIR).")
    say = say or (lambda line: None)
    folder = runner._folder(out)
    with runner.lock(folder):
        todo = _todo(lab, runs, folder, resume)
        if len(todo) < len(runs):
            say(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")
        if not todo:
            return _tabulate(folder, list(grid), say)
        with _client(scheduler, workers, list(todo.values()), say) as client:
            try:
                _share_out(client, lab, todo, folder, timeout, say)
            finally:  # before the workers are stopped: a batch system gives little time for both
                table = _tabulate(folder, list(grid), say)
        return table


def _tabulate(folder: Path, swept: Sequence[str], say: Callable[[str], object],
              ) -> pandas.DataFrame:
    results.write_tables(folder)
    table = results.results(folder)
    counts = ", ".join(f"{count} {status}" for status, count in
                       table["status"].value_counts().items())
    pictures = draw_all(folder, swept)
    say(f"{counts or 'no run ended'}: results.csv, results.parquet and {len(pictures)} pictures "
        f"are in {folder}")
    return table


def plan(lab: series.Lab, grid: Mapping[str, Sequence[Any]], repeat: int = 1,
         parameters: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The runs of a sweep: the name of each one's file, and the parameters that it is given.

    Parameters
    ----------
    lab : Lab
    grid : mapping of str to sequence
    repeat : int
    parameters : mapping, optional
        As for `sweep`.

    Raises
    ------
    ValueError
        With one sentence, where the grid is not one.
    """
    parameters, grid = dict(parameters or {}), {name: list(grid[name]) for name in grid}
    if repeat < 1:
        raise ValueError(f"every combination is run at least once, got repeat={repeat}.")
    if not grid and repeat == 1:
        raise ValueError("there is nothing to sweep: a grid is wanted, such as kappa=0.5,0.9.")
    for name, values in grid.items():
        if name in parameters:
            raise ValueError(f"parameter {name!r} has a grid and a value as well: give one.")
        if not values:
            raise ValueError(f"the grid of {name!r} has no values; such as kappa=0.5,0.9 is one.")
        for k, value in enumerate(values):
            series.check_parameters([lab], parameters | {name: value})
            if any(type(value) is type(other) and value == other or
                   {type(value), type(other)} == {int, float} and value == other
                   for other in values[:k]):
                raise ValueError(f"{name}={spelled(value)} stands in the grid twice.")
    if "seed" in lab.parameters and "seed" not in grid:
        first = parameters.get("seed", _default(lab.parameters["seed"]))
        grid["seed"] = [first + k for k in range(repeat)]
        series.check_parameters([lab], {"seed": grid["seed"][-1]})
    elif repeat > 1:
        raise ValueError("the grid has seeds of its own: leave out the repeats." if "seed" in grid
                         else f"{lab.name} has no parameter 'seed' to repeat it with.")
    points = [parameters | dict(zip(grid, point, strict=True))
              for point in itertools.product(*grid.values())]
    return {stem(lab.name, point): point for point in points}


def read_grid(given: Sequence[str]) -> dict[str, list[Any]]:
    """The grid that the command line gives: ``kappa=0.5,0.9``, ``rank=1,5,none``.

    Parameters
    ----------
    given : sequence of str

    Raises
    ------
    ValueError
        With one sentence, where it cannot be read.
    """
    grid: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = (part.strip() for part in text.partition("="))
        found: list[str] = []
        for piece in values.split(","):
            if found and not _whole(found[-1]):  # a comma of a list or of a text
                found[-1] += f",{piece}"
            else:
                found.append(piece)
        if not name or not equals or not all(value.strip() for value in found):
            raise ValueError(f"--grid {text!r} is no grid: write a parameter and its values, such "
                             f"as kappa=0.5,0.9 or rank=1,5,none.")
        if name in grid:
            raise ValueError(f"parameter {name!r} has two grids: write all its values in one.")
        grid[name] = [_value(value.strip()) for value in found]
    return grid


def _whole(text: str) -> bool:
    return (text.count("[") == text.count("]") and text.count("(") == text.count(")")
            and text.count("'") % 2 == text.count('"') % 2 == 0)


def _value(text: str) -> Any:
    """A value of the command line: as Python writes it, and none, true, false."""
    return {"none": None, "true": True, "false": False}.get(text.lower(), series.value(text))


def _default(parameter: Any) -> Any:
    return getattr(parameter, "default", parameter)


def spelled(value: Any) -> str:
    """A value as one writes it on the command line: none, true, 0.5, relu.

    Parameters
    ----------
    value : object
    """
    return value if isinstance(value, str) else (
        str(value).lower() if value is None or isinstance(value, bool) else repr(value))


def stem(lab: str, parameters: Mapping[str, Any]) -> str:
    """The name of a run's file: ``05_training,kappa=0.5,rank=none,seed=0``.

    Where the values cannot all be read from it, a few letters tell it from others: so of signs
    that a file's name may not have, capitals that some systems take for small letters, a text
    that reads like a number, and of too many values for a name.

    Parameters
    ----------
    lab : str
    parameters : mapping
    """
    said = {name: re.sub(r"[^\w.+-]", "_", spelled(value)) for name, value in parameters.items()}
    name = ",".join([lab, *(f"{key}={text}" for key, text in said.items())])
    plain = all(text == text.lower() and repr(_value(text)) == repr(parameters[key])
                for key, text in said.items())
    if plain and len(name) <= 150:
        return name
    exact = json.dumps(dict(parameters), default=str)
    return f"{name[:150]},{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


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


def cards() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(card) for card in range(count)]


@contextlib.contextmanager
def _client(scheduler: str | None, workers: int | None, runs: Sequence[Mapping[str, Any]],
            say: Callable[[str], object]) -> Iterator[Client]:
    """A client of the scheduler at that address, or of workers on this machine."""
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler!r} ({_line(error)}); an "
                             f"address such as tcp://host:8786 is wanted.") from None
        with client:
            _same_versions(client)
            if not client.scheduler_info()["workers"]:
                say("the scheduler has no workers yet: the runs wait for them")
            say(f"dashboard: {client.dashboard_link}")
            yield client
        return
    devices = {resolve_device(run.get("device", "cpu")) for run in runs}
    spread = cards() if torch.device("cuda") in devices else []
    on_one = devices - {torch.device("cpu"), torch.device("cuda")}  # cuda:1, or mps
    most = len(spread) if spread else 1 if on_one else max(1, min(
        CPU_COUNT, int(MEMORY_LIMIT // (GIGABYTES * 2**30))))
    if workers is not None and workers > most and (spread or on_one):
        raise ValueError(f"{workers} workers want a GPU each, and there is {most}: one run at a "
                         f"time has one.")
    with local_cluster(min(workers or most, len(runs)), spread) as cluster, \
            Client(cluster) as client:
        say(f"dashboard: {cluster.dashboard_link}")
        yield client


@contextlib.contextmanager
def local_cluster(workers: int, gpus: Sequence[str] = ()) -> Iterator[SpecCluster]:
    """Worker processes on this machine, each for one run at a time, the cores shared out.

    Parameters
    ----------
    workers : int
    gpus : sequence of str
        Names of cards; each worker sees its own alone.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, CPU_COUNT // workers)))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
                                threads)

    def worker(k: int) -> dict[str, Any]:
        own = {"CUDA_VISIBLE_DEVICES": gpus[k]} if gpus else {}
        return {"cls": Nanny, "options": {
            "nthreads": 1, "host": "127.0.0.1", "dashboard": False, "memory_limit": 0,
            "preload": [DEAF], "env": environment | own, "silence_logs": logging.CRITICAL}}

    with dask.config.set(SCHEDULER), SpecCluster(
            workers={k: worker(k) for k in range(workers)}, silence_logs=logging.CRITICAL,
            scheduler={"cls": Scheduler, "options": {
                "host": "127.0.0.1", "port": 0, "dashboard": True,
                "dashboard_address": "127.0.0.1:0"}}) as cluster:
        yield cluster


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
        job = Job(lab.name, source, given, timeout, idl_lab.__version__)
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
    said, host = _line(error), ""
    if isinstance(error, KilledWorker):
        said = (f"the worker died each of the {error.allowed_failures + 1} times that it was run "
                f"(the last at {error.last_worker.address}); often the memory is not enough")
        host = error.last_worker.host or ""
    notebook.metadata[results.KEY] = runner.expected(lab, parameters) | {
        "status": "failed", "error": said, "seconds": None, "device": "", "peak_memory_mb": None,
        "commit": "", "versions": {}, "host": host, "started": ""}
    return nbformat.writes(notebook).encode()


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _duration(seconds: float) -> str:
    return (f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
            if seconds < 6000 else f"{seconds / 3600:.1f} h")


def execute(job: Job) -> tuple[bytes, bytes]:
    """On a worker: run one notebook; give it and its kernel's log back.

    Parameters
    ----------
    job : Job

    Raises
    ------
    RuntimeError
        If this is another version of idl_lab, or the notebook could not be kept.
    """
    if job.version != idl_lab.__version__:
        raise RuntimeError(_another(platform.node(), idl_lab.__version__, job.version))
    worker = get_worker()
    # In a folder of Dask's, which it clears away where a worker dies.
    with tempfile.TemporaryDirectory(dir=worker.local_directory) as scratch, _one_at_a_time(job):
        source, target = (Path(scratch) / place / f"{job.lab}.ipynb" for place in ("in", "out"))
        source.parent.mkdir()
        target.parent.mkdir()
        source.write_text(job.source, encoding="utf-8")
        result = runner.run_one(series.read_lab(source), job.parameters, target, job.timeout,
                                progress=_UntilCancelled(worker, worker.get_current_task()))
        if not target.exists():
            raise RuntimeError(result.error)
        log = target.with_suffix(".log")
        return target.read_bytes(), log.read_bytes() if log.exists() else b""


def _one_at_a_time(job: Job) -> contextlib.AbstractContextManager:
    """A lock on this worker's GPU, where the run uses one: workers may have several threads."""
    device = resolve_device(job.parameters.get("device", "cpu"))
    if device.type == "cpu":
        return contextlib.nullcontext()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return Lock(f"idl_lab {platform.node()} {device} of {visible}")


class _UntilCancelled(Silent):
    """Ends a run at its next cell where nobody waits for it any more."""

    def __init__(self, worker: Any, key: Any) -> None:
        super().__init__()
        self.worker, self.key = worker, key

    def cell(self, number: int, of: int) -> None:
        task = self.worker.state.tasks.get(self.key)
        if task is None or task.state == "cancelled":
            raise KeyboardInterrupt


def _version() -> str:
    return idl_lab.__version__


def _another(host: str, theirs: str, ours: str) -> str:
    return (f"the worker {host} has idl_lab {theirs}, and {ours} is wanted: install the same "
            f"version there.")


def _same_versions(client: Client) -> None:
    for address, theirs in client.run(_version, on_error="return").items():
        if theirs != idl_lab.__version__:
            theirs = "that cannot be imported" if isinstance(theirs, BaseException) else theirs
            raise ValueError(_another(address, theirs, idl_lab.__version__))


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
        name for path in table["path"] for name, value in results.read(folder / path).numbers.items()
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
