"""Solvers against exact solutions, each other, and the ways in which a solve goes wrong."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from helpers import draw, mat, rejects, unrolled
from hypothesis import example, given
from hypothesis import strategies as st

from idl_lab.fixed_point import Anderson, Picard, fixed_point
from idl_lab.fixed_point.solution import ConvergenceError, ConvergenceWarning, Solution, Status

SOLVERS = [Picard(rtol=1e-12), Picard(rtol=1e-12, damping=0.5), Anderson(rtol=1e-12),
           Anderson(rtol=1e-12, window=1), Anderson(rtol=1e-12, window=3, damping=0.5),
           Anderson(rtol=1e-12, ridge=0.0), Anderson(rtol=1e-12, window=30)]


def contraction(seed=0, n=5, m=4, norm=0.9, phi=torch.tanh):
    """A map with one fixed point, and that point by a plain loop."""
    A, b = draw(seed, n, n), draw(seed + 1, m, n)
    A = A * norm / A.abs().sum(1).max()
    name = phi.__name__ if phi is not torch.clone else "identity"
    return lambda X: phi(X @ A.mT + b), mat(unrolled(A.numpy(), b.numpy(), name, 3000))


def quietly(f, x, solver, **options):
    """A solve that may stop early."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fixed_point(f, x, solver, **options)


# ---- a solve that works ---------------------------------------------------------------------


@pytest.mark.parametrize("phi", [torch.tanh, torch.relu, torch.clone])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_finds_the_fixed_point(solver, phi):
    f, wanted = contraction(phi=phi)
    solution = fixed_point(f, torch.zeros_like(wanted), solver)
    assert solution.status is Status.CONVERGED and solution.status.ok
    assert torch.allclose(solution.value, wanted, atol=1e-10)
    assert solution.stats.converged.all()


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_status_and_stats_are_true_of_the_value_which_is_an_image(solver):
    f, wanted = contraction()
    images = []

    def seen(x):
        images.append(f(x))
        return images[-1]

    solution = fixed_point(seen, torch.zeros_like(wanted), dataclasses.replace(solver, rtol=1e-4),
                           keep_states=True)
    value, stats = solution.value, solution.stats
    assert any(torch.equal(value, image) for image in images) and stats.steps == len(images)
    residual, size = (f(value) - value).abs().amax(1), value.abs().amax(1)
    torch.testing.assert_close(residual, stats.residual, rtol=1e-10, atol=1e-15)
    assert (residual <= 1.0001e-4 * size).all() and stats.converged.all()
    assert torch.equal(solution.trace.residuals[-1], stats.residual)
    torch.testing.assert_close(stats.relative, stats.residual / size)


def test_the_first_residual_within_its_tolerance_ends_it():
    f, wanted = contraction()
    s = fixed_point(f, torch.zeros_like(wanted), Picard(rtol=1e-5), keep_states=True)
    relative = s.trace.residuals / s.trace.states[:-1].abs().amax(2)
    assert relative[-1].max() <= 1e-5 < relative[-2].max()
    absolute = fixed_point(f, torch.zeros_like(wanted), Picard(rtol=0, atol=1e-5)).trace.worst
    assert absolute[-1] <= 1e-5 < absolute[-2]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("size", [1e-12, 1e-5, 1.0, 1e7])
