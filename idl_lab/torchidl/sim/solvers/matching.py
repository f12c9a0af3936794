"""What torchidl's five solvers share: which problem they state, and where its answer goes.

With Φ = [X U] all but one state, for each row w = [a b] of [A B] or [C D] and its target t,

    ½‖Φw − t‖² + λ‖w‖₁,  and ‖a‖₁ ≤ κ for rows of [A B],

which is this project's `Problem` in the teacher's own units and without biases. What the method
was there (epochs, penalties, batches of rows) is not taken over: a solve ends at a duality gap.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.constraints import shrink_rows
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import SolveResult, SolveStatus
from idl_lab.torchidl.sim.solvers.solver import BaseSolver
from idl_lab.torchidl.sim.utils import fixpoint_iteration, wide

CONFIG = ("activation_fn", "device", "atol", "kappa")
ENDS = "a solve ends at a duality gap"


class Matching(BaseSolver):
    """The two matchings, one after the other; a subclass says which problems and which method.

    Attributes
    ----------
    results : dict
        The `SolveResult` of "state" and of "output" matching: status, figures, history.
    """

    # Arguments without an effect here, and why.
    unused: ClassVar[dict[str, str]] = {}

    lambda_z: float = 0.0
    lambda_y: float = 0.0
    regen_states: bool
    tol: float

    def __post_init__(self) -> None:
        self.results: dict[str, SolveResult] = {}
        for name in ("lambda_z", "lambda_y", "tol"):
            validation.real(name, getattr(self, name), at_least=0.0)
        given = [f.name for f in dataclasses.fields(self)
                 if f.name in self.unused and getattr(self, f.name) != f.default]
        if given:
            reasons = "; ".join(dict.fromkeys(self.unused[name] for name in given))
            warnings.warn(f"{type(self).__name__} makes no use of {', '.join(given)}: {reasons}.",
                          UserWarning, stacklevel=3)

    def solve(self, X: np.ndarray, U: np.ndarray, Z: np.ndarray, Y: np.ndarray,
              model_config: dict[str, Any], plot_loss: bool = False
              ) -> tuple[Any, Any, Any, Any]:
        """A, B, C, D in Z's dtype, with ‖A‖∞ ≤ κ after rounding to it where κ is kept.

        Parameters
        ----------
        X, U, Z, Y, model_config
            As for `BaseSolver.solve`.
        plot_loss : bool
            Not used: ``results["state"].history`` is a table to plot.

        Raises
        ------
        ValueError
            For states that do not fit, and a configuration with a key missing.

        Warns
        -----
        ConvergenceWarning
            If a solve ended before its gap was small, or the equilibria's did.
        """
        if plot_loss:
            warnings.warn("plot_loss draws nothing here: results['state'].history is a table, and "
                          ".plot('step', 'objective') draws it.", UserWarning, stacklevel=2)
        if missing := sorted({*CONFIG} - {*model_config}):
            raise ValueError(f"model_config must have {', '.join(CONFIG)}, got none of "
                             f"{', '.join(missing)}.")
        kappa = validation.kappa(model_config["kappa"])
        dtype, device = torch.as_tensor(Z).dtype, model_config["device"]
        X, U, Z, Y = (wide(M, device).mT for M in (X, U, Z, Y))
        n = X.shape[1]
        AB = self._matched("state", torch.cat([X, U], dim=1), Z, n, kappa)
        A, B = AB.to(dtype).split([n, U.shape[1]], dim=1)
        A = A if self._ball(kappa) is None else shrink_rows(A, kappa)
        if self.regen_states:
            # With a residual of atol (1 − κ) it is the states that are within atol.
            X = fixpoint_iteration(A, B, U.mT, model_config["activation_fn"], device,
                                   atol=model_config["atol"] * (1 - kappa)).mT
        CD = self._matched("output", torch.cat([X, U], dim=1), Y, n, kappa)
        C, D = CD.to(dtype).split([n, U.shape[1]], dim=1)
        return tuple(self._given(M.cpu().numpy()) for M in (A, B, C, D))

    def _matched(self, which: str, Phi: Tensor, T: Tensor, n: int, kappa: float) -> Tensor:
        # A feature that is zero in every sample, such as a pixel of the margin, has weight zero;
        # left in, it would make every factorisation larger.
        seen = (Phi != 0).any(dim=0)
        problem = self._problem(which, Phi[:, seen], T, int(seen[:n].sum()), kappa)
        found = self.results[which] = self._method(problem).solve(problem)
        if said := self._short_of(problem, found):
            warnings.warn(f"{which} matching {said}", ConvergenceWarning, stacklevel=4)
        W = T.new_zeros(T.shape[1], Phi.shape[1])
        W[:, seen] = found.W
        return self._thresholded(which, W)

    def _short_of(self, problem: Problem, found: SolveResult) -> str:
        """What an answer lacks; nothing where it is what was asked for."""
        if found.status in (SolveStatus.MAX_STEPS, SolveStatus.ENDED, SolveStatus.SECONDS):
            return (f"stopped early: {found.status.value}. The relative gap is "
                    f"{found.stats.relative_gap:.1e}.")
        return ""

    def _problem(self, which: str, Phi: Tensor, T: Tensor, ball: int, kappa: float) -> Problem:
        lam = self.lambda_z if which == "state" else self.lambda_y
        bound = self._ball(kappa) if which == "state" else None
        return Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(dim=0), lam=lam, kappa=bound,
                       ball=0 if bound is None else ball)

    def _ball(self, kappa: float) -> float | None:
        return kappa

    def _thresholded(self, which: str, W: Tensor) -> Tensor:
        return torch.where(W.abs() <= self.tol, 0, W)

    def _given(self, M: np.ndarray) -> Any:
        return M

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        raise NotImplementedError
