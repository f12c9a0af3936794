"""The exercises of lab 06."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from idl_lab.equilibrium import equilibrium
from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level
from idl_lab.labs.kit.problems import generator, normal, random_matrix
from idl_lab.well_posedness import inf_norm

half_known = Guess(
    what="a number of rows, 1 to 8",
    found="Asked after every row, the copy knows half of the digits after {0} rows; your guess "
          "was {1}.")


def _cell(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A, B, C, D of a cell of 2 inputs, 4 states, 3 hidden numbers; u and h of six samples."""
    return (random_matrix(4, 0.5, generator=draws),
            *(normal(*shape, generator=draws)
              for shape in ((4, 5), (3, 4), (3, 5), (6, 2), (6, 3))))


def _state(A: Tensor, b: Tensor, steps: int = 100) -> Tensor:
    x = torch.zeros_like(b)
    for _ in range(steps):
        x = torch.tanh(x @ A.mT + b)
    return x


def _step(A: Tensor, B: Tensor, C: Tensor, D: Tensor, v: Tensor, **options: int) -> Tensor:
    return _state(A, v @ B.mT, **options) @ C.mT + v @ D.mT


rnn_step = Exercise(
    inputs=_cell,
    right=lambda A, B, C, D, u, h: _step(A, B, C, D, torch.cat([u, h], dim=1)),
    what="the new h, six samples by three numbers",
    shape="The new h has the shape of the old one, (6, 3), a row a sample",
    level=Level.WARM_UP,
    slips={
        "That is one step of the solver from x = 0. Repeat x ← tanh(Ax + B[u; h]) until nothing "
        "moves; κ = 0.5 takes some twenty.":
            lambda A, B, C, D, u, h: _step(A, B, C, D, torch.cat([u, h], dim=1), steps=1),
        "B and D have the columns of u first, then those of h.":
            lambda A, B, C, D, u, h: _step(A, B, C, D, torch.cat([h, u], dim=1)),
        "D is missing: u and h also reach the new h directly.":
            lambda A, B, C, D, u, h: _step(A, B, C, 0 * D, torch.cat([u, h], dim=1)),
        "tanh is missing: without it the state is (I − A)⁻¹B[u; h].":
            lambda A, B, C, D, u, h: torch.cat([u, h], dim=1) @ (
                D + C @ _moved(A, B, torch.ones_like(A[0]))).mT,
    },
    hints=["Samples are rows: v = torch.cat([u, h], dim=1), and B v is v @ B.T.",
           "Start at x = 0 and repeat x = torch.tanh(x @ A.T + v @ B.T).",
           "The new h is x @ C.T + v @ D.T."],
    praise="One loop for the equation; the loop over time goes around it.")


def _norms(draws: torch.Generator) -> tuple[Tensor, ...]:
    """B, C, D of the columns of h, small enough for some κ to do."""
    B, C, D = (normal(*shape, generator=draws) for shape in ((6, 3), (3, 6), (3, 3)))
    b, d = torch.rand(2, generator=draws, dtype=B.dtype, device="cpu")
    return (0.2 + 0.2 * b) * B / inf_norm(B), C / inf_norm(C), (0.2 + 0.2 * d) * D / inf_norm(D)


def _through(B: Tensor, C: Tensor) -> Tensor:
    """‖C‖‖B‖."""
    return inf_norm(C) * inf_norm(B)


forgetting_kappa = Exercise(
    inputs=_norms,
    right=lambda B, C, D: 1 - _through(B, C) / (1 - inf_norm(D)),
    what="κ, computed from B, C and D",
    shape="κ is one number",
    level=Level.DERIVE,
    uses=("idl_lab.norms", "idl_lab.well_posedness"),
    slips={
        "D is a way from h to h too: the two ways add up, and only their sum must not pass 1.":
            lambda B, C, D: 1 - _through(B, C),
        "1/(1 − κ) multiplies the way through the equilibrium alone, not D.":
            lambda B, C, D: 1 - _through(B, C) - inf_norm(D),
        "That is 1 − κ.":
            lambda B, C, D: _through(B, C) / (1 - inf_norm(D)),
        "‖·‖∞ of a matrix is its largest row sum of absolute values; those are the columns.":
            lambda B, C, D: 1 - _through(B.mT, C.mT) / (1 - inf_norm(D.mT)),
        "‖·‖∞ of a matrix is its largest row sum of absolute values, not its largest entry.":
            lambda B, C, D: 1 - B.abs().amax() * C.abs().amax() / (1 - D.abs().amax()),
    },
    hints=["A norm of a product is at most the product of the norms, of a sum at most their sum.",
           "(I − ΔA)⁻¹ = I + ΔA + (ΔA)² + …, with slopes of at most 1: its norm is at most "
           "1 + κ + κ² + … = 1/(1 − κ).",
           "Solve ‖D‖ + ‖C‖‖B‖/(1 − κ) = 1 for κ."],
    praise="Enough for the memory not to grow, whatever the inputs; by far not necessary.")


