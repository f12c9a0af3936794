"""A teacher as matrices, and units of its states in which it is inside the ball ‖A‖∞ ≤ κ.

Between its activations a teacher was shown to be affine, so that its matrices are what it makes
of unit vectors in the place of the input and of each activation's value. How its forward is
written plays no part.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from idl_lab.networks import Block, Network, from_scipy
from idl_lab.sim.hooks import block_of
from idl_lab.sim.recorder import Recorder, Run, activations
from idl_lab.well_posedness import units

if TYPE_CHECKING:  # states.py offers what is here, so that it is imported after this
    from idl_lab.sim.states import GramStatistics

# Units are found for a ball smaller by this part: V⁻¹AV formed from them in float64 rounds, and
# would otherwise leave the ball that it was rescaled into.
ROOM = 1e-12
_BATCH = 256  # unit vectors at a time
_MOST = 50_000  # of those of layers that are left out too


class Unreadable(ValueError):
    """Why a teacher's matrices cannot be found."""


def teacher_as_matrices(teacher: nn.Module, grams: GramStatistics) -> Network:
    """The matrices between a teacher's activations, from what it makes of unit vectors.

    The teacher runs on n + p samples, n counting all its activations, in eval mode and on its own
    device, and is left as it was found.

    Parameters
    ----------
    teacher : torch.nn.Module
        Its modules as they were when the statistics were summed.
    grams : GramStatistics
        Of this teacher.

    Returns
    -------
    Network
        With a block for every activation, also those of which no state was kept.

    Raises
    ------
    Unreadable
        If the teacher fails on zeros or unit vectors, or is not on them what it is on the data.
    """
    teacher = getattr(teacher, "_orig_mod", teacher)
    named = dict(teacher.named_modules())
    own = {name: named.get(name) for name in map(_module, grams.blocks)}
    if missing := ", ".join(name for name, module in own.items() if module is None):
        raise Unreadable(f"the teacher has no module {missing}, of which there are states")
    recorder = Recorder(teacher, activations(teacher) | own)
    eps = max((torch.finfo(T.dtype).eps for T in recorder.tensors.values()
               if T.is_floating_point()), default=torch.finfo(torch.float32).eps)
    with recorder.watching():
        # Biases are large beside a weight for large inputs: in float64, if it can be.
        for dtype in (recorder.in_float64(), contextlib.nullcontext()):
            try:
                with dtype:
                    network, its = _read(recorder, grams)
                why = _missed(network, grams, max(eps, its))
            except Exception as error:  # the teacher's own code
                why = str(error).rstrip(".")
            if not why:
                return network
    raise Unreadable(f"the teacher cannot be read as matrices: {why}")


def _module(block: Block) -> str:
    """The name of the module in a block's name, "features.1 (ReLU, call 2)"."""
    name = block.name.rpartition(" (")[0]
    return "" if name == "the network" else name


def _read(recorder: Recorder, grams: GramStatistics) -> tuple[Network, float]:
    """The matrices, and the ε that they were rounded with."""
    like = next((T for T in recorder.tensors.values() if T.is_floating_point()),
                torch.empty(0, device=recorder.device)).detach()
    zero = recorder.leave_out_constants(recorder.run(like.new_zeros(2, *grams.input_shape)))
    known = {block.name: block for block in grams.blocks}
    names = list(zero.calls)[::-1]  # the order of the states: the last call first
    blocks = tuple(known.get(name) or block_of(name, zero.calls[name], 2) for name in names)
    sizes = [block.size for block in blocks]
    n, p = sum(sizes), math.prod(grams.input_shape)
    if n > max(grams.n, _MOST):
        raise ValueError(f"all its layers have {n} states, too many to ask for one by one")
    starts = dict(zip(names, np.cumsum([0, *sizes]).tolist(), strict=False))
    eps = recorder.rounding(zero)
    rows, at_zero = [], None
    for name in [*names, ""]:
        source = zero.calls[name].X if name else zero.U
        # As the teacher's dtype rounds it, for it is divided by.
        step = float(source.new_tensor(_reach(grams, name)))
        for columns in torch.arange(source[0].numel(), device="cpu").split(_BATCH):
            found = _answer(recorder, zero, name, columns, step)
            base, change = found[0], found[1:] - found[0]
            # What rounds otherwise in another row of a batch is no weight.
            change[abs(change) <= 2 * eps * abs(base)] = 0
            if name:  # only what is called later can depend on it
                change[:, starts[name]:n] = 0
            rows.append(scipy.sparse.csr_array(change / step))
            at_zero = base if at_zero is None else at_zero
    M = scipy.sparse.csr_array(scipy.sparse.vstack(rows).T)
    parts = [scipy.sparse.csr_array(M[some, :][:, these]) for some in (slice(n), slice(n, None))
             for these in (slice(n), slice(n, n + p))]
    return Network(*parts, at_zero[:n], at_zero[n:], blocks, grams.input_shape, like.dtype), eps


def _reach(grams: GramStatistics, name: str) -> float:
    """How far the input, "", or a block's states go on the data: their root mean square."""
    sizes = {block.name: block.size for block in grams.blocks} | {"": grams.p}
    squares = dict(zip(sizes, grams.gram.diagonal()[:grams.n + grams.p].split([*sizes.values()]),
                       strict=True))
    return float((squares[name].mean() / grams.samples).sqrt()) or 1.0 if name in squares else 1.0


