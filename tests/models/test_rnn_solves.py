"""The solves of a sequence: where they start, how often they are tested, and how they end."""

import numpy as np
import pytest
import torch
from helpers import draw, mat
from pretend_device import device_waits, pretend_device
from rnn_cases import cell_with, close, gradients

from idl_lab.equilibrium import Implicit, OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.rnn import recurrence as rnn
from idl_lab.unwatched import Unwatched

# ---- the warm start -------------------------------------------------------------------------


def spied(monkeypatch, cold=False):
    """Of every solve without a record: its sequences, and how often f is evaluated."""
    solves, find, evaluate = [], rnn.SimilarSolves.__call__, rnn.StateMap.__call__

    def spy(self, f, x=None):
        solves.append([len(f.b), 0])
        return find(self, f, None if cold else x)

    def counted(f, X):
        solves[-1][1] += 1
        return evaluate(f, X)

    monkeypatch.setattr(rnn.SimilarSolves, "__call__", spy)
    monkeypatch.setattr(rnn.StateMap, "__call__", counted)
    return solves


def slow_inputs():
    """A signal that changes little from step to step, as signals do."""
    t = np.linspace(0, 0.2, 40)
    return mat(np.stack([np.sin(3 * t), np.cos(2 * t)], axis=1)[None].repeat(2, axis=0))


def test_a_warm_start_changes_nothing_but_the_number_of_steps(monkeypatch):
    results, counts = [], []
    for cold in (False, True):
        with monkeypatch.context() as patch:
            solves = spied(patch, cold)
            cell = cell_with(kappa=0.95, solver=Picard(1e-10), constraint="row")
            outputs, h = cell(slow_inputs())
            counts.append([evaluations for _, evaluations in solves])
            results.append([outputs, h, *gradients(outputs.square().sum(), cell.parameters())])
    assert close(*results, atol=1e-7)
    warm, cold = counts
    assert len(warm) == len(cold) == 40 and warm[0] == cold[0]
    assert sum(warm) < 0.9 * sum(cold)


def test_a_constant_input_takes_hardly_a_step_in_the_end(monkeypatch):
    solves = spied(monkeypatch)
    cell_with(kappa=0.5, solver=Picard(1e-6))(torch.ones(1, 60, 2, device="cpu").double())
    assert solves[0][1] > 5 and solves[-1][1] == 2


def test_an_unrolled_gradient_starts_cold(monkeypatch):
    """Started at the solution it would see one step, and be a one-step gradient."""
    starts, solve = [], rnn.solve
    monkeypatch.setattr(rnn, "solve", lambda *a: starts.append(a[3]) or solve(*a))
    cell_with(adjoint=Unrolled())(draw(0, 2, 3, 2))
    assert starts == [None] * 3
    starts.clear()
    cell_with(adjoint=OneStep())(draw(0, 2, 3, 2))
    assert starts[0] is None and [s.shape for s in starts[1:]] == [(2, 5)] * 2


# ---- solves that are alike ------------------------------------------------------------------


def test_neighbouring_solves_are_tested_about_once(monkeypatch):
    tests, step = [], Picard.step
    monkeypatch.setattr(Picard, "step", lambda *a: tests.append(1) or step(*a))
    cell = cell_with(p=2, hidden=8, n=20, solver=Picard(1e-8))
    outputs, _ = cell(draw(0, 5, 100, 2))
    forward = len(tests)
    outputs.square().sum().backward()
    assert 100 <= forward < 150 and 100 <= len(tests) - forward < 150


@pytest.mark.parametrize("options", [{}, {"constraint": "row"}, {"bias": True}], ids=str)
def test_on_a_device_the_host_waits_once_a_time_step_each_way(options):
    with pretend_device() as device:
        cell = cell_with(hidden=8, n=20, solver=Picard(1e-8), **(options | {"device": device}))
        u = draw(0, 5, 50, 2).to(device)
        device_waits()
        outputs = cell(u)[0]
        assert 50 <= device_waits().total() <= 70
        outputs.square().sum().backward()
        assert 50 <= device_waits().total() <= 70


