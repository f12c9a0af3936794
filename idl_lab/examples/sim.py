"""Teachers of the digits for state-driven implicit modeling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from idl_lab import training, validation


def digits_teacher(seed: int = 0, *, hidden: Sequence[int] = (64, 32, 16), biases: bool = False,
                   epochs: int = 30, activation: type[nn.Module] = nn.ReLU
                   ) -> tuple[nn.Sequential, DataLoader, DataLoader]:
    """A network 64-64-32-16-10, trained on the first 1,400 of the digits within two seconds.

    The other 397 images are for testing; they come from other writers, so that a network does
    worse on them than on a random part.

    Parameters
    ----------
    seed : int
        Decides initial weights and the order of training.
    hidden : sequence of int
        Sizes of the hidden layers.
    biases : bool
    epochs : int
        Of Adam at 5e-3, batches of 64.
    activation : type of nn.Module
        After each hidden layer.

    Returns
    -------
    teacher : nn.Sequential
        On the CPU, in eval mode.
    train, test : DataLoader
        Batches U (m, 64), pixels in [0, 1], and labels (m,), in the dataset's order.
    """
    generator = torch.Generator("cpu").manual_seed(validation.integer("seed", seed, at_least=0))
    for size in hidden:
        validation.integer("a size in hidden", size)
    teacher = _network((64, *hidden, 10), biases, activation, generator)
    pixels, labels = load_digits(return_X_y=True)
    U = torch.tensor(pixels / 16, dtype=torch.float32, device="cpu")
    y = torch.tensor(labels, dtype=torch.int64, device="cpu")
    first, last = TensorDataset(U[:1400], y[:1400]), TensorDataset(U[1400:], y[1400:])
    shuffled = DataLoader(first, 64, shuffle=True, generator=generator)
    training.fit(teacher, shuffled, epochs=epochs, progress=False)
    return teacher.eval(), DataLoader(first, 100), DataLoader(last, 100)


def _network(sizes: Sequence[int], biases: bool, activation: type[nn.Module],
             generator: torch.Generator) -> nn.Sequential:
    parts: list[nn.Module] = []
    for p, q in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(p, q, bias=biases, device="cpu")
        with torch.no_grad():
            for numbers in layer.parameters():
                numbers.uniform_(-p ** -0.5, p ** -0.5, generator=generator)
        parts += [layer, activation()]
    return nn.Sequential(*parts[:-1])
