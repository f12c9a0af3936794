"""The convex problem of state-driven implicit modeling, on Gram statistics alone.

One matrix W (k, d), row by row: the least squares that reads target t off the features Φ, an ℓ₁
weight, and a ball that keeps the part of W that becomes A well-posed. Rows share nothing but Φ.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.constraints import project_rows
from idl_lab.norms import radius, sums
from idl_lab.sim.checks import check
from idl_lab.sim.duality import lower_bound, pseudo_inverse, reach
from idl_lab.sim.states import GramStatistics

# In units of ‖φ‖‖t‖, the size of an entry of Φᵀt: a smaller λ is lost in the rounding of that
# entry, so that nothing holds its column.
WEIGHTLESS = 1e-13
RESOLVED = 1e-6  # of ½‖t‖²: a smaller objective is a difference of squares, with few true digits
EXACT = 1e-10  # of the λ at which a row is zero: as small a λ as float64 resolves


@dataclass(frozen=True)
class Problem:
    """For each row w: min ½‖Φw − t‖² + λ Σ_j ω_j |w_j| + ½ρ‖w‖², Σ_{j < ball} |w_j| ≤ κ.

    Attributes
    ----------
    gram : Tensor, shape (d, d)
        ΦᵀΦ of the features Φ (m, d).
    cross : Tensor, shape (k, d)
        TᵀΦ of the targets T (m, k).
    norms : Tensor, shape (k,)
        ‖t‖² of each target.
    lam : float, or Tensor of shape (k,)
        λ, one for all rows or each row's own: all positive, or all zero.
    ridge : float
        ρ ≥ 0; with λ an elastic net.
    kappa : float, or Tensor of shape (k,), optional
        Radius κ ≥ 0 of the ball, one for all rows or each row's own; None for none.
    ball : int
        How many of the first columns the ball holds; 0 for none.
    weights : Tensor, shape (d,) or (k, d), optional
        ω ≥ 0, the weight of each column, or of each entry; ones where it is None. A column of
        weight zero, as one of biases is best given, has weight zero in every row.
    support : Tensor of bool, shape (k, d), optional
        The entries that may differ from zero; all where it is None. A column that neither λ nor
        the ball holds is in the support of every row, or of none.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices do not fit; for a ``gram`` that is no ΦᵀΦ, numbers that are
        not finite, a negative weight or radius, a ball without a radius, a support of which a
        column is in some rows alone and nothing holds it there.

    Notes
    -----
    The ridge is least squares too, on features [Φ; √ρ I] and targets [t; 0], so that everything
    below knows only Q = ΦᵀΦ + ρI.
    """

    gram: Tensor
    cross: Tensor
    norms: Tensor
    lam: float | Tensor = 0.0
    ridge: float = 0.0
    kappa: float | Tensor | None = None
    ball: int = 0
    weights: Tensor | None = None
    support: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("lam", "ridge", "kappa"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and value is not None:
                object.__setattr__(self, name, validation.real(name, value, at_least=0.0))
        check(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(k, d), the shape of W."""
        return tuple(self.cross.shape)

    def exact(self) -> Problem:
        """Exact matching: the W of smallest ℓ₁ norm among those with ΦWᵀ = T.

        That is the limit λ → 0, and each row's λ is set to what float64 still resolves of it,
        10⁻¹⁰ of the λ at which the row is zero; the gap then certifies its norm to five digits or
        so. Where the ball holds no W that matches, the answer is the nearest one, of smallest
        norm: `fit` says how near.

        Raises
        ------
        ValueError
            If there is a ridge.
        """
        if self.ridge:
            raise ValueError(f"exact matching weighs no squares, got ridge={self.ridge:g}: give 0.")
        weights = torch.ones_like(self.gram[0]) if self.weights is None else self.weights
        price = torch.where(weights > 0, self.cross.abs() / torch.where(weights > 0, weights, 1), 0)
        zero = self._supported(price).amax(dim=1)  # the λ from which on a row is zero
        return replace(self, lam=EXACT * torch.where(zero > 0, zero, zero.amax()))

    def to(self, device: torch.device | str) -> Problem:
        """The same problem on another device.

        Parameters
        ----------
        device : torch.device or str
        """
        moved = {f.name: value.to(device) for f in fields(self)
                 if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def rows(self, index: Tensor | slice) -> Problem:
        """The problem of some rows alone; what was computed of the columns goes along.

        Parameters
        ----------
        index : Tensor of int, shape (r,), or slice
            Which rows of W, as torch indexes them.
        """
        _ = self.Q, self.free_inverse  # computed once, here, and not again for every part
        part = copy.copy(self)  # `replace` would check all of ΦᵀΦ again
        for name in ("cross", "norms", "lam", "kappa", "weights", "support", "penalty",
                     "radius"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and not (name == "weights" and value.dim() == 1):
                object.__setattr__(part, name, value[index])
        return part

    @cached_property
    def Q(self) -> Tensor:
        """ΦᵀΦ + ρI, the curvature of the smooth part, (d, d)."""
        Q = 0.5 * (self.gram + self.gram.mT)
        Q.diagonal().add_(self.ridge)
        return Q

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,), none negative, and eigenvectors (d, d) of Q."""
        values, vectors = torch.linalg.eigh(self.Q)
        return values.clamp(min=0), vectors

    @cached_property
    def penalty(self) -> Tensor:
        """The ℓ₁ weight λω of each entry, (k, d); off the support a price that is never paid.

        No residual of a better W than zero is longer than its target, so that no |φᵀr| reaches
        2‖φ‖‖t‖: under that price an entry is zero.
        """
        if self.support is None:
            return self.weighed
        price = (self.Q.diagonal().clamp(min=0) * self.norms[:, None]).sqrt()
        return self.weighed + torch.where(self.support, 0, 2 * price)

    @property
    def weighed(self) -> Tensor:
        """λω of each entry, (k, d), whatever the support."""
        weights = torch.ones_like(self.gram[0]) if self.weights is None else self.weights
        lam = self.lam[:, None] if isinstance(self.lam, Tensor) else self.lam
        return (lam * weights).expand(self.shape)

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """The rows of one support together: their numbers, and those of the columns in it."""
        if self.support is None:
            return [tuple(torch.arange(size, device=self.gram.device) for size in self.shape)]
        masks, which = self.support.unique(dim=0, return_inverse=True)
        return [(torch.nonzero(which == i)[:, 0], torch.nonzero(mask)[:, 0])
                for i, mask in enumerate(masks)]

    @cached_property
    def radius(self) -> Tensor:
        """κ of each row, (k,); zeros without a ball."""
        if isinstance(self.kappa, Tensor):
            return self.kappa
        return torch.full_like(self.norms, self.kappa or 0.0)

    def zeros(self) -> Tensor:
        """W = 0, which is always feasible."""
        return torch.zeros_like(self.cross)

    def fit(self, W: Tensor) -> Tensor:
        """½‖Φw − t‖² + ½ρ‖w‖² of each row, (k,).

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix.
        """
        return 0.5 * ((W @ self.Q - 2 * self.cross) * W).sum(dim=1).add(self.norms).clamp(min=0)

    def objective(self, W: Tensor) -> Tensor:
        """What each row minimises, whether it is feasible or not, (k,).

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix.
        """
        return self.fit(W) + (W.abs() * self.penalty).sum(dim=1)

    def gradient(self, W: Tensor) -> Tensor:
        """Gradient of `fit`, (k, d).

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix.
        """
        return W @ self.Q - self.cross

    def prox(self, W: Tensor, step: float | Tensor) -> Tensor:
        """argmin_V  step · (λ-weighted |V| + indicator of the ball) + ½‖V − W‖², row by row.

        With θ the ball's multiplier both terms are thresholds, and thresholds add up: first the
        one of λ, then the projection.

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix.
        step : float, or Tensor of shape (k, 1)
            The same for all rows, or each row's own.
        """
        W = W.sign() * (W.abs() - step * self.penalty).clamp(min=0)
        return self._in_ball(self._supported(W))

    def project(self, W: Tensor) -> Tensor:
        """Nearest feasible matrix; the absolute sums in it are at most κ in any order of adding.

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix.
        """
        W = self._in_ball(self._supported(W))
        if self.ball:  # sums round too, and rows that came from far outside are off by as much
            A = W[:, :self.ball]
            size, room = sums(A), radius(A, self.radius[:, None])
            A = A * torch.where(size > room, room / torch.where(size > room, size, 1), 1)
            W = torch.cat([A, W[:, self.ball:]], dim=1)
        return W

    def _supported(self, W: Tensor) -> Tensor:
        return W if self.support is None else torch.where(self.support, W, 0)

    def _in_ball(self, W: Tensor) -> Tensor:
        if not self.ball:
            return W
        A = project_rows(W[:, :self.ball], self.radius[:, None])
        return torch.cat([A, W[:, self.ball:]], dim=1)

    def violation(self, W: Tensor) -> Tensor:
        """By how much each row leaves its ball, (k,); 0 inside.

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix.
        """
        if not self.ball:
            return torch.zeros_like(self.norms)
        return (W[:, :self.ball].abs().sum(dim=1) - self.radius).clamp(min=0)

    def dual(self, W: Tensor, Y: Tensor | None = None) -> Tensor:
        """A lower bound on each row's optimum, from the residual at W, (k,).

        By Fenchel, for every residual ν the optimum is at least −½‖ν‖² − νᵀt − h*(−Φᵀν), where
        h* is κ max_j (|s_j| − λ_j)₊ over the ball's columns and asks |s_j| ≤ λ_j of the others.
        Here ν = θ(Φu − t): u is W moved in the columns that are free (neither weighed nor in the
        ball) so that s = 0 in them, and θ is the best multiple, found in closed form.

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Any matrix; the bound is tight where it is optimal.
        Y : Tensor, shape (k, ball), optional
            Bounds the objective plus ⟨Y, A⟩ instead, summed over the rows: the multiplier of a
            subspace that A is held to, when Y is orthogonal to it.

        Notes
        -----
        A row in which s cannot be made zero in the free columns gets no bound.
        """
        return lower_bound(self, W, Y)

    @cached_property
    def free(self) -> Tensor:
        """Columns that nothing holds, in any row: outside the ball, weighed less than rounding."""
        outside = torch.arange(len(self.gram), device=self.gram.device) >= self.ball
        size = (self.Q.diagonal().clamp(min=0) * self.norms[:, None]).sqrt()
        return torch.nonzero(outside & (self.penalty <= WEIGHTLESS * size).all(dim=0))[:, 0]

    @cached_property
    def free_inverse(self) -> Tensor:
        """Pseudo-inverse of Q in the free columns."""
        return pseudo_inverse(self.Q[self.free][:, self.free])

    @cached_property
    def reach(self) -> Tensor:
        """At the optimum |w_j| ≤ ‖t‖ times this, (d,); infinite where rounding hides the bound."""
        return reach(self.Q)

    def gap(self, W: Tensor) -> Tensor:
        """Duality gap of each row: how far above its optimum a feasible W is at most, (k,).

        Parameters
        ----------
        W : Tensor, shape (k, d)
            Feasible: as `project` returns it.
        """
        return (self.objective(W) - self.dual(W)).clamp(min=0)

    @property
    def scale(self) -> Tensor:
        """What makes a gap relative where a row's optimum is next to nothing, (k,).

        A millionth of ½‖t‖², the objective at W = 0: a smaller objective is a difference of
        squares that has few digits of its own.
        """
        return RESOLVED * 0.5 * self.norms


def state_matching(grams: GramStatistics, kappa: float, lam: float = 0.0, ridge: float = 0.0,
                   feedback: bool = True) -> Problem:
    """Z from [X U 1]: rows [A B b] with A in the ball ‖A‖∞ ≤ κ; biases b are not weighed.

    Parameters
    ----------
    grams : GramStatistics
        Of the teacher's states.
    kappa : float
        Radius κ ≥ 0 of the ball.
    lam, ridge : float
        λ_z ≥ 0, the ℓ₁ weight, and ρ ≥ 0, the weight of the squares.
    feedback : bool
        False lets a layer read the layers that the teacher calls before it and the inputs, and
        nothing else: A is strictly upper block-triangular.

    Raises
    ------
    TypeError, ValueError
        As `Problem`.
    """
    support = None
    if not feedback:
        sizes = torch.tensor([block.size for block in grams.blocks], device=grams.gram.device)
        ends = sizes.cumsum(0).repeat_interleave(sizes)  # the last layer comes first
        support = torch.arange(len(grams.gram), device=ends.device) >= ends[:, None]
    return Problem(grams.gram, grams.cross_Z, grams.norms_Z, lam=lam, ridge=ridge, kappa=kappa,
                   ball=grams.n, weights=_weights_not_biases(grams), support=support)


def output_matching(grams: GramStatistics, lam: float = 0.0, ridge: float = 0.0) -> Problem:
    """Y from [X U 1]: rows [C D d], without a ball; biases d are not weighed.

    Parameters
    ----------
    grams : GramStatistics
        Of the teacher's states.
    lam, ridge : float
        λ_y ≥ 0, the ℓ₁ weight, and ρ ≥ 0, the weight of the squares.

    Raises
    ------
    TypeError, ValueError
        As `Problem`.
    """
    return Problem(grams.gram, grams.cross_Y, grams.norms_Y, lam=lam, ridge=ridge,
                   weights=_weights_not_biases(grams))


def _weights_not_biases(grams: GramStatistics) -> Tensor:
    weights = torch.ones_like(grams.gram[0])
    weights[grams.n + grams.p:] = 0
    return weights
