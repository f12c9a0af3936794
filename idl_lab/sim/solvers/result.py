"""What a solver yields on its way, and what a solve gives back."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from idl_lab.operators import LowRank

if TYPE_CHECKING:
    import pandas as pd


class SolveStatus(enum.Enum):
    """How the solve of a `Problem` ended; the value is the sentence for the reader."""

    SOLVED = "the duality gap of every row is at most tol, relative to its objective"
    MAX_STEPS = "the solver's steps ran out before the duality gap came down to tol"
    ENDED = "the solver had no further step, and the duality gap is still above tol"
    SECONDS = "the time allowed ran out before the duality gap came down to tol"
    STATIONARY = "no small move lowers the objective by more than tol: a stationary point"
    CANCELLED = "cancelled: this is the best feasible point so far"
    IGNORES_KAPPA = "this solver does not keep the bound κ, and the answer breaks it"

    @property
    def ok(self) -> bool:
        """Whether the answer is what the solver promises."""
        return self in (SolveStatus.SOLVED, SolveStatus.STATIONARY)


class Iterate(NamedTuple):
    """What `BaseSolver.iterates` may yield in place of W alone.

    Attributes
    ----------
    W : Tensor, shape (k, d)
        The iterate itself.
    U : Tensor, shape (k, d), optional
        Where `Problem.dual` bounds the optimum from below, in place of W.
    factors : LowRank, optional
        L and R of the columns in the ball, W = [L Rᵀ ...].
    stationarity : float, optional
        By what part of itself the objective can still fall to first order, at most.
    lower : Tensor, shape (k,), optional
        Lower bounds of the rows' optima that the solver has found itself, in place of
        `Problem.dual`.
    """

    W: Tensor
    U: Tensor | None = None
    factors: LowRank | None = None
    stationarity: float | None = None
    lower: Tensor | None = None


@dataclass(frozen=True)
class SolveStats:
    """Figures of a solve.

    Attributes
    ----------
    objective, gap : Tensor, shape (k,)
        Of each row: its objective, and how far above the optimum that is at most.
    relative_gap : float
        Sum of the gaps over the sum of the objectives, or of `Problem.scale` where that is larger.
    inf_norm : float
        ‖·‖∞ of the columns in the ball, A; 0 without a ball.
    nonzeros : int
        Entries of W that are not exactly zero.
    steps : int
        Iterates that were drawn.
    seconds : float
        From the start of the solve to its end.
    solver : str
        Its name and, where others do its work, theirs.
    stationarity : float, optional
        Of a solver whose problem is not convex: that of `Iterate`.
    worst_gap : float
        The largest of the rows' gaps, each over its own objective, or `Problem.scale` where that is
        larger: no row hides behind larger ones.
    """

    objective: Tensor
    gap: Tensor
    relative_gap: float
    inf_norm: float
    nonzeros: int
    steps: int
    seconds: float
    solver: str
    stationarity: float | None = None
    worst_gap: float = math.inf


@dataclass(frozen=True)
class SolveResult:
    """The matrix that solves a `Problem`, and how it was found.

    Attributes
    ----------
    W : Tensor, shape (k, d)
        On the problem's device.
    status : SolveStatus
        How the solve ended.
    stats : SolveStats
        Figures of W.
    history : pandas.DataFrame
        A row for each test: step, seconds, objective, gap (sums over the rows of W).
    factors : LowRank, optional
        Of a solver that holds A to a rank: W = [L Rᵀ ...].
    """

    W: Tensor
    status: SolveStatus
    stats: SolveStats
    history: pd.DataFrame
    factors: LowRank | None = None

    def __repr__(self) -> str:
        return (f"SolveResult({self.status.name}: {self.status.value}; W {tuple(self.W.shape)}, "
                f"objective {float(self.stats.objective.sum()):.6g}, relative gap "
                f"{self.stats.relative_gap:.1e}, of the worst row {self.stats.worst_gap:.1e}, "
                f"{self.stats.solver})")
