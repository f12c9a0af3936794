"""Small models of every kind for the tests of robustness, and oracles that share no code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

from idl_lab import ImplicitModel
from tests.helpers import draw

KINDS = ("row", "perron", "triangular", "monotone", "network")


def case(kind: str, seed: int, n: int = 7, p: int = 4, q: int = 3, activation: str = "relu",
         kappa: float = 0.8, dtype: torch.dtype = torch.float64) -> ImplicitModel:
    """A model whose ‖A‖∞ is far above 1 where its kind allows that."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "network":
        net = nn.Sequential(nn.Linear(p, n // 2), nn.ReLU(), nn.Linear(n // 2, n - n // 2),
                            nn.LeakyReLU(0.1), nn.Linear(n - n // 2, q)).to(dtype)
        for T in net.parameters():
            T.data = torch.randn(T.shape, generator=generator, dtype=dtype)
        return ImplicitModel.from_network(net)
    kappa = kappa - 0.6 if kind == "monotone" else kappa  # a larger one takes long to solve
    model = ImplicitModel(p, q, n, constraint=kind, kappa=kappa, activation=activation, bias=True,
                          dtype=dtype, generator=generator)
    with torch.no_grad():
        for name, T in model.named_parameters():
            T.copy_(torch.randn(T.shape, generator=generator, dtype=dtype))
            if name == "free_A" and kind == "monotone":
                T.mul_(0.5)
    return model


def exactly(model: ImplicitModel, U: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """States and outputs by damped iteration and Newton in numpy, residual below 1e-10."""
    A, B, C = (T.detach().to_dense().double().numpy() for T in (model.A, model.B, model.C))
    U = U.detach().double().numpy()
    b = U @ B.T
    y = np.zeros((len(U), len(C)))
    if model.state_bias is not None:
        b = b + model.state_bias.detach().double().numpy()
        y = y + model.output_bias.detach().double().numpy()
    if model.D is not None:
        y = y + U @ model.D.detach().double().numpy().T

    def phi(S: np.ndarray) -> np.ndarray:
        return model.activation.fn(torch.as_tensor(S)).numpy()

    # Newton; where it circles, x ← x + t (φ(Ax + b) − x), which converges for small t where I − A
    # is monotone or |A| contracts.
    X = np.zeros_like(b)
    for _ in range(30):
        Z = X @ A.T + b
        slope = model.activation.derivative(torch.as_tensor(Z)).numpy()
        J = np.eye(len(A)) - slope[:, :, None] * A
        X = X - np.linalg.solve(J, (X - phi(Z))[:, :, None])[:, :, 0]
    t = 0.5 / (1 + np.linalg.norm(A, 2))
    left = np.abs(phi(X @ A.T + b) - X).max(1) > 1e-11
    for _ in range(100_000):
        if not left.any():
            break
        R = phi(X[left] @ A.T + b[left]) - X[left]
        X[left] += t * R
        left[left] = np.abs(R).max(1) > 1e-12
    assert np.abs(phi(X @ A.T + b) - X).max() < 1e-10
    return X, y + X @ C.T


def around(U: Tensor, eps: float, norm: float, count: int, seed: int) -> Tensor:
    """Random points of the ball, half of them on its boundary, (count, m, p)."""
    direction = draw(seed, count, *U.shape)
    if norm == 2:
        direction = direction / direction.norm(dim=-1, keepdim=True)
        length = draw(seed + 1, count, len(U), 1).abs().clamp(max=1)
        length[::2] = 1
        return U + eps * direction * length * (1 - 1e-12)
    direction = direction.clamp(-1, 1)
    direction[::2] = direction[::2].sign()
    return U + eps * direction * (1 - 1e-12)


def patterns(model: ImplicitModel) -> Iterator[tuple]:
    """Every activation pattern of a ReLU model, of n states 2ⁿ, and where it is the right one.

    Gives x = X₀ + X₁u, y = Y₀ + Y₁u and the rows R u ≤ s of its piece of the input space.
    """
    A, B, C, D = (T.detach().to_dense().numpy() for T in (model.A, model.B, model.C, model.D))
    a, c = model.state_bias.detach().numpy(), model.output_bias.detach().numpy()
    n = len(A)
    for on in itertools.product((0.0, 1.0), repeat=n):
        d = np.array(on)
        inverse = np.linalg.inv(np.eye(n) - d[:, None] * A)
        X1, X0 = inverse @ (d[:, None] * B), inverse @ (d * a)
        Z1, Z0 = A @ X1 + B, A @ X0 + a
        sign = 1 - 2 * d
        yield X0, X1, C @ X0 + c, C @ X1 + D, sign[:, None] * Z1, -sign * Z0


def exact_minimum(model: ImplicitModel, u: Tensor, eps: float, J: np.ndarray) -> np.ndarray:
    """The least value of each row of J ŷ over the box, by enumerating the patterns."""
    center = u.numpy()
    box = np.stack([center - eps, center + eps], 1)
    least = np.full(len(J), math.inf)
    for _, _, Y0, Y1, R, s in patterns(model):
        if (R @ center - eps * np.abs(R).sum(1) > s).any():  # a row that no point of the box keeps
            continue
        for k, row in enumerate(J):
            found = scipy.optimize.linprog(row @ Y1, R, s, bounds=box, method="highs")
            if found.status == 2:
                break
            least[k] = min(least[k], found.fun + row @ Y0)
    return least
