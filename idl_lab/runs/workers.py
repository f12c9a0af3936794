"""The workers of a sweep: processes of Dask's, on this machine or wherever its scheduler has them.

A worker gets all that a run needs and gives the executed notebook back; so the workers share no
files with the process that asks them, nor with one another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, Lock, Nanny, Scheduler, SpecCluster, get_worker
from distributed.comm import get_address_host_port
from distributed.system import MEMORY_LIMIT

from idl_lab.runs import runner, series
from idl_lab.runs.progress import Silent
from idl_lab.validation import resolve_device

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
    device : str
        Where it computes, as the notebook is told.
    """

    lab: str
    source: str
    parameters: Mapping[str, Any]
    timeout: float | None
    version: str
    device: str = "cpu"


def cards() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(card) for card in range(count)]


@contextlib.contextmanager
def client_of(scheduler: str | None, workers: int | None, runs: Sequence[Mapping[str, Any]],
            say: Callable[[str], object]) -> Iterator[Client]:
    """A client of the scheduler at that address, or of workers on this machine.

    Parameters
    ----------
    scheduler : str, optional
    workers : int, optional
        As for `sweep`.
    runs : sequence of mapping
        The parameters of each run, of which ``device`` counts.
    say : callable
        Given each line of progress.

    Raises
    ------
    ValueError
        If no scheduler answers, its workers have another idl_lab, or there are too few GPUs.
    """
    if scheduler is not None:
        try:
            # A client that finds nobody leaves a thread behind, which may then be waited for.
            host, port = get_address_host_port(scheduler)
            socket.create_connection((host, port), timeout=CONNECT).close()
            client = Client(scheduler, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler!r} ({one_line(error)}); an "
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


def one_line(error: BaseException) -> str:
    """An error's name and what it says, in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


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
    if job.version != version():
        raise RuntimeError(_another(platform.node(), version(), job.version))
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
    device = resolve_device(job.device)
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


def version() -> str:
    """That of this idl_lab."""
    return sys.modules["idl_lab"].__version__


def _another(host: str, theirs: str, ours: str) -> str:
    return (f"the worker {host} has idl_lab {theirs}, and {ours} is wanted: install the same "
            f"version there.")


def _same_versions(client: Client) -> None:
    for address, theirs in client.run(version, on_error="return").items():
        if theirs != version():
            theirs = "that cannot be imported" if isinstance(theirs, BaseException) else theirs
            raise ValueError(_another(address, theirs, version()))
