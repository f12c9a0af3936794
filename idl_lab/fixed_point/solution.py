"""What a solve returns: the point, how it ended in words, figures and a trace."""

from __future__ import annotations

import contextlib
import enum
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


class Status(enum.Enum):
    """How a fixed-point solve ended; the value is the sentence for the reader."""

    CONVERGED = "every sample's residual is within its tolerance"
    ROUNDING = "the residual is down to rounding: the tolerance asks for more than the dtype has"
    ILL_CONDITIONED = "the solve went through numbers whose rounding exceeds the solution's digits"
    UNWATCHED = "a number of steps was taken, and nobody has looked yet whether it was enough"
    MAX_STEPS = "max_steps was reached before the residual came down to the tolerance"
    DIVERGED = "the residual grew instead of shrinking"

    @property
    def ok(self) -> bool:
        """Whether the value may be used as a fixed point."""
        return self in (Status.CONVERGED, Status.ROUNDING, Status.UNWATCHED)


class ConvergenceWarning(UserWarning):
    """A solve stopped before it reached its tolerance."""


class ConvergenceError(RuntimeError):
    """A solve stopped before it reached its tolerance and the caller asked for an error."""


_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def warn(message: str) -> None:
    """Give a ConvergenceWarning, or hand its text to the `one_warning` around this call.

    (`warnings.catch_warnings` would change the filters of all threads.)

    Parameters
    ----------
    message : str
    """
    if (collected := _collected.get()) is not None:
        collected.append(message)
        return
    frame, level = sys._getframe(1), 2  # the line that is shown is the user's
    ours = ("idl_lab.", "torch.", "contextlib")
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, ConvergenceWarning, stacklevel=level)


@contextlib.contextmanager
def one_warning(of: str) -> Iterator[None]:
    """Merge the ConvergenceWarnings of many solves into one; ``of`` says whose they are.

    Parameters
    ----------
    of : str
        Such as ``"an epoch"``.
    """
    early: list[str] = []
    token = _collected.set(early)
    try:
        yield
    finally:
        _collected.reset(token)
    if early:
        warn(f"{len(early)} solves of {of} stopped early, the last of them so: {early[-1]}")


@dataclass(frozen=True)
class Stats:
    """Figures of a solve; ``...`` are the leading (sample) dimensions of the start.

    Attributes
    ----------
    steps : int
        Evaluations of the map.
    residual : Tensor, shape (...)
        ‖f(x) − x‖∞ of each sample, at the value.
    value : Tensor, shape (..., n)
        The solution's, without its gradient.
    rtol, atol : float
        The tolerances that were asked for.
    """

    steps: int
    residual: Tensor
    value: Tensor
    rtol: float
    atol: float

    @property
    def size(self) -> Tensor:
        """‖x‖∞ of each sample's value, shape (...)."""
        return self.value.abs().amax(dim=-1)

    @property
    def relative(self) -> Tensor:
        """The residual divided by ‖x‖∞, shape (...)."""
        size = self.size
        return self.residual / torch.where(size > 0, size, 1)

    @property
    def converged(self) -> Tensor:
        """Which samples reached the tolerance, or what rounding leaves of it, (...) of bool."""
        share = max(self.rtol, 4 * torch.finfo(self.value.dtype).eps)
        return (self.residual <= self.atol + share * self.size) & self.residual.isfinite()


@dataclass(frozen=True)
class Trace:
    """The course of a solve, never padded.

    Attributes
    ----------
    residuals : Tensor, shape (tests, ...)
        ‖f(x_k) − x_k‖∞ of each sample at each step that was tested.
    steps : tuple of int, or None
        Which steps those were; None for all, 1, 2, 3, …
    states : Tensor, shape (steps + 1, ..., n), or None
        The start and the point after each step; kept only when asked for.
    """

    residuals: Tensor
    steps: tuple[int, ...] | None = None
    states: Tensor | None = None

    @property
    def worst(self) -> Tensor:
        """Largest residual over the samples, shape (tests,)."""
        if self.residuals.numel() == 0:
            return self.residuals.new_zeros(len(self.residuals))
        return self.residuals.reshape(len(self.residuals), -1).amax(dim=1)


@dataclass(frozen=True)
class Solution:
    """A fixed point and how it was found.

    Attributes
    ----------
    value : Tensor, shape (..., n)
        The point that passed the test; where the solve failed, each sample's best.
    status : Status
    stats : Stats
    trace : Trace
    """

    value: Tensor
    status: Status
    stats: Stats
    trace: Trace

    def __repr__(self) -> str:
        worst = max(self.stats.residual.flatten().tolist(), default=0.0)
        return (f"Solution({self.status.name}: {self.status.value}; value {tuple(self.value.shape)}"
                f", {self.stats.steps} steps, largest residual {worst:.2e})")
