"""The exercises of this lab."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from idl_lab.labs.kit.exercise import Verdict, hint, not_attempted, right_answer


def target_practice(answer: Mapping[str, object], measure: Callable[..., Mapping[str, float]], *,
                    accuracy: float, loop: float) -> Verdict:
    """Lab 05: options for which ``measure(**answer)`` meets both targets, with κ ≥ 0.5."""
    if answer is ...:
        return not_attempted("a dictionary of options")
    if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
        return hint(f"Options are a dictionary such as dict(n=30, tol=1e-3), got {answer!r}.")
    kappa = answer.get("kappa", 0.5)
    if isinstance(kappa, (int, float)) and kappa < 0.5:
        return hint("Keep κ ≥ 0.5: with less there is hardly a loop left to be paid for.")
    try:
        got = measure(**answer)
    except Exception as error:  # the reader's own options: say what was said of them
        return hint(f"These options raised {type(error).__name__}: {error}")
    said = f"accuracy {got['accuracy']:.3f}, {got['loop']:,.0f} multiply-adds in the loop"
    if got["accuracy"] < accuracy and got["loop"] > loop:
        return hint(f"{said}: neither the accuracy of {accuracy:.3f} nor the {loop:,.0f} is met.")
    if got["loop"] > loop:
        return hint(f"{said}, at most {loop:,.0f} are wanted. The loop costs steps × n², or "
                     f"steps × 2nr: which of these do the figures let you cut for nothing?")
    if got["accuracy"] < accuracy:
        return hint(f"{said}, at least {accuracy:.3f} is wanted: you have cut where it hurts.")
    return right_answer(f"{said}.")
