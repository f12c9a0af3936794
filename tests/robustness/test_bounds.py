"""Bounds hold, are nested, and are as tight as they say."""

import importlib
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idl_lab import ImplicitModel
from idl_lab.fixed_point import PeacemanRachford
from idl_lab.robustness import bounds, certify, fgsm, pgd, sensitivity_attack
from idl_lab.robustness.bound import Linear, bound
from idl_lab.robustness.bounds import METHODS, Enclosure, stages
from idl_lab.robustness.closed import Closed
from idl_lab.robustness.dual import optimized
from idl_lab.robustness.relaxation import polygon
from idl_lab.robustness.system import Ball, System
from tests.helpers import draw
from tests.robustness_cases import KINDS, around, case, exact_minimum, exactly

SLACK = 1e-9  # of the oracle's own solve


def all_bounds(model, U, eps, **options):
    return [bounds(model, U, eps, method=name, progress=False, **options)
            for name in METHODS if name in stages(System.of(model), "lp")]


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3)
@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 2.0]))
def test_bounds_hold_and_are_nested(kind, norm, seed, eps):
    """3 models for each of 10 kinds and norms, 600 pairs each: 18 000 pairs."""
    model = case(kind, seed)
    U = draw(seed, 2, 4)
    V = around(U, eps, norm, 300, seed)
    X, Y = exactly(model, V.flatten(0, 1))
    X, Y = X.reshape(300, 2, -1), Y.reshape(300, 2, -1)
    outer = None
    for found in all_bounds(model, U, eps, norm=norm):
        assert (found.lower.numpy() <= Y + SLACK).all() and (Y <= found.upper.numpy() + SLACK).all()
        assert (found.state_lower.numpy() <= X + SLACK).all()
        assert (X <= found.state_upper.numpy() + SLACK).all()
        if outer is not None:
            for low, high in (("lower", "upper"), ("state_lower", "state_upper")):
                assert (getattr(found, low) >= getattr(outer, low)).all(), found.method
                assert (getattr(found, high) <= getattr(outer, high)).all(), found.method
        outer = found


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid", "softplus", "elu",
                                        "hardtanh", "identity", torch.nn.functional.silu])
@pytest.mark.parametrize("kind", ["row", "monotone"])
def test_other_activations(kind, activation):
    if kind == "monotone" and not isinstance(activation, str):
        pytest.skip("silu does not increase")
    with pytest.warns() if not isinstance(activation, str) else torch.no_grad():
        model = case(kind, 3, activation=activation, kappa=0.7)
    U = draw(3, 3, 4)
    for eps in (0.01, 0.3, 2.0):
        V = around(U, eps, math.inf, 100, 5)
        _, Y = exactly(model, V.flatten(0, 1))
        Y = Y.reshape(100, 3, -1)
        outer = None
        for found in all_bounds(model, U, eps):
            assert (found.lower.numpy() <= Y + SLACK).all()
            assert (Y <= found.upper.numpy() + SLACK).all()
            if outer is not None:
                assert (found.upper - found.lower <= outer.upper - outer.lower).all()
            outer = found
        width = torch.as_tensor(Y.max(0) - Y.min(0))
        if eps == 0.01 and isinstance(activation, str):  # nearly a line there
            assert (width / (outer.upper - outer.lower)).mean() > 0.3


@pytest.mark.parametrize("kind", ["row", "monotone"])
@pytest.mark.parametrize("seed", range(1, 3))
def test_against_every_activation_pattern(kind, seed):
    model = case(kind, seed, n=5, p=3)
    u = draw(seed, 1, 3)
    eps, label = 0.3, int(model(u).argmax())
    J = np.eye(3)[label] - np.delete(np.eye(3), label, axis=0)
    truth = exact_minimum(model, u[0], eps, J).min()
    margins = [certify(model, u, torch.tensor([label]), eps, method=name, progress=False).margin
               for name in ("norm", "affine", "lp", "branch")]
    assert sorted(margins) == margins and float(margins[-1]) <= truth + SLACK
    decided = certify(model, u, torch.tensor([label]), eps, progress=False)
    assert bool(decided.certified) == (truth > 0)
    assert bool(decided.broken) == (truth < 0) or not bool(decided.certified)


