"""Implicit models built out of implicit models: each rule returns one `ImplicitModel`.

Whatever is wired together from maps x = φ(Ax + Bu), ŷ = Cx + Du is again of that form, with the
states stacked (El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3)).
Below, b is a state bias and c an output bias; an absent bias or feedthrough counts as zero.

The models given are left alone and share no memory with the result. It has no constraint, and
the first model's solver and adjoint. Its ``certificate()`` says whether the composition is
well-posed: the rules without feedback make A block triangular, so λ_PF(|A|) is the largest of
the parts' although ‖A‖∞ may be many times theirs. Of several activations the certificate counts
the steepest everywhere, so where slopes differ it may prove less than it could.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point import GaussSeidel, Picard
from idl_lab.fixed_point.solution import ConvergenceError
from idl_lab.fixed_point.solver import Solver
from idl_lab.model import ImplicitModel
from idl_lab.networks import blockwise, select


class _Parts(NamedTuple):
    """Dense matrices and biases, zero where the model has none."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    b: Tensor
    c: Tensor


def cascade(first: ImplicitModel, *more: ImplicitModel) -> ImplicitModel:
    """One model after another: u → first → second → …, the state of the last one on top.

    With û = C₁x₁ + D₁u + c₁ as the input of the second::

        A = [A₂  B₂C₁]   B = [B₂D₁]   C = [C₂  D₂C₁]   D = D₂D₁
            [0   A₁  ]       [B₁  ]
        b = [b₂ + B₂c₁; b₁]   c = c₂ + D₂c₁

    and so on with a third. A is block triangular: λ_PF(|A|) = max λ_PF(|A_i|).

    Parameters
    ----------
    first, more : ImplicitModel
        Each takes as many inputs as the one before has outputs.

    Returns
    -------
    ImplicitModel
        Without feedthrough as soon as one of the models has none.

    Raises
    ------
    TypeError, ValueError
        If something is no model, or sizes, dtypes or devices do not match.
    """
    models = (first, *more)
    parts = _read(models)
    for k, (one, two) in enumerate(zip(parts, parts[1:], strict=False), start=1):
        if two.B.shape[1] != one.C.shape[0]:
            raise ValueError(f"cascade feeds model {k} into model {k + 1}: model {k} has "
                             f"{one.C.shape[0]} outputs, model {k + 1} takes {two.B.shape[1]} "
                             f"inputs.")
    done = parts[0]
    for two in parts[1:]:
        one = done
        zero = one.A.new_zeros(len(one.A), len(two.A))
        done = _Parts(
            torch.cat([torch.cat([two.A, two.B @ one.C], 1), torch.cat([zero, one.A], 1)]),
            torch.cat([two.B @ one.D, one.B]), torch.cat([two.C, two.D @ one.C], 1),
            two.D @ one.D, torch.cat([two.b + two.B @ one.c, one.b]), two.c + two.D @ one.c)
    return _build(done, models[::-1], first, all(m.D is not None for m in models))


def parallel(first: ImplicitModel, *more: ImplicitModel) -> ImplicitModel:
    """All models on the same input, their outputs one after the other: ŷ = [ŷ₁; ŷ₂; …].

    A and C are block diagonal, the blocks of B, D and both biases stand below one another.

    Parameters
    ----------
    first, more : ImplicitModel
        All with the same number of inputs.

    Returns
    -------
    ImplicitModel
        With q₁ + q₂ + … outputs.

    Raises
    ------
    TypeError, ValueError
        If something is no model, or sizes, dtypes or devices do not match.
    """
    models = (first, *more)
    parts = _read(models)
    _same_size("parallel", "inputs", [part.B.shape[1] for part in parts])
    A, B, C, D, b, c = zip(*parts, strict=True)
    joined = _Parts(torch.block_diag(*A), torch.cat(B), torch.block_diag(*C), torch.cat(D),
                    torch.cat(b), torch.cat(c))
    return _build(joined, models, first, any(m.D is not None for m in models))


def add(first: ImplicitModel, *more: ImplicitModel) -> ImplicitModel:
    """The sum rule: all models on the same input, ŷ = ŷ₁ + ŷ₂ + ….

    A is block diagonal, B = [B₁; B₂; …], b = [b₁; b₂; …], C = [C₁ C₂ …], D = D₁ + D₂ + … and
    c = c₁ + c₂ + ….

    Parameters
    ----------
    first, more : ImplicitModel
        All with the same numbers of inputs and outputs.

    Returns
    -------
    ImplicitModel

    Raises
    ------
    TypeError, ValueError
        If something is no model, or sizes, dtypes or devices do not match.
    """
    models = (first, *more)
    parts = _read(models)
    _same_size("add", "inputs", [part.B.shape[1] for part in parts])
    _same_size("add", "outputs", [part.C.shape[0] for part in parts])
    A, B, C, D, b, c = zip(*parts, strict=True)
    total = _Parts(torch.block_diag(*A), torch.cat(B), torch.cat(C, 1), torch.stack(D).sum(0),
                   torch.cat(b), torch.stack(c).sum(0))
    return _build(total, models, first, any(m.D is not None for m in models))


