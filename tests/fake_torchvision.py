"""As much of torchvision as torchidl's examples use, on digits in a frame of zeros."""

from __future__ import annotations

import functools
import types

import torch
from sklearn.datasets import load_digits

SAMPLES = 2_100  # for examples that draw 2,000 of them; digits are repeated


class Pictures(torch.utils.data.Dataset):
    """torchvision.datasets.MNIST: pictures (28, 28) of whole numbers up to 255, 53 pixels of which
    are not zero throughout, and their labels."""

    def __init__(self, root, train=True, download=False, transform=None):
        U, labels = load_digits(return_X_y=True)
        part = torch.arange(SAMPLES) % 1_400 if train else torch.arange(1_400, len(U))
        self.transform = transform
        self.data = torch.zeros(len(part), 28, 28, dtype=torch.uint8)
        self.data[:, 10:18, 10:18] = torch.from_numpy(U).view(-1, 8, 8)[part].mul(15.9).byte()
        self.targets = torch.from_numpy(labels)[part]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.transform(self.data[i]), int(self.targets[i])


def compose(steps):
    return lambda picture: functools.reduce(lambda value, step: step(value), steps, picture)


def to_tensor() -> types.FunctionType:
    return lambda picture: picture[None].float() / 255


def normalize(mean, std):
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return lambda U: (U - mean) / std


def modules() -> dict[str, types.ModuleType]:
    """For sys.modules."""
    made = {name: types.ModuleType(name) for name in (
        "torchvision", "torchvision.datasets", "torchvision.transforms")}
    made["torchvision"].datasets = made["torchvision.datasets"]
    made["torchvision"].transforms = made["torchvision.transforms"]
    vars(made["torchvision.datasets"]).update(MNIST=Pictures, FashionMNIST=Pictures)
    vars(made["torchvision.transforms"]).update(
        Compose=compose, ToTensor=to_tensor, Normalize=normalize, Lambda=lambda step: step)
    return made
