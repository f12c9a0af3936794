"""Where a run is: one line rewritten in place on a terminal, a line per event in a log."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TextIO


class Progress:
    """Told by the runner when a notebook starts, reaches a cell and ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._live = self.stream.isatty()
        self.name = self.where = ""
        self.since = 0.0

    def start(self, name: str) -> None:
        self.name, self.where, self.since = name, "starting", time.perf_counter()
        if not self._live:
            print(f"{name}  started", file=self.stream, flush=True)
            return
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, args=(self._stop,), daemon=True)
        self._ticker.start()

    def cell(self, number: int, of: int) -> None:
        self.where = f"cell {number}/{of}"

    def end(self, status: str, error: str = "") -> None:
        if self._live:
            self._stop.set()
            self._ticker.join()
            self.stream.write("\r\x1b[K")
        seconds = time.perf_counter() - self.since
        print(f"{self.name}  {status}  {seconds:.0f} s  {error}".rstrip(), file=self.stream,
              flush=True)

    def _tick(self, stop: threading.Event) -> None:
        while not stop.wait(0.2):
            text = f"{self.name}  {self.where}  {time.perf_counter() - self.since:.0f} s"
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r{text[:width]}\x1b[K")
            self.stream.flush()


class Silent(Progress):
    """Says nothing."""

    def start(self, name: str) -> None: ...

    def end(self, status: str, error: str = "") -> None: ...
