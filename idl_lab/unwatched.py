"""Solves that nobody watches: so many steps, no test, the residual left on the device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

from torch import Tensor

_local = threading.local()


def current() -> Unwatched | None:
    """The `Unwatched` around this call in this thread, if any."""
    return getattr(_local, "current", None)


class Unwatched:
    """Within ``pass_through()`` the k-th solve that begins takes ``steps[k]`` steps untested.

    So the host waits for no device, and a whole training step can be a CUDA graph. Whether the
    steps were enough is read later, and they grow where they were not.

    Parameters
    ----------
    start : int
        Steps of a solve that begins for the first time.

    Attributes
    ----------
    steps : list of int
        Of each solve, in the order in which they begin.
    worst : list of Tensor, each of shape ()
        What the last pass left of each solve: the largest of the samples' residuals, each divided
        by its tolerance. Above 1 the solve was short.
    """

    def __init__(self, start: int = 8) -> None:
        self.start = start
        self.steps: list[int] = []
        self.worst: list[Tensor] = []

    @contextlib.contextmanager
    def pass_through(self) -> Iterator[None]:
        """A context in which solves are unwatched, and counted from the first."""
        self.worst = []
        with self.here():
            yield

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """The same pass in another thread, as that of a GPU's backward pass is."""
        outer, _local.current = current(), self
        try:
            yield
        finally:
            _local.current = outer

    def begin(self) -> int:
        """How many steps the solve that begins here takes; `end` is told what it left."""
        if len(self.worst) == len(self.steps):
            self.steps.append(self.start)
        return self.steps[len(self.worst)]

    def end(self, worst: Tensor) -> None:
        """Take note of how a solve ended.

        Parameters
        ----------
        worst : Tensor, shape ()
            As in ``worst``.
        """
        self.worst.append(worst.detach())

    def grow(self, short: Iterable[int]) -> None:
        """Give solves half as many steps more.

        Parameters
        ----------
        short : iterable of int
            Their places in ``steps``.
        """
        for k in short:
            self.steps[k] += self.steps[k] // 2 + 1
