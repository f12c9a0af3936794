"""The digits: the real ones, split the same way every time."""

import inspect

import numpy as np
import pytest
import torch
from helpers import rejects
from sklearn.datasets import load_digits

from idl_lab import data


def parts(**options):
    """Inputs and labels of both parts, in stored order."""
    return [loader.dataset.tensors for loader in data.load(**options)]


def test_shapes_types_and_range():
    for U, y in parts():
        assert U.shape == (len(y), 64) and y.shape == (len(U),)
        assert U.dtype == torch.float32 and y.dtype == torch.int64
        assert U.device.type == y.device.type == "cpu"
        assert U.min() == 0 and U.max() == 1 and set(y.tolist()) == set(range(10))
    assert parts(dtype=torch.float64)[0][0].dtype == torch.float64


def test_every_digit_is_there_once():
    pixels, labels = load_digits(return_X_y=True)
    U, y = (torch.cat(T).numpy() for T in zip(*parts(dtype=torch.float64), strict=True))
    given = np.column_stack([U * 16, y])
    real = np.column_stack([pixels, labels])
    assert np.array_equal(given[np.lexsort(given.T)], real[np.lexsort(real.T)])


@pytest.mark.parametrize("test_size", [0.1, 0.25, 0.5])
def test_the_split_is_stratified_and_never_changes(test_size):
    train, test = parts(test_size=test_size)
    assert len(test[1]) == pytest.approx(1797 * test_size, abs=1)
    counts = [torch.bincount(y, minlength=10) for y in (train[1], test[1])]
    shares = counts[1] / sum(counts)
    assert float((shares - test_size).abs().max()) < 0.01
    again, _ = parts(test_size=test_size, seed=5, batch_size=7)
    assert torch.equal(train[0], again[0]) and torch.equal(train[1], again[1])


@pytest.mark.cpu_default  # torch's own sampler draws on the default device
def test_the_seed_decides_the_order_of_training_alone():
    def labels(k, **options):
        return torch.cat([y for _, y in data.load(**options)[k]]).tolist()

    assert labels(0, seed=1) == labels(0, seed=1) != labels(0, seed=2)
    assert labels(1, seed=1) == labels(1, seed=2) == parts()[1][1].tolist()
    torch.manual_seed(123)
    assert labels(0, seed=1) == labels(0, seed=1)
    loader = data.load()[0]
    assert [y.tolist() for _, y in loader] != [y.tolist() for _, y in loader]  # a new epoch


@pytest.mark.cpu_default
def test_batches():
    train, test = data.load(batch_size=100)
    assert [len(U) for U, _ in train][:2] == [100, 100] and len(train) == 14
    assert sum(len(U) for U, _ in test) == 450


@pytest.mark.parametrize(("options", "error", "fragments"), [
    ({"name": "digit"}, ValueError, ["name='digit'", "Did you mean 'digits'?"]),
    ({"name": 3}, ValueError, ["name=3", "digits"]),
    ({"batch_size": 0}, ValueError, ["batch_size", "at least 1"]),
    ({"batch_size": 2.5}, TypeError, ["batch_size", "2.5"]),
    ({"test_size": 0.0}, ValueError, ["test_size", "> 0 and < 1"]),
    ({"test_size": 1.0}, ValueError, ["test_size", "1.0"]),
    ({"test_size": "half"}, TypeError, ["test_size", "'half'"]),
    ({"seed": -1}, ValueError, ["seed", "at least 0"]),
    ({"seed": None}, TypeError, ["seed", "None"]),
    ({"dtype": torch.int64}, TypeError, ["dtype", "floating-point", "int64"]),
    ({"dtype": "float32"}, TypeError, ["dtype", "'float32'"]),
])
def test_refusals(options, error, fragments):
    rejects(lambda: data.load(**options), error, *fragments)


def test_the_first_argument_is_the_name():
    assert list(inspect.signature(data.load).parameters)[0] == "name"
