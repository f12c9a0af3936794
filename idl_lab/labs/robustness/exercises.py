"""The exercises of lab 12."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from idl_lab.data import load
from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, NotAttempted, Partly
from idl_lab.labs.kit.problems import generator, normal, random_matrix
from idl_lab.model import ImplicitModel

# ---- an interval through a linear map -------------------------------------------------------


def _box(draws: torch.Generator) -> tuple[Tensor, ...]:
    """W (3, 5) of both signs, and a box of inputs."""
    low = normal(5, generator=draws)
    return normal(3, 5, generator=draws), low, low + normal(5, generator=draws).abs()


def _interval(W: Tensor, low: Tensor, high: Tensor) -> Tensor:
    middle, half = W @ (low + high) / 2, W.abs() @ (high - low) / 2
    return torch.stack([middle - half, middle + half])


interval_of_a_map = Exercise(
    inputs=_box,
    right=_interval,
    what="lower and upper bounds of W u, one above the other",
    shape="Lower and upper bounds, stacked, have the shape (2, 3)",
    level=Level.WARM_UP,
    slips={
        "Those are W's values at the two corners low and high. A negative weight is smallest where "
        "its input is largest.": lambda W, low, high: torch.stack([W @ low, W @ high]),
        "Upper and lower change places.": lambda W, low, high: _interval(W, low, high).flip(0),
        "With |W| on the middle too the box is moved. Only its width is met by |W|.":
            lambda W, low, high: torch.stack([W.abs() @ low, W.abs() @ high]),
        "Twice as wide as it must be: from the middle it is half a width to each side.":
            Partly(0.5, lambda W, low, high: torch.stack([
                W @ (low + high) / 2 + sign * (W.abs() @ (high - low)) for sign in (-1, 1)])),
    },
    hints=[
        "Each term w_j u_j is smallest at one of its ends, and the terms do not know of each "
        "other.",
        "Write the box as its middle and its half width, u = m + d with |d_j| ≤ r_j. How large can "
        "w·d become?",
        "|w|·r. So the bounds are W m − |W| r and W m + |W| r."],
    praise="Exact for one linear map: some corner of the box attains each bound.")

# ---- S of a small model ---------------------------------------------------------------------


def _model(draws: torch.Generator) -> tuple[Tensor | float, ...]:
    """A, B, C, D, and the largest slope of φ, with which ‖A‖∞ makes 0.96 at most."""
    slope = 0.4 + 0.8 * torch.rand((), generator=draws, dtype=torch.float64, device="cpu")
    return (random_matrix(4, 0.8, generator=draws),
            *(normal(*shape, generator=draws) for shape in ((4, 3), (2, 4), (2, 3))), float(slope))


def _inverse(A: Tensor) -> Tensor:
    return torch.linalg.inv(torch.eye(len(A), dtype=A.dtype, device=A.device) - A)


sensitivity_matrix = Exercise(
    inputs=_model,
    right=lambda A, B, C, D, L: D.abs() + L * C.abs() @ _inverse(L * A.abs()) @ B.abs(),
    what="the sensitivity matrix of the model A, B, C, D",
    shape="S has a row an output and a column an input, (2, 3)",
    level=Level.DERIVE,
    slips={
        "That is right for L = 1. Where does the slope of φ come in?": Partly(
            0.5, lambda A, B, C, D, L: D.abs() + C.abs() @ _inverse(A.abs()) @ B.abs()),
        "φ meets all of Ax + Bu: what comes in through B has the factor L too.": Partly(
            0.5, lambda A, B, C, D, L: D.abs() + C.abs() @ _inverse(L * A.abs()) @ B.abs()),
        "φ is met again on each way round the loop: a factor L with each A.":
            lambda A, B, C, D, L: D.abs() + L * C.abs() @ _inverse(A.abs()) @ B.abs(),
        "Without |·| that is a derivative, where all states are active. A bound must hold "
        "whatever the signs do.": lambda A, B, C, D, L: D + L * C @ _inverse(L * A) @ B,
        "The absolute value comes before the products: |X Y| ≤ |X||Y|, and only that holds for "
        "every state.": lambda A, B, C, D, L: (D + L * C @ _inverse(L * A) @ B).abs(),
        "|D| is missing: the input reaches the output directly too.":
            lambda A, B, C, D, L: L * C.abs() @ _inverse(L * A.abs()) @ B.abs(),
        "|(I − LA)⁻¹| is smaller than (I − L|A|)⁻¹: where some states rest, A's terms no longer "
        "cancel.": lambda A, B, C, D, L: D.abs() + L * C.abs() @ _inverse(L * A).abs() @ B.abs(),
        "That is one step of the equation. A change goes on round the loop.":
            lambda A, B, C, D, L: D.abs() + L * C.abs() @ B.abs(),
    },
    hints=[
        "Let e = |x − x′|. From x = φ(Ax + Bu) and |φ(a) − φ(b)| ≤ L|a − b| find an inequality "
        "e ≤ … with e on both sides.",
        "e ≤ L|A| e + L|B||u − u′|. Where (I − L|A|)⁻¹ has no negative entry it may be solved like "
        "an equation.",
        "Then |ŷ − ŷ′| ≤ |C| e + |D||u − u′|, by which the input reaches the output in two ways."],
    praise="Solving e ≤ L|A| e + L|B||u − u′| is allowed since L λ_PF(|A|) < 1.")

# ---- an attack ------------------------------------------------------------------------------

EPS, WEAK, STRONG = 0.1, 20, 29  # of 40 images one gradient breaks 22, twenty of them 33


@functools.cache
def _reader() -> tuple[ImplicitModel, Tensor, Tensor]:
    """A model of the digits with A and B at random, C by ridge regression; images that it reads."""
    (U, labels), (V, answers) = (
        map(torch.cat, zip(*part, strict=True)) for part in load("digits", seed=0))
    draws, D = generator(1), torch.zeros(10, 64, device="cpu")
    A, B = (random_matrix(200, 0.9, generator=draws).float(),
            1.5 * normal(200, 64, generator=draws).float())  # large: the gradient soon turns
    new = functools.partial(ImplicitModel.from_matrices, A, B, D=D, activation="tanh")
    with torch.no_grad():
        X = new(C=torch.zeros(10, 200, device="cpu")).equilibrium(U).value.double()
        gram = X.mT @ X + torch.eye(200, dtype=X.dtype, device="cpu")
        model = new(C=torch.linalg.solve(gram, X.mT @ one_hot(labels, 10).double()).mT.float())
        right = model(V).argmax(dim=1) == answers
    return model.requires_grad_(False), V[right][:40], answers[right][:40]


class Attacked(NamedTuple):
    """What an attack did.

    Attributes
    ----------
    outside : float
        How far a pixel is outside [0, 1].
    moved : float
        The most that a pixel was moved.
    broken : int
        Images that the model now names otherwise.
    of : int
        All of them.
    """

    outside: float
    moved: float
    broken: int
    of: int


def _attacked(answer: Callable[..., Tensor]) -> Attacked:
    if not callable(answer):
        raise TypeError("a function of a model, images, labels and ε is wanted.")
    model, U, labels = _reader()
    V = answer(model, U.clone(), labels.clone(), EPS)
    if V is None or V is ...:
        raise NotAttempted
    V = torch.as_tensor(V).detach().to(U)
    if V.shape != U.shape or not V.isfinite().all():
        raise ValueError(f"images of finite pixels, of shape {tuple(U.shape)}, are wanted, got "
                         f"{tuple(V.shape)}.")
    with torch.no_grad():
        broken = int((model(V).argmax(dim=1) != labels).sum())
    return Attacked(float((V - V.clamp(0, 1)).abs().max()), float((V - U).abs().max()), broken,
                    len(U))


def _steps(count: int, share: float = 1.0, sign: float = 1.0, box: bool = True,
           ball: bool = True) -> Callable[..., Tensor]:
    """So many steps of a share of ε along the sign of the loss's gradient, each followed by the way
    back into ball and box."""
    def attack(model: Callable[[Tensor], Tensor], U: Tensor, labels: Tensor, eps: float) -> Tensor:
        V = U
        for _ in range(count):
            at = V.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(cross_entropy(model(at), labels), at)
            V = V + sign * share * eps * slope.sign()
            V = torch.minimum(torch.maximum(V, U - eps), U + eps) if ball else V
            V = V.clamp(0, 1) if box else V
        return V
    return attack


def _at_random(model: Callable[[Tensor], Tensor], U: Tensor, labels: Tensor, eps: float) -> Tensor:
    noise = torch.rand(U.shape, generator=generator(), device="cpu")
    return (U + eps * (2 * noise - 1)).clamp(0, 1)


attack = Example(
    look=_attacked,
    conditions=[
        (lambda found: found.outside < 1e-6,
         "A pixel is {0.outside:.2g} outside [0, 1]: such an image cannot be shown."),
        (lambda found: found.moved < EPS + 1e-6,
         f"A pixel moved by {{0.moved:.3f}}; ε is {EPS}."),
        (lambda found: found.broken >= WEAK,
         "{0.broken} of {0.of} images are named otherwise; one step along the sign of the loss's "
         f"gradient is enough for {WEAK}.", 0.5),
        (lambda found: found.broken >= STRONG,
         f"{{0.broken}} of {{0.of}} images are named otherwise; {STRONG} can be. After one step "
         "the gradient is another: go on, in smaller steps.")],
    what="the attacked images",
    praise="{0.broken} of {0.of} images, all named rightly before, are named otherwise now.",
    right=_steps(20, 0.1),
    level=Level.EXPERIMENT,
    uses=("idl_lab.model", "idl_lab.equilibrium"),
    hints=[
        "Which change δ with |δ_j| ≤ ε for each pixel raises gᵀδ most, where g is the loss's "
        "gradient at the image? Take `torch.autograd.grad` of the cross-entropy by the images.",
        "ε·sign(g), then pixels back into [0, 1]: FGSM, which is worth half of the points.",
        "PGD: twenty steps of ε/10. After each go back into the box, "
        "`torch.minimum(torch.maximum(V, U - eps), U + eps).clamp(0, 1)`."],
    slips={
        "outside [0, 1]": _steps(1, box=False),
        "ε is": _steps(20, 0.1, ball=False),
        "gradient is enough for": _at_random,
        "0 of 40 images are named otherwise": _steps(1, sign=-1.0),
        "go on, in smaller steps": _steps(1),
        "of finite pixels": lambda model, U, labels, eps: model(U),
    })

# ---- the state of a whole box ---------------------------------------------------------------


def _model_and_box(draws: torch.Generator) -> tuple[Tensor, ...]:
    A, B = random_matrix(4, 0.8, generator=draws), normal(4, 3, generator=draws)
    low = normal(3, generator=draws)
    return A, B, low, low + normal(3, generator=draws).abs()


def _box_of_states(A: Tensor, B: Tensor, low: Tensor, high: Tensor, steps: int = 200,
                   phi: Callable[[Tensor], Tensor] = torch.relu) -> Tensor:
    x = torch.zeros(2, len(A), dtype=A.dtype, device=A.device)
    for _ in range(steps):
        x = phi(_interval(A, *x) + _interval(B, low, high))
    return x


def _corners(A: Tensor, B: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The states at the two corners, or near enough."""
    x = torch.zeros(2, len(A), dtype=A.dtype, device=A.device)
    for _ in range(200):
        x = torch.relu(x @ A.mT + torch.stack([low, high]) @ B.mT)
    return x


