"""The exercises of this lab."""

from __future__ import annotations

from idl_lab.labs.kit.exercise import Verdict, hint, not_attempted, right_answer


def fastest_damping(answer: float, slope: float) -> Verdict:
    """Lab 01: the β for which x ← (1 − β)x + β(slope·x + u) is at its fastest."""
    if answer is ...:
        return not_attempted("a number in (0, 1]")
    try:
        beta = float(answer)
    except (TypeError, ValueError, RuntimeError):
        return hint(f"β is a number in (0, 1], got {answer!r}.")
    if not 0 < beta <= 1:
        return hint(f"β is in (0, 1], got {beta:g}.")
    factor = abs(1 - beta + beta * slope)
    if factor < 1e-3:
        return right_answer(f"The factor 1 − β + β·({slope:g}) vanishes: one step is enough.")
    verb = "shrinks" if factor < 1 else "grows"
    return hint(f"With β = {beta:g} the error {verb} by the factor {factor:.3g} a step. "
                 f"Write the factor as a function of β and make it as small as you can.")
