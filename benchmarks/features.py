"""SIM's problems on features of real size: correlated, nearly singular, fewer samples than columns.

Built from torch and scikit-learn alone, so that another checkout of this project can be given the
same numbers, and judged here without its help: `relative_gap` shares no line with the solvers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from idl_lab import training
from idl_lab.model import ImplicitModel
from idl_lab.well_posedness import units

KAPPA = 0.99
SEED = 10  # of the teachers: with it few of the hidden units are dead


@dataclass(frozen=True)
class Instance:
    """min ½‖Φw − t‖² + λ‖w‖₁ for each target, Σ_{j < ball} |w_j| ≤ κ.

    Attributes
    ----------
    features : Tensor, shape (m, d)
        Φ, in float64.
    targets : Tensor, shape (m, k)
    lam : float
    ball : int
        0 for none.
    """

    features: Tensor
    targets: Tensor
    lam: float
    ball: int

    @cached_property
    def products(self) -> dict[str, Tensor]:
        """``gram``, ``cross`` and ``norms``, as a `Problem` takes them."""
        return {"gram": self.features.mT @ self.features, "cross": self.targets.mT @ self.features,
                "norms": self.targets.square().sum(dim=0)}

    def relative_gap(self, W: Tensor, newton: bool = True) -> float:
        """Σ gap over Σ objective, in which no row counts less than a millionth of ½‖t‖².

        From Φ and residuals alone. For every ν the optimum is at least
        −½‖ν‖² − νᵀt − κ max_{j < ball} (|φ_jᵀν| − λ)₊, as long as |φ_jᵀν| ≤ λ in all other columns.
        The ν tried are the best multiples of two: the residual at w, and the one that it would have
        after a Newton step on its support, with signs as they are.

        Parameters
        ----------
        W : Tensor, shape (k, d)
        newton : bool
            Try the second of them too, which takes a factorisation a row.

        Raises
        ------
        ValueError
            If a row leaves the ball.
        """
        Phi, T, W = self.features.numpy(), self.targets.numpy(), W.numpy()
        norm = abs(W[:, :self.ball]).sum(axis=1).max(initial=0)
        if norm > KAPPA * (1 + 1e-12):
            raise ValueError(f"a gap is one of feasible rows, got ‖A‖∞ = {norm:.6g} > {KAPPA}.")
        R = Phi @ W.T - T
        objective = 0.5 * (R * R).sum(axis=0) + self.lam * abs(W).sum(axis=1)
        lower = np.maximum(self._bound(R), 0)
        if newton:
            lower = np.maximum(lower, self._bound(self._stepped(W, R)))
        size = np.maximum(objective, 1e-6 * 0.5 * (T * T).sum(axis=0))
        return float((objective - lower).sum() / size.sum())

    def _bound(self, R: np.ndarray) -> np.ndarray:
        """The best bound by a multiple θ of each column of R, concave in θ: by thirds."""
        T = self.targets.numpy()
        square, along = (R * R).sum(axis=0), (R * T).sum(axis=0)
        slopes = abs(self.features.numpy().T @ R)

        def bound(theta: np.ndarray) -> np.ndarray:
            over = (theta * slopes[:self.ball] - self.lam).max(axis=0, initial=0)
            return -0.5 * theta ** 2 * square - theta * along - KAPPA * over

        with np.errstate(divide="ignore"):
            high = np.minimum(2.0, (self.lam / slopes[self.ball:]).min(axis=0, initial=np.inf))
        low = np.zeros_like(high)
        for _ in range(120):  # (2/3)¹²⁰ is 1e-21
            left, right = low + (high - low) / 3, high - (high - low) / 3
            better = bound(left) < bound(right)
            low, high = np.where(better, left, low), np.where(better, high, right)
        return bound(0.5 * (low + high))

    def _stepped(self, W: np.ndarray, R: np.ndarray) -> np.ndarray:
        """Residuals with φ_jᵀr = −(λ + μ) sign w_j on each support, μ the ball's multiplier."""
        Phi, stepped = self.features.numpy(), R.copy()
        for i, w in enumerate(W):
            on = np.flatnonzero(w)
            held = on < self.ball
            pull = -np.sign(w[on]) * (Phi[:, on].T @ R[:, i])
            full = abs(w[:self.ball]).sum() > KAPPA * (1 - 1e-9)
            mu = max(np.median(pull[held]) - self.lam, 0) if full and held.any() else 0.0
            wanted = -(self.lam + mu * held) * np.sign(w[on]) + np.sign(w[on]) * pull
            basis, triangle = np.linalg.qr(Phi[:, on])
            stepped[:, i] += basis @ np.linalg.lstsq(triangle.T, wanted, rcond=None)[0]
        return stepped