def _by_norm(A: Tensor, B: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The state in the middle, and what (I − |A|)⁻¹|B| lets it move."""
    middle = _corners(A, B, (low + high) / 2, (low + high) / 2)[0]
    half = _inverse(A.abs()) @ B.abs() @ (high - low) / 2
    return torch.stack([middle - half, middle + half])


states_in_a_box = Exercise(
    inputs=_model_and_box,
    right=_box_of_states,
    what="lower and upper bounds of the state",
    shape="Lower and upper bounds, stacked, have the shape (2, 4)",
    level=Level.STRETCH,
    slips={
        "That is one step from x = 0. The bounds are an equilibrium: put them in again.":
            Partly(1 / 3, lambda A, B, low, high: _box_of_states(A, B, low, high, steps=1)),
        "Those are the states at two corners of the box. Where an entry of A or B is negative, the "
        "lower bound needs the upper one.": _corners,
        "Valid, but too wide: that is the bound of exercise 2, which does not know which states "
        "rest.": Partly(1 / 3, _by_norm),
        "The states' own interval is missing: A meets bounds of x, as B meets those of u.":
            lambda A, B, low, high: torch.relu(
                _corners(A, B, (low + high) / 2, (low + high) / 2)[0] @ A.mT
                + _interval(B, low, high)),
        "φ is missing: a ReLU's state is not negative.":
            lambda A, B, low, high: _box_of_states(A, B, low, high, phi=lambda x: x),
    },
    hints=[
        "If l ≤ x ≤ h and u is in its box, exercise 1 bounds Ax and Bu. φ is monotone: apply it to "
        "both bounds.",
        "So from bounds of x you get new ones. Start from zeros and repeat: with ‖A‖∞ < 1 it "
        "settles.",
        "Each step is x_low, x_high = φ(bounds of A x + bounds of B u), 200 times."],
    praise="An equilibrium of a model with 2n states: the library's bounds by intervals.")

# ---- a guess --------------------------------------------------------------------------------

first_loss = Guess(
    what="two numbers, (ε of the certificate, ε of the attack)",
    found="The certificate is lost at {0[0]:g}, the answer at {0[1]:g}; you said {1}.")
