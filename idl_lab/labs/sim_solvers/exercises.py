"""The exercises of lab 08; the last is a solver of one's own, tried on an unseen problem."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from types import CodeType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from idl_lab import validation
from idl_lab.constraints import project_rows
from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level
from idl_lab.labs.kit.problems import digits_teacher, generator, normal
from idl_lab.labs.sim_solvers.problems import Momentum
from idl_lab.labs.sim_solvers.problems import admm_step as _admm_step
from idl_lab.sim import SIM, solvers
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, BaseSolver, SolveResult

smaller_ball = Guess(
    what='"rises", "falls" or "stays"',
    found="From κ = 0.99 to κ = 0.3 the optimum {0}; your guess was {1}.")


def _threshold(w: Tensor, t: float) -> Tensor:
    return w.sign() * (w.abs() - t).clamp(min=0)


soft_threshold = Exercise(
    inputs=lambda draws: (2 * normal(9, generator=draws), 0.7),
    right=_threshold,
    what="the vector that minimises t‖v‖₁ + ½‖v − w‖² over v",
    shape="v has as many entries as w, nine",
    level=Level.WARM_UP,
    slips={
        "That is right where w > 0. What is nearest for an entry below −t?":
            lambda w, t: (w - t).clamp(min=0),
        "What survives is moved towards zero by t as well; you have kept it as it was.":
            lambda w, t: torch.where(w.abs() > t, w, 0),
        "An entry smaller than t becomes zero; yours changes its sign.":
            lambda w, t: w.sign() * (w.abs() - t),
        "That is what is taken away from w, not what is left.":
            lambda w, t: w.clamp(-t, t),
        "That is for the penalty ½t‖v‖₂²: it shrinks everything and makes no zero.":
            lambda w, t: w / (1 + t),
    },
    hints=["Each entry is a problem of its own: t|v| + ½(v − w)².",
           "For v > 0 the derivative t + v − w vanishes at v = w − t, which is positive only if "
           "w > t. The same on the other side.",
           "w.sign(), w.abs() and .clamp(min=0) are all that is needed."],
    praise="The threshold that makes λ's zeros: exact ones.")


def _row(draws: torch.Generator) -> tuple[Tensor, int, float, float]:
    """A row of nine, of which the first five are in the ball, which binds or does not."""
    kappa = 0.5 + 10 * float(torch.rand((), generator=draws, device="cpu"))
    return 2 * normal(9, generator=draws), 5, 0.4, kappa


def _projected(row: Tensor, ball: int, kappa: float) -> Tensor:
    return torch.cat([project_rows(row[None, :ball], kappa)[0], row[ball:]])


prox_in_ball = Exercise(
    inputs=_row,
    right=lambda w, ball, t, kappa: _projected(_threshold(w, t), ball, kappa),
    what="the row that minimises t‖v‖₁ + ½‖v − w‖² over the v in the ball",
    shape="v has as many entries as w, nine",
    level=Level.DERIVE,
    uses=("idl_lab.constraints",),
    slips={
        "In that order the threshold moves the row on, into the ball, and further than it need: "
        "what is subtracted by the threshold counts towards the ball.":
            lambda w, ball, t, kappa: _threshold(_projected(w, ball, kappa), t),
        "Only the first entries, those of A, are in the ball; the others have the threshold alone.":
            lambda w, ball, t, kappa: _projected(_threshold(w, t), len(w), kappa),
        "The entries of B pay λ too: the threshold is for all of the row.":
            lambda w, ball, t, kappa: _projected(
                torch.cat([_threshold(w[:ball], t), w[ball:]]), ball, kappa),
        "That is the threshold alone; the ball is missing.":
            lambda w, ball, t, kappa: _threshold(w, t),
        "That is the nearest point of the ball; the threshold is missing.":
            lambda w, ball, t, kappa: _projected(w, ball, kappa),
        "Dividing by the sum brings the row into the ball, but not to its nearest point: that one "
        "has all entries moved by the same amount (project_rows).":
            lambda w, ball, t, kappa: torch.cat([
                _threshold(w, t)[:ball] * (kappa / _threshold(w, t)[:ball].abs().sum()).clamp(
                    max=1), _threshold(w, t)[ball:]]),
    },
    hints=["With a multiplier θ ≥ 0 for Σ|vⱼ| ≤ κ an entry in the ball pays (t + θ)|vⱼ|.",
           "So it is thresholded at t + θ, and thresholds add up: at t first, then at θ.",
           "The second of these, with the θ that makes the sum κ, is the projection: "
           "idl_lab.constraints.project_rows, which takes a matrix of rows."],
    draws=12,
    praise="Two thresholds, one after the other: the only step of ADMM that knows λ and κ.")


def _split(draws: torch.Generator) -> tuple[Problem, Tensor, Tensor, float]:
    """Three rows of six unknowns, somewhere on the way, and a ρ."""
    Phi, T, zeta, mu = (normal(*shape, generator=draws)
                        for shape in ((12, 6), (12, 3), (3, 6), (3, 6)))
    problem = Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(dim=0), lam=1.5, kappa=0.5, ball=3)
    return problem, zeta, mu, 2 + 4 * float(torch.rand((), generator=draws, device="cpu"))


def _wrong_step(*, pull: Callable[[Tensor, Tensor], Tensor] = lambda zeta, mu: zeta - mu,
                curved: bool = True, near: Callable[[Tensor, Tensor], Tensor] = torch.add,
                step: Callable[[float], float] = lambda rho: 1 / rho, sign: int = 1,
                late: bool = False) -> Callable[..., Tensor]:
    """A step of ADMM with one of its parts changed."""
    def wrong(problem: Problem, zeta: Tensor, mu: Tensor, rho: float) -> Tensor:
        Q = problem.Q + (rho if curved else 0) * torch.eye(6, dtype=mu.dtype, device="cpu")
        beta = torch.linalg.solve(Q, problem.cross + rho * pull(zeta, mu), left=False)
        after = problem.prox(near(beta, mu), step(rho))
        return torch.stack([beta, after, mu + sign * (beta - (zeta if late else after))])

    return wrong


admm_step = Exercise(
    inputs=_split,
    right=_admm_step,
    what="torch.stack([beta, zeta, mu]) after the step",
    shape="β, ζ and μ of three rows of six are wanted, torch.stack([beta, zeta, mu]), (3, 3, 6)",
    level=Level.DERIVE,
    uses=("idl_lab.sim.problem", "idl_lab.constraints"),
    slips={
        "β is pulled towards ζ − μ: in the account μ, β is already too large.":
            _wrong_step(pull=torch.add),
        "β does not know of μ yet: its right-hand side is c + ρ(ζ − μ).":
            _wrong_step(pull=lambda zeta, mu: zeta),
        "The matrix for β is Q + ρI.": _wrong_step(curved=False),
        "ζ is the prox of β + μ, not of β.": _wrong_step(near=lambda beta, mu: beta),
        "The threshold is λ/ρ, so the step that prox is given is 1/ρ.":
            _wrong_step(step=lambda rho: rho),
        "The sign of the account: μ grows where β is above ζ.": _wrong_step(sign=-1),
        "μ is settled with the new ζ, not with the one before.": _wrong_step(late=True),
    },
    hints=["Three lines, in the order of the formulas; each uses what the one before has found.",
           "A row of W is a β, so that (Q + ρI)⁻¹ stands on the right: "
           "torch.linalg.solve(M, R, left=False) is R M⁻¹.",
           "problem.prox(W, 1 / rho) thresholds at λ/ρ and projects, as in the exercise before."],
    praise="Repeat it, and ζ finds its zeros; at the optimum β = ζ and nothing moves.")


@cache
def _teacher() -> tuple[nn.Sequential, DataLoader, DataLoader]:
    return digits_teacher(7, hidden=(24, 16))


def _student(answer: object) -> dict[str, float]:
    """Non-zeros of a student of the digits, and its fidelity to fresh images."""
    if not isinstance(answer, Mapping) or not {*answer} <= {"kappa", "lam", "refit"}:
        raise TypeError(f"Options are a dictionary such as dict(kappa=0.9, lam=0.1, refit=False), "
                        f"got {answer!r}.")
    kappa = validation.kappa(answer.get("kappa", 0.99))
    lam = validation.real("lam", answer.get("lam", 0.1), at_least=1e-3)
    teacher, train, test = _teacher()
    sim = SIM(kappa=kappa, lambda_z=lam, lambda_y=lam, refit=bool(answer.get("refit", False)),
              device="cpu", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a poor student is told so by its figures
        sim.train(ADMMSolver(tol=1e-4, device="cpu", progress=False), teacher, train)
    return {"entries": sum(sim.result.stats["nonzeros"].values()), "fidelity": sim.fidelity(test),
            "teacher": sum(M.numel() for M in teacher.parameters())}


_SAID = "{0[entries]:,} non-zeros and a fidelity of {0[fidelity]:.4f}"

sparse_student = Example(
    look=_student,
    conditions=[
        (lambda found: found["entries"] <= 2000,
         _SAID + ": at most 2,000 non-zeros are wanted, fewer than the teacher's {0[teacher]:,} "
                 "weights."),
        (lambda found: found["fidelity"] >= 0.98,
         _SAID + ": at least 0.998 is wanted. λ alone does not do it: which κ passes on less of a "
                 "misfit (lab 07, section 9)?", 0.25),
        (lambda found: found["fidelity"] >= 0.998,
         _SAID + ": at least 0.998 is wanted. λ pulls at what it keeps as well.", 0.5),
    ],
    what="a dictionary of options",
    praise=_SAID + ", with fewer numbers than its teacher's {0[teacher]:,}.",
    right={"kappa": 0.3, "lam": 3.0, "refit": True},
    level=Level.EXPERIMENT,
    hints=["The number of non-zeros is λ's doing: find the λ that leaves 2,000.",
           "A state equation passes a misfit on at up to 1/(1 − κ) times its size. In the units "
           "of lab 07 a small κ costs nothing.",
           "refit=True lets λ choose the zeros alone."],
    slips={"Options are a dictionary": [0.3, 3.0], "kappa": {"kappa": 1.5},
           "lam": {"lam": "much"}, "at most 2,000": {"kappa": 0.9, "lam": 0.1},
           "λ alone does not do it": {"lam": 3.0},
           "λ pulls at what it keeps": {"kappa": 0.3, "lam": 3.0}})


STEPS, WITHIN = 300, 0.02
READY = {kind for kind in vars(solvers).values() if isinstance(kind, type)
         and issubclass(kind, BaseSolver)}


def _same(code: CodeType) -> tuple:
    """What two pieces of code share that do the same, whatever they are called."""
    return code.co_code, code.co_names


READY_CODE = {_same(kind.iterates.__code__) for kind in READY}


class _Plain(Momentum):
    momentum: ClassVar[float] = 0.0


class _Outside(Momentum):
    honours_kappa: ClassVar[bool] = False

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros() + 1


class _Solved(Momentum):
    def solve(self, problem: Problem, watch: object = None) -> SolveResult:
        return ADMMSolver(device="cpu", progress=False).solve(problem)


class _Elsewhere(Momentum):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield torch.zeros(48, 112, dtype=torch.float64, device="cpu")


class _Listed(Momentum):
    def iterates(self, problem: Problem) -> Any:
        return map(torch.neg, [problem.zeros()])


def _fresh() -> Problem:
    """Six rows of twenty unknowns, whose features differ a hundredfold; their ball binds."""
    draws = generator()
    Phi = normal(60, 20, generator=draws) * torch.logspace(
        0, -2, 20, dtype=torch.float64, device="cpu")
    T = 0.4 * Phi @ normal(20, 6, generator=draws) + 0.05 * normal(60, 6, generator=draws)
    return Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(dim=0), lam=1e-3, kappa=0.9, ball=7)


class _Trial:
    """An answer at work: computed as far as a condition asks."""

    def __init__(self, answer: object) -> None:
        self.answer, self.problem = answer, _fresh()

    @cached_property
    def solver(self) -> BaseSolver:
        return self.answer(max_steps=STEPS, check_every=STEPS // 20, device="cpu", progress=False)

    @property
    def drawn(self) -> Any:
        return self.solver.iterates(self.problem)

    @property
    def first(self) -> object:
        W = next(self.drawn)
        return W[0] if isinstance(W, tuple) else W

    @cached_property
    def rows(self) -> SolveResult:
        return self.solver.solve(self.problem)

    @cached_property
    def above(self) -> float:
        """How far the answer is above the optimum, which ADMM certifies to nine digits."""
        best = ADMMSolver(tol=1e-9, device="cpu", progress=False).solve(self.problem)
        above = float(self.problem.objective(self.rows.W).sum() / best.stats.objective.sum()) - 1
        return max(above, 0.0)  # ADMM's own rounding is no merit; NaN stays NaN


_ABOVE = (f"After {{0.rows.stats.steps}} steps the objective is {{0.above:.0%}} above the optimum; "
          f"the aim is {WITHIN:.0%}. Does the next step start beyond W, in the direction in which "
          f"W moved, and ever further?")

own_solver = Example(
    look=_Trial,
    conditions=[
        (lambda trial: isinstance(trial.answer, type) and issubclass(trial.answer, BaseSolver),
         "That is no subclass of BaseSolver but {0.answer!r}."),
        (lambda trial: trial.answer.solve is BaseSolver.solve,
         "Leave solve as it is inherited, and write iterates."),
        (lambda trial: inspect.isgenerator(trial.drawn),
         "iterates is no generator: yield each W, one after the other."),
        # `solve` would call it, not the reader's code, so that the watch of `check` misses it.
        (lambda trial: _same(trial.drawn.gi_code) not in READY_CODE,
         "iterates is that of a solver of the library: inherit from BaseSolver itself and write "
         "your own."),
        (lambda trial: getattr(trial.first, "shape", None) == trial.problem.shape,
         "The first W of your iterates has not the shape {0.problem.shape} of the problem that it "
         "was given: use that one, and no matrix from elsewhere."),
        (lambda trial: not (trial.problem.violation(trial.rows.W) > 0).any(),
         "Its answer is not in the ball: do not turn honours_kappa off."),
        (lambda trial: trial.above <= 3 * WITHIN, _ABOVE),  # not for NaN
        (lambda trial: trial.above <= WITHIN, _ABOVE, 0.5),
    ],
    what="a subclass of BaseSolver",
    praise="On a problem that it had not seen, {0.rows.stats.steps} steps end {0.above:.1%} above "
           "the optimum.",
    right=Momentum,
    level=Level.STRETCH,
    hints=["Begin with the class above and keep two points: W, and the point ahead from which the "
           "step is taken.",
           "Before the step keep the last W; after it the next start is "
           "W + (t − 1)/t′ · (W − last W), t′ = (1 + √(1 + 4t²))/2, and then t = t′."],
    uses=("idl_lab.sim.problem",),
    slips={"no subclass of BaseSolver but 3": 3, "but Momentum(": Momentum(progress=False),
           "instantiate abstract class": BaseSolver,
           "iterates is that of a solver of the library": ADMMSolver,
           "inherit from BaseSolver itself": type("Mine", (ADMMSolver,), {}),
           "and write your own": type("Mine", (Momentum,), {"iterates": ADMMSolver.iterates}),
           "Leave solve as it is": _Solved, "iterates is no generator": _Listed,
           "has not the shape (6, 20)": _Elsewhere, "not in the ball": _Outside,
           "above the optimum; the aim is 2%": _Plain})
