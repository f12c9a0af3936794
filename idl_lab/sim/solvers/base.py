"""What every solver of the SIM problem is: settings, one generator of iterates, one result."""

from __future__ import annotations

import abc
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.sim.hooks import Batches
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers.incumbent import Incumbent, gap_bar
from idl_lab.sim.solvers.result import Iterate, SolveResult, SolveStatus
from idl_lab.sim.states import GramStatistics


@dataclass(frozen=True, kw_only=True)
class BaseSolver(abc.ABC):
    """Settings of a solver; a solver of your own is one generator, `iterates`.

    Parameters
    ----------
    tol : float
        Relative duality gap of every row at which to stop.
    max_steps : int
        Iterates to draw at most.
    check_every : int
        Iterates from one test of the gap to the next.
    seconds : float
        Time after which to stop at the next iterate.
    device : str
        Where to compute, in float64: "auto" is cuda, else cpu.
    progress : bool
        Show a bar, in a notebook or on a terminal; a log file gets none.

    Raises
    ------
    TypeError, ValueError
        For a tol, a time or a number of steps that is not positive, and a device that is not
        known.
    """

    tol: float = 1e-6
    max_steps: int = 5000
    check_every: int = 10
    seconds: float = math.inf
    device: str = "auto"
    progress: bool = True

    # Whether the answer keeps Σ_j |a_j| ≤ κ. One that says so and breaks it is an error in SIM,
    # so that no model is called well-posed for want of a look.
    honours_kappa: ClassVar[bool] = True
    # Whether the best rows of several iterates, each projected, may be put together. Under a bound
    # on the rank they may not: one W is taken or left whole, feasible as it comes.
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", validation.real("tol", self.tol, above=0.0))
        validation.integer("max_steps", self.max_steps)
        validation.integer("check_every", self.check_every)
        if not self.seconds > 0:
            raise ValueError(f"seconds must be > 0, got {self.seconds}.")
        validation.resolve_device(self.device)

    @abc.abstractmethod
    def iterates(self, problem: Problem) -> Iterator[Tensor | tuple[Tensor, Tensor] | Iterate]:
        """Better and better W (k, d), as long as they are drawn; they need not be feasible.

        A pair (W, U) asks for the lower bound `Problem.dual` at U in place of W; an `Iterate`
        can say more. A solver that has a use for a first guess takes it as a second argument,
        ``start``, None where there is none.

        Parameters
        ----------
        problem : Problem
            In float64, on the solver's device.
        """

    @property
    def name(self) -> str:
        """How the result calls the solver."""
        return type(self).__name__

    def gathered(self, summed: Callable[[Batches], GramStatistics], teacher: nn.Module,
                 loader: Batches) -> GramStatistics:
        """The statistics of all data, where other processes hold parts; here, of the loader's.

        Parameters
        ----------
        summed : callable
            The statistics of a loader's data.
        teacher : torch.nn.Module
            Whose states they are of.
        loader : iterable of U or (U, target)
            The data that this process has.
        """
        return summed(loader)

    def everywhere(self, value: Any) -> list[Any]:
        """The values of all processes that hold data, in order; here, of this one alone.

        Parameters
        ----------
        value : object
            This process's.
        """
        return [value]

    @torch.no_grad()
    def solve(self, problem: Problem,
              watch: Callable[[dict[str, float]], bool | None] | None = None,
              start: Tensor | None = None) -> SolveResult:
        """Draw iterates until the duality gap is small; keep the best feasible point of each row.

        KeyboardInterrupt ends the solve, not the program: the result says CANCELLED.

        Parameters
        ----------
        problem : Problem
            In float64.
        watch : callable, optional
            Called with each new row of `SolveResult.history`, as a dict. Where it returns true the
            solve ends there, as CANCELLED: what an interrupt does, from any thread.
        start : Tensor, shape (k, d), optional
            A first guess, such as the answer of a neighbouring λ, for a solver that takes one.

        Returns
        -------
        SolveResult

        Raises
        ------
        TypeError
            If ``problem`` is no `Problem` in float64.
        """
        require_float64(problem)
        best = Incumbent(problem.to(self._device), self.honours_kappa, watch, self.separable)
        status, step, began = SolveStatus.ENDED, 0, time.perf_counter()
        guess = {} if "start" not in inspect.signature(self.iterates).parameters else {
            "start": None if start is None else start.to(best.problem.gram)}
        with gap_bar(self.name, self.tol, self.progress) as bar:
            try:
                W = None
                for step, W in enumerate(self.iterates(best.problem, **guess), start=1):
                    late = time.perf_counter() - began > self.seconds
                    if late or step % self.check_every == 0 or step == self.max_steps:
                        best.see(W, step, began, bar)
                        W = None  # so that it is not tested again below
                    if best.solved_to <= self.tol or late or step == self.max_steps:
                        status = SolveStatus.SECONDS if late else SolveStatus.MAX_STEPS
                        break
                if W is not None:  # the generator ended between two tests
                    best.see(W, step, began, bar)
            except KeyboardInterrupt:
                status = SolveStatus.CANCELLED
        if best.solved_to <= self.tol and status is not SolveStatus.CANCELLED:
            status = SolveStatus.SOLVED
        elif status is SolveStatus.ENDED and best.stationarity <= self.tol:
            status = SolveStatus.STATIONARY
        return best.result(status, step, began, self.name, problem.gram.device)

    @property
    def _device(self) -> torch.device:
        device = validation.resolve_device(self.device)
        return torch.device("cpu") if device.type == "mps" else device  # which has no float64


def require_float64(problem: Problem) -> None:
    """Refuse what is no `Problem` in float64.

    Parameters
    ----------
    problem : Problem

    Raises
    ------
    TypeError
        If it is something else, or in another dtype.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}.")
    if problem.gram.dtype != torch.float64:
        raise TypeError(f"a Problem is solved in float64, got {problem.gram.dtype}: its "
                        f"duality gap needs the digits.")
