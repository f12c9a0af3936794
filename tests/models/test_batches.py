"""What is no batch, label, loss or metric is refused in a sentence; what is right runs."""

import warnings

import numpy as np
import pytest
import torch
from helpers import draw, rejects
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss, one_hot
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from idl_lab.training import accuracy, evaluate, fit

U, Y = draw(0, 20, 4), draw(1, 20, 3)
y = torch.tensor([0, 1, 2, 1] * 5, device="cpu")
with warnings.catch_warnings():  # they say that they are prototypes
    warnings.simplefilter("ignore")
    CSR = Y.to_sparse_csr()
    NESTED = [torch.nested.nested_tensor([Y[0], Y[1, :2]], layout=layout)
              for layout in (torch.strided, torch.jagged)]
CPU = {"device": "cpu", "dtype": torch.float64}


def linear(q=3):
    return nn.Linear(4, q, **CPU)


def trained(loader, loss=cross_entropy, model=None, **options):
    model = model or linear()
    return fit(model, loader, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss=loss,
               epochs=2, progress=False, **options)


def used_up():
    pairs = (pair for pair in [(U, y)])
    list(pairs)
    return pairs


# ---- loaders -------------------------------------------------------------------------------------

LOADERS = {
    "None": (None, TypeError, ["DataLoader or a list", "NoneType"]),
    "a number": (3, TypeError, ["DataLoader or a list", "int"]),
    "a class": (DataLoader, TypeError, ["DataLoader or a list", "the class DataLoader"]),
    "a dataset": (TensorDataset(U, y), TypeError, ["TensorDataset", "single", "DataLoader("]),
    "one pair": ((U, y), TypeError, ["one pair", "[(U, target)]"]),
    "a tensor": (U, TypeError, ["pairs (U, target)", "got a Tensor"]),
    "text": ("digits", TypeError, ["pairs (U, target)", "got a str"]),
    "a dict": ({"train": (U, y)}, TypeError, ["pairs (U, target)", "got a str"]),
    "dicts": ([{"U": U, "y": y}], TypeError, ["pairs (U, target)", "got a dict"]),
    "inputs alone": ([U], TypeError, ["pairs (U, target)", "got a Tensor"]),
    "triples": ([(U, y, y)], TypeError, ["pairs (U, target)", "a tuple of 3"]),
    "a tuple of one": ([(U,)], TypeError, ["pairs (U, target)", "a tuple of 1"]),
    "samples": ([(U[0], y[0])], ValueError, ["target of shape ()", "DataLoader("]),
    "an empty batch": ([(U[:0], y[:0])], ValueError, ["target of shape (0,)"]),
    "nothing": ([], ValueError, ["gave no batch"]),
    "numpy": ([(U.numpy(), y.numpy())], TypeError, ["U", "torch.Tensor", "ndarray"]),
    "lists": ([(U.tolist(), y.tolist())], TypeError, ["U", "torch.Tensor", "list"]),
    "pairs of inputs": ([((U, U), y)], TypeError, ["U", "torch.Tensor", "tuple"]),
    "no target": ([(U, None)], TypeError, ["target", "torch.Tensor", "NoneType"]),
    "a sparse target": ([(U, y.to_sparse())], TypeError, ["target", "dense", "sparse_coo"]),
    "a nested target": ([(U, NESTED[0])], TypeError,
                        ["target", "dense", "nested"]),
    "a jagged target": ([(U, NESTED[1])], TypeError, ["target", "dense", "nested"]),
    "a complex target": ([(U, Y * 1j)], TypeError, ["target", "real numbers", "complex"]),
    "meta": ([(U.to("meta"), y)], ValueError, ["U", "meta device"]),
}


@pytest.mark.parametrize("case", LOADERS)
@pytest.mark.parametrize("name", ["train_loader", "val_loader", "loader"])
def test_no_loader(case, name):
    given, error, fragments = LOADERS[case]
    if name == "val_loader" and given is None:
        return  # the default
    call = {"train_loader": lambda: trained(given),
            "val_loader": lambda: trained([(U, y)], val_loader=given),
            "loader": lambda: evaluate(linear(), given)}[name]
    rejects(call, error, name, *fragments)


def test_a_generator_is_refused_before_the_first_epoch_unless_one_pass_is_asked_for():
    for once in ((pair for pair in [(U, y)]), zip([U], [y], strict=True), map(tuple, [(U, y)])):
        model = linear()
        before = model.weight.detach().clone()
        rejects(lambda given=once, model=model: trained(given, model=model), TypeError,
                "train_loader must last for 2 epochs", type(once).__name__)
        rejects(lambda given=once: trained([(U, y)], val_loader=given), TypeError,
                "val_loader must last for 2 epochs")
        assert torch.equal(model.weight, before)
        assert evaluate(model, once) == evaluate(model, [(U, y)])
    rejects(lambda: evaluate(linear(), used_up()), ValueError, "used up")


