"""The monotone convolution against its dense matrix, built here column by column."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers import CPU64, draw, rejects
from torch import Tensor

from idl_lab.equilibrium import Implicit, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.layer import MonotoneCertificate, MonotoneConv2d

TIGHT = Anderson(rtol=1e-12, max_steps=20_000)
SIZES = [(1, 1), (1, 4), (3, 3), (5, 4)]


def layer_with(seed=0, p=2, c=3, k=3, scale=1.0, **options) -> MonotoneConv2d:
    generator = torch.Generator("cpu").manual_seed(seed)
    layer = MonotoneConv2d(p, c, k, generator=generator, **{"solver": TIGHT, **CPU64, **options})
    with torch.no_grad():
        layer.A.mul_(scale), layer.B.mul_(scale)
    return layer


def dense(kernel: Tensor, height: int, width: int) -> np.ndarray:
    """The matrix of a convolution with zero padding, by its definition."""
    K = kernel.detach().numpy()
    out, channels, k, _ = K.shape
    M = np.zeros((out, height, width, channels, height, width))
    for y in range(height):
        for x in range(width):
            for i in range(k):
                for j in range(k):
                    at = y + i - k // 2, x + j - k // 2
                    if 0 <= at[0] < height and 0 <= at[1] < width:
                        M[:, y, x, :, at[0], at[1]] += K[:, :, i, j]
    return M.reshape(out * height * width, -1)


def operator(layer: MonotoneConv2d, *size: int) -> np.ndarray:
    """F = I − W, dense."""
    A, B = dense(layer.A, *size), dense(layer.B, *size)
    return layer.modulus * np.eye(len(A)) + A.T @ A - B + B.T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("modulus", "scale"), [(1.0, 1.0), (0.05, 1.0), (1.0, 4.0), (3.0, 0.2)])
def test_the_certificate_holds_of_the_dense_matrix(size, k, modulus, scale):
    layer = layer_with(k=k, modulus=modulus, scale=scale)
    F, sure = operator(layer, *size), layer.certificate()
    symmetric = np.linalg.eigvalsh((F + F.T) / 2)
    assert symmetric[0] >= modulus * (1 - 1e-9) and symmetric[-1] <= sure.symmetric
    assert np.linalg.norm((F - F.T) / 2, 2) <= sure.skew
    contracted = np.linalg.norm(np.eye(len(F)) - sure.step * F, 2)
    assert contracted <= sure.rate < 1
    assert sure.modulus == modulus and f"modulus {modulus:g}" in sure.sentence


@pytest.mark.parametrize("k", [1, 3])
def test_the_bounds_are_near_what_large_images_have(k):
    layer = layer_with(k=k, c=2)
    F, sure = operator(layer, 12, 12), layer.certificate()
    assert sure.symmetric < 1.12 * np.linalg.eigvalsh((F + F.T) / 2)[-1]
    assert sure.skew < 1.12 * np.linalg.norm((F - F.T) / 2, 2)


def test_of_a_symmetric_or_a_flat_operator_the_step_is_the_known_one():
    layer = layer_with()
    with torch.no_grad():
        layer.B.zero_()
    sure = layer.certificate()
    l, m = sure.symmetric, 1.0
    assert sure.skew == 0 and sure.step == pytest.approx(2 / (m + l))
    assert sure.rate == pytest.approx((l - m) / (l + m))
    with torch.no_grad():
        layer.A.zero_()
    assert layer.certificate().step == pytest.approx(1) and layer.certificate().rate < 1e-3
    assert MonotoneCertificate(1.0, 1.0, 1.0, 0.25).rate == pytest.approx(math.sqrt(0.75))


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("bias", [True, False])
def test_it_solves_the_equation_of_the_paper(scale, bias):
    layer, u = layer_with(scale=scale, bias=bias), draw(1, 4, 2, 5, 4)
    z = layer(u)
    assert z.shape == (4, 3, 5, 4) and (layer.bias is None) == (not bias)
    W = np.eye(3 * 20) - operator(layer, 5, 4)
    b = u.reshape(4, -1).numpy() @ dense(layer.V, 5, 4).T
    if bias:
        b = b + layer.bias.detach().numpy().repeat(20)
    flat = z.detach().reshape(4, -1).numpy()
    assert flat == pytest.approx(np.maximum(flat @ W.T + b, 0), abs=1e-8)
    assert (flat > 0).any() and (flat == 0).any()


def test_where_the_plain_iteration_diverges_this_one_does_not():
    layer = layer_with(scale=4.0, bias=False, solver=Picard(rtol=1e-10, max_steps=20_000))
    u, W = draw(1, 4, 2, 4, 4), np.eye(48) - operator(layer, 4, 4)
    b = u.reshape(4, -1).numpy() @ dense(layer.V, 4, 4).T
    x = np.zeros_like(b)
    for _ in range(200):
        x = np.maximum(x @ W.T + b, 0)
        if np.abs(x).max() > 1e6:
            break
    assert np.abs(x).max() > 1e6 and np.linalg.norm(W, 2) > 10
    assert layer.equilibrium(u).status.ok


def test_every_start_ends_at_the_same_point():
    layer, u = layer_with(scale=2.0), draw(1, 3, 2, 4, 4)
    z = layer(u)
    for seed in range(5):
        start = draw(seed, 3, 3, 4, 4, scale=10.0 ** seed)
        assert torch.allclose(layer(u, z0=start), z, atol=1e-9)


def test_the_error_shrinks_by_the_certified_rate_at_every_step():
    layer, u = layer_with(), draw(1, 1, 2, 4, 4)
    goal = layer(u).detach().reshape(1, -1)
    layer.layer.solver = Picard(rtol=1e-8, max_steps=20_000)
    solution = layer.equilibrium(u, z0=draw(3, 1, 3, 4, 4), keep_states=True)
    errors = (solution.trace.states - goal).norm(dim=(1, 2))
    errors = errors[errors > 1e-7]
    assert len(errors) > 5 and (errors[1:] <= layer.certificate().rate * errors[:-1]).all()


# ---- gradients --------------------------------------------------------------------------------


def run(layer: MonotoneConv2d, u: Tensor, A: Tensor, B: Tensor, V: Tensor, c: Tensor) -> Tensor:
    named = {"layer.f.A": A, "layer.f.B": B, "V": V, "bias": c}
    return torch.func.functional_call(layer, named, (u,))


@pytest.mark.parametrize("adjoint", [Implicit(TIGHT), Unrolled()], ids=["implicit", "unrolled"])
def test_gradients_against_finite_differences(adjoint):
    layer = layer_with(c=2, p=1, modulus=4.0, adjoint=adjoint)
    u = draw(1, 1, 1, 3, 2).requires_grad_()
    given = [T.detach().requires_grad_() for T in (layer.A, layer.B, layer.V, layer.bias)]
    assert torch.autograd.gradcheck(lambda *T: run(layer, *T), (u, *given), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode
def test_forward_mode_second_derivatives_and_vmap():
    layer, u = layer_with(c=2, p=1, modulus=4.0), draw(1, 2, 1, 3, 2).requires_grad_()
    given = [T.detach().requires_grad_() for T in (layer.A, layer.B, layer.V, layer.bias)]
    assert torch.autograd.gradcheck(lambda *T: run(layer, *T), (u, *given), atol=1e-6,
                                    check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(lambda u: run(layer, u, *given).square(), u, atol=1e-6)
    each = torch.stack([layer(v[None])[0] for v in u])
    assert torch.allclose(torch.vmap(lambda v: layer(v[None])[0])(u), each, atol=1e-9)
    many = torch.stack([given[0], 2 * given[0]])
    rows = torch.vmap(lambda A: run(layer, u, A, *given[1:]))(many)
    for A, row in zip(many, rows, strict=True):
        assert torch.allclose(row, run(layer, u, A, *given[1:]), atol=1e-9)


def test_it_trains_and_keeps_its_certificate():
    layer = layer_with(solver=Anderson())
    u, goal = draw(1, 8, 2, 4, 4), draw(2, 8, 3, 4, 4).relu()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = (layer(u) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    symmetric = np.linalg.eigvalsh(operator(layer, 4, 4) + operator(layer, 4, 4).T) / 2
    assert symmetric[0] >= 1 - 1e-9 and layer.certificate().rate < 1


# ---- at home in torch -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_and_autocast(dtype):
    layer, u = layer_with(solver=Anderson(rtol=1e-4)), draw(1, 4, 2, 4, 4)
    wanted = layer(u)
    other = copy.deepcopy(layer).to(dtype)
    z = other(u.to(dtype))
    assert z.dtype == dtype and torch.allclose(z.double(), wanted, atol=0.03)
    z.float().square().sum().backward()
    assert all(M.grad.isfinite().all() for M in other.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = copy.deepcopy(layer).float()(u.float())
    assert z.dtype == torch.bfloat16 and torch.allclose(z.double(), wanted, atol=0.03)


def test_a_checkpoint_brings_the_function_back():
    one, other, u = layer_with(0), layer_with(1), draw(1, 2, 2, 4, 4)
    assert set(one.state_dict()) == {"layer.f.A", "layer.f.B", "V", "bias"}
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(u), other(u))
    assert "3, kernel_size=3, modulus=1" in repr(one)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: MonotoneConv2d(0, 3), ValueError, ["in_channels", "0"]),
    (lambda: MonotoneConv2d(1, 2.5), TypeError, ["channels", "2.5"]),
    (lambda: MonotoneConv2d(1, 3, 4), ValueError, ["kernel_size", "odd", "4"]),
    (lambda: MonotoneConv2d(1, 3, modulus=0.0), ValueError, ["modulus", "> 0"]),
    (lambda: MonotoneConv2d(1, 3, solver="picard"), TypeError, ["solver", "'picard'"]),
    (lambda: layer_with()(draw(0, 2, 3, 4, 4)), ValueError, ["channels=2", "(2, 3, 4, 4)"]),
    (lambda: layer_with()(draw(0, 2, 4, 4)), ValueError, ["m, channels=2, H, W", "(2, 4, 4)"]),
    (lambda: layer_with()(draw(0, 2, 2, 4, 4) / 0), ValueError, ["finite"]),
    (lambda: layer_with()(draw(0, 2, 2, 4, 4), z0=draw(0, 2, 2, 4, 4)), ValueError,
     ["z0", "(2, 3, 4, 4)"]),
    (lambda: layer_with()([1.0]), TypeError, ["u must be", "list"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


def test_an_empty_batch_has_an_empty_answer():
    assert layer_with()(draw(0, 0, 2, 4, 4)).shape == (0, 3, 4, 4)
