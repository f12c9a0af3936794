"""EquilibriumLayer: against the matrix model, an unrolled loop and finite differences."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from helpers import CPU64, draw, rejects
from layers import (
    ADJOINTS,
    CASES,
    EXACT,
    TIGHT,
    Affine,
    Attention,
    Block,
    Plain,
    cases,
    followed,
    gradients,
    layer_of,
    loop,
    matrix,
)
from torch import Tensor

from idl_lab.equilibrium import Implicit, Neumann, OneStep, Phantom, Unrolled, equilibrium
from idl_lab.fixed_point import Anderson, Broyden, Newton, Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.layer import EquilibriumLayer

# ---- the value and the gradients ----------------------------------------------------------------


@pytest.mark.parametrize("phi", ["tanh", "relu"])
@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_it_is_the_matrix_model_where_f_is(adjoint, phi):
    A, b = matrix(), draw(1, 4, 6).requires_grad_()
    layer = EquilibriumLayer(Affine(A, phi), solver=TIGHT, adjoint=adjoint)
    own = A.clone().requires_grad_()
    wanted = equilibrium(own, b, phi, solver=TIGHT, adjoint=adjoint).value
    z = layer(b)
    assert torch.allclose(z, wanted, rtol=0, atol=1e-10)
    for got, right in zip(gradients(z, [layer.f.A, b]), gradients(wanted, [own, b]), strict=True):
        assert torch.allclose(got, right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("adjoint", EXACT)
def test_it_is_an_unrolled_loop(case, adjoint):
    f, u, batched = cases()[case]
    tensors = followed(f, u)
    z, wanted = layer_of(f, batched, ADJOINTS[adjoint])(*u), loop(f, u)
    assert z.shape == u[0].shape and torch.allclose(z, wanted, rtol=0, atol=1e-10)
    for got, right in zip(gradients(z, tensors), gradients(wanted, tensors), strict=True):
        assert torch.allclose(got, right, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", ["affine", "maps", "nodes"])
@pytest.mark.parametrize(("adjoint", "steps"), [
    (OneStep(), lambda f, z, u: f(z, *u)),
    (Neumann(3), lambda f, z, u: f(f(f(z, *u), *u), *u)),
    (Phantom(4, 0.7), None)])
def test_short_gradients_are_those_of_a_few_steps_from_the_solution(case, adjoint, steps):
    """Of steps from the solution back-propagation gives exactly the cut series."""
    f, u, batched = cases()[case]
    tensors = followed(f, u)
    z = layer_of(f, batched, adjoint)(*u)
    again = z.detach()
    if steps is None:
        for _ in range(4):
            again = 0.3 * again + 0.7 * f(again, *u)
    else:
        again = steps(f, again, u)
    for got, right in zip(gradients(z, tensors), gradients(again, tensors), strict=True):
        assert torch.allclose(got, right, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [Picard(rtol=1e-12), Picard(rtol=1e-12, damping=0.6),
                                    Anderson(rtol=1e-12), Broyden(rtol=1e-12),
                                    Newton(rtol=1e-12)], ids=lambda s: type(s).__name__)
def test_any_solver_finds_it(solver):
    f, u, _ = cases()["maps"]
    solution = EquilibriumLayer(f, solver=solver).equilibrium(*u)
    assert solution.status.ok and torch.allclose(solution.value, loop(f, u), atol=1e-9)
    assert solution.stats.residual.shape == (2,)


# ---- transforms -------------------------------------------------------------------------------

jit = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own doing


def of_everything(layer: EquilibriumLayer, others: tuple[Tensor, ...]):
    """The layer as a function of its first input and its parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def call(u: Tensor, *theta: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, theta, strict=True)),
                                          (u, *others))

    return call, [p.detach().clone().requires_grad_() for p in layer.parameters()]


SMALL = {"affine": (lambda: Affine(matrix(n=3)), (2, 3)), "maps": (Block, (1, 2, 2, 2)),
         "sequence": (Attention, (1, 2, 3)), "no parameters": (Plain, (2, 2))}


@jit
@pytest.mark.parametrize("case", SMALL)
def test_derivatives_of_every_kind_against_finite_differences(case):
    make, shape = SMALL[case]
    layer, u = layer_of(make()), draw(1, *shape).requires_grad_()
    call, theta = of_everything(layer, ())
    assert torch.autograd.gradcheck(call, (u, *theta), check_forward_ad=True, atol=1e-6)
    assert torch.autograd.gradgradcheck(call, (u, *theta), atol=1e-5, fast_mode=True)


def test_unrolled_derivatives_against_finite_differences():
    layer, u = layer_of(Affine(matrix(n=3)), adjoint=Unrolled()), draw(1, 2, 3).requires_grad_()
    call, theta = of_everything(layer, ())
    assert torch.autograd.gradcheck(call, (u, *theta))
    assert torch.autograd.gradgradcheck(call, (u, *theta), atol=1e-5)