def _remembers(answer: object) -> dict[str, float]:
    """How a cell of one input and three hidden numbers reads twelve numbers."""
    A, B, C, D = (torch.as_tensor(M, dtype=torch.float64, device="cpu") for M in answer)
    n = len(A)
    wanted = [(n, n), (n, 4), (3, n), (3, 4)]
    shapes = [tuple(M.shape) for M in (A, B, C, D)]
    if shapes != wanted:
        raise ValueError(f"For {n} states A, B, C, D have the shapes {wanted}, got {shapes}.")
    norm = float(inf_norm(A))
    if not norm <= 0.99:
        raise ValueError(f"‖A‖∞ is {norm:.3g}; keep it at 0.99 or below.")
    u, h = normal(12, generator=generator()), D.new_zeros(3)
    for value in u:
        v = torch.cat([value[None], h])
        h = C @ equilibrium(A, (B @ v)[None], "tanh").value[0] + D @ v
    latest = u[-3:].flip(0)
    return {"error": float((h - latest).abs().max()), "first": float((h - latest)[0].abs()),
            "two": float((h - latest)[:2].abs().max()),
            "reversed": float((h - latest.flip(0)).abs().max()), "norm": norm}


def _matrices(D: Sequence[Sequence[float]], A: float = 0.0) -> tuple:
    return [[A]], [[0.0] * 4], [[0.0]] * 3, D


last_three = Example(
    look=_remembers,
    conditions=[
        (lambda found: found["reversed"] > 1e-6,
         "The three are there, in another order: u_t first, u_(t−2) last."),
        (lambda found: found["first"] <= 1e-6,
         "The first hidden number is not the input just read: it is off by {0[first]:.2g}.",
         0.25),
        (lambda found: found["two"] <= 1e-6,
         "The first hidden number is the input just read; the second is not the one before.", 0.5),
        (lambda found: found["error"] <= 1e-6,
         "Two of the inputs are there; the third is off by {0[error]:.2g}."),
    ],
    what="a tuple of four matrices A, B, C, D",
    praise="After twelve inputs the last three are there, and κ had no say: "
           "with ‖A‖∞ = {0[norm]:.2g} memory is a matter of D.",
    right=_matrices([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    level=Level.EXPERIMENT,
    hints=["tanh bends whatever goes through x. Which matrix carries [u; h] to the new h without "
           "it?",
           "Write the new h below [u_t; h_1; h_2; h_3]: each row of D picks one of the four.",
           "A, B and C may be zero, of one state."],
    slips={"have the shapes": ([[0.0]], [[0.0]], [[0.0]], [[0.0]]),
           "keep it at 0.99 or below": _matrices([[1, 0, 0, 0]] * 3, A=1.5),
           "in another order": _matrices([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]),
           "The first hidden number is not": _matrices([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
           "the second is not the one before": _matrices([[1, 0, 0, 0]] * 3),
           "the third is off": _matrices([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])})


def _inputs(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A, B, C, D of 4 states and 3 hidden numbers, and the slopes of the states at three times."""
    A, B, C, D = (normal(*shape, generator=draws) for shape in ((4, 4), (4, 3), (3, 4), (3, 3)))
    return 0.2 * A, B, C, D, torch.rand(3, 4, generator=draws, dtype=A.dtype, device=A.device)


def _moved(A: Tensor, R: Tensor, slopes: Tensor) -> Tensor:
    """(I − ΔA)⁻¹ R."""
    eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
    return torch.linalg.solve(eye - slopes[:, None] * A, R)


def _one(A: Tensor, B: Tensor, C: Tensor, D: Tensor, s: Tensor) -> Tensor:
    return D + C @ _moved(A, s[:, None] * B, s)


def _product(matrices: Sequence[Tensor]) -> Tensor:
    """The last matrix on the left."""
    return functools.reduce(lambda before, J: J @ before, matrices)


memory_matrix = Exercise(
    inputs=_inputs,
    right=lambda A, B, C, D, slopes: _product([_one(A, B, C, D, s) for s in slopes]),
    what="the matrix",
    shape="The derivative of three numbers by three is a (3, 3) tensor",
    level=Level.STRETCH,
    slips={
        "The order: the last time is on the left, ∂h_T/∂h_0 = J_T ⋯ J_2 J_1.":
            lambda A, B, C, D, slopes: _product([_one(A, B, C, D, s) for s in slopes.flip(0)]),
        "That is one time alone; ∂h_T/∂h_0 is the product over all times.":
            lambda A, B, C, D, slopes: _one(A, B, C, D, slopes[-1]),
        "Derivatives of one step after another multiply, they do not add up.":
            lambda A, B, C, D, slopes: sum(_one(A, B, C, D, s) for s in slopes),
        "That is the way through the equilibrium; h also passes through D directly.":
            lambda A, B, C, D, slopes: _product([_one(A, B, C, 0 * D, s) for s in slopes]),
        "φ is missing: its slope multiplies the rows of A and of B.":
            lambda A, B, C, D, slopes: _product([
                _one(A, B, C, D, torch.ones_like(s)) for s in slopes]),
        "That is one step from x = 0. At the equilibrium x moves on both sides: dx = Δ(A dx + "
        "B dh). Solve for dx.":
            lambda A, B, C, D, slopes: _product([_one(0 * A, B, C, D, s) for s in slopes]),
        "The slope multiplies B too, not only A.":
            lambda A, B, C, D, slopes: _product([D + C @ _moved(A, B, s) for s in slopes]),
    },
    hints=["One time: section 6 has the matrix. The slopes of time t are slopes[t], one for each "
           "row of A and of B.",
           "torch.linalg.solve(torch.eye(n) − s[:, None] * A, s[:, None] * B) is (I − ΔA)⁻¹ΔB.",
           "The chain rule multiplies: a new matrix from the left for each later time."],
    praise="D is the direct way from h to h, the rest the way through the equilibrium; what it "
           "does over time no bound on A says.")
