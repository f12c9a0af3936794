"""The exercises of lab 14."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal, random_matrix

# ---- one step -------------------------------------------------------------------------------


def _tanh_layer(draws: torch.Generator) -> tuple[Tensor, ...]:
    """W, u, the state z = tanh(Wz + u), and the loss's gradient there."""
    W, u = random_matrix(4, 0.8, generator=draws), normal(4, generator=draws)
    z = torch.zeros_like(u)
    for _ in range(200):
        z = torch.tanh(W @ z + u)
    return W, u, z, normal(4, generator=draws)


def _adjoint(J: Tensor, g: Tensor) -> Tensor:
    return torch.linalg.solve(torch.eye(len(J), dtype=J.dtype, device=J.device) - J.mT, g)


one_step = Exercise(
    inputs=_tanh_layer,
    right=lambda W, u, z, g: torch.outer((1 - z ** 2) * g, z),
    what="the one-step gradient of W",
    shape="It has the shape of W, (4, 4)",
    level=Level.WARM_UP,
    slips={
        "The slope is missing: tanh stands between Wz + u and the state.":
            lambda W, u, z, g: torch.outer(g, z),
        "Entry (i, j) of W takes z_j to component i: you have its transpose.":
            lambda W, u, z, g: torch.outer(z, (1 - z ** 2) * g),
        "That is the exact gradient, of w = (I − Jᵀ)⁻¹ g; one step has w = g.":
            lambda W, u, z, g: torch.outer(
                (1 - z ** 2) * _adjoint(_jacobian(W, z), g), z),
        "The derivative of tanh(a) is 1 − tanh(a)², and tanh(Wz + u) is z itself: its tanh is not "
        "taken once more.": lambda W, u, z, g: torch.outer((1 - torch.tanh(z) ** 2) * g, z),
    },
    hints=["One step holds z on the right side of z = tanh(Wz + u) fixed, and asks how the left "
           "side moves with W.",
           "The slope of tanh at Wz + u is 1 − z², so that component i has (1 − z_i²) g_i.",
           "Multiply that by z_j for entry (i, j)."],
    praise="No equation was solved for it.")

# ---- the size of a Jacobian -------------------------------------------------------------------


def _jacobian(W: Tensor, z: Tensor) -> Tensor:
    return (1 - z ** 2)[:, None] * W


def _probed(draws: torch.Generator) -> tuple[Tensor, ...]:
    W, u, z, _ = _tanh_layer(draws)
    return W, u, z, normal(3, 4, generator=draws)


frobenius = Exercise(
    inputs=_probed,
    right=lambda W, u, z, V: (V @ _jacobian(W, z)).square().sum(dim=1).mean(),
    what="the estimate of ‖J‖_F²",
    shape="One number is wanted",
    level=Level.DERIVE,
    slips={
        "The sum over the components and the mean over the probes: you took one for the other.":
            lambda W, u, z, V: (V @ _jacobian(W, z)).square().sum(dim=0).mean(),
        "That is the sum over the probes; each is an estimate, and their mean is wanted.":
            Partly(0.5, lambda W, u, z, V: (V @ _jacobian(W, z)).square().sum()),
        "J v is as good on average, since ‖J‖_F = ‖Jᵀ‖_F, but a backward pass gives Jᵀ v; take "
        "that.": Partly(0.5, lambda W, u, z, V: (
            V @ _jacobian(W, z).mT).square().sum(dim=1).mean()),
        "v·Jᵀv is on average the trace of J; ‖Jᵀv‖² is wanted.":
            lambda W, u, z, V: ((V @ _jacobian(W, z)) * V).sum(dim=1).mean(),
        "The slope is missing: J = ∂f/∂z is not W alone.":
            lambda W, u, z, V: (V @ W).square().sum(dim=1).mean(),
        "That is ‖J‖_F² itself, at the price of a whole Jacobian; the estimate by the probes in V "
        "is wanted.": lambda W, u, z, V: _jacobian(W, z).square().sum(),
    },
    hints=["For v with independent components of variance 1, E‖Jᵀv‖² = ‖J‖_F². Take the mean over "
           "the rows v of V.",
           "Jᵀv is one vector–Jacobian product: z = z.clone().requires_grad_(), then "
           "`torch.autograd.grad(torch.tanh(W @ z + u), z, v)[0]`.",
           "Square its components, sum them, and take the mean over the probes."],
    praise="One backward pass a probe, and in training one probe is enough.")

