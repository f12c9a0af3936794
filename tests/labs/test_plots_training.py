"""The training lab: sweeps, the tolerance study with its picture and panel, and the checker."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw, rejects

from idl_lab.fixed_point import Picard
from idl_lab.labs import check
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.exercise import Outcome
from idl_lab.labs.training.panel import tolerance_panel
from idl_lab.labs.training.plots import draw_sweep, draw_tolerance
from idl_lab.labs.training.problems import tolerance_study
from idl_lab.model import ImplicitModel

TOLS = [1e-6, 1e-3, 1e-1, 10.0]
NO_TABLE = pd.DataFrame({"kappa": [], "accuracy": []})


def runs(knob: str, values: list) -> pd.DataFrame:
    return pd.DataFrame([{knob: value, "accuracy": 0.9 + k / 100 + run / 300, "steps": 3 * k + run}
                         for k, value in enumerate(values) for run in range(3)])


def model_and_images(activation: str = "relu"):
    A, B, C, D = (draw(k, *s) for k, s in enumerate(((6, 6), (6, 8), (4, 6), (4, 8))))
    A = 0.8 * A / A.abs().sum(dim=1, keepdim=True)
    model = ImplicitModel.from_matrices(A, B, C, D, activation=activation, solver=Picard(1e-6))
    return model, draw(9, 50, 8), torch.arange(50, device="cpu") % 4


@pytest.mark.parametrize(("values", "labels"), [
    ([0.0, 0.5, 0.99], ["0", "0.5", "0.99"]), ([1.0, 1e-2, 1e-6], ["1", "0.01", "1e-6"]),
    ([80, 5], ["80", "5"]), (["relu", "tanh"], ["relu", "tanh"]), ([1, "full"], ["1", "full"])])
def test_a_sweep_shows_every_run_and_the_medians(values, labels):
    table = runs("knob", values)
    figure = draw_sweep(table, "knob", {"accuracy": "gain", "steps": "cost"})
    assert [ax.get_title() for ax in figure.axes] == ["gain", "cost"]
    for ax, name in zip(figure.axes, ("accuracy", "steps"), strict=True):
        dots, medians = ax.lines
        assert [t.get_text() for t in ax.get_xticklabels()] == labels
        np.testing.assert_array_equal(dots.get_xdata(), np.repeat(np.arange(len(values)), 3))
        np.testing.assert_array_equal(dots.get_ydata(), table[name])
        expected = [np.median(table[name][table["knob"] == value]) for value in values]
        np.testing.assert_allclose(medians.get_ydata(), expected)
        assert len(ax.collections) == (values[0] != "relu")  # no band between names
    assert figure.axes[0].get_ylim()[0] > 0.8 and figure.axes[1].get_ylim()[0] == 0


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: draw_sweep([1], "k", {"k": ""}), TypeError, ["DataFrame", "list"]),
    (lambda: draw_sweep(NO_TABLE, "kappa", {"accuracy": ""}), ValueError, ["0 runs"]),
    (lambda: draw_sweep(runs("n", [1]), "n", {}), ValueError, ["0 columns"]),
    (lambda: draw_sweep(runs("n", [1]), "n", {"acuracy": ""}), ValueError,
     ["Did you mean 'accuracy'"]),
    (lambda: draw_sweep(runs("n", [1]), "kappa", {"steps": ""}), ValueError, ["kappa"]),
])
def test_a_sweep_refuses(call, error, fragments):
    rejects(call, error, *fragments)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_study_measures_against_the_equilibrium_and_its_bound_holds(activation):
    model, U, labels = model_and_images(activation)
    table, scores, exact = tolerance_study(model, U, labels, TOLS)
    A, B, C, D = (M.detach().numpy() for M in (model.A, model.B, model.C, model.D))
    phi = {"relu": lambda s: np.maximum(s, 0), "tanh": np.tanh}[activation]

    def loop(tol: float) -> tuple[np.ndarray, int]:
        X = np.zeros((50, 6))
        step, moved = 0, np.inf
        while moved > tol:
            X, before, step = phi(X @ A.T + U.numpy() @ B.T), X, step + 1
            moved = np.abs(X - before).max()
        return X @ C.T + U.numpy() @ D.T, step

    goal, _ = loop(1e-15)
    np.testing.assert_allclose(exact.numpy(), goal, atol=1e-12)
    for k, tol in enumerate(TOLS):
        given, steps = loop(tol)
        row = table.loc[tol]
        np.testing.assert_allclose(scores[k].numpy(), given, atol=1e-12)
        assert row["steps"] == steps
        assert row["error"] == pytest.approx(np.abs(given - goal).max(), rel=1e-6, abs=1e-12)
        assert row["bound"] == pytest.approx(np.abs(C).sum(1).max() * tol * 0.8 / 0.2)
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
    figure, first = panel.figure, bytes(panel._image.value)
    panel.set(digits=0.5, image=3)
    assert panel.figure is figure and bytes(panel._image.value) != first
    table, scores, exact = tolerance_study(model, U, labels, [10 ** 0.5])
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
    rejects(lambda: panel.set(digits=3), ValueError, "digits", "<= 2")


def test_a_tolerance_that_the_table_lacks_is_refused():
    model, U, labels = model_and_images()
    table, scores, exact = tolerance_study(model, U, labels, TOLS)
    rejects(lambda: draw_tolerance(table, exact[:, 0], 0.5, scores[0, 0], exact[0]),
            ValueError, "tol", "0.5", "0.001")


def measure(n: int = 40, kappa: float = 0.9) -> dict[str, float]:
    if n > 100:
        raise ValueError("n is too large")
    return {"accuracy": 0.9 + n / 1000, "loop": 10 * n * n * kappa}


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (..., Outcome.NOT_ATTEMPTED, "a dictionary of options"),
    (3, Outcome.HINT, "got 3"),
    ({3: 4}, Outcome.HINT, "dict(n=30"),
    ({"kappa": 0.4}, Outcome.HINT, "Keep κ ≥ 0.5"),
    ({"kapa": 0.5}, Outcome.HINT, "raised TypeError"),
    ({"n": 101}, Outcome.HINT, "raised ValueError: n is too large"),
    ({}, Outcome.HINT, "14,400 multiply-adds in the loop, at most 4,000 are wanted"),
    ({"n": 10}, Outcome.HINT, "accuracy 0.910"),
    ({"n": 20, "kappa": 0.5}, Outcome.RIGHT, "2,000 multiply-adds"),
])
def test_target_practice(answer, outcome, words):
    verdict = check.training.target_practice(answer, measure, accuracy=0.92, loop=4000)
    assert verdict.outcome is outcome and words in verdict.sentence


def test_target_practice_says_when_both_are_missed():
    verdict = check.training.target_practice({"n": 40}, measure, accuracy=0.99, loop=10)
    assert verdict.outcome is Outcome.HINT and "neither" in verdict.sentence
