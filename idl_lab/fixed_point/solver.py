"""What all solvers share: the state of a solve, the stopping rule, the guard of a jump."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Status

Map = Callable[[Tensor], Tensor]
# A jump is taken back if its residual is over so many times the smallest so far. A fast method's
# residual goes up now and then: a factor of 1 would throw away jumps that pay off a step later.
_SLACK = 4.0
_SHORTEST = 1 / 64  # of a jump's length, so that a few good ones make it whole again
# A test for rounding and divergence costs another pass over x: it is made at every eighth step, and
# where a step gains less than a tenth.
_TEST_EVERY, SLOW = 8, 0.9


def _unknown_gain() -> float:
    """The gain of a map that is nothing but a function."""
    return 1.0


@dataclass(frozen=True)
class SolverState:
    """Where a solve stands after some steps.

    Attributes
    ----------
    steps : int
        Evaluations of f so far.
    residual, first : Tensor, shape (m,), or None
        ‖f(x) − x‖∞ at the last and at the first point measured; None before the first step.
    point, start : Tensor, shape (m, n), or None
        The point measured last, and where the solve started.
    image : bool
        Whether that is itself an image of f.
    worst : float
        The largest of the samples' residuals, each divided by its tolerance.
    rate : float
        The factor by which ``worst`` changed a step since the measurement before; NaN at first.
    best, best_residual : Tensor or None, shapes (m, n) and (m,)
        The point of smallest residual seen, to fall back on where a solve fails.
    memory : tuple of Tensor
        The solver's own.
    gain : callable
        How large the numbers are that f adds up, as a multiple of ‖x‖∞; asked where a solve ends.
    """

    steps: int = 0
    residual: Tensor | None = None
    first: Tensor | None = None
    point: Tensor | None = None
    image: bool = False
    worst: float = math.inf
    rate: float = math.nan
    best: Tensor | None = None
    best_residual: Tensor | None = None
    memory: tuple[Tensor, ...] = ()
    gain: Callable[[], float] = _unknown_gain
    start: Tensor | None = None


@dataclass(frozen=True)
class Solver:
    """Settings and stopping rule that all solvers share; a solver adds ``step`` and its memory.

    ``init(x)`` is the `SolverState` before the first step; ``step(f, x, state)`` evaluates f
    once and returns the next iterate, f(x) and the next state. A solve stops once
    ‖f(x) − x‖∞ ≤ atol + rtol ‖x‖∞ in every sample, at the point x that it returns, which is an
    image of f: an accelerated point that passes is followed by one evaluation more.

    Parameters
    ----------
    rtol, atol : float
        Tolerances of ‖f(x) − x‖∞, relative to the sample's own ‖x‖∞ and absolute.
    max_steps : int
    damping : float
        β in (0, 1]; 1 is undamped. It does not enter the test: short steps cannot pass for
        convergence.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its bounds.
    """

    rtol: float = 1e-6
    _: KW_ONLY
    atol: float = 0.0
    max_steps: int = 2000
    damping: float = 1.0

    def __post_init__(self) -> None:
        validation.real("rtol", self.rtol, at_least=0.0)
        validation.real("atol", self.atol, at_least=0.0)
        validation.integer("max_steps", self.max_steps)
        validation.real("damping", self.damping, above=0.0, at_most=1.0)

    def init(self, x: Tensor) -> SolverState:
        """The state before the first step from x (m, n); its memory is the solver's own.

        Parameters
        ----------
        x : Tensor, shape (m, n)
        """
        return SolverState()

    def mix(self, x: Tensor, fx: Tensor) -> Tensor:
        """The damped step (1 − β) x + β f(x).

        Parameters
        ----------
        x, fx : Tensor, shape (m, n)
            A point and its image.
        """
        return fx if self.damping == 1 else torch.lerp(x, fx, self.damping)

    def tolerance(self, x: Tensor) -> Tensor:
        """What ‖f(x) − x‖∞ may be, atol + rtol ‖x‖∞ of each sample, (m,).

        Parameters
        ----------
        x : Tensor, shape (m, n)
        """
        # Never 0, by which a residual of 0 could not be divided.
        return x.abs().amax(dim=1).mul_(self.rtol).add_(self.atol + torch.finfo(x.dtype).tiny)

    def reached(self, x: Tensor, residual: Tensor, state: SolverState) -> Tensor:
        """Which samples' residuals are within the tolerance, or are rounding, (m,) of bool.

        Parameters
        ----------
        x : Tensor, shape (m, n)
        residual : Tensor, shape (m,)
            ‖f(x) − x‖∞ there.
        state : SolverState
            Of the solve, whose start tells of what size the numbers are that f adds up.
        """
        x, gain = x.detach(), state.gain()
        # At a start far off the residual is the start's own size, which the solve leaves behind:
        # what is over that is at most f(0). (All of it once passed for rounding, a thousandfold.)
        # Only a solution of 0, which has no size, ends by the start's.
        zero = torch.maximum(state.first - (1 + gain) * state.start.abs().amax(dim=1),
                             torch.finfo(x.dtype).eps * state.first)
        # Where f expands, it also multiplies what an inverse or a mixture rounded in x.
        numbers = torch.maximum(x.abs().amax(dim=1) * (1 if gain <= 1 else 8 * gain), zero)
        allowed = torch.maximum(self.tolerance(x), rounding(x.dtype) * numbers)
        return (residual <= allowed) & numbers.isfinite()

    def terminate(self, state: SolverState) -> Status | None:
        """How the solve ended at the point measured last, or None to go on.

        Parameters
        ----------
        state : SolverState
        """
        if state.worst <= 1:
            return Status.CONVERGED
        last = state.steps >= self.max_steps
        if (math.isfinite(state.worst) and not last and state.steps % _TEST_EVERY
                and not state.rate > SLOW):
            return None
        reached = self.reached(state.point, state.residual, state)
        if reached.all():
            return Status.ROUNDING
        lost = ~state.residual.isfinite()
        grew = lost | (state.residual > state.first)
        if (reached | lost).all() or (last and (grew & ~reached).any()):
            return Status.DIVERGED
        return Status.MAX_STEPS if last else None

    def untested(self, state: SolverState) -> int:
        """How many steps a solve may take from here before testing again is worth its price.

        Parameters
        ----------
        state : SolverState
        """
        return 0

    def in_units(self, v: Tensor) -> Solver:
        """These settings for states x/v, in units v (n,): tolerances over the largest above 1.

        A residual is a number in units, and what is small in a large unit need not be small.

        Parameters
        ----------
        v : Tensor, shape (n,), positive
        """
        unit = max(float(v.max()), 1.0)
        return replace(self, rtol=self.rtol / unit, atol=self.atol / unit)


def rounding(dtype: torch.dtype) -> float:
    """The share of ‖x‖∞ below which f(x) − x, a difference of rounded numbers, says nothing.

    Parameters
    ----------
    dtype : torch.dtype
    """
    return 4 * torch.finfo(dtype).eps


def check_solver(solver: Solver) -> Solver:
    """Check that ``solver`` is settings, not a name or a class.

    Parameters
    ----------
    solver : Solver

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be settings such as Picard() or Anderson(), got {solver!r}.")
    return solver


