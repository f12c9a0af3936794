"""Datasets as DataLoaders of flat inputs (m, p) and class labels (m,)."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
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
