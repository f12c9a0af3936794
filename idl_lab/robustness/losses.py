"""Training for robustness: the size of S as a penalty, interval bounds in the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from idl_lab import validation
from idl_lab.equilibrium import equilibrium
from idl_lab.model import ImplicitModel
from idl_lab.networks.blocks import blockwise
from idl_lab.operators import dense
from idl_lab.robustness.attack import check_labels
from idl_lab.robustness.interval import doubled

_KEPT = ("scale", "row", "project", "perron", "triangular")  # constraints with λ_PF(|A|) < 1


def _matrices(model: ImplicitModel) -> tuple[Tensor, Tensor]:
    """A and B with their gradients, dense, of a contractive model."""
    if not isinstance(model, ImplicitModel):
        raise TypeError(f"model must be an ImplicitModel, got {type(model).__name__}.")
    if model.constraint not in _KEPT or model.activation.slope > 1:
        known = model.certificate()
        if model.activation.slope * known.perron.upper >= 1:
            raise ValueError(f"interval bounds and the sensitivity matrix need "
                             f"L·λ_PF(|A|) < 1: {known.sentence}")
    B = model.B if model.pattern_B is None else dense(model.pattern_B(model.free_B))
    return dense(model.operator()), B


def sensitivity_penalty(model: ImplicitModel) -> Tensor:
    """The mean over the outputs of Σ_j S_ij, S = |D| + |C|(I − L|A|)⁻¹L|B|; differentiable.

    So far does an output move at most, on average, where every input moves by 1. It is for
    ``fit(…, penalty=lambda: weight * sensitivity_penalty(model))``.

    Parameters
    ----------
    model : ImplicitModel

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    TypeError, ValueError
        If it is no ImplicitModel, or L·λ_PF(|A|) ≥ 1.
    """
    A, B = _matrices(model)
    L = model.activation.slope
    eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
    reach = torch.linalg.solve(eye - L * A.abs(), L * B.abs().sum(1))
    total = model.C.abs() @ reach
    return (total if model.D is None else total + model.D.abs().sum(1)).mean()


def interval_margins(model: ImplicitModel, U: Tensor, labels: Tensor, eps: float, *,
                     low: float = -math.inf, high: float = math.inf) -> Tensor:
    """Lower bounds of ŷ_label − ŷ_j over the box by interval propagation; differentiable.

    The bounds are the equilibrium of a model with 2n states, so their gradient is an adjoint
    fixed point too. They are those of `bounds` up to the solver's tolerance: for training, not
    for a certificate.

    Parameters
    ----------
    model : ImplicitModel
    U : Tensor, shape (m, p)
    labels : Tensor of int64, shape (m,)
    eps : float
        Radius ε ≥ 0 of the ∞-norm.
    low, high : float
        The range of the data, at which the box is cut.

    Returns
    -------
    Tensor, shape (m, q)
        0 for the label itself.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, L·λ_PF(|A|) ≥ 1, or φ does not increase.

    References
    ----------
    Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv 1810.12715; Wei
    and Kolter 2022, Certified robustness for deep equilibrium models via interval bound
    propagation, ICLR.
    """
    A, B = _matrices(model)
    validation.tensor("U", U, "m p", like=model.C, p=B.shape[1])
    check_labels(labels, len(U))
    validation.real("eps", eps, at_least=0.0)
    phi, n = model.activation, len(A)
    if not phi.increasing:
        raise ValueError(f"interval bounds in a loss need an increasing φ, got {phi.name!r}.")
    below, above = (U - eps).clamp(low, high), (U + eps).clamp(low, high)
    middle, half = (below + above) / 2, (above - below) / 2
    b = middle @ B.mT if model.state_bias is None else middle @ B.mT + model.state_bias
    reach = half @ B.abs().mT
    X = equilibrium(doubled(A), torch.cat([b - reach, b + reach], -1),
                    blockwise([(phi, n), (phi, n)])).value
    eye = torch.eye(len(model.C), dtype=U.dtype, device=U.device)
    J = eye[labels][:, None, :] - eye
    G = J @ model.C
    at, spread = (X[:, :n] + X[:, n:]) / 2, (X[:, n:] - X[:, :n]) / 2
    margin = (G @ at[:, :, None] - G.abs() @ spread[:, :, None])[:, :, 0]
    if model.D is not None:
        H = J @ model.D
        margin = margin + (H @ middle[:, :, None] - H.abs() @ half[:, :, None])[:, :, 0]
    return margin if model.output_bias is None else margin + J @ model.output_bias


def interval_loss(model: ImplicitModel, U: Tensor, labels: Tensor, eps: float, *,
                  low: float = -math.inf, high: float = math.inf) -> Tensor:
    """Cross-entropy of the worst scores that interval propagation leaves possible.

    An upper bound of the loss under every attack within ε. Mixed with the plain loss, and ε
    raised from 0 over the epochs, it trains models whose certificates come from intervals alone.

    Parameters
    ----------
    model, U, labels, eps, low, high
        As for `interval_margins`.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    TypeError, ValueError
        As `interval_margins`.
    """
    margin = interval_margins(model, U, labels, eps, low=low, high=high)
    return cross_entropy(-margin, labels)
