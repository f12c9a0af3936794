"""SIM problems for the tests, and an oracle that knows the samples instead of their Gram matrix."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import torch
from helpers import mat

from idl_lab.sim.problem import Problem

Number = float | np.ndarray


def problem(Phi: np.ndarray, T: np.ndarray, **options) -> Problem:
    """The problem of features (m, d) and targets (m, k)."""
    options = {name: mat(value).to(torch.bool if value.dtype == bool else torch.float64)
               if isinstance(value, np.ndarray) else value for name, value in options.items()}
    return Problem(mat(Phi.T @ Phi), mat(T.T @ Phi), mat((T**2).sum(axis=0)), **options)


def penalties(shape: tuple[int, int], lam: Number = 0.0, weights: np.ndarray | float = 1.0
              ) -> np.ndarray:
    """λ_i ω_ij of every entry."""
    return np.reshape(lam, (-1, 1)) * np.broadcast_to(weights, shape)


def values(Phi: np.ndarray, T: np.ndarray, W: np.ndarray, *, lam: Number = 0.0, ridge: float = 0.0,
           weights: np.ndarray | float = 1.0, **_) -> np.ndarray:
    """Each row's objective, by loops over the samples."""
    return np.array([0.5 * sum((Phi[i] @ w - t[i])**2 for i in range(len(Phi)))
                     + weight @ np.abs(w) + 0.5 * ridge * w @ w
                     for w, t, weight in zip(W, T.T, penalties(W.shape, lam, weights),
                                             strict=True)])


def optimum(Phi: np.ndarray, T: np.ndarray, *, lam: Number = 0.0, ridge: float = 0.0,
            kappa: Number | None = None, ball: int = 0, weights: np.ndarray | float = 1.0,
            support: np.ndarray | bool = True) -> np.ndarray:
    """Each row's smallest objective, by cvxpy on the samples."""
    found = []
    shape = T.shape[1], Phi.shape[1]
    radii = np.broadcast_to(0.0 if kappa is None else kappa, shape[0])
    rows = T.T, penalties(shape, lam, weights), radii, np.broadcast_to(support, shape)
    for t, weight, room, on in zip(*rows, strict=True):
        w = cp.Variable(Phi.shape[1])
        cost = (0.5 * cp.sum_squares(Phi @ w - t) + weight @ cp.abs(w)
                + 0.5 * ridge * cp.sum_squares(w))
        limits = [cp.norm1(w[:ball]) <= room] if ball else []
        limits += [] if on.all() else [w[~on] == 0]
        found.append(cp.Problem(cp.Minimize(cost), limits).solve(solver="CLARABEL"))
    return np.array(found)


def data(seed: int = 0, m: int = 40, d: int = 12, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets that they explain in part."""
    rng = np.random.default_rng(seed)
    Phi = rng.standard_normal((m, d))
    return Phi, 0.4 * Phi @ rng.standard_normal((d, k)) + 0.2 * rng.standard_normal((m, k))


def _cases() -> dict[str, tuple[np.ndarray, np.ndarray, dict]]:
    Phi, T = data()
    low = Phi[:, :4] @ np.random.default_rng(1).standard_normal((4, 12))
    zero, twice, ones = Phi.copy(), Phi.copy(), Phi.copy()
    zero[:, [2, 9]] = 0
    twice[:, 3], twice[:, 10], twice[:, 9] = Phi[:, 1], Phi[:, 8], -Phi[:, 0]
    ones[:, -1] = 1
    entries = 10.0**np.random.default_rng(2).uniform(-2, 1, (4, 12))
    entries[:, -1] = 0
    units = 10.0**np.array([6, -6, 0, 6, 0, -6, 0, -6, 6, 0, 0, 6])
    usual = {"lam": 0.5, "kappa": 0.9, "ball": 7}
    layers = np.arange(12) >= np.array([3, 3, 5, 7])[:, None]  # what no feedback leaves of A
    some = np.random.default_rng(3).random((4, 12)) < 0.6
    some[3] = False
    return {
        "usual": (Phi, T, usual),
        "no ball": (Phi, T, {"lam": 0.5}),
        "ball of all": (Phi, T, {**usual, "ball": 12}),
        "elastic net": (Phi, T, {**usual, "ridge": 2.0}),
        "bias": (ones, T + 5, {**usual, "weights": 1.0 * (np.arange(12) < 11)}),
        "kappa = 0": (Phi, T, {**usual, "kappa": 0.0}),
        "a radius for each row": (Phi, T, {**usual, "kappa": np.array([0.0, 0.2, 0.9, 40.0])}),
        "a lambda for each row": (Phi, T, {**usual, "lam": np.array([1e-6, 0.5, 5.0, 1e4])}),
        "a weight for each entry": (ones, T + 5, {**usual, "weights": entries}),
        "lambda = 0": (Phi, T, {**usual, "lam": 0.0}),
        "lambda so large that all is zero": (Phi, T, {**usual, "lam": 1e4}),
        "least squares": (Phi, T, {}),
        "rank-deficient": (low, T, usual),
        "rank-deficient, lambda = 0": (low, T, {**usual, "lam": 0.0}),
        "zero features": (zero, T, usual),
        "duplicates": (twice, T, usual),
        "badly scaled": (Phi * units, T, usual),
        "badly scaled, lambda = 0": (Phi * units, T, {**usual, "lam": 0.0}),
        "badly scaled targets": (Phi, T * [1e-6, 1, 1e6, 1], usual),
        "single sample": (Phi[:1], T[:1], usual),
        "single sample, lambda = 0": (Phi[:1], T[:1], {**usual, "lam": 0.0}),
        "a support": (Phi, T, {**usual, "support": some}),
        "a support, without feedback": (ones, T + 5, {
            **usual, "support": layers, "weights": 1.0 * (np.arange(12) < 11)}),
        "a support, lambda = 0": (Phi, T, {**usual, "lam": 0.0, "support": layers}),
        "a support, duplicates": (twice, T, {**usual, "support": some}),
        "a support, badly scaled": (Phi * units, T, {**usual, "support": some}),
        "a support, a large radius": (Phi, T, {**usual, "kappa": 50.0, "support": layers}),
        "zero targets": (Phi, 0 * T, usual),
        "nothing at all": (0 * Phi, T, usual),
    }


CASES = _cases()