def test_unwatched_the_host_waits_for_nothing():
    """What `fit` captures: so many steps a solve, and who grows them reads the residuals later."""
    watch, cell = Unwatched(), cell_with()
    u = draw(0, 5, 6, 2)

    def found(cell, u):
        outputs = cell(u)[0]
        return outputs, *gradients(outputs.square().sum(), cell.parameters())

    wanted = found(cell, u)
    for _ in range(20):
        with watch.pass_through():
            seen = found(cell, u)
        if not (short := [k for k, worst in enumerate(watch.worst) if worst > 1]):
            break
        watch.grow(short)
    assert len(watch.steps) == 12 and close(seen, wanted)
    with pretend_device() as device:
        cell, u = cell_with(device=device), draw(0, 5, 6, 2).to(device)
        device_waits()
        with watch.pass_through():
            found(cell, u)
        assert not device_waits()


def jump(t):
    """Two inputs, tiny but for a thousandfold jump at one time."""
    u = draw(1, 3, 20, 2, scale=1e-3)
    u[:, t] *= 1e6
    return u


@pytest.mark.parametrize("u", [jump(0), jump(9), 0 * jump(5), slow_inputs()],
                         ids=["a jump at first", "a jump", "silence", "a slow signal"])
@pytest.mark.parametrize("solver", [Picard(1e-10), Picard(0.0, atol=1e-10), Anderson(1e-10),
                                    Picard(1e-10, damping=0.7)], ids=str)
def test_every_solve_is_within_its_tolerance(u, solver):
    """Whatever the solves before it took."""
    cell = cell_with(kappa=0.95, activation="tanh", solver=solver, bias=True)
    h = torch.zeros(len(u), 3, device="cpu", dtype=u.dtype)
    with torch.no_grad():
        for t, wanted in enumerate(cell(u)[0].unbind(dim=1)):
            h = cell.step(u[:, t], h)[0]
            assert torch.allclose(wanted, h, rtol=1e-7, atol=1e-9), t
            h = wanted


def test_solves_that_change_for_the_worse_end_as_any_other():
    """A cell whose state grows until its solves no longer converge."""
    cell = cell_with(constraint=None, activation="relu", solver=Picard(1e-6, max_steps=60))
    with torch.no_grad():
        cell.layer.A = torch.diag(mat([0.1, 0.1, 0.1, 0.1, 1.5]))
        cell.layer.B.zero_()[4, 0] = 1.0  # the last unit, which expands, sleeps until u > 0
    u = -torch.ones(2, 9, 2, device="cpu").double()
    u[:, 6] = 1.0
    with pytest.warns(ConvergenceWarning, match="solves of the time steps"):
        cell(u)


def test_only_live_sequences_are_solved(monkeypatch):
    solves = spied(monkeypatch)
    cell_with()(draw(14, 4, 5, 2), lengths=[2, 5, 2, 3])
    assert [sequences for sequences, _ in solves] == [4, 4, 2, 1, 1]


# ---- what goes wrong ------------------------------------------------------------------------


def test_adjoint_solves_that_stop_early_say_so_once():
    cell, u = cell_with(adjoint=Implicit(Picard(1e-12, max_steps=3))), draw(0, 2, 7, 2)
    outputs = cell(u)[0]
    with pytest.warns(ConvergenceWarning, match="7 solves of a backward pass over time") as caught:
        found = gradients(outputs.square().sum(), cell.parameters())
    assert len(caught) == 1 and "adjoint" in str(caught[0].message)
    assert all(g.isfinite().all() for g in found)


def test_a_gradient_that_is_not_finite_stays_with_its_sequence():
    cell, u = cell_with(activation="tanh"), draw(0, 3, 4, 2).requires_grad_()
    outputs = cell(u)[0]
    weights = torch.ones_like(outputs)
    weights[1, 2] = float("nan")
    (found,) = torch.autograd.grad(outputs, u, weights)
    (wanted,) = torch.autograd.grad(cell(u)[0].sum(), u)
    assert found[1, :3].isnan().all() and torch.allclose(found[[0, 2]], wanted[[0, 2]], atol=1e-10)
