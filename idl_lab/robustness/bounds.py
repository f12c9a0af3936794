"""Bounds of a model's states and outputs over a ball of inputs, by nested methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.bar import progress_bar
from idl_lab.model import ImplicitModel
from idl_lab.robustness.affine import affine
from idl_lab.robustness.bound import Linear, bound, multipliers
from idl_lab.robustness.closed import Closed
from idl_lab.robustness.dual import optimized, tighten
from idl_lab.robustness.interval import interval, over
from idl_lab.robustness.relaxation import Polygon, polygon
from idl_lab.robustness.system import Ball, System

METHODS = ("norm", "interval", "affine", "lp")
STEPS, LAST_STEPS, ROUNDS = 60, 200, 4  # of the ascent: for a unit, for an output; how often
_NUMBERS = 1 << 23  # that a chunk of samples takes at once, 64 MiB


@dataclass
class Enclosure:
    """What is known of the pre-activations of a chunk of samples; every step only shrinks it.

    Attributes
    ----------
    closed : Closed
    ball : Ball
    center, off : Tensor, shape (m, n)
        z at the center and the size of its error.
    state : Tensor, shape (m, n)
        x at the center.
    lower, upper : Tensor, shape (m, n)
        Bounds of z.
    done : list of str
        The methods that made them.
    """

    closed: Closed
    ball: Ball
    center: Tensor
    off: Tensor
    state: Tensor
    lower: Tensor
    upper: Tensor
    done: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, closed: Closed, ball: Ball) -> Enclosure:
        """From the closed form.

        Parameters
        ----------
        closed : Closed
        ball : Ball
        """
        x, z, off = closed.center(ball)
        pre = Linear.pre_activations(closed.system, len(ball))
        return cls(closed, ball, z, off, x, *closed.bounds(ball, pre, x, off), ["norm"])

    def __getitem__(self, which: Tensor) -> Enclosure:
        return Enclosure(self.closed, self.ball[which], self.center[which], self.off[which],
                         self.state[which], self.lower[which], self.upper[which], [*self.done])

    @property
    def polygon(self) -> Polygon:
        """Of the units, as the bounds are now."""
        return polygon(self.closed.system.phi, self.lower, self.upper)

    def tighten(self, method: str) -> None:
        """Shrink the bounds by a method.

        Parameters
        ----------
        method : {"interval", "affine", "lp"}
        """
        system, known = self.closed.system, (self.lower, self.upper)
        if method == "interval":
            self.lower, self.upper = interval(self.closed, self.ball, *known)
        elif method == "affine":
            self.lower, self.upper = affine(system, self.ball, *known, self.center, self.off)
        elif method == "lp":
            self.lower, self.upper = tighten(system, self.ball, *known, STEPS)
        self.done.append(method)

    def functions(self, f: Linear) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds, (m, K), of functions by every method done so far.

        Parameters
        ----------
        f : Linear
        """
        system, ball, P = self.closed.system, self.ball, self.polygon
        found = [self.closed.bounds(ball, f, self.state, self.off)]
        if "interval" in self.done:
            found.append(over(f, ball, P.lower, P.upper))
        if "affine" in self.done or "lp" in self.done:
            found.append(bound(system, ball, P, f, multipliers(system, P, f)))
        if "lp" in self.done:
            both = Linear(*(torch.cat([T, -T], 1) for T in (f.g, f.d, f.k)))
            v = optimized(system, ball, P, both, LAST_STEPS)
            low, high = bound(system, ball, P, both, v)
            K = f.k.shape[1]
            found += [(low[:, :K], high[:, :K]), (-high[:, K:], -low[:, K:])]
        lows, highs = zip(*found, strict=True)
        return torch.stack(lows).amax(0), torch.stack(highs).amin(0)


def stages(system: System, method: str) -> list[str]:
    """The methods up to one that there are for a system, the cheapest first.

    Parameters
    ----------
    system : System
    method : str

    Raises
    ------
    ValueError
        If the method is unknown or does not exist for the system.
    """
    validation.choice("method", method, METHODS)
    system.check_well_posed()
    if method == "interval" and not system.contractive:
        raise ValueError(f"method='interval' needs L·λ_PF(|A|) < 1, since intervals would grow "
                         f"without end: {system.sentence} 'norm', 'affine' and 'lp' hold for "
                         f"this model.")
    chosen = METHODS[:METHODS.index(method) + 1]
    return [name for name in chosen if system.contractive or name != "interval"]


