"""Lab 13: tasks and networks to compare, the pictures' numbers, the panel, and the law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw, rejects
from torch import nn

from idl_lab import ImplicitModel, ImplicitRNN, data
from idl_lab.fixed_point import Picard
from idl_lab.labs import check
from idl_lab.labs.extrapolation.panel import unit_panel
from idl_lab.labs.extrapolation.plots import (
    draw_errors,
    draw_levels,
    draw_symmetries,
    draw_unit,
)
from idl_lab.labs.extrapolation.problems import (
    Examples,
    Normalised,
    Perceptron,
    argmax,
    arithmetic,
    errors,
    least_squares,
    over_scales,
    over_shifts,
    size,
    spikes,
    train,
    trained,
    widest,
    without_feedback,
)
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.recurrent import TorchRNN

CPU = {"device": "cpu"}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# ---- tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "sign"), [("add", 1), ("subtract", -1)])
@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_two_slices(operation, sign, seed):
    learn, test = arithmetic(operation, 80, 60, generator=draws(seed))
    assert learn.U.shape == (80, 50) and test.target.shape == (60, 1)
    assert float(learn.U.abs().max()) <= 1 and float(learn.U.min()) < -0.9
    weights = torch.linalg.lstsq(learn.U.double(), learn.target.double()).solution[:, 0]
    torch.testing.assert_close(weights, weights.round(), rtol=0, atol=1e-5)
    twenty, ten = (torch.stack([torch.eye(50)[i:i + n].sum(dim=0) for i in range(51 - n)])
                   for n in (20, 10))
    assert ((twenty[:, None] + sign * ten - weights).abs().amax(dim=2) < 1e-5).any()
    torch.testing.assert_close(test.U.double() @ weights[:, None], test.target.double(),
                               rtol=0, atol=1e-4)


def test_the_place_of_the_largest():
    learn, test = argmax(50, 40, 7, generator=draws())
    assert learn.U.shape == (50, 7, 1) and test.target.shape == (40,)
    for u, k in zip(learn.U[..., 0], learn.target, strict=True):
        assert u[k] == u.max()


def test_spikes_are_the_series_own_windows():
    learn, parts = spikes(3, 9, points=2000, seed=2)
    train_part, test_part = data.spiky(3, look_back=9, points=2000, seed=2)
    torch.testing.assert_close(learn.U, train_part.dataset.tensors[0])
    series, inside = data.spiky_series(3, points=2000, seed=2)
    targets = series[-len(test_part.dataset):].float()
    assert len(parts["spiky"].U) + len(parts["calm"].U) == len(targets)
    torch.testing.assert_close(parts["spiky"].target[:, 0], targets[inside[-len(targets):]])
    torch.testing.assert_close(parts["calm"].target[:, 0], targets[~inside[-len(targets):]])


def test_examples_in_another_unit():
    numbers = Examples(draw(0, 4, 3), draw(1, 4, 1))
    torch.testing.assert_close(numbers.scaled(10.0).target, 10 * numbers.target)
    places = Examples(draw(0, 4, 3, 1), torch.arange(4))
    assert torch.equal(places.scaled(10.0).target, places.target)
    torch.testing.assert_close(places.scaled(10.0).U, 10 * places.U)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: arithmetic("times", 4, 4, generator=draws()), ValueError, ["operation", "subtract"]),
    (lambda: arithmetic("add", 0, 4, generator=draws()), ValueError, ["samples", "at least 1"]),
    (lambda: argmax(4, 4, 0, generator=draws()), ValueError, ["length", "at least 1"]),
    (lambda: Examples(draw(0, 4, 3), draw(1, 4, 1)).scaled(0.0), ValueError, ["scale", "> 0"]),
    (lambda: over_shifts({}, Examples(draw(0, 4, 3), draw(1, 4, 1)), [1]), ValueError,
     ["indices", "shift"]),
    (lambda: Perceptron(50, 1, 20), ValueError, ["one hidden unit", "20"]),
    (lambda: Normalised(nn.Identity(), -1), ValueError, ["degree", "at least 0"]),
])
def test_bad_problems_are_refused(call, error, fragments):
    rejects(call, error, *fragments)


# ---- networks, and the law ------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("allowed", [120, 1470])
def test_a_perceptron_is_as_wide_as_allowed(layers, bias, allowed):
    model = Perceptron(7, 2, allowed, layers=layers, bias=bias, generator=draws())
    n = model.linears[0].out_features
    wider = nn.ModuleList(nn.Linear(p, q, bias=bias) for p, q in zip(
        [7, *[n + 1] * layers], [*[n + 1] * layers, 2], strict=True))
    assert size(model) <= allowed < size(wider)
    assert len(model.linears) == layers + 1


def test_the_published_sizes():
    assert size(ImplicitModel(50, 1, 20)) == 1470
    assert size(ImplicitRNN(1, 10, hidden_dim=20, implicit_hidden_dim=20)) == 1850
    assert size(Perceptron(50, 1, 1820)) == 1820  # three layers of 20
    assert widest(lambda n: n * n, 24) == 4


def models() -> dict[str, nn.Module]:
    exact = {"dtype": torch.float64, "generator": draws(), "solver": Picard(1e-13), **CPU}
    return {
        "implicit": ImplicitModel(6, 3, 8, **exact),
        "no feedback": without_feedback(ImplicitModel(6, 3, 8, **exact)),
        "network": Perceptron(6, 3, 200, generator=draws()).double(),
        "normalised": Normalised(Perceptron(6, 3, 200, activation="tanh", bias=True,
                                            generator=draws()).double(), 1),
        "biases": Perceptron(6, 3, 200, bias=True, generator=draws()).double(),
        "tanh": ImplicitModel(6, 3, 8, activation="tanh", **exact),
    }


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("scale", [1e-3, 0.3, 7.0, 1e5])
def test_which_models_are_homogeneous(name, scale):
    model, U = models()[name], draw(3, 20, 6)
    with torch.no_grad():
        far = float((model(scale * U) / scale - model(U)).norm() / model(U).norm())
    assert far < 1e-9 if name not in ("biases", "tanh") else far > 1e-3


def test_without_feedback_there_is_no_equation():
    model = without_feedback(ImplicitRNN(1, 2, hidden_dim=3, implicit_hidden_dim=4, **CPU))
    layer = model.recurrent.cells[0].layer
    assert not layer.A.any() and size(model) == sum(M.numel() for M in model.parameters()) - 16
    train(model, Examples(draw(0, 8, 5, 1).float(), torch.arange(8) % 2), 2)
    assert not layer.A.any()
    _, solution = model.recurrent.cells[0].step(draw(1, 6, 1).float())
    v = torch.cat([draw(1, 6, 1).float(), torch.zeros(6, 3)], dim=1)
    torch.testing.assert_close(solution.value, torch.relu(v @ layer.B.detach().T))


def test_a_normalised_model_sees_each_sample_at_its_own_size():
    model = Normalised(nn.Identity(), 0)
    U = torch.tensor([[1.0, -4.0], [0.0, 0.0], [2e5, 1e5]])
    torch.testing.assert_close(model(U), torch.tensor([[0.25, -1.0], [0.0, 0.0], [1.0, 0.5]]))
    torch.testing.assert_close(Normalised(nn.Identity(), 1)(U), U)
    reader = Normalised(TorchRNN("LSTM", 1, 4, 300, generator=draws()))
    sequences = draw(2, 5, 6, 1).float()
    torch.testing.assert_close(reader(1e4 * sequences), reader(sequences))


def test_errors_of_numbers_and_of_places():
    numbers = Examples(torch.tensor([[3.0], [4.0]]), torch.tensor([[3.0], [4.0]]))
    found = errors(lambda U: U + torch.tensor([[3.0], [4.0]]), numbers)
    assert found == pytest.approx({"absolute": 12.5 ** 0.5, "relative": 1.0})
    places = Examples(torch.tensor([[1.0, 2.0], [-5.0, 0.0]]), torch.tensor([1, 0]))
    assert errors(nn.Identity(), places) == pytest.approx({"accuracy": 0.5, "largest score": 3.5})
    table = over_scales({"same": nn.Identity()}, places, [1.0, 10.0])
    assert table["largest score"].tolist() == [3.5, 35.0] and table["accuracy"].tolist() == [.5, .5]
    moved = over_shifts({"same": nn.Identity()}, places, [0, 10])
    assert moved["largest score"].tolist() == [3.5, 11.0] and moved["shift"].tolist() == [0, 10]


def test_training_learns_and_is_drawn_from_its_seed():
    learn, test = arithmetic("add", 300, 200, generator=draws())
    builders = {"it": lambda generator: Perceptron(50, 1, 600, generator=generator)}
    one, two, other = (trained(builders, learn, 60, seed=seed, decay=0.99)["it"]
                       for seed in (1, 1, 2))
    assert errors(one, learn)["relative"] < 0.2
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert errors(least_squares(learn), test)["relative"] < 1e-5


def test_the_step_size_decays():
    seen = []

    class Watched(nn.Linear):
        def forward(self, U):
            seen.append(self.weight.detach().clone())
            return super().forward(U)

    torch.manual_seed(0)
    train(Watched(3, 1), Examples(draw(0, 5, 3).float(), 50 + draw(1, 5, 1).float()), 4, lr=0.5,
          decay=0.1)
    steps = [float((b - a).abs().max()) for a, b in zip(seen, seen[1:], strict=False)]
    assert steps[1] / steps[0] == pytest.approx(0.1, rel=0.1)
    assert steps[2] / steps[1] == pytest.approx(0.1, rel=0.1)


# ---- pictures -------------------------------------------------------------------------------


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({"model": ["a", "a", "b", "b", "a", "a"],
                         "scale": [1.0, 100.0, 1.0, 100.0, 1.0, 100.0], **columns})


def test_errors_are_the_tables_means():
    rows = table(absolute=[1, 2, 3, 4, 3, 4], relative=[.1, .2, .3, .4, .3, .4])
    left, right = draw_errors(rows).axes
    assert [line.get_label() for line in left.lines[:1]] == ["a"]
    np.testing.assert_allclose(left.lines[0].get_ydata(), [2, 3])
    np.testing.assert_allclose(right.lines[2].get_ydata(), [.3, .4])
    assert left.get_xscale() == left.get_yscale() == "log"


def test_symmetries_are_accuracies():
    rows = table(accuracy=[1, .5, .3, .2, 0, .5])
    left, right = draw_symmetries(rows, rows.rename(columns={"scale": "shift"}), 0.1).axes
    for ax in (left, right):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), [.5, .5])


def test_levels_part_the_regimes():
    rows = pd.DataFrame([{"model": m, "level": level, "regime": regime,
                          "relative": level * (1 + (regime == "calm"))}
                         for m in ("a", "b") for level in (1, 7) for regime in ("spiky", "calm")])
    left, right = draw_levels(rows, 7).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [1, 7])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [2, 14])


CURVES = {"it": {"accuracy": np.array([.5, 1, .5]), "largest score": np.array([1, 2, 3.0])}}


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: draw_errors([1]), TypeError, ["DataFrame", "list"]),
    (lambda: draw_errors(table()), ValueError, ["absolute"]),
    (lambda: draw_errors(table(absolute=1.0, relative=1.0)[:0]), ValueError, ["none"]),
    (lambda: draw_levels(table(), 7), ValueError, ["regime"]),
    (lambda: draw_unit(3.0, np.ones(2), np.ones(2), CURVES, [1, 10, 100], 4), ValueError,
     ["scale", "3.0"]),
    (lambda: draw_unit(1.0, np.ones(2), np.ones(2), {}, [1, 10, 100], 4), ValueError, ["curve"]),
    (lambda: unit_panel({}), ValueError, ["tasks", "at least one"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


# ---- the panel ------------------------------------------------------------------------------


def small_panel():
    _, sums = arithmetic("add", 1, 40, generator=draws())
    _, places = argmax(1, 40, generator=draws())
    network = Perceptron(50, 1, 600, bias=True, generator=draws())
    reader = TorchRNN("LSTM", 1, 10, 300, generator=draws())
    return (network, sums), (reader, places), unit_panel({
        "sums": ({"linear": lambda U: U[:, :1], "network": network}, sums),
        "argmax": ({"LSTM": reader}, places)})


def test_the_panel_shows_the_models_own_answers():
    (network, sums), (reader, places), panel = small_panel()
    panel.set(model="sums: network", digits=2.0)
    answers, absolute, _ = (canvas.moving(ax) for ax in panel.figure.axes)
    with torch.no_grad():
        said = network(100 * sums.U)[:, 0] / 100
    np.testing.assert_allclose(answers["answers"].get_ydata(), said.clamp(-15, 15), rtol=1e-5)
    wanted = errors(network, sums.scaled(100.0))
    assert absolute["dot"].get_ydata() == pytest.approx([wanted["absolute"]], rel=1e-5)
    assert len(absolute["curve 1"].get_ydata()) == 33
    figure = panel.figure
    panel.set(model="argmax: LSTM", digits=0.0)
    assert panel.figure is figure
    said = torch.bincount(reader(places.U).argmax(dim=1), minlength=10) / 40
    answers, accuracy, _ = (canvas.moving(ax) for ax in figure.axes)
    np.testing.assert_allclose(answers["counts"].get_ydata()[1::3], said)
    assert not len(answers["answers"].get_ydata())
    assert accuracy["dot"].get_ydata() == pytest.approx([errors(reader, places)["accuracy"]])


# ---- the exercises --------------------------------------------------------------------------


def test_far_away_is_where_the_model_goes():
    exercise = check.extrapolation.far_away.exercise
    A, B, C, D, b, c, u = exercise.inputs(draws(3))
    model = ImplicitModel.from_matrices(A, B, C, D, state_bias=b, output_bias=c,
                                        solver=Picard(1e-13))
    with torch.no_grad():
        torch.testing.assert_close(model(1e9 * u[None])[0] / 1e9, exercise.right(
            A, B, C, D, b, c, u), rtol=1e-6, atol=1e-6)


def test_normalising_by_range_is_a_repair_too():
    def by_range(model, U):
        low, high = U.amin(dim=1, keepdim=True), U.amax(dim=1, keepdim=True)
        return model((U - low) / (high - low))

    assert check.extrapolation.repair.exercise(by_range).right
    assert check.extrapolation.repair.exercise(lambda model, U: Normalised(model)(U)).right
