"""Three ways to differentiate the equilibrium."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.equilibrium import OneStep, equilibrium
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.implicit_gradients.plots import (
    draw_adjoint,
    draw_gradient_cosines,
    draw_gradient_costs,
    draw_gradient_directions,
    draw_gradient_errors,
    draw_gradient_memory,
    draw_gradients,
    draw_tangents,
)
from idl_lab.labs.implicit_gradients.problems import (
    LISTENERS,
    exact_gradient,
    gradient_problem,
    gradients_after,
    measure_gradient,
    relative_error,
)
from idl_lab.labs.kit.problems import generator

STEPS = (1, 2, 4, 8, 16, 32, 64)


def _gradients(listens: str = "all", n: int = 12, samples: int = 3, repeat: int = 1
               ) -> tuple[Tensor, dict, dict]:
    """The exact gradient; each adjoint's after `STEPS` steps, and their errors; κ = 0.7."""
    problem = gradient_problem(n, 0.7, listens, samples=samples, generator=generator())
    exact = exact_gradient(*problem).injection
    seen = gradients_after(STEPS, *problem, repeat=repeat)
    return exact, seen, {name: [relative_error(g.injection, exact) for g in row]
                         for name, row in seen.items()}


def _saved(seen: dict) -> dict:
    return {name: [g.saved for g in row] for name, row in seen.items()}


def adjoint() -> Figure:
    """The adjoint vector of one sample, term by term."""
    A, b, T = gradient_problem(12, 0.7, "all", "tanh", generator=generator())
    X = equilibrium(A, b, "tanh", solver=Anderson(1e-13)).value[0]
    terms, slopes = [X - T[0]], 1 - X**2
    for _ in range(3):
        terms.append(A.T @ (slopes * terms[-1]))
    eye = torch.eye(12, dtype=A.dtype, device=A.device)
    return draw_adjoint(torch.stack(terms),
                        torch.linalg.solve(eye - (slopes[:, None] * A).T, terms[0]))


def gradient_errors() -> Figure:
    """Two errors fall at the rate κ, one stands."""
    return draw_gradient_errors(STEPS, _gradients()[2])


def gradient_directions() -> Figure:
    """All states listen to one: after 64 steps the one-step gradient points uphill."""
    exact, seen, _ = _gradients("hub")
    return draw_gradient_directions(exact, {k: row[-1].injection for k, row in seen.items()})


def gradient_memory() -> Figure:
    """Only unrolling keeps more with every step."""
    return draw_gradient_memory(STEPS, _saved(_gradients()[1]))


def gradient_costs() -> Figure:
    """The same beside the time, measured anew, so this picture is another in every run."""
    _, seen, _ = _gradients(n=100, samples=64, repeat=5)
    return draw_gradient_costs(STEPS, _saved(seen), {
        name: [g.seconds for g in row] for name, row in seen.items()})


def gradients() -> Figure:
    """Error, direction and memory at k = 8."""
    exact, seen, errors = _gradients("hub")
    here = {name: row[STEPS.index(8)].injection for name, row in seen.items()}
    return draw_gradients(STEPS, errors, exact, here, _saved(seen), 8)


def gradient_cosines() -> Figure:
    """One-step against exact, two families of matrices."""
    kappas, cosines = [0.05 * k for k in range(20)], {name: [] for name in LISTENERS}
    for listens in LISTENERS:
        for kappa in kappas:
            problem = gradient_problem(12, kappa, listens, generator=generator())
            once = measure_gradient(*problem, adjoint=OneStep(), solver=Anderson(1e-13))
            cosines[listens].append(float(torch.cosine_similarity(
                exact_gradient(*problem).injection.flatten(), once.injection.flatten(), dim=0)))
    return draw_gradient_cosines(kappas, {f"listens to {k}": c for k, c in cosines.items()})


def tangents() -> Figure:
    """x = max(0, x/2 + b) and three difference quotients at its kink."""
    def solve(b: Tensor) -> Tensor:
        half = torch.full((1, 1), 0.5, dtype=b.dtype, device=b.device)
        return equilibrium(half, b[:, None], solver=Picard(1e-13)).value[:, 0]

    b, h = torch.linspace(-1, 1, 41, dtype=torch.float64, device="cpu"), 1e-3
    low, at, high = solve(torch.tensor([-h, 0, h], dtype=b.dtype, device=b.device)).tolist()
    slopes = {"backward": (at - low) / h, "central": (high - low) / (2 * h),
              "forward": (high - at) / h}
    return draw_tangents(b, solve(b), {f"{name} difference: slope {slope:.3g}": (0, at, slope)
                                       for name, slope in slopes.items()},
                         xlabel="b", name="x = max(0, x/2 + b)")


GALLERY = (gradients, adjoint, gradient_errors, gradient_directions, gradient_memory,
           gradient_costs, gradient_cosines, tangents)
