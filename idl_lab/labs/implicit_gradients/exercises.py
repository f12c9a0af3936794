"""The exercises of lab 04."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal, random_matrix
from idl_lab.well_posedness import inf_norm

more_steps = Guess(
    what="a cosine, between −1 and 1",
    found="After 60 steps the cosine is {0:.2f}; you said {1}. The solve is done by then: what is "
          "missing is the inverse.")

# ---- one state --------------------------------------------------------------------------------


def _one_state(draws: torch.Generator) -> tuple[float, Tensor]:
    """A weight in (−1, 1) and states in (−1, 1)."""
    a = 1.8 * float(torch.rand((), generator=draws, dtype=torch.float64, device="cpu")) - 0.9
    return a, normal(5, generator=draws).tanh()


def _slope(x: Tensor) -> Tensor:
    return 1 - x ** 2


slope_in_a = Exercise(
    inputs=_one_state,
    right=lambda a, x: _slope(x) * x / (1 - a * _slope(x)),
    what="dx/da, computed from a and x",
    shape="dx/da has an entry for each of the 5 states, so its shape is (5,)",
    slips={
        "That is dx/db. In ax + b a change of a counts x times.":
            Partly(0.5, lambda a, x: _slope(x) / (1 - a * _slope(x))),
        "That is the change of tanh(ax + b) with x held fixed. But x moves too, and moves itself "
        "again through a.": lambda a, x: _slope(x) * x,
        "A sign: dx − φ′·a·dx = φ′·x·da.":
            Partly(0.5, lambda a, x: _slope(x) * x / (1 + a * _slope(x))),
        "The slope of tanh is missing: at x = tanh(s) it is 1 − x².": lambda a, x: x / (1 - a),
        "The slope of tanh is needed twice: where the change comes in, and where x listens to "
        "itself.": Partly(0.5, lambda a, x: x / (1 - a * _slope(x))),
    },
    hints=[
        "Differentiate both sides of x = tanh(ax + b) in a, and remember that x depends on a.",
        "dx/da = (1 − x²)(x + a·dx/da). Solve for dx/da."],
    praise="One state, and the whole theorem: the last factor is (I − ΔA)⁻¹.",
    level=Level.WARM_UP)

# ---- the adjoint of a batch -------------------------------------------------------------------


def _batch(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A (4, 4) of both signs with ‖A‖∞ = 0.8, and slopes and g of three samples."""
    slopes = torch.rand(3, 4, generator=draws, dtype=torch.float64, device="cpu")
    return random_matrix(4, 0.8, generator=draws), slopes, normal(3, 4, generator=draws)


Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def _iterated(step: Step) -> Step:
    """W with W = G + step(A, S, W), from zero."""
    def solve(A: Tensor, S: Tensor, G: Tensor) -> Tensor:
        W = torch.zeros_like(G)
        for _ in range(300):
            W = G + step(A, S, W)
        return W
    return solve


_adjoint = _iterated(lambda A, S, W: (S * W) @ A)

adjoint_of_a_batch = Exercise(
    inputs=_batch,
    right=_adjoint,
    what="W",
    shape="W has a row for each of the 3 samples and a column for each of the 4 states",
    slips={
        "The transpose went the wrong way: a row of W is wᵀ, and (AᵀΔw)ᵀ = (Δw)ᵀA.":
            _iterated(lambda A, S, W: (S * W) @ A.T),
        "Δ is on the wrong side: each w is scaled by its slopes before it meets Aᵀ.":
            Partly(0.5, _iterated(lambda A, S, W: S * (W @ A))),
        "Δ and the transpose have changed places: that is (ΔA)w, which passes changes of x "
        "forwards.": _iterated(lambda A, S, W: S * (W @ A.T)),
        "Δ is forgotten: a state whose φ is flat passes nothing back.":
            _iterated(lambda A, S, W: W @ A),
        "The sign is wrong: W = G + (ΔW)A.": _iterated(lambda A, S, W: -(S * W) @ A),
        "That is ΔW, the gradient of b; W itself is wanted.":
            Partly(0.5, lambda A, S, G: S * _adjoint(A, S, G)),
        "That is g itself, the one-step gradient's w: the inverse is dropped.": lambda A, S, G: G,
        "Those are the first two terms of the sum; go on until nothing changes.":
            lambda A, S, G: G + (S * G) @ A,
        "All samples have the slopes of the first one there; each has its own Δ.":
            lambda A, S, G: _adjoint(A, S[:1], G),
    },
    hints=[
        "Transpose w = g + AᵀΔw: wᵀ = gᵀ + (Δw)ᵀA. In rows, Δ multiplies entry by entry: "
        "W = G + (S * W) @ A.",
        "‖ΔA‖∞ < 1, so repeating it from W = 0 converges: a few hundred times is enough here. Or "
        "solve (I − (ΔA)ᵀ)w = g for each sample by itself."],
    praise="The backward pass of any number of samples is one more iteration of the forward kind, "
           "with A in place of Aᵀ.",
    level=Level.DERIVE)

# ---- the bug ----------------------------------------------------------------------------------


def _data(draws: torch.Generator) -> tuple[Tensor, ...]:
    """As for the adjoint, and states that agree with the slopes of tanh."""
    X = normal(3, 4, generator=draws).tanh()
    return random_matrix(4, 0.8, generator=draws), X, normal(3, 4, generator=draws)


