"""Datasets as DataLoaders: flat inputs (m, p) with class labels (m,), and a series as windows."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from idl_lab import validation

DATASETS = ("digits",)
_SPLIT_SEED = 0  # the split never changes: numbers of different runs stay comparable


def load(name: str = "digits", *, batch_size: int = 64, test_size: float = 0.25, seed: int = 0,
         dtype: torch.dtype = torch.float32) -> tuple[DataLoader, DataLoader]:
    """A dataset's training and test parts.

    ``"digits"``: 1,797 handwritten digits of 8 × 8 pixels in [0, 1] (p = 64, ten classes), which
    ship inside scikit-learn. The split is stratified and always the same; ``seed`` decides the
    order of the training batches.

    Parameters
    ----------
    name : {"digits"}
    batch_size : int
    test_size : float
        Share of the test part, in (0, 1).
    seed : int
    dtype : torch.dtype
        Of the inputs; labels are int64. Both are on the CPU.

    Returns
    -------
    train, test : DataLoader
        Batches U (m, p) and labels (m,); only the training part is shuffled.

    References
    ----------
    E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository.
    """
    validation.choice("name", name, DATASETS)
    validation.integer("batch_size", batch_size)
    validation.real("test_size", test_size, above=0.0, below=1.0)
    validation.integer("seed", seed, at_least=0)
    validation.floating(dtype)
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels / 16.0, labels, test_size=test_size, stratify=labels,
                             random_state=_SPLIT_SEED)
    U_train, U_test = (torch.as_tensor(part, dtype=dtype, device="cpu") for part in split[:2])
    y_train, y_test = (torch.as_tensor(part, dtype=torch.int64, device="cpu") for part in split[2:])
    generator = torch.Generator("cpu").manual_seed(seed)
    train = DataLoader(TensorDataset(U_train, y_train), batch_size, shuffle=True,
                       generator=generator)
    return train, DataLoader(TensorDataset(U_test, y_test), batch_size)


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

    References
    ----------
    The generator of github.com/HoangP8/Implicit-Deep-Learning (examples), for Decugis et al. 2024,
    The Extrapolation Power of Implicit Models, arXiv 2407.14430.
    """
    validation.integer("level", level)
    size = 100 + level
    validation.integer("points", points, at_least=size + 1)
    validation.integer("seed", seed, at_least=0)
    generator = torch.Generator("cpu").manual_seed(seed)
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
    """
    validation.integer("look_back", look_back)
    validation.integer("batch_size", batch_size)
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
    generator = torch.Generator("cpu").manual_seed(seed)
    train = DataLoader(parts[0], batch_size, shuffle=True, generator=generator)
    return train, DataLoader(parts[1], batch_size)