def measure(solver: Solver, x: Tensor, fx: Tensor, state: SolverState, *, image: bool = False,
            skipped: int = 0) -> SolverState:
    """The next state after f was evaluated at x, and unseen ``skipped`` times before.

    Parameters
    ----------
    solver : Solver
        Whose tolerance counts.
    x, fx : Tensor, shape (m, n)
        The point and its image.
    state : SolverState
        Where the solve stood; its memory is handed on.
    image : bool
        Whether x is itself an image of f.
    skipped : int
    """
    at, image_of_it = (x.detach(), fx.detach()) if fx.requires_grad else (x, fx)
    residual = (image_of_it - at).abs_().amax(dim=1)
    # A start of zeros has no size to be relative to.
    worst = float((residual / solver.tolerance(image_of_it if state.best is None else at)).amax())
    steps = state.steps + 1 + skipped
    rate, first, best = math.nan, residual, (x, residual)
    if state.best is None:
        if not math.isfinite(worst):  # the start is a sample's best until its image is finite
            best = x, residual.nan_to_num(nan=math.inf, posinf=math.inf)
    else:
        first = state.first
        if state.worst > 0:
            rate = (worst / state.worst) ** (1 / (1 + skipped))
        # Where steps were skipped nobody compares sample by sample, which is what a lean solve
        # saves: if the batch's worst residual fell, the whole new point counts as the best.
        if not (worst <= 1 or skipped and worst < state.worst):
            best = _better(state.best, state.best_residual, x, residual)
    return SolverState(steps, residual, first, x, image, worst, rate, *best, state.memory,
                       state.gain, at if state.start is None else state.start)


