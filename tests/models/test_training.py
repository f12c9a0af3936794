"""fit and evaluate: a real classifier, early stopping, failures, and silence in a log."""

import io
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw, mat, rejects
from torch import nn
from training_cases import quick, same, scripted, sgd, small_problem

from idl_lab import ImplicitModel, data
from idl_lab.fixed_point import Picard
from idl_lab.training import accuracy, evaluate, fit
from idl_lab.well_posedness import inf_norm

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
    assert np.allclose(*tables, rtol=1e-12)  # rounding: the default updates in one pass


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


# ---- a penalty -----------------------------------------------------------------------------------


class Layer(nn.Module):
    """tanh of a linear map, which knows the squared size of its last output's Jacobian."""

    def __init__(self):
        super().__init__()
        self.linear = small_problem()[0]

    def forward(self, U):
        self.last = self.linear(U)
        return torch.tanh(self.last)

    def size(self):
        slopes = 1 - torch.tanh(self.last) ** 2
        return (slopes ** 2 @ self.linear.weight.square().sum(1)).mean()


def test_a_penalty_is_added_to_each_batchs_loss():
    net, twin, batches = Layer(), Layer(), small_problem()[1]
    table = quick(net, batches, batches, epochs=3, penalty=lambda: 0.1 * net.size())
    optimizer, values = sgd(twin), []
    for _ in range(3):
        for U, y in batches:
            loss = nn.functional.cross_entropy(twin(U), y)
            extra = 0.1 * twin.size()
            values.append([loss.item(), extra.item()])
            optimizer.zero_grad()
            (loss + extra).backward()
            optimizer.step()
    wanted = np.reshape(values, (3, 3, 2)).mean(1)
    assert list(table.columns) == ["train_loss", "penalty", "val_metric", "seconds"]
    assert np.allclose(table[["train_loss", "penalty"]], wanted, rtol=1e-12)
    assert same(net, twin.parameters())
    bare = Layer()
    quick(bare, batches, epochs=3)
    with torch.no_grad():
        net(batches[0][0]), bare(batches[0][0])
        assert net.size() < bare.size(), "the penalty made nothing smaller"


@pytest.mark.parametrize(("penalty", "error", "fragments"), [
    (3, TypeError, ["penalty must be a function, got int"]),
    (lambda: 0.5, TypeError, ["penalty must give a tensor", "got 0.5"]),
    (lambda: torch.ones(()), TypeError, ["penalty must give a tensor", "detached"]),
    (lambda: torch.ones(3, requires_grad=True), TypeError, ["penalty", "one real number", "(3,)"]),
    (lambda: torch.full((), torch.nan, requires_grad=True), FloatingPointError,
     ["the penalty became nan"]),
])
def test_a_penalty_that_is_none_is_refused(penalty, error, fragments):
    model, batches = small_problem()
    rejects(lambda: quick(model, batches, penalty=penalty), error, *fragments)


# ---- lower precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_within_autocast_it_trains(dtype):
    """torch would keep the weights that it converted in the first batch, and train nothing."""
    _, batches = small_problem()
    batches = [(U.float(), y) for U, y in batches]

    def run(m, train):
        m = m.float()
        with torch.autocast("cpu", dtype):
            evaluate(m, batches)
            m(batches[0][0])
            return train(m), evaluate(m, batches)

    def loop(model):
        optimizer = sgd(model)
        for U, y in batches * 4:
            optimizer.zero_grad()
            with torch.autocast("cpu", enabled=False), torch.autocast("cpu", dtype,
                                                                      cache_enabled=False):
                loss = nn.functional.cross_entropy(model(U), y)
            loss.backward()
            optimizer.step()

    one, two = small_problem()[0], small_problem()[0]
    table, reached = run(one, lambda m: quick(m, batches, batches, epochs=4))
    assert table["train_loss"].is_monotonic_decreasing
    assert reached == table["val_metric"].iloc[-1]
    run(two, loop)
    assert same(one, two.parameters())
    assert one.weight.dtype == torch.float32


def test_evaluate_within_autocast_leaves_no_weights_without_gradient():
    model, batches = small_problem()
    U, y = batches[0][0].float(), batches[0][1]
    with torch.autocast("cpu", torch.bfloat16):
        evaluate(model.float(), [(U, y)])
        nn.functional.cross_entropy(model(U), y).backward()
    assert model.weight.grad.abs().sum() > 0


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