def multiply(M: Tensor, model: ImplicitModel) -> ImplicitModel:
    """The output times a matrix, ŷ ← Mŷ: C ← MC, D ← MD, c ← Mc.

    Parameters
    ----------
    M : Tensor, shape (r, q)
    model : ImplicitModel

    Returns
    -------
    ImplicitModel
        With r outputs.

    Raises
    ------
    TypeError, ValueError
        If ``model`` is no model, or M does not have its dtype and device and q columns.
    """
    (part,) = _read((model,))
    M = _matrix("M", M, "r q", part, q=part.C.shape[0])
    part = part._replace(C=M @ part.C, D=M @ part.D, c=M @ part.c)
    return _build(part, (model,), model, model.D is not None)


def precompose(model: ImplicitModel, M: Tensor) -> ImplicitModel:
    """The model of an input times a matrix, u ← Mu: B ← BM, D ← DM.

    Parameters
    ----------
    model : ImplicitModel
    M : Tensor, shape (p, r)

    Returns
    -------
    ImplicitModel
        With r inputs.

    Raises
    ------
    TypeError, ValueError
        If ``model`` is no model, or M does not have its dtype and device and p rows.
    """
    (part,) = _read((model,))
    M = _matrix("M", M, "p r", part, p=part.B.shape[1])
    part = part._replace(B=part.B @ M, D=part.D @ M)
    return _build(part, (model,), model, model.D is not None)


def feedback(model: ImplicitModel, F: Tensor) -> ImplicitModel:
    """The output fed back into the input: u ← u + Fŷ.

    The output then solves ŷ = Cx + D(u + Fŷ) + c, so ŷ = G(Cx + Du + c) with G = (I − DF)⁻¹,
    and u + Fŷ put into the state equation gives

        A′ = A + BFGC   B′ = B(I + FGD)   C′ = GC   D′ = GD   b′ = b + BFGc   c′ = Gc

    Well-posedness is not inherited: it is that of A′, which is what the result's certificate
    looks at.

    Parameters
    ----------
    model : ImplicitModel
    F : Tensor, shape (p, q)

    Returns
    -------
    ImplicitModel

    Raises
    ------
    TypeError, ValueError
        If ``model`` is no model, F does not have its dtype and device and shape (p, q), or
        I − DF is singular to working precision, so that ŷ is not determined.
    """
    (part,) = _read((model,))
    A, B, C, D, b, c = part
    q, p = D.shape
    F = _matrix("F", F, "p q", part, p=p, q=q)
    eye = torch.eye(q, dtype=A.dtype, device=A.device)
    loop = D @ F
    if validation.readable(loop):
        _check_invertible(loop)
    G = torch.linalg.solve(eye - loop, torch.cat([C, D, c[:, None]], 1))
    GC, GD, Gc = G[:, :len(A)], G[:, len(A):-1], G[:, -1]
    BF = B @ F
    closed = _Parts(A + BF @ GC, B + BF @ GD, GC, GD, b + BF @ Gc, Gc)
    return _build(closed, (model,), model, model.D is not None)


def prune_states(model: ImplicitModel) -> ImplicitModel:
    """The same function with fewer states: those that do nothing are dropped.

    State i reads state j where A_ij ≠ 0, and the input where row i of B is not zero.

    - A state from which no way leads to C, such as one of zeros in its column of [A; C], is seen
      by no output.
    - A state to which no way leads from the input, such as one of zeros in its row of [A B], is
      the same for every input: it is x = φ(Ax + b) of these states alone, and what others make of
      it is added to their biases.

    Parameters
    ----------
    model : ImplicitModel

    Returns
    -------
    ImplicitModel
        Of the states that are left, in their order, dense; with biases where the model has them or
        a constant needs one. One state stays where none is needed. Predictions are the same up to
        rounding, where the model is well-posed.

    Raises
    ------
    TypeError
        If ``model`` is no model.
    """
    ((A, B, C, D, b, c),) = _read((model,))
    seen = _reached(A.mT, (C != 0).any(dim=0))
    moved = _reached(A, (B != 0).any(dim=1)) | ~seen
    bias = model.state_bias is not None or model.output_bias is not None
    if len(still := torch.nonzero(~moved)[:, 0]):
        alone = ImplicitModel.from_matrices(
            A[still][:, still], A.new_zeros(len(still), 1), A.new_zeros(1, len(still)),
            state_bias=b[still], output_bias=c.new_zeros(1),
            activation=select(model.activation, still),
            solver=Picard(rtol=4 * torch.finfo(A.dtype).eps, atol=0.0, max_steps=100_000))
        try:
            x = alone.equilibrium(A.new_zeros(1, 1), throw=True).value[0].detach()
            b, c, bias = b + A[:, still] @ x, c + C[:, still] @ x, bias or bool(x.any())
        except ConvergenceError:  # what does not settle alone is left as it is
            moved[still] = True
    kept = torch.nonzero(seen & moved)[:, 0]
    C = C[:, kept]
    if not len(kept):
        kept, C = kept.new_zeros(1), C.new_zeros(len(C), 1)
    return ImplicitModel.from_matrices(
        A[kept][:, kept], B[kept], C, D if model.D is not None else None,
        state_bias=b[kept] if bias else None, output_bias=c if bias else None,
        activation=select(model.activation, kept), solver=_solver(model), adjoint=model.adjoint)


