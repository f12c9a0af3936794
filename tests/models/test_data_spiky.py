"""The spiky series: its two regimes, and windows that keep training and test apart."""

import numpy as np
import pytest
import torch
from helpers import rejects

from idl_lab import data


def test_the_two_regimes():
    series, spiky = data.spiky_series(seed=3)
    y, inside = series.numpy(), spiky.numpy()
    t = np.linspace(0, 100, 10_000)
    wave = 3.5 * sum(np.sin(f * t) for f in (2, 23, 78, 100))
    np.testing.assert_allclose(y[inside], wave[inside], atol=1e-9)
    noise = (y - np.sin(t))[~inside]
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(0.35, rel=0.03)
    assert series.dtype == torch.float64 and series.device.type == spiky.device.type == "cpu"


@pytest.mark.parametrize("level", [1, 7, 10])
def test_the_regions(level):
    _, spiky = data.spiky_series(level)
    edges = np.flatnonzero(np.diff(np.r_[0, spiky.numpy().astype(int), 0]))
    lengths = edges[1::2] - edges[::2]
    assert lengths.min() >= 100 + level  # those that overlap make a longer one
    assert int(spiky.sum()) <= (20 + level) * (100 + level)
    assert len(lengths) > (20 + level) / 2


def test_the_seed_decides_everything():
    one, two, other = (data.spiky_series(seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_every_window_is_followed_by_its_target():
    series = data.spiky_series(points=1000, seed=2)[0].numpy()
    train, test = data.spiky(points=1000, look_back=7, seed=2, dtype=torch.float64)
    for loader, first, last in ((train, 0, 600), (test, 600, 1000)):
        windows, targets = loader.dataset.tensors
        assert windows.shape == (last - first - 7, 7, 1) and targets.shape == (len(windows), 1)
        for k, (window, target) in enumerate(zip(windows.numpy(), targets.numpy(), strict=True)):
            assert np.array_equal(window[:, 0], series[first + k:first + k + 7])
            assert target == series[first + k + 7]


def test_a_test_window_holds_no_training_target():
    """With all different values, equality says which is which."""
    train, test = data.spiky(level=3, points=2000, dtype=torch.float64)
    trained = set(train.dataset.tensors[1].flatten().tolist())
    assert len(trained) == 1200 - 60
    assert not trained & set(test.dataset.tensors[0].flatten().tolist())


def test_defaults_are_the_examples():
    train, test = data.spiky()
    assert train.dataset.tensors[0].shape == (5940, 60, 1)
    assert test.dataset.tensors[0].shape == (3940, 60, 1)
    assert train.dataset.tensors[0].dtype == torch.float32


def test_batches():
    train, test = data.spiky(batch_size=100, seed=1)
    (x, y), again = next(iter(train)), next(iter(data.spiky(batch_size=100, seed=1)[0]))
    assert x.shape == (100, 60, 1) and y.shape == (100, 1)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    assert not torch.equal(x, train.dataset.tensors[0][:100])
    assert torch.equal(next(iter(test))[0], test.dataset.tensors[0][:100])


@pytest.mark.parametrize(("options", "error", "fragments"), [
    ({"level": 0}, ValueError, ["level", "at least 1"]),
    ({"level": 3.5}, TypeError, ["level", "3.5"]),
    ({"points": 107}, ValueError, ["points", "at least 108"]),
    ({"look_back": 0}, ValueError, ["look_back", "at least 1"]),
    ({"look_back": 4000}, ValueError, ["look_back", "4000 points of the test part"]),
    ({"look_back": 6000}, ValueError, ["look_back", "6000 points of the training part"]),
    ({"test_size": 1.0}, ValueError, ["test_size", "< 1"]),
    ({"batch_size": 0}, ValueError, ["batch_size"]),
    ({"seed": -1}, ValueError, ["seed"]),
    ({"dtype": torch.int32}, TypeError, ["dtype", "int32"]),
])
def test_refusals(options, error, fragments):
    rejects(lambda: data.spiky(**options), error, *fragments)
