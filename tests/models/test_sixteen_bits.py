"""Models of 16 bits: every constraint × solver solves, learns and keeps its bound."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import draw

from idl_lab import ImplicitModel
from idl_lab.equilibrium import Implicit
from idl_lab.fixed_point import Anderson, Broyden, Newton, PeacemanRachford, Picard

CONSTRAINTS = {"scale": {}, "row": {}, "project": {}, "perron": {}, "triangular": {},
               "monotone": {}, "none": {"constraint": None}, "low rank": {"constraint": "row",
                                                                          "rank": 3}}
SOLVERS = [Picard(1e-5), Picard(1e-5, damping=0.7), Anderson(1e-5), Newton(1e-5), Broyden(1e-5),
           PeacemanRachford(1e-5)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_model_of_16_bits_is_that_of_32_rounded(name, solver, dtype):
    options = {"constraint": name, "kappa": 0.8, "bias": True, "solver": solver,
               "adjoint": Implicit(PeacemanRachford() if name == "monotone" else None),
               **CONSTRAINTS[name]}
    model = ImplicitModel(3, 2, 12, dtype=dtype, device="cpu", activation="relu",
                          generator=torch.Generator("cpu").manual_seed(0), **options)
    with torch.no_grad():
        for p in model._free():
            p.mul_(0.5 if name in ("none", "monotone") else 2.0)
    exact = copy.deepcopy(model).float()  # of the same numbers
    U, W = draw(1, 16, 3).to(dtype), draw(2, 16, 2)
    solution = model.equilibrium(U)
    assert solution.status.ok and solution.value.dtype == dtype
    size = float(exact.equilibrium(U.float()).value.detach().abs().max())
    room = 8 * torch.finfo(dtype).eps  # A and the injection are rounded too
    torch.testing.assert_close(solution.value.float(), exact.equilibrium(U.float()).value,
                               rtol=room, atol=room * size)
    (model(U).float() * W.float()).sum().backward()
    (exact(U.float()) * W.float()).sum().backward()
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        assert p.grad.dtype == dtype and p.grad.isfinite().all()
        assert (p.grad.float() - q.grad).norm() <= 0.1 * q.grad.norm() + 1e-3
    if name in ("scale", "row", "project", "low rank"):
        assert model.A.detach().double().abs().sum(dim=1).max() <= 0.8
