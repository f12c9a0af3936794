"""Sparse products against the dense ones, under every derivative that torch has."""

import pytest
import torch
from helpers import draw, rejects
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from idl_lab import sparse
from idl_lab.sparse import Layout, Sparse, _OnEntries, _Product

# torch's own, at its first forward-mode derivative.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def case(n=5, p=7, m=3, seed=0, share=0.4):
    """X (m, p), V (m, n), the values and the layout of a sparse matrix, and its dense form."""
    M = draw(seed, n, p) * (draw(seed + 1, n, p).abs() < share)
    row, col = M.nonzero().unbind(1)
    crow = torch.bincount(row + 1, minlength=n + 1).cumsum(0)
    return draw(seed + 2, m, p), draw(seed + 3, m, n), M[row, col], Layout(crow, col, (n, p)), M


def filled(values, layout):
    M = values.new_zeros(layout.shape)
    return M.index_put((layout.row, layout.col), values)


def dense(X, values, layout):
    return X @ filled(values, layout).mT


def dense_on_entries(V, X, layout):
    return (V.mT @ X)[layout.row, layout.col]


@given(n=st.integers(1, 6), p=st.integers(1, 6), m=st.integers(1, 4), seed=st.integers(0, 99),
       share=st.sampled_from([0.0, 0.3, 9.0]))
def test_products_transposes_and_gradients_are_the_dense_ones(n, p, m, seed, share):
    X, V, values, layout, M = case(n, p, m, seed, share)
    S = Sparse(values, layout)
    T = S.to_tensor()
    assert torch.equal(S.to_dense(), M) and torch.equal(T.to_dense(), M)
    assert torch.equal(S.mT.to_dense(), M.mT) and torch.equal(Sparse.of(T).to_dense(), M)
    assert torch.allclose(sparse.product(X, S), X @ M.mT, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(S.step()(V, X), X @ M.mT + V, atol=1e-12)
    assert torch.allclose(sparse.on_entries(V, X, layout), dense_on_entries(V, X, layout),
                          atol=1e-12)


def test_the_transpose_of_a_device_without_scipy_is_the_same(monkeypatch):
    *_, layout, M = case()
    order, other = layout.transposed
    there = Layout(layout.crow, layout.col, layout.shape)
    elsewhere = type("Elsewhere", (), {"type": "elsewhere"})

    class Col:
        device = elsewhere
        argsort, dtype = layout.col.argsort, layout.col.dtype
        __getitem__ = staticmethod(layout.col.__getitem__)

    object.__setattr__(there, "col", Col())
    order_there, other_there = there.transposed
    assert torch.equal(order, order_there)
    assert torch.equal(other.crow, other_there.crow) and torch.equal(other.col, other_there.col)


@pytest.mark.parametrize("function", [_Product, _OnEntries])
def test_every_derivative(function):
    X, V, values, layout, _ = case()
    args = (X, values) if function is _Product else (V, X)
    args = [a.clone().requires_grad_() for a in args]
    # A sine, since second derivatives of a product alone are constant.
    f = lambda *args: function.apply(*args, layout).sin()  # noqa: E731
    assert gradcheck(f, args, check_forward_ad=True)
    assert gradgradcheck(f, args, check_fwd_over_rev=True)


@pytest.mark.parametrize(("function", "oracle"), [(_Product, dense),
                                                  (_OnEntries, dense_on_entries)])
def test_torch_func(function, oracle):
    X, V, values, layout, _ = case()
    a, b = (X, values) if function is _Product else (V, X)
    pairs = [(lambda a, b, f=f: f(a, b, layout).sin()) for f in (function.apply, oracle)]
    func = torch.func
    transforms = [
        lambda f: func.jacrev(f, (0, 1))(a, b), lambda f: func.jacfwd(f, (0, 1))(a, b),
        lambda f: func.hessian(lambda a, b: f(a, b).sum(), (0, 1))(a, b),
        lambda f: [func.vmap(f, (None, 0))(a, torch.stack([b, 2 * b]))],
        lambda f: [func.vmap(f, (1, None))(torch.stack([a, 2 * a], 1), b)],
        lambda f: [func.vmap(f, (1, 0))(torch.stack([a, 2 * a], 1), torch.stack([b, 3 * b]))]]
    for transform in transforms:
        got, wanted = (torch.utils._pytree.tree_leaves(transform(f)) for f in pairs)
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(got, wanted, strict=True))


def test_second_derivatives_through_a_sparse_tensor_and_a_dense_copy_of_it():
    X, _, values, layout, _ = case()
    X, values = X.requires_grad_(), values.clone().requires_grad_()

    def sparse_loss(X, values):
        M = Sparse(values, layout).to_tensor()
        return sparse.product(X, Sparse.of(M)).sin().sum() + M.to_dense().square().sum()

    def dense_loss(X, values):
        return dense(X, values, layout).sin().sum() + values.square().sum()

    found = []
    for loss in (sparse_loss, dense_loss):
        first = torch.autograd.grad(loss(X, values), (X, values), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (X, values))
        found.append([*first, *second])
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(*found, strict=True))


def test_what_torch_cannot_batch_is_refused():
    X, V, values, layout, _ = case()
    values = values.clone().requires_grad_()
    Y = _Product.apply(X, values, layout)
    rejects(lambda: torch.autograd.grad(Y, values, torch.ones(2, *Y.shape, dtype=Y.dtype,
                                        device="cpu"), is_grads_batched=True),
            NotImplementedError, "is_grads_batched=True", "torch.func.vmap")