# ---- the phantom gradient -------------------------------------------------------------------


def _inputs(draws: torch.Generator) -> tuple[Tensor, Tensor, int, float]:
    J, g = (torch.rand(*shape, generator=draws, dtype=torch.float64, device="cpu")
            for shape in ((4, 4), (4,)))
    steps = int(torch.randint(3, 7, (), generator=draws, device="cpu"))
    return J / 4, g, steps, 0.3 + 0.1 * steps


def _sum(J: Tensor, g: Tensor, steps: int, beta: float, factor: float) -> Tensor:
    """factor · Σ over i < steps of ((1 − β) I + β Jᵀ)ⁱ g."""
    term = w = g
    for _ in range(steps - 1):
        term = (1 - beta) * term + beta * J.mT @ term
        w = w + term
    return factor * w


def _slip(change: Callable[..., tuple]) -> Callable[..., Tensor]:
    return lambda J, g, steps, beta: _sum(*change(J, g, steps, beta))


phantom = Exercise(
    inputs=_inputs,
    right=_slip(lambda J, g, k, beta: (J, g, k, beta, beta)),
    what="the phantom gradient",
    shape="It has the shape of g, (4,)",
    level=Level.DERIVE,
    slips={
        "The transpose is missing: a gradient goes backwards, through Jᵀ.":
            Partly(0.5, _slip(lambda J, g, k, beta: (J.mT, g, k, beta, beta))),
        "Each step adds β · (what came back to it): the factor β before the sum is missing.":
            Partly(0.5, _slip(lambda J, g, k, beta: (J, g, k, beta, 1.0))),
        "That is the Neumann series, β = 1: each step is damped, (1 − β) w + β Jᵀ w.":
            _slip(lambda J, g, k, beta: (J, g, k, 1.0, 1.0)),
        "One term too many: k steps give the powers 0 … k − 1.":
            _slip(lambda J, g, k, beta: (J, g, k + 1, beta, beta)),
        "One term is missing: k steps give the powers 0 … k − 1.":
            _slip(lambda J, g, k, beta: (J, g, k - 1, beta, beta)),
        "That is the exact w = (I − Jᵀ)⁻¹ g; the k-step sum is wanted.":
            lambda J, g, k, beta: _adjoint(J, g),
    },
    hints=[
        "Write one step as z′ = Mz + βu. What comes back to z, and what to u, if g comes back to "
        "z′?",
        "Mᵀg to z, with M = (1 − β)I + βJ, and βg to u. There are k such steps.",
        "Start with a term g and a sum 0; each step adds β · term to the sum, then "
        "term ← (1 − β) term + β Jᵀ term."],
    praise="With k → ∞ it is the exact gradient, whatever β is.")

# ---- does the iteration find it ---------------------------------------------------------------


def _rate(W: Tensor, z: Tensor, beta: float) -> Tensor:
    return (1 - beta + beta * torch.linalg.eigvals(_jacobian(W, z))).abs().max()


