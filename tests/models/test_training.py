"""fit and evaluate: a real classifier, early stopping, failures, and silence in a log."""

import io
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw, mat, rejects
from torch import nn

from idl_lab import ImplicitModel, data
from idl_lab.fixed_point import Picard
from idl_lab.training import accuracy, evaluate, fit
from idl_lab.well_posedness import inf_norm


def small_problem(seed=0, m=60):
    """Batches of a task a linear layer can learn, as plain lists, and such a layer."""
    U = draw(seed, m, 4)
    y = torch.argmax(U @ draw(99, 4, 3), dim=1)
    batches = [(U[k:k + 20], y[k:k + 20]) for k in range(0, m, 20)]
    model = nn.Linear(4, 3, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(0.1 * draw(1, 3, 4))
        model.bias.zero_()
    return model, batches


def sgd(model, lr=0.5):
    return torch.optim.SGD(model.parameters(), lr=lr)


def quick(model, *args, **options):
    """fit with SGD: Adam keeps its step count on torch's default device."""
    return fit(model, *args, **{"optimizer": sgd(model), "progress": False, **options})


# ---- a real classifier ----------------------------------------------------------------------


@pytest.mark.parametrize("constraint", ["scale", "project"])
def test_digits_reach_93_percent_with_the_norm_in_the_ball_throughout(constraint):
    train, test = data.load("digits", batch_size=64, seed=0)
    model = ImplicitModel(64, 10, 40, kappa=0.95, constraint=constraint,
                          solver=Picard(rtol=1e-5, max_steps=500),
                          generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    norms = []
    optimizer.register_step_post_hook(
        lambda *_: norms.append(float(inf_norm(model.A.detach().double()))))
    table = fit(model, train, test, epochs=6, optimizer=optimizer)
    assert len(norms) == 6 * len(train)
    assert max(norms) <= 0.95 * (1 + 40 * torch.finfo(torch.float32).eps)
    assert evaluate(model, test) >= 0.93
    assert evaluate(model, test) == table["val_metric"].iloc[-1]
    assert model.certificate().well_posed
    assert table["train_loss"].is_monotonic_decreasing and table.index.tolist() == [*range(1, 7)]


def test_the_seed_decides_everything():
    def run(seed):
        train, test = data.load("digits", batch_size=256, seed=seed)
        model = ImplicitModel(64, 10, 10, generator=torch.Generator().manual_seed(seed))
        table = fit(model, train, test, epochs=2, lr=1e-2, progress=False)
        return table.drop(columns="seconds"), model

    (one, a), (two, b), (other, _) = run(0), run(0), run(1)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not one.equals(other)


def test_adam_with_lr_is_the_default():
    tables = []
    for optimizer in (None, lambda m: torch.optim.Adam(m.parameters(), lr=0.03)):
        model, batches = small_problem()
        options = {"lr": 0.03} if optimizer is None else {"optimizer": optimizer(model)}
        tables.append(fit(model, batches, epochs=3, progress=False, **options)["train_loss"])
    assert tables[0].equals(tables[1])


# ---- the table and the numbers in it --------------------------------------------------------


def test_the_table_holds_what_a_plain_loop_gives():
    model, batches = small_problem()
    twin, _ = small_problem()
    table = quick(model, batches, batches, epochs=3)
    optimizer, losses, metrics = sgd(twin), [], []
    for _ in range(3):
        values = []
        for U, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(twin(U), y)
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses.append(np.mean(values))
        hits = [(twin(U).argmax(1) == y).double() for U, y in batches]
        metrics.append(float(torch.cat(hits).mean()))
    assert list(table.columns) == ["train_loss", "val_metric", "seconds"]
    assert table["train_loss"].tolist() == pytest.approx(losses, rel=1e-12)
    assert table["val_metric"].tolist() == pytest.approx(metrics, rel=1e-6)
    assert table.index.name == "epoch" and (table["seconds"] > 0).all()


def test_uneven_batches_are_weighted_by_their_size():
    U, y = draw(0, 10, 3), torch.tensor([0, 1, 2, 2, 2, 2, 2, 2, 2, 2], device="cpu")
    model = nn.Linear(3, 3, device="cpu", dtype=torch.float64)
    whole = evaluate(model, [(U, y)])
    parts = [(U[:1], y[:1]), (U[1:4], y[1:4]), (U[4:], y[4:])]
    assert evaluate(model, parts) == pytest.approx(whole, rel=1e-6)
    squares = evaluate(model, [(U[:3], y[:3]), (U[3:], y[3:])],
                       metric=lambda Y, t: Y.square().mean())
    assert squares == pytest.approx(float(model(U).detach().square().mean()))


def test_accuracy_counts_rows():
    Y = mat([[1, 2, 0], [3, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert float(accuracy(Y, torch.tensor([1, 0, 2, 2], device="cpu"))) == 0.75


def test_evaluate_restores_the_mode_and_takes_no_gradients():
    model, batches = small_problem()
    net = nn.Sequential(nn.Dropout(0.5), model)
    for training in (True, False):
        net.train(training)
        assert len({evaluate(net, batches) for _ in range(3)}) == 1  # no dropout
        assert net.training is training
    assert evaluate(net, batches, metric=lambda Y, t: float(Y.requires_grad)) == 0.0
    net.train()
    with pytest.raises(ZeroDivisionError):
        evaluate(net, batches, metric=lambda Y, t: 1 / 0)
    assert net.training


def test_without_validation_there_is_no_metric_column():
    model, batches = small_problem()
    table = quick(model, batches, epochs=2)
    assert list(table.columns) == ["train_loss", "seconds"] and len(table) == 2


def test_regression_with_ones_own_loss_and_metric():
    U = draw(0, 40, 4)
    target = U @ draw(1, 4, 3)
    model, _ = small_problem()
    table = quick(model, [(U, target)], [(U, target)], epochs=80, loss=nn.functional.mse_loss,
                  metric=lambda Y, t: -nn.functional.mse_loss(Y, t))
    assert -1e-3 < table["val_metric"].iloc[-1] < 0


# ---- early stopping -------------------------------------------------------------------------


def scripted(values):
    """A validation metric that follows a script, one value an epoch."""
    values = iter(values)
    return lambda Y, t: next(values)


def test_early_stop_restores_the_best():
    model, batches = small_problem()
    seen, script = [], iter([0.1, 0.5, 0.9, 0.2, 0.3, 0.8, 0.4])

    def metric(Y, t):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(script)

    table = quick(model, batches, batches[:1], epochs=20, metric=metric, patience=3)
    assert table["val_metric"].tolist() == [0.1, 0.5, 0.9, 0.2, 0.3, 0.8]
    assert all(torch.equal(v, seen[2][k]) for k, v in model.state_dict().items())
    assert not torch.equal(model.weight, seen[-1]["weight"])


def test_without_patience_all_epochs_run_and_the_last_parameters_stay():
    """Choosing the best of many epochs is the caller's decision, made by giving patience."""
    model, batches = small_problem()
    table = quick(model, batches, batches[:1], epochs=4, metric=scripted([0.9, 0.1, 0.1, 0.1]))
    twin, _ = small_problem()
    quick(twin, batches, epochs=4)
    assert len(table) == 4 and torch.equal(model.weight, twin.weight)


def test_a_tie_is_no_progress():
    model, batches = small_problem()
    table = quick(model, batches, batches[:1], epochs=9, metric=scripted([0.5] * 9), patience=2)
    assert len(table) == 3


# ---- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_raises_before_it_is_applied(bad):
    model, batches = small_problem()
    calls = []

    def loss(Y, t):
        calls.append(model.weight.detach().clone())
        return nn.functional.cross_entropy(Y, t) * (bad if len(calls) == 2 else 1)

    rejects(lambda: quick(model, batches, loss=loss), FloatingPointError, f"became {bad}",
            "after 20 samples", "lower lr")
    assert torch.equal(model.weight, calls[-1])


@pytest.mark.parametrize(("options", "error", "fragments"), [
    ({"epochs": 0}, ValueError, ["epochs", "at least 1"]),
    ({"epochs": 1.5}, TypeError, ["epochs", "1.5"]),
    ({"lr": 0.0}, ValueError, ["lr", "> 0"]),
    ({"lr": float("nan")}, ValueError, ["lr", "nan"]),
    ({"lr": "fast"}, TypeError, ["lr", "'fast'"]),
    ({"patience": 0, "val_loader": [1]}, ValueError, ["patience", "at least 1"]),
    ({"patience": 2}, ValueError, ["patience needs a val_loader", "None"]),
    ({"train_loader": []}, ValueError, ["train_loader", "gave no batch"]),
    ({"val_loader": []}, ValueError, ["loader", "gave no batch"]),
    ({"epoch": 3}, TypeError, ["epoch"]),
])
def test_fit_refuses(options, error, fragments):
    model, batches = small_problem()
    rejects(lambda: quick(model, **{"train_loader": batches, "epochs": 1, **options}), error,
            *fragments)


def test_evaluate_and_accuracy_refuse():
    model, batches = small_problem()
    rejects(lambda: evaluate(model, []), ValueError, "gave no batch", "DataLoader")
    U, y = batches[0]
    rejects(lambda: accuracy(model(U), y[:, None]), ValueError, "labels", "(20,)", "(20, 1)")
    rejects(lambda: accuracy(model(U), y[:5]), ValueError, "(20,)", "(5,)")


# ---- progress -------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "progress", "shown"), [
    (io.StringIO, True, False), (Terminal, True, True), (Terminal, False, False)])
def test_a_bar_on_a_terminal_and_none_in_a_log_file(monkeypatch, stream, progress, shown):
    model, batches = small_problem()
    out = stream()
    monkeypatch.setattr(sys, "stderr", out)
    quick(model, batches, batches, epochs=2, progress=progress)
    written = out.getvalue()
    assert bool(written) == shown
    if shown:
        assert "training" in written and "epoch" in written and "val_metric" in written


def test_nothing_is_printed(capfd):
    model, batches = small_problem()
    quick(model, batches, batches, epochs=2, progress=True)
    assert capfd.readouterr() == ("", "")
