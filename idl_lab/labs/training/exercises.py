"""The exercise of lab 05."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from idl_lab.labs.kit.exercise import Example


def _look(answer: object, measure: Callable[..., Mapping[str, float]], *, accuracy: float,
          loop: float) -> dict[str, float]:
    """What ``measure(**answer)`` finds, beside the accuracy and the work that are aimed at."""
    if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
        raise TypeError(f"Options are a dictionary such as dict(n=30, rtol=1e-3), got {answer!r}.")
    kappa = answer.get("kappa", 0.5)
    if isinstance(kappa, (int, float)) and kappa < 0.5:
        raise ValueError("Keep κ ≥ 0.5: with less there is hardly a loop left to be paid for.")
    found = measure(**answer)
    return {"accuracy": found["accuracy"], "loop": found["loop"],
            "least": accuracy, "most": loop}


_SAID = "accuracy {0[accuracy]:.3f}, {0[loop]:,.0f} multiply-adds in the loop"

target_practice = Example(
    look=_look,
    conditions=[
        (lambda found: found["accuracy"] >= found["least"] or found["loop"] <= found["most"],
         _SAID + ": neither the accuracy of {0[least]:.3f} nor the {0[most]:,.0f} is met."),
        (lambda found: found["loop"] <= found["most"],
         _SAID + ", at most {0[most]:,.0f} are wanted. The loop costs steps × n², or steps × 2nr: "
                 "which of these do the figures let you cut for nothing?"),
        (lambda found: found["accuracy"] >= found["least"],
         _SAID + ", at least {0[least]:.3f} is wanted: you have cut where it hurts."),
    ],
    what="a dictionary of options",
    praise=_SAID + ".",
    right={"n": 20, "kappa": 0.5},
    slips={"Options are a dictionary": {3: 4}, "Keep κ ≥ 0.5": {"kappa": 0.4},
           "unexpected keyword": {"kapa": 0.5},
           "at most 4,000 are wanted": {}, "cut where it hurts": {"n": 10},
           "neither the accuracy of 0.920 nor the 4,000 is met": {"n": 21, "bad": 0.1, "kappa": 2}},
    # In the lab these are measured; here accuracy and work are a formula of the options.
    options={"measure": lambda n=40, kappa=0.9, bad=0.0: {"accuracy": 0.9 + n / 1000 - bad,
                                                          "loop": 10 * n * n * kappa},
             "accuracy": 0.92, "loop": 4000})
