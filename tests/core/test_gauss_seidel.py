"""Block Gauss–Seidel sweeps against Picard, and exact in one where A is triangular."""

import pytest
import torch
from helpers import draw, rejects, unrolled
from torch import nn

from idl_lab import ImplicitModel
from idl_lab.equilibrium import Implicit, Unrolled, equilibrium
from idl_lab.fixed_point import GaussSeidel, Picard, fixed_point
from idl_lab.fixed_point.solution import Status
from idl_lab.operators import LowRank
from idl_lab.sparse import Layout, Sparse
from idl_lab.state_map import StateMap

BLOCKS = (2, 3, 1)


def sparse(M):
    row, col = M.nonzero().unbind(1)
    crow = torch.bincount(row + 1, minlength=len(M) + 1).cumsum(0)
    return Layout(crow, col, tuple(M.shape)).tensor(M[row, col])


def layered(flip=False):
    """Strictly block-triangular, with rows that sum to far more than one."""
    M, start = torch.zeros(6, 6, dtype=torch.float64), 0
    for size in BLOCKS:
        M[start:start + size, start + size:] = 3 * draw(start, size, 6 - start - size)
        start += size
    return M.mT.contiguous() if flip else M


@pytest.mark.parametrize("phi", ["relu", "tanh"])
@pytest.mark.parametrize("flip", [False, True])
def test_one_sweep_solves_a_triangular_equation(flip, phi):
    A, b = layered(flip), draw(9, 4, 6)
    solution = equilibrium(sparse(A), b, phi, solver=GaussSeidel(blocks=BLOCKS))
    assert solution.stats.steps == 1 and solution.status is Status.CONVERGED
    wanted = unrolled(A.numpy(), b.numpy(), phi, 10)
    assert solution.value.numpy() == pytest.approx(wanted, abs=1e-12)
    # The residual is said to be nothing, since every row was evaluated at the states returned.
    again = equilibrium(sparse(A), b, phi, X0=solution.value, solver=Picard(rtol=1e-14))
    assert torch.allclose(again.value, solution.value, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["dense", "sparse", "low rank"])
@pytest.mark.parametrize("damping", [1.0, 0.7])
def test_other_matrices_take_more_sweeps_but_fewer_than_picards_steps(kind, damping):
    L, R, b = draw(0, 6, 3), draw(1, 6, 3), draw(2, 4, 6)
    scale = 0.95 / (L @ R.mT).abs().sum(1).max()
    A = scale * L @ R.mT
    given = {"dense": A, "sparse": sparse(A), "low rank": LowRank(scale * L, R)}[kind]
    solver = GaussSeidel(1e-12, blocks=BLOCKS, damping=damping)
    solution = equilibrium(given, b, "tanh", solver=solver)
    wanted = equilibrium(A, b, "tanh", solver=Picard(1e-13))
    assert torch.allclose(solution.value, wanted.value, atol=1e-10)
    if damping == 1:
        assert solution.stats.steps / 2 < wanted.stats.steps


@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled(), Implicit(Picard(1e-13))])
@pytest.mark.parametrize("triangular", [False, True])
def test_gradients(adjoint, triangular):
    A = layered() if triangular else 0.9 * draw(0, 6, 6) / draw(0, 6, 6).abs().sum(1).max()
    b, W, results = draw(2, 4, 6), draw(3, 4, 6), []
    for solver, how, as_sparse in ((GaussSeidel(1e-13, blocks=BLOCKS), adjoint, True),
                                   (Picard(1e-13), Implicit(), False)):
        M, v = (sparse(A) if as_sparse else A).clone().requires_grad_(), b.clone().requires_grad_()
        (equilibrium(M, v, "tanh", solver=solver, adjoint=how).value * W).sum().backward()
        results.append((M.grad.to_dense() * (A != 0), v.grad))
    for got, wanted in zip(*results, strict=True):
        assert torch.allclose(got, wanted, atol=1e-10)


def test_a_network_read_off_is_solved_in_one_sweep_forward_and_back(monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Tanh(),
                        nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    model = ImplicitModel.from_network(net, (1, 10, 10))
    assert model.solver == GaussSeidel(blocks=(5, 72, 128))
    evaluations, call = [], StateMap.__call__
    monkeypatch.setattr(StateMap, "__call__", lambda f, X: evaluations.append(1) or call(f, X))
    U = draw(0, 3, 100).requires_grad_()
    V = U.detach().clone().requires_grad_()
    Y = model(U)
    Y.square().sum().backward()
    net(V.reshape(3, 1, 10, 10)).square().sum().backward()
    assert not evaluations
    assert torch.allclose(Y, net(V.reshape(3, 1, 10, 10)), atol=1e-12)
    assert torch.allclose(U.grad, V.grad, atol=1e-12)
    dense = ImplicitModel.from_network(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4),
                                                     nn.ReLU()))
    assert dense.solver == Picard()


def test_an_ill_posed_matrix_is_reported():
    A, b = 3 * torch.eye(6, dtype=torch.float64), draw(0, 2, 6).abs()
    with pytest.warns(UserWarning, match="residual"):
        solution = equilibrium(A, b, solver=GaussSeidel(blocks=BLOCKS, max_steps=60))
    assert not solution.status.ok


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: GaussSeidel(blocks=(2, 0)), ValueError, ["blocks", "at least 1"]),
    (lambda: GaussSeidel(blocks=(2.5,)), TypeError, ["blocks", "whole number"]),
    (lambda: equilibrium(layered(), draw(0, 1, 6), solver=GaussSeidel()), ValueError,
     ["add up to the 6 states", "()"]),
    (lambda: equilibrium(layered(), draw(0, 1, 6), solver=GaussSeidel(blocks=(2, 3))), ValueError,
     ["add up to the 6 states", "(2, 3)"]),
    (lambda: fixed_point(torch.tanh, draw(0, 1, 6), GaussSeidel(blocks=(6,))), TypeError,
     ["StateMap"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


def test_layouts_know_their_triangle():
    upper, lower = (Layout.of(sparse(layered(flip))) for flip in (False, True))
    assert (upper.triangle(BLOCKS), lower.triangle(BLOCKS)) == (1, -1)
    assert upper.triangle((6,)) == 0 == lower.triangle((3, 3))
    assert upper.transposed[1].triangle(BLOCKS) == -1
    rows = Sparse.of(sparse(layered())).rows(slice(2, 5))
    assert torch.equal(rows.to_dense(), layered()[2:5])