def _reached(A: Tensor, first: Tensor) -> Tensor:
    """Those to which a way leads from the first ones: i is one step from j where A_ij ≠ 0."""
    reads = (A != 0).to(A.dtype)
    found = first
    while True:
        more = found | (reads @ found.to(A.dtype) > 0)
        if torch.equal(more, found):
            return found
        found = more


def _check_invertible(loop: Tensor) -> None:
    """Refuse DF with I − DF singular up to the rounding of DF itself."""
    DF = loop.cpu().double()
    eye = torch.eye(len(DF), dtype=DF.dtype, device=DF.device)
    sigma = torch.linalg.svdvals(eye - DF)
    slack = len(DF) * torch.finfo(loop.dtype).eps * (1 + float(torch.linalg.matrix_norm(DF)))
    if float(sigma[-1]) <= slack:
        raise ValueError(
            f"feedback needs I − DF invertible, but its smallest singular value is "
            f"{float(sigma[-1]):.2e}, zero to the precision of {loop.dtype} (the largest is "
            f"{float(sigma[0]):.2e}): ŷ = Cx + D(u + Fŷ) does not determine ŷ. Scale F down, or "
            f"use a model without feedthrough.")


def _read(models: tuple[ImplicitModel, ...]) -> list[_Parts]:
    """The matrices of each model, checked to live in one place and precision."""
    parts: list[_Parts] = []
    for k, model in enumerate(models, start=1):
        name = f"model {k}" if len(models) > 1 else "model"
        if not isinstance(model, ImplicitModel):
            hint = ": write *models for a list of them" if isinstance(model, list | tuple) else ""
            raise TypeError(f"{name} must be an ImplicitModel, got {type(model).__name__}{hint}.")
        A, B, C = (M.detach().to_dense() for M in (model.A, model.B, model.C))
        D, b, c = (None if M is None else M.detach().to_dense()
                   for M in (model.D, model.state_bias, model.output_bias))
        part = _Parts(A, B, C, A.new_zeros(len(C), B.shape[1]) if D is None else D,
                      A.new_zeros(len(A)) if b is None else b,
                      A.new_zeros(len(C)) if c is None else c)
        for letter, M in part._asdict().items():
            validation.tensor(f"{letter} of {name}", M, like=parts[0].A if parts else A)
        parts.append(part)
    return parts


def _matrix(name: str, M: Tensor, shape: str, part: _Parts, **sizes: int) -> Tensor:
    """A matrix that the caller gives, in a dense layout and without its graph."""
    if isinstance(M, Tensor):
        if M.is_nested:
            raise TypeError(f"{name} must be one matrix, got a nested tensor.")
        M = M.detach().to_dense()
    return validation.tensor(name, M, shape, like=part.A, **sizes)


def _same_size(rule: str, what: str, sizes: list[int]) -> None:
    for k, size in enumerate(sizes[1:], start=2):
        if size != sizes[0]:
            raise ValueError(f"{rule} needs models with the same number of {what}: model 1 has "
                             f"{sizes[0]}, model {k} has {size}.")


def _build(parts: _Parts, order: tuple[ImplicitModel, ...], first: ImplicitModel,
           feedthrough: bool) -> ImplicitModel:
    """The model of these parts; the states of ``order`` stand one after the other."""
    A, B, C, D, b, c = parts
    bias = any(m.state_bias is not None or m.output_bias is not None for m in order)
    return ImplicitModel.from_matrices(
        A, B, C, D if feedthrough else None, state_bias=b if bias else None,
        output_bias=c if bias else None,
        activation=blockwise([(m.activation, m.B.shape[0]) for m in order]),
        solver=_solver(first), adjoint=first.adjoint)


def _solver(model: ImplicitModel) -> Solver:
    solver = model.solver
    if isinstance(solver, GaussSeidel):  # whose blocks are those of one model alone
        return Picard(solver.rtol, atol=solver.atol, max_steps=solver.max_steps)
    return solver
