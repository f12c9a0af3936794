"""A weight-tied block made a layer: its Jacobian, its training watched, its gradients measured."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from idl_lab import training, validation
from idl_lab.equilibrium import Adjoint, Implicit, Neumann, OneStep, Phantom
from idl_lab.extras import clock
from idl_lab.fixed_point import Anderson, Solver
from idl_lab.fixed_point.solution import ConvergenceWarning, Solution
from idl_lab.layer import EquilibriumLayer
from idl_lab.networks import redraw

# A tolerance as training has it; a solve that wants more steps than this has lost its way.
SOLVER = Anderson(rtol=1e-4, max_steps=50)
ADJOINTS = {"implicit": Implicit(), "one-step": OneStep(), "Neumann, 3 terms": Neumann(3),
            "phantom, 5 steps": Phantom(5, 0.5)}


class Block(nn.Module):
    """f(z, u) = ReLU(GroupNorm(u + K₂ ReLU(K₁ z))), K₁ and K₂ convolutions of 3 × 3.

    Parameters
    ----------
    channels : int
        Of z and u, a multiple of 4.
    norm : bool
        Whether there is the GroupNorm.

    Raises
    ------
    ValueError
        If the channels cannot be grouped.
    """

    def __init__(self, channels: int, norm: bool = True) -> None:
        super().__init__()
        if validation.integer("channels", channels) % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}.")
        self.K1, self.K2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                            for _ in range(2))
        self.norm = nn.GroupNorm(4, channels) if norm else nn.Identity()

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """The next state of feature maps z under the injection u.

        Parameters
        ----------
        z, u : Tensor, shape (m, channels, h, w)
        """
        return torch.relu(self.norm(u + self.K2(torch.relu(self.K1(z)))))


def classifier(seed: int = 0, *, channels: int = 8, adjoint: Adjoint = Implicit(),
               solver: Solver = SOLVER) -> nn.Sequential:
    """A network of the 8 × 8 digits: a stem, the block's equilibrium, a linear read-out.

    Parameters
    ----------
    seed : int
        Of the first weights.
    channels : int
    adjoint, solver
        As for `EquilibriumLayer`, which is ``net.layer``; the stem is ``net.stem``.
    """
    net = nn.Sequential()
    net.stem = nn.Sequential(nn.Unflatten(1, (1, 8, 8)),
                             nn.Conv2d(1, channels, 3, stride=2, padding=1),
                             nn.GroupNorm(4, channels))
    net.layer = EquilibriumLayer(Block(channels), solver=solver, adjoint=adjoint)
    net.read = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 10))
    return redraw(net, torch.Generator("cpu").manual_seed(seed))


def jacobians(f: nn.Module, z: Tensor, u: Tensor) -> Tensor:
    """∂f/∂z of each sample, a matrix of the flat state.

    Parameters
    ----------
    f : nn.Module
    z, u : Tensor, shape (m, ...)

    Returns
    -------
    Tensor, shape (m, n, n)
    """
    def one(z: Tensor, u: Tensor) -> Tensor:
        return f(z[None], u[None])[0]

    with torch.no_grad():
        J = torch.vmap(torch.func.jacrev(one))(z, u)
    return J.reshape(len(z), z[0].numel(), z[0].numel())


def radii(f: nn.Module, z: Tensor, u: Tensor) -> Tensor:
    """ρ, the size of the Jacobian's largest eigenvalue, of each sample.

    Parameters
    ----------
    f, z, u
        As for `jacobians`.

    Returns
    -------
    Tensor, shape (m,)
    """
    return torch.linalg.eigvals(jacobians(f, z, u)).abs().amax(dim=1)


def quietly(layer: EquilibriumLayer, u: Tensor, **options) -> Solution:
    """The layer's equilibrium where failing to find it is part of the lesson.

    Parameters
    ----------
    layer : EquilibriumLayer
    u : Tensor
    **options
        As for `EquilibriumLayer.equilibrium`.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return layer.equilibrium(u, **options)


def health(net: nn.Sequential, U: Tensor, samples: int = 8) -> dict[str, float]:
    """How a network's equilibrium is found, on images that stay the same.

    Parameters
    ----------
    net : nn.Sequential
        Of `classifier`.
    U : Tensor, shape (m, 64)
    samples : int
        Of how many ρ is looked at, which needs their Jacobians.

    Returns
    -------
    dict of float
        radius (the largest ρ), steps of the solve, residual (the largest, relative), converged
        (1 or 0).
    """
    with torch.no_grad():
        u = net.stem(U)
    solution = quietly(net.layer, u)
    return {"radius": float(radii(net.layer.f, solution.value[:samples], u[:samples]).max()),
            "steps": solution.stats.steps, "residual": float(solution.stats.relative.max()),
            "converged": float(solution.status.ok)}


