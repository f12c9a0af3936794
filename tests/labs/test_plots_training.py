"""The training lab: sweeps, pairs, and the tolerance study with its picture and panel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from helpers import draw, rejects

from idl_lab.equilibrium import Implicit, equilibrium
from idl_lab.fixed_point import Picard
from idl_lab.labs.kit import canvas
from idl_lab.labs.training.panel import tolerance_panel
from idl_lab.labs.training.plots import draw_sweep, draw_tolerance
from idl_lab.labs.training.problems import CountedPicard, paired_difference, tolerance_study
from idl_lab.model import ImplicitModel

RTOLS = [1e-6, 1e-3, 1e-1, 10.0]
NO_TABLE = pd.DataFrame({"kappa": [], "steps": []})


def runs(knob: str, values: list) -> pd.DataFrame:
    return pd.DataFrame([{knob: value, "gain": k / 100 - run / 300, "error": 0.02,
                          "steps": 3 * k + run}
                         for k, value in enumerate(values) for run in range(3)])


def model_and_images(activation: str = "relu"):
    A, B, C, D = (draw(k, *s) for k, s in enumerate(((6, 6), (6, 8), (4, 6), (4, 8))))
    A = 0.8 * A / A.abs().sum(dim=1, keepdim=True)
    model = ImplicitModel.from_matrices(A, B, C, D, activation=activation, solver=Picard(1e-6))
    return model, draw(9, 50, 8), torch.arange(50, device="cpu") % 4


@pytest.mark.parametrize(("values", "labels"), [
    ([0.0, 0.5, 0.99], ["0", "0.5", "0.99"]), ([1.0, 1e-2, 1e-6], ["1", "0.01", "1e-6"]),
    ([80, 5], ["80", "5"]), (["relu", "tanh"], ["relu", "tanh"]), ([1, "full"], ["1", "full"])])
def test_a_sweep_shows_every_run_and_the_means(values, labels):
    table = runs("knob", values)
    figure = draw_sweep(table, "knob", {"gain": "gain", "steps": "cost"})
    assert [ax.get_title() for ax in figure.axes] == ["gain", "cost"]
    for ax, name in zip(figure.axes, ("gain", "steps"), strict=True):
        dots, means = ax.lines[:2]
        assert [t.get_text() for t in ax.get_xticklabels()] == labels
        np.testing.assert_array_equal(dots.get_xdata(), np.repeat(np.arange(len(values)), 3))
        np.testing.assert_array_equal(dots.get_ydata(), table[name])
        expected = [np.mean(table[name][table["knob"] == value]) for value in values]
        np.testing.assert_allclose(means.get_ydata(), expected)
        low, high = ax.get_ylim()
        assert low <= 0 <= high, "no axis is cut"
        assert (means.get_linestyle() == "None") == (values[0] == "relu")
    (bars,) = figure.axes[0].containers
    (stems,) = bars[2]
    ends = np.array([stem[:, 1] for stem in stems.get_segments()])
    np.testing.assert_allclose(np.diff(ends, axis=1)[:, 0], 0.04)
    assert figure.axes[0].get_ylim()[0] <= ends.min() < ends.max() <= figure.axes[0].get_ylim()[1]
    assert not figure.axes[1].containers and figure.axes[1].get_ylim()[0] == 0


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: draw_sweep([1], "k", {"k": ""}), TypeError, ["DataFrame", "list"]),
    (lambda: draw_sweep(NO_TABLE, "kappa", {"steps": ""}), ValueError, ["0 runs"]),
    (lambda: draw_sweep(runs("n", [1]), "n", {}), ValueError, ["0 columns"]),
    (lambda: draw_sweep(runs("n", [1]), "n", {"gian": ""}), ValueError, ["Did you mean 'gain'"]),
    (lambda: draw_sweep(runs("n", [1]).drop(columns="error"), "n", {"gain": ""}), ValueError,
     ["column", "'error'"]),
    (lambda: draw_sweep(runs("n", [1]), "kappa", {"steps": ""}), ValueError, ["kappa"]),
])
def test_a_sweep_refuses(call, error, fragments):
    rejects(call, error, *fragments)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_study_measures_against_the_equilibrium_and_its_bound_holds(activation):
    model, U, labels = model_and_images(activation)
    table, scores, exact = tolerance_study(model, U, labels, RTOLS)
    A, B, C, D = (M.detach().numpy() for M in (model.A, model.B, model.C, model.D))
    phi = {"relu": lambda s: np.maximum(s, 0), "tanh": np.tanh}[activation]

    def loop(rtol: float) -> tuple[np.ndarray, int, float]:
        X, step = phi(U.numpy() @ B.T), 1
        while True:
            image, step = phi(X @ A.T + U.numpy() @ B.T), step + 1
            size = np.abs(X).max(axis=1)
            if (np.abs(image - X).max(axis=1) <= rtol * size).all():
                return X @ C.T + U.numpy() @ D.T, step, size.max()
            X = image

    goal = loop(1e-14)[0]
    np.testing.assert_allclose(exact.numpy(), goal, atol=1e-12)
    for k, rtol in enumerate(RTOLS):
        given, steps, size = loop(rtol)
        row = table.loc[rtol]
        np.testing.assert_allclose(scores[k].numpy(), given, atol=1e-12)
        assert row["steps"] == steps
        assert row["error"] == pytest.approx(np.abs(given - goal).max(), rel=1e-6, abs=1e-12)
        assert row["bound"] == pytest.approx(np.abs(C).sum(1).max() * rtol * size / 0.2)
        assert row["changed"] == (given.argmax(1) != goal.argmax(1)).sum()
        assert row["accuracy"] == pytest.approx((given.argmax(1) == labels.numpy()).mean())
        ordered = np.sort(goal, axis=1)
        safe = (ordered[:, -1] - ordered[:, -2]) > 2 * row["bound"]
        assert row["error"] <= row["bound"] + 1e-12
        assert (given.argmax(1) == goal.argmax(1))[safe].all()


def test_the_study_wants_a_norm_below_one():
    model = ImplicitModel.from_matrices(2 * torch.eye(2, dtype=torch.float64, device="cpu"),
                                        draw(0, 2, 3), draw(1, 2, 2))
    rejects(lambda: tolerance_study(model, draw(2, 5, 3), torch.zeros(5, device="cpu"), [1.0]),
            ValueError, "‖A‖∞", "< 1", "2.0")


def test_the_tolerance_panel_follows_its_sliders():
    model, U, labels = model_and_images()
    panel = tolerance_panel(model, U, labels)
    assert panel.redraws == 1 and panel.values["digits"] == -1
    with torch.no_grad():
        goal = model.output(model.equilibrium(U).value, U).numpy()
    ordered = np.sort(goal, axis=1)
    gaps = ordered[:, -1] - ordered[:, -2]
    assert panel.values["image"] == gaps.argmin()
    figure, first = panel.figure, canvas.png(panel.figure)
    panel.set(digits=-0.5, image=3)
    assert panel.figure is figure and canvas.png(panel.figure) != first
    table, scores, exact = tolerance_study(model, U, labels, [10 ** -0.5])
    row = table.iloc[0]
    parts = [canvas.moving(ax) for ax in figure.axes]
    assert parts[0]["dots"].get_ydata() == pytest.approx([row["error"], row["bound"]])
    assert parts[1]["bound"].get_xdata()[0] == pytest.approx(2 * row["bound"])
    assert f"{(gaps > 2 * row['error']).sum()} of 50" in parts[1]["error name"].get_text()
    size = exact[3].abs().max()
    np.testing.assert_allclose(parts[2]["exact"].get_ydata(), (exact[3] / size).numpy())
    np.testing.assert_allclose(parts[2]["scores"].get_ydata()[1::3],
                               np.clip((scores[0, 3] / size).numpy(), -1.35, 1.35))
    said = parts[0]["verdict"].get_text()
    assert f"steps {int(row['steps'])}," in said and f"{int(row['changed'])} of 50" in said
    rejects(lambda: panel.set(digits=3), ValueError, "digits", "<= 0")


def test_a_tolerance_that_the_table_lacks_is_refused():
    model, U, labels = model_and_images()
    table, scores, exact = tolerance_study(model, U, labels, RTOLS)
    rejects(lambda: draw_tolerance(table, exact[:, 0], 0.5, scores[0, 0], exact[0]),
            ValueError, "rtol", "0.5", "0.001")


@pytest.mark.parametrize("adjoint", [Implicit(), Implicit(CountedPicard(1e-9))])
def test_evaluations_are_counted_forward_and_with_implicit_itself_backward(adjoint):
    solver = CountedPicard(1e-6)
    model, U, _ = model_and_images()
    b = model.injection(U).detach()
    A = model.A.detach().requires_grad_()
    solution = equilibrium(A, b, "relu", solver=solver, adjoint=adjoint)
    forward = sum(solver.evaluations)
    assert forward == solution.stats.steps and solution.status.ok
    solution.value.sum().backward()
    own = sum(adjoint.solver.evaluations) if adjoint.solver else 0
    assert (sum(solver.evaluations) > forward) == (own == 0)
    reference = A.detach().clone().requires_grad_()
    equilibrium(reference, b, "relu", solver=Picard(1e-6), adjoint=adjoint).value.sum().backward()
    assert torch.equal(A.grad, reference.grad), "counting changes nothing"


# ---- pairs ----------------------------------------------------------------------------------


def test_a_difference_is_paired_by_image_and_by_run():
    one, other = (draw(k, 4, 300) > level for k, level in ((0, -1.2), (1, -1.0)))
    difference, error = paired_difference(one, other)
    d = one.numpy().astype(float) - other.numpy()
    assert difference == pytest.approx(one.double().mean() - other.double().mean())
    by_image, by_run = (scipy.stats.sem(d.mean(axis=axis)) for axis in (0, 1))
    assert error == pytest.approx(np.hypot(by_image, by_run))
    assert paired_difference(other, one) == (pytest.approx(-difference), pytest.approx(error))


def test_of_one_run_the_pairs_are_mcnemars():
    one, other = draw(0, 1, 500) > -1, draw(1, 1, 500) > -1
    alone = int((one & ~other).sum()), int((other & ~one).sum())
    difference, error = paired_difference(one, other)
    assert difference == pytest.approx((alone[0] - alone[1]) / 500)
    assert error == pytest.approx(sum(alone) ** 0.5 / 500, rel=0.01)


def test_what_both_get_right_adds_no_error():
    right = torch.ones(3, 40, dtype=torch.bool, device="cpu")
    assert paired_difference(right, right) == (0, 0)


def test_the_error_is_how_much_the_difference_varies():
    """Drawn anew many times, images and runs with effects of their own on both settings."""
    draws, seen = np.random.default_rng(0), []
    for _ in range(400):
        image, run = draws.normal(size=(1, 200)), 0.3 * draws.normal(size=(2, 6, 1))
        answers = [torch.as_tensor(image + run[k] + draws.normal(size=(6, 200)) > -1, device="cpu")
                   for k in range(2)]
        seen.append(paired_difference(*answers))
    differences, errors = np.array(seen).T
    assert abs(differences.mean()) < 3 * differences.std() / 20
    assert 0.9 < (errors ** 2).mean() ** 0.5 / differences.std() < 1.3


@pytest.mark.parametrize("shapes", [((2, 5), (2, 4)), ((5,), (5,)), ((3, 1), (3, 1))])
def test_no_pairs_are_refused(shapes):
    one, other = (torch.ones(shape, dtype=torch.bool, device="cpu") for shape in shapes)
    rejects(lambda: paired_difference(one, other), ValueError, "(runs, images)", str(shapes[0]))