@pytest.mark.parametrize("n", [8, 12])
def test_branching_decides_margins_next_to_zero(n):
    """Of a margin just above and just below 0 the certificate says which it is."""
    model = case("monotone", 11, n=n, p=2, q=2)
    u = draw(4, 1, 2)
    label = int(model(u).argmax())
    J = np.eye(2)[[label]] - np.eye(2)[[1 - label]]
    eps = 0.4
    least = exact_minimum(model, u[0], eps, J)[0]
    for shift, sure in ((-least + 1e-2, True), (-least - 1e-2, False)):
        moved = case("monotone", 11, n=n, p=2, q=2)
        with torch.no_grad():
            moved.output_bias[label] += shift
        got = certify(moved, u, torch.tensor([label]), eps, progress=False, nodes=2000)
        assert bool(got.certified) is sure


@pytest.mark.parametrize("kind", ["row", "perron", "monotone"])
def test_bounds_hold_the_exact_range_of_twelve_states(kind):
    """The range of each output over the box, by 4096 patterns: every method's bounds hold it."""
    model, u, eps = case(kind, 5, n=12, p=3, q=2), draw(5, 1, 3), 0.2
    ends = exact_minimum(model, u[0], eps, np.concatenate([np.eye(2), -np.eye(2)]))
    least, most = ends[:2], -ends[2:]
    assert (most - least > 1e-2).all()
    for found in all_bounds(model, u, eps):
        assert (found.lower[0].numpy() <= least + SLACK).all(), found.method
        assert (most - SLACK <= found.upper[0].numpy()).all(), found.method
    width = (found.upper - found.lower)[0].numpy()
    assert (width <= 2 * (most - least)).all()  # the linear program is near it


@pytest.mark.parametrize("kind", KINDS)
def test_the_ascent_comes_close_to_the_linear_program_and_never_above_it(kind):
    model = case(kind, 1, n=10)
    system, u = System.of(model), draw(1, 1, 4)
    ball = Ball.of(system, u, 0.3)
    known = Enclosure.of(Closed(system), ball)
    known.tighten("affine")
    P = polygon(system.phi, known.lower, known.upper)
    f = Linear.outputs(system, 1)
    ours = bound(system, ball, P, f, optimized(system, ball, P, f, 300))[0][0].numpy()
    start = known.functions(f)[0][0].numpy()
    # Variables (x, u); every polygon as x ≥ and x ≤ lines of z = Ax + Bu + a through its corners.
    n, p = system.B.shape
    A, B, a = (T.numpy() for T in (system.A, system.B, system.a))
    z, x = P.z[0].numpy(), P.x[0].numpy()
    rows, right = [], []
    for i in range(n):
        slope = [(x[i, k + 1] - x[i, k]) / (z[i, k + 1] - z[i, k])
                 for k in range(2) if z[i, k + 1] > z[i, k]]
        chord = (x[i, -1] - x[i, 0]) / (z[i, -1] - z[i, 0])
        e = np.eye(n)[i]
        for s, at, sign in [(s, z[i, 1] if len(slope) > 1 else z[i, 0], 1) for s in slope] + [
                (chord, z[i, 0], -1)]:
            value = x[i, 1] if sign == 1 and len(slope) > 1 else x[i, 0]
            # sign · (value + s (z − at)) ≤ sign · x
            rows.append(np.concatenate([sign * (s * A[i] - e), sign * s * B[i]]))
            right.append(sign * (s * at - value - s * a[i]))
    box = [(None, None)] * n + [(float(c - r), float(c + r)) for c, r in
                                zip(ball.center[0], ball.radius[0], strict=True)]
    for k in range(3):
        cost = np.concatenate([system.C[k].numpy(), system.D[k].numpy()])
        best = scipy.optimize.linprog(cost, rows, right, bounds=box, method="highs")
        optimum = best.fun + float(system.c[k])
        assert ours[k] <= optimum + 1e-9
        assert optimum - ours[k] <= 0.1 * (optimum - start[k]) + 0.02 * abs(optimum - start[k]) \
            + 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_float32_models_and_large_numbers(kind):
    """Bounds of a float32 model hold for its matrices exactly, at any scale."""
    for scale in (1e-6, 1.0, 1e6):
        model = case(kind, 2, dtype=torch.float32)
        with torch.no_grad():
            if model.state_bias is not None:
                model.state_bias.mul_(scale)
                model.output_bias.mul_(scale)
        U = (draw(2, 3, 4) * scale).float()
        eps = 0.0  # the ball is a point: nothing but rounding is left between the bounds
        _, Y = exactly(model, U) if scale <= 1 else (None, None)
        for found in all_bounds(model, U, eps):
            assert (found.upper - found.lower >= 0).all()
            assert (found.upper - found.lower).max() <= 1e-6 * max(1.0, scale)
            if Y is not None:
                assert (found.lower.numpy() <= Y + SLACK).all()
                assert (Y <= found.upper.numpy() + SLACK).all()


