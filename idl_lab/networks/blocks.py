"""What a network is as an implicit model: blocks of states, and the matrices between them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import ACTIVATION_CALLS, Activation, activation
from idl_lab.constraints import radius
from idl_lab.networks.patterns import from_scipy
from idl_lab.well_posedness import units


def blockwise(parts: Sequence[tuple[Activation, int]]) -> Activation:
    """One φ made of several, each on its own run of components, such as a network's layers.

    Parameters
    ----------
    parts : sequence of (Activation, int)
        What acts on the first components and on how many, on the next ones, and so on.

    Returns
    -------
    Activation
        Its argument is (..., n), with n the sum of the sizes; where all parts are the same
        activation, that one.

    Raises
    ------
    TypeError, ValueError
        If there is no component, a size is negative or no whole number, or a part that is made
        of blocks itself is given another size than theirs.
    """
    merged: list[tuple[Activation, int]] = []
    for phi, size in _flat(parts):
        if merged and merged[-1][0] == phi and _length(phi) is None:
            size += merged.pop()[1]
        if size:
            merged.append((phi, size))
    if not merged:
        raise ValueError("blockwise needs at least one component, got none.")
    if len(merged) == 1:
        return merged[0][0]
    phis = [phi for phi, _ in merged]
    name = ", ".join(f"{phi.name} ×{size}" for phi, size in merged)
    return Activation(
        name, functools.partial(_apply_blocks, merged), max(phi.slope for phi in phis),
        homogeneous=all(phi.homogeneous for phi in phis),
        increasing=all(phi.increasing for phi in phis),
        in_place=functools.partial(_overwrite_blocks, merged),
        slope_of_value=functools.partial(_slope_of_blocks, merged)
        if all(phi.slope_of_value for phi in phis) else None)


def select(phi: Activation, at: Tensor) -> Activation:
    """φ of some components alone.

    Parameters
    ----------
    phi : Activation
        One for all, or made of blocks.
    at : Tensor of int, shape (k,)
        Numbers of components, rising, at least one.
    """
    how, args = getattr(phi.fn, "func", None), getattr(phi.fn, "args", ())
    if how is bend:
        return prelu(args[0][at.to(args[0].device)])
    if how is not _apply_blocks:
        return phi
    parts, start = [], 0
    for part, size in args[0]:
        mine = at[(at >= start) & (at < start + size)] - start
        start += size
        if len(mine):
            parts.append((select(part, mine), len(mine)))
    return blockwise(parts)


def prelu(slopes: Tensor) -> Activation:
    """max(0, s) + a ∘ min(0, s), with a slope a of its own for each component.

    Parameters
    ----------
    slopes : Tensor, shape (n,)
        Where all are one, the leaky ReLU of that slope.
    """
    least, most = (float(v) for v in slopes.aminmax())
    if least == most:
        return ACTIVATION_CALLS["leaky_relu"](least)
    slopes = slopes.detach().clone()
    return Activation("prelu", functools.partial(bend, slopes), max(1.0, -least, most),
                      homogeneous=True, increasing=least >= 0, slope_of_value=functools.partial(
                          _slope_of_bend, slopes) if least >= 0 else None)


def prelu_for(weight: Tensor, shape: Sequence[int]) -> Activation:
    """torch's PReLU on samples of a shape, whose first axis is the channels, flattened.

    Parameters
    ----------
    weight : Tensor, shape (1,) or (channels,)
        Of the module.
    shape : sequence of int
        Of one sample.
    """
    each = weight.detach().cpu().reshape(-1, *[1] * (len(shape) - 1))
    return prelu(each.expand(*shape).flatten())


def bend(slopes: Tensor, S: Tensor) -> Tensor:
    """max(0, s) + slopes ∘ min(0, s).

    Parameters
    ----------
    slopes : Tensor, shape (n,)
    S : Tensor, shape (..., n)
    """
    return torch.where(S > 0, S, slopes.to(S.device, S.dtype) * S)


def _slope_of_bend(slopes: Tensor, X: Tensor) -> Tensor:
    return torch.where(X > 0, 1, slopes.to(X.device, X.dtype))


def _length(phi: Activation) -> int | None:
    """How many components an activation is for; None where any number will do."""
    how, args = getattr(phi.fn, "func", None), getattr(phi.fn, "args", ())
    return len(args[0]) if how is bend else sum(
        n for _, n in args[0]) if how is _apply_blocks else None


def _flat(parts: Sequence[tuple[Activation, int]]) -> Iterator[tuple[Activation, int]]:
    """The parts, blocks of blocks taken apart: two of those alike are not one twice as long."""
    for phi, size in parts:
        phi, size = activation(phi), validation.integer("size", size, at_least=0)
        length = _length(phi)
        if size and length not in (None, size):
            raise ValueError(f"blockwise: {phi.name} acts on {length} components, but was given "
                             f"{size}.")
        if size and getattr(phi.fn, "func", None) is _apply_blocks:
            yield from phi.fn.args[0]
        else:
            yield phi, size


def parts(phi: Activation, size: int) -> list[tuple[Activation, int]]:
    """What a φ of so many components is made of, as `blockwise` takes it.

    Parameters
    ----------
    phi : Activation
    size : int
    """
    return list(_flat([(phi, size)]))


def _split(blocks: list[tuple[Activation, int]], S: Tensor) -> Iterator[tuple[Activation, Tensor]]:
    phis, sizes = zip(*blocks, strict=True)
    if S.shape[-1] != sum(sizes):
        raise ValueError(f"this activation has blocks of {', '.join(map(str, sizes))} components, "
                         f"{sum(sizes)} in all, got shape {tuple(S.shape)}.")
    return zip(phis, S.split(sizes, dim=-1), strict=True)


def _apply_blocks(blocks: list[tuple[Activation, int]], S: Tensor) -> Tensor:
    return torch.cat([phi.fn(s) for phi, s in _split(blocks, S)], dim=-1)


def _overwrite_blocks(blocks: list[tuple[Activation, int]], S: Tensor) -> Tensor:
    for phi, s in _split(blocks, S):
        s.copy_(phi.fn(s)) if phi.in_place is None else phi.in_place(s)
    return S


def _slope_of_blocks(blocks: list[tuple[Activation, int]], X: Tensor) -> Tensor:
    return torch.cat([phi.slope_of_value(x) for phi, x in _split(blocks, X)], dim=-1)


@dataclass(frozen=True)
class Block:
    """The states that one call of an activation makes.

    Attributes
    ----------
    name : str
        Its place in the network, such as ``"features.1 (ReLU)"``.
    size : int
        How many states.
    activation : Activation
        φ of these states.
    """

    name: str
    size: int
    activation: Activation

    @property
    def slopes(self) -> Tensor:
        """Each state's Lipschitz constant of φ, (size,), float64 on the CPU: PReLU's differ."""
        phi = self.activation
        if getattr(phi.fn, "func", None) is bend:
            return phi.fn.args[0].detach().cpu().double().abs().clamp(min=1.0)
        return torch.full((self.size,), phi.slope, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class Network:
    """A network as x = φ(A x + B u + state_bias), ŷ = C x + D u + output_bias, exactly.

    Attributes
    ----------
    A, B, C, D : csr_array of float64, shapes (n, n), (n, p), (q, n) and (q, p)
        u is the flattened input, ŷ the flattened output. A is strictly upper block-triangular.
    state_bias, output_bias : ndarray of float64, shapes (n,) and (q,)
    blocks : tuple of Block
        In the order of the states: the last layer first.
    input_shape : tuple of int
        What the network takes, without the batch dimension; its product is p.
    dtype : torch.dtype
        Of the network's parameters.
    """

    A: scipy.sparse.csr_array
    B: scipy.sparse.csr_array
    C: scipy.sparse.csr_array
    D: scipy.sparse.csr_array
    state_bias: np.ndarray
    output_bias: np.ndarray
    blocks: tuple[Block, ...]
    input_shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def activation(self) -> Activation:
        """φ, each block with its own activation."""
        return blockwise([(block.activation, block.size) for block in self.blocks])

    def predict(self, U: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """ŷ for a batch, block after block, and the magnitudes that rounding is relative to.

        Parameters
        ----------
        U : ndarray of float64, shape (m, p)

        Returns
        -------
        Y, magnitudes : ndarrays of float64, shape (m, q)
            ŷ, and the sum of the sizes of what each of its entries is made of.
        largest : float
            The largest such sum of a state's argument.
        """
        m, stop = len(U), self.A.shape[0]
        S, X = (self.B @ U.T).T + self.state_bias, np.zeros((m, stop))
        sums, sizes = (abs(self.B) @ abs(U).T).T + abs(self.state_bias), np.zeros((m, stop))
        for block in reversed(self.blocks):
            part = slice(stop - block.size, stop)
            A = self.A[part]
            S[:, part] += (A @ X.T).T
            sums[:, part] += (abs(A) @ abs(X).T).T
            X[:, part] = block.activation(torch.from_numpy(S[:, part])).numpy()
            sizes[:, part] = np.maximum(abs(X[:, part]), block.activation.slope * sums[:, part])
            stop -= block.size
        Y = (self.C @ X.T).T + (self.D @ U.T).T + self.output_bias
        magnitudes = (abs(self.C) @ sizes.T).T + (abs(self.D) @ abs(U).T).T + abs(self.output_bias)
        return Y, magnitudes, float(sums.max())

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor | None]:
        """The matrices and biases by their names, in ``dtype``; no D where it is zero.

        Parameters
        ----------
        device : torch.device or str

        Returns
        -------
        dict of Tensor
            A and B are sparse (CSR) where fewer than a tenth of their entries are not zero: below
            that a sparse product is the faster one.
        """
        found: dict[str, Tensor | None] = {}
        for name in ("A", "B", "C", "D", "state_bias", "output_bias"):
            M = getattr(self, name)
            thin = name in "AB" and M.nnz < 0.1 * M.shape[0] * M.shape[1]
            found[name] = from_scipy(M, self.dtype, device) if thin else torch.as_tensor(
                M if isinstance(M, np.ndarray) else M.toarray(), dtype=self.dtype, device=device)
        return found if self.D.nnz else found | {"D": None}

    def rescaled(self, kappa: float) -> tuple[Network, Tensor]:
        """The same function with its states in units v in which ‖A‖∞ ≤ κ, in ``dtype`` too.

        Parameters
        ----------
        kappa : float
            In (0, 1).

        Returns
        -------
        network : Network
            V⁻¹AV, V⁻¹B, CV and the state bias V⁻¹b with V = diag(v).
        v : Tensor, shape (n,), float64

        Raises
        ------
        ValueError
            If an activation is not positively homogeneous, or the units overflow.
        """
        if not self.activation.homogeneous:
            names = sorted({b.activation.name for b in self.blocks if not b.activation.homogeneous})
            raise ValueError(f"rescale=True needs positively homogeneous activations, φ(t s) = "
                             f"t φ(s), such as ReLU: {', '.join(names)} would give other "
                             f"predictions.")
        # Rounding to the net's dtype must not carry a row's sum over κ.
        room = radius(from_scipy(self.A, self.dtype), kappa)
        v = units(from_scipy(self.A, torch.float64), room)
        V, inverse = (scipy.sparse.diags_array(d) for d in (v.numpy(), 1 / v.numpy()))
        A, B, C = (scipy.sparse.csr_array(M) for M in (inverse @ self.A @ V, inverse @ self.B,
                                                 self.C @ V))
        return replace(self, A=A, B=B, C=C, state_bias=self.state_bias / v.numpy()), v
