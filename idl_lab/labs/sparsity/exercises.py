"""The exercises of lab 11."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal


def _row(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """H = ΦᵀΦ of correlated features, c = Φᵀz, and the entries that are kept."""
    Phi = normal(30, 6, generator=draws) @ normal(6, 6, generator=draws)
    z = Phi @ normal(6, generator=draws) + 0.3 * normal(30, generator=draws)
    on = torch.tensor([True, True, False, True, False, True], device="cpu")[
        torch.randperm(6, generator=draws, device="cpu")]
    return Phi.mT @ Phi, Phi.mT @ z, on


def refit(H: Tensor, c: Tensor, on: Tensor) -> Tensor:
    """argmin ‖Φw − z‖² over the w that are zero where `on` is false.

    Parameters
    ----------
    H : Tensor, shape (d, d)
        ΦᵀΦ.
    c : Tensor, shape (d,)
        Φᵀz.
    on : Tensor of bool, shape (d,)
    """
    w = torch.zeros_like(c)
    w[on] = torch.linalg.solve(H[on][:, on], c[on])
    return w


def _by_mask(H: Tensor, c: Tensor, on: Tensor) -> Tensor:
    """The system of the kept entries with all equations: least squares of another problem."""
    w = torch.zeros_like(c)
    w[on] = torch.linalg.lstsq(H[:, on], c[:, None]).solution[:, 0]
    return w


refit_row = Exercise(
    inputs=_row,
    right=refit,
    what="the row w",
    slips={
        "Those are the best six entries with two set to zero. The others were best beside the two: "
        "without them they must move.":
            lambda H, c, on: torch.linalg.solve(H, c) * on,
        "Each kept entry is right by itself, c_j/H_jj, but they share features: solve for all of "
        "them at once.":
            lambda H, c, on: on * c / H.diagonal(),
        "You asked that all six equations Hw = c hold as well as they can. Only those of the kept "
        "entries are conditions of the minimum: take their rows of H too.":
            _by_mask,
    },
    hints=[
        "At the minimum Φᵀ(Φw − z) is zero in the kept entries: H_SS w_S = c_S, with S the places "
        "where `on` is true, and zeros elsewhere."],
    praise="That is what `refit=True` does to every row, inside the ball.")


def _wires(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and C with few entries; some states are on no way from the input to the output."""
    shapes = ((12, 12), (12, 2), (2, 12))
    A, B, C = (normal(*shape, generator=draws) * (
        torch.rand(shape, generator=draws, device="cpu") < share)
        for shape, share in zip(shapes, (0.13, 0.15, 0.15), strict=True))
    # Three states that nothing moves but each other, which the output sees; and a chain that the
    # input moves and nothing sees.
    A[9:], B[9:], A[:, 6:9], C[:, 6:9] = 0.0, 0.0, 0.0, 0.0
    A[9, 10], A[10, 11], A[11, 9], C[0, 9] = 0.5, 0.5, 0.5, 1.0
    A[6, 7], A[7, 8], A[8, 0], B[0, 0], C[1, 0] = 0.5, 0.5, 0.5, 1.0, 1.0
    return A, B, C


def _reach(A: Tensor, first: Tensor, steps: int) -> Tensor:
    """What is reached from the first ones in so many steps of |A|."""
    found = first
    for _ in range(steps):
        found = found | ((A != 0) & found).any(dim=1)
    return found


def _moved(A: Tensor, B: Tensor, steps: int = 12) -> Tensor:
    return _reach(A, (B != 0).any(dim=1), steps)


def _seen(A: Tensor, C: Tensor, steps: int = 12) -> Tensor:
    return _reach(A.mT, (C != 0).any(dim=0), steps)


busy_states = Exercise(
    inputs=_wires,
    right=lambda A, B, C: (_moved(A, B) & _seen(A, C)).double(),
    what="the mask of the states that do something",
    shape="One truth value a state",
    slips={
        "Those are the states that an output sees. Some of them are moved by no input: they are "
        "constant, and fit into a bias.":
            lambda A, B, C: _seen(A, C).double(),
        "Those are the states that an input moves. Some of them are seen by no output.":
            lambda A, B, C: _moved(A, B).double(),
        "You looked at rows and columns once. When a state goes, its entries go too, and others "
        "may then do nothing: repeat it.":
            lambda A, B, C: (((A != 0).any(dim=1) | (B != 0).any(dim=1))
                             & ((A != 0).any(dim=0) | (C != 0).any(dim=0))).double(),
        "You went the wrong way along A: state i reads state j where A_ij is not zero.":
            lambda A, B, C: (_moved(A.mT, B) & _seen(A.mT, C)).double(),
    },
    hints=[
        "Start from the states with an entry in B, add those that read one of them, until nothing "
        "changes: the input moves these. Then from the states with an entry in C, backwards."],
    praise="`prune_states` drops the others, and puts what is constant into the biases.")
