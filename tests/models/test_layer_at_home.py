"""EquilibriumLayer: at home in torch, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from helpers import CPU64, draw, rejects
from layers import (
    ADJOINTS,
    CASES,
    TIGHT,
    Affine,
    Block,
    Plain,
    cases,
    gradients,
    layer_of,
    loop,
    matrix,
)
from torch import Tensor, nn

from idl_lab import ImplicitModel
from idl_lab.equilibrium import Implicit
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import ConvergenceError, ConvergenceWarning, Status
from idl_lab.layer import EquilibriumLayer

# ---- at home in torch -------------------------------------------------------------------------


def test_frozen_parameters_get_no_gradient_and_the_others_do():
    f, u, _ = cases()["maps"]
    f.one.requires_grad_(False)
    layer = layer_of(f)
    layer(*u).sum().backward()
    grads = {name: p.grad for name, p in f.named_parameters()}
    assert grads.pop("one.weight") is None and grads.pop("one.bias") is None
    assert all(g is not None for g in grads.values())


def test_a_start_changes_the_steps_and_nothing_else():
    f, u, _ = cases()["maps"]
    layer = EquilibriumLayer(f, solver=Picard(rtol=1e-10))
    cold = layer.equilibrium(*u)
    warm = layer.equilibrium(*u, z0=cold.value)
    assert warm.stats.steps < cold.stats.steps / 3
    assert torch.allclose(warm.value, cold.value, atol=1e-8)


def test_a_state_of_another_shape_than_the_input():
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inject = nn.Linear(6, 4, **CPU64)

        def forward(self, z: Tensor, u: Tensor) -> Tensor:
            return torch.tanh(z.flip(-1) / 2 + self.inject(u).reshape(-1, 2, 2))

    layer, u = EquilibriumLayer(Summed(), state_shape=(2, 2), solver=TIGHT), draw(1, 3, 6)
    z = layer(u)
    assert z.shape == (3, 2, 2) and torch.allclose(layer.f(z, u), z, atol=1e-10)
    assert layer(u[:0]).shape == (0, 2, 2)


@pytest.mark.parametrize("case", CASES)
def test_an_empty_batch_has_an_empty_answer(case):
    f, u, batched = cases()[case]
    if batched:
        layer = layer_of(f)
        empty = tuple(T[:0] for T in u)
        assert layer(*empty).shape == empty[0].shape
        assert torch.allclose(layer(*u), loop(f, u), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_modules_of_16_bits_are_solved_in_32(dtype):
    f, (u,), _ = cases()["maps"]
    wanted = layer_of(f)(u)
    layer = EquilibriumLayer(copy.deepcopy(f).to(dtype))
    z = layer(u.to(dtype))
    assert z.dtype == dtype and torch.allclose(z.double(), wanted, atol=0.03)
    z.sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_autocast_leaves_the_solve_exact(adjoint):
    f, (u,), _ = cases()["maps"]
    f, u = copy.deepcopy(f).float(), u.float()
    net = nn.Sequential(nn.Conv2d(2, 2, 1, device="cpu"), EquilibriumLayer(f, adjoint=adjoint))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = net[0](u)
        solution = net[1].equilibrium(x)
        net(u).float().square().sum().backward()
    assert x.dtype == solution.value.dtype == torch.bfloat16 and solution.status.ok
    assert torch.allclose(loop(f, (x.float(),)), solution.value.float(), atol=0.01)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    full = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    net(u).square().sum().backward()
    for name, p in net.named_parameters():
        assert torch.nn.functional.cosine_similarity(
            p.grad.flatten(), full[name].flatten(), dim=0) > 0.98, name


def test_copies_pickles_and_checkpoints_are_the_same_function():
    f, u, _ = cases()["maps"]
    layer = layer_of(f)
    z = layer(*u)
    layer.jacobian_penalty()  # what the last pass left is no part of a copy
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(*u), z) and other.solver == layer.solver
        rejects(copy.deepcopy(other).jacobian_penalty, RuntimeError, "forward pass")
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = layer_of(Block())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(*u), z)


def test_it_stands_inside_a_larger_net_that_is_compiled():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6, **CPU64), layer_of(Affine(matrix())),
                        nn.Linear(6, 2, **CPU64))
    tensors = list(net.parameters())
    for m in (3, 5):
        u = draw(m, m, 6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            value = torch.compile(net, backend="aot_eager")(u)
            got = gradients(value, tensors)
        assert torch.allclose(value, net(u), atol=1e-12)
        for one, right in zip(got, gradients(net(u), tensors), strict=True):
            assert torch.allclose(one, right, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_tracing_it_is_refused():
    layer, u = layer_of(Affine(matrix())), draw(1, 2, 6)
    rejects(lambda: torch.jit.trace(layer, u), RuntimeError, "as many steps as its input needs")


def test_two_layers_of_one_module_share_its_weights():
    f, u, _ = cases()["maps"]
    net = nn.Sequential(layer_of(f), layer_of(f))
    assert len(list(net.parameters())) == len(list(f.parameters()))
    wanted = loop(f, (loop(f, u),))
    tensors = list(f.parameters())
    for got, right in zip(gradients(net(*u), tensors), gradients(wanted, tensors), strict=True):
        assert torch.allclose(got, right, atol=1e-8)


# ---- refused ----------------------------------------------------------------------------------


class Wrong(nn.Module):
    """f by a function of (z, u), which may use the module."""

    def __init__(self, what, **modules: nn.Module) -> None:
        super().__init__()
        self.what = what
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, z: Tensor, *u: Tensor) -> Tensor:
        return self.what(self, z, *u)


foreign = nn.Linear(6, 6, **CPU64)
U = draw(1, 4, 6)


def called(what, *u: Tensor, **options):
    modules = {k: options.pop(k) for k in ("drop", "norm") if k in options}
    return lambda: EquilibriumLayer(Wrong(what, **modules), **options)(*(u or (U,)))


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: EquilibriumLayer(torch.tanh), TypeError, ["torch.nn.Module", "tanh"]),
    (lambda: EquilibriumLayer(Plain(), solver="anderson"), TypeError, ["solver", "'anderson'"]),
    (lambda: EquilibriumLayer(Plain(), adjoint=Implicit), TypeError, ["adjoint", "Implicit()"]),
    (lambda: EquilibriumLayer(Plain(), state_shape=(0,)), ValueError, ["state_shape", "0"]),
    (called(lambda f, z, u: torch.cat([z, u])), ValueError, ["(4, 6)", "(8, 6)"]),
    (called(lambda f, z, u: z.float()), ValueError, ["float64", "float32"]),
    (called(lambda f, z, u: (z, u)), ValueError, ["state of shape (4, 6)"]),
    (called(lambda f, z, u: z * torch.rand_like(z)), ValueError, ["same state every time"]),
    (called(lambda f, z, u: f.drop(z), drop=nn.Dropout(0.5)), ValueError, ["Dropout"]),
    (called(lambda f, z, u: f.norm(z), norm=nn.BatchNorm1d(6, **CPU64)), ValueError,
     ["BatchNorm", "GroupNorm"]),
    (called(lambda f, z, u: torch.tanh(foreign(z))), ValueError, ["not its own"]),
    (called(lambda f, z, u: z, [1.0]), TypeError, ["u must be a torch.Tensor", "list"]),
    (called(lambda f, z, u: z, U / 0), ValueError, ["finite"]),
    (called(lambda f, z, u: z, U[0]), ValueError, ["sample axis", "batched=False"]),
    (called(lambda f, z, u: z, U.long()), TypeError, ["floating-point", "int64"]),
    (called(lambda f, z, *u: z, U, 3), TypeError, ["input 1", "int"]),
    (called(lambda f, z, *u: z, U, U.float()), TypeError, ["input 1", "float32", "float64"]),
    (called(lambda f, z, *u: z, U, U[:2]), ValueError, ["input 1", "4", "2"]),
    (lambda: EquilibriumLayer(Plain())(), TypeError, ["input beside z"]),
    (lambda: EquilibriumLayer(Plain())(U, z0=U[:2]), ValueError, ["z0", "(4, 6)", "(2, 6)"]),
    (lambda: EquilibriumLayer(Affine(matrix()))(U.float()), TypeError,
     ["A", "float64", "float32"]),
    (lambda: EquilibriumLayer(Plain()).jacobian_penalty(), RuntimeError, ["forward pass"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


def test_a_mode_that_changes_later_is_looked_at_again():
    f = Wrong(lambda f, z, u: torch.tanh(u + f.drop(z)), drop=nn.Dropout(0.5))
    layer = EquilibriumLayer(f).eval()
    assert layer(U).shape == U.shape
    rejects(lambda: layer.train()(U), ValueError, "Dropout")
    assert layer.eval()(U).shape == U.shape


def test_a_solve_that_fails_warns_or_raises_and_says_so():
    layer = EquilibriumLayer(Affine(matrix(norm=0.8) * 8, "relu"), solver=Picard(max_steps=50))
    with pytest.warns(ConvergenceWarning, match="4 of 4 samples"):
        solution = layer.equilibrium(U.abs())
    assert solution.status in (Status.DIVERGED, Status.MAX_STEPS)
    with pytest.raises(ConvergenceError):
        layer.equilibrium(U.abs(), throw=True)


def test_a_matrix_model_and_a_layer_train_alike():
    """The same start, the same batches: the same weights after ten steps."""
    model = ImplicitModel(5, 2, 6, constraint=None, activation="tanh", feedthrough=False,
                          generator=torch.Generator("cpu").manual_seed(0), solver=TIGHT,
                          adjoint=Implicit(TIGHT), **CPU64)
    with torch.no_grad():
        model.A.mul_(0.5)
    layer = layer_of(Affine(model.A.detach()))
    B, C = (nn.Parameter(M.detach().clone()) for M in (model.B, model.C))
    X, goal = draw(1, 8, 5), draw(2, 8, 2)
    one = torch.optim.SGD(model.parameters(), lr=0.1)
    two = torch.optim.SGD([layer.f.A, B, C], lr=0.1)
    for _ in range(10):
        for optimizer, value in ((one, model(X)), (two, layer(X @ B.T) @ C.T)):
            optimizer.zero_grad()
            (value - goal).square().mean().backward()
            optimizer.step()
    assert torch.allclose(model.A, layer.f.A, atol=1e-9) and torch.allclose(model.C, C, atol=1e-9)
