"""Elementwise activations φ and the two properties that the theory asks of them.

Non-expansive, |φ(s) − φ(t)| ≤ |s − t|, is what well-posedness rests on; positively
homogeneous, φ(t s) = t φ(s) for t ≥ 0, is what lets a rescaling keep the predictions
(El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3)).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from idl_lab import validation

_ROUNDING = 1e-9  # of slopes measured in float64


@dataclass(frozen=True)
class Activation:
    """An elementwise function φ with what is known about it.

    Attributes
    ----------
    name : str
    fn : callable
        Tensor to tensor of the same shape, elementwise.
    slope : float
        Lipschitz constant, the largest |φ′|.
    homogeneous : bool
        Whether φ(t s) = t φ(s) for every t ≥ 0.
    increasing : bool
        Whether φ′ ≥ 0: with slope ≤ 1, φ is then a proximal map.
    in_place : callable, optional
        The same function, allowed to overwrite its argument; what a solver's hot loop calls.
    slope_of_value : callable, optional
        φ′(s) as a function of φ(s), where one exists: the gradient then needs no pre-activation.
    """

    name: str
    fn: Callable[[Tensor], Tensor]
    slope: float
    homogeneous: bool = False
    increasing: bool = False
    in_place: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    slope_of_value: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        validation.real("slope", self.slope, at_least=0.0)

    @property
    def non_expansive(self) -> bool:
        """Whether |φ(s) − φ(t)| ≤ |s − t| for all s, t."""
        return self.slope <= 1 + _ROUNDING

    def __call__(self, S: Tensor) -> Tensor:
        """φ(S), the shape and dtype of ``S``."""
        return self.fn(S)

    def __reduce__(self) -> tuple:
        # A built-in one is pickled by its name: its lambdas could not be.
        if ACTIVATIONS.get(self.name) is self:
            return activation, (self.name,)
        return Activation, tuple(getattr(self, f.name) for f in fields(self))

    def derivative(self, S: Tensor) -> Tensor:
        """φ′(S) by automatic differentiation, the shape and dtype of ``S``."""
        with torch.enable_grad():
            S = S.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.fn(S).sum(), S)
        return slope


def _same(S: Tensor) -> Tensor:
    return S


def _on_a_copy(phi: Callable[[Tensor], Tensor], S: Tensor) -> Tensor:
    return phi(S.clone())


# Comparisons make tensors of bool, which cost eight times a sign: hence the slopes' forms.
ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("relu", torch.relu, 1.0, True, True, torch.relu_, torch.sign),
        Activation("leaky_relu", F.leaky_relu, 1.0, True, True, F.leaky_relu_,
                   lambda X: X.sign().clamp_(min=0.01)),
        Activation("tanh", torch.tanh, 1.0, False, True, torch.tanh_, lambda X: 1 - X * X),
        Activation("sigmoid", torch.sigmoid, 0.25, False, True, torch.sigmoid_,
                   lambda X: X - X * X),
        Activation("softplus", F.softplus, 1.0, False, True, None, lambda X: -torch.expm1(-X)),
        Activation("elu", F.elu, 1.0, False, True, F.elu_, lambda X: X.clamp(max=0) + 1),
        Activation("hardtanh", F.hardtanh, 1.0, False, True, F.hardtanh_,
                   lambda X: (X.abs() < 1).to(X.dtype)),
        Activation("identity", torch.clone, 1.0, True, True, _same, torch.ones_like),
    )
}


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
    """
    merged: list[tuple[Activation, int]] = []
    for phi, size in _flat(parts):
        if merged and merged[-1][0] == phi:
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


def _flat(parts: Sequence[tuple[Activation, int]]) -> Iterator[tuple[Activation, int]]:
    """The parts, blocks of blocks taken apart: two of those alike are not one twice as long."""
    for phi, size in parts:
        phi, size = activation(phi), validation.integer("size", size, at_least=0)
        if getattr(phi.fn, "func", None) is _apply_blocks and size:
            inner = phi.fn.args[0]
            if sum(n for _, n in inner) != size:
                raise ValueError(f"blockwise: {phi.name} acts on {sum(n for _, n in inner)} "
                                 f"components, but was given {size}.")
            yield from inner
        else:
            yield phi, size


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


