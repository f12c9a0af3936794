"""The digits are the real ones, split the same way every time; the rest goes through OpenML."""

import dataclasses
import gzip
import hashlib
import inspect
import json
import socket
import urllib.error

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


def test_the_seed_decides_the_order_of_training_alone():
    def labels(k, **options):
        return torch.cat([y for _, y in data.load(**options)[k]]).tolist()

    assert labels(0, seed=1) == labels(0, seed=1) != labels(0, seed=2)
    assert labels(1, seed=1) == labels(1, seed=2) == parts()[1][1].tolist()
    torch.manual_seed(123)
    assert labels(0, seed=1) == labels(0, seed=1)
    loader = data.load()[0]
    assert [y.tolist() for _, y in loader] != [y.tolist() for _, y in loader]  # a new epoch


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
    ({"seed": 2 ** 63}, ValueError, ["seed", "2**63"]),
    ({"data_home": 3}, TypeError, ["data_home must be a path", "3"]),
    ({"cache": "no"}, TypeError, ["cache", "'no'"]),
    ({"dtype": torch.int64}, TypeError, ["dtype", "floating-point", "int64"]),
    ({"dtype": "float32"}, TypeError, ["dtype", "'float32'"]),
    ({"samples": 0}, ValueError, ["samples", "at least 1"]),
    ({"samples": 1348}, ValueError, ["at most the training part's 1,347", "1348"]),
    ({"name": "fashion-mnist"}, ValueError, ["Did you mean 'fashion_mnist'?"]),
    ({"name": "mnist_784", "test_size": 0.1}, ValueError, ["60,000", "leave test_size=0.1 out"]),
])
def test_refusals(options, error, fragments):
    rejects(lambda: data.load(**options), error, *fragments)


def test_whole_numbers_may_be_numpys():
    one, two = (data.load(batch_size=k(50), samples=k(200), seed=k(3)) for k in (int, np.int64))
    assert [y.tolist() for _, y in one[0]] == [y.tolist() for _, y in two[0]]


def test_the_first_argument_is_the_name():
    assert list(inspect.signature(data.load).parameters)[0] == "name"


def test_samples_are_a_seeded_choice_of_the_training_part():
    (all_U, all_y), (_, whole) = parts()
    (U, y), (_, y_test) = parts(samples=100, seed=1)
    assert U.shape == (100, 64) and torch.equal(y_test, whole)
    there = {(*u.tolist(), int(k)) for u, k in zip(all_U, all_y, strict=True)}
    assert {(*u.tolist(), int(k)) for u, k in zip(U, y, strict=True)} <= there
    assert torch.equal(U, parts(samples=100, seed=1)[0][0])
    assert not torch.equal(U, parts(samples=100, seed=2)[0][0])
    assert torch.equal(U[:30], parts(samples=30, seed=1)[0][0])  # a larger choice holds a smaller


def prepare(home, name: str, pixels: np.ndarray, labels: np.ndarray, quote: str = "") -> None:
    """Write what fetch_openml keeps of a dataset, with OpenML's own layout and field names."""
    def keep(path: str, content: bytes) -> None:
        file = home / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content))

    columns = [f"pixel{k + 1}" for k in range(pixels.shape[1])]
    arff = "\n".join([f"@RELATION {name}", *(f"@ATTRIBUTE {c} INTEGER" for c in columns),
                      "@ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}", "@DATA",
                      *(",".join([*map(str, row), f"{quote}{label}{quote}"])
                        for row, label in zip(pixels.tolist(), labels.tolist(), strict=True)), ""])
    features = [{"index": str(k), "name": c, "data_type": "nominal" if c == "class" else "numeric",
                 "is_target": str(c == "class").lower(), "is_ignore": "false",
                 "is_row_identifier": "false", "number_of_missing_values": "0"}
                for k, c in enumerate([*columns, "class"])]
    answers = {
        f"list/data_name/{name.lower()}/limit/2/data_version/1":
            {"data": {"dataset": [{"did": 7, "name": name, "version": 1, "status": "active"}]}},
        "7": {"data_set_description": {
            "id": "7", "name": name, "version": "1", "format": "ARFF", "status": "active",
            "description": "", "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
            "url": f"https://api.openml.org/data/v1/download/77/{name}.arff"}},
        "features/7": {"data_features": {"feature": features}},
        "qualities/7": {"data_qualities": {"quality": [
            {"name": "NumberOfInstances", "value": str(float(len(labels)))}]}},
    }
    for path, answer in answers.items():
        keep(f"api/v1/json/data/{path}", json.dumps(answer).encode())
    keep(f"data/v1/download/77/{name}.arff", arff.encode())


