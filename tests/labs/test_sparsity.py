"""Lab 11: pruning by brute force, sparse models and what they read, refusals, and the panel."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from idl_lab import data
from idl_lab.labs.kit.problems import whole
from idl_lab.labs.sparsity import panel as panels
from idl_lab.labs.sparsity.plots import draw_samples, draw_sparsity
from idl_lab.labs.sparsity.problems import (
    PRUNINGS,
    REFITS,
    Sparse,
    Task,
    digits,
    images,
    random,
    read_by,
    table,
)
from idl_lab.labs.sparsity.pruning import METHODS, alps, largest, obc, refit
from idl_lab.labs.sparsity.students import Students

# ---- layer-wise reconstruction --------------------------------------------------------------


def layer(k: int = 3, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    Phi = draws.normal(size=(40, d)) @ draws.normal(size=(d, d))  # correlated
    return Phi.T @ Phi, draws.normal(size=(k, d)), np.arange(d) < d - 1


def loss(H: np.ndarray, W: np.ndarray, V: np.ndarray) -> float:
    return float(np.einsum("ij,jk,ik->", V - W, H, V - W))


def test_refit_is_least_squares():
    H, W, _ = layer()
    kept = np.random.default_rng(1).random(W.shape) < 0.6
    V = refit(H, W @ H, kept)
    root = np.linalg.cholesky(H).T
    for v, w, on in zip(V, W, kept, strict=True):
        wanted = np.linalg.lstsq(root[:, on], root @ w, rcond=None)[0]
        np.testing.assert_allclose(v[on], wanted, rtol=1e-8)
        assert not v[~on].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gone", [1, 4, 8, 12])
def test_obc_is_greedy_removal_by_brute_force(seed, gone):
    """Of each row the weight whose best refit costs least; over all rows the cheapest first."""
    H, W, prunable = layer(seed=seed)
    courses = []
    for w in W:
        on, course, before = np.ones(len(w), dtype=bool), [w], 0.0
        increments = []
        while on[prunable].any():
            choices = []
            for j in np.flatnonzero(on & prunable):
                less = on.copy()
                less[j] = False
                v = refit(H, (w @ H)[None], less[None])[0]
                choices.append((loss(H, w[None], v[None]), j, v))
            cost, j, v = min(choices, key=lambda choice: choice[0])
            on[j] = False
            increments.append(cost - before)
            course.append(v)
            before = cost
        courses.append((np.maximum.accumulate(increments), course))
    counts = min((counts for counts in itertools.product(range(5), repeat=3)
                  if sum(counts) == gone), key=lambda counts: max(
        increments[count - 1] if count else 0
        for count, (increments, _) in zip(counts, courses, strict=True)))
    wanted = np.array([course[count] for count, (_, course) in zip(counts, courses, strict=True)])
    found = obc(H, W, W.shape[0] * 4 - gone, prunable)
    assert (found != 0).sum() == 15 - gone
    if ((found != 0) == (wanted != 0)).all():  # the same rows are cut short
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert loss(H, W, found) <= loss(H, W, wanted) * (1 + 1e-4) + 1e-9 or gone > 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [0, 7, 100, 240])
def test_every_method_keeps_as_many_weights_as_it_is_told(method, keep):
    H, W, prunable = layer(12, 21)
    V = METHODS[method](H, W, keep, prunable)
    assert (V[:, prunable] != 0).sum() == keep and (V[:, ~prunable] != 0).all()
    if keep == 240:
        np.testing.assert_allclose(V, W, rtol=1e-5, atol=1e-8)


def test_alps_and_obc_reconstruct_better_than_magnitudes():
    losses = {name: [] for name in METHODS}
    for seed in range(5):
        H, W, prunable = layer(12, 21, seed)
        for name, method in METHODS.items():
            kept = method(H, W, 72, prunable) != 0
            losses[name].append(loss(H, W, refit(H, W @ H, kept)))
    means = {name: np.mean(values) for name, values in losses.items()}
    assert means["ALPS"] < 0.8 * means["magnitude"] and means["OBC"] < 0.8 * means["magnitude"]


def test_alps_finds_the_best_support_of_a_separable_layer():
    W = np.array([[3.0, -1, 0.5, 2], [0.2, 4, -2, 0.1]])
    H = np.diag([1.0, 100, 1, 1])
    assert (alps(H, W, 4, np.ones(4, dtype=bool)) != 0).tolist() == (
        largest(abs(W) * np.sqrt(np.diag(H)), 4, np.ones(4, dtype=bool))).tolist()


# ---- tasks, pruned networks and students ----------------------------------------------------


@pytest.fixture(scope="module")
def task() -> Task:
    return random(1).first(400)


@pytest.mark.parametrize("method", PRUNINGS)
@pytest.mark.parametrize("then", REFITS)
def test_a_network_that_lost_nothing_is_the_teacher(task, method, then):
    found = task.prune(method, 0.0, then)
    assert found.fidelity == pytest.approx(1, abs=1e-6) and found.accuracy == 1
    assert found.weights == task.size == 10 * 40 + 40 * 30 + 30 * 4
    kinds = read_by(task, found.model)
    assert set(kinds.unique().tolist()) == {0, 1} and int(kinds.sum()) == task.size


@pytest.mark.parametrize("method", PRUNINGS)
def test_a_pruned_network_has_its_weights_and_a_refit_is_a_better_fit(task, method):
    for then in REFITS:
        found = task.prune(method, 0.7, then)
        assert 0.9 * 0.3 * task.size <= found.weights <= round(0.3 * task.size) + 1
        assert int((read_by(task, found.model) > 1).sum()) == 0
    W, bias = task.pruned(method, 0.7)
    Phi, T = task.states
    V, c = task.refitted(W)
    assert not V[W == 0].any()

    def miss(W, bias):
        return (Phi @ W.mT + bias - T).square().sum(dim=0)

    assert (miss(V, c) <= miss(W, bias) * (1 + 1e-9) + 1e-9).all()


def test_through_fits_each_layer_to_the_students_own_states(task):
    W, _ = task.pruned("magnitude", 0.6)
    V, bias = task.refitted(W, through=True)
    n, T = task.n, task.states[1]
    with torch.no_grad():
        X = task.model(V, bias).equilibrium(task.train.double()).value
    own = torch.cat([X, task.train.double()], dim=1)
    for i in (0, n - 1, n):  # a row of the last hidden layer, of the first, and an output
        on = torch.nonzero(W[i])[:, 0]
        read = torch.cat([own[:, on], torch.ones_like(own[:, :1])], dim=1).numpy()
        wanted = np.linalg.lstsq(read, T[:, i].numpy(), rcond=None)[0]
        np.testing.assert_allclose(read @ np.append(V[i, on], bias[i]), read @ wanted, atol=1e-6)


@pytest.mark.parametrize("options", [
    {"weigh": "uniform"}, {"weigh": "adaptive"}, {"weigh": "uniform", "feedback": False},
    {"weigh": "adaptive", "feedback": False}], ids=str)
def test_a_student_has_as_many_weights_as_are_allowed(task, options):
    students, order = Students(task, **options), "feedback" in options
    for sparsity in (0.6, 0.85):
        most = round((1 - sparsity) * task.size)
        for then in REFITS if order else REFITS[:2]:
            found = students.student(sparsity, then)
            assert 0.85 * most <= found.weights <= most
            assert int(whole(found.model).count_nonzero()) == found.weights
            assert not order or int((read_by(task, found.model) == 3).sum()) == 0


def test_without_feedback_a_sparse_student_is_better_and_says_what_it_cannot(task):
    with_, without = (Students(task, weigh="uniform", feedback=feedback)
                      for feedback in (True, False))
    assert without.student(0.85).fidelity > with_.student(0.85).fidelity + 0.05
    with pytest.raises(ValueError, match="'refitted through'.*give feedback=False"):
        with_.student(0.85, "refitted through")


def test_other_units_are_the_same_function_and_adaptive_prices_do_not_notice(task):
    other = task.in_other_units(3)
    with torch.no_grad():
        torch.testing.assert_close(other.network(task.test), task.network(task.test), rtol=1e-4,
                                   atol=1e-4)
    options = {"weigh": "adaptive", "feedback": False}
    one, two = (Students(t, **options).student(0.7) for t in (task, other))
    # Up to what float32 rounds off the teacher's states in the two.
    assert abs(one.fidelity - two.fidelity) < 0.02 and abs(one.weights - two.weights) < 30
    assert (task.pruned("magnitude", 0.7)[0] != 0).ne(other.pruned("magnitude", 0.7)[0] != 0).any()


def test_what_each_entry_reads():
    small = random(0, sizes=(3, 4, 5, 2)).first(50)  # states: 5 of layer 2, then 4 of layer 1
    W = torch.ones(11, 12).double()
    kinds = read_by(small, small.model(W, torch.zeros(11).double()))
    assert (kinds[:5, :5] == 3).all() and (kinds[:5, 5:9] == 1).all() and (kinds[:5, 9:] == 2).all()
    assert (kinds[5:9, :9] == 3).all() and (kinds[5:9, 9:] == 1).all()
    assert (kinds[9:, :5] == 1).all() and (kinds[9:, 5:] == 2).all()


def test_the_tasks_are_as_they_say():
    clean, noisy = digits(0), digits(0, noise=0.3)
    assert len(clean.train) == 1400 and len(clean.test) == 397 and clean.size == 2720
    assert float((noisy.train - clean.train).std()) == pytest.approx(0.3, rel=0.02)
    U = random(0, correlation=0.9).train
    found = torch.corrcoef(U.mT)
    wanted = 0.9 ** (torch.arange(10) - torch.arange(10)[:, None]).abs()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.06)


def test_a_data_set_of_openml_becomes_a_task(monkeypatch):
    """The loader's own way from its rows on; ten images to judge by."""
    pixels, labels = load_digits(return_X_y=True)
    monkeypatch.setattr(data, "_fetch", lambda *_: (15 * pixels[:80], labels[:80]))
    monkeypatch.setitem(data.SHAPES, "fashion_mnist", (8, 8))
    monkeypatch.setitem(data._OPENML, "fashion_mnist", data._OpenML("Fashion-MNIST", 70, 10, 40))
    task = images("fashion_mnist", hidden=(6, 5), epochs=1)
    assert task.train.shape == (70, 64) and task.test.shape == (10, 64)
    assert task.size == 64 * 6 + 6 * 5 + 5 * 10
    assert Students(task, feedback=False, weigh="adaptive").student(0.8).weights <= 93


