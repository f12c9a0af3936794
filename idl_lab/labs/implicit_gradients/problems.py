"""A loss with a known gradient, and what each way to take it gives and costs."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.equilibrium import Adjoint, Implicit, OneStep, Unrolled, equilibrium
from idl_lab.extras import clock
from idl_lab.fixed_point import Anderson, Picard, Solver
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.labs.kit.problems import random_matrix

LISTENERS = ("all", "hub")
ADJOINTS = {"implicit": Implicit(), "unrolled": Unrolled(), "one-step": OneStep()}


def gradient_problem(n: int, kappa: float, listens: str = "all", phi: str = "relu", *,
                     samples: int = 3, generator: torch.Generator,
                     device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """A, injection b and target T of L = ½‖X − T‖², all float64, with a known dL/dX.

    At the equilibrium X the gradient X − T is (1, −½, …, −½) in every sample: the loss wants
    the first state lower and the others higher.

    Parameters
    ----------
    n : int
    kappa : float
        ‖A‖∞, below 1.
    listens : {"all", "hub"}
        Every state listens to all, with positive weights and equal row sums, so that κ itself
        is the rate; or every state listens to the first alone, so that ‖A‖₂ = κ√n may exceed 1
        although ‖A‖∞ = κ does not.
    phi : str
    samples : int
        m.
    generator : torch.Generator
        On the CPU.
    device : torch.device or str

    Returns
    -------
    A, injection, target : Tensor, shapes (n, n), (m, n) and (m, n)
    """
    validation.integer("n", n, at_least=2)
    validation.integer("samples", samples)
    validation.kappa(kappa)
    validation.choice("listens", listens, LISTENERS)
    A = random_matrix(n, kappa, "positive", generator=generator)
    if listens == "hub":
        A = torch.zeros_like(A)
        A[:, 0] = kappa
    b = torch.randn(samples, n, generator=generator, dtype=A.dtype, device=A.device).abs()
    A, b = A.to(device), b.to(device)
    g = torch.full_like(b, -0.5)
    g[:, 0] = 1.0
    return A, b, equilibrium(A, b, phi, solver=Anderson(rtol=1e-13)).value - g


@dataclass(frozen=True)
class Gradient:
    """A gradient of L = ½‖X − T‖² and what it cost.

    Attributes
    ----------
    A, injection : Tensor, shapes (n, n) and (m, n)
        dL/dA and dL/db.
    saved : int
        Bytes that are kept for the backward pass when the forward one is done, beside A and b
        themselves.
    seconds : float
        Of both passes.
    """

    A: Tensor
    injection: Tensor
    saved: int
    seconds: float


class _Kept:
    """A tensor that a graph holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def measure_gradient(A: Tensor, injection: Tensor, target: Tensor, phi: str = "relu",
                     adjoint: Adjoint = Implicit(), solver: Solver = Picard()) -> Gradient:
    """Gradient of ½‖X − T‖² through `equilibrium`, where stopping early is part of the lesson.

    Parameters
    ----------
    A, injection, target : Tensor, shapes (n, n), (m, n) and (m, n)
    phi : str
    adjoint : Implicit, Unrolled or OneStep
    solver : Picard or Anderson
        ``Picard(rtol=0, max_steps=k + 1)`` gives the point after k steps (it is tested too), and
        `Implicit` the adjoint's after k.

    Returns
    -------
    Gradient
    """
    A, injection = (M.detach().clone().requires_grad_() for M in (A, injection))
    # Weakly held: what was saved for a graph that is thrown away is not kept for the backward pass.
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(saved: Tensor) -> _Kept:
        # Detached: a node that holds its own output with its history would never be freed.
        kept.add(held := _Kept(saved.detach()))
        return held

    start = clock(A.device)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            X = equilibrium(A, injection, phi, solver=solver, adjoint=adjoint).value
        sizes = {held.tensor.untyped_storage().data_ptr(): held.tensor.untyped_storage().nbytes()
                 for held in kept}  # views of one storage count once
        # One step from zero is φ(b), in which A does not occur: its gradient is 0, not an error.
        dA, db = torch.autograd.grad(0.5 * (X - target).square().sum(), (A, injection),
                                     materialize_grads=True)
    seconds = clock(A.device) - start
    own = {M.untyped_storage().data_ptr() for M in (A, injection)}
    saved = sum(size for at, size in sizes.items() if at not in own)
    return Gradient(dA, db, saved, seconds)


def gradients_after(steps: Sequence[int], A: Tensor, injection: Tensor, target: Tensor,
                    phi: str = "relu", *, repeat: int = 1) -> dict[str, list[Gradient]]:
    """What each of `ADJOINTS` gives when solve and adjoint solve stop after k steps, k in steps.

    ``seconds`` is the shortest of ``repeat`` measurements, all of which are taken once before any
    is taken again: what else the machine does then spoils a few of each, not all of one.

    Parameters
    ----------
    steps : sequence of int
        Values of k.
    A : Tensor, shape (n, n)
    injection : Tensor, shape (m, n)
        U Bᵀ.
    target : Tensor, shape (m, n)
        What the loss compares the state with.
    phi : str
    repeat : int
        Measurements of each.
    """
    validation.integer("repeat", repeat)
    for k in steps:
        validation.integer("steps", k)
    rounds = [{name: [measure_gradient(A, injection, target, phi, adjoint,
                                       Picard(rtol=0.0, max_steps=k + 1))
                      for k in steps] for name, adjoint in ADJOINTS.items()}
              for _ in range(repeat)]
    return {name: [min(seen, key=lambda gradient: gradient.seconds)
                   for seen in zip(*(row[name] for row in rounds), strict=True)]
            for name in ADJOINTS}


def exact_gradient(A: Tensor, injection: Tensor, target: Tensor, phi: str = "relu") -> Gradient:
    """The gradient at the solution, to rounding.

    Parameters
    ----------
    A, injection, target, phi
        As for `gradients_after`.
    """
    tight = Anderson(rtol=1e-13)
    return measure_gradient(A, injection, target, phi, Implicit(tight), tight)


def relative_error(value: Tensor, exact: Tensor) -> float:
    """‖value − exact‖₂ / ‖exact‖₂ over all entries."""
    return float((value - exact).norm() / exact.norm())
