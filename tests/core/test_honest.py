"""What a solve says of itself is true, and what it cannot give it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import draw, mat, rejects

from idl_lab import ImplicitModel
from idl_lab.equilibrium import Implicit, equilibrium
from idl_lab.fixed_point import Anderson, Broyden, PeacemanRachford, Picard
from idl_lab.fixed_point.solution import ConvergenceError, ConvergenceWarning, Status


def expansive(seed=0, n=12, skew=20.0):
    """A with (A + Aᵀ)/2 ⪯ 0.5 I and ‖A‖∞ of some 50."""
    K, P = skew * draw(seed, n, n), draw(seed + 1, n, n)
    return 0.5 * torch.eye(n).double() - 0.1 * P.mT @ P + (K - K.mT) / 4


@pytest.mark.parametrize("phi", ["relu", "tanh"])
@pytest.mark.parametrize("solver", [PeacemanRachford(1e-7), PeacemanRachford(1e-7, damping=0.5)],
                         ids=repr)
def test_the_residual_of_an_expansive_map_is_that_of_the_value(phi, solver):
    A, b = expansive(), draw(2, 7, 12)
    assert A.abs().sum(1).max() > 29
    s = equilibrium(A, b, phi, solver=solver)
    true = (getattr(torch, phi)(s.value @ A.mT + b) - s.value).abs().amax(1)
    torch.testing.assert_close(s.stats.residual, true, rtol=1e-6, atol=1e-13)
    assert s.status is Status.CONVERGED and (true <= 1e-7 * s.value.abs().amax(1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_solver_of_a_monotone_model_of_norm_150_ends_well(dtype):
    model = ImplicitModel(5, 3, 60, constraint="monotone", kappa=0.9, dtype=dtype, device="cpu",
                          generator=torch.Generator("cpu").manual_seed(0))
    with torch.no_grad():
        model.free_A *= 6.5
    assert 100 < model.A.abs().sum(1).max() < 250
    model(draw(3, 16, 5).to(dtype)).square().sum().backward()  # warnings are errors
    assert model.free_A.grad.isfinite().all()


@pytest.mark.parametrize("solver", [Broyden(), Picard(max_steps=500), Anderson(max_steps=500)],
                         ids=repr)
def test_an_adjoint_solver_that_diverges_is_refused(solver):
    A = expansive().requires_grad_()
    s = equilibrium(A, draw(2, 7, 12), solver=PeacemanRachford(1e-9), adjoint=Implicit(solver))
    rejects(lambda: s.value.sum().backward(), ConvergenceError, "adjoint solve diverged",
            "PeacemanRachford()")


def test_a_solve_drowned_in_rounding_says_so():
    """A nilpotent A whose powers grow to 1e16 before they vanish: float32 has no digit left."""
    n, rng = 30, np.random.default_rng(0)
    A = mat(np.triu(rng.normal(size=(n, n)) * 4, 1))
    wanted = mat(rng.normal(size=(3, n)))
    b = wanted - wanted @ A.mT
    with pytest.warns(ConvergenceWarning, match="rounding"):
        s = equilibrium(A.float(), b.float(), "identity", solver=Picard(1e-5))
    assert s.status is Status.ILL_CONDITIONED and not s.status.ok
    assert (s.value.double() - wanted).abs().max() > wanted.abs().max()
    fine = equilibrium(A / 60, wanted - wanted @ A.mT / 60, "identity", solver=Picard(1e-10))
    assert fine.status is Status.CONVERGED
    torch.testing.assert_close(fine.value, wanted, rtol=1e-8, atol=1e-8)


def test_a_training_step_sees_what_drowns_as_the_first_one_did():
    """Steps that are not tested would hide the size that the numbers had on the way."""
    rng = np.random.default_rng(0)
    A = mat(np.triu(rng.normal(size=(30, 30)) * 4, 1))
    wanted = mat(rng.normal(size=(3, 30)))
    B = (wanted - wanted @ A.mT).mT.contiguous()
    model = ImplicitModel.from_matrices(A, B, A[:2], activation="identity",
                                        solver=Picard(1e-5)).float()
    for _ in range(3):
        with pytest.warns(ConvergenceWarning, match="rounding"):
            model.equilibrium(torch.eye(3, device="cpu")).value.sum().backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("name", ["B", "state_bias", "free_A", "U"])
def test_a_number_that_is_not_finite_is_named(name, activation, bad):
    model = ImplicitModel(3, 2, 5, activation=activation, bias=True, constraint=None,
                          dtype=torch.float64, device="cpu",
                          generator=torch.Generator("cpu").manual_seed(0))
    U = draw(4, 6, 3)
    with torch.no_grad():
        (U if name == "U" else getattr(model, name)).view(-1)[0] = bad
    for call in (model, model.equilibrium):
        rejects(lambda call=call: call(U), ValueError, f"{name.removeprefix('free_')} must be",
                "finite", "1 NaN or infinite")


@pytest.mark.parametrize("size", [1e-7, 1e-5, 1.0, 1e5])
def test_inputs_of_any_size_are_solved_to_the_same_digits(size):
    model = ImplicitModel(3, 2, 20, kappa=0.95, dtype=torch.float64, device="cpu",
                          generator=torch.Generator("cpu").manual_seed(0))
    U = draw(5, 6, 3)
    exact = model.equilibrium(U).value  # bias-free relu: positively homogeneous
    torch.testing.assert_close(model.equilibrium(size * U).value / size, exact, rtol=1e-9, atol=0)
