"""The ways a gradient through an equilibrium is taken: frozen settings."""

from __future__ import annotations

from dataclasses import dataclass

from idl_lab import validation
from idl_lab.fixed_point import Solver, check_solver


@dataclass(frozen=True)
class Implicit:
    """Exact gradient from the adjoint fixed point; memory does not grow with the steps.

    Its derivatives are equilibria too, so it is as often differentiable as φ.

    Parameters
    ----------
    solver : Picard or Anderson, optional
        For the adjoint equation; by default the solver of the forward equation, with up to 100
        times its ``rtol``, at most 1e-4: four digits of a gradient train as well as six.

    Raises
    ------
    TypeError
        If ``solver`` is none.
    """

    solver: Solver | None = None

    def __post_init__(self) -> None:
        if self.solver is not None:
            check_solver(self.solver)


@dataclass(frozen=True)
class Unrolled:
    """Gradient through every step of the solver, as back-propagation has it.

    Memory grows with the steps; the gradient is that of the last iterate, so it is as exact
    as the solve. A warm start would cut it short: such a solve starts at zero.
    """


@dataclass(frozen=True)
class Neumann:
    """The first terms of (I − SA)⁻¹ = Σ (SA)ᵏ in the adjoint equation: cheap and biased.

    Parameters
    ----------
    terms : int
        One is `OneStep`; with many it is `Implicit` with Picard.

    Raises
    ------
    TypeError, ValueError
        If ``terms`` is no whole number of at least 1.

    References
    ----------
    Lorraine, Vicol, Duvenaud 2020, arXiv 1911.02590.
    """

    terms: int

    def __post_init__(self) -> None:
        validation.integer("terms", self.terms)


@dataclass(frozen=True)
class OneStep:
    """Gradient of one application of f at the solution, (I − SA)⁻¹ taken as I.

    Cheap and biased; a descent direction where the map contracts enough (Fung et al. 2022,
    JFB: Jacobian-Free Backpropagation, AAAI).
    """

    terms = 1


@dataclass(frozen=True)
class Phantom:
    """Gradient of some damped steps x ← (1 − β) x + β f(x) taken from the solution.

    Biased, and smoother than `Neumann` where f hardly contracts; memory grows with the steps.

    Parameters
    ----------
    steps : int
    damping : float
        β in (0, 1].

    Raises
    ------
    TypeError, ValueError
        If one is out of its bounds.

    References
    ----------
    Geng, Zhang, Bai, Wang, Lin 2021, On Training Implicit Models, arXiv 2111.05177.
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        validation.integer("steps", self.steps)
        validation.real("damping", self.damping, above=0.0, at_most=1.0)


Adjoint = Implicit | Unrolled | Neumann | OneStep | Phantom


def check_adjoint(adjoint: Adjoint) -> Adjoint:
    """Check that ``adjoint`` is one of the five, not a name or a class.

    Parameters
    ----------
    adjoint : Implicit, Unrolled, Neumann, OneStep or Phantom

    Raises
    ------
    TypeError
        If it is none of them.
    """
    if not isinstance(adjoint, Adjoint):
        raise TypeError(f"adjoint must be Implicit(), Unrolled(), OneStep(), Neumann(terms) or "
                        f"Phantom(), got {adjoint!r}.")
    return adjoint
