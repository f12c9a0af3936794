"""Checkers for the labs' exercises: not attempted, a hint, or right; they never raise.

An exercise's stub leaves its answer as ``...``, which counts as not attempted.
"""

from __future__ import annotations

import enum
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idl_lab.model import ImplicitModel
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver
from idl_lab.well_posedness import inf_norm, perron_frobenius


class Outcome(enum.Enum):
    """How an answer stands; the value is what the reader sees."""

    NOT_ATTEMPTED = "Not attempted yet"
    HINT = "Not yet"
    RIGHT = "Right"


_COLOURS = {Outcome.NOT_ATTEMPTED: "#777777", Outcome.HINT: "#D55E00", Outcome.RIGHT: "#009E73"}


@dataclass(frozen=True)
class Verdict:
    """An outcome and a sentence that helps on."""

    outcome: Outcome
    sentence: str

    @property
    def right(self) -> bool:
        """Whether the exercise is solved."""
        return self.outcome is Outcome.RIGHT

    def __repr__(self) -> str:
        return f"{self.outcome.value}. {self.sentence}"

    def _repr_html_(self) -> str:
        return (f"<div style='border-left:4px solid {_COLOURS[self.outcome]};padding-left:8px'>"
                f"<b>{self.outcome.value}.</b> {html.escape(self.sentence)}</div>")


def _not_attempted(what: str) -> Verdict:
    return Verdict(Outcome.NOT_ATTEMPTED, f"Replace the ... by {what} and run this cell again.")


def _hint(sentence: str) -> Verdict:
    return Verdict(Outcome.HINT, sentence)


def _right(sentence: str) -> Verdict:
    return Verdict(Outcome.RIGHT, sentence)


def _given(answer: Callable, arguments: tuple, what: str, shape: torch.Size | None = None,
           wanted: str = "") -> Any:
    """What the reader's function gives; a verdict where there is no such tensor to look at."""
    try:
        given = answer(*arguments)
    except Exception as error:  # the reader's own code: say what it said
        return _hint(f"Your function raised {type(error).__name__}: {error}")
    if given is ... or given is None:
        return _not_attempted(what)
    if shape is not None and (not isinstance(given, Tensor) or given.shape != shape
                              or given.is_complex()):
        return _hint(f"{wanted}, yours is "
                     f"{tuple(given.shape) if isinstance(given, Tensor) else given!r}.")
    return given


