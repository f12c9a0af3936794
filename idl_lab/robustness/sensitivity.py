"""The sensitivity matrix of a model and its Lipschitz constants, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.model import ImplicitModel
from idl_lab.robustness.closed import Closed
from idl_lab.robustness.system import System, double


def sensitivity(model: ImplicitModel) -> Tensor:
    """S = |D| + |C|(I − L|A|)⁻¹L|B|, so that |ŷ(u) − ŷ(u′)| ≤ S|u − u′| component by component.

    L is the slope of φ. The matrix is rounded upwards: the inequality holds for what is returned.

    Parameters
    ----------
    model : ImplicitModel

    Returns
    -------
    Tensor, shape (q, p), float64

    Raises
    ------
    TypeError
        If it is no ImplicitModel.
    ValueError
        If L·λ_PF(|A|) ≥ 1: the series |A| + |A|² + … has no sum then.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3):930-958.
    """
    return _sensitivity(System.of(model))


def _sensitivity(system: System) -> Tensor:
    if not system.contractive:
        raise ValueError(f"the sensitivity matrix needs L·λ_PF(|A|) < 1 for (I − L|A|)⁻¹ to exist: "
                         f"{system.sentence}")
    S = system.D.abs() + system.C.abs() @ Closed(system).gain
    return S * (1 + 4 * sum(system.B.shape) * torch.finfo(S.dtype).eps)


@torch.no_grad()
def tightness(model: ImplicitModel, U: Tensor) -> Tensor:
    """What share of the sensitivity matrix's bound small changes of given inputs reach.

    For output i the largest Σ_j |∂ŷ_i/∂u_j| over the inputs, divided by Σ_j S_ij: 1 where the
    bound is attained. An output that no input moves has 1.

    Parameters
    ----------
    model : ImplicitModel
    U : Tensor, shape (m, p)

    Returns
    -------
    Tensor, shape (q,), float64

    Raises
    ------
    TypeError, ValueError
        As `sensitivity`; if U does not fit.
    """
    system = System.of(model)
    S = _sensitivity(system).sum(1)
    U = double(validation.tensor("U", U, "m p", p=system.B.shape[1])).to(S.device)
    slopes = system.phi.derivative(system.pre(system.state(U), U))
    most = torch.zeros_like(S)
    eye = torch.eye(len(system.A), dtype=S.dtype, device=S.device)
    for slope in slopes:
        inner = torch.linalg.solve(eye - slope[:, None] * system.A, slope[:, None] * system.B)
        most = torch.maximum(most, (system.D + system.C @ inner).abs().sum(1))
    return torch.where(S > 0, most / S, 1)


def lipschitz(model: ImplicitModel, norm: float = 2) -> float:
    """A Lipschitz constant of u ↦ ŷ in closed form, the smallest of those that exist.

    From the sensitivity matrix ‖S‖ in the given norm. Of a monotone model in the 2-norm, with
    S = I/L − (A + Aᵀ)/2, ½‖CS⁻¹B + 2D‖ + ½‖CS^{-½}‖‖S^{-½}B‖: S weighs both factors, which the
    product ‖C‖‖B‖ over the least eigenvalue of S takes apart, and half of it is without norms
    between. In the ∞-norm the same row by row.

    Parameters
    ----------
    model : ImplicitModel
    norm : float
        1, 2 or ∞, for inputs and outputs alike.

    Raises
    ------
    TypeError
        If it is no ImplicitModel.
    ValueError
        If the norm is another, or there is no closed form for the model.

    References
    ----------
    Pabbaraju, Winston, Kolter 2021, Estimating Lipschitz constants of monotone deep equilibrium
    models, ICLR.
    """
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm must be 1, 2 or inf, got {norm!r}.")
    system = System.of(model)
    closed, found = Closed(system), []
    if system.contractive:
        found.append(float(torch.linalg.matrix_norm(_sensitivity(system), norm)))
    if system.monotone and norm != 1:
        found.append(closed.lipschitz(norm))
    if not found:
        raise ValueError(f"norm=1 needs L·λ_PF(|A|) < 1: {system.sentence} "
                         f"norm=2 and norm=inf have a closed form for monotone models.")
    return min(found) * (1 + 1e-9)
