"""The steps of SIM: look at a teacher, solve both problems, build the student, judge it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from idl_lab.fixed_point import Picard
from idl_lab.model import ImplicitModel
from idl_lab.networks import Block, blockwise
from idl_lab.sim.hooks import Batches, States, states_by_batch
from idl_lab.sim.matching import matched
from idl_lab.sim.matrices import Unreadable, rescale, teacher_as_matrices
from idl_lab.sim.problem import output_matching, state_matching
from idl_lab.sim.result import SimResult, alike, explained, split, spreads
from idl_lab.sim.score import Sample
from idl_lab.sim.solvers import BaseSolver
from idl_lab.sim.states import GramStatistics, accumulate, with_float64
from idl_lab.sim.student import Student
from idl_lab.well_posedness import inf_norm

if TYPE_CHECKING:
    from idl_lab.sim.sim import SIM

BROKEN = 1e-6  # by so much ‖A‖∞ > κ is a promise broken, and not rounding
POOR = 0.99  # a student that explains less of its teacher's outputs is reported

Starts = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Seen:
    """A teacher on data, as a fit needs it.

    Attributes
    ----------
    teacher : nn.Module
    loader : iterable
    grams : GramStatistics
        In the units and with the biases that are fitted.
    spread_Z, spread_Y : Tensor, shapes (n,) and (q,)
        Σ (z − z̄)² and Σ (y − ȳ)² of each column.
    sample : Sample
        Inputs and the teacher's outputs.
    note : str
        What was done about the units.
    free : bool
        Whether the bound on A costs nothing.
    """

    teacher: nn.Module
    loader: Batches
    grams: GramStatistics
    spread_Z: Tensor
    spread_Y: Tensor
    sample: Sample
    note: str
    free: bool


def look(sim: SIM, solver: BaseSolver, teacher: nn.Module, loader: Batches) -> Seen:
    """Pass over the data once; decide on units and biases.

    Parameters
    ----------
    sim : SIM
        Its options.
    solver, teacher, loader
        As for `SIM.train`.

    Raises
    ------
    TypeError, ValueError
        As `SIM.train`.
    """
    if not isinstance(solver, BaseSolver):
        raise TypeError(f"solver must be a solver object, such as ADMMSolver(), got {solver!r}.")
    sample = Sample()

    def summed(batches: Batches) -> GramStatistics:
        return accumulate(sample.watching(_states(sim, teacher, batches)))

    grams = solver.gathered(summed, teacher, loader)
    sample.join(solver.everywhere(sample.kept))
    phi = sim.activation_fn
    for block in grams.blocks:
        if phi is not None and not alike(block.activation, phi, block.size):
            raise ValueError(f"activation_fn is {phi.name}, but the teacher's {block.name} is "
                             f"{block.activation.name}: activation_fn=None takes each layer's own.")
    spread_Z, spread_Y = spreads(grams)
    try:
        network = teacher_as_matrices(teacher, grams)
    except Unreadable as error:
        free, note = False, (
            f"Not rescaled: {error}. In the teacher's own units its ‖A‖∞ may exceed κ = "
            f"{sim.kappa:g}, and what A cannot hold is lost from the fit.")
    else:
        if not (network.state_bias.any() or network.output_bias.any()):
            grams = grams.without_ones()
        if sim.rescale:
            grams, note, free = rescale(grams, network, sim.kappa)
    if not sim.rescale:
        free, note = False, ("Not rescaled, as rescale=False asks: where the teacher's own ‖A‖∞ "
                             "exceeds κ, the bound costs accuracy.")
    return Seen(teacher, loader, grams, spread_Z / grams.units ** 2, spread_Y, sample, note, free)


def _states(sim: SIM, teacher: nn.Module, loader: Batches
            ) -> Iterator[tuple[tuple[Block, ...], States]]:
    return states_by_batch(teacher, loader, skip_layers=sim.skip_layers, layers=sim.layers,
                           progress=sim.progress)


def fit(sim: SIM, solver: BaseSolver, seen: Seen, starts: Starts = (None, None)
        ) -> tuple[SimResult, Student, Starts]:
    """Solve both problems and build the student.

    Parameters
    ----------
    sim : SIM
        Its options.
    solver : BaseSolver
    seen : Seen
    starts : pair of Tensor or None
        What a fit at a neighbouring λ gave as the last of its three.

    Raises
    ------
    RuntimeError, ValueError
        As `SIM.train`.
    """
    began, grams = time.perf_counter(), seen.grams
    steep = grams.slopes.clamp(min=1)
    state, start_Z = matched("state", sim, solver, state_matching(
        grams, sim.kappa / steep, sim.lambda_z, sim.ridge, sim.feedback), grams, starts[0])
    A, B, state_bias = split(state.W, grams)
    norm = float(inf_norm(steep[:, None] * A))
    if solver.honours_kappa and norm > sim.kappa + BROKEN:
        raise RuntimeError(f"{type(solver).__name__} returned ‖A‖∞ = {norm:.6g} > κ = "
                           f"{sim.kappa:g}; a solver that cannot keep the bound must say "
                           f"honours_kappa = False.")
    source = grams
    if sim.regenerate_states:
        C, D, output_bias = split(A.new_zeros(grams.q, state.W.shape[1]), grams)
        student = built(sim, grams, A, B, C, D, state_bias, output_bias)
        source = solver.gathered(lambda batches: _regenerated(
            sim, student, replace(seen, loader=batches)), seen.teacher, seen.loader)
    output, start_Y = matched("output", sim, solver, output_matching(
        source, sim.lambda_y, sim.ridge), source, starts[1])
    C, D, output_bias = split(output.W, grams)
    student = built(sim, grams, A, B, C, D, state_bias, output_bias)
    fidelity = seen.sample.fidelity(student)
    layers = [block.size for block in grams.blocks]
    parts = zip(grams.blocks, *(T.split(layers) for T in (
        grams.cross_Z, grams.norms_Z, state.W.cpu(), seen.spread_Z)), strict=True)
    figures = {
        "state": state.stats, "output": output.stats, "samples": grams.samples,
        "relative_gap": {"state": state.stats.relative_gap, "output": output.stats.relative_gap},
        "worst_gap": {"state": state.stats.worst_gap, "output": output.stats.worst_gap},
        "seconds": time.perf_counter() - began, "inf_norm": float(inf_norm(A)),
        "nonzeros": {name: int(M.count_nonzero()) for name, M in zip("ABCD", (A, B, C, D),
                                                                     strict=True)},
        "fit": {block.name: explained(grams.gram, *part) for block, *part in parts}
        | {"output": explained(source.gram, source.cross_Y, source.norms_Y, output.W,
                               seen.spread_Y)},
        "fidelity": fidelity.value, "fidelity_error": fidelity.error,
        "fidelity_samples": fidelity.samples}
    return SimResult(
        A, B, C, D, state_bias, output_bias, {"state": state.status, "output": output.status},
        figures, {"state": state.history, "output": output.history}, grams.blocks, grams.units,
        (seen.note,), state.factors), student, (start_Z, start_Y)


def built(sim: SIM, of: GramStatistics | SimResult, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
          state_bias: Tensor | None, output_bias: Tensor | None) -> Student:
    """The model of the matrices that were found.

    Parameters
    ----------
    sim : SIM
        Its κ, dtype and device.
    of : GramStatistics or SimResult
        What knows the blocks and units.
    A, B, C, D, state_bias, output_bias : Tensor
        Of a solver that does not keep κ, A is left as it is.
    """
    matrices = {"A": A, "B": B, "C": C, "D": D, "state_bias": state_bias,
                "output_bias": output_bias}
    matrices = {name: M.to(sim.device, sim.dtype) for name, M in matrices.items() if M is not None}
    slopes = torch.cat([block.slopes for block in of.blocks])
    kept = float(inf_norm(slopes.clamp(min=1)[:, None] * A)) <= sim.kappa + BROKEN
    kept = kept and sim.kappa < 1  # no ball holds a larger A; it needs none without feedback
    # In the teacher's units an error is `units` times as large as in the model's.
    model = Student.from_matrices(
        **matrices, activation=blockwise([(b.activation, b.size) for b in of.blocks]),
        **({"kappa": sim.kappa, "constraint": "row"} if kept else {"constraint": None}),
        solver=Picard().in_units(of.units))
    return model.in_units({name: M.abs() for name, M in matrices.items()}, slopes)


def _regenerated(sim: SIM, student: Student, seen: Seen) -> GramStatistics:
    """Statistics of the states that A and B give; outputs are the teacher's."""
    grams, at = seen.grams, with_float64(sim.device)
    A, B, C, D, *biases = (None if M is None else M.detach().to(at).double() for M in (
        student.A, student.B, student.C, student.D, student.state_bias, student.output_bias))
    model = ImplicitModel.from_matrices(
        A, B, C, D, activation=grams.activation, kappa=sim.kappa, state_bias=biases[0],
        output_bias=biases[1], solver=Picard(rtol=1e-9, max_steps=10_000).in_units(grams.units))
    if not (found := student.certificate()).well_posed:
        raise ValueError(f"regenerate_states=True needs a well-posed model: {found.sentence}")

    def batches() -> Iterator[tuple[tuple[Block, ...], States]]:
        for blocks, batch in _states(sim, seen.teacher, seen.loader):
            U = batch.U.flatten(1).to(at).double()
            with torch.no_grad():
                X = model.equilibrium(U, throw=True).value
            yield blocks, States(U, X, X, batch.Y.to(at))

    return accumulate(batches(), ones=grams.ones)


def tell_poor(result: SimResult, seen: Seen, stacklevel: int) -> None:
    """Warn of a student that is not its teacher's equal, and of what it may lack.

    Parameters
    ----------
    result : SimResult
    seen : Seen
        What it was fitted to.
    stacklevel : int
        As for `warnings.warn`.
    """
    fidelity, fits = result.fidelity, result.stats["fit"]
    if fidelity >= POOR or (math.isnan(fidelity) and seen.free):
        return
    worst = min(fits, key=fits.__getitem__)
    if not seen.free:
        cause = f" The worst fit is {fits[worst]:.3g}, of {worst}. {seen.note}"
    elif fits[worst] < POOR:
        cause = f" The worst fit is {fits[worst]:.3g}, of {worst}: a smaller λ may mend it."
    else:
        cause = (" Each layer is fitted well, and their errors add up: regenerate_states=True fits "
                 "the outputs to the student's own states, a smaller λ makes the errors smaller.")
    warnings.warn(f"the student is poor: on the training batches it explains {fidelity:.3g} of the "
                  f"variance of its teacher's outputs (the fidelity R², 1 for a copy).{cause}",
                  UserWarning, stacklevel=stacklevel + 1)