def _better(best: Tensor, best_residual: Tensor, x: Tensor, residual: Tensor
            ) -> tuple[Tensor, Tensor]:
    """Of each sample the point of smaller residual, and that residual."""
    better = residual < best_residual
    if better.all():
        return x, residual
    return torch.where(better[:, None], x, best), torch.where(better, residual, best_residual)


class Guard(NamedTuple):
    """Keeps an accelerated iteration near the best it has seen, each sample on its own.

    A jump whose residual is over four times the smallest so far is taken back: the Picard step
    of the point before it follows instead, and the next jumps are shorter, half as long after
    each that failed and twice as long after each that did not. (The kink of a ReLU makes a long
    jump fail at the same place again and again.)

    Attributes
    ----------
    jumped : Tensor of bool, shape (m,)
        Whether the point at hand is a jump, not a Picard step.
    fallback : Tensor, shape (m, n)
        Image of the last accepted point.
    reference : Tensor, shape (m,)
        The smallest residual so far.
    reach : Tensor, shape (m,)
        How much of the next jump is taken, in (0, 1].
    """

    jumped: Tensor
    fallback: Tensor
    reference: Tensor
    reach: Tensor

    @classmethod
    def at(cls, x: Tensor) -> Guard:
        """The guard of a start x (m, n).

        Parameters
        ----------
        x : Tensor, shape (m, n)
        """
        m = len(x)
        return cls(x.new_zeros(m, dtype=torch.bool), x, x.new_full((m,), math.inf),
                   x.new_ones(m))

    def rejects(self, residual: Tensor) -> Tensor:
        """Which jumps are to be taken back, (m,).

        Parameters
        ----------
        residual : Tensor, shape (m,)
            Of the point at hand.
        """
        return self.jumped & ~(residual <= _SLACK * self.reference)

    def follow(self, jump: Tensor, usable: Tensor, image: Tensor, residual: Tensor,
               rejected: Tensor) -> tuple[Tensor, Guard]:
        """The next point and its guard.

        Parameters
        ----------
        jump, image : Tensor, shape (m, n)
            The accelerated point and the Picard step.
        usable : Tensor of bool, shape (m,)
            Where there is an accelerated point.
        residual, rejected : Tensor, shape (m,)
            Of the point at hand.
        """
        factor = torch.where(rejected, 0.5, torch.where(self.jumped, 2.0, 1.0)).to(image.dtype)
        reach = (self.reach * factor).clamp(min=_SHORTEST, max=1)
        jumps = usable & ~rejected
        following = torch.lerp(image, jump, reach[:, None])
        fallback = image
        if rejected.any():
            fallback = torch.where(rejected[:, None], self.fallback, image)
        if not jumps.all():
            following = torch.where(jumps[:, None], following, fallback)
        return following, Guard(jumps, fallback, torch.fmin(self.reference, residual), reach)
