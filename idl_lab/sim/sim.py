"""SIM: an implicit model from a teacher's states, by two convex problems and no back-propagation.

    min ½‖X Aᵀ + U Bᵀ − Z‖²_F + λ_z ‖[A B]‖₁   s.t. ‖A‖∞ ≤ κ        (state matching)
    min ½‖X Cᵀ + U Dᵀ − Y‖²_F + λ_y ‖[C D]‖₁                         (output matching)

(Tsai, Decugis, El Ghaoui, Atamturk 2022, State-driven Implicit Modeling, arXiv 2209.09389; with
biases, Φ = [X U 1].)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from idl_lab import validation
from idl_lab.activations import Activation, activation
from idl_lab.sim import saving
from idl_lab.sim.fitting import built, fit, look, tell_poor
from idl_lab.sim.hooks import Batches, states_by_batch
from idl_lab.sim.path import walk
from idl_lab.sim.result import SimResult
from idl_lab.sim.score import fidelity, score
from idl_lab.sim.solvers import BaseSolver
from idl_lab.sim.student import Student
from idl_lab.sim.weighing import WEIGHTS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class SIM:
    """State-driven implicit modeling: match a teacher's states and outputs.

    Parameters
    ----------
    activation_fn : str, Activation or callable, optional
        φ of the model, which must be that of every layer. None, the default, is each layer's own,
        for teachers that mix them.
    kappa : float
        Radius κ of the ball ‖A‖∞ ≤ κ; of κ/L for the rows of an activation of slope L > 1. Below
        1, or any number where there is no feedback.
    lambda_z, lambda_y : float
        ℓ₁ weights λ of state and output matching.
    weigh : {"standard", "uniform", "adaptive"}
        What λ multiplies: |w_ij| in the units of the root mean square of its feature and of its
        target, so that λ means the same for every layer and in every unit; plain |w_ij|, as in
        the paper; or the first, dearer for what least squares find small (Zou 2006).
    exact : bool
        Match exactly instead, with the smallest ℓ₁ norm: `Problem.exact`; no λ is used then.
    feedback : bool
        Let a layer's states read those of its own and of later layers too, which the teacher's do
        not. False lets them read the layers that the teacher calls before theirs and the inputs
        alone: A is strictly upper block-triangular, an error is not fed back, and the model is
        well-posed whatever ‖A‖∞.
    refit : bool
        Let λ choose which entries are not zero, and fit those by least squares in the ball.
    ridge : float
        Weight of the squares beside them, for an elastic net.
    rescale : bool
        Measure the states in units in which the teacher's own A is inside the ball.
    skip_layers : int, optional
        In a module with more than so many children, keep only the activation that each child
        calls last.
    regenerate_states : bool
        Fit C and D to the states that the fitted A and B give, not to the teacher's.
    device : str or torch.device
        Of the model; "auto" is cuda, else mps, else cpu. The solver has a device of its own, the
        teacher keeps its.
    dtype : torch.dtype
        Of the model; ‖A‖∞ ≤ κ holds after rounding to it too.
    layers : sequence of str, optional
        Names of the modules that make the states, instead of ``skip_layers``.
    progress : bool
        Show bars.

    Raises
    ------
    TypeError, ValueError
        For a kappa outside [0, 1) with feedback or below 0 without, a negative weight, a ridge
        beside exact matching, a dtype that is not floating, an activation or a device that is not
        known.

    References
    ----------
    Tsai, Decugis, El Ghaoui, Atamturk 2022, State-driven Implicit Modeling, arXiv 2209.09389.
    """

    activation_fn: str | Activation | Callable | None = None
    kappa: float = 0.99
    lambda_z: float = 1e-2
    lambda_y: float = 1e-2
    exact: bool = False
    ridge: float = 0.0
    rescale: bool = True
    skip_layers: int | None = None
    regenerate_states: bool = False
    device: str | torch.device = "auto"
    dtype: torch.dtype = torch.float32
    layers: Sequence[str] | None = None
    progress: bool = True
    weigh: str = "standard"
    refit: bool = False
    feedback: bool = True

    def __post_init__(self) -> None:
        if self.activation_fn is not None:
            self.activation_fn = activation(self.activation_fn)
        self.kappa = validation.kappa(self.kappa) if self.feedback else validation.real(
            "kappa", self.kappa, at_least=0.0)
        # A plain number is kept, whatever kind was given: `torch.load` refuses a file that holds
        # one of NumPy's, because it unpickles nothing.
        for name in ("lambda_z", "lambda_y", "ridge"):
            setattr(self, name, validation.real(name, getattr(self, name), at_least=0.0))
        if self.exact and self.ridge:
            raise ValueError(f"exact matching weighs no squares, got ridge={self.ridge:g}: give 0.")
        validation.choice("weigh", self.weigh, WEIGHTS)
        validation.floating(self.dtype)
        self.device = validation.resolve_device(self.device)
        self._model: Student | None = None
        self._result: SimResult | None = None
        self._teacher: nn.Module | None = None

    @property
    def model(self) -> Student:
        """The fitted model, in ``dtype`` on ``device``; RuntimeError before there is one.

        It can be trained on with any optimiser: see `Student`.
        """
        return self._trained(self._model)

    @property
    def result(self) -> SimResult:
        """The fitted matrices and how they were found; RuntimeError before there are any.

        Its figures are those of the fit. Once the model has been trained on, a note says so.
        """
        result, moved = self._trained(self._result), self.model.moved()
        return result if not moved else replace(result, notes=(*result.notes, (
            f"The model has been trained on since: its entries differ by up to {moved:.1%} from "
            f"the matrices here, to which all figures refer. sim.evaluate(loader) and "
            f"sim.fidelity(loader) measure the model as it is.")))

    @staticmethod
    def _trained(value: Any) -> Any:
        if value is None:
            raise RuntimeError("this SIM has no model yet: call train(solver=, model=, "
                               "dataloader=) first.")
        return value

    def train(self, solver: BaseSolver, model: nn.Module, dataloader: Batches) -> SIM:
        """Fit an implicit model to a teacher.

        Parameters
        ----------
        solver : BaseSolver
            Solves both convex problems.
        model : torch.nn.Module
            The teacher; left as it was found, and kept for `fidelity`.
        dataloader : iterable of U or (U, target)
            Targets are not looked at. Passed over once, twice with ``regenerate_states``.

        Returns
        -------
        SIM
            This object.

        Warns
        -----
        ConvergenceWarning
            If a solve ended before its gap was small.
        UserWarning
            If the student explains less than 99 % of its teacher's outputs, with the likely cause;
            if an exact matching misses.

        Raises
        ------
        TypeError, ValueError
            For a solver class in place of an object; for a teacher or a loader that
            `gram_statistics` refuses; for an ``activation_fn`` that is not the teacher's; with
            ``regenerate_states`` for an A that is not certified to be well-posed.
        RuntimeError
            If a solver that promises ‖A‖∞ ≤ κ breaks it.
        """
        seen = look(self, solver, model, dataloader)
        result, student, _ = fit(self, solver, seen)
        self._take(result, student, model)
        tell_poor(result, seen, stacklevel=2)
        return self

    def _take(self, result: SimResult, model: Student, teacher: nn.Module) -> None:
        self._result, self._model, self._teacher = result, model, teacher

    def path(self, solver: BaseSolver, model: nn.Module, dataloader: Batches,
             lambdas: Sequence[float] | int = 7, *, val_loader: Batches | None = None,
             within: float | None = None) -> pd.DataFrame:
        """Fit along falling λ, each from the one before, and keep the simplest good student.

        The teacher's states are collected once. This object is then the fit of the largest λ
        whose score is within one standard error of the best (Breiman et al. 1984, section 3.4.3).

        Parameters
        ----------
        solver, model, dataloader
            As for `train`.
        lambdas : sequence of float, or int
            λ_z = λ_y; or how many powers of ten, from where the first entries appear.
        val_loader : iterable of (U, target), optional
            What the score is measured on, as `evaluate` does; without it, it is the fidelity on
            the training batches.
        within : float, optional
            By how much the score may be below the best, instead of one standard error.

        Returns
        -------
        pandas.DataFrame
            A row for each λ, falling, by which it is indexed: accuracy (or r2, of float targets;
            with a val_loader), fidelity on the training batches, nonzeros (of A, B, C and D),
            gap (the larger relative one), status (the worse one's name), seconds, and which one
            was chosen.

        Raises
        ------
        TypeError, ValueError
            As `train`; for a λ that is not positive, and with ``exact``.
        """
        seen = look(self, solver, model, dataloader)
        return walk(self, solver, seen, lambdas, val_loader, within)

    def evaluate(self, dataloader: Batches) -> float:
        """Quality of the model on a loader's own batches, transforms included.

        Parameters
        ----------
        dataloader : iterable of (U, target)
            Class labels (m,) or float targets (m, ...).

        Returns
        -------
        float
            With class labels (m,) the accuracy, in [0, 1]; with float targets
            R² = 1 − Σ(ŷ − y)²/Σ(y − ȳ)² over all outputs, ȳ each output's mean.

        Warns
        -----
        UserWarning
            If no certificate says that the state equation has one solution.

        Raises
        ------
        RuntimeError
            Before `train` or `load`.
        TypeError, ValueError
            For targets that are no labels and no numbers of the model's width, or a loader that
            gives none; for float targets that are all alike.
        """
        return score(self._certified(), dataloader).value

    def fidelity(self, dataloader: Batches, teacher: nn.Module | None = None) -> float:
        """How much of the teacher's outputs the model explains on a loader's batches.

        Parameters
        ----------
        dataloader : iterable of U or (U, target)
            Targets are not looked at.
        teacher : torch.nn.Module, optional
            The one of `train` where it is None; a file keeps none.

        Returns
        -------
        float
            R² = 1 − Σ(ŷ − y)²/Σ(y − ȳ)², y the teacher's outputs and ȳ their means: 1 for a copy,
            0 for the mean, negative for worse. NaN where the teacher gives the same everywhere.

        Warns
        -----
        UserWarning
            As `evaluate`.

        Raises
        ------
        RuntimeError
            Before `train` or `load`; after `load` without a teacher.
        TypeError, ValueError
            For a teacher or a loader that `train` refuses.
        """
        model, teacher = self._certified(), teacher or self._teacher
        if teacher is None:
            raise RuntimeError("a file keeps no teacher: give it, fidelity(dataloader, teacher).")
        return fidelity(model, ((batch.U, batch.Y) for _, batch in states_by_batch(
            teacher, dataloader, skip_layers=self.skip_layers, layers=self.layers,
            progress=self.progress))).value

    def _certified(self) -> Student:
        """The model, with a warning where it may have no solution, or several."""
        certificate = self.model.certificate()
        if not certificate.well_posed:
            warnings.warn(f"the model is not certified to be well-posed, so what it predicts may "
                          f"depend on where the solve starts, or not be a solution at all: "
                          f"{certificate.sentence}", UserWarning, stacklevel=3)
        return self.model

    def save(self, path: str | os.PathLike) -> None:
        """Write the model, its matrices and their figures to a file that `load` reads.

        Parameters
        ----------
        path : path
            An existing file is overwritten.

        Raises
        ------
        RuntimeError
            Before `train` or `load`.
        """
        options = {f.name: getattr(self, f.name) for f in fields(self)
                   if f.name not in ("activation_fn", "device", "progress")}
        saving.write(path, {
            "state_dict": self.model.state_dict(), "result": saving.plain(self._result),
            "options": options | {"layers": self.layers and list(self.layers)}})

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str | torch.device = "auto",
             activation_fn: str | Activation | Callable | Sequence[Callable] | None = None) -> SIM:
        """Read what `save` wrote; nothing is unpickled.

        Parameters
        ----------
        path : path
            Of a file that `save` wrote.
        device : str or torch.device
            Of the model.
        activation_fn : str, Activation or callable, or a sequence of them, optional
            φ of the layers whose activation is none of torch's, as a file holds no code.

        Returns
        -------
        SIM
            With `model` and `result`; the solver's trace and the teacher are not kept.

        Raises
        ------
        OSError
            If there is no such file.
        ValueError
            If it is no whole file that this version's `save` wrote; if an activation is none of
            torch's and not given.
        """
        given = [activation_fn] if isinstance(activation_fn, str) or not isinstance(
            activation_fn, Sequence) else activation_fn
        saved = saving.read(path)
        sim = cls(device=device, **saved["options"])
        sim._result = saving.result_of(
            saved["result"], [activation(phi) for phi in given if phi is not None])
        r = sim._result
        sim._model = built(sim, r, r.A, r.B, r.C, r.D, r.state_bias, r.output_bias)
        sim._model.load_state_dict(saved["state_dict"])
        return sim
