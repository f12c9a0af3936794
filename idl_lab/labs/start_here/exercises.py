"""The exercises of lab 00."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal, random_matrix

prediction_settles = Guess(
    what="a number of steps",
    found="The prediction is the final one from step {0[0]} on, the state moves until step {0[1]}; "
          "you said {1}. Which class score is the largest is settled long before the scores are.")

picard_step = Exercise(
    inputs=lambda draws: tuple(normal(*shape, generator=draws)
                               for shape in ((4, 4), (4, 3), (4, 4), (4, 3))),
    right=lambda A, B, X, U: (X @ A.T + U @ B.T).relu(),
    what="φ(XAᵀ + UBᵀ)",
    shape="The next states are a tensor of shape (4, 4), a row a sample",
    slips={
        "That is XAᵀ + UBᵀ; φ is still to be applied: torch.relu.":
            Partly(0.5, lambda A, B, X, U: X @ A.T + U @ B.T),
        "A is to be transposed: the states are rows, so X @ A.T.":
            lambda A, B, X, U: (X @ A + U @ B.T).relu(),
        "That is right for states that are columns; here they are rows, so X @ A.T.":
            lambda A, B, X, U: (A @ X + U @ B.T).relu(),
        "φ acts on the sum, not on each of its parts.":
            lambda A, B, X, U: (X @ A.T).relu() + (U @ B.T).relu(),
    },
    hints=[
        "A row of XAᵀ is Ax, as section 2 says. How does torch write a transpose?",
        "Multiply X by Aᵀ and U by Bᵀ, add the two, and apply torch.relu to the sum."],
    praise="Repeat this step from X = 0 and you have Picard's iteration.",
    level=Level.WARM_UP)

# ---- the solution of one state's equation -----------------------------------------------------


def _one_state(draws: torch.Generator) -> tuple[float, Tensor]:
    """A slope in (−1, 1), and injections of both signs."""
    a = 1.8 * float(torch.rand((), generator=draws, dtype=torch.float64, device="cpu")) - 0.9
    b = normal(6, generator=draws).abs() + 0.1
    return a, b * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], device="cpu")


one_state = Exercise(
    inputs=_one_state,
    right=lambda a, b: b.relu() / (1 - a),
    what="x, computed from a and b",
    shape="x has an entry for each of the 6 entries of b, so its shape is (6,)",
    slips={
        "Right where b is positive. For b < 0 a solution x > 0 would be b/(1 − a) < 0: what is "
        "left?": Partly(0.5, lambda a, b: b / (1 - a)),
        "That is one step from x = 0. Put it into the right-hand side: does it come back?":
            lambda a, b: b.relu(),
        "Those are two steps from x = 0, and the third would change it again.":
            lambda a, b: (a * b.relu() + b).relu(),
        "The sign: x = ax + b gives x − ax = b.":
            lambda a, b: b.relu() / (1 + a),
        "|a| is not wanted: with a < 0 the state holds itself back, and 1 − a > 1.":
            lambda a, b: b.relu() / (1 - abs(a)),
    },
    hints=[
        "Try both cases. If x > 0, the max does nothing: solve x = ax + b. If x = 0, what must b "
        "be?",
        "The first case gives x = b/(1 − a), which is positive just where b is, since |a| < 1. "
        "Everywhere else x = 0."],
    praise="An infinite loop with a finite answer: b + ab + a²b + … = b/(1 − a). With n states the "
           "number 1 − a becomes a matrix I − A, and which states are 0 is not known beforehand.",
    draws=8)

# ---- the loop ---------------------------------------------------------------------------------


def _slow(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """A with ‖A‖∞ = 0.9 whose iteration takes ten to fifty steps, and a tolerance."""
    A = random_matrix(4, 0.95, generator=draws)
    tol = 10 ** (-1 - 3 * float(torch.rand((), generator=draws, dtype=torch.float64,
                                           device="cpu")))
    return A, normal(4, 3, generator=draws), normal(5, 3, generator=draws), tol


Size = Callable[[Tensor], Tensor]


def _largest(move: Tensor) -> Tensor:
    return move.abs().max()


def _loop(size: Size = _largest, *, further: int = 0, columns: bool = False,
          tol_is: Callable[[float], float] = float) -> Callable[..., Tensor]:
    """The iteration that ends where the size of f(X) − X is at most tol.

    Parameters
    ----------
    size : callable
        Of a step.
    further : int
        Steps from the point that passed the test to the one that is returned.
    columns : bool
        Whether A and B are not transposed.
    tol_is : callable
        The tolerance that is used in place of the given one.
    """
    def solve(A: Tensor, B: Tensor, U: Tensor, tol: float) -> Tensor:
        def f(X: Tensor) -> Tensor:
            return (X @ (A if columns else A.T) + U @ B.T).relu()

        X = before = U.new_zeros(len(U), len(A))
        for _ in range(2000):
            if size(f(X) - X) <= tol_is(tol):
                break
            before, X = X, f(X)
        if further < 0:
            return before
        for _ in range(further):
            X = f(X)
        return X
    return solve


def _eight(A: Tensor, B: Tensor, U: Tensor, tol: float) -> Tensor:
    """Eight steps, as in section 2."""
    X = U.new_zeros(len(U), len(A))
    for _ in range(8):
        X = (X @ A.T + U @ B.T).relu()
    return X


picard_loop = Exercise(
    inputs=_slow,
    right=_loop(),
    what="the X at which the loop ends",
    shape="X has a row for each of the 5 samples and a column for each of the 4 states",
    slips={
        "Those are eight steps, whatever tol is. Compare f(X) with X in each step.":
            _eight,
        "That is exact to more digits than were asked for: end as soon as max|f(X) − X| ≤ tol.":
            Partly(0.5, _loop(tol_is=lambda tol: 1e-10)),
        "One step too many: return the X that passed the test. f(X) is as good a point, but its "
        "own residual is another.": Partly(0.5, _loop(further=1)),
        "That is the iterate before the one that passed: its residual is above tol still.":
            Partly(0.5, _loop(further=-1)),
        "f(X) − X may be negative, and large all the same: take .abs() before .max().":
            _loop(lambda move: move.max()),
        "Some samples are not done: every entry of |f(X) − X| must be at most tol, so take the "
        "largest of the batch.": _loop(lambda move: move.abs().amax(dim=1).min()),
        "That is the mean of |f(X) − X|; one entry may be far off still. Take the largest.":
            _loop(lambda move: move.abs().mean()),
        "That is the Euclidean norm of f(X) − X, which grows with the batch; the largest entry is "
        "meant.": Partly(0.5, _loop(lambda move: move.norm())),
        "A is to be transposed: the states are rows, so X @ A.T.":
            _loop(columns=True),
    },
    hints=[
        "A while loop: as long as the largest entry of |f(X) − X| is above tol, put f(X) in place "
        "of X. The first X is U.new_zeros(len(U), len(A)).",
        "With f = lambda X: torch.relu(X @ A.T + U @ B.T), the condition is "
        "(f(X) - X).abs().max() > tol.",
        "Before the loop X = U.new_zeros(len(U), len(A)); in it X = f(X); behind it return X."],
    draws=6,
    praise="Picard's iteration with a test. Lab 01 asks how many steps it takes, and what to do "
           "where they are too many or no number is enough.",
    level=Level.EXPERIMENT)