def test_what_gives_batches_in_some_other_way_is_taken():
    class Stream(IterableDataset):
        def __iter__(self):
            yield U[:15], y[:15]
            yield U[15:], y[15:]

    pairs = [(U[:15], y[:15]), (U[15:], y[15:])]
    model = linear()
    wanted = evaluate(model, pairs)
    for given in (Stream(), tuple(pairs), [list(pair) for pair in pairs], iter(pairs),
                  DataLoader(TensorDataset(U, y), 15), DataLoader(Stream(), None)):
        assert evaluate(model, given) == pytest.approx(wanted, rel=1e-12)


def test_batches_are_weighted_by_their_samples_where_the_input_is_packed():
    """A packed batch is a tuple of four, whatever it holds."""
    class First(nn.Module):
        def forward(self, packed):
            return pad_packed_sequence(packed, batch_first=True)[0][:, 0]

    parts = [(pack_sequence([U[:5], U[5:8]]), y[:2]),
             (pack_sequence([U[8:10], U[10:12], U[12:13]]), y[2:5])]
    alone = [evaluate(First(), [part], lambda P, t: P.sum(1).mean()) for part in parts]
    assert evaluate(First(), parts, lambda P, t: P.sum(1).mean()) == pytest.approx(
        (2 * alone[0] + 3 * alone[1]) / 5, rel=1e-12)


# ---- labels --------------------------------------------------------------------------------------

LABELS = {
    "float": (y.double(), TypeError, ["whole numbers", "float64", "labels.long()"]),
    "bool": (y > 0, TypeError, ["whole numbers", "bool", "labels.long()"]),
    "too large": (y + 1, ValueError, ["0 … 2", "3 classes", "5 others", "such as 3"]),
    "negative": (y - 1, ValueError, ["0 … 2", "3 classes", "5 others", "such as -1"]),
    "one-hot": (one_hot(y, 3), ValueError, ["(20,)", "(20, 3)", "argmax"]),
    "too few": (y[:5], ValueError, ["(20,)", "(5,)"]),
    "too many": (y.repeat(2), ValueError, ["(20,)", "(40,)"]),
    "a column": (y[:, None], ValueError, ["(20,)", "(20, 1)"]),
}


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("by", ["accuracy", "evaluate", "fit", "a loss as metric"])
def test_no_labels(case, by):
    given, error, fragments = LABELS[case]
    call = {"accuracy": lambda: accuracy(Y, given),
            "evaluate": lambda: evaluate(linear(), [(U, given)]),
            "fit": lambda: trained([(U, given)]),
            "a loss as metric": lambda: evaluate(linear(), [(U, given)], nn.CrossEntropyLoss())}
    rejects(call[by], error, "labels", *fragments)


@pytest.mark.parametrize(("predictions", "labels", "error", "fragments"), [
    (Y.tolist(), y, TypeError, ["predictions", "torch.Tensor", "list"]),
    (Y.numpy(), y, TypeError, ["predictions", "torch.Tensor", "ndarray"]),
    ((Y, Y), y, TypeError, ["predictions", "torch.Tensor", "tuple"]),
    (Y, y.tolist(), TypeError, ["labels", "torch.Tensor", "list"]),
    (Y, np.zeros(20, int), TypeError, ["labels", "torch.Tensor", "ndarray"]),
    (Y > 0, y, TypeError, ["predictions", "numbers", "bool"]),
    (Y * 1j, y, TypeError, ["predictions", "real", "complex128"]),
    (Y.to_sparse(), y, TypeError, ["predictions", "dense", "sparse_coo"]),
    (CSR, y, TypeError, ["predictions", "dense", "sparse_csr"]),
    (NESTED[0], y, TypeError, ["predictions", "nested"]),
    (NESTED[1], y, TypeError, ["predictions", "nested"]),
    (Y.to("meta"), y, ValueError, ["predictions", "meta device"]),
    (Y, y.to("meta"), ValueError, ["labels", "meta device"]),
    (Y[0, 0], y, ValueError, ["predictions", "(..., q)", "()"]),
    (Y[:, 0], y, ValueError, ["labels must have shape ()", "(20,)"]),
    (Y[:0], y[:0], ValueError, ["needs a row", "(0, 3)"]),
    (Y * float("nan"), y, ValueError, ["predictions must be finite"]),
    (Y * float("inf"), y, ValueError, ["predictions must be finite"]),
    (Y, y * 0 + 7, ValueError, ["labels must be in 0 … 2", "20 others", "such as 7"]),
])
def test_accuracy_refuses(predictions, labels, error, fragments):
    rejects(lambda: accuracy(predictions, labels), error, *fragments)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_whole_numbers_are_counted(dtype):
    assert accuracy(Y, y.to(dtype)) == (Y.argmax(1) == y).float().mean()
    wide = draw(3, 20, 300)  # more classes than 8 bits hold
    assert accuracy(wide, y.to(dtype)) == (wide.argmax(1) == y).float().mean()
    assert accuracy(Y.reshape(4, 5, 3), y.reshape(4, 5).to(dtype)) == accuracy(Y, y)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_labels_that_torchs_loss_does_not_take(dtype):
    rejects(lambda: trained([(U, y.to(dtype))]), TypeError, "whole numbers of int64", str(dtype),
            "labels.long()")


