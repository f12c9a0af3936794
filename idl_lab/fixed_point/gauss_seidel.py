"""Block Gauss–Seidel sweeps, which end at once where A is block-triangular."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solver import Map, Solver, SolverState, measure
from idl_lab.operators import affine, rows
from idl_lab.sparse import Sparse
from idl_lab.state_map import StateMap


@dataclass(frozen=True)
class GaussSeidel(Solver):
    """Sweeps x_k ← φ(A_k x + b_k) over blocks of states, each from the newest of the others.

    A sweep costs one product, and a test another. On a sparse A that is strictly block-triangular,
    such as that of a network read off, one sweep is the solution and its test in one, as the
    network itself goes through its layers: every row is evaluated at states that stay as they
    are. Picard takes a whole product for each layer there. Blocks are visited from the last to
    the first, or the other way for the transpose that a gradient needs.

    Parameters
    ----------
    rtol, atol, max_steps
        As for `Solver`.
    damping : float
        Of a whole sweep.
    blocks : tuple of int
        Their sizes, in the order of the states.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its bounds.
    """

    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.blocks:
            validation.integer("blocks", size)

    def step(self, f: Map, x: Tensor, state: SolverState) -> tuple[Tensor, Tensor, SolverState]:
        """One sweep and a test: the next x, f(x) there and the next state.

        Parameters
        ----------
        f : callable
            Its affine map is looked at block by block.
        x : Tensor, shape (m, n)
        state : SolverState

        Raises
        ------
        TypeError
            If f is no `StateMap`.
        ValueError
            If the blocks do not add up to its states.
        """
        if not isinstance(f, StateMap):
            raise TypeError("GaussSeidel sweeps over the rows of A, so it solves an equilibrium or "
                            f"a StateMap, not any function; got {f!r}.")
        stops = torch.tensor(self.blocks, device="cpu").cumsum(0).tolist()
        if not stops or stops[-1] != x.shape[1]:
            raise ValueError(f"GaussSeidel's blocks must add up to the {x.shape[1]} states, got "
                             f"{self.blocks}.")
        parts = [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]
        side = f.A.layout.triangle(self.blocks) if isinstance(f.A, Sparse) else 0
        new = x
        for part in parts if side < 0 else reversed(parts):
            P = affine(rows(f.A, part))(f.b[:, part], new)
            new = _put(new, part, _act(f, part, P))
        x, whole = self.mix(x, new), self.damping == 1
        if side and whole:
            return x, x, measure(self, x, x, state, image=True)
        fx = f(x)
        return x, fx, measure(self, x, fx, state, image=whole, skipped=1)


def _act(f: StateMap, part: slice, P: Tensor) -> Tensor:
    """What f makes of these columns of its argument. φ may differ from column to column."""
    if f.slopes is not None:
        return f.slopes[:, part] * P
    return f.act(_put(f.b, part, P))[:, part]


def _put(X: Tensor, part: slice, columns: Tensor) -> Tensor:
    """X with these columns; as a copy, for autograd. Columns are neighbours in a sparse product."""
    return torch.cat([X.mT[:part.start], columns.mT, X.mT[part.stop:]]).mT
