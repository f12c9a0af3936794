"""The exercises of lab 13."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise
from idl_lab.labs.kit.problems import generator, normal, random_matrix

# ---- what is left of a model far away ---------------------------------------------------------


def _inputs(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A (4, 4) with ‖A‖∞ = 0.6, B, C, D, two biases and an input."""
    A = random_matrix(4, 0.6, generator=draws)
    return A, *(normal(*shape, generator=draws) for shape in ((4, 3), (2, 4), (2, 3), (4,), (2,),
                                                              (3,)))


def _state(A: Tensor, injection: Tensor) -> Tensor:
    x = torch.zeros_like(injection)
    for _ in range(100):
        x = torch.relu(A @ x + injection)
    return x


far_away = Exercise(
    inputs=_inputs,
    right=lambda A, B, C, D, b, c, u: C @ _state(A, B @ u) + D @ u,
    what="the limit of y(s u)/s",
    shape="The limit has the shape of the prediction, (2,)",
    slips={
        "That is y(u), with its biases. Divided by s, what does a bias come to?":
            lambda A, B, C, D, b, c, u: C @ _state(A, B @ u + b) + D @ u + c,
        "The state's bias is divided by s as well.":
            lambda A, B, C, D, b, c, u: C @ _state(A, B @ u + b) + D @ u,
        "c is divided by s as well.":
            lambda A, B, C, D, b, c, u: C @ _state(A, B @ u) + D @ u + c,
        "D u is missing: it grows with s like the rest.":
            lambda A, B, C, D, b, c, u: C @ _state(A, B @ u),
        "That is one step from x = 0. The state is the solution of its equation.":
            lambda A, B, C, D, b, c, u: C @ torch.relu(B @ u) + D @ u,
        "φ is missing: a ReLU keeps its kink at every scale.":
            lambda A, B, C, D, b, c, u: C @ torch.linalg.solve(
                torch.eye(4, dtype=A.dtype, device=A.device) - A, B @ u) + D @ u,
    },
    hints=[
        "Put x = s z into x = φ(Ax + B s u + b), divide by s, and let s grow. Which equation is "
        "left for z? It is solved by iterating it."],
    praise="Far away a ReLU model is the positively homogeneous one without its biases.")


# ---- a counter-example ------------------------------------------------------------------------

_GRID = torch.linspace(-1, 1, 401, dtype=torch.float64, device="cpu")


def _misfit(answer: Callable[[Tensor], Tensor]) -> float:
    """Relative error on [−1, 1] of the best a·max(u, 0) + b·max(−u, 0), all there is of one u."""
    if not callable(answer):
        raise TypeError("a function of a tensor is wanted.")
    g = torch.as_tensor(answer(_GRID.clone())).to(_GRID)
    if g.shape != _GRID.shape or not (g.abs() <= 1).all() or not g.any():
        raise ValueError("the function must give a number between −1 and 1 for each of its inputs, "
                         "not all zero.")
    rays = torch.stack([_GRID.clamp(min=0), (-_GRID).clamp(min=0)], dim=1)
    rest = g - rays @ torch.linalg.lstsq(rays, g[:, None]).solution[:, 0]
    return float(rest.norm() / g.norm())


counterexample = Example(
    look=_misfit,
    conditions=[(lambda misfit: misfit > 0.7,
                 "The best homogeneous fit has a relative error of {0:.2f} on [−1, 1]; more than "
                 "0.7 is wanted. Which values on a ray from 0 does one value fix?")],
    what="a function of one number",
    praise="No model without biases comes closer than {0:.2f}, whatever its size, inside the range "
           "of training.",
    right=lambda u: torch.cos(8 * u),
    slips={"error of 0.00": lambda u: u.abs(), "error of 0.25": lambda u: u ** 2,
           "error of 0.50": torch.ones_like, "between −1 and 1": lambda u: 1 / u,
           "not all zero": torch.zeros_like})


# ---- the repair -------------------------------------------------------------------------------


class _Spy:
    """A classifier of sequences that a unit confuses, and what it was given."""

    def __init__(self) -> None:
        self.weights = normal(10, 10, generator=generator())
        self.given: Tensor | None = None

    def __call__(self, U: Tensor) -> Tensor:
        self.given = U
        return torch.tanh(3 * U.flatten(1) @ self.weights) @ self.weights.T + 1


def _repaired(answer: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> dict[str, bool]:
    if not callable(answer):
        raise TypeError("a function of a model and its inputs is wanted.")
    U = 2 * torch.rand(8, 10, 1, generator=generator(), dtype=torch.float64, device="cpu") - 1
    U[1] -= 1.5  # a sequence without a number above 0
    spy = _Spy()

    def asked(U: Tensor) -> Tensor:
        Y = torch.as_tensor(answer(spy, U.clone())).detach()
        if Y.shape != (len(U), 10):
            raise ValueError(f"the model's prediction for each sequence is wanted, of shape "
                             f"({len(U)}, 10), got {tuple(Y.shape)}.")
        return Y

    Y, given = asked(U), spy.given
    used = given is not None and given.shape == U.shape

    def same(one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other.to(one), rtol=1e-9, atol=1e-9)

    return {
        "model": used and same(spy(given), Y),
        "order": used and torch.equal(given.argsort(dim=1), U.argsort(dim=1)),
        "alone": same(torch.cat([asked(u[None]) for u in U]), Y),
        "unit": all(same(asked(s * U), Y) for s in (1e-3, 7.0, 1e5)),
    }


repair = Example(
    look=_repaired,
    conditions=[
        (lambda found: found["model"],
         "The model is to be asked once, for all sequences, and its answer to be returned."),
        (lambda found: found["order"],
         "What the model is given must have its numbers in the same order, smallest to largest, as "
         "the sequence: a sequence may be all negative."),
        (lambda found: found["alone"],
         "A sequence's answer depends on the others of its batch: each is to be measured by its "
         "own numbers."),
        (lambda found: found["unit"], "The answer still depends on the unit of the inputs."),
    ],
    what="a function of a model and its inputs",
    praise="Any model becomes invariant so, whatever it was trained on.",
    right=lambda model, U: model(U / U.abs().amax(dim=1, keepdim=True)),
    slips={
        "still depends on the unit": lambda model, U: model(U),
        "each is to be measured by its own": lambda model, U: model(U / U.abs().max()),
        "a sequence may be all negative": lambda model, U: model(U / U.amax(dim=1, keepdim=True)),
        "in the same order": lambda model, U: model(U / U.abs()),
        "is to be asked": lambda model, U: torch.ones(len(U), 10, device="cpu"),
        "of shape (8, 10)": lambda model, U: model(U).argmax(dim=1),
    })