def picard_step(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Lab 00: ``answer(A, B, x, u)`` is φ(Ax + Bu) for one sample with φ = ReLU."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    A, B, x, u = draw(4, 4), draw(4, 3), draw(4), draw(3)
    given = _given(answer, (A, B, x, u), "φ(Ax + Bu)", x.shape,
                   "The next state is a tensor of shape (4,)")
    if isinstance(given, Verdict):
        return given
    inside = A @ x + B @ u
    if torch.allclose(given.double(), inside.relu()):
        return _right("Repeat this step from x = 0 and you have Picard's iteration.")
    if torch.allclose(given.double(), inside):
        return _hint("That is Ax + Bu; φ is still to be applied: torch.relu.")
    if torch.allclose(given.double(), (A.T @ x + B @ u).relu()):
        return _hint("A and its transpose are mixed up: the state is a column here, so A @ x.")
    return _hint("Apply A to x, B to u, add the two, and apply torch.relu to the sum.")


def fastest_damping(answer: float, slope: float) -> Verdict:
    """Lab 01: the β for which x ← (1 − β)x + β(slope·x + u) is at its fastest."""
    if answer is ...:
        return _not_attempted("a number in (0, 1]")
    try:
        beta = float(answer)
    except (TypeError, ValueError, RuntimeError):
        return _hint(f"β is a number in (0, 1], got {answer!r}.")
    if not 0 < beta <= 1:
        return _hint(f"β is in (0, 1], got {beta:g}.")
    factor = abs(1 - beta + beta * slope)
    if factor < 1e-3:
        return _right(f"The factor 1 − β + β·({slope:g}) vanishes: one step is enough.")
    verb = "shrinks" if factor < 1 else "grows"
    return _hint(f"With β = {beta:g} the error {verb} by the factor {factor:.3g} a step. "
                 f"Write the factor as a function of β and make it as small as you can.")


def norm_without_need(answer: Tensor) -> Verdict:
    """Lab 02: a 2 × 2 matrix, no zero entries, with ‖A‖∞ > 2 and λ_PF(|A|) < 1."""
    if answer is ...:
        return _not_attempted("a 2 × 2 matrix")
    try:
        A = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        return _hint(f"A is a 2 × 2 matrix of numbers: {error}")
    if A.shape != (2, 2) or not torch.isfinite(A).all():
        return _hint(f"A is a 2 × 2 matrix of finite numbers, yours has shape {tuple(A.shape)}.")
    norm, pf = float(inf_norm(A)), perron_frobenius(A).upper
    if (A == 0).any():
        return _hint("No entry may be zero: that would be too easy.")
    if norm <= 2:
        return _hint(f"‖A‖∞ is {norm:.3g}; it must exceed 2.")
    if pf >= 1:
        return _hint(f"λ_PF(|A|) is {pf:.3g}, not below 1. The off-diagonal entries "
                     f"enter it only through their product.")
    return _right(f"‖A‖∞ = {norm:.3g} but λ_PF(|A|) = {pf:.3g}: well-posed all the same.")


def target_practice(answer: Mapping[str, object], measure: Callable[..., Mapping[str, float]], *,
                    accuracy: float, loop: float) -> Verdict:
    """Lab 05: options for which ``measure(**answer)`` meets both targets, with κ ≥ 0.5."""
    if answer is ...:
        return _not_attempted("a dictionary of options")
    if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
        return _hint(f"Options are a dictionary such as dict(n=30, tol=1e-3), got {answer!r}.")
    kappa = answer.get("kappa", 0.5)
    if isinstance(kappa, (int, float)) and kappa < 0.5:
        return _hint("Keep κ ≥ 0.5: with less there is hardly a loop left to be paid for.")
    try:
        got = measure(**answer)
    except Exception as error:  # the reader's own options: say what was said of them
        return _hint(f"These options raised {type(error).__name__}: {error}")
    said = f"accuracy {got['accuracy']:.3f}, {got['loop']:,.0f} multiply-adds in the loop"
    if got["accuracy"] < accuracy and got["loop"] > loop:
        return _hint(f"{said}: neither the accuracy of {accuracy:.3f} nor the {loop:,.0f} is met.")
    if got["loop"] > loop:
        return _hint(f"{said}, at most {loop:,.0f} are wanted. The loop costs steps × n², or "
                     f"steps × 2nr: which of these do the figures let you cut for nothing?")
    if got["accuracy"] < accuracy:
        return _hint(f"{said}, at least {accuracy:.3f} is wanted: you have cut where it hurts.")
    return _right(f"{said}.")


def adjoint_vector(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Lab 04: ``answer(A, d, g)`` is v = (I − (DA)ᵀ)⁻¹ g with D = diag(d), one sample."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64, device="cpu")

    A, d, g = draw(4, 4) / 4, draw(4), draw(4)
    eye, D = torch.eye(4, dtype=A.dtype, device=A.device), torch.diag(d)
    given = _given(answer, (A, d, g), "v", g.shape,
                   "v is a tensor of shape (4,)")
    if isinstance(given, Verdict):
        return given

    def is_solution(M: Tensor) -> bool:
        return torch.allclose(given.double(), torch.linalg.solve(M, g), rtol=1e-5)

    if is_solution(eye - (D @ A).T):
        return _right("One linear solve, whatever way the equilibrium was found.")
    slips = {
        "The transpose is missing: (DA)ᵀ = AᵀD passes the gradient backwards.": eye - D @ A,
        "D is forgotten: the slopes φ′ scale the rows of A, d[:, None] * A.": eye - A.T,
        "D and the transpose are missing: the matrix is I − (DA)ᵀ.": eye - A,
        "D is on the wrong side: it scales the rows of A, d[:, None] * A.": eye - (A @ D).T,
        "The sign is wrong: v = g + (DA)ᵀ v, so (I − (DA)ᵀ) v = g.": eye + (D @ A).T,
    }
    for sentence, M in slips.items():
        if is_solution(M):
            return _hint(sentence)
    if torch.allclose(given.double(), d * torch.linalg.solve(eye - (D @ A).T, g)):
        return _hint("That is Dv, the gradient of b; v itself is wanted.")
    return _hint("Form DA = d[:, None] * A, transpose it, and solve (I − (DA)ᵀ) v = g with "
                 "torch.linalg.solve.")


def memory_matrix(answer: Callable[..., Tensor]) -> Verdict:
    """Lab 06: ``answer(A, B, C, D, slope)`` is ∂h_t/∂h_{t−1}, B and D the columns of h."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    A, B, C, D = 0.2 * draw(4, 4), draw(4, 3), draw(3, 4), draw(3, 3)
    slope = torch.rand(4, generator=generator, dtype=torch.float64, device="cpu")
    given = _given(answer, (A, B, C, D, slope), "the matrix", D.shape,
                   "The derivative of three numbers by three is a (3, 3) tensor")
    if isinstance(given, Verdict):
        return given
    eye = torch.eye(4, dtype=A.dtype, device=A.device)

    def through(slope: Tensor, M: Tensor) -> Tensor:
        return C @ torch.linalg.solve(eye - slope[:, None] * M, slope[:, None] * B)

    def same(wanted: Tensor) -> bool:
        return torch.allclose(given.double(), wanted)

    if same(D + through(slope, A)):
        return _right("D is the direct way from h to h, the rest the way through the equilibrium.")
    if same(through(slope, A)):
        return _hint("That is the way through the equilibrium; h also passes through D directly.")
    if same(D + through(torch.ones_like(slope), A)):
        return _hint("φ is missing: its slope multiplies the rows of A and of B.")
    if same(D + C @ (slope[:, None] * B)):
        return _hint("That is one step from x = 0. At the equilibrium x moves on both sides: "
                     "dx = slope · (A dx + B dh). Solve for dx.")
    if same(D + C @ torch.linalg.solve(eye - slope[:, None] * A, B)):
        return _hint("The slope multiplies B too, not only A.")
    return _hint("Differentiate x = φ(Ax + Bh): dx = slope · (A dx + B dh), with slope on each "
                 "row. Solve for dx, then dh_t = C dx + D dh.")


def cascade_matrix(answer: Tensor, first: ImplicitModel, last: ImplicitModel) -> Verdict:
    """Lab 03: A of the cascade u → ``first`` → ``last``, the last model's states on top."""
    if answer is ...:
        return _not_attempted("a matrix")
    A1, A2, C1, B2 = (M.detach() for M in (first.A, last.A, first.C, last.B))
    n1, n2 = len(A1), len(A2)
    if not isinstance(answer, Tensor) or answer.shape != (n1 + n2, n1 + n2):
        shown = tuple(answer.shape) if isinstance(answer, Tensor) else repr(answer)
        return _hint(f"A has a row and a column for each of the {n2} + {n1} states, so its shape "
                     f"is ({n1 + n2}, {n1 + n2}); yours is {shown}. torch.cat stacks blocks.")
    if answer.is_complex() or not torch.isfinite(answer).all():
        return _hint("A holds real, finite numbers.")
    given = answer.detach().to(A1)

    def is_(M: Tensor, N: Tensor) -> bool:
        return torch.allclose(M, N, rtol=1e-4, atol=1e-6)

    blocks = given[:n2, :n2], given[:n2, n2:], given[n2:, :n2], given[n2:, n2:]
    if is_(given[:n1, :n1], A1) and is_(given[n1:, n1:], A2):
        return _hint("The order is turned round: the last model's states come first, x = (x₂, x₁), "
                     "as in a network.")
    if not (is_(blocks[0], A2) and is_(blocks[3], A1)):
        return _hint("On the diagonal, each state listens to its own model as before: A₂, then A₁.")
    if (blocks[2] != 0).any():
        return _hint("The lower left block must be zero: the first model does not hear the last.")
    if (blocks[1] == 0).all():
        return _hint("The upper right block is missing: the last model hears ŷ₁ = C₁x₁ + D₁u "
                     "through its B.")
    if not is_(blocks[1], B2 @ C1):
        return _hint("Upper right: the last model's input is C₁x₁ + D₁u, and B₂ multiplies it.")
    return _right("Block triangular, so λ_PF(|A|) is the larger of the two models' own.")


def gram_objective(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Lab 07: ``answer(w, gram, cross, norm)`` is ½‖Φw − z‖² from ΦᵀΦ, Φᵀz and ‖z‖² alone."""
    generator = torch.Generator("cpu").manual_seed(0)
    Phi, z, w = (torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
                 for shape in ((9, 4), (9,), (4,)))
    gram, cross, norm = Phi.mT @ Phi, Phi.mT @ z, z @ z
    given = _given(answer, (w, gram, cross, norm), "½‖Φw − z‖², written with gram, cross and norm")
    if isinstance(given, Verdict):
        return given
    one = isinstance(given, (int, float)) or (
        isinstance(given, Tensor) and given.numel() == 1 and not given.is_complex())
    if not one:
        shown = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
        return _hint(f"The misfit of one row is one real number, yours is {shown}.")
    value, wanted = float(given), float(0.5 * (Phi @ w - z).square().sum())
    square, linear = float(w @ gram @ w), float(w @ cross)

    def same(number: float) -> bool:
        return abs(value - number) <= 1e-6 * abs(number)

    if same(wanted):
        return _right("Three products instead of nine samples, or of a million.")
    if same(2 * wanted):
        return _hint("That is ‖Φw − z‖²: the factor ½ is missing.")
    if same(wanted + 2 * linear):
        return _hint("The sign of the middle term: (a − b)² = a² − 2ab + b².")
    if same(wanted + 0.5 * linear):
        return _hint("The middle term of the square counts twice: (a − b)² = a² − 2ab + b².")
    if same(0.5 * square - linear):
        return _hint("‖z‖² is missing: a constant, but without it this is not the misfit.")
    return _hint("Expand ‖Φw − z‖² = (Φw − z)ᵀ(Φw − z) and find ΦᵀΦ, Φᵀz and zᵀz in it.")


def merged_scatter(answer: Callable[..., Tensor]) -> Verdict:
    """Lab 09: ``answer(m1, mean1, S1, m2, mean2, S2)`` is the scatter matrix of both shards."""
    generator = torch.Generator("cpu").manual_seed(0)

    def shard(m: int, shift: float) -> tuple[int, Tensor, Tensor]:
        Phi = shift + torch.randn(m, 3, generator=generator, dtype=torch.float64, device="cpu")
        return m, Phi.mean(dim=0), (Phi - Phi.mean(dim=0)).mT @ (Phi - Phi.mean(dim=0))

    (m1, mean1, S1), (m2, mean2, S2) = shard(5, 0.0), shard(20, 3.0)
    gap = mean1 - mean2
    between, weight = torch.outer(gap, gap), m1 * m2 / (m1 + m2)
    given = _given(answer, (m1, mean1, S1, m2, mean2, S2), "the scatter matrix", S1.shape,
                   "The scatter matrix of three features is a (3, 3) tensor")
    if isinstance(given, Verdict):
        return given

    def same(wanted: Tensor) -> bool:
        return torch.allclose(given.double(), wanted, rtol=1e-9)

    if same(S1 + S2 + weight * between):
        return _right("A number, a vector and a matrix a shard are enough, whatever its size.")
    if same(S1 + S2):
        return _hint("That is the scatter around each shard's own mean. Around the common mean "
                     "there is more, unless the two means agree.")
    if same(S1 + S2 + between):
        return _hint("The outer product of the means' difference is the right matrix; its weight "
                     "depends on m1 and m2.")
    if same(S1 + S2 + weight * (gap @ gap)):
        return _hint("The difference of the means gives a (3, 3) matrix, torch.outer, not one "
                     "number.")
    if same((S1 + S2 + weight * between) / (m1 + m2)):
        return _hint("That is the covariance; the scatter matrix is not divided by m1 + m2.")
    if same(S1 + S2 + m1 * torch.outer(mean1, mean1) + m2 * torch.outer(mean2, mean2)):
        return _hint("That is the raw sum of φφᵀ over both shards; take (m1 + m2) times the outer "
                     "product of the common mean away from it.")
    return _hint("Go by way of the raw sums: Σφφᵀ = S + m·mean·meanᵀ in each shard. Add them, and "
                 "take the common mean out again.")


def own_solver(answer: type[BaseSolver], problem: Problem, *, optimum: float, within: float,
               steps: int) -> Verdict:
    """Lab 08: ``answer(max_steps=)`` comes within that share of the optimum in so many steps."""
    if answer is ...:
        return _not_attempted("a subclass of BaseSolver")
    if not (isinstance(answer, type) and issubclass(answer, BaseSolver)):
        return _hint(f"That is no subclass of BaseSolver but {answer!r}.")
    try:
        solver = answer(max_steps=steps, check_every=max(steps // 20, 1), device="cpu",
                        progress=False)
        found = solver.solve(problem)
    except Exception as error:
        return _hint(f"It raises {type(error).__name__}: {error}")
    if bool((problem.violation(found.W) > 0).any()):
        return _hint("Its answer is not in the ball: do not turn honours_kappa off.")
    above = float(found.stats.objective.sum()) / optimum - 1
    if not above <= within:  # NaN too
        return _hint(f"After {found.stats.steps} steps the objective is {above:.0%} above the "
                     f"optimum; the aim is {within:.0%}. Does the next step start beyond W, in the "
                     f"direction in which W moved, and ever further?")
    return _right(f"{found.stats.steps} steps end {above:.1%} above the optimum.")