# ---- digits of 28 × 28 ----------------------------------------------------------------------


@cache
def images(size: int = 28) -> tuple[Tensor, Tensor]:
    """Pixels (1797, size²), in float32, of scikit-learn's digits resampled bicubically; labels.

    Parameters
    ----------
    size : int
    """
    pixels, labels = load_digits(return_X_y=True)
    U = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    if size != 8:
        U = nn.functional.interpolate(U, size=(size, size), mode="bicubic")
    return U.flatten(1), torch.tensor(labels)


@cache
def teacher(sizes: tuple[int, ...] = (784, 64, 32, 16, 10), bias: bool = False, seed: int = SEED,
            epochs: int = 30) -> nn.Sequential:
    """A ReLU network of these sizes trained on the first 1,400 digits, Adam at 2e-3.

    Parameters
    ----------
    sizes : tuple of int
        From the pixels to the classes.
    bias : bool
    seed, epochs : int
    """
    draws = torch.Generator("cpu").manual_seed(seed)
    network = random_teacher(sizes, draws, bias, gain=3 ** -0.5)  # the variance of torch's own
    data = torch.utils.data.TensorDataset(*(T[:1400] for T in images(int(sizes[0] ** 0.5))))
    loader = torch.utils.data.DataLoader(data, 64, shuffle=True, generator=draws)
    training.fit(network, loader, epochs=epochs, lr=2e-3, progress=False)
    return network