def test_vmap_per_sample_gradients_and_jacobians():
    f, u, _ = cases()["maps"]
    layer = layer_of(f)
    call, theta = of_everything(layer, ())
    (u,) = u
    each = torch.stack([layer(v[None])[0] for v in u])
    assert torch.allclose(torch.vmap(lambda v: layer(v[None])[0])(u), each, atol=1e-10)

    def loss(theta: tuple, v: Tensor) -> Tensor:
        return call(v[None], *theta).square().sum()

    got = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(tuple(theta), u)
    for k, v in enumerate(u):
        for rows, right in zip(got, torch.autograd.grad(loss(theta, v), theta), strict=True):
            assert torch.allclose(rows[k], right, atol=1e-8)
    rows = torch.func.jacrev(layer)(u)
    assert torch.allclose(torch.func.jacfwd(layer)(u), rows, atol=1e-8)
    assert torch.allclose(torch.autograd.functional.jacobian(layer, u), rows, atol=1e-8)


@pytest.mark.parametrize("adjoint", [OneStep(), Neumann(2), Phantom()])
def test_second_derivatives_of_what_is_no_derivative_are_refused(adjoint):
    layer, u = layer_of(Affine(matrix()), adjoint=adjoint), draw(1, 2, 6).requires_grad_()
    (g,) = torch.autograd.grad(layer(u).sum(), u, create_graph=True)
    rejects(lambda: torch.autograd.grad(g.square().sum(), u), RuntimeError, "second derivatives")


# ---- memory -----------------------------------------------------------------------------------


def kept(adjoint, steps: int) -> int:
    """Bytes that a forward pass keeps for the backward one."""
    f, (u,), _ = cases()["maps"]
    layer = EquilibriumLayer(f, solver=Picard(rtol=0, max_steps=steps), adjoint=adjoint)
    sizes: dict[int, int] = {}

    def pack(T: Tensor) -> Tensor:
        sizes[T.untyped_storage().data_ptr()] = T.untyped_storage().nbytes()
        return T

    with warnings.catch_warnings(), torch.autograd.graph.saved_tensors_hooks(pack, lambda T: T):
        warnings.simplefilter("ignore", ConvergenceWarning)
        z = layer(u.requires_grad_())
    assert z.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("adjoint", [Implicit(), OneStep(), Neumann(3), Phantom()], ids=repr)
def test_memory_does_not_grow_with_the_steps(adjoint):
    assert kept(adjoint, 10) == kept(adjoint, 1000) < 10_000


def test_unrolled_memory_does_grow():
    assert kept(Unrolled(), 40) > 3 * kept(Unrolled(), 10)


# ---- the Jacobian's penalty ---------------------------------------------------------------------


@pytest.mark.parametrize("case", ["affine", "maps", "nodes"])
def test_the_penalty_estimates_the_jacobians_square(case):
    f, u, batched = cases()[case]
    layer = layer_of(f, batched)
    z = layer(*u).detach()
    J = torch.autograd.functional.jacobian(lambda z: f(z, *u), z)
    wanted = J.square().sum() / z.numel()
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.stack([layer.jacobian_penalty(generator).detach() for _ in range(400)])
    assert abs(drawn.mean() - wanted) < 4 * drawn.std() / 20
    again = [layer.jacobian_penalty(torch.Generator("cpu").manual_seed(1)) for _ in range(2)]
    assert torch.equal(*again)


def test_the_penaltys_gradient_against_finite_differences():
    layer, u = layer_of(Affine(matrix(n=3))), draw(1, 2, 3)
    layer(u)
    (got,) = torch.autograd.grad(layer.jacobian_penalty(torch.Generator("cpu").manual_seed(0)),
                                 layer.f.A)
    z, v = layer(u).detach(), torch.randn(2, 3, generator=torch.Generator("cpu").manual_seed(0),
                                          **CPU64)

    def by_hand(A: Tensor) -> Tensor:
        s = 1 - torch.tanh(z @ A.T + u).square()
        return ((s * v) @ A).square().sum() / 6

    wanted = torch.autograd.functional.jacobian(by_hand, layer.f.A.detach())
    assert torch.allclose(got, wanted, atol=1e-9)


def test_what_is_kept_for_the_penalty_keeps_no_graph():
    layer, u = layer_of(Affine(matrix())), draw(1, 2, 6).requires_grad_()
    x = u * 2
    layer(x)
    kept = weakref.ref(x)
    del x
    gc.collect()
    assert kept() is None and layer.jacobian_penalty() > 0


def test_the_penalty_keeps_f_contracting():
    torch.manual_seed(0)
    layer, u = layer_of(Affine(matrix(norm=0.9)), solver=Anderson()), draw(1, 8, 6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    before = float(torch.linalg.matrix_norm(layer.f.A.detach(), 2))
    for _ in range(20):
        layer(u)
        optimizer.zero_grad()
        layer.jacobian_penalty().backward()
        optimizer.step()
    assert float(torch.linalg.matrix_norm(layer.f.A.detach(), 2)) < 0.7 * before
