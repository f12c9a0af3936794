"""A convolutional layer whose equilibrium exists and is unique whatever its weights are.

monDEQ's single convolution (Winston and Kolter 2020, arXiv 2006.08591): z = ReLU(Wz + b) with

    W = (1 − m) I − Aᵀ A + B − Bᵀ,    A and B convolutions with zero padding.

The symmetric part of F = I − W is m I + Aᵀ A, so F is strongly monotone with modulus m > 0 and z
is unique. W itself may have any norm: z ← ReLU(Wz + b) need not converge. Forward–backward
splitting does, and has the same fixed points: ReLU(z) = max(z, 0) is the projection on z ≥ 0,
for which z = ReLU(z − α(Fz − b)) says the same for every α > 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from idl_lab import validation
from idl_lab.equilibrium import Adjoint, Implicit
from idl_lab.fixed_point import Anderson, Solver
from idl_lab.fixed_point.solution import Solution
from idl_lab.layer.equilibrium_layer import EquilibriumLayer

_GRID = 16  # frequencies an axis at least: between those of 3 × 3 entries, 4 % may be missed


@dataclass(frozen=True)
class MonotoneCertificate:
    """Why a layer's equilibrium is unique, and how fast forward–backward splitting finds it.

    With S = m I + Aᵀ A and K = Bᵀ − B, F = S + K. For a unit vector x and s = xᵀ S x,
    ‖(I − αF)x‖² ≤ 1 − 2αs + α²(1 + k/m)((m + l)s − m l) + α²(1 + m/k) k², which for
    α ≤ 2m/((m + k)(m + l)) is largest at s = m: there it is 1 − 2αm + α²(m + k)².

    Attributes
    ----------
    modulus : float
        m: F − m I has a symmetric part that is positive semi-definite.
    symmetric : float
        l ≥ ‖m I + Aᵀ A‖₂, whatever the size of the images.
    skew : float
        k ≥ ‖B − Bᵀ‖₂.
    step : float
        α = min(m/(m + k)², 2m/((m + k)(m + l))).
    """

    modulus: float
    symmetric: float
    skew: float
    step: float

    @property
    def rate(self) -> float:
        """The factor √(1 − 2αm + α²(m + k)²) < 1 by which a step shortens the error at least."""
        m, k, a = self.modulus, self.skew, self.step
        return math.sqrt(max(1 - 2 * a * m + (a * (m + k)) ** 2, 0.0))

    @property
    def sentence(self) -> str:
        """The certificate in words."""
        return (f"unique for every input: I − W is strongly monotone with modulus "
                f"{self.modulus:g}; ‖I − W‖₂ ≤ {self.symmetric + self.skew:.3g}, so steps of "
                f"{self.step:.3g} contract by {self.rate:.3g} or faster.")


class MonotoneConv2d(nn.Module):
    """z = ReLU(Wz + V u + c), W = (1 − m) I − Aᵀ A + B − Bᵀ, all of them 2-d convolutions.

    For feature maps u (m, in_channels, H, W) of any size; z is (m, channels, H, W). Whatever
    the weights, z exists, is unique, and is found by steps that contract. A residual is that of a
    step, so z is within residual/(1 − rate) of the equilibrium, in each sample's 2-norm: where
    the certificate's rate is near 1, ask for a smaller ``rtol``.

    Parameters
    ----------
    in_channels, channels : int
        Of u and of z.
    kernel_size : int
        Odd.
    modulus : float
        m > 0. A larger one is solved in fewer steps, and damps what z can say of u.
    bias : bool
        Whether there is c.
    solver : Picard or Anderson
        Of z = ReLU(z − α(z − Wz − V u − c)), for which Picard's method contracts.
    adjoint : Implicit, Unrolled, Neumann, OneStep or Phantom
    device : torch.device, optional
    dtype : torch.dtype, optional
    generator : torch.Generator, optional
        Draws the first weights; torch's global one by default.

    Attributes
    ----------
    A, B : Tensor, shape (channels, channels, kernel_size, kernel_size)
    V : Tensor, shape (channels, in_channels, kernel_size, kernel_size)
    bias : Tensor, shape (channels,), or None
        c.

    Raises
    ------
    TypeError, ValueError
        If an option is out of its bounds.

    References
    ----------
    Winston and Kolter 2020, Monotone operator equilibrium networks, arXiv 2006.08591, section 4.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3, *,
                 modulus: float = 1.0, bias: bool = True, solver: Solver = Anderson(),
                 adjoint: Adjoint = Implicit(), device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        p, c, k = (validation.integer(name, value) for name, value in (
            ("in_channels", in_channels), ("channels", channels), ("kernel_size", kernel_size)))
        if k % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that images keep their size, got {k}.")
        made = {"device": device, "dtype": dtype}
        step = _ForwardBackward(torch.empty(c, c, k, k, **made), torch.empty(c, c, k, k, **made),
                                validation.real("modulus", modulus, above=0.0))
        self.layer = EquilibriumLayer(step, solver=solver, adjoint=adjoint)
        self.V = nn.Parameter(torch.empty(c, p, k, k, **made))
        self.bias = nn.Parameter(torch.empty(c, **made)) if bias else None
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew, uniform on ±1/√(entries that an output sums).

        Parameters
        ----------
        generator : torch.Generator, optional
        """
        for M in (self.A, self.B, self.V, self.bias):
            if M is not None:
                bound = (M if M.dim() > 1 else self.V)[0].numel() ** -0.5
                drawn = torch.empty_like(M, device=getattr(generator, "device", M.device))
                M.copy_(drawn.uniform_(-bound, bound, generator=generator))

    @property
    def modulus(self) -> float:
        """m, of I − W."""
        return self.layer.f.modulus

    @property
    def A(self) -> Tensor:
        """The kernel of A; Aᵀ A is what W takes away."""
        return self.layer.f.A

    @property
    def B(self) -> Tensor:
        """The kernel of B; B − Bᵀ is the part of W that turns."""
        return self.layer.f.B

    def forward(self, u: Tensor, z0: Tensor | None = None) -> Tensor:
        """The equilibrium z.

        Parameters
        ----------
        u : Tensor, shape (m, in_channels, H, W)
        z0 : Tensor, shape (m, channels, H, W), optional
            Where the solve starts; zero by default.

        Returns
        -------
        Tensor, shape (m, channels, H, W)

        Raises
        ------
        TypeError, ValueError
            As `equilibrium`.
        """
        return self.equilibrium(u, z0).value

    def equilibrium(self, u: Tensor, z0: Tensor | None = None, *, keep_states: bool = False,
                    throw: bool = False) -> Solution:
        """The equilibrium and how it was found.

        Parameters
        ----------
        u, z0
            As for `forward`.
        keep_states, throw : bool
            As for `EquilibriumLayer.equilibrium`.

        Returns
        -------
        Solution
            ``value`` has shape (m, channels, H, W).

        Raises
        ------
        TypeError, ValueError
            If u is no batch of finite feature maps.
        ConvergenceError
            With ``throw``, if some sample did not converge.
        """
        validation.tensor("u", u, "m channels H W", channels=self.V.shape[1])
        b = functional.conv2d(u, self.V, self.bias, padding=self.V.shape[2] // 2)
        # Beside b, since f's inputs are the samples': the step is the same for all of them.
        alpha = _step(*_norms(self.A, self.B, self.modulus), self.modulus)
        alpha = alpha.to(b.dtype).expand(len(b))
        return self.layer.equilibrium(b, alpha, z0=z0, keep_states=keep_states, throw=throw)

    def certificate(self) -> MonotoneCertificate:
        """The bounds that make the equilibrium unique and its solve converge.

        Returns
        -------
        MonotoneCertificate
        """
        symmetric, skew = _norms(self.A, self.B, self.modulus)
        step = _step(symmetric, skew, self.modulus)
        return MonotoneCertificate(self.modulus, float(symmetric), float(skew), float(step))

    def extra_repr(self) -> str:
        """Sizes and modulus, for print."""
        c, p, k, _ = self.V.shape
        return f"{p}, {c}, kernel_size={k}, modulus={self.modulus:g}, bias={self.bias is not None}"


class _ForwardBackward(nn.Module):
    """z ↦ ReLU(z − α(Fz − b)) with F = m I + Aᵀ A − B + Bᵀ."""

    def __init__(self, A: Tensor, B: Tensor, modulus: float) -> None:
        super().__init__()
        self.A, self.B, self.modulus = nn.Parameter(A), nn.Parameter(B), modulus

    def forward(self, z: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
        pad = self.A.shape[-1] // 2
        Az, Bz = functional.conv2d(z, torch.cat([self.A, self.B]), padding=pad).chunk(2, dim=1)
        # Aᵀ and Bᵀ as one convolution, with what they are applied to stacked.
        back = functional.conv_transpose2d(torch.cat([Az, z], dim=1),
                                           torch.cat([self.A, self.B]), padding=pad)
        Fz = self.modulus * z - Bz + back
        return torch.relu(z - alpha[:, None, None, None] * (Fz - b))


@torch.no_grad()
def _norms(A: Tensor, B: Tensor, modulus: float) -> tuple[Tensor, Tensor]:
    """Bounds of ‖m I + Aᵀ A‖₂ and ‖B − Bᵀ‖₂ for images of every size.

    A convolution of an endless image multiplies its Fourier transform at each frequency by the
    matrix Σ A[:, :, i, j] exp(−i(ω₁ i + ω₂ j)), so its norm is the largest of theirs (Sedghi,
    Gupta, Long 2019, arXiv 1805.10408); one with zero padding is a part of it. A trigonometric
    polynomial of degree d exceeds its largest value at N frequencies by at most 1/cos(πd/N)
    (Ehlich and Zeller 1964), here along each of two axes.
    """
    k, exact = A.shape[-1], torch.promote_types(A.dtype, torch.float32)
    grid = max(_GRID, 4 * k)
    slack = math.cos(math.pi * (k // 2) / grid) ** -2 * (1 + 1e-4)  # and rounding, of float32 too
    # Of real kernels the other half of the frequencies has the conjugate matrices.
    at = torch.fft.rfft2(torch.stack([A, B]).to(exact), s=(grid, grid))
    # Centred: B's entries lie at −d … d, so that those of its transpose are their mirror.
    shift = torch.arange(grid, device=A.device, dtype=exact) * (2 * math.pi * (k // 2) / grid)
    turn = torch.polar(torch.ones_like(shift), shift)
    at_A, at_B = (at * turn[:, None] * turn[:grid // 2 + 1]).movedim((1, 2), (3, 4))
    squared = torch.linalg.eigvalsh(at_A.mH @ at_A).amax() * slack ** 2
    skew = torch.linalg.eigvalsh(1j * (at_B - at_B.mH)).abs().amax() * slack
    return modulus + squared, skew


def _step(symmetric: Tensor, skew: Tensor, modulus: float) -> Tensor:
    """The α of `MonotoneCertificate`."""
    both = modulus + skew
    return torch.minimum(modulus / both.square(), 2 * modulus / (both * (modulus + symmetric)))