# ---- pictures and panel ---------------------------------------------------------------------


def walks(task: Task) -> dict[str, dict[float, Sparse]]:
    return {method: {at: task.prune(method, at) for at in (0.5, 0.9)}
            for method in ("magnitude", "OBC")}


def test_the_panel_shows_what_is_chosen(task):
    shown = panels.sparsity_panel(task, walks(task), 0.5)
    assert shown.values == {"method": "magnitude", "gone": "50%"}
    assert "860 weights" in shown.text
    shown.set(method="OBC", gone="90%")
    found = task.prune("OBC", 0.9)
    assert f"172 weights, {found.states} of 70 states" in shown.text
    assert f"accuracy {found.accuracy:.1%}, fidelity {found.fidelity:.2f}" in shown.text
    assert "the layer before: 172" in shown.text and "later layers: 0" in shown.text


def test_lines_are_medians_and_bars_reach_the_ends():
    rows = pd.DataFrame({"method": "OBC", "sparsity": [0.5] * 3 + [0.9] * 3,
                         "accuracy": [0.1, 0.9, 0.3, 0.2, 0.2, -7.0]})
    figure = draw_sparsity({"a task": rows}, ("accuracy",))
    line, _, (bars,) = figure.axes[0].containers[0]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [0.3, 0.2])
    ends = [np.asarray(bar[:, 1], float) for bar in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.1, 0.9], [-0.05, 0.2]])


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda t: t.prune("OBD", 0.5), ValueError, "method='OBD' is not known"),
    (lambda t: t.prune("OBC", 1.5), ValueError, "sparsity must be >= 0 and <= 1, got 1.5"),
    (lambda t: t.prune("OBC", 0.5, "again"), ValueError, "then='again' is not known"),
    (lambda t: t.first(401), ValueError, "at most 400, got 401"),
    (lambda t: random(0, correlation=1.0), ValueError, "correlation must be >= 0 and < 1"),
    (lambda t: draw_sparsity({}), ValueError, "at least one task, got none"),
    (lambda t: draw_sparsity({"a task": table(walks(t))}, ("size",)), ValueError,
     "column='size' is not known"),
    (lambda t: draw_samples([1]), TypeError, "table must be a pandas.DataFrame"),
    (lambda t: panels.sparsity_panel(t, walks(t), 0.7), ValueError, "sparsity='70%' is not known"),
    (lambda t: panels.sparsity_panel(t, {**walks(t), "no": {}}), ValueError,
     "the same sparsities for every method"),
])
def test_it_refuses(task, call, error, message):
    with pytest.raises(error, match=message):
        call(task)
