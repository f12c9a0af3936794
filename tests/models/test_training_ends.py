"""fit in the middle: what an interrupt or an error leaves; what would train nothing is refused."""

import itertools
import math

import pandas as pd
import pytest
import torch
from helpers import rejects
from pretend_device import device_waits, pretend_device
from torch import nn
from training_cases import quick, same, scripted, sgd, small_problem

from idl_lab.training import EVERY, evaluate, fit

# ---- a training that ends in the middle ----------------------------------------------------------


def after(epochs, **options):
    """The parameters that so many epochs give, and their table."""
    model, batches = small_problem()
    table = quick(model, batches, batches, epochs=epochs, **options) if epochs else None
    return [p.detach().clone() for p in model.parameters()], table


def ending(batches, what, k):
    """A loader that ends the training at the start of its k-th batch, counted over all epochs."""
    seen = itertools.count(1)

    class Loader:
        def __iter__(self):
            for batch in batches:
                if next(seen) == k:
                    raise what
                yield batch

    return Loader()


@pytest.mark.parametrize(("k", "whole"), [(1, 0), (3, 0), (4, 1), (6, 1), (7, 2)])
def test_an_interrupt_returns_the_table_and_the_parameters_of_the_last_whole_epoch(k, whole):
    model, batches = small_problem()
    table = quick(model, ending(batches, KeyboardInterrupt, k), batches, epochs=9)
    parameters, wanted = after(whole)
    assert same(model, parameters) and len(table) == whole and table.index.name == "epoch"
    assert list(table.columns) == ["train_loss", "val_metric", "seconds"]
    if whole:
        pd.testing.assert_frame_equal(table.drop(columns="seconds"),
                                      wanted.drop(columns="seconds"), check_exact=True)
    assert ("as it was given" if whole == 0 else f"end of epoch {whole}") in table.attrs["status"]


@pytest.mark.parametrize("error", [OSError("the disk is gone"), FloatingPointError("h overflows")])
def test_an_error_carries_the_table_and_leaves_the_last_whole_epoch(error):
    model, batches = small_problem()
    with pytest.raises(type(error)) as caught:
        quick(model, ending(batches, error, 8), batches, epochs=9)
    assert caught.value is error and same(model, after(2)[0])
    assert error.history["train_loss"].tolist() == after(2)[1]["train_loss"].tolist()
    assert "end of epoch 2" in error.__notes__[0] and ".history" in error.__notes__[0]


@pytest.mark.parametrize("what", [KeyboardInterrupt, OSError("gone")])
def test_the_best_epoch_is_kept_where_patience_asks_for_it(what):
    model, batches = small_problem()
    try:
        table = quick(model, ending(batches, what, 12), batches[:1], epochs=9, patience=5,
                      metric=scripted([0.1, 0.9, 0.3, 0.2]))
    except OSError as error:
        table = error.history
    assert table["val_metric"].tolist() == [0.1, 0.9, 0.3]
    assert same(model, after(2)[0]) and "end of epoch 2" in table.attrs["status"]