def test_a_constant_output_is_bounded_by_itself():
    model = ImplicitModel.from_matrices(torch.zeros(2, 2), torch.zeros(2, 3), torch.ones(2, 2))
    found = bounds(model, torch.zeros(1, 3), 1.0, method="lp", progress=False)
    assert found.lower.abs().max() < 1e-12 and found.upper.abs().max() < 1e-12


def test_the_data_range_cuts_the_box():
    model = case("row", 0)
    U = torch.full((1, 4), 0.95, dtype=torch.float64)
    cut = bounds(model, U, 0.2, low=0.0, high=1.0, progress=False)
    whole = bounds(model, U, 0.2, progress=False)
    V = torch.rand(500, 4, dtype=torch.float64) * 0.25 + 0.75
    _, Y = exactly(model, V)
    assert (cut.lower.numpy() <= Y + SLACK).all() and (Y <= cut.upper.numpy() + SLACK).all()
    assert (cut.upper - cut.lower < whole.upper - whole.lower).all()


QUICK = {("row", math.inf): 3, ("monotone", math.inf): 3, ("network", 2): 3}


@pytest.mark.parametrize(("kind", "norm", "samples", "least"), [
    *((kind, norm, 12, least) for (kind, norm), least in QUICK.items()),
    *(pytest.param(kind, norm, 40, 20, marks=pytest.mark.slow)
      for kind in KINDS for norm in (2, math.inf)),
])
def test_what_is_certified_no_attack_breaks(kind, norm, samples, least):
    certified = 0
    for seed in range(2):
        model = case(kind, seed, n=12, p=5)
        U = draw(seed, samples, 5)
        labels = model(U).argmax(1).detach()
        for eps in (0.03, 0.2):
            proven = certify(model, U, labels, eps, norm=norm, progress=False, nodes=100)
            assert not (proven.certified & proven.broken).any()
            assert ((proven.margin > 0) == proven.certified).all()
            generator = torch.Generator().manual_seed(seed)
            attacks = [pgd(model, U, labels, eps, norm=norm, steps=8, restarts=2, loss=loss,
                           generator=generator, progress=False)
                       for loss in ("margin", "cross-entropy")]
            if norm == math.inf:
                attacks.append(fgsm(model, U, labels, eps))
            if norm == math.inf and kind != "monotone":
                attacks.append(sensitivity_attack(model, U, labels, eps, 3))
            for V in [*attacks, *around(U, eps, norm, 20, seed)]:
                _, Y = exactly(model, V)
                Y = torch.as_tensor(Y)
                right = Y.gather(1, labels[:, None])[:, 0]
                other = Y.scatter(1, labels[:, None], -torch.inf).amax(1)
                sure = proven.certified
                assert (right > other)[sure].all()
                assert (right - other >= proven.margin - SLACK).all()
            certified += int(proven.certified.sum())
    assert certified > least


def test_a_monotone_model_is_solved_where_its_own_solver_diverges():
    """Of published matrices, given without a solver, as much is proven as with the right one."""
    model, U = case("monotone", 0, n=20), draw(0, 5, 4)
    given = {name: getattr(model, name).detach() for name in (*"ABCD", "state_bias", "output_bias")}
    given["A"] = 20 * (given["A"] - torch.eye(20, dtype=torch.float64))  # −20 ≥ its eigenvalues
    plain = ImplicitModel.from_matrices(**given)
    right = ImplicitModel.from_matrices(**given, solver=PeacemanRachford())
    labels = right(U).argmax(1).detach()
    proven = certify(plain, U, labels, 0.1, method="lp", progress=False)
    assert proven.correct.all() and proven.certified.any()
    assert torch.equal(proven.margin, certify(right, U, labels, 0.1, method="lp",
                                              progress=False).margin)


