"""Whoever lets this package work in his place is found out; whoever works himself is not."""

from __future__ import annotations

import cProfile
import functools
import operator
import sys
import types
from unittest import mock

import pytest
import torch

import idl_lab.sim.solvers.base as sim_base
from idl_lab import constraints, well_posedness
from idl_lab import perron as another_module
from idl_lab.fixed_point import Picard
from idl_lab.labs import check
from idl_lab.labs.kit.watch import lent, watched
from idl_lab.sim.solvers import ADMMSolver

RIGHT = check.well_posedness.project_row.exercise.right


def project(v, kappa):
    """The reader's own, by bisection."""
    low, high = 0.0, float(v.abs().max())
    for _ in range(60):
        theta = (low + high) / 2
        low, high = (theta, high) if (v.abs() - theta).clamp_min(0).sum() > kappa else (low, theta)
    return v if v.abs().sum() <= kappa else v.sign() * (v.abs() - high).clamp_min(0)


def by_class(v, kappa):
    class Mine(constraints.Project):
        pass

    return Mine(kappa)(v[None])[0]


class Called:
    __call__ = staticmethod(RIGHT)


class Bound:
    def __init__(self, inner):
        self.inner = inner

    def work(self, v, kappa):
        return self.inner(v, kappa)


def alias(v, kappa, P=constraints.Project):
    return P(kappa)(v[None])[0]


def through_vmap(v, kappa):
    return torch.func.vmap(lambda row: RIGHT(row, kappa), randomness="error")(v[None])[0]


def caught(v, kappa):
    try:
        return RIGHT(v, kappa)
    except Exception:
        return project(v, kappa)


CHEATS = {
    "the checker's own": RIGHT,
    "a lambda": lambda v, kappa: RIGHT(v, kappa),
    "looked up": lambda v, kappa: check.well_posedness.project_row.exercise.right(v, kappa),
    "a partial": functools.partial(RIGHT),
    "a partial of a partial": functools.partial(functools.partial(RIGHT)),
    "a cache": functools.cache(RIGHT),
    "torch's decorator": torch.no_grad()(RIGHT),
    "a copied code object": types.FunctionType(RIGHT.__code__, RIGHT.__globals__),
    "a method made of it": types.MethodType(lambda self, *given: RIGHT(*given), object()),
    "an object that is called": Called(),
    "a bound method": Bound(RIGHT).work,
    "a subclass of the library's": by_class,
    "an alias": alias,
    "an object of the library's": lambda v, kappa: constraints.Project(kappa)(v[None])[0],
    "through torch": through_vmap,
    "behind a list": lambda v, kappa: list(map(lambda row: RIGHT(row, kappa), [v]))[0],
    "by operator": lambda v, kappa: operator.call(RIGHT, v, kappa),
    "in a try": caught,
}


@pytest.mark.parametrize("answer", CHEATS.values(), ids=CHEATS)
def test_what_lets_the_library_work_earns_nothing(answer):
    if answer not in (CHEATS["a cache"], CHEATS["through torch"]):
        assert check.well_posedness.project_row.exercise(answer).right  # no other fault
    verdict = check.well_posedness.project_row.judged(answer)
    assert not verdict.right and verdict.points == 0
    if answer is not CHEATS["through torch"]:
        assert "of the library work: write it yourself" in verdict.sentence


@pytest.mark.parametrize("answer", [
    project, functools.partial(project), torch.no_grad()(project), Bound(project).work,
    lambda v, kappa: project(v, kappa),
    type("Mine", (), {"__call__": lambda self, v, kappa: project(v, kappa)})(),
], ids=range(6))
def test_ones_own_work_counts_however_it_is_wrapped(answer):
    assert check.well_posedness.project_row.judged(answer).points == 3


def test_the_same_function_through_another_module_is_found():
    def bounds(A, v):
        found = another_module.perron_root  # of lab 02's library function, by another way
        found(A.abs())
        ratios = A.abs() @ v / v
        return torch.stack([ratios.min(), ratios.max()])

    verdict = check.well_posedness.collatz_wielandt.judged(bounds)
    assert not verdict.right and "of the library work" in verdict.sentence


# ---- what an answer may use -------------------------------------------------------------------

@pytest.mark.parametrize(("uses", "borrows"), [
    ((), True),
    (("idl_lab.perron",), True),
    (("idl_lab.well_posed",), True),  # the beginning of a name is another name
    (("idl_lab.perron", "idl_lab.well_posedness"), False),
    (("idl_lab",), False),
])
def test_tools_may_be_used_where_the_exercise_says_so(uses, borrows):
    with watched(uses) as found:
        (lambda A: well_posedness.inf_norm(A))(torch.eye(2, device="cpu"))
    assert bool(found) == borrows
    assert bool(lent(well_posedness.inf_norm, uses)) == borrows


@pytest.mark.parametrize(("answer", "is_"), [
    (Picard, True), (type("Mine", (Picard,), {}), True),
    (type("Mine", (sim_base.BaseSolver,), {"iterates": project}), False),  # a form, filled in
    (type("Mine", (ADMMSolver,), {"iterates": project}), False),  # and what is not its core
    (type("Mine", (ADMMSolver,), {}), True), (ADMMSolver, True),
    (type("Mine", (sim_base.BaseSolver,), {"iterates": ADMMSolver.iterates}), True),
    (type("Mine", (type("Between", (ADMMSolver,), {}),), {}), True),
    (type("Mine", (sim_base.BaseSolver,), {}), True),  # abstract still: nothing is its own
    (torch.nn.Linear, False), (int, False), (type("Mine", (), {}), False),
    (Picard(), False), (torch.ones(2, device="cpu"), False), (None, False), (mock.Mock(), False),
    (mock.MagicMock(), False), (len, False), (torch.relu, False),
], ids=lambda value: getattr(value, "__name__", type(value).__name__))
def test_whose_a_thing_is(answer, is_):
    assert bool(lent(answer)) == is_


def test_looking_at_an_answer_raises_nothing():
    class Rude:
        def __getattr__(self, name):
            raise ValueError(name)

    nested = project
    for _ in range(20):
        nested = functools.partial(nested)
    itself = Bound(project)
    itself.__wrapped__ = itself.__call__ = itself
    assert lent(Rude()) == lent(nested) == lent(itself) == ""


def test_the_readers_own_profiler_is_given_back():
    def profiler(*given):
        return None

    sys.setprofile(profiler)
    try:
        with watched():
            assert sys.getprofile() is not profiler
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_an_answer_may_be_judged_under_prun():
    profile = cProfile.Profile()
    profile.enable()
    try:
        with watched(()):
            answer = project(torch.ones(3), 1.0)
        project(torch.ones(3), 2.0)
    finally:
        profile.disable()
    assert len(answer) == 3 and sys.getprofile() is None
    assert "project" in {entry.code.co_name for entry in profile.getstats()
                         if not isinstance(entry.code, str)}