def _damped(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """A layer whose Jacobian's largest eigenvalues are a complex pair, and a damping."""
    beta, turn, *rest = torch.rand(5, generator=draws, dtype=torch.float64, device="cpu").tolist()
    basis = torch.eye(5, dtype=torch.float64, device="cpu") + normal(5, 5, generator=draws) / 4
    J = torch.diag(torch.tensor([-0.4, -0.4, *(0.5 - r for r in rest)], dtype=torch.float64,
                                device="cpu"))
    J[0, 1], J[1, 0] = 1.2 + turn, -1.2 - turn
    z = torch.tanh(normal(5, generator=draws) / 2)
    W = basis @ J @ torch.linalg.inv(basis) / (1 - z ** 2)[:, None]
    return W, z.atanh() - W @ z, z, 0.4 + 0.5 * beta


rate = Exercise(
    inputs=_damped,
    right=lambda W, u, z, beta: _rate(W, z, beta),
    what="the factor by which the error shrinks",
    shape="One number is wanted",
    level=Level.EXPERIMENT,
    slips={
        "That is the factor without damping, ρ.": lambda W, u, z, beta: _rate(W, z, 1.0),
        "Eigenvalues may be negative or complex: apply 1 − β + βλ to each before you take the "
        "absolute value.": Partly(0.5, lambda W, u, z, beta: 1 - beta + beta * _rate(W, z, 1.0)),
        "An eigenvalue has an imaginary part too.": lambda W, u, z, beta: (
            1 - beta + beta * torch.linalg.eigvals(_jacobian(W, z)).real).abs().max(),
        "The largest singular value bounds what one step may do; in the long run the eigenvalues "
        "decide.": lambda W, u, z, beta: torch.linalg.matrix_norm(
            (1 - beta) * torch.eye(len(z), dtype=z.dtype, device=z.device)
            + beta * _jacobian(W, z), 2),
    },
    hints=["Near the equilibrium the error e obeys e ← Me. What is M for z ← (1 − β)z + βf(z)?",
           "M = (1 − β)I + βJ, with J = ∂f/∂z at z. Its powers shrink like those of its largest "
           "eigenvalue.",
           "The largest |1 − β + βλ| over the eigenvalues λ of J, `torch.linalg.eigvals`."],
    praise="Below 1 the iteration finds this equilibrium from nearby, above 1 it leaves it. "
           "Forming J is for small layers; `radii` does it by products alone.")

# ---- a step that is safe ----------------------------------------------------------------------


def _monotone(draws: torch.Generator) -> tuple[Tensor]:
    """W = (1 − m) I − AᵀA + B − Bᵀ (Winston and Kolter 2020) with an m between 0.5 and 1.5."""
    m = 0.5 + torch.rand((), generator=draws, dtype=torch.float64, device="cpu")
    A, B = normal(5, 5, generator=draws) / 2, normal(5, 5, generator=draws)
    return ((1 - m) * torch.eye(5, dtype=A.dtype, device="cpu") - A.mT @ A + B - B.mT,)


def _modulus(W: Tensor) -> tuple[Tensor, Tensor]:
    """m and L of M = I − W: the least eigenvalue of its symmetric part, and ‖M‖₂."""
    M = torch.eye(len(W), dtype=W.dtype, device=W.device) - W
    return torch.linalg.eigvalsh((M + M.mT) / 2)[0], torch.linalg.matrix_norm(M, 2)


def _pair(of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    return lambda W: torch.stack(of(*_modulus(W)))


safe_step = Exercise(
    inputs=_monotone,
    right=_pair(lambda m, L: (m / L ** 2, (1 - m ** 2 / L ** 2).sqrt())),
    what="α and the factor",
    shape="Two numbers are wanted, as a tensor",
    level=Level.STRETCH,
    slips={
        "The bound 1 − 2αm + α²L² is of the square of a length: take its root.": Partly(
            2 / 3, _pair(lambda m, L: (m / L ** 2, 1 - m ** 2 / L ** 2))),
        "There 1 − 2αm + α²L² is 1 again: half of that α is the best.":
            _pair(lambda m, L: (2 * m / L ** 2, torch.ones_like(m))),
        "That is the best step where I − W is symmetric. This one is not, and may turn the error.":
            _pair(lambda m, L: (2 / (m + L), (L - m) / (L + m))),
        "A step of 1/L is safe for a symmetric I − W; one that turns the error needs a shorter.":
            _pair(lambda m, L: (1 / L, (2 - 2 * m / L).sqrt())),
    },
    hints=[
        "ReLU does not make distances longer, so only e − αMe counts, with M = I − W. Write out "
        "‖e − αMe‖².",
        "‖e‖² − 2α eᵀMe + α²‖Me‖², in which eᵀMe ≥ m‖e‖² with m the least eigenvalue of "
        "(M + Mᵀ)/2, and ‖Me‖ ≤ L‖e‖ with L = ‖M‖₂.",
        "So the factor's square is at most 1 − 2αm + α²L². Which α makes that smallest?"],
    praise="It contracts whatever else W is. `MonotoneConv2d` knows the two parts of its W apart, "
           "and may take longer steps.")

# ---- a guess --------------------------------------------------------------------------------

bounded_settles = Guess(
    what="\"yes\" or \"no\"",
    found="Does it converge for every s? {0}; you said {1}.")