def test_an_ill_posed_model_is_refused():
    model = ImplicitModel.from_matrices(3 * torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="exactly one equilibrium"):
        bounds(model, torch.zeros(1, 2), 0.1)


BAD = [
    (dict(eps=-1.0), ValueError, "eps must be >= 0"),
    (dict(eps=math.inf), ValueError, "eps must be"),
    (dict(eps="a"), TypeError, "eps must be a number"),
    (dict(eps=-torch.ones(2, 4, dtype=torch.float64)), ValueError, "eps must be at least 0"),
    (dict(eps=torch.ones(3, dtype=torch.float64)), ValueError, "eps must broadcast"),
    (dict(norm=3), ValueError, "norm must be 2 or inf"),
    (dict(method="interval"), ValueError, "intervals would grow"),
    (dict(method="lpp"), ValueError, "lp"),
    (dict(low=1.0, high=0.0), ValueError, "low must be below high"),
    (dict(low=0.0, high=0.1), ValueError, "U must lie in the range"),
    (dict(U=torch.zeros(2, 3, dtype=torch.float64)), ValueError, "U must have shape"),
    (dict(U=torch.full((2, 4), math.nan, dtype=torch.float64)), ValueError, "U must be finite"),
    (dict(U=[[0.0] * 4]), TypeError, "U must be a torch.Tensor"),
    (dict(model=torch.nn.Linear(4, 3)), TypeError, "model must be an ImplicitModel"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
@pytest.mark.parametrize("function", [bounds, certify])
def test_bad_input(function, change, error, message):
    given = {"model": case("monotone", 0), "U": draw(0, 2, 4), "eps": 0.1} | change
    labels = () if function is bounds else (torch.zeros(2, dtype=torch.int64),)
    model, U, eps = (given.pop(name) for name in ("model", "U", "eps"))
    with pytest.raises(error, match=message):
        function(model, U, *labels, eps, progress=False, **given)


@pytest.mark.parametrize(("labels", "error", "message"), [
    (torch.zeros(3, dtype=torch.int64), ValueError, "labels must have shape"),
    (torch.zeros(2), TypeError, "labels must be a tensor of whole numbers"),
    ([0, 0], TypeError, "labels must be a tensor"),
    (torch.tensor([0, 3]), ValueError, r"labels must be in \[0, 2\]"),
])
def test_bad_labels(labels, error, message):
    for function in (certify, pgd, fgsm):
        with pytest.raises(error, match=message):
            function(case("row", 0), draw(0, 2, 4), labels, 0.1)


def test_branching_needs_a_bend_at_zero():
    with pytest.raises(ValueError, match="linear on both"):
        certify(case("row", 0, activation="tanh"), draw(0, 2, 4), torch.zeros(2).long(), 0.1,
                method="branch")


def test_an_interrupt_keeps_what_was_done(monkeypatch):
    module, certifying = (importlib.import_module(f"idl_lab.robustness.{name}")
                          for name in ("bounds", "certify"))
    model, U = case("row", 0), draw(0, 6, 4)
    labels = model(U).argmax(1).detach()
    whole = certify(model, U, labels, 0.01, progress=False)
    for where in (module, certifying):
        monkeypatch.setattr(where, "chunks", lambda system, m: (
            slice(k, k + 2) for k in range(0, m, 2)))
    calls = []

    def of(closed, ball, real=Enclosure.of):
        calls.append(ball)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return real(closed, ball)

    monkeypatch.setattr(Enclosure, "of", of)
    found = bounds(model, U, 0.01, progress=False)
    assert found.status == "interrupted: 4 of 6 samples have bounds"
    assert torch.isfinite(found.lower[:4]).all() and torch.isinf(found.lower[4:]).all()
    proven = certify(model, U, labels, 0.01, progress=False)
    assert "interrupted" in proven.status and not proven.certified[4:].any()
    assert (proven.certified[:4] == whole.certified[:4]).all()
