"""The sensitivity matrix, Lipschitz constants, attacks and the losses that train for them."""

import math

import numpy as np
import pytest
import torch

from idl_lab import ImplicitModel
from idl_lab.robustness import (
    bounds,
    fgsm,
    interval_loss,
    interval_margins,
    lipschitz,
    pgd,
    sensitivity,
    sensitivity_attack,
    sensitivity_penalty,
    tightness,
)
from tests.helpers import draw
from tests.robustness_cases import KINDS, case, exactly

CONTRACTIVE = [kind for kind in KINDS if kind != "monotone"]


def positive() -> ImplicitModel:
    A, B, C, D = (draw(k, *shape).abs() for k, shape in enumerate([(5, 5), (5, 3), (2, 5), (2, 3)]))
    return ImplicitModel.from_matrices(0.9 * A / A.sum(1).max(), B, C, D, activation="identity")


def test_s_is_exact_for_a_positive_linear_model():
    model = positive()
    S = sensitivity(model)
    V = torch.eye(3, dtype=torch.float64)
    _, Y = exactly(model, torch.cat([V, 0 * V[:1]]))
    assert np.allclose(S.numpy(), (Y[:3] - Y[3]).T, rtol=1e-9)
    assert np.allclose(tightness(model, draw(0, 2, 3)).numpy(), 1, rtol=1e-9)
    assert lipschitz(model, math.inf) == pytest.approx(float(S.sum(1).max()))


@pytest.mark.parametrize("kind", CONTRACTIVE)
def test_s_is_never_violated(kind):
    for seed in range(5):
        model = case(kind, seed)
        S = sensitivity(model).numpy()
        U, V = draw(seed, 200, 4), draw(seed + 50, 200, 4)
        change = np.abs(exactly(model, U)[1] - exactly(model, V)[1])
        assert (change <= np.abs((U - V).numpy()) @ S.T + 1e-9).all()
        assert (tightness(model, U[:20]) <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_lipschitz_constants_hold(kind, norm):
    model = case(kind, 1)
    if kind == "monotone" and norm == 1:
        with pytest.raises(ValueError, match="norm=1 needs"):
            lipschitz(model, norm)
        return
    L = lipschitz(model, norm)
    U, V = draw(1, 300, 4), draw(2, 300, 4)
    V[::2] = U[::2] + 1e-3 * V[::2]
    change = np.linalg.norm(exactly(model, U)[1] - exactly(model, V)[1], norm, axis=1)
    assert (change <= L * np.linalg.norm((U - V).numpy(), norm, axis=1) + 1e-9).all()


def test_the_weighted_norm_is_below_the_product_of_three():
    for seed in range(5):
        model = case("monotone", seed)
        A, B, C, D = (T.detach().numpy() for T in (model.A, model.B, model.C, model.D))
        least = np.linalg.eigvalsh(np.eye(7) - (A + A.T) / 2)[0]
        product = np.linalg.norm(C, 2) * np.linalg.norm(B, 2) / least + np.linalg.norm(D, 2)
        assert lipschitz(model, 2) <= product * (1 + 1e-8)


def test_no_sensitivity_matrix_at_one():
    with pytest.raises(ValueError, match=r"λ_PF\(\|A\|\) < 1"):
        sensitivity(ImplicitModel.from_matrices(torch.eye(2), torch.eye(2), torch.eye(2)))
    with pytest.raises(ValueError, match=r"λ_PF\(\|A\|\) < 1"):
        sensitivity_penalty(case("monotone", 0))
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf"):
        lipschitz(case("row", 0), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.1, 1e-7, 0.0])
def test_attacks_stay_in_the_ball_and_the_range(dtype, eps):
    model = case("row", 0, dtype=dtype)
    U = (draw(0, 20, 4) * 0.3 + 0.5).clamp(0, 1).to(dtype)
    labels = model(U).argmax(1).detach()
    g = torch.Generator().manual_seed(0)
    options = dict(low=0.0, high=1.0)
    found = {"fgsm": fgsm(model, U, labels, eps, **options),
             "pgd": pgd(model, U, labels, eps, steps=5, restarts=2, generator=g, progress=False,
                        **options),
             "S": sensitivity_attack(model, U, labels, eps, 2, **options)}
    for name, V in found.items():
        assert V.dtype == dtype and V.min() >= 0 and V.max() <= 1, name
        assert (V.double() - U.double()).abs().max() <= eps, name
    assert ((found["S"] != U).sum(1) <= 2).all()
    W = pgd(model, U, labels, eps, norm=2, steps=5, restarts=2, generator=g, progress=False)
    assert (W.double() - U.double()).norm(dim=1).max() <= eps


def test_pgd_finds_the_worst_corner_of_a_linear_model():
    model = positive()
    U = draw(0, 5, 3)
    labels = model(U).argmax(1).detach()
    V = pgd(model, U, labels, 0.3, progress=False)
    W = fgsm(model, U, labels, 0.3)
    assert torch.allclose(V, W, atol=1e-6)  # of two classes the gradient is the same everywhere
    net = torch.nn.Linear(3, 2).double()  # any module
    assert pgd(net, U, labels, 0.3, norm=2, progress=False).shape == U.shape


def test_interval_margins_are_the_interval_bounds_and_differentiable():
    model, U = case("row", 0), draw(0, 3, 4)
    labels = torch.tensor([0, 2, 1])
    margin = interval_margins(model, U, labels, 0.05)
    assert (margin.gather(1, labels[:, None]) == 0).all()
    found = bounds(model, U, 0.05, method="interval", progress=False)
    assert torch.isfinite(found.lower).all()
    _, Y = exactly(model, U)
    Y = torch.as_tensor(Y)
    assert (margin <= Y.gather(1, labels[:, None]) - Y + 1e-6).all()
    assert torch.allclose(interval_margins(model, U, labels, 0.0),
                          Y.gather(1, labels[:, None]) - Y, atol=1e-4)
    loss = interval_loss(model, U, labels, 0.05) + 0.1 * sensitivity_penalty(model)
    loss.backward()
    h, entry = 1e-5, (0, 1)
    grad = float(model.free_A.grad[entry])
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            model.free_A[entry] += sign * h
            values.append(float(interval_loss(model, U, labels, 0.05)
                                + 0.1 * sensitivity_penalty(model)))
            model.free_A[entry] -= sign * h
    assert grad == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-2, abs=1e-4)


def test_the_penalty_is_the_mean_row_sum_of_s():
    for kind in CONTRACTIVE:
        model = case(kind, 0)
        assert float(sensitivity_penalty(model).detach()) == pytest.approx(
            float(sensitivity(model).sum(1).mean()), rel=1e-9)