@pytest.fixture
def offline(monkeypatch):
    """Every download fails as on a machine without a network, and is counted."""
    calls = []

    def urlopen(request, *args, **kwargs):
        calls.append((request.full_url, socket.getdefaulttimeout()))
        raise urllib.error.URLError("Name or service not known")
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", urlopen)
    return calls


@pytest.mark.parametrize(("name", "on_openml", "p", "quote"), [
    ("fashion_mnist", "Fashion-MNIST", 784, ""), ("mnist_784", "mnist_784", 784, "'"),
    ("cifar_10", "CIFAR_10", 3072, '"')])
def test_openml_through_the_real_loader(name, on_openml, p, quote, tmp_path, monkeypatch, offline,
                                        capsys):
    full = data._OPENML[name]
    assert full.train == (50_000 if name == "cifar_10" else 60_000) and full.test == 10_000
    monkeypatch.setitem(data._OPENML, name, dataclasses.replace(full, train=7, test=3))
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (10, p)), rng.permutation(10)
    prepare(tmp_path, on_openml, pixels, labels, quote)
    (U, y), (U_test, y_test) = parts(name=name, data_home=tmp_path, dtype=torch.float64)
    assert not offline
    np.testing.assert_array_equal(torch.cat([U, U_test]).numpy(), pixels / 255)
    np.testing.assert_array_equal(torch.cat([y, y_test]).numpy(), labels)
    assert len(y) == 7 and len(y_test) == 3 and y.dtype == torch.int64 and U.device.type == "cpu"
    assert U.unflatten(1, data.SHAPES[name]).shape == (7, *data.SHAPES[name])
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(part in line for part in (on_openml, "10 images", f"{full.megabytes} MB",
                                         str(tmp_path / "openml")))
    half = parts(name=name, data_home=tmp_path, samples=2)[0][0]
    assert half.shape == (2, p) and half.dtype == torch.float32


def test_a_dataset_of_another_size_is_refused(tmp_path, offline):
    prepare(tmp_path, "mnist_784", np.zeros((10, 784), int), np.arange(10))
    rejects(lambda: data.load("mnist_784", data_home=tmp_path), ValueError,
            "(70000, 784)", "got (10, 784)")


@pytest.mark.filterwarnings("ignore:A network error occurred")
@pytest.mark.parametrize("cache", [True, False])
def test_without_a_network_one_sentence_says_what_to_do(cache, tmp_path, offline):
    rejects(lambda: data.load("fashion_mnist", data_home=tmp_path, cache=cache), ConnectionError,
            f"fashion_mnist is not in {tmp_path / 'openml'}", "openml.org",
            "Name or service not known", "copy that folder", "'digits', which needs no download")
    assert len(offline) == 2 and all(timeout == 30 for _, timeout in offline)
    assert "fashion-mnist" in offline[0][0] and socket.getdefaulttimeout() is None


def test_shapes_are_those_of_the_inputs():
    assert data.DATASETS == tuple(data.SHAPES) and set(data._OPENML) | {"digits"} == set(
        data.DATASETS)
    U, _ = parts()[0]
    assert U.unflatten(1, data.SHAPES["digits"]).shape == (len(U), 8, 8)
