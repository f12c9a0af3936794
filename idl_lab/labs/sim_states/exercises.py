"""The exercises of this lab."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Verdict, given, hint, right_answer


def gram_objective(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Lab 07: ``answer(w, gram, cross, norm)`` is ½‖Φw − z‖² from ΦᵀΦ, Φᵀz and ‖z‖² alone."""
    generator = torch.Generator("cpu").manual_seed(0)
    Phi, z, w = (torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
                 for shape in ((9, 4), (9,), (4,)))
    gram, cross, norm = Phi.mT @ Phi, Phi.mT @ z, z @ z
    got = given(answer, (w, gram, cross, norm), "½‖Φw − z‖², written with gram, cross and norm")
    if isinstance(got, Verdict):
        return got
    one = isinstance(got, (int, float)) or (
        isinstance(got, Tensor) and got.numel() == 1 and not got.is_complex())
    if not one:
        shown = f"of shape {tuple(got.shape)}" if isinstance(got, Tensor) else repr(got)
        return hint(f"The misfit of one row is one real number, yours is {shown}.")
    value, wanted = float(got), float(0.5 * (Phi @ w - z).square().sum())
    square, linear = float(w @ gram @ w), float(w @ cross)

    def same(number: float) -> bool:
        return abs(value - number) <= 1e-6 * abs(number)

    if same(wanted):
        return right_answer("Three products instead of nine samples, or of a million.")
    if same(2 * wanted):
        return hint("That is ‖Φw − z‖²: the factor ½ is missing.")
    if same(wanted + 2 * linear):
        return hint("The sign of the middle term: (a − b)² = a² − 2ab + b².")
    if same(wanted + 0.5 * linear):
        return hint("The middle term of the square counts twice: (a − b)² = a² − 2ab + b².")
    if same(0.5 * square - linear):
        return hint("‖z‖² is missing: a constant, but without it this is not the misfit.")
    return hint("Expand ‖Φw − z‖² = (Φw − z)ᵀ(Φw − z) and find ΦᵀΦ, Φᵀz and zᵀz in it.")
