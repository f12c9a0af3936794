"""Local workers of a solve: started, watched, ended, whatever happens.

They are `idl_lab.sim.solvers.worker` in interpreters of their own, so that a notebook, a script
without a __main__ guard and python -c can start them; torch's elastic launcher would take over
the signal handlers of the process that calls it. A temporary folder holds the problem, the
ranks' rendezvous, files that each rank touches as it steps and as it lives, and the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from idl_lab.sim.problem import Problem

PACKAGE = Path(__file__).resolve().parents[3]
LOST = 75  # exit status of a worker whose trouble is that the others are gone
BLAME = 2.0  # seconds in which the rank to blame should show, once others have lost it
STANDSTILL = 2.0  # seconds behind the others' pulses that say a process stands still
GRACE = 10.0  # seconds that workers have to answer a cancel
START = 60.0  # seconds that interpreters may take to start, however small the timeout


class Workers:
    """Workers that solve one problem; none is left, nor any file, when the ``with`` ends.

    Parameters
    ----------
    problem : Problem
    options : dict
        The solver's settings.
    count : int
        How many workers.
    timeout : float
        Seconds without a step of any worker after which they are given up; the start may take
        a minute.

    Raises
    ------
    OSError
        From the ``with``, if no process can be started.
    """

    def __init__(self, problem: Problem, options: dict[str, Any], count: int, timeout: float
                 ) -> None:
        self.problem, self.options, self.count, self.timeout = problem, options, count, timeout
        self.processes: list[subprocess.Popen] = []
        self.told = 0  # bytes of the workers' progress that were reported

    def __enter__(self) -> Workers:
        self._folder = tempfile.TemporaryDirectory(prefix="idl_lab-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.cancel = self.folder / "cancel"  # where it exists, the workers stop
        try:
            values = {f.name: getattr(self.problem, f.name) for f in fields(self.problem)}
            torch.save({"problem": values, "options": self.options}, self.folder / "problem.pt")
            for rank in range(self.count):
                self.processes.append(self._started(rank))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver
                process.wait(GRACE)
        self._folder.cleanup()

    def _started(self, rank: int) -> subprocess.Popen:
        names = [name for _, name in socket.if_nameindex()]
        environment = {
            # Workers of one machine talk through its loopback: else gloo may pick an interface
            # that a firewall closes, or listen where others can reach it.
            **({"GLOO_SOCKET_IFNAME": names[0]} if names[:1] in (["lo"], ["lo0"]) else {}),
            **os.environ,
            "OMP_NUM_THREADS": str(max(torch.get_num_threads() // self.count, 1)),
            "PYTHONPATH": os.pathsep.join(filter(None, [
                str(PACKAGE), os.environ.get("PYTHONPATH")])),
        }
        with open(self.folder / f"log.{rank}", "wb") as log:
            # In a session of its own: Ctrl-C goes to a whole session, and the workers would die
            # of it before they could hand back their best point.
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "idl_lab.sim.solvers.worker", str(self.folder),
                 str(rank), str(self.count), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True)

    def result(self, report: Callable[[dict[str, float], float], object]
               ) -> dict[str, Any] | None:
        """Wait for what the workers find; None if they were cancelled before there was anything.

        Parameters
        ----------
        report : callable
            Told the history's rows and the relative gaps as they come; true cancels.

        Raises
        ------
        RuntimeError
            If a worker died or hung.
        """
        try:
            self._wait(report, max(self.timeout, START), self.timeout)
        except KeyboardInterrupt:
            self.cancel.touch()
            with contextlib.suppress(RuntimeError):
                self._wait(report, GRACE, GRACE)
        result = self.folder / "result.pt"
        if not result.exists():
            return None
        found = torch.load(result, map_location="cpu", weights_only=True)
        read = self.count * (self.folder / "problem.pt").stat().st_size
        found["exchanged"] += read + result.stat().st_size
        return found

    def _wait(self, report: Callable[[dict[str, float], float], object], start: float,
              timeout: float) -> None:
        """Until all have ended well; until all have started, `start` is the timeout."""
        alive, beats, lost_since = time.monotonic(), self._times("beat"), None
        while any(codes := [process.poll() for process in self.processes]) or None in codes:
            now = time.monotonic()
            # When one rank dies the others fail too, at once: a moment later the message can name
            # the one that was to blame.
            if LOST in codes:
                lost_since = lost_since or now
            for rank, code in enumerate(codes):
                if code and (code != LOST or now - lost_since > BLAME):
                    raise RuntimeError(self._said(rank, _ending(code)))
            if beats != (beats := self._times("beat")):
                alive = now
            patience = timeout if len(beats) == self.count else start
            if now - alive > patience:
                rank = self._silent(beats)
                raise RuntimeError(self._said(rank, f"gave no sign of life for {patience:g} s"))
            self._tell(report)
            time.sleep(0.02)
        self._tell(report)

    def _tell(self, report: Callable[[dict[str, float], float], object]) -> None:
        with (contextlib.suppress(FileNotFoundError),
              open(self.folder / "progress", "rb") as file):
            file.seek(self.told)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is still being written
                self.told += len(line)
                if report(*json.loads(line)) and not self.cancel.exists():
                    raise KeyboardInterrupt

    def _times(self, name: str) -> dict[int, int]:
        """When each rank last touched its file of that name, in nanoseconds."""
        found = {}
        for rank in range(self.count):
            with contextlib.suppress(FileNotFoundError):
                found[rank] = (self.folder / f"{name}.{rank}").stat().st_mtime_ns
        return found

    def _silent(self, beats: dict[int, int]) -> int:
        """The rank that the others wait for: its process stands still, or it stepped before them.

        A rank that waits does not step, but a thread of it still touches its pulse.
        """
        pulses = self._times("pulse")
        last = max(pulses.values(), default=0)
        return min(range(self.count), key=lambda rank: (
            last - pulses.get(rank, 0) < 1e9 * STANDSTILL, beats.get(rank, 0)))

    def _said(self, rank: int, what: str) -> str:
        log = (self.folder / f"log.{rank}").read_text(errors="replace").strip()
        tail = "\n".join(log.splitlines()[-15:])
        return (f"worker {rank} of {self.count} {what}, so the solve was given up"
                + (f". It wrote:\n{tail}" if tail else "; it wrote nothing."))


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"
