"""Datasets as DataLoaders: flat inputs (m, p) with class labels (m,), and a series as windows."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from idl_lab import extras, validation


@dataclass(frozen=True)
class _OpenML:
    """A data set of openml.org: its name there, how its rows split, roughly what it weighs."""

    name: str
    train: int
    test: int
    megabytes: int


_OPENML = {
    "fashion_mnist": _OpenML("Fashion-MNIST", 60_000, 10_000, 40),
    "mnist_784": _OpenML("mnist_784", 60_000, 10_000, 20),
    "cifar_10": _OpenML("CIFAR_10", 50_000, 10_000, 200),
}
# What a flat input is a picture of: U.unflatten(1, SHAPES[name]). Colours come first, as in torch.
SHAPES = {"digits": (8, 8), "fashion_mnist": (28, 28), "mnist_784": (28, 28),
          "cifar_10": (3, 32, 32)}
DATASETS = tuple(SHAPES)
_SPLIT_SEED = 0  # the split never changes: numbers of different runs stay comparable


def load(name: str = "digits", *, batch_size: int = 64, test_size: float | None = None,
         samples: int | None = None, seed: int = 0, dtype: torch.dtype = torch.float32,
         data_home: str | os.PathLike | None = None, cache: bool = True
         ) -> tuple[DataLoader, DataLoader]:
    """A dataset's training and test parts, pixels in [0, 1] and ten classes.

    ``"digits"``: 1,797 handwritten digits of 8 × 8 pixels, which ship inside scikit-learn. The
    split is stratified and always the same. The others are fetched from openml.org at their first
    use and come with a split of their own: ``"fashion_mnist"`` and ``"mnist_784"`` (28 × 28 pixels,
    60,000 and 10,000 images), ``"cifar_10"`` (3 × 32 × 32, 50,000 and 10,000). Reading takes
    some 15 seconds and 1.5 GB of memory, CIFAR-10 several times as much.

    Parameters
    ----------
    name : {"digits", "fashion_mnist", "mnist_784", "cifar_10"}
    batch_size : int
    test_size : float, optional
        Share of the digits' test part, in (0, 1); 0.25 by default.
    samples : int, optional
        Keep only so many of the training part, chosen by ``seed``; the test part stays whole.
    seed : int
        Decides the order of the training batches.
    dtype : torch.dtype
        Of the inputs; labels are int64. Both are on the CPU.
    data_home : path, optional
        Folder that downloads are kept in, under ``openml``: scikit-learn's, which is
        ``$SCIKIT_LEARN_DATA`` or else ``~/scikit_learn_data``. For a machine without a network,
        copy that folder from one that has it.
    cache : bool
        Whether downloads are kept at all.

    Returns
    -------
    train, test : DataLoader
        Batches U (m, p) and labels (m,); only the training part is shuffled. `SHAPES` names the
        shape of one picture.

    Raises
    ------
    TypeError, ValueError
        If an argument is none, or does not fit the dataset.
    ConnectionError
        If a dataset is not there and cannot be fetched.

    References
    ----------
    E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository. H. Xiao, K. Rasul and R. Vollgraf 2017, Fashion-MNIST, arXiv 1708.07747.
    """
    validation.choice("name", name, DATASETS)
    batch_size = validation.integer("batch_size", batch_size)
    test_size is None or validation.real("test_size", test_size, above=0.0, below=1.0)
    samples is None or validation.integer("samples", samples)
    generator = _generator(seed)
    validation.floating(dtype)
    if not (data_home is None or isinstance(data_home, (str, os.PathLike))):
        raise TypeError(f"data_home must be a path, got {data_home!r}.")
    if not isinstance(cache, bool):
        raise TypeError(f"cache must be True or False, got {cache!r}.")
    if name == "digits":
        U, labels = _sklearn("datasets").load_digits(return_X_y=True)
        split = _sklearn("model_selection").train_test_split
        rows = split(np.arange(len(U)), test_size=test_size or 0.25, stratify=labels,
                                random_state=_SPLIT_SEED)
        U = torch.as_tensor(U / 16.0, dtype=dtype, device="cpu")
    else:
        known = _OPENML[name]
        if test_size is not None:
            raise ValueError(f"{name} has a split of its own ({known.train:,} and {known.test:,} "
                             f"images), so leave test_size={test_size} out.")
        U, labels = _fetch(name, data_home, cache)
        rows = np.arange(known.train), np.arange(known.train, known.train + known.test)
        U = torch.as_tensor(U, dtype=dtype, device="cpu").div_(255)
    y = torch.as_tensor(labels, dtype=torch.int64, device="cpu")
    (U_train, y_train), (U_test, y_test) = ((U[part], y[part]) for part in rows)
    if samples is not None:
        U_train, y_train = _choose(U_train, y_train, samples, seed)
    train = DataLoader(TensorDataset(U_train, y_train), batch_size, shuffle=True,
                       generator=generator)
    return train, DataLoader(TensorDataset(U_test, y_test), batch_size)


def _generator(seed: int) -> torch.Generator:
    seed = validation.integer("seed", seed, at_least=0)
    if seed >= 2 ** 63:
        raise ValueError(f"seed must be below 2**63, got {seed}.")
    return torch.Generator("cpu").manual_seed(seed)


def _choose(U: Tensor, y: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    if samples > len(U):
        raise ValueError(f"samples must be at most the training part's {len(U):,}, got {samples}.")
    chosen = np.random.default_rng(seed).permutation(len(U))[:samples]
    return U[chosen], y[chosen]


def _fetch(name: str, data_home: str | os.PathLike | None, cache: bool
           ) -> tuple[np.ndarray, np.ndarray]:
    """Pixels 0..255, (m, p), and labels, (m,), of all rows in OpenML's order."""
    known = _OPENML[name]
    datasets = _sklearn("datasets")
    home = Path(datasets.get_data_home(data_home)) / "openml"
    kept = f"kept in {home}" if cache else "not kept (cache=False)"
    print(f"{known.name}: reading {known.train + known.test:,} images; the first time they are "
          f"downloaded, about {known.megabytes} MB from openml.org, {kept}.", file=sys.stderr,
          flush=True)
    try:
        with _a_dead_network_ends():
            # dtype None: pandas finds out for itself that the labels are numbers. Told that they
            # are categories, as scikit-learn does, pandas 3 breaks off; liac-arff is pure Python.
            U, labels = datasets.fetch_openml(
                known.name, version=1, as_frame=False, return_X_y=True, parser="pandas",
                read_csv_kwargs={"dtype": None}, data_home=data_home, cache=cache, n_retries=1)
    except (URLError, ConnectionError, TimeoutError, SSLError, HTTPException) as error:
        raise ConnectionError(
            f"{name} is not in {home} and could not be downloaded from openml.org ({error}): copy "
            f"that folder from a machine that has loaded {name!r} once, or use 'digits', which "
            f"needs no download.") from error
    wanted = (known.train + known.test, int(np.prod(SHAPES[name])))
    if U.shape != wanted:
        raise ValueError(f"{known.name} from openml.org must have shape {wanted}, got {U.shape}.")
    return U, np.char.strip(labels.astype(str), "'").astype(np.int64)  # ARFF may quote a label


