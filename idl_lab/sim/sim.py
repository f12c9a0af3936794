"""SIM: an implicit model from a teacher's states, by two convex problems and no back-propagation.

    min ½‖X Aᵀ + U Bᵀ − Z‖²_F + λ_z ‖[A B]‖₁   s.t. ‖A‖∞ ≤ κ        (state matching)
    min ½‖X Cᵀ + U Dᵀ − Y‖²_F + λ_y ‖[C D]‖₁                         (output matching)

(Tsai, Decugis, El Ghaoui, Atamturk 2022, State-driven Implicit Modeling, arXiv 2209.09389; with
biases, Φ = [X U 1].)
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.activations import Activation, activation
from idl_lab.constraints import shrink_rows
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.model import ImplicitModel
from idl_lab.networks import Block, blockwise
from idl_lab.sim.hooks import Batches, States, states_by_batch
from idl_lab.sim.problem import Problem, output_matching, state_matching
from idl_lab.sim.result import SimResult, alike, explained, explained_by_block, split
from idl_lab.sim.score import score
from idl_lab.sim.solvers import BaseSolver, SolveResult, SolveStatus
from idl_lab.sim.states import (
    GramStatistics,
    accumulate,
    gram_statistics,
    rescale,
    teacher_as_matrices,
)
from idl_lab.well_posedness import inf_norm

BROKEN = 1e-6  # by so much ‖A‖∞ > κ is a promise broken, and not rounding
INEXACT = 1e-4  # of the size of a target: a larger miss is no exact matching


@dataclass(eq=False)
class SIM:
    """State-driven implicit modeling: match a teacher's states and outputs.

    Parameters
    ----------
    activation_fn : str, Activation or callable, optional
        φ of the model, which must be that of every layer. None, the default, is each layer's own,
        for teachers that mix them.
    kappa : float
        Radius κ of the ball ‖A‖∞ ≤ κ.
    lambda_z, lambda_y : float
        ℓ₁ weights λ of state and output matching.
    exact : bool
        Match exactly instead, with the smallest ℓ₁ norm: `Problem.exact`; no λ is used then.
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
        For a kappa outside [0, 1), a negative weight, a ridge beside exact matching, a dtype that
        is not floating, an activation or a device that is not known.

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

    def __post_init__(self) -> None:
        if self.activation_fn is not None:
            self.activation_fn = activation(self.activation_fn)
        self.kappa = validation.kappa(self.kappa)
        # A plain number is kept, whatever kind was given: `torch.load` refuses a file that holds
        # one of NumPy's, because it unpickles nothing.
        for name in ("lambda_z", "lambda_y", "ridge"):
            setattr(self, name, validation.real(name, getattr(self, name), at_least=0.0))
        if self.exact and self.ridge:
            raise ValueError(f"exact matching weighs no squares, got ridge={self.ridge:g}: give 0.")
        validation.floating(self.dtype)
        self.device = validation.resolve_device(self.device)
        self._model: ImplicitModel | None = None
        self._result: SimResult | None = None

    @property
    def model(self) -> ImplicitModel:
        """The fitted model, in ``dtype`` on ``device``; RuntimeError before there is one."""
        return self._trained(self._model)

    @property
    def result(self) -> SimResult:
        """The fitted matrices and how they were found; RuntimeError before there are any."""
        return self._trained(self._result)

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
            The teacher; left as it was found.
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
            If the bound on A may cost accuracy; `SimResult.notes` say the same.

        Raises
        ------
        TypeError, ValueError
            For a solver class in place of an object; for a teacher or a loader that
            `gram_statistics` refuses; for an ``activation_fn`` that is not the teacher's; with
            ``regenerate_states`` for an A that is not certified to be well-posed.
        RuntimeError
            If a solver that promises ‖A‖∞ ≤ κ breaks it.
        """
        if not isinstance(solver, BaseSolver):
            raise TypeError(f"solver must be a solver object, such as ADMMSolver(), got "
                            f"{solver!r}.")
        start = time.perf_counter()
        grams = solver.gathered(lambda batches: gram_statistics(
            model, batches, skip_layers=self.skip_layers, layers=self.layers,
            progress=self.progress), model, dataloader)
        self._check_activation(grams)
        grams, notes = self._prepared(model, grams)
        state = self._solved("state", solver, state_matching(
            grams, self.kappa, self.lambda_z, self.ridge))
        A, B, state_bias = split(state.W, grams)
        A_model = self._in_ball(A, solver)
        source = grams
        if self.regenerate_states:
            source = solver.gathered(lambda batches: self._regenerated(
                A_model, B, state_bias, grams, model, batches), model, dataloader)
        output = self._solved("output", solver, output_matching(
            source, self.lambda_y, self.ridge))
        C, D, output_bias = split(output.W, grams)
        fits = explained_by_block(grams, state.W) | {"output": explained(
            source.gram, source.cross_Y, source.norms_Y, output.W)}
        figures = {
            "state": state.stats, "output": output.stats, "samples": grams.samples,
            "relative_gap": {"state": state.stats.relative_gap,
                             "output": output.stats.relative_gap},
            "seconds": time.perf_counter() - start, "inf_norm": float(inf_norm(A)),
            "nonzeros": {name: int(M.count_nonzero()) for name, M in zip("ABCD", (A, B, C, D),
                                                                         strict=True)},
            "fit": fits}
        self._result = SimResult(
            A, B, C, D, state_bias, output_bias,
            {"state": state.status, "output": output.status}, figures,
            {"state": state.history, "output": output.history}, grams.blocks, grams.units, notes,
            state.factors)
        self._model = self._built(A_model, B, C, D, state_bias, output_bias, grams.activation,
                                  grams.units)
        return self

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
        model = self.model
        certificate = model.certificate()
        if not certificate.well_posed:
            warnings.warn(f"the model is not certified to be well-posed, so what it predicts may "
                          f"depend on where the solve starts, or not be a solution at all: "
                          f"{certificate.sentence}", UserWarning, stacklevel=2)
        return score(model, dataloader)

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
        torch.save({"state_dict": self.model.state_dict(), "result": self.result.plain(),
                    "options": {"kappa": self.kappa, "lambda_z": self.lambda_z,
                                "lambda_y": self.lambda_y, "exact": self.exact,
                                "ridge": self.ridge, "rescale": self.rescale,
                                "skip_layers": self.skip_layers,
                                "layers": self.layers and list(self.layers),
                                "regenerate_states": self.regenerate_states,
                                "dtype": self.dtype}}, path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str | torch.device = "auto",
             activation_fn: str | Activation | Callable | None = None) -> SIM:
        """Read what `save` wrote; nothing is unpickled.

        Parameters
        ----------
        path : path
            Of a file that `save` wrote.
        device : str or torch.device
            Of the model.
        activation_fn : str, Activation or callable, optional
            φ of the layers whose activation is not one of the named ones.

        Returns
        -------
        SIM
            With `model` and `result`; the solver's trace is not kept.

        Raises
        ------
        ValueError
            If an activation has no name and ``activation_fn`` is not it.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        sim = cls(activation_fn, device=device, **saved["options"])
        sim._result = result = SimResult.of_plain(saved["result"], sim.activation_fn)
        phi = blockwise([(block.activation, block.size) for block in result.blocks])
        sim._model = sim._built(result.A, result.B, result.C, result.D, result.state_bias,
                                result.output_bias, phi, result.units)
        sim._model.load_state_dict(saved["state_dict"])
        return sim

    # --- the steps of train -------------------------------------------------------------------

    def _check_activation(self, grams: GramStatistics) -> None:
        for block in grams.blocks:
            if self.activation_fn is not None and not alike(block.activation, self.activation_fn):
                raise ValueError(f"activation_fn is {self.activation_fn.name}, but the teacher's "
                                 f"{block.name} is {block.activation.name}: activation_fn=None "
                                 f"takes each layer's own.")

    def _prepared(self, teacher: nn.Module, grams: GramStatistics
                  ) -> tuple[GramStatistics, tuple[str, ...]]:
        """The statistics that are fitted: in which units, with which biases."""
        network = teacher_as_matrices(teacher, grams)
        notes = []
        if not isinstance(network, str) and not (network.state_bias.any()
                                                 or network.output_bias.any()):
            grams = grams.without_ones()
        if self.rescale:
            grams, note, free = rescale(grams, network, self.kappa)
            notes.append(note)
            if not free and self.skip_layers is self.layers is None:
                warnings.warn(note, UserWarning, stacklevel=3)
        else:
            notes.append("Not rescaled, as rescale=False asks: where the teacher's own ‖A‖∞ "
                         "exceeds κ, the bound costs accuracy.")
        if isinstance(network, str) and network not in notes[0]:
            notes.append(f"SIM matches what it can of it: {network}")
        return grams, tuple(notes)

    def _in_ball(self, A: Tensor, solver: BaseSolver) -> Tensor:
        """A in the model's dtype: a solver that promises ‖A‖∞ ≤ κ has it kept after rounding."""
        rounded = A.to(self.dtype)
        if not solver.honours_kappa:
            return rounded
        if (norm := float(inf_norm(A))) > self.kappa + BROKEN:
            raise RuntimeError(f"{type(solver).__name__} returned ‖A‖∞ = {norm:.6g} > κ = "
                               f"{self.kappa:g}; a solver that cannot keep the bound must say "
                               f"honours_kappa = False.")
        return shrink_rows(rounded, self.kappa)

    def _built(self, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state_bias: Tensor | None,
               output_bias: Tensor | None, phi: Activation, units: Tensor) -> ImplicitModel:
        A, B, C, D, *biases = (None if M is None else M.to(self.device, self.dtype)
                               for M in (A, B, C, D, state_bias, output_bias))
        # In the teacher's units an error is `units` times as large as in the model's.
        return ImplicitModel.from_matrices(
            A, B, C, D, activation=phi, kappa=self.kappa, state_bias=biases[0],
            output_bias=biases[1], solver=Picard().in_units(units))

    def _regenerated(self, A: Tensor, B: Tensor, bias: Tensor | None, grams: GramStatistics,
                     teacher: nn.Module, loader: Batches) -> GramStatistics:
        """Statistics of the states that A and B give; outputs are the teacher's."""
        A, B = A.double(), B.to(self.dtype).double()
        zero = A.new_zeros(grams.q)
        student = ImplicitModel.from_matrices(
            A, B, A.new_zeros(grams.q, grams.n), activation=grams.activation, kappa=self.kappa,
            state_bias=None if bias is None else bias.to(self.dtype).double(),
            output_bias=None if bias is None else zero,
            solver=Picard(rtol=1e-9, max_steps=10_000).in_units(grams.units))
        if not (found := student.certificate()).well_posed:
            raise ValueError(f"regenerate_states=True needs a well-posed model: {found.sentence}")

        def batches() -> Iterator[tuple[tuple[Block, ...], States]]:
            for blocks, batch in states_by_batch(
                    teacher, loader, skip_layers=self.skip_layers, layers=self.layers,
                    progress=self.progress):
                U = batch.U.flatten(1).cpu().double()
                with torch.no_grad():
                    X = student.equilibrium(U, throw=True).value
                yield blocks, States(U, X, X, batch.Y.cpu())

        return accumulate(batches(), ones=grams.ones)

    def _solved(self, name: str, solver: BaseSolver, problem: Problem) -> SolveResult:
        found = solver.solve(problem.exact() if self.exact else problem)
        # No warning of a solver that leaves κ out, whose gap is that of another problem, nor after
        # a cancel, of which the user knows.
        if solver.honours_kappa and found.status in (SolveStatus.MAX_STEPS, SolveStatus.SECONDS,
                                                      SolveStatus.ENDED):
            warnings.warn(f"{name} matching stopped early: {found.status.value}. The relative gap "
                          f"is {found.stats.relative_gap:.1e}; give {solver.name} more max_steps "
                          f"or seconds, or a larger tol.", ConvergenceWarning, stacklevel=3)
        seen = problem.norms > 0
        if not (self.exact and seen.any()):
            return found
        missed = float((2 * problem.fit(found.W) / problem.norms)[seen].amax()) ** 0.5
        if missed > INEXACT:
            inside = f" with ‖A‖∞ ≤ κ = {self.kappa:g}" if problem.ball else ""
            warnings.warn(f"{name} matching was to be exact, and what {solver.name} found{inside} "
                          f"misses {missed:.1e} of the size of a target: nothing may match, or the "
                          f"solver ended before it did.", UserWarning, stacklevel=3)
        return found