def _answer(recorder: Recorder, zero: Run, name: str, columns: Tensor, step: float) -> np.ndarray:
    """[Z Y] at zero, and at a step along each column of one source, (1 + columns, n + q)."""
    m = 1 + len(columns)
    U, given = zero.U.new_zeros(m, *zero.U.shape[1:]), {
        call: found.X.new_zeros(m, *found.X.shape[1:]) for call, found in zero.calls.items()}
    moved = given[name] if name else U
    rows = torch.arange(1, m, device=moved.device)
    moved.view(m, -1)[rows, columns.to(moved.device)] = step
    run = recorder.run(U, given)
    return torch.cat([T.reshape(m, -1).cpu().double() for T in (
        *(call.Z for call in reversed(run.calls.values())), run.Y)], dim=1).numpy()


def _missed(network: Network, grams: GramStatistics, eps: float) -> str:
    """What is wrong with matrices that do not give the states and outputs that were summed."""
    names = {block.name for block in network.blocks}
    strangers = [block.name for block in grams.blocks if block.name not in names]
    if strangers:
        return f"it has no states of the name and size of {', '.join(strangers)}"
    biased = network.state_bias.any() or network.output_bias.any()
    if len(names) > len(grams.blocks) or biased and not grams.ones:
        return ""  # the statistics do not hold all that the matrices multiply
    names = [*(block.name for block in network.blocks), "output"]
    W = scipy.sparse.csr_array(scipy.sparse.vstack([
        scipy.sparse.hstack([M, N, bias[:, None]] if grams.ones else [M, N]) for M, N, bias in (
            (network.A, network.B, network.state_bias),
            (network.C, network.D, network.output_bias))]))
    cross, norms = torch.cat([grams.cross_Z, grams.cross_Y]), torch.cat([grams.norms_Z,
                                                                        grams.norms_Y])
    sizes = [*(block.size for block in network.blocks), grams.q]
    ends = np.cumsum(sizes)
    for name, start, end in zip(names, ends - sizes, ends, strict=True):
        rows = W[start:end]
        some = torch.from_numpy(np.unique(rows.indices).astype(np.int64))  # a layer sees few
        rows = torch.from_numpy(rows[:, some.numpy()].toarray())
        squares = (rows @ grams.gram[some][:, some] * rows).sum(1)
        missed = squares - 2 * (rows * cross[start:end, some]).sum(1) + norms[start:end]
        if not (missed.abs() <= max(eps ** 0.8, 1e-9) * (squares + norms[start:end])).all():
            return f"on unit vectors {name} is another affine function than on the data"
    return ""


def rescale(grams: GramStatistics, network: Network, kappa: float
            ) -> tuple[GramStatistics, str, bool]:
    """New units of the states in which the teacher's own A is in the ball: ‖V⁻¹AV‖∞ ≤ κ.

    A teacher's A is nilpotent, so there are such units for every κ > 0; for positively
    homogeneous φ the states X V⁻¹ and Z V⁻¹ obey X V⁻¹ = φ(Z V⁻¹) still. The teacher is then one
    of the points that state matching chooses from, and the bound on ‖A‖∞ costs nothing. The row
    of a state whose φ has slope L > 1 is brought to κ/L. (λ_z and λ_y weigh the matrices in these
    units, where later layers' states are smaller numbers.)

    Parameters
    ----------
    grams : GramStatistics
        Of the teacher, in its own units.
    network : Network
        As `teacher_as_matrices` gives it.
    kappa : float
        Radius κ of the ball.

    Returns
    -------
    grams : GramStatistics
        Rescaled, or as given where that is not needed or cannot be done.
    note : str
        What was done, or why it could not be and what that costs.
    free : bool
        Whether the bound on A costs nothing.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, section 2.5.
    """
    slopes = torch.cat([block.slopes for block in network.blocks]).clamp(min=1.0).numpy()
    A = scipy.sparse.csr_array(scipy.sparse.diags_array(slopes) @ network.A)
    norm, size = float(abs(A).sum(axis=1).max()), "‖A‖∞" if slopes.max() == 1 else "‖LA‖∞"
    whole = len(grams.blocks) == len(network.blocks)
    skipped = "" if whole else (f" Only {len(grams.blocks)} of its {len(network.blocks)} layers "
                                f"are kept, so it is not itself one of the models that are fitted.")
    if norm <= kappa:
        return grams, (f"Not rescaled, as the teacher's own {size} = {norm:.3g} is at most κ = "
                       f"{kappa:g}: the bound on A costs nothing.{skipped}"), whole
    lost = (f"In the teacher's own units {size} = {norm:.3g} exceeds κ = {kappa:g}, and what A "
            f"cannot hold is lost from the fit.")
    phis = {block.activation for block in grams.blocks}
    if names := sorted({phi.name for phi in phis if not phi.homogeneous}):
        return grams, (f"Not rescaled: {', '.join(names)} is not positively homogeneous, so "
                       f"φ(z/v) is not φ(z)/v. {lost}{skipped}"), False
    try:
        v = units(from_scipy(A, torch.float64), kappa * (1 - ROOM))
    except ValueError as error:
        return grams, f"Not rescaled: {error} {lost}{skipped}", False
    parts = dict(zip([block.name for block in network.blocks],
                     v.split([block.size for block in network.blocks]), strict=True))
    v = torch.cat([parts[block.name] for block in grams.blocks])
    return grams.rescaled(v), (
        f"Rescaled: the states are measured in units from {float(v.min()):.3g} to "
        f"{float(v.max()):.3g}, in which the teacher has {size} ≤ κ = {kappa:g} instead of "
        f"{norm:.3g}.{skipped}"), whole
