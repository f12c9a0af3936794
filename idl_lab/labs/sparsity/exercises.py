"""The exercises of lab 11."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, NotAttempted
from idl_lab.labs.kit.problems import generator, normal

# ---- the largest stay -----------------------------------------------------------------------


def _weights(draws: torch.Generator) -> tuple[Tensor, int]:
    return normal(9, generator=draws), int(torch.randint(2, 5, (), generator=draws, device="cpu"))


def _keep(w: Tensor, k: int, score: Tensor) -> Tensor:
    """w with zeros everywhere but at the k largest scores."""
    kept = torch.zeros_like(w)
    best = score.topk(k).indices
    kept[best] = w[best]
    return kept


keep_largest = Exercise(
    inputs=_weights,
    right=lambda w, k: _keep(w, k, w.abs()),
    what="the pruned row",
    shape="The row keeps its shape, (9,)",
    level=Level.WARM_UP,
    slips={
        "Those are the k largest numbers; a weight of −3 does as much as one of 3.":
            lambda w, k: _keep(w, k, w),
        "You kept the smallest.": lambda w, k: _keep(w, k, -w.abs()),
        "k weights are to stay, not to go.": lambda w, k: _keep(w, len(w) - k, w.abs()),
        "That says which weights stay; wanted is the row, with zeros in the other places.":
            lambda w, k: _keep(w, k, w.abs()).ne(0).double(),
    },
    hints=["How large a weight is, is its absolute value: `w.abs()`.",
           "`topk(k).indices` says where the k largest are; put them into a row of zeros."],
    praise="Cheap, and blind: it has not looked at a single image.")

# ---- what is left must move -----------------------------------------------------------------


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
    level=Level.DERIVE,
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
        "At the minimum the derivative Φᵀ(Φw − z) = Hw − c is zero in the kept entries.",
        "With S the places where `on` is true, that is H_SS w_S = c_S.",
        "`H[on][:, on]` is H_SS; put the solution into a row of zeros, at `on`."],
    praise="That is what `refit=True` does to every row, inside the ball.")

# ---- which k weights ------------------------------------------------------------------------


class Choice(NamedTuple):
    """The worst of the reader's rows, beside the best that there is.

    Attributes
    ----------
    most : int
        Non-zeros beyond k.
    off : float
        How far a row is from the least squares fit of its own places, relative to that.
    times : float
        Its misfit, in units of the smallest that k weights can have.
    """

    most: int
    off: float
    times: float


KEPT = 4


def _problems() -> list[tuple[Tensor, Tensor, float]]:
    """Five rows with ten correlated features: H, c and zᵀz."""
    found, draws = [], generator(2)
    for _ in range(5):
        Phi = normal(60, 10, generator=draws) @ (
            normal(10, 10, generator=draws) / 2 + torch.eye(10, dtype=torch.float64, device="cpu"))
        z = Phi @ normal(10, generator=draws) + 0.3 * normal(60, generator=draws)
        found.append((Phi.mT @ Phi, Phi.mT @ z, float(z @ z)))
    return found


def _on(places: tuple[int, ...], size: int) -> Tensor:
    on = torch.zeros(size, dtype=torch.bool, device="cpu")
    on[list(places)] = True
    return on


def _choice(answer: Callable[[Tensor, Tensor, int], Tensor]) -> Choice:
    if not callable(answer):
        raise TypeError("a function of H, c and k is wanted.")
    worst = Choice(0, 0.0, 1.0)
    for H, c, energy in _problems():
        w = answer(H.clone(), c.clone(), KEPT)
        if w is None or w is ...:
            raise NotAttempted
        w = torch.as_tensor(w).detach().to(c)
        if w.shape != c.shape:
            raise ValueError(f"a row of shape {tuple(c.shape)} is wanted, got {tuple(w.shape)}.")

        def misfit(w: Tensor, H: Tensor = H, c: Tensor = c, energy: float = energy) -> float:
            return float(w @ H @ w - 2 * c @ w + energy)

        best = min(misfit(refit(H, c, _on(places, len(c))))
                   for places in itertools.combinations(range(len(c)), KEPT))
        fitted = refit(H, c, w != 0)
        worst = Choice(max(worst.most, int(w.count_nonzero()) - KEPT),
                       max(worst.off, float((w - fitted).norm() / fitted.norm().clamp(min=1e-9))),
                       max(worst.times, misfit(w) / best))
    return worst


def _one_by_one(H: Tensor, c: Tensor, k: int) -> Tensor:
    """Take away the entry that costs least, k are left: w_j²/[H⁻¹]_jj of those still there."""
    on = torch.ones_like(c, dtype=torch.bool)
    while int(on.sum()) > k:
        places = on.nonzero()[:, 0]
        cost = refit(H, c, on)[on] ** 2 / torch.linalg.inv(H[on][:, on]).diagonal()
        on[places[cost.argmin()]] = False
    return refit(H, c, on)


def _of_largest(H: Tensor, c: Tensor, k: int) -> Tensor:
    w = torch.linalg.solve(H, c)
    return _keep(w, k, w.abs())


few_weights = Example(
    look=_choice,
    conditions=[
        (lambda found: found.most <= 0, "k weights may stay; a row of yours has {0.most} more."),
        (lambda found: found.off < 1e-4,
         "The weights that stay are not the least squares fit on their places (off by "
         "{0.off:.0%}): those that go leave them work to do.", 0.5),
        (lambda found: found.times < 2,
         "The worst of your rows has {0.times:.1f} times the misfit of the best choice; at most "
         "twice is wanted. What does it cost to take one weight away, if the others may move?")],
    what="a row with k non-zeros",
    praise="At most {0.times:.2f} times the misfit of the best of 210 choices, in each of five "
           "rows. The largest weights, refitted, have up to 5 times.",
    right=_one_by_one,
    level=Level.EXPERIMENT,
    hints=[
        "With ten features all choices of four can be tried, 210 of them: "
        "`itertools.combinations`. With a thousand they cannot; then:",
        "Start with the least squares fit of all, and take away one weight at a time, that of the "
        "least w_j²/[H⁻¹]_jj.",
        "After each, fit those that stay anew (Exercise 2), and invert their part of H."],
    slips={
        "has 6 more": lambda H, c, k: torch.linalg.solve(H, c),
        "not the least squares fit": _of_largest,
        "times the misfit of the best": lambda H, c, k: refit(H, c, _of_largest(H, c, k) != 0),
        "of shape (10,)": lambda H, c, k: c[:k],
        "a function of H": torch.ones(10, device="cpu"),
    })

# ---- states that do nothing -----------------------------------------------------------------


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
    level=Level.STRETCH,
    draws=8,
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
        "Start from the states with an entry in B: the input moves these.",
        "State i reads state j where A_ij is not zero. Add the states that read one that is moved, "
        "until nothing changes.",
        "The same backwards from the states with an entry in C gives those that an output sees. "
        "Who is both does something."],
    praise="`prune_states` drops the others, and puts what is constant into the biases.")

# ---- a guess --------------------------------------------------------------------------------

empty_first = Guess(
    what="\"early\" or \"late\"",
    found="At 95 % the empty rows are {0}; you said {1}.")
