"""Oracles that share no code with idl_lab, and tensors: float64, on the CPU, from a seed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

CPU64 = {"device": "cpu", "dtype": torch.float64}


def mat(values: Sequence | np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers as a tensor on the CPU."""
    return torch.tensor(np.asarray(values, dtype=float), device="cpu", dtype=dtype)


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers from a seed, float64 on the CPU."""
    return mat(scale * np.random.default_rng(seed).standard_normal(shape))


PHI: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda s: np.maximum(s, 0),
    "leaky_relu": lambda s: np.where(s > 0, s, 0.01 * s),
    "tanh": np.tanh,
    "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
    "softplus": lambda s: np.logaddexp(0, s),
    "elu": lambda s: np.where(s > 0, s, np.expm1(np.minimum(s, 0))),
    "hardtanh": lambda s: np.clip(s, -1, 1),
    "identity": lambda s: s,
}


def project_row(row: np.ndarray, kappa: float) -> np.ndarray:
    """Nearest point of the l1 ball, its threshold found by bisection."""
    if np.abs(row).sum() <= kappa:
        return row
    low, high = 0.0, np.abs(row).max()
    for _ in range(200):
        theta = 0.5 * (low + high)
        excess = np.maximum(np.abs(row) - theta, 0).sum() > kappa
        low, high = (theta, high) if excess else (low, theta)
    return np.sign(row) * np.maximum(np.abs(row) - theta, 0)


def spectral_radius(M: np.ndarray) -> np.float64:
    """Largest |eigenvalue| by numpy."""
    return np.abs(np.linalg.eigvals(M)).max()


CONSTRAIN: dict[str | None, Callable[[np.ndarray, float], np.ndarray]] = {
    "scale": lambda A, k: A * min(1, k / np.abs(A).sum(1).max()),
    "row": lambda A, k: A * np.minimum(1, k / np.abs(A).sum(1, keepdims=True)),
    "project": lambda A, k: np.stack([project_row(row, k) for row in A]),
    "perron": lambda A, k: A * min(1, k / spectral_radius(np.abs(A))),
    "triangular": lambda A, k: np.triu(A, 1),
    None: lambda A, k: A,
}


def unrolled(A: np.ndarray, b: np.ndarray, phi: str, steps: int = 400) -> np.ndarray:
    """X = φ(X Aᵀ + b) by a plain loop that stops where nothing moves any more."""
    X = np.zeros_like(b)
    for _ in range(steps):
        X, before = PHI[phi](X @ A.T + b), X
        if np.array_equal(X, before):
            break
    return X


def central_difference(fn: Callable[[np.ndarray], float], at: np.ndarray,
                       h: float = 1e-5) -> np.ndarray:
    """Gradient of a scalar function by fourth-order central differences."""
    grad = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        e = np.zeros_like(at)
        e[index] = h
        grad[index] = (8 * (fn(at + e) - fn(at - e)) - (fn(at + 2 * e) - fn(at - 2 * e))) / (12 * h)
    return grad


def perron_is_below(M: np.ndarray, u: Fraction) -> bool:
    """Whether λ_PF(M) < u, decided exactly: uI − M is then a nonsingular M-matrix.

    That holds if and only if every pivot of elimination without exchanges is positive.
    """
    T = [[(u if i == j else 0) - Fraction(float(v)) for j, v in enumerate(row)]
         for i, row in enumerate(M)]
    for k in range(len(T)):
        if T[k][k] <= 0:
            return False
        for i in range(k + 1, len(T)):
            ratio = T[i][k] / T[k][k]
            T[i] = [a - ratio * b for a, b in zip(T[i], T[k], strict=True)]
    return True


def rejects(call: Callable[[], object], error: type[Exception], *fragments: str) -> None:
    """Check that a call is refused with one message that holds every fragment."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for fragment in fragments:
        assert re.search(re.escape(fragment), message), f"{fragment!r} is not in: {message}"


def pixels(data: bytes) -> np.ndarray:
    """The grey values of a PNG."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=float)
