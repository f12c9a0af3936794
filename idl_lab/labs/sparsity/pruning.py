"""Layer-wise reconstruction of the pruning literature, on the same Gram matrices as SIM.

A layer with weights W (k, d) is to give the same outputs on its inputs Φ from few weights V:
‖Φ(V − W)ᵀ‖² = Σ_i (v_i − w_i)ᵀ H (v_i − w_i) with H = ΦᵀΦ. All three keep a given number of
weights of the columns that may be pruned, and the others, such as biases, whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

DAMPING = 1e-8  # of the mean of H's diagonal: dead inputs have no inverse
Method = Callable[[ndarray, ndarray, int, ndarray], ndarray]


def refit(H: ndarray, wanted: ndarray, kept: ndarray) -> ndarray:
    """Least squares on a support, row by row; the smallest where several are best.

    Parameters
    ----------
    H : ndarray, shape (d, d)
    wanted : ndarray, shape (k, d)
        Targets times Φ: W H to have the outputs of W.
    kept : ndarray of bool, shape (k, d)
    """
    V = np.zeros_like(wanted)
    for v, c, on in zip(V, wanted, kept, strict=True):
        v[on] = np.linalg.lstsq(H[np.ix_(on, on)], c[on], rcond=1e-12)[0]
    return V


def largest(scores: ndarray, keep: int, prunable: ndarray) -> ndarray:
    """The mask of the largest scores in prunable columns, and of all others.

    Parameters
    ----------
    scores : ndarray, shape (k, d)
    keep : int
    prunable : ndarray of bool, shape (d,)
    """
    scores = np.where(prunable, scores, np.inf)
    kept = np.zeros(scores.size, dtype=bool)
    kept[np.argsort(-scores, axis=None, kind="stable")[
        :keep + len(scores) * int((~prunable).sum())]] = True
    return kept.reshape(scores.shape)


def magnitude(H: ndarray, W: ndarray, keep: int, prunable: ndarray) -> ndarray:
    """The largest weights, as they are.

    Parameters
    ----------
    H, W : ndarray, shapes (d, d) and (k, d)
    keep : int
    prunable : ndarray of bool, shape (d,)
    """
    return np.where(largest(abs(W), keep, prunable), W, 0)


def obc(H: ndarray, W: ndarray, keep: int, prunable: ndarray) -> ndarray:
    """Greedy removal, each weight at the least cost w_j²/(2 [H⁻¹]_jj), the others moved after it.

    Rows are pruned to the end one by one; then those removals are made that cost least, in the
    order of each row. (Frantar and Alistarh 2022, Optimal Brain Compression, arXiv 2208.11580,
    algorithm 1 and section 4.)

    Parameters
    ----------
    H, W : ndarray, shapes (d, d) and (k, d)
    keep : int
    prunable : ndarray of bool, shape (d,)
    """
    (k, d), rows, steps = W.shape, np.arange(len(W)), int(prunable.sum())
    inverse = np.linalg.inv(H + DAMPING * np.trace(H) / d * np.eye(d))
    inverse, w = np.repeat(inverse[None], k, axis=0), W.copy()
    alive = np.repeat(prunable[None], k, axis=0)
    courses, costs = [w.copy()], []
    for _ in range(steps):
        diagonal = np.einsum("rjj->rj", inverse)
        cost = np.where(alive, w ** 2 / np.where(alive, diagonal, 1), np.inf)
        j = cost.argmin(axis=1)
        costs.append(cost[rows, j])
        column, pivot = inverse[rows, j], inverse[rows, j, j][:, None]
        w -= w[rows, j][:, None] / pivot * column
        inverse -= column[:, :, None] * (column / pivot)[:, None, :]
        alive[rows, j] = False
        w[(~alive) & prunable] = 0  # rounding left something
        courses.append(w.copy())
    # A row's removal waits for those before it: it comes at the largest cost so far.
    at = np.maximum.accumulate(np.array(costs), axis=0)
    order = np.argsort(at, axis=None, kind="stable")[:max(k * steps - keep, 0)] % k
    removed = np.bincount(order, minlength=k)
    return np.array(courses)[removed, rows]


def alps(H: ndarray, W: ndarray, keep: int, prunable: ndarray, steps: int = 300) -> ndarray:
    """ADMM for the ℓ₀ problem with a growing ρ until the support stands, then least squares on it.

    In units in which H has a unit diagonal; ρ starts at 0.1, or so much lower that the support
    leaves that of the magnitudes. (Meng, Behdin, Wang and Mazumder 2024, ALPS, arXiv 2406.07831,
    algorithm 1 and the authors' rule for ρ; conjugate gradients at the end there, exact here.)

    Parameters
    ----------
    H, W : ndarray, shapes (d, d) and (k, d)
    keep : int
    prunable : ndarray of bool, shape (d,)
    steps : int
        At most.
    """
    unit = np.sqrt(np.where(np.diag(H) > 0, np.diag(H), 1))
    values, vectors = np.linalg.eigh(H / unit / unit[:, None])
    values, scaled = values.clip(min=0), W * unit
    wanted = scaled @ (vectors * values) @ vectors.T
    before = first = largest(abs(scaled), keep, prunable)
    D, dual, rho, moving = np.where(first, scaled, 0), np.zeros_like(W), 0.1, False
    for step in range(1, steps + 1):
        V = ((wanted - dual + rho * D) @ vectors / (values + rho)) @ vectors.T
        kept = largest(abs(V + dual / rho), keep, prunable)
        D = np.where(kept, V + dual / rho, 0)
        dual = dual + rho * (V - D)
        if step % 3:
            continue
        share = (kept != before).sum() / max(keep, 1)
        moving, before = moving or share > 0.005, kept
        if not moving:
            rho, D, dual = rho / 5, np.where(first, scaled, 0), np.zeros_like(W)
        elif not share:
            break
        else:
            rho = min(rho * (1.3 if share > 0.1 else 1.2 if share > 0.005 else 1.1), 1e6)
    return refit(H, W @ H, kept)


METHODS: dict[str, Method] = {"magnitude": magnitude, "OBC": obc, "ALPS": alps}
