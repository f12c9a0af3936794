"""Elementwise activations φ and the two properties that the theory asks of them.

Non-expansive, |φ(s) − φ(t)| ≤ |s − t|, is what well-posedness rests on; positively
homogeneous, φ(t s) = t φ(s) for t ≥ 0, is what lets a rescaling keep the predictions
(El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3)).
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

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

    Raises
    ------
    TypeError, ValueError
        If the slope is no number of at least 0.
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
        """φ′(S) by automatic differentiation, the shape and dtype of ``S``; differentiable.

        Parameters
        ----------
        S : Tensor, of any shape
        """
        if torch._C._are_functorch_transforms_active():
            return torch.func.vjp(self.fn, S)[1](torch.ones_like(S))[0]
        again = torch.is_grad_enabled() and S.requires_grad
        with torch.enable_grad():
            S = S if again else S.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.fn(S).sum(), S, create_graph=again)
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


_DEFAULTS = {"leaky_relu": (0.01,), "elu": (1.0,), "softplus": (1.0, 20.0),
             "hardtanh": (-1.0, 1.0)}


# Cached, so that layers with the same options share one φ and are applied as one block.
@functools.cache
def _with_options(name: str, slope: float = 1.0, **options: float) -> Activation:
    """torch's function of that name; ``slope`` is its slope below 0, where that is an option."""
    if tuple(options.values()) == _DEFAULTS[name]:
        return ACTIVATIONS[name]
    words = ", ".join(f"{value:g}" for value in options.values())
    fn = functools.partial(getattr(F, name), **{k: float(v) for k, v in options.items()})
    return Activation(f"{name}({words})", fn, max(1.0, abs(slope)), ACTIVATIONS[name].homogeneous,
                      slope >= 0)


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    if beta <= 0 or threshold < 20:  # torch cuts over to the identity there, with a jump
        raise ValueError(f"softplus with beta={beta} and threshold={threshold} is not continuous")
    return _with_options("softplus", beta=beta, threshold=threshold)


# torch's functions with their options, and what these make of them.
ACTIVATION_CALLS: dict[str, Callable[..., Activation]] = {
    "relu": lambda inplace=False: ACTIVATIONS["relu"],
    "relu6": lambda inplace=False: _with_options("hardtanh", min_val=0.0, max_val=6.0),
    "tanh": lambda: ACTIVATIONS["tanh"],
    "sigmoid": lambda: ACTIVATIONS["sigmoid"],
    "leaky_relu": lambda negative_slope=0.01, inplace=False: _with_options(
        "leaky_relu", negative_slope, negative_slope=negative_slope),
    "elu": lambda alpha=1.0, inplace=False: _with_options("elu", alpha, alpha=alpha),
    "softplus": _softplus,
    "hardtanh": lambda min_val=-1.0, max_val=1.0, inplace=False: _with_options(
        "hardtanh", min_val=min_val, max_val=max_val),
}
# torch's activation modules: their call and its options, or None where only measuring tells.
ACTIVATION_MODULES: dict[type[nn.Module], tuple[str, str] | None] = {
    nn.ReLU: ("relu", "inplace"), nn.ReLU6: ("relu6", "inplace"), nn.Tanh: ("tanh", ""),
    nn.Sigmoid: ("sigmoid", ""), nn.LeakyReLU: ("leaky_relu", "negative_slope inplace"),
    nn.ELU: ("elu", "alpha inplace"), nn.Softplus: ("softplus", "beta threshold"),
    nn.Hardtanh: ("hardtanh", "min_val max_val inplace"),
    **dict.fromkeys((nn.SiLU, nn.GELU, nn.SELU, nn.CELU, nn.Mish, nn.Softsign, nn.Hardswish,
                     nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.PReLU)),
}


def activation(phi: str | Activation | Callable[[Tensor], Tensor]) -> Activation:
    """Turn a name, an `Activation` or any elementwise torch callable into an `Activation`.

    torch's functions and modules of the names in `ACTIVATIONS` are known, with their options. A
    user's own callable is measured on a grid in float64, a module in eval mode: its largest slope
    |φ′| on [−500, 500] and whether it is positively homogeneous there. What a grid can miss, the
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
    if not isinstance(phi, nn.Module):
        return _measured(phi)
    call, options = ACTIVATION_MODULES.get(type_before_parametrizations(phi)) or ("", "")
    if call:
        return ACTIVATION_CALLS[call](**{key: getattr(phi, key) for key in options.split()})
    return _measured(copy.deepcopy(phi).eval())  # what is kept must not change with the original


def _measured(phi: Callable[[Tensor], Tensor]) -> Activation:
    name = getattr(phi, "__name__", type(phi).__name__).lower()
    if isinstance(phi, nn.Module) and any(True for _ in phi.parameters()):
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
