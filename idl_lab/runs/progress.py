"""Where a run is: one line rewritten in place on a terminal; in a log one per event and minute."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TextIO


class Progress:
    """Told by the runner when a notebook starts, reaches a cell and ends.

    Parameters
    ----------
    stream : text file, optional
        Where it is written; standard output by default.
    """

    every = 60.0  # seconds between the lines of a log while a notebook runs

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._live = self.stream.isatty()
        self.name = self.where = ""
        self.since = 0.0

    def start(self, name: str) -> None:
        """Say that a notebook begins; a clock then runs until it ends.

        Parameters
        ----------
        name : str
        """
        self.name, self.where, self.since = name, "starting", time.perf_counter()
        if not self._live:
            print(f"{name}  started", file=self.stream, flush=True)
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, args=(self._stop,), daemon=True)
        self._ticker.start()

    def cell(self, number: int, of: int) -> None:
        """Note the code cell that begins, which the clock shows.

        Parameters
        ----------
        number, of : int
            Which code cell, of how many.
        """
        self.where = f"cell {number}/{of}"

    def end(self, status: str, error: str = "") -> None:
        """Say how the notebook ended, and after how many seconds.

        Parameters
        ----------
        status : str
            "ok", "failed", "timed out" or "interrupted".
        error : str
            What stopped it, in a line.
        """
        self._stop.set()
        self._ticker.join()
        if self._live:
            self.stream.write("\r\x1b[K")
        seconds = time.perf_counter() - self.since
        print(f"{self.name}  {status}  {seconds:.0f} s  {error}".rstrip(), file=self.stream,
              flush=True)

    def keep(self, name: str) -> None:
        """Say that a notebook is not run, because an earlier run did it.

        Parameters
        ----------
        name : str
        """
        print(f"{name}  ok, kept from before", file=self.stream, flush=True)

    def _tick(self, stop: threading.Event) -> None:
        while not stop.wait(0.2 if self._live else self.every):
            text = f"{self.name}  {self.where}  {time.perf_counter() - self.since:.0f} s"
            if self._live:
                text = f"\r{text[:shutil.get_terminal_size().columns - 1]}\x1b[K"
            print(text, end="" if self._live else "\n", file=self.stream, flush=True)


class Silent(Progress):
    """A `Progress` that writes nothing."""

    def start(self, name: str) -> None:
        """Write nothing when a notebook begins."""

    def end(self, status: str, error: str = "") -> None:
        """Write nothing when it ends."""

    def keep(self, name: str) -> None:
        """Write nothing when it need not be run."""