def _sklearn(part: str) -> Any:
    return extras.need(f"sklearn.{part}", "train")


@contextlib.contextmanager
def _a_dead_network_ends(seconds: float = 30.0) -> Iterator[None]:
    """Without a time-out, a network that swallows packets would keep a lab waiting for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def spiky_series(level: int = 7, *, points: int = 10_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A noisy sine with spiky regions, the series of the authors' time-series example.

    At t in [0, 100] the series is sin t + N(0, (level/20)²), except in 20 + level regions of
    100 + level points, drawn at random, which may overlap: there it is
    level/2 · (sin 2t + sin 23t + sin 78t + sin 100t).

    Parameters
    ----------
    level : int
        How spiky; 7 is the example's: 27 regions of 107 points and magnitude 3.5, noise 0.35.
    points : int
    seed : int
        Draws the regions and the noise.

    Returns
    -------
    series : Tensor, shape (points,)
        float64.
    spiky : Tensor of bool, shape (points,)
        Where the regions are.

    Raises
    ------
    TypeError, ValueError
        If a size is no whole number or too small.

    References
    ----------
    The generator of github.com/HoangP8/Implicit-Deep-Learning (examples), for Decugis et al. 2024,
    The Extrapolation Power of Implicit Models, arXiv 2407.14430.
    """
    validation.integer("level", level)
    size = 100 + level
    validation.integer("points", points, at_least=size + 1)
    generator = _generator(seed)
    t = torch.linspace(0, 100, points, dtype=torch.float64, device="cpu")
    starts = torch.randint(0, points - size, (20 + level,), generator=generator, device="cpu")
    noise = torch.randn(points, generator=generator, dtype=t.dtype, device="cpu")
    spiky = torch.zeros(points, dtype=torch.bool, device="cpu")
    for start in starts.tolist():
        spiky[start:start + size] = True
    spikes = level / 2 * sum(torch.sin(f * t) for f in (2, 23, 78, 100))
    return torch.where(spiky, spikes, torch.sin(t) + level / 20 * noise), spiky


def spiky(level: int = 7, *, look_back: int = 60, points: int = 10_000, test_size: float = 0.4,
          batch_size: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32
          ) -> tuple[DataLoader, DataLoader]:
    """`spiky_series` as windows to predict the next value from.

    The test part is the end of the series. Its first window begins after the last training
    target, so no value that was trained to be predicted is seen again.

    Parameters
    ----------
    level : int
        As for `spiky_series`.
    look_back : int
        Values in a window.
    points : int
        Length of the series.
    test_size : float
        Share of the series at its end, in (0, 1).
    batch_size : int
    seed : int
        Draws the series and the order of the training batches.
    dtype : torch.dtype

    Returns
    -------
    train, test : DataLoader
        Batches of windows (batch, look_back, 1) and next values (batch, 1), on the CPU; only the
        training part is shuffled, the test part runs in time.

    Raises
    ------
    TypeError, ValueError
        If a size does not fit the length of the series.
    """
    validation.integer("look_back", look_back)
    batch_size = validation.integer("batch_size", batch_size)
    validation.real("test_size", test_size, above=0.0, below=1.0)
    validation.floating(dtype)
    series, _ = spiky_series(level, points=points, seed=seed)
    split = points - round(test_size * points)
    parts = []
    for name, part in (("training", series[:split]), ("test", series[split:])):
        if len(part) <= look_back:
            raise ValueError(f"look_back must be below the {len(part)} points of the {name} part, "
                             f"got {look_back}.")
        windows = part.to(dtype)[:, None].unfold(0, look_back + 1, 1).mT  # no copies
        parts.append(TensorDataset(windows[:, :-1], windows[:, -1]))
    train = DataLoader(parts[0], batch_size, shuffle=True, generator=_generator(seed))
    return train, DataLoader(parts[1], batch_size)
