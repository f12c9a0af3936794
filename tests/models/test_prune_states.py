"""States that do nothing are dropped: the same function, and no more of them left."""

import numpy as np
import pytest
import scipy
import torch
from helpers import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from idl_lab import ImplicitModel
from idl_lab.compose import prune_states
from idl_lab.fixed_point import GaussSeidel, Picard
from idl_lab.networks import blockwise, from_scipy, prelu_for

SOLVER = Picard(rtol=1e-15, max_steps=5000)
PHIS = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "elu": "elu"}


def drawn(seed, n=14, share=0.12, phi="relu", bias=False, norm=0.7, **options):
    """A model with few entries that are not zero."""
    rng = np.random.default_rng(seed)
    A, B, C = (torch.from_numpy(rng.standard_normal(shape) * (rng.random(shape) < share))
               for shape in ((n, n), (n, 3), (2, n)))
    A *= norm / A.abs().sum(dim=1).amax().clamp(min=norm)
    biases = {"state_bias": draw(seed + 1, n), "output_bias": draw(seed + 2, 2)} if bias else {}
    return ImplicitModel.from_matrices(A, B, C, activation=phi, solver=SOLVER, **biases, **options)


def needed(model):
    """The states between the input and the output, by powers of the graph's matrix."""
    A, B, C = (np.asarray(M.detach()) != 0 for M in (model.A, model.B, model.C))
    ways = np.linalg.matrix_power(np.eye(len(A)) + A, len(A)) > 0
    return (ways @ B.any(axis=1)) & (C.any(axis=0) @ ways)


def check_same(model, small, n=None):
    U = draw(5, 40, model.B.shape[1], scale=3.0)
    torch.testing.assert_close(small(U), model(U), rtol=1e-12, atol=1e-12)
    assert small.A.shape == (n, n) if n is not None else len(small.A) <= len(model.A)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(list(PHIS)), st.booleans(), st.floats(0.02, 0.3))
def test_the_function_stays_and_only_what_is_needed_is_left(seed, phi, bias, share):
    model = drawn(seed, phi=PHIS[phi], bias=bias, share=share)
    kept = needed(model)
    small = prune_states(model)
    check_same(model, small, max(int(kept.sum()), 1))
    if kept.any():
        assert torch.equal(small.B, model.B[torch.from_numpy(kept)])
        assert needed(small).all()
    again = prune_states(small)
    assert len(again.A) == len(small.A)


def chain(**options):
    """u → 0 → 1 → ŷ; 2 → 3 → 2 is seen and not moved; 0 → 4 ⇄ 5 is moved and not seen."""
    A = torch.zeros(6, 6, dtype=torch.float64, device="cpu")
    for i, j in ((1, 0), (3, 2), (2, 3), (1, 3), (4, 0), (4, 5), (5, 4)):
        A[i, j] = 0.5
    B, C = torch.zeros_like(A[:, :1]), torch.zeros_like(A[:2])
    B[0], C[0, 1], C[1, 2] = 1.0, 1.0, 2.0
    return ImplicitModel.from_matrices(A, B, C, solver=SOLVER, **options)


def test_loops_that_nothing_moves_or_nothing_sees_go_too():
    plain = prune_states(chain(activation="tanh"))
    check_same(chain(activation="tanh"), plain, 2)
    assert plain.state_bias is None
    moved = chain(activation="sigmoid")
    small = prune_states(moved)
    check_same(moved, small, 2)
    assert small.state_bias is not None and small.output_bias[1] > 1


def test_a_loop_that_does_not_settle_is_left():
    A = torch.tensor([[0.0, 0, 0], [0, 0, -3], [0, 3, 0]], dtype=torch.float64, device="cpu")
    model = ImplicitModel.from_matrices(
        A, A.new_ones(3, 1) * (torch.arange(3, device="cpu")[:, None] == 0), A.new_ones(1, 3),
        activation="identity", state_bias=A.new_ones(3), output_bias=A.new_ones(1))
    assert len(prune_states(model).A) == 3


def test_a_model_of_which_nothing_is_needed_keeps_one_state():
    model = drawn(0, phi="sigmoid", bias=True)
    with torch.no_grad():
        model.B.zero_()
    small = prune_states(model)
    check_same(model, small, 1)
    assert not any(M.any() for M in (small.A, small.B, small.C))


def test_each_state_keeps_its_activation():
    slopes = torch.linspace(0.1, 0.9, 6, device="cpu")
    phi = blockwise([(prelu_for(slopes, (6,)), 6), ("tanh", 4), ("relu", 4)])
    found = {len(prune_states(drawn(seed, phi=phi, bias=True)).A) for seed in range(20)}
    for seed in range(20):
        model = drawn(seed, phi=phi, bias=True)
        check_same(model, prune_states(model))
    assert len(found) > 3


def test_what_a_network_and_other_kinds_of_A_come_to():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(),
                        nn.Linear(5, 2)).double()
    with torch.no_grad():
        net[2].weight[:, [1, 4]] = 0  # two of the first layer are not seen
        net[2].weight[3] = 0  # one of the second is constant
    model = ImplicitModel.from_network(net)
    check_same(model, prune_states(model), 8)
    sparse = ImplicitModel.from_matrices(
        from_scipy(scipy.sparse.csr_array(model.A.detach().numpy()), torch.float64),
        model.B.detach(), model.C.detach(),
        state_bias=model.state_bias.detach(), output_bias=model.output_bias.detach(),
        activation=model.activation, solver=GaussSeidel(blocks=(5, 6)))
    small = prune_states(sparse)
    check_same(sparse, small, 8)
    assert isinstance(small.solver, Picard)
    whole = ImplicitModel(3, 2, 7, rank=2, dtype=torch.float64, solver=SOLVER)
    check_same(whole, prune_states(whole), 7)


def test_only_a_model_has_states():
    with pytest.raises(TypeError, match="model must be an ImplicitModel, got Linear"):
        prune_states(nn.Linear(2, 2))
