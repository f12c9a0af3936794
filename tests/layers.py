"""Modules whose equilibrium is asked for, and oracles that share no code with EquilibriumLayer."""

from __future__ import annotations

import torch
from helpers import CPU64, draw
from torch import Tensor, nn

from idl_lab.equilibrium import Implicit, Neumann, OneStep, Phantom, Unrolled
from idl_lab.fixed_point import Anderson
from idl_lab.layer import EquilibriumLayer

TIGHT = Anderson(rtol=1e-13)
ADJOINTS = {"implicit": Implicit(TIGHT), "unrolled": Unrolled(), "one-step": OneStep(),
            "neumann": Neumann(3), "phantom": Phantom(4, 0.7)}
EXACT = ["implicit", "unrolled"]


class Affine(nn.Module):
    """The matrix model's f: φ(z Aᵀ + u)."""

    def __init__(self, A: Tensor, phi: str = "tanh") -> None:
        super().__init__()
        self.A, self.phi = nn.Parameter(A.clone()), getattr(torch, phi)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.phi(z @ self.A.T + u)


class Block(nn.Module):
    """Convolutions and GroupNorm: feature maps (m, 2, h, w)."""

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1, **CPU64)
        self.norm = nn.GroupNorm(2, 4, **CPU64)
        self.two = nn.Conv2d(4, 2, 3, padding=1, **CPU64)
        self.gain = gain

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(u + self.gain * self.two(torch.tanh(self.norm(self.one(z + u)))))


class Attention(nn.Module):
    """Every place of a sequence looks at all of it: states (m, t, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(3, 9, **CPU64)

    def forward(self, z: Tensor, u: Tensor, scale: Tensor | None = None) -> Tensor:
        q, k, v = self.heads(z).chunk(3, dim=-1)
        moved = torch.softmax(q @ k.mT, dim=-1) @ v
        return torch.tanh(u + 0.5 * moved if scale is None else u + scale[:, None, None] * moved)


class Nodes(nn.Module):
    """Features of the nodes of one graph, (nodes, c): no sample axis."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(draw(5, 3, 3, scale=0.2))

    def forward(self, X: Tensor, U: Tensor, adjacency: Tensor) -> Tensor:
        return torch.relu(adjacency @ X @ self.W + U)


class Looked(nn.Module):
    """A table looked up by an integer input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, **CPU64)

    def forward(self, z: Tensor, u: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(u + 0.3 * z + self.table(label))


class Plain(nn.Module):
    """No parameters."""

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.cos(z + u) / 2


def matrix(seed: int = 0, n: int = 6, norm: float = 0.8) -> Tensor:
    A = draw(seed, n, n)
    return norm * A / A.abs().sum(dim=1, keepdim=True)


def cases() -> dict[str, tuple[nn.Module, tuple[Tensor, ...], bool]]:
    """A module, its inputs, and whether these are samples."""
    torch.manual_seed(3)
    ring = torch.roll(torch.eye(5, **CPU64), 1, 0)
    labels = torch.tensor([0, 3, 3], device="cpu")
    return {
        "affine": (Affine(matrix()), (draw(1, 4, 6),), True),
        "maps": (Block(), (draw(1, 2, 2, 3, 3),), True),
        "sequence": (Attention(), (draw(1, 2, 4, 3),), True),
        "two inputs": (Attention(), (draw(1, 2, 4, 3), draw(2, 2).abs() / 4), True),
        "integers": (Looked(), (draw(1, 3, 3), labels), True),
        "nodes": (Nodes(), (draw(1, 5, 3), (ring + ring.T) / 2), False),
        "no parameters": (Plain(), (draw(1, 3, 2, 2),), True),
    }


CASES = list(cases())


def layer_of(f: nn.Module, batched: bool = True, adjoint=ADJOINTS["implicit"], solver=TIGHT):
    return EquilibriumLayer(f, solver=solver, adjoint=adjoint, batched=batched)


def loop(f: nn.Module, u: tuple[Tensor, ...], steps: int = 300) -> Tensor:
    z = torch.zeros_like(u[0])
    for _ in range(steps):
        z = f(z, *u)
    return z


def gradients(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    weights = draw(9, *value.shape)
    return list(torch.autograd.grad((weights * value).sum(), tensors, allow_unused=True))


def followed(f: nn.Module, u: tuple[Tensor, ...]) -> list[Tensor]:
    return [*f.parameters(), *(T.requires_grad_() for T in u if T.is_floating_point())]