def _gradient(A: Tensor, X: Tensor, G: Tensor, *, transposed: bool = False, mean: bool = False,
              slopes: bool = True, outer: bool = True) -> Tensor:
    """∂L/∂A of x = tanh(Ax + b), with one thing or another done wrong."""
    S = 1 - X ** 2
    W = _adjoint(A.T if transposed else A, S, G)
    P = S * W if slopes else W
    dA = P.T @ X if outer else X.T @ P
    return dA / len(X) if mean else dA


def _wrong(share: float = 0.0, **how: bool) -> Partly | Callable[..., Tensor]:
    def gradient(A: Tensor, X: Tensor, G: Tensor) -> Tensor:
        return _gradient(A, X, G, **how)

    return Partly(share, gradient) if share else gradient


repaired_gradient = Exercise(
    inputs=_data,
    right=lambda A, X, G: _gradient(A, X, G),
    what="the repaired body",
    shape="The gradient has A's shape, (4, 4)",
    slips={
        "That is the function as it came. It is right for a symmetric A and one sample: in what "
        "does it use that?": _wrong(transposed=True, mean=True),
        "The adjoint vectors are right now. With one sample it would be right; with three it is a "
        "third of what it should be.": _wrong(0.5, mean=True),
        "The sum over samples is right now. W is not yet, unless A is symmetric: a row of W is wᵀ, "
        "and (AᵀΔw)ᵀ = (Δw)ᵀA.": _wrong(0.5, transposed=True),
        "Both repaired, but now the result is transposed: row i of the gradient belongs to "
        "(Δw)ᵢ.": _wrong(0.5, outer=False),
        "Transposing the result does not repair W: look at the line in the loop.":
            _wrong(transposed=True, outer=False),
        "W is right, but the gradient of b is ΔW: the slopes belong in the last line too.":
            _wrong(slopes=False),
    },
    hints=[
        "Two lines are wrong, one in the loop and one at the end. Try it with one sample and any "
        "A, then with a symmetric A and three samples: each trial shows one of them alone.",
        "In the loop: transpose w = g + AᵀΔw. At the end: ∂L/∂A is a sum over samples, as L "
        "is."],
    praise="A test with a symmetric matrix and one sample passes with both faults in it. Test with "
           "something that has no symmetry.",
    level=Level.EXPERIMENT)

# ---- uphill -----------------------------------------------------------------------------------


def _angle(answer: object) -> dict:
    A, g = (torch.as_tensor(part, dtype=torch.float64, device="cpu") for part in answer)
    finite = all(bool(part.isfinite().all()) for part in (A, g))
    if A.shape != (2, 2) or g.shape != (2,) or not finite:
        raise ValueError(f"A (2, 2) and g (2,) of finite numbers are wanted, yours have shapes "
                         f"{tuple(A.shape)} and {tuple(g.shape)}.")
    found = {"norm": float(inf_norm(A)), "spectral": float(torch.linalg.matrix_norm(A, 2)),
             "size": float(g.norm()), "top": float(torch.linalg.eigvalsh((A + A.T) / 2).max())}
    if found["norm"] < 1:
        beta = torch.linalg.solve(torch.eye(2, dtype=A.dtype, device="cpu") - A.T, g)
        found["cosine"] = float(torch.cosine_similarity(g, beta, dim=0))
    return found


uphill = Example(
    look=_angle,
    conditions=[
        (lambda found: found["norm"] <= 0.95 + 1e-9,
         "‖A‖∞ is {0[norm]:.3g}; at most 0.95 is allowed."),
        (lambda found: found["size"] > 0, "With g = 0 there is nothing to go down."),
        (lambda found: found["top"] > 1,
         "With this A no g does: βᵀAβ is at most {0[top]:.3g}·‖β‖², so ⟨g, β⟩ ≥ 0. ‖A‖∞ bounds the "
         "rows; the columns may be larger.", 0.5),
        (lambda found: found["cosine"] < 0,
         "The cosine is {0[cosine]:.2f}, not negative yet. This A may do; choose β first, so that "
         "βᵀ(I − A)β < 0, and then g = (I − Aᵀ)β."),
    ],
    what="a pair, A and g",
    praise="The cosine is {0[cosine]:.2f} with ‖A‖∞ = {0[norm]:.2g} and ‖A‖₂ = {0[spectral]:.3g}: "
           "two states are enough for the one-step gradient to point uphill.",
    hints=[
        "With all states active ⟨g, β⟩ = βᵀ(I − A)β, and β = (I − Aᵀ)⁻¹g. Let both states listen "
        "to the first alone, as in section 5.",
        "βᵀAβ is largest along the top eigenvector of (A + Aᵀ)/2. Is it above ‖β‖² there?",
        "torch.linalg.eigh((A + A.T) / 2) gives it, in the last column; then g = β − Aᵀβ."],
    right=([[0.9, 0.0], [0.9, 0.0]], [-0.25, 0.38]),
    slips={"at most 0.95 is allowed": ([[2.0, 0.0], [2.0, 0.0]], [1.0, 1.0]),
           "nothing to go down": ([[0.9, 0.0], [0.9, 0.0]], [0.0, 0.0]),
           "With this A no g does": ([[0.5, 0.4], [0.4, 0.5]], [1.0, -1.0]),
           "not negative yet": ([[0.9, 0.0], [0.9, 0.0]], [1.0, 1.0]),
           "yours have shapes (2, 2) and (1,)": ([[0.9, 0.0], [0.9, 0.0]], [1.0])},
    level=Level.STRETCH)