def test_what_torchs_cross_entropy_takes_is_taken():
    soft, skipped = one_hot(y, 3).double() * 0.8 + 0.1, torch.where(y == 1, -100, y)
    model = linear()
    for loss, target in ((cross_entropy, y), (cross_entropy, y.to(torch.uint8)),
                         (cross_entropy, soft), (cross_entropy, skipped),
                         (nn.CrossEntropyLoss(ignore_index=9), torch.where(y == 1, 9, y))):
        found = evaluate(model, [(U, target)], loss)
        assert found == pytest.approx(float(loss(model(U), target).detach()), rel=1e-6)
        assert trained([(U, target)], loss)["train_loss"].is_monotonic_decreasing
    pixels = nn.Unflatten(1, (3, 2))  # classes along axis 1, as torch has them
    wide = nn.Sequential(linear(6), pixels)
    target = torch.stack([y, y], 1)
    assert len(trained([(U, target)], model=wide)) == 2
    rejects(lambda: trained([(U, target + 1)], model=wide), ValueError, "0 … 2", "such as 3")
    rejects(lambda: trained([(U, target.mT)], model=wide), ValueError, "(20, 2)", "(2, 20)")


# ---- losses and metrics --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [mse_loss, l1_loss, nn.MSELoss(), nn.HuberLoss(),
                                  nn.SmoothL1Loss(), nn.L1Loss()],
                         ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_a_target_that_torch_would_broadcast_is_refused(loss):
    for target in (Y[:, 0], Y[:, :1], Y[:1], Y[:7]):
        for call in (lambda t=target: trained([(U, t)], loss),
                     lambda t=target: evaluate(linear(), [(U, t)], loss)):
            rejects(call, ValueError, "target must have the shape", "(20, 3)",
                    str(tuple(target.shape)))
    assert len(trained([(U, Y)], loss)) == 2

    def own(P, t):  # knows what it takes
        return mse_loss(P[:, 0], t)

    assert len(trained([(U, Y[:, 0])], own)) == 2


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, U):
        return self.linear(U), U


@pytest.mark.parametrize("call", [lambda: trained([(U, y)], model=Tuple()),
                                  lambda: evaluate(Tuple(), [(U, y)]),
                                  lambda: trained([(U, Y)], mse_loss, Tuple())])
def test_a_model_that_gives_more_than_predictions(call):
    rejects(call, TypeError, "predictions", "torch.Tensor", "tuple")


@pytest.mark.parametrize(("metric", "error", "fragments"), [
    (3, TypeError, ["metric must be a function", "int"]),
    (nn.MSELoss, TypeError, ["metric must be a function", "the class MSELoss", "MSELoss()"]),
    (lambda P, t: None, TypeError, ["metric must give one real number", "NoneType"]),
    (lambda P, t: "good", TypeError, ["metric must give one real number", "str"]),
    (lambda P, t: P.sum(1), TypeError, ["metric must give one real number", "shape (20,)"]),
    (lambda P, t: P.sum() * 1j, TypeError, ["metric must give one real number", "complex128"]),
])
def test_no_metric(metric, error, fragments):
    rejects(lambda: evaluate(linear(), [(U, y)], metric), error, *fragments)
    rejects(lambda: trained([(U, y)], val_loader=[(U, y)], metric=metric), error, *fragments)


def test_a_metric_may_give_any_real_number():
    for value in (2, 0.25, True, np.float32(0.5), torch.tensor(3), torch.tensor([0.5])):
        assert evaluate(linear(), [(U, y), (U[:3], y[:3])], lambda P, t, v=value: v) == float(value)
