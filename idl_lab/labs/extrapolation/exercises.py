"""The exercises of lab 13."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import torch
from torch import Tensor, nn

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, NotAttempted, Partly
from idl_lab.labs.kit.problems import generator, normal, random_matrix

# ---- errors in another unit -----------------------------------------------------------------


def _errors(draws: torch.Generator) -> tuple[float, float, float]:
    error, size, s = torch.rand(3, generator=draws, dtype=torch.float64, device="cpu").tolist()
    return 0.1 + error, 2 + size, 10 * (1 + s)


scaled_errors = Exercise(
    inputs=_errors,
    right=lambda mse, power, s: torch.tensor([s ** 2 * mse, (mse / power) ** 0.5],
                                             dtype=torch.float64, device="cpu"),
    what="the two errors at scale s",
    shape="Two numbers are wanted, as a list or a tensor",
    level=Level.WARM_UP,
    slips={
        "e(s u) = s e(u); its square grows with s².":
            Partly(0.5, lambda mse, power, s: torch.tensor([s * mse, (mse / power) ** 0.5])),
        "What is to be predicted grows with s as well, and the quotient stays.":
            Partly(0.5, lambda mse, power, s: torch.tensor(
                [s ** 2 * mse, s * (mse / power) ** 0.5])),
        "The relative error is a quotient of root mean squares: take the root.":
            Partly(0.5, lambda mse, power, s: torch.tensor([s ** 2 * mse, mse / power])),
        "Those are the errors at scale 1.":
            lambda mse, power, s: torch.tensor([mse, (mse / power) ** 0.5]),
    },
    hints=["Both model and task obey the law, so e(s u) = s e(u). What is the mean of its square?",
           "Relative is the root of mse/power; at scale s both have the factor s²."],
    praise="One of them tells you the unit, the other the model.")

# ---- what is left of a model far away -------------------------------------------------------


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
    level=Level.DERIVE,
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
        "left for z?",
        "z = φ(Az + Bu): a bias divided by s is gone. It is solved by iterating it a hundred times "
        "from 0.",
        "The prediction divided by s is Cz + Du; its bias is gone as well."],
    praise="Far away a ReLU model is the positively homogeneous one without its biases.")


# ---- a counter-example ----------------------------------------------------------------------

_GRID = torch.linspace(-1, 1, 401, dtype=torch.float64, device="cpu")


def _misfit(answer: Callable[[Tensor], Tensor]) -> float:
    """Relative error on [−1, 1] of the best a·max(u, 0) + b·max(−u, 0), all there is of one u."""
    if not callable(answer):
        raise TypeError("a function of a tensor is wanted.")
    g = answer(_GRID.clone())
    if g is None or g is ...:
        raise NotAttempted
    g = torch.as_tensor(g).to(_GRID)
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
    level=Level.EXPERIMENT,
    hints=[
        "A homogeneous function of one number is a·max(u, 0) + b·max(−u, 0): on either side of 0 "
        "a straight line.",
        "Which functions are far from every straight line through 0? One that turns round.",
        "A wave with several periods in [0, 1] is nearly at right angles to both lines."],
    slips={"error of 0.00": lambda u: u.abs(), "error of 0.25": lambda u: u ** 2,
           "error of 0.50": torch.ones_like, "between −1 and 1": lambda u: 1 / u,
           "not all zero": torch.zeros_like})


# ---- the repair -----------------------------------------------------------------------------


def _confused() -> nn.Module:
    """A classifier of sequences that a unit confuses, of torch's own modules."""
    first, second = (nn.Linear(10, 10, bias=False, dtype=torch.float64, device="cpu")
                     for _ in range(2))
    layers = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second).requires_grad_(False)
    first.weight.copy_(3 * normal(10, 10, generator=generator()))
    second.weight.copy_(normal(10, 10, generator=generator(1)))
    return layers


def _repaired(answer: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> dict[str, bool]:
    if not callable(answer):
        raise TypeError("a function of a model and its inputs is wanted.")
    U = 2 * torch.rand(8, 10, 1, generator=generator(), dtype=torch.float64, device="cpu") - 1
    U[1] -= 1.5  # a sequence without a number above 0
    spy = Mock(wraps=_confused())

    def asked(U: Tensor) -> Tensor:
        Y = answer(spy, U.clone())
        if Y is None or Y is ...:
            raise NotAttempted
        Y = torch.as_tensor(Y).detach()
        if Y.shape != (len(U), 10):
            raise ValueError(f"the model's prediction for each sequence is wanted, of shape "
                             f"({len(U)}, 10), got {tuple(Y.shape)}.")
        return Y

    Y = asked(U)
    given = spy.call_args.args[0] if spy.call_args and spy.call_args.args else None
    used = isinstance(given, Tensor) and given.shape == U.shape

    def same(one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other.to(one), rtol=1e-9, atol=1e-9)

    return {
        "model": used and same(_confused()(given), Y),
        "order": used and torch.equal(given.argsort(dim=1), U.argsort(dim=1)),
        "alone": same(torch.cat([asked(u[None]) for u in U]), Y),
        "unit": all(same(asked(s * U), Y) for s in (1e-3, 7.0, 1e5)),
    }


repair = Example(
    look=_repaired,
    conditions=[
        (lambda found: found["model"],
         "The model is to be asked once, for all sequences, and its answer to be returned."),
        (lambda found: found["unit"], "The answer still depends on the unit of the inputs."),
        (lambda found: found["order"],
         "What the model is given must have its numbers in the same order, smallest to largest, as "
         "the sequence: a sequence may be all negative.", 0.5),
        (lambda found: found["alone"],
         "A sequence's answer depends on the others of its batch: each is to be measured by its "
         "own numbers."),
    ],
    what="a function of a model and its inputs",
    praise="Any model becomes invariant so, whatever it was trained on.",
    right=lambda model, U: model(U / U.abs().amax(dim=1, keepdim=True)),
    level=Level.STRETCH,
    hints=[
        "Divide each sequence by something that grows with its unit: the quotient does not.",
        "It must be positive, or the order of the numbers turns round: the largest |u| of the "
        "sequence, say.",
        "`U.abs().amax(dim=1, keepdim=True)` has one number for each sequence."],
    slips={
        "still depends on the unit": lambda model, U: model(U),
        "each is to be measured by its own": lambda model, U: model(U / U.abs().max()),
        "a sequence may be all negative": lambda model, U: model(U / U.amax(dim=1, keepdim=True)),
        "in the same order": lambda model, U: model(U / U.abs()),
        "is to be asked": lambda model, U: torch.ones(len(U), 10, device="cpu"),
        "of shape (8, 10)": lambda model, U: model(U).argmax(dim=1),
    })


# ---- a guess --------------------------------------------------------------------------------

clouds_that_stand = Guess(
    what="a number of models",
    found="Of the ten models of the sums {0} stand still from a scale of 1 to 10⁵; you said {1}.")