def chunks(system: System, m: int) -> Iterator[slice]:
    """Runs of samples that fit into memory together.

    Parameters
    ----------
    system : System
    m : int
        Samples in all.
    """
    n, p = system.B.shape
    size = max(1, _NUMBERS // (2 * n * (n + p)))
    yield from (slice(k, min(k + size, m)) for k in range(0, m, size))


@dataclass(frozen=True)
class Bounds:
    """Bounds that hold for every input of a ball, in float64 with their rounding taken off.

    Attributes
    ----------
    lower, upper : Tensor, shape (m, q)
        Of the outputs ŷ.
    state_lower, state_upper : Tensor, shape (m, n)
        Of the states x.
    method : str
    status : str
        "finished", or that it was interrupted and how many samples have bounds; the others'
        are infinite.
    """

    lower: Tensor
    upper: Tensor
    state_lower: Tensor
    state_upper: Tensor
    method: str
    status: str


@torch.no_grad()
def bounds(model: ImplicitModel, U: Tensor, eps: float | Tensor, *, norm: float = math.inf,
           method: str = "affine", low: float | None = None, high: float | None = None,
           progress: bool = True) -> Bounds:
    """Bounds of states and outputs for all inputs within ε of those given.

    Each method starts from the bounds of those before it, so that they are nested.

    ============  ================================================================================
    ``norm``      closed form: the sensitivity matrix, or the ball of a monotone model
    ``interval``  interval propagation to its fixed point; models with L·λ_PF(|A|) < 1
    ``affine``    all units relaxed to a line with a width, solved jointly, to a fixed point
    ``lp``        the linear program over the units' polygons, for every unstable unit and output,
                  by dual ascent: what it proves holds wherever it stops
    ============  ================================================================================

    They hold for the exact equilibrium of the model's matrices; the model's own forward pass is
    within its solver's tolerance and its dtype's rounding of that.

    Parameters
    ----------
    model : ImplicitModel
    U : Tensor, shape (m, p)
    eps : float or Tensor
        Radius ε ≥ 0; a tensor broadcasts to U in the ∞-norm, to (m, 1) in the 2-norm.
    norm : float
        Of the inputs' change, 2 or ∞.
    method : {"norm", "interval", "affine", "lp"}
    low, high : float, optional
        In the ∞-norm the range of the data, which no input leaves.
    progress : bool
        Show a bar.

    Returns
    -------
    Bounds
        Interrupted (Ctrl-C), with the samples done so far.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; if no condition for a unique equilibrium holds; if there is
        no such method for the model, with the reason.

    References
    ----------
    El Ghaoui et al. 2021, SIAM J. Math. Data Sci. 3(3):930-958 (norm). Müller et al. 2023, PLDI,
    Abstract interpretation of fixpoint iterators with applications to neural networks (affine
    forms refined at the fixed point). Zhang et al. 2018, NeurIPS, Efficient neural network
    robustness certification with general activation functions, and Xu et al. 2021, ICLR, Fast and
    complete (multipliers found by ascent), both for feed-forward nets.
    """
    system = System.of(model)
    names = stages(system, method)
    ball = Ball.of(system, U, eps, norm, low, high)
    closed, m = Closed(system), len(U)
    (q, n), done, status = system.C.shape, 0, "finished"
    lower, state_lower = (system.C.new_full((m, k), -torch.inf) for k in (q, n))
    upper, state_upper = -lower, -state_lower
    with progress_bar(total=m, progress=progress, desc=f"bounds, {method}") as bar:
        try:
            for part in chunks(system, m):
                known = Enclosure.of(closed, ball[part])
                outputs = Linear.outputs(system, len(known.ball))
                for name in names:
                    for _ in range({"norm": 0, "lp": ROUNDS}.get(name, 1)):
                        known.tighten(name)
                    # Of every stage, since rounding could undo by a digit what is equal in theory.
                    P, (below, above) = known.polygon, known.functions(outputs)
                    lower[part] = torch.maximum(lower[part], below)
                    upper[part] = torch.minimum(upper[part], above)
                    state_lower[part] = torch.maximum(state_lower[part], P.lower)
                    state_upper[part] = torch.minimum(state_upper[part], P.upper)
                done = part.stop
                bar.update(part.stop - part.start)
        except KeyboardInterrupt:
            status = f"interrupted: {done} of {m} samples have bounds"
    return Bounds(lower, upper, state_lower, state_upper, method, status)
