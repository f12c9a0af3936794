"""The implicit graph network against explicit solves, unrolled loops and finite differences."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import CONSTRAIN, CPU64, draw, mat, rejects, spectral_radius
from hypothesis import given
from hypothesis import strategies as st

from idl_lab.fixed_point import Anderson, Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.layer import EquilibriumLayer, GraphStep, ImplicitGraph, normalised_adjacency
from idl_lab.layer.graph import CONSTRAINTS
from idl_lab.perron import perron_frobenius

TIGHT = Picard(rtol=1e-13, max_steps=20_000)


def edges(*pairs: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.int64, device="cpu").reshape(-1, 2).mT


def path(n: int) -> torch.Tensor:
    return edges(*((i, i + 1) for i in range(n - 1)))


GRAPHS = {
    "path": (path(5), 5), "cycle": (edges((0, 1), (1, 2), (2, 3), (3, 0)), 4),
    "star": (edges((0, 1), (0, 2), (0, 3)), 4), "two parts": (edges((0, 1), (2, 3), (3, 4)), 5),
    "an isolated node": (edges((0, 2)), 3), "no edge": (edges(), 3), "one node": (edges(), 1),
}


def model(n: int = 3, **options) -> ImplicitGraph:
    options = {"kappa": 0.9, "solver": TIGHT, **CPU64} | options
    return ImplicitGraph(2, 3, n, generator=torch.Generator("cpu").manual_seed(0), **options)


def by_numpy(net: ImplicitGraph, U: torch.Tensor, A_hat: np.ndarray, steps: int = 3000
             ) -> np.ndarray:
    """The states by a plain loop over whole matrices, and the constraint by its definition."""
    root = spectral_radius(np.abs(A_hat))
    W = net.free_W.detach().numpy()
    if root > 0:
        W = CONSTRAIN[net.constraint](W, net.kappa / root)
    J = U.numpy() @ net.B.detach().numpy().T
    if net.state_bias is not None:
        J = J + net.state_bias.detach().numpy()
    X = np.zeros_like(J)
    phi = {"relu": lambda s: np.maximum(s, 0), "tanh": np.tanh}[net.layer.f.activation.name]
    for _ in range(steps):
        X = phi(A_hat @ X @ W.T + J)
    return X


# ---- the adjacency matrix -------------------------------------------------------------------


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize(("given", "nodes"), GRAPHS.values(), ids=GRAPHS)
def test_the_adjacency_is_the_definition(given, nodes, directed, self_loops):
    A = np.eye(nodes) * self_loops
    for source, target in given.mT.tolist():
        A[target, source] = 1
        if not directed:
            A[source, target] = 1
    degree = A.sum(1)
    inverse = np.divide(1, degree, where=degree > 0, out=np.zeros(nodes))
    wanted = inverse[:, None] * A if directed else (
        np.sqrt(inverse)[:, None] * A * np.sqrt(inverse))
    got = normalised_adjacency(given, nodes, directed=directed, self_loops=self_loops,
                               dtype=torch.float64)
    assert got.layout == torch.sparse_csr
    np.testing.assert_allclose(got.to_dense().numpy(), wanted, rtol=0, atol=1e-15)


def test_an_edge_given_twice_or_as_a_loop_counts_once():
    one = normalised_adjacency(edges((0, 1), (1, 2)), 3)
    many = normalised_adjacency(edges((0, 1), (1, 0), (1, 2), (1, 2), (2, 2)), 3)
    assert torch.equal(one.to_dense(), many.to_dense())
    assert one.dtype == torch.get_default_dtype()


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: normalised_adjacency([[0], [1]], 2), TypeError, ["edges", "int64", "list"]),
    (lambda: normalised_adjacency(torch.zeros(2, 1), 2), TypeError, ["int64", "float32"]),
    (lambda: normalised_adjacency(path(4).mT, 4), ValueError, ["edges", "two=2", "(3, 2)"]),
    (lambda: normalised_adjacency(path(3), 2), ValueError, ["0 to 1", "0 to 2"]),
    (lambda: normalised_adjacency(edges((-1, 0)), 2), ValueError, ["0 to 1", "-1"]),
    (lambda: normalised_adjacency(path(3), 0), ValueError, ["nodes", "at least 1"]),
    (lambda: normalised_adjacency(path(3), 3.0), TypeError, ["nodes", "3.0"]),
    (lambda: normalised_adjacency(path(3), 3, dtype=torch.int64), TypeError, ["dtype"]),
])
def test_bad_edges_are_refused(call, error, fragments):
    rejects(call, error, *fragments)


# ---- the equilibrium ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"activation": "tanh", "bias": True}, {"constraint": "scale"}, {"constraint": "project"},
    {"constraint": "perron"}, {"kappa": 0.0}, {"kappa": 0.3, "bias": True},
], ids=str)
@pytest.mark.parametrize(("given", "nodes"), GRAPHS.values(), ids=GRAPHS)
def test_the_states_are_those_of_a_plain_loop(given, nodes, options):
    net, U = model(**options), draw(1, nodes, 2)
    with torch.no_grad():
        net.free_W.mul_(4)  # so that the constraint has something to do
    A_hat = normalised_adjacency(given, nodes, dtype=torch.float64)
    wanted = by_numpy(net, U, A_hat.to_dense().numpy())
    for form in (A_hat, A_hat.to_dense(), A_hat.to_dense().to_sparse_coo()):
        solution = net.equilibrium(U, form, throw=True)
        np.testing.assert_allclose(solution.value.detach().numpy(), wanted, rtol=0, atol=1e-10)
        Y = wanted @ net.C.detach().numpy().T
        if net.output_bias is not None:
            Y = Y + net.output_bias.detach().numpy()
        np.testing.assert_allclose(net(U, form).detach().numpy(), Y, rtol=0, atol=1e-9)


def test_a_linear_network_is_the_solution_of_a_linear_system():
    net, U = model(activation="identity"), draw(1, 5, 2)
    A_hat = normalised_adjacency(path(5), 5, dtype=torch.float64)
    W, J = net.weight(A_hat), U @ net.B.mT
    # vec by rows: (Â ⊗ W) x + J = x
    M = torch.eye(15, **CPU64) - torch.kron(A_hat.to_dense(), W)
    torch.testing.assert_close(net.equilibrium(U, A_hat).value.flatten(),
                               torch.linalg.solve(M, J.flatten()), rtol=0, atol=1e-10)


def test_parts_of_a_disconnected_graph_do_not_hear_each_other():
    net, U = model(), draw(1, 5, 2)
    whole = normalised_adjacency(*GRAPHS["two parts"], dtype=torch.float64)
    first = normalised_adjacency(path(2), 2, dtype=torch.float64)
    other = normalised_adjacency(path(3), 3, dtype=torch.float64)
    Y = net(U, whole)
    torch.testing.assert_close(Y[:2], net(U[:2], first), rtol=0, atol=1e-10)
    torch.testing.assert_close(Y[2:], net(U[2:], other), rtol=0, atol=1e-10)
    blocks = torch.block_diag(first.to_dense(), other.to_dense())
    torch.testing.assert_close(Y, net(U, blocks), rtol=0, atol=1e-10)


def test_a_node_that_listens_to_no_one_has_its_own_injection():
    net, U = model(), draw(1, 3, 2)
    A_hat = normalised_adjacency(edges((0, 2)), 3, self_loops=False, dtype=torch.float64)
    X = net.equilibrium(U, A_hat).value
    torch.testing.assert_close(X[1], torch.relu(U[1] @ net.B.mT))


def test_on_a_directed_chain_the_states_come_one_after_another():
    net, U = model(), draw(1, 6, 2)
    with torch.no_grad():
        net.free_W.mul_(50)  # nothing comes back: no bound is needed, and none is applied
    A_hat = normalised_adjacency(path(6), 6, directed=True, self_loops=False, dtype=torch.float64)
    W, J = net.free_W.detach(), U @ net.B.detach().mT
    assert torch.equal(net.weight(A_hat), net.free_W)
    state, wanted = torch.zeros(3, **CPU64), []
    for j in J:
        state = torch.relu(W @ state + j)
        wanted.append(state)
    solution = net.equilibrium(U, A_hat, throw=True)
    torch.testing.assert_close(solution.value, torch.stack(wanted))
    assert solution.stats.steps <= 12
    assert net.certificate(A_hat).well_posed


def test_a_label_travels_one_node_a_step():
    net = model(kappa=0.99)
    with torch.no_grad():
        net.free_W.copy_(torch.eye(3))
        net.B.abs_()
    U = torch.zeros(8, 2, **CPU64)
    U[0] = 1
    for directed in (False, True):
        A_hat = normalised_adjacency(path(8), 8, directed=directed, dtype=torch.float64)
        states = net.equilibrium(U, A_hat, keep_states=True).trace.states.reshape(-1, 8, 3)
        for k in range(8):  # x_0 = 0, x_1 = φ(J), …
            assert (states[k].abs().sum(dim=1) > 0).tolist() == [i < k for i in range(8)]


@pytest.mark.parametrize("solver", [Picard(rtol=1e-12), Anderson(rtol=1e-12)], ids=str)
def test_a_larger_graph_stays_sparse(solver, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "to_dense", lambda *a, **k: pytest.fail("made dense"))
    nodes = 30_000  # dense this would be 7 GB
    A_hat = normalised_adjacency(path(nodes), nodes, dtype=torch.float64)
    net, U = model(kappa=0.5, solver=solver), draw(1, nodes, 2)
    Y = net(U, A_hat)
    Y.square().mean().backward()
    # The end of a chain does not know how long the chain is.
    part = normalised_adjacency(path(80), 80, dtype=torch.float64)
    torch.testing.assert_close(net(U[:80], part)[:40], Y[:40], rtol=0, atol=1e-9)
    assert all(M.grad.isfinite().all() for M in net.parameters())


# ---- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_are_finite_differences(constraint, sparse):
    net = model(constraint=constraint, activation="tanh", bias=True)
    A_hat = normalised_adjacency(path(4), 4, dtype=torch.float64)
    A_hat = A_hat if sparse else A_hat.to_dense()
    names = [name for name, _ in net.named_parameters()]
    given = [(3 * M if name == "free_W" else M).detach().requires_grad_()
             for name, M in net.named_parameters()]

    def call(U, *parameters):
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)),
                                          (U, A_hat))

    assert torch.autograd.gradcheck(call, (draw(1, 4, 2).requires_grad_(), *given))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch.func.jvp's
def test_second_derivatives_and_forward_mode():
    net = model(activation="tanh")
    A_hat = normalised_adjacency(path(4), 4, dtype=torch.float64)
    U, dU = draw(1, 4, 2).requires_grad_(), draw(2, 4, 2)
    assert torch.autograd.gradgradcheck(lambda U: net(U, A_hat), (U,))
    h = 1e-5
    wanted = (net(U + h * dU, A_hat) - net(U - h * dU, A_hat)) / (2 * h)
    moved = torch.func.jvp(lambda U: net(U, A_hat), (U.detach(),), (dU,))[1]
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_a_dense_adjacency_has_a_gradient_through_its_root_too(constraint):
    net, U = model(constraint=constraint, activation="tanh"), draw(1, 3, 2)
    with torch.no_grad():
        net.free_W.mul_(4)
    A_hat = draw(3, 3, 3).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda A: net(U, A), (A_hat,))


def test_the_step_is_a_module_for_a_layer_of_ones_own():
    net, U = model(), draw(1, 5, 2)
    A_hat = normalised_adjacency(path(5), 5, dtype=torch.float64)
    layer = EquilibriumLayer(GraphStep("relu"), solver=TIGHT, batched=False)
    sparse = A_hat.values(), A_hat.crow_indices(), A_hat.col_indices()
    for parts in (sparse, (A_hat.to_dense(),)):
        X = layer(U @ net.B.mT, net.weight(A_hat), *parts)
        torch.testing.assert_close(X @ net.C.mT, net(U, A_hat))


# ---- well-posedness -------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 4), st.floats(0, 0.95),
       st.sampled_from(CONSTRAINTS), st.booleans())
def test_where_the_bound_holds_every_start_ends_in_one_place(seed, nodes, n, kappa, constraint,
                                                            signed):
    draws = np.random.default_rng(seed)
    A_hat = mat(draws.standard_normal((nodes, nodes)) * (draws.random((nodes, nodes)) < 0.5))
    A_hat = A_hat if signed else A_hat.abs()
    net = model(n, kappa=kappa, constraint=constraint, activation="tanh")
    with torch.no_grad():
        net.free_W.copy_(mat(3 * draws.standard_normal((n, n))))
    W, root = net.weight(A_hat).detach(), spectral_radius(A_hat.abs().numpy())
    size = spectral_radius(W.abs().numpy()) if constraint == "perron" else float(
        W.abs().sum(dim=1).max())
    assert root * size <= kappa * (1 + 1e-9) or root < 1e-6
    certificate = net.certificate(A_hat)
    assert certificate.well_posed and "exactly one equilibrium" in certificate.sentence
    U = mat(draws.standard_normal((nodes, 2)))
    ends = [net.equilibrium(U, A_hat, X0=mat(scale * draws.standard_normal((nodes, n))),
                            throw=True).value for scale in (0, 1, 100)]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-9)


def test_a_weight_inside_is_left_alone():
    A_hat = normalised_adjacency(path(4), 4, dtype=torch.float64)
    for constraint in CONSTRAINTS:
        net = model(constraint=constraint, kappa=0.99)
        with torch.no_grad():
            net.free_W.mul_(0.2)
        torch.testing.assert_close(net.weight(A_hat), net.free_W, rtol=1e-12, atol=0)


def test_without_a_bound_it_says_that_nothing_is_promised():
    net = model(activation="identity")
    net.weight = lambda adjacency: torch.eye(3, **CPU64) * -5
    A_hat = normalised_adjacency(path(4), 4, dtype=torch.float64)
    found = net.certificate(A_hat)
    assert not found.well_posed and found.margin == pytest.approx(1 - 5)
    assert "no condition holds" in found.sentence and "= 5 " in found.sentence
    with pytest.warns(ConvergenceWarning):
        net.equilibrium(draw(1, 4, 2), A_hat)


def test_the_graph_is_read_anew_when_it_changes():
    net, U = model(), draw(1, 3, 2)
    A_hat = normalised_adjacency(path(3), 3, dtype=torch.float64).to_dense()
    before = net(U, A_hat)
    assert torch.equal(before, net(U, A_hat))
    A_hat.mul_(3)  # in place: the same object
    assert float(net.weight(A_hat).detach().abs().sum(dim=1).max()) <= 0.9 / 3 + 1e-12
    assert not torch.allclose(before, net(U, A_hat))


def test_a_step_whose_indices_change_in_place_has_the_new_graphs_gradient():
    step, J, W = GraphStep("tanh"), draw(1, 4, 3), draw(2, 3, 3)
    one, other = (normalised_adjacency(edges(*pairs), 4, directed=True, dtype=torch.float64)
                  for pairs in (((0, 1), (0, 2), (0, 3)), ((3, 1), (3, 2), (1, 3))))
    crow, col = one.crow_indices().clone(), one.col_indices().clone()
    for A_hat in (one, other):
        crow.copy_(A_hat.crow_indices()), col.copy_(A_hat.col_indices())
        by_hand, sparse = (draw(3, 4, 3).requires_grad_() for _ in range(2))
        torch.tanh(A_hat.to_dense() @ by_hand @ W.mT + J).sum().backward()
        step(sparse, J, W, A_hat.values(), crow, col).sum().backward()
        torch.testing.assert_close(sparse.grad, by_hand.grad)


def test_an_adjacency_made_in_inference_mode_is_one_too():
    net, U = model(), draw(1, 3, 2)
    wanted = net(U, normalised_adjacency(path(3), 3, dtype=torch.float64))
    with torch.inference_mode():
        A_hat = normalised_adjacency(path(3), 3, dtype=torch.float64)
        for _ in range(2):
            torch.testing.assert_close(net(U, A_hat), wanted.detach())
        A_hat = A_hat.to_dense()
        torch.testing.assert_close(net(U, A_hat), wanted.detach())
        A_hat.mul_(3)  # uncounted in this mode, so that nothing may be looked up
        assert float(net.weight(A_hat).abs().sum(dim=1).max()) <= 0.9 / 3 + 1e-12


# ---- as a module ----------------------------------------------------------------------------


def test_it_is_copied_pickled_saved_and_loaded():
    net, U = model(), draw(1, 3, 2)
    A_hat = normalised_adjacency(path(3), 3, dtype=torch.float64)
    Y = net(U, A_hat)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(U, A_hat), Y)
    new = ImplicitGraph(2, 3, 3, kappa=0.2, solver=TIGHT, **CPU64)
    new.load_state_dict(net.state_dict())
    assert new.kappa == 0.9 and torch.equal(new(U, A_hat), Y)
    rejects(lambda: model(constraint="scale").load_state_dict(net.state_dict()), Exception,
            "constraint=row")


def test_sixteen_bits_and_autocast_solve_in_float32():
    U = draw(1, 5, 2)
    net = model(solver=Picard(rtol=1e-4))
    A_hat = normalised_adjacency(path(5), 5, dtype=torch.float64)
    wanted = net(U, A_hat).detach()
    small = copy.deepcopy(net).bfloat16()
    got = small(U.bfloat16(), A_hat.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), wanted, rtol=0.1, atol=0.1)
    single = copy.deepcopy(net).float()
    with torch.autocast("cpu", torch.bfloat16):
        X = single.equilibrium(U.float(), A_hat.float()).value
        single(U.float(), A_hat.float()).sum().backward()
    torch.testing.assert_close(X.double(), net.equilibrium(U, A_hat).value, rtol=0, atol=1e-3)
    assert single.free_W.grad.dtype == torch.float32


PATH = normalised_adjacency(path(3), 3, dtype=torch.float64)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: ImplicitGraph(0, 3, 3), ValueError, ["input_dim", "at least 1"]),
    (lambda: ImplicitGraph(2, 3, 3, kappa=1.0), ValueError, ["kappa", "< 1"]),
    (lambda: ImplicitGraph(2, 3, 3, constraint="rows"), ValueError, ["constraint", "row"]),
    (lambda: ImplicitGraph(2, 3, 3, constraint="monotone"), ValueError, ["constraint='monotone'"]),
    (lambda: ImplicitGraph(2, 3, 3, activation="rely"), ValueError, ["relu"]),
    (lambda: ImplicitGraph(2, 3, 3, solver="picard"), TypeError, ["Picard()"]),
    (lambda: model()(draw(0, 3, 2), [[0.0]]), TypeError, ["adjacency", "list"]),
    (lambda: model()(draw(0, 3, 2), PATH.float()), TypeError, ["adjacency", "float32"]),
    (lambda: model()(draw(0, 3, 2), PATH.to_dense() > 0), TypeError, ["adjacency", "bool"]),
    (lambda: model()(draw(0, 3, 2), PATH.to_dense()[:2]), ValueError, ["adjacency", "(2, 3)"]),
    (lambda: model()(draw(0, 0, 2), draw(0, 0, 0)), ValueError, ["at least one node"]),
    (lambda: model()(draw(0, 3, 2), PATH.to_dense() * torch.nan), ValueError, ["adjacency", "NaN"]),
    (lambda: model()(draw(0, 3, 2), PATH.to_dense().to_sparse_csc()), TypeError, ["sparse_csc"]),
    (lambda: model()(draw(0, 3, 2), PATH.to_dense().to_sparse().requires_grad_()), ValueError,
     ["sparse adjacency gets no gradient"]),
    (lambda: model()(draw(0, 4, 2), PATH), ValueError, ["U", "nodes=3", "(4, 2)"]),
    (lambda: model()(draw(0, 3, 3), PATH), ValueError, ["U", "p=2", "(3, 3)"]),
    (lambda: model()(draw(0, 1, 3, 2), PATH), ValueError, ["U", "(1, 3, 2)"]),
    (lambda: model()(draw(0, 3, 2).float(), PATH), TypeError, ["U", "float32"]),
    (lambda: model()(draw(0, 3, 2) / 0, PATH), ValueError, ["U", "infinite"]),
    (lambda: model().equilibrium(draw(0, 3, 2), PATH, X0=draw(0, 2, 3)), ValueError, ["(3, 3)"]),
])
def test_bad_input_is_refused(call, error, fragments):
    rejects(call, error, *fragments)


def test_the_root_of_a_large_class_is_found_without_making_it_dense():
    n = 20_000  # a path, whose λ_PF is known; dense it would have 3 GB
    A_hat = normalised_adjacency(path(n), n, self_loops=False, dtype=torch.float64)
    path_itself = torch.sparse_csr_tensor(A_hat.crow_indices(), A_hat.col_indices(),
                                          torch.ones_like(A_hat.values()), A_hat.shape)
    found = perron_frobenius(path_itself)
    assert found.lower <= 2 * np.cos(np.pi / (n + 1)) <= found.upper
    assert found.upper - found.lower < 1e-9
