"""Students of SIM by their number of weights: the λ that leaves so many is looked for."""

from __future__ import annotations

import math
import warnings

import torch

from idl_lab import validation
from idl_lab.labs.kit.problems import whole
from idl_lab.labs.sparsity.problems import REFITS, Sparse, Task
from idl_lab.sim import SIM
from idl_lab.sim.fitting import Starts, fit, look
from idl_lab.sim.path import largest
from idl_lab.sim.result import SimResult
from idl_lab.sim.solvers import ADMMSolver

CLOSE = 0.97  # of the number of weights that are allowed: no λ is looked for nearer than that
DOWN = 10.0  # λ falls by this factor until enough is left
BATCH = 512


class Students:
    """SIM's students of a task, at λ_z = λ_y = λ.

    Parameters
    ----------
    task : Task
    device : torch.device or str
        Where they are solved for, and where they are.
    tol : float
        Relative gap of each row.
    **options
        Of `SIM`, such as ``feedback`` and ``weigh``.
    """

    def __init__(self, task: Task, device: torch.device | str = "cpu", tol: float = 1e-3,
                 **options) -> None:
        self.task = task
        self.sim = SIM(device=device, progress=False, **options)
        self.solver = ADMMSolver(tol=tol, device=str(device), progress=False)
        self.seen = look(self.sim, self.solver, task.network, task.train.split(BATCH))
        self.known: dict[float, tuple[int, SimResult | None, Starts]] = {
            largest(self.sim, self.seen.grams): (0, None, (None, None))}

    def weights(self, lam: float) -> int:
        """How many entries one λ leaves.

        Parameters
        ----------
        lam : float
        """
        if lam not in self.known:
            near = min((known for known in self.known if known > lam), default=None)
            self.sim.refit = False
            result, starts = self._fit(lam, (None, None) if near is None else self.known[near][2])
            self.known[lam] = sum(result.stats["nonzeros"].values()), result, starts
        return self.known[lam][0]

    def _fit(self, lam: float, starts: Starts) -> tuple[SimResult, Starts]:
        self.sim.lambda_z = self.sim.lambda_y = lam
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `judge` says what the warnings say
            result, self.model, starts = fit(self.sim, self.solver, self.seen, starts)
        return result, starts

    def at_most(self, weights: int, tries: int = 8) -> float:
        """A λ with at most so many weights, and not many fewer where a λ gives that.

        Parameters
        ----------
        weights : int
        tries : int
            Solves between two known λ.
        """
        while min(self.known.values(), key=lambda found: -found[0])[0] < weights and (
                min(self.known) > 1e-12 * max(self.known)):
            self.weights(min(self.known) / DOWN)
        for _ in range(tries):
            above = min(lam for lam in self.known if self.weights(lam) <= weights)
            below = max((lam for lam in self.known if lam < above), default=None)
            if below is None or self.weights(above) >= CLOSE * weights:
                break
            # Between the two by how the counts grow with log λ, and not too near to either.
            few, many = self.weights(above), self.weights(below)
            share = min(max((many - weights) / max(many - few, 1), 0.1), 0.9)
            self.weights(math.exp(math.log(below) + share * math.log(above / below)))
        return min(lam for lam in self.known if self.weights(lam) <= weights)

    def student(self, sparsity: float, then: str = "refitted") -> Sparse:
        """The student with as many weights as a network of a sparsity has, and its worth.

        Parameters
        ----------
        sparsity : float
            Share of the teacher's weights that are gone.
        then : {"", "refitted", "refitted through"}
            What λ left is taken as it is; fitted by least squares in the ball; or, where there is
            no feedback, layer by layer on the student's own states, without a ball.

        Raises
        ------
        ValueError
            For the last one with feedback.
        """
        validation.choice("then", then, REFITS)
        if then == REFITS[2] and self.sim.feedback:
            raise ValueError(f"{then!r} goes through the layers in their order, and a student with "
                             f"feedback has none: give feedback=False.")
        lam = self.at_most(round((1 - sparsity) * self.task.size))
        self.sim.refit = then == REFITS[1]
        self._fit(lam, self.known[lam][2])
        if then == REFITS[2]:
            return self.task.judge(self.task.model(*self.task.refitted(
                whole(self.model), through=True)))
        return self.task.judge(self.model)
