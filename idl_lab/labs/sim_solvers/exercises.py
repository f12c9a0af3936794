"""The exercises of this lab."""

from __future__ import annotations

from idl_lab.labs.kit.exercise import Verdict, hint, not_attempted, right_answer
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver


def own_solver(answer: type[BaseSolver], problem: Problem, *, optimum: float, within: float,
               steps: int) -> Verdict:
    """Lab 08: ``answer(max_steps=)`` comes within that share of the optimum in so many steps."""
    if answer is ...:
        return not_attempted("a subclass of BaseSolver")
    if not (isinstance(answer, type) and issubclass(answer, BaseSolver)):
        return hint(f"That is no subclass of BaseSolver but {answer!r}.")
    try:
        solver = answer(max_steps=steps, check_every=max(steps // 20, 1), device="cpu",
                        progress=False)
        found = solver.solve(problem)
    except Exception as error:
        return hint(f"It raises {type(error).__name__}: {error}")
    if bool((problem.violation(found.W) > 0).any()):
        return hint("Its answer is not in the ball: do not turn honours_kappa off.")
    above = float(found.stats.objective.sum()) / optimum - 1
    if not above <= within:  # NaN too
        return hint(f"After {found.stats.steps} steps the objective is {above:.0%} above the "
                     f"optimum; the aim is {within:.0%}. Does the next step start beyond W, in the "
                     f"direction in which W moved, and ever further?")
    return right_answer(f"{found.stats.steps} steps end {above:.1%} above the optimum.")