@dataclass(frozen=True)
class Course:
    """How a training went, the start first.

    Attributes
    ----------
    table : pandas.DataFrame
        A row an epoch: what `health` gives, and the accuracy.
    states : list of dict
        The network's state_dict then.
    """

    table: pd.DataFrame
    states: list[dict[str, Tensor]]

    @property
    def healthy(self) -> int:
        """The last epoch before the first after which the solve failed."""
        failed = self.table.index[self.table["converged"] == 0]
        return int(failed[0] if len(failed) else len(self.table)) - 1


def train(net: nn.Sequential, batches: Iterable, test: Iterable, epochs: int, *, lr: float = 5e-3,
          weight: float = 0.0, generator: torch.Generator | None = None) -> Course:
    """Train with Adam, and look at the network's health and accuracy before and after each epoch.

    Parameters
    ----------
    net : nn.Sequential
        Of `classifier`; trained in place.
    batches, test : DataLoader
    epochs : int
    lr : float
    weight : float
        γ of the Jacobian's penalty; with 0 it is not computed.
    generator : torch.Generator, optional
        Draws the penalty's vectors.

    Returns
    -------
    Course
    """
    validation.integer("epochs", epochs)
    validation.real("weight", weight, at_least=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    device = next(net.parameters()).device
    U = next(iter(test))[0].to(device)

    def looked() -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return {**health(net, U), "accuracy": training.evaluate(net, test)}

    def weighed() -> Tensor:
        return weight * net.layer.jacobian_penalty(generator)

    penalty = weighed if weight else None
    rows, states = [looked()], [copy.deepcopy(net.state_dict())]
    for _ in range(epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            training.fit(net, batches, epochs=1, optimizer=optimizer, penalty=penalty,
                         progress=False)
        rows.append(looked())
        states.append(copy.deepcopy(net.state_dict()))
    return Course(pd.DataFrame(rows).rename_axis("epoch"), states)


# ---- gradients --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A gradient and what it cost.

    Attributes
    ----------
    gradient : Tensor, shape (k,)
        Of all the block's parameters, one after the other.
    memory : int
        Bytes that forward and backward pass hold at most, beside what was there before.
    seconds : float
        Of the backward pass.
    """

    gradient: Tensor
    memory: int
    seconds: float


class _Peak(TorchDispatchMode):
    """Counts the bytes of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for T in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(T, Tensor) and (held := T.untyped_storage()) not in self.seen:
                self.seen.add(held)
                self.now += held.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(held, self._gone, held.nbytes())
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


def measure_gradient(f: nn.Module, u: Tensor, weights: Tensor, adjoint: Adjoint,
                     solver: Solver = Anderson(rtol=1e-8), repeat: int = 1) -> Measured:
    """The gradient of Σ weights · z in f's parameters, z = f(z, u), and its price.

    Parameters
    ----------
    f : nn.Module
    u, weights : Tensor, shape (m, ...)
    adjoint : Implicit, Unrolled, OneStep, Neumann or Phantom
    solver : Solver
    repeat : int
        ``seconds`` is the shortest of so many.

    Returns
    -------
    Measured
    """
    layer, theta = EquilibriumLayer(f, solver=solver, adjoint=adjoint), list(f.parameters())
    layer(u)  # looks at f once
    with _Peak() as peak:
        found = torch.autograd.grad((weights * layer(u)).sum(), theta)
    gradient = torch.cat([T.flatten() for T in found])
    seconds = []
    for _ in range(validation.integer("repeat", repeat)):
        loss = (weights * layer(u)).sum()
        start = clock(u.device)
        torch.autograd.grad(loss, theta)
        seconds.append(clock(u.device) - start)
    return Measured(gradient, peak.most, min(seconds))


def relative_error(value: Tensor, exact: Tensor) -> float:
    """‖value − exact‖₂ / ‖exact‖₂.

    Parameters
    ----------
    value, exact : Tensor
    """
    return float((value - exact).norm() / exact.norm())


def cosine(value: Tensor, exact: Tensor) -> float:
    """The cosine of the angle between two gradients.

    Parameters
    ----------
    value, exact : Tensor, shape (k,)
    """
    return float(torch.cosine_similarity(value, exact, dim=0))


def gradient_table(f: nn.Module, u: Tensor, weights: Tensor,
                   adjoints: Mapping[str, Adjoint] = ADJOINTS, repeat: int = 1) -> pd.DataFrame:
    """Each adjoint's gradient against the exact one.

    Parameters
    ----------
    f, u, weights, repeat
        As for `measure_gradient`, in float64.
    adjoints : mapping of str to adjoint

    Returns
    -------
    pandas.DataFrame
        By name: relative error, cosine, memory (bytes) and seconds.
    """
    exact = measure_gradient(f, u, weights, Implicit(Anderson(rtol=1e-9, max_steps=500))).gradient
    rows = {}
    for name, adjoint in adjoints.items():
        seen = measure_gradient(f, u, weights, adjoint, repeat=repeat)
        rows[name] = {"error": relative_error(seen.gradient, exact),
                      "cosine": cosine(seen.gradient, exact),
                      "memory": seen.memory, "seconds": seen.seconds}
    return pd.DataFrame(rows).T