def test_small_and_large_inputs_are_solved_to_the_same_digits(solver, size):
    f, wanted = contraction(phi=torch.relu)
    small = torch.ones(4, 1, dtype=torch.float64)
    small[1:3] *= size  # in one batch with others
    scaled = lambda x: small * f(x / small)  # noqa: E731
    s = fixed_point(scaled, torch.zeros_like(wanted), dataclasses.replace(solver, rtol=1e-9))
    assert s.status is Status.CONVERGED
    torch.testing.assert_close(s.value / small, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", [Picard(), Picard(damping=0.5), Anderson()], ids=repr)
@pytest.mark.parametrize("norm", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [0, 1, 1e3, 1e6])
def test_a_start_far_off_costs_steps_and_no_digits(solver, norm, size):
    A, b = draw(0, 30, 30), draw(1, 4, 30)
    A = A.abs() * norm / A.abs().sum(1, keepdim=True)
    wanted = mat(unrolled(A.numpy(), b.numpy(), "relu", 5000))
    A, b, start = A.float(), b.float(), size * draw(2, 4, 30).abs().float()
    s = fixed_point(lambda X: torch.relu(X @ A.mT + b), start,
                    dataclasses.replace(solver, max_steps=10_000))
    assert s.status is Status.CONVERGED
    error = (s.value - wanted).abs().amax(1) / wanted.abs().amax(1)
    assert error.max() < 2e-6 / (1 - norm)  # a residual of 1e-6, over what a step leaves


@pytest.mark.parametrize("solver", [Picard(), Picard(damping=0.5), Anderson()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_solution_of_zero_is_found_from_a_start_that_is_none(solver, dtype):
    A = draw(0, 30, 30).abs()
    A, start = (0.9 * A / A.sum(1, keepdim=True)).to(dtype), 1e3 * draw(2, 4, 30).abs().to(dtype)
    s = fixed_point(lambda X: torch.relu(X @ A.mT), start, solver)
    assert s.status.ok and s.value.abs().max() < 1e-6


@pytest.mark.parametrize("solver", [Picard(1e-10), Picard(1e-10, damping=0.3), Anderson(1e-10)])
def test_trace_is_as_long_as_the_steps_and_holds_true_residuals(solver):
    f, wanted = contraction()
    s = fixed_point(f, torch.ones_like(wanted), solver, keep_states=True)
    assert s.trace.residuals.shape == (s.stats.steps, 4)
    assert s.trace.states.shape == (s.stats.steps + 1, 4, 5)
    assert torch.equal(s.trace.states[0], torch.ones_like(wanted))
    measured = torch.stack([(f(x) - x).abs().amax(1) for x in s.trace.states[:-1]])
    assert torch.allclose(measured, s.trace.residuals, rtol=1e-12)
    assert fixed_point(f, wanted, solver).trace.states is None


@pytest.mark.parametrize("solver", [Picard(1e-9), Picard(1e-9, damping=0.4),
                                    Anderson(1e-9), Anderson(1e-9, window=2)])
def test_single_stepping_is_the_same_solve(solver):
    f, wanted = contraction()
    whole = fixed_point(f, torch.zeros_like(wanted), solver, keep_states=True)
    x, status, states = torch.zeros_like(wanted), None, [torch.zeros_like(wanted)]
    state = solver.init(x)
    while status is None:
        x, fx, state = solver.step(f, x, state)
        status = solver.terminate(state)
        states.append(x)
    again = not state.image  # an accelerated point is followed by an evaluation at f(x)
    assert status is whole.status and state.steps + again == whole.stats.steps
    states[-1:] = [fx, x] if again else [x]
    assert torch.equal(torch.stack(states), whole.trace.states)
    assert torch.equal(whole.value, fx if again else states[-2])


def test_damping_is_the_written_formula():
    f, wanted = contraction()
    s = fixed_point(f, torch.zeros_like(wanted), Picard(1e-8, damping=0.3), keep_states=True)
    x = torch.zeros_like(wanted)
    for state in s.trace.states[:-1]:
        assert torch.allclose(state, x, atol=1e-14)
        x = 0.7 * x + 0.3 * f(x)


def test_damping_tames_an_oscillation_and_short_steps_do_not_pass():
    f = lambda x: -1.5 * x + 1  # noqa: E731 (the fixed point is 0.4; Picard diverges)
    x = mat([[5.0]])
    assert fixed_point(f, x, Picard(1e-10, damping=0.5)).value.item() == pytest.approx(0.4)
    assert not quietly(f, x, Picard(1e-10)).status.ok
    far = quietly(lambda x: 0 * x + 1, mat([[0.0]]), Picard(1e-3, max_steps=50, damping=1e-5))
    assert far.status is Status.MAX_STEPS and far.stats.residual.item() > 0.9


@pytest.mark.parametrize("solver", [Picard(1e-12), Anderson(1e-12)])
@pytest.mark.parametrize("lead", [(), (1,), (6,), (2, 3), (3, 1, 2)])
def test_leading_dimensions(solver, lead):
    A, b = 0.1 * draw(0, 5, 5), draw(1, 6, 5)[:int(np.prod(lead))].reshape(*lead, 5)
    s = fixed_point(lambda X: torch.tanh(X @ A.mT + b), torch.zeros_like(b), solver,
                    keep_states=True)
    wanted = unrolled(A.numpy(), b.numpy(), "tanh")
    assert s.value.shape == b.shape and s.value.numpy() == pytest.approx(wanted, abs=1e-10)
    assert s.stats.residual.shape == s.stats.relative.shape == s.stats.converged.shape == lead
    assert s.trace.residuals.shape == (s.stats.steps, *lead)
    assert s.trace.states.shape == (s.stats.steps + 1, *lead, 5)
    assert s.trace.worst.shape == (s.stats.steps,)
    assert "CONVERGED" in repr(s)


@pytest.mark.parametrize("solver", [Picard(), Anderson()])
@pytest.mark.parametrize("lead", [(0,), (2, 0)])
def test_no_samples_is_a_solution_too(solver, lead):
    x = torch.zeros(*lead, 3, device="cpu")
    s = fixed_point(lambda x: x + 1, x, solver, keep_states=True)
    assert s.status is Status.CONVERGED and s.value.shape == (*lead, 3) and s.stats.steps == 0
    assert s.trace.residuals.shape == (0, *lead) and s.trace.states.shape == (1, *lead, 3)
    assert s.trace.worst.shape == (0,)
    assert "0 steps" in repr(s)


# ---- Anderson -------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 0.97),
       st.sampled_from(SOLVERS[2:]), st.sampled_from([torch.tanh, torch.relu, torch.clone]))
def test_anderson_agrees_with_picard(seed, n, norm, solver, phi):
    f, wanted = contraction(seed, n=n, norm=norm, phi=phi)
    value = fixed_point(f, 10 * draw(seed + 2, 4, n), solver, throw=True).value
    assert torch.allclose(value, wanted, rtol=1e-8, atol=1e-8)


def test_a_linear_map_is_solved_in_as_many_steps_as_dimensions():
    """With a full window Anderson is GMRES there: n + 1 points, one more to see it."""
    A, b = 0.9 * torch.linalg.qr(draw(0, 4, 4)).Q, draw(1, 1, 4)
    s = fixed_point(lambda x: x @ A.mT + b, torch.zeros_like(b),
                    Anderson(rtol=1e-6, window=6, ridge=0.0))
    exact = torch.linalg.solve(torch.eye(4, device="cpu", dtype=A.dtype) - A, b[0])
    assert s.stats.steps <= 7 and torch.allclose(s.value[0], exact, atol=1e-5)
    assert fixed_point(lambda x: x @ A.mT + b, torch.zeros_like(b), Picard(1e-6)).stats.steps > 100


def test_anderson_is_faster_where_picard_is_slow():
    x = mat(np.zeros((2, 3)))
    slow, fast = (fixed_point(lambda x: 0.99 * x + 1, x, s) for s in (Picard(1e-8), Anderson(1e-8)))
    assert fast.stats.steps < 20 < 1000 < slow.stats.steps


DEGENERATE = {
    "constant": lambda x: torch.ones_like(x),
    "zero": lambda x: torch.zeros_like(x),
    "already there": lambda x: x,
    "identity on one axis": lambda x: torch.cat([x[:, :1], 0.5 * x[:, 1:]], 1),
    "one line": lambda x: 0.5 * x.mean(1, keepdim=True).expand_as(x) + 1,
    "flips sign": lambda x: -x,
    "period three": lambda x: x.roll(1, 1),
    "steps": lambda x: torch.floor(0.5 * x),
    "grows": lambda x: 3 * x + 1,
    "explodes": lambda x: x * x * 1e30 + 1,
    "becomes NaN": lambda x: torch.log(x),
    "tiny": lambda x: 0.5 * x + 1e-300,
    "huge": lambda x: 0.5 * x + 1e150,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("solver", [Anderson(max_steps=200), Anderson(max_steps=200, ridge=0.0),
                                    Anderson(max_steps=200, window=12, damping=0.7)], ids=repr)
@pytest.mark.parametrize("name", DEGENERATE)
def test_anderson_never_dies(name, solver, n, dtype):
    x = draw(3, 2, n, scale=2).to(dtype)
    if dtype == torch.float32 and name in ("tiny", "huge"):
        x = x.double()
    s = quietly(DEGENERATE[name], x, solver)
    assert s.value.isfinite().all() and s.value.shape == x.shape
    if s.status is Status.CONVERGED:
        image = DEGENERATE[name](s.value)
        assert torch.allclose(image, s.value, atol=2e-6, rtol=1e-6)
    if name in ("constant", "zero", "already there", "one line"):
        assert s.status.ok and s.stats.steps <= (60 if name == "zero" else 30)


@pytest.mark.parametrize("window", [2, 5, 9])
def test_identical_iterates_and_a_window_larger_than_the_dimension(window):
    f = lambda x: torch.full_like(x, 2.0)  # noqa: E731
    solver, x = Anderson(rtol=0.0, window=window), mat([[2.0]])
    state = solver.init(x)
    for _ in range(2 * window):
        x, fx, state = solver.step(f, x, state)
        assert x.item() == pytest.approx(2.0, abs=1e-15) and state.worst <= 1e-15


def test_a_mixed_point_that_does_not_help_is_thrown_away():
    """A kink fools the mixing; the safeguard goes back to the last accepted Picard step."""
    f = lambda x: torch.where(x < 1, 0.95 * x + 0.1, 1.95 - 0.9 * x)  # noqa: E731
    solver = Anderson(rtol=1e-10, window=3)
    x, rejected = mat([[-7.0]]), 0
    state = solver.init(x)
    for _ in range(200):
        following, fx, state = solver.step(f, x, state)
        counts, mixed, fallback = state.memory[3:6]
        if not mixed.any() and not torch.equal(following, fx):
            rejected += 1
            assert torch.equal(following, fallback) and not counts.any()  # all forgotten
        x = following
        if solver.terminate(state):
            break
    assert rejected > 0
    assert solver.terminate(state) is Status.CONVERGED
    assert fx.item() == pytest.approx(1.95 / 1.9)


@given(st.integers(0, 10**6))
@example(0)
def test_each_sample_is_solved_as_if_alone(seed):
    A, b = draw(seed, 4, 4), draw(seed + 1, 3, 4)
    A = 0.9 * A / A.abs().sum(1).max()
    f = lambda X, b: torch.tanh(X @ A.mT + b)  # noqa: E731
    solver, together, alone = Anderson(1e-12), [], []
    x, state = torch.zeros_like(b), None
    for rows in (slice(0, 3), slice(1, 2)):
        x, points = torch.zeros_like(b[rows]), []
        state = solver.init(x)
        for _ in range(8):
            x, _, state = solver.step(lambda X, rows=rows: f(X, b[rows]), x, state)
            points.append(x[-2 if rows.start == 0 else 0])
        (together if rows.start == 0 else alone).extend(points)
    assert torch.allclose(torch.stack(together), torch.stack(alone), atol=1e-6)


# ---- a solve that fails ---------------------------------------------------------------------


def test_max_steps_warns_with_the_residual_and_what_to_do():
    f, wanted = contraction()
    with pytest.warns(ConvergenceWarning) as caught:
        s = fixed_point(f, torch.zeros_like(wanted), Picard(rtol=1e-12, max_steps=5))
    message = str(caught[0].message)
    assert s.status is Status.MAX_STEPS and not s.status.ok and s.stats.steps == 5
    for fragment in (s.status.value, "4 of 4 samples", "rtol=1e-12", "5 steps",
                     f"{float(s.stats.residual.max()):.2e}", "max_steps", "Anderson()"):
        assert fragment in message
    assert caught[0].filename == __file__


def test_throw_raises_the_same_sentence():
    f, wanted = contraction()
    rejects(lambda: fixed_point(f, torch.zeros_like(wanted), Picard(max_steps=3), throw=True),
            ConvergenceError, "4 of 4 samples", "in 3 steps", "raise max_steps")


@pytest.mark.parametrize("solver", [Picard(1e-9, max_steps=400), Anderson(1e-9, max_steps=400)])
def test_a_diverging_sample_does_not_spoil_its_neighbours(solver):
    slope = mat([[0.5], [3.0], [0.9]])
    # The second has no fixed point: x² + 2x + 2 has no real root.
    f = lambda x: slope * x + 1 + torch.where(slope > 1, x * x + 1, 0)  # noqa: E731
    s = quietly(f, mat(np.ones((3, 2))), solver)
    # Anderson stays near the smallest residual there is, above or below the first.
    assert s.status is Status.DIVERGED or isinstance(solver, Anderson)
    assert not s.status.ok
    assert s.stats.converged.tolist() == [True, False, True]
    assert s.value.isfinite().all()
    assert s.value[[0, 2]].numpy() == pytest.approx(np.array([[2.0] * 2, [10.0] * 2]), abs=1e-6)
    assert len(s.trace.residuals) == s.stats.steps <= 400
    assert s.stats.residual[1] == s.trace.residuals[:, 1].nan_to_num(torch.inf).min()


def test_divergence_ends_soon_and_returns_the_best_point():
    x = mat([[1.0], [2.0]])
    s = quietly(lambda x: x * x + 3, x, Picard(max_steps=10**6), keep_states=True)
    assert s.status is Status.DIVERGED and s.stats.steps < 100
    assert torch.equal(s.value, x)  # residuals only grow: the start is the best
    assert s.stats.residual.tolist() == [3.0, 5.0]
    assert not s.trace.states[-1].isfinite().all()


def test_a_slowly_growing_residual_is_divergence_and_a_constant_one_is_not():
    grows = quietly(lambda x: 1.01 * x + 1, mat([[1.0]]), Picard(max_steps=50))
    stays = quietly(lambda x: torch.relu(x + 1), mat([[1.0]]), Picard(max_steps=50))
    assert (grows.status, stays.status) == (Status.DIVERGED, Status.MAX_STEPS)


@pytest.mark.parametrize("f", [lambda x: x / 0, lambda x: torch.log(-x.abs() - 1)])
def test_an_infinite_first_image_leaves_the_start(f):
    x = mat([[1.0, 2.0]])
    s = quietly(f, x, Picard())
    assert s.status is Status.DIVERGED and torch.equal(s.value, x)
    assert s.stats.residual.tolist() == [torch.inf] and not s.stats.converged.any()


def test_the_best_point_is_each_samples_own():
    """The second sample's residual goes 1, 0.1, 0.5, 0.5 …, while the first one's falls."""
    path = {0: 1.0, 1: 0.1, 2: 0.5, 3: 0.5}
    calls = []

    def f(x):
        k = len(calls)
        calls.append(k)
        return torch.cat([0.9 * x[:1], x[1:] + path[min(k, 3)]])

    s = quietly(f, mat([[10.0], [0.0]]), Picard(rtol=1e-9, max_steps=6))
    assert s.stats.residual[1].item() == pytest.approx(0.1)
    assert s.value[1].item() == pytest.approx(1.0)
    assert s.value[0].item() == pytest.approx(10 * 0.9**5)


def test_rounding_ends_a_solve_that_asks_too_much():
    A, b = draw(0, 30, 30).float(), draw(1, 8, 30).float()
    A = 0.9 * A / A.abs().sum(1).max()
    for solver in (Picard(rtol=0.0), Anderson(rtol=0.0)):
        s = fixed_point(lambda X: torch.tanh(X @ A.mT + b), torch.zeros_like(b), solver)
        assert s.status.ok and s.stats.steps < 500 and s.stats.converged.all()
        assert float(s.stats.relative.max()) <= 4 * torch.finfo(torch.float32).eps


def test_rounding_is_named():
    """A residual of one unit in the last place for ever: as good as float32 gets."""
    one_up = torch.nextafter(mat([1.0]).float(), mat([2.0]).float())
    s = fixed_point(lambda x: torch.where(x == 1, one_up, 1.0), mat([[1.0]]).float(), Picard(0.0))
    assert s.status is Status.ROUNDING and s.stats.converged.all() and s.stats.steps <= 8


# ---- settings and bad input -----------------------------------------------------------------


def test_settings_are_frozen_values():
    assert Picard() == Picard() and Picard(rtol=1e-3) != Picard()
    assert len({Anderson(), Anderson()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Picard().rtol = 1.0
    assert dataclasses.replace(Anderson(), window=2).window == 2


@pytest.mark.parametrize("kind", [Picard, Anderson])
@pytest.mark.parametrize(("options", "error", "fragments"), [
    ({"rtol": -1e-3}, ValueError, ["rtol", ">= 0", "-0.001"]),
    ({"rtol": float("nan")}, ValueError, ["rtol", "nan"]),
    ({"rtol": "small"}, TypeError, ["rtol", "'small'"]),
    ({"max_steps": 0}, ValueError, ["max_steps", "at least 1"]),
    ({"max_steps": 10.0}, TypeError, ["max_steps", "10.0"]),
    ({"damping": 0.0}, ValueError, ["damping", "> 0 and <= 1"]),
    ({"damping": 1.1}, ValueError, ["damping", "1.1"]),
    ({"mitr": 3}, TypeError, ["mitr"]),
])
def test_settings_refuse(kind, options, error, fragments):
    rejects(lambda: kind(**options), error, *fragments)


X = torch.zeros(2, 3, device="cpu")


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: Anderson(window=0), ValueError, ["window", "at least 1"]),
    (lambda: Anderson(ridge=-1.0), ValueError, ["ridge", ">= 0"]),
    (lambda: fixed_point(torch.tanh, [0.0]), TypeError, ["x must be a torch.Tensor", "list"]),
    (lambda: fixed_point(torch.tanh, X.long()), TypeError, ["int64", "x.float()"]),
    (lambda: fixed_point(torch.tanh, X / 0), ValueError, ["x must be finite", "6 NaN"]),
    (lambda: fixed_point(torch.tanh, X.sum()), ValueError, ["(..., n)", "()"]),
    (lambda: fixed_point(torch.tanh, X[:, :0]), ValueError, ["n at least 1", "(2, 0)"]),
    (lambda: fixed_point(lambda x: x[:, :2], X), ValueError, ["shape (2, 3)", "(2, 2)"]),
    (lambda: fixed_point(lambda x: x[0], X), ValueError, ["shape (2, 3)", "(3,)"]),
    (lambda: fixed_point(lambda x: x.mT, X[None]), ValueError, ["(1, 2, 3)", "(1, 3, 2)"]),
    (lambda: fixed_point(lambda x: None, X), ValueError, ["tensor", "None"]),
    (lambda: fixed_point(torch.tanh, X, "anderson"), TypeError, ["Anderson()", "'anderson'"]),
    (lambda: fixed_point(torch.tanh, X, Picard), TypeError, ["Picard()", "class"]),
    (lambda: fixed_point(torch.tanh, X, None), TypeError, ["None"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


def test_a_solution_prints_one_line():
    s = fixed_point(lambda x: 0 * x, X + 1.0)
    assert isinstance(s, Solution) and repr(s).count("\n") == 0
    assert "CONVERGED" in repr(s) and "(2, 3)" in repr(s) and "2 steps" in repr(s)


def test_a_solver_of_ones_own_says_where_it_wants_no_test():
    class Rare(Picard):
        def untested(self, state):
            return 4

    f, wanted = contraction()
    s = fixed_point(f, torch.zeros_like(wanted), Rare(1e-8), lean=True)
    assert s.trace.steps[:4] == (1, 6, 11, 16) and s.status is Status.CONVERGED