def random_teacher(sizes: Sequence[int], draws: torch.Generator, bias: bool = True,
                   gain: float = 2 ** 0.5) -> nn.Sequential:
    """A ReLU network with weights from N(0, gain²/fan-in) and biases of a tenth.

    Parameters
    ----------
    sizes : sequence of int
    draws : torch.Generator
    bias : bool
    gain : float
        √2 keeps the size of the states from layer to layer.
    """
    parts: list[nn.Module] = []
    for p, q in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(p, q, bias=bias)
        with torch.no_grad():
            layer.weight.normal_(std=gain * p ** -0.5, generator=draws)
            if bias:
                layer.bias.normal_(std=0.1, generator=draws)
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@torch.no_grad()
def states(network: nn.Sequential, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X and Z, last layer first, and Y of a network of linear and activation layers in turn.

    Parameters
    ----------
    network : nn.Sequential
    U : Tensor, shape (m, p)

    Returns
    -------
    X, Z, Y : Tensor, shapes (m, n), (m, n) and (m, q), in float64
    """
    X, Z, V = [], [], U
    for layer in network:
        before, V = V, layer(V)
        if not isinstance(layer, nn.Linear):
            Z.insert(0, before)
            X.insert(0, V)
    return torch.cat(X, 1).double(), torch.cat(Z, 1).double(), V.double()


def matching(network: nn.Sequential, U: Tensor, lam: float, rescaled: bool = True) -> Instance:
    """State matching of a teacher on given inputs.

    Parameters
    ----------
    network : nn.Sequential
    U : Tensor, shape (m, p)
    lam : float
    rescaled : bool
        In units in which the teacher's A is in the ball, or in its own.
    """
    X, Z, _ = states(network, U)
    if rescaled:
        v = units(ImplicitModel.from_network(network).A.detach().double(), KAPPA)
        X, Z = X / v, Z / v
    return Instance(torch.cat([X, U.double()], dim=1), Z, lam, X.shape[1])


def digits(lam: float, rescaled: bool = True, noise: float = 0.0) -> Instance:
    """The size of torchidl's Fashion-MNIST tutorial: 896 columns, 112 rows, 1,400 samples.

    Parameters
    ----------
    lam : float
    rescaled : bool
    noise : float
        Of the pixels; without it Φ has half the digits' numerical rank of 64, and the states'.
    """
    U = images()[0][:1400]
    draws = torch.Generator("cpu").manual_seed(0)
    return matching(teacher(), U + noise * torch.randn(U.shape, generator=draws), lam, rescaled)


def small_digits(lam: float) -> Instance:
    """The digits as they come, 176 columns and 112 rows.

    Parameters
    ----------
    lam : float
    """
    return matching(teacher((64, 64, 32, 16, 10)), images(8)[0][:1400], lam)


def independent(lam: float, states_and_pixels: tuple[int, int] = (112, 784), samples: int = 2000
                ) -> Instance:
    """The tutorial's size on synthetic pixels: 30 patterns and a noise of each pixel's own.

    Parameters
    ----------
    lam : float
    states_and_pixels : (int, int)
        n and p.
    samples : int
    """
    (n, p), draws = states_and_pixels, torch.Generator("cpu").manual_seed(0)
    patterns = torch.rand(30, p, generator=draws)
    U = (torch.rand(samples, 30, generator=draws) @ patterns / 15
         + 0.1 * torch.rand(samples, p, generator=draws))
    hidden = (n * 4 // 7, n * 2 // 7, n - n * 4 // 7 - n * 2 // 7)
    return matching(random_teacher((p, *hidden, 10), draws, bias=False, gain=1), U, lam, False)


def large(lam: float = 0.1, samples: int = 20_000) -> Instance:
    """2,048 rows and 2,833 columns: 2,048 states, 784 pixels with noise of 0.1, and ones.

    Parameters
    ----------
    lam : float
        Of the column of ones too.
    samples : int
    """
    draws = torch.Generator("cpu").manual_seed(0)
    U = images()[0][:1400].repeat(samples // 1400 + 1, 1)[:samples]
    U = U + 0.1 * torch.randn(U.shape, generator=draws)
    found = matching(teacher((784, 1024, 512, 512, 10), epochs=3), U, lam)
    return replace(found, features=torch.cat([found.features, torch.ones(samples, 1).double()], 1))


# ---- correlated Gaussian features -----------------------------------------------------------


def correlated(d: int, rows: int, m: int, lam: float, noise: float = 0.0, rho: float = 0.95
               ) -> Instance:
    """Columns from N(0, Σ) with Σ_ij = ρ^|i − j|, targets linear in all of them.

    Parameters
    ----------
    d, rows, m : int
        The ball holds the first columns, as many as there are rows.
    lam : float
    noise : float
        Of the targets.
    rho : float
    """
    draws = torch.Generator("cpu").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    Phi = normal(m, d)
    for j in range(1, d):
        Phi[:, j] = rho * Phi[:, j - 1] + (1 - rho ** 2) ** 0.5 * Phi[:, j]
    W = normal(rows, d) / d ** 0.5
    return Instance(Phi, Phi @ W.mT + noise * normal(m, rows), lam, rows)


# ---- what is timed --------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """A problem by name.

    Attributes
    ----------
    build : callable
    goal : float
        CPU seconds that are to be reached.
    """

    build: Callable[[], Instance]
    goal: float


REAL = "digits of 28 × 28, rescaled, λ = 0.01"
SYNTHETIC = "synthetic, independent pixels, 896 columns, λ = 0.01"
PROBLEMS: dict[str, Timed] = {
    SYNTHETIC: Timed(lambda: independent(1e-2), 4),
    **{f"digits of 28 × 28, {unit}{extra}, λ = {lam:g}": Timed(
        lambda lam=lam, unit=unit, noise=noise: digits(lam, unit == "rescaled", noise), goal)
       for lam, noise, extra, goal in ((1e-2, 0.0, "", 4), (1e-2, 0.02, ", noise 0.02", 4),
                                       (1e-2, 0.1, ", noise 0.1", 4), (1e-4, 0.0, "", 12),
                                       (1e-6, 0.0, "", 12))
       for unit in ("rescaled", "own units")},
    "d = 200, 50 rows, m = 100, λ = 1e-4": Timed(lambda: correlated(200, 50, 100, 1e-4), 1),
    "d = 1000, 100 rows, m = 300, noise, λ = 1e-4": Timed(
        lambda: correlated(1000, 100, 300, 1e-4, noise=0.1), 15),
    "d = 2000, 100 rows, m = 1000, λ = 1e-2": Timed(lambda: correlated(2000, 100, 1000, 1e-2), 20),
}
