"""The exercise of lab 02."""

from __future__ import annotations

import torch

from idl_lab.labs.kit.exercise import Example
from idl_lab.well_posedness import inf_norm, perron_frobenius


def _look(answer: object) -> dict:
    A = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    if A.shape != (2, 2) or not torch.isfinite(A).all():
        raise ValueError(f"A is a 2 × 2 matrix of finite numbers, yours has shape "
                         f"{tuple(A.shape)}.")
    return {"A": A, "norm": float(inf_norm(A)), "pf": perron_frobenius(A).upper}


norm_without_need = Example(
    look=_look,
    conditions=[
        (lambda found: bool((found["A"] != 0).all()),
         "No entry may be zero: that would be too easy."),
        (lambda found: found["norm"] > 2, "‖A‖∞ is {0[norm]:.3g}; it must exceed 2."),
        (lambda found: found["pf"] < 1,
         "λ_PF(|A|) is {0[pf]:.3g}, not below 1. The off-diagonal entries enter it only through "
         "their product."),
    ],
    what="a 2 × 2 matrix",
    praise="‖A‖∞ = {0[norm]:.3g} but λ_PF(|A|) = {0[pf]:.3g}: well-posed all the same.",
    right=[[0.1, 3.0], [0.1, 0.1]],
    slips={"No entry may be zero": [[0.0, 3.0], [0.0, 0.0]], "it must exceed 2": [[0.1, 0.1]] * 2,
           "not below 1": [[2.0, 2.0], [2.0, 2.0]], "of finite numbers": [1.0, 2.0]})
