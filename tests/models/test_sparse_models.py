"""A network read off with sparse A and B, under every transform, against the network itself."""

import contextlib
import copy

import pytest
import torch
from helpers import draw
from torch import nn
from torch.func import functional_call

from idl_lab import ImplicitModel, compose
from idl_lab.fixed_point import Picard
from idl_lab.sparse import Sparse

# torch's own, at its first forward-mode derivative.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def convolutional(phi=nn.Tanh):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), phi(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2), phi(),
                        nn.Flatten(), nn.Linear(27, 2)).double()
    for seed, p in enumerate(net.parameters()):
        with torch.no_grad():
            p.copy_(draw(seed, *p.shape))
    return net


@pytest.fixture(scope="module")
def pair():
    net = convolutional()
    model = ImplicitModel.from_network(net, (1, 10, 10), solver=Picard(rtol=1e-13))
    assert isinstance(model.operator(), Sparse) and model.B.layout == torch.sparse_csr
    return (lambda u: net(u.reshape(-1, 1, 10, 10)), model), draw(9, 3, 100)


func = torch.func
TRANSFORMS = {
    "jacrev": lambda f, U: func.jacrev(lambda u: f(u[None])[0])(U[0]),
    "jacfwd": lambda f, U: func.jacfwd(lambda u: f(u[None])[0])(U[0]),
    "hessian": lambda f, U: func.hessian(lambda u: f(u[None]).square().sum())(U[0]),
    "jvp": lambda f, U: func.jvp(f, (U,), (U.flip(0),))[1],
    "vmap": lambda f, U: func.vmap(lambda u: f(u[None])[0])(U),
    "gradients of each sample": lambda f, U: func.vmap(func.grad(
        lambda u: f(u[None]).square().sum()))(U),
    "jacobians of each sample": lambda f, U: func.vmap(func.jacrev(lambda u: f(u[None])[0]))(U),
    "second derivatives": lambda f, U: second(f, U),
}


def second(f, U):
    U = U.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(U).square().sum(), U, create_graph=True)
    return torch.autograd.grad(first.square().sum(), U)[0]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_the_input(name, pair):
    functions, U = pair
    wanted, got = (TRANSFORMS[name](f, U) for f in functions)
    assert torch.allclose(got, wanted, rtol=1e-8, atol=1e-10)


def dense_twin(model):
    """The same model with dense matrices."""
    return ImplicitModel.from_matrices(
        model.A.detach().to_dense(), model.B.detach().to_dense(), model.C, model.D,
        activation=model.activation, constraint=None, state_bias=model.state_bias,
        output_bias=model.output_bias, solver=model.solver)


def on_pattern(G, M):
    return G[M.detach().to_dense() != 0]


PARAMETERS = {
    "grad": lambda loss, P: func.grad(loss)(P),
    "forward mode": lambda loss, P: {"": func.jvp(loss, (P,), ({k: v.cos() * (v != 0)
                                                                for k, v in P.items()},))[1]},
    "grad of a grad": lambda loss, P: func.grad(lambda P: sum(
        g.square().sum() for g in func.grad(loss)(P).values()))(P),
}


@pytest.mark.parametrize("how", PARAMETERS)
def test_transforms_of_the_parameters(how, pair):
    (_, model), U = pair
    twin, results = dense_twin(model), []
    for m, names in ((model, ("free_A", "free_B")), (twin, ("free_A", "B"))):
        P = {name: p.detach() for name, p in m.named_parameters() if name in names}
        if how == "grad of a grad" and m is twin:
            mask = {name: p != 0 for name, p in P.items()}  # only entries that the pattern has
            loss = lambda P, m=m, mask=mask: functional_call(  # noqa: E731
                m, {k: v * mask[k] for k, v in P.items()}, (U,)).square().sum()
        else:
            loss = lambda P, m=m: functional_call(m, P, (U,)).square().sum()  # noqa: E731
        found = PARAMETERS[how](loss, P)
        results.append(list(found.values()))
    for got, wanted, M in zip(*results, (model.A, model.B), strict=False):
        wanted = wanted if wanted.dim() == 0 else on_pattern(wanted, M)
        assert torch.allclose(got, wanted, rtol=1e-8, atol=1e-9)


def test_it_trains_as_its_dense_twin_does(pair):
    (_, model), U = pair
    model, twin = copy.deepcopy(model), dense_twin(model)
    pattern = model.A.detach().to_dense() != 0
    for m in (model, twin):
        optimizer = torch.optim.SGD(m.parameters(), 1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            m(U).square().sum().backward()
            if m is twin:
                for p, M in ((twin.free_A, model.A), (twin.B, model.B)):
                    p.grad *= M.detach().to_dense() != 0
            optimizer.step()
    assert torch.allclose(model.A.detach().to_dense(), twin.A.detach() * pattern, atol=1e-12)
    assert torch.allclose(model(U), twin(U), atol=1e-10)


def test_a_pattern_that_is_loaded_is_the_one_that_is_used(pair):
    """The transpose is kept from call to call, but not beyond another pattern."""
    (_, model), U = pair
    model, U = copy.deepcopy(model), U.clone().requires_grad_()
    model(U).sum().backward()  # the transposes are known now
    other = copy.deepcopy(model)
    with torch.no_grad():
        for pattern in (other.pattern_A, other.pattern_B):
            n, p = pattern.shape
            rows = torch.repeat_interleave(torch.arange(n), pattern.crow.diff())
            dense = torch.zeros(n, p).index_put((rows, pattern.col), torch.tensor(1.0))
            moved = dense.flip(0).nonzero() if pattern is other.pattern_B else dense.nonzero()
            pattern.crow.copy_(torch.bincount(moved[:, 0] + 1, minlength=n + 1).cumsum(0))
            pattern.col.copy_(moved[:, 1])
    model.load_state_dict(other.state_dict())
    U.grad = None
    model(U).square().sum().backward()
    twin, V = dense_twin(model), U.detach().clone().requires_grad_()
    twin(V).square().sum().backward()
    assert torch.allclose(U.grad, V.grad, atol=1e-9)


def test_compositions_of_networks_read_off(pair):
    net, (functions, U) = convolutional(), pair
    model = ImplicitModel.from_network(net, (1, 10, 10))
    back = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 100)).double()
    other = ImplicitModel.from_network(back)
    for together, wanted in (
            (compose.cascade(model, other), back(functions[0](U))),
            (compose.cascade(other, model), functions[0](back(U[:, :2]))),
            (compose.add(model, model), 2 * functions[0](U))):
        given = U[:, :2] if together.B.shape[1] == 2 else U
        assert torch.allclose(together(given), wanted, atol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_sixteen_bits_and_autocast(dtype, error):
    net, X = convolutional().float(), draw(3, 4, 1, 10, 10).float()
    wanted = net(X).detach()
    short = copy.deepcopy(net).to(dtype)
    for model, context, U in (
            (ImplicitModel.from_network(short, (1, 10, 10)), contextlib.nullcontext, X.to(dtype)),
            (ImplicitModel.from_network(net, (1, 10, 10)),
             lambda: torch.autocast("cpu", dtype), X)):
        assert isinstance(model.operator(), Sparse)
        with context():
            Y = model(U.flatten(1))
        assert torch.allclose(Y.float(), wanted, atol=error * float(wanted.abs().max()))
        Y.float().square().sum().backward()
        assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype
                   for p in model.parameters())
    with torch.autocast("cpu", dtype):
        again = ImplicitModel.from_network(net, (1, 10, 10))
    assert torch.allclose(again(X.flatten(1)), wanted, atol=1e-4)