def activation(phi: str | Activation | Callable[[Tensor], Tensor]) -> Activation:
    """Turn a name, an `Activation` or any elementwise torch callable into an `Activation`.

    A user's own callable is measured on a grid in float64: its largest slope |φ′| on
    [−500, 500] and whether it is positively homogeneous there. What a grid can miss, the
    measurement can miss; where the slope is known, `Activation` takes it.

    Parameters
    ----------
    phi : str, Activation or callable
        ``"relu"``, ``"tanh"``, ``torch.nn.functional.silu``, ``torch.nn.ELU()``, …

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        If the name is unknown, or the callable is not elementwise or not finite.
    TypeError
        If ``phi`` is none of the three.

    Warns
    -----
    UserWarning
        If the callable is expansive: well-posedness then needs the norm of A below 1/slope.
    """
    if isinstance(phi, Activation):
        return phi
    if isinstance(phi, str):
        return ACTIVATIONS[validation.choice("activation", phi, ACTIVATIONS)]
    if not callable(phi):
        raise TypeError(f"activation must be a name, an Activation or a callable, got {phi!r}.")
    for known in ACTIVATIONS.values():
        if phi in (known.fn, getattr(F, known.name, None), getattr(torch, known.name, None)):
            return known
    return _measured(phi)


def _measured(phi: Callable[[Tensor], Tensor]) -> Activation:
    name = getattr(phi, "__name__", type(phi).__name__).lower()
    if isinstance(phi, torch.nn.Module) and any(True for _ in phi.parameters()):
        raise ValueError(f"activation {name} has parameters of its own; they would be neither "
                         f"trained nor saved with the model. Use a fixed function.")
    # Dense where activations bend, and never at zero, where many have a kink.
    far = torch.logspace(1.4, 2.69897, 500, dtype=torch.float64, device="cpu")
    near = torch.linspace(1e-5, 25, 30_000, dtype=torch.float64, device="cpu")
    half = torch.cat([near, far])
    grid = torch.cat([-half.flip(0), half])
    probe, fn, in_place = grid.clone(), phi, None
    try:
        value = phi(probe)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"activation {name} must map a float64 tensor of any shape to one of that "
                         f"shape; given shape {tuple(grid.shape)} it raised: {error}") from error
    if not isinstance(value, Tensor) or value.shape != grid.shape:
        raise ValueError(f"activation {name} must be elementwise: it turned shape "
                         f"{tuple(grid.shape)} into {getattr(value, 'shape', type(value))}.")
    if not torch.isfinite(value).all():
        raise ValueError(f"activation {name} must be finite on the real line; on [-500, 500] it "
                         f"is not.")
    if not torch.equal(probe, grid):  # such as torch.nn.ELU(inplace=True)
        fn, in_place = functools.partial(_on_a_copy, phi), phi
    part = fn(grid[:20_000].flip(0)).flip(0)
    if not torch.allclose(part, value[:20_000], rtol=1e-6, atol=1e-8):
        raise ValueError(f"activation {name} must act on each component alone and give the same "
                         f"answer every time; its value changed with its other inputs.")
    try:
        derivative = Activation(name, fn, 0.0).derivative(grid)
    except RuntimeError as error:
        raise ValueError(f"activation {name} must be a torch function that autograd can follow: "
                         f"{error}.") from error
    # Secants see a jump that the derivative does not.
    secants = (value.diff() / grid.diff()).abs().max()
    slope = float(torch.maximum(derivative.abs().max(), secants))
    homogeneous = bool(torch.allclose(fn(2 * grid), 2 * value, rtol=1e-9, atol=1e-12))
    if 1 - 1e-6 < slope <= 1 + _ROUNDING:
        slope = 1.0  # attained between grid points, or measured with rounding
    if slope > 1 + _ROUNDING:
        warnings.warn(
            f"activation {name} is expansive: its slope reaches {slope:.3g} > 1, so a norm of A "
            f"below 1 no longer guarantees a unique equilibrium; below {1 / slope:.3g} does.",
            UserWarning, stacklevel=3)
    increasing = bool(derivative.min() >= 0 and value.diff().min() >= 0)
    return Activation(name, fn, slope, homogeneous, increasing, in_place)