def test_a_validation_that_fails_keeps_as_much():
    model, batches = small_problem()
    values = iter([0.5, "none"])
    with pytest.raises(TypeError) as caught:
        quick(model, batches, batches[:1], epochs=5, metric=lambda Y, t: next(values))
    assert caught.value.history["val_metric"].tolist() == [0.5] and same(model, after(1)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("k", [2, 5])
def test_a_loss_that_is_not_finite_is_undone(bad, k):
    model, batches = small_problem()
    calls = itertools.count(1)

    def loss(Y, t):
        return nn.functional.cross_entropy(Y, t) * (bad if next(calls) == k else 1)

    with pytest.raises(FloatingPointError) as caught:
        quick(model, batches, loss=loss)
    assert f"the training loss became {bad} after 20 samples" in str(caught.value)
    assert "lower lr" in str(caught.value)
    assert same(model, after(k // 3)[0]) and len(caught.value.history) == k // 3


def test_ones_own_optimizer_goes_on_after_a_nan():
    """Its moments are those of the last whole epoch again, its learning rate is left alone."""
    (model, batches), (twin, _) = small_problem(), small_problem()
    adam, other = (torch.optim.Adam(m.parameters(), lr=0.03) for m in (model, twin))
    U = batches[0][0]
    with pytest.raises(FloatingPointError):
        quick(model, [*batches, (U * float("nan"), batches[0][1])], epochs=2, optimizer=adam)
    quick(model, batches, epochs=2, optimizer=adam)
    for p, q in zip(model.parameters(), after(2, optimizer=None, lr=0.03)[0], strict=True):
        assert torch.allclose(p, q, rtol=1e-12)  # the default updates in one pass
    quick(twin, batches, epochs=2, optimizer=other)
    for group in other.param_groups:
        group["lr"] = 0.01
    quick(twin, ending(batches, KeyboardInterrupt, 2), epochs=2, optimizer=other)
    assert other.param_groups[0]["lr"] == 0.01


def test_a_lazy_model_has_nothing_to_go_back_to_in_its_first_epoch():
    _, batches = small_problem()
    for k, words in ((1, "no shapes"), (3, "no shapes"), (4, "end of epoch 1")):
        model = nn.LazyLinear(3, device="cpu", dtype=torch.float64)
        table = quick(model, ending(batches, KeyboardInterrupt, k), epochs=2)
        assert words in table.attrs["status"] and len(table) == k // 4


# ---- refusals ------------------------------------------------------------------------------------


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


def test_fine_tuning_some_parameters_is_no_strangers_optimizer():
    model, batches = small_problem()
    net = nn.Sequential(nn.Linear(4, 4, device="cpu", dtype=torch.float64), nn.Tanh(),
                        nn.Linear(4, 3, device="cpu", dtype=torch.float64))
    first, head = net[0].weight.detach().clone(), net[2].weight.detach().clone()
    quick(net, batches, epochs=2, optimizer=sgd(net[2]))
    assert torch.equal(net[0].weight, first) and not torch.equal(net[2].weight, head)


def frozen(model):
    return model.requires_grad_(False)


@pytest.mark.parametrize(("options", "error", "fragments"), [
    ({"model": lambda m: 3}, TypeError, ["model", "Module", "got int"]),
    ({"model": lambda m: nn.ReLU()}, ValueError, ["parameter to train", "ReLU"]),
    ({"model": frozen}, ValueError, ["parameter to train", "Linear"]),
    ({"model": lambda m: m.to("meta")}, ValueError, ["weight on the meta device", "to_empty"]),
    ({"optimizer": sgd(nn.Linear(4, 3))}, ValueError,
     ["optimizer", "2 tensors", "none of its 2 trainable", "model.parameters()"]),
    ({"optimizer": "adam"}, TypeError, ["torch.optim.Optimizer", "got str"]),
    ({"optimizer": torch.optim.SGD}, TypeError, ["torch.optim.Optimizer", "got the class SGD"]),
    ({"optimizer": False}, TypeError, ["torch.optim.Optimizer", "got bool"]),
    ({"loss": nn.CrossEntropyLoss}, TypeError, ["loss", "the class CrossEntropyLoss", "()"]),
    ({"loss": "mse"}, TypeError, ["loss must be a function", "got str"]),
    ({"loss": None}, TypeError, ["loss must be a function", "got NoneType"]),
    ({"loss": lambda Y, t: None}, TypeError, ["loss", "one real number", "NoneType"]),
    ({"loss": lambda Y, t: 1.0}, TypeError, ["loss must give a tensor that depends", "1.0"]),
    ({"loss": lambda Y, t: Y.detach().sum()}, TypeError, ["loss must give a tensor", "detached"]),
    ({"loss": lambda Y, t: Y.sum(1)}, TypeError, ["loss", "one real number", "shape (20,)"]),
    ({"loss": lambda Y, t: Y.sum() * 1j}, TypeError, ["loss", "one real number", "complex"]),
    ({"metric": 3, "val_loader": []}, TypeError, ["metric must be a function, got int"]),
])
def test_what_would_train_nothing_is_refused(options, error, fragments):
    model, batches = small_problem()
    model = options.get("model", lambda m: m)(model)
    rejects(lambda: fit(model, batches, progress=False,
                        **{k: v for k, v in options.items() if k != "model"}), error, *fragments)


def test_an_optimizer_of_parameters_that_are_not_used_is_refused():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = small_problem()[0], small_problem()[0]

        def forward(self, U):
            return self.used(U)

    model = Half()
    rejects(lambda: quick(model, small_problem()[1], optimizer=sgd(model.unused)), ValueError,
            "optimizer", "does not depend on")


# ---- on a device: the host waits for it once in many batches -------------------------------------


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, lambda Y, t: Y.square().mean()])
def test_losses_are_read_together(optimizer, loss):
    def waits(epochs, size):
        with pretend_device() as device:
            model, batches = small_problem()
            model, given = model.to(device), [(U.to(device), y.to(device)) for U, y in batches]
            device_waits()
            fit(model, given * size, epochs=epochs, loss=loss, progress=False,
                optimizer=optimizer(model.parameters(), lr=0.1))
            return device_waits().total()

    first = waits(1, 4)
    assert waits(2, 4) == first + 1, "twelve batches, read at the end of the epoch"
    assert waits(2, 40) - waits(1, 40) == math.ceil(120 / EVERY)
    if loss is not nn.functional.cross_entropy:  # whose labels are counted in the first epoch
        assert first == 1


def test_a_nan_on_a_device_is_found_later_and_undone_as_well():
    def run(device, k):
        model, batches = small_problem()
        model, calls = model.to(device), itertools.count(1)
        with pytest.raises(FloatingPointError) as caught:
            quick(model, batches * 40, epochs=3, loss=lambda Y, t: nn.functional.cross_entropy(
                Y, t) * (float("nan") if next(calls) == k else 1))
        return [*model.parameters()], caught.value, next(calls) - 1

    for k in (7, 127, 230):
        wanted, error, _ = run("cpu", k)
        with pretend_device() as device:
            found, late, calls = run(device, k)
        assert all(torch.equal(p.held, q) for p, q in zip(found, wanted, strict=True))
        assert str(late) == str(error) and len(late.history) == len(error.history) == k // 120
        assert k <= calls < k + EVERY


def test_evaluate_reads_once():
    with pretend_device() as device:
        model, batches = small_problem()
        model, given = model.to(device), [(U.to(device), y.to(device)) for U, y in batches * 9]
        device_waits()
        evaluate(model, given, lambda Y, t: Y.square().mean())
        assert device_waits().total() == 1
        evaluate(model, given)
        assert device_waits().total() == 1 + len(given)  # accuracy refuses what cannot be ranked
