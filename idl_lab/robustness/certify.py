"""Certificates: samples whose class no input of a ball around them can change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.bar import progress_bar
from idl_lab.model import ImplicitModel
from idl_lab.networks.blocks import parts
from idl_lab.robustness.attack import check_labels, margins, pgd
from idl_lab.robustness.bound import Linear
from idl_lab.robustness.bounds import METHODS, ROUNDS, Enclosure, chunks, stages
from idl_lab.robustness.branch import branch
from idl_lab.robustness.closed import Closed
from idl_lab.robustness.relaxation import kinks_of
from idl_lab.robustness.system import Ball, System, double


@dataclass(frozen=True)
class Certificates:
    """What is proven of each of m samples.

    Attributes
    ----------
    certified : Tensor of bool, shape (m,)
        The label's score is the largest for every input of the ball.
    margin : Tensor, shape (m,), float64
        A lower bound of the label's score less the largest other over the ball.
    correct : Tensor of bool, shape (m,)
        Whether it is the largest at the input itself.
    broken : Tensor of bool, shape (m,)
        An attack found an input of the ball with another class (before branching; elsewhere
        False says nothing).
    method : tuple of str
        What certified each sample, "" where nothing did.
    nodes : Tensor of int64, shape (m,)
        Of its branch and bound.
    seconds : dict of str to float
        Of each method, all samples together.
    status : str
        "finished", or that it was interrupted: what is certified stays proven.
    """

    certified: Tensor
    margin: Tensor
    correct: Tensor
    broken: Tensor
    method: tuple[str, ...]
    nodes: Tensor
    seconds: dict[str, float]
    status: str


@torch.no_grad()
def certify(model: ImplicitModel, U: Tensor, labels: Tensor, eps: float | Tensor, *,
            norm: float = math.inf, method: str = "auto", low: float | None = None,
            high: float | None = None, nodes: int = 500, progress: bool = True) -> Certificates:
    """Prove for which samples no change within ε makes another class the winner.

    The differences ŷ_label − ŷ_j are bounded themselves, by one method of `bounds` after the
    other, each on the samples that are left. "branch" then attacks those by PGD and splits the
    unstable units of the ones that survive: with enough nodes it decides each of them.

    Parameters
    ----------
    model : ImplicitModel
    U : Tensor, shape (m, p)
    labels : Tensor of int64, shape (m,)
    eps, norm, low, high
        As for `bounds`.
    method : {"auto", "norm", "interval", "affine", "lp", "branch"}
        The last that is used; "auto" uses all that there are for the model.
    nodes : int
        Of the branch and bound of one sample at most.
    progress : bool
        Show a bar.

    Returns
    -------
    Certificates
        Interrupted (Ctrl-C), with what was proven so far.

    Raises
    ------
    TypeError, ValueError
        As `bounds`; for "branch" if φ bends elsewhere than at 0.
    """
    system = System.of(model)
    validation.choice("method", method, ("auto", *METHODS, "branch"))
    splits = all(kinks_of(phi) in ((0.0,), ()) for phi, _ in parts(system.phi, len(system.A)))
    if method == "branch" and not splits:
        raise ValueError(f"method='branch' splits units at 0 and needs a φ that is linear on both "
                         f"sides, such as ReLU, got {system.phi.name!r}; 'lp' holds for it.")
    names = stages(system, "lp" if method in ("auto", "branch") else method)
    names += ["lp"] * (ROUNDS - 1) * ("lp" in names)
    ball = Ball.of(system, U, eps, norm, low, high)
    check_labels(labels, len(U))
    nodes = validation.integer("nodes", nodes)
    run = _Run(system, ball, labels.to(ball.center.device), double(U).to(ball.center.device))

    def attack(left: Tensor) -> Tensor:
        some = left.to(U.device)
        radius = eps
        if isinstance(eps, Tensor):
            radius = eps.expand((len(U), 1) if norm == 2 else U.shape)[some]
            radius = radius[:, 0] if norm == 2 else radius
        return pgd(model, U[some], labels[some], radius, norm=norm, low=low, high=high,
                   progress=False, raising=True)

    status = "finished"
    with progress_bar(total=len(U), progress=progress, desc="certify") as bar:
        try:
            for part in chunks(system, len(U)):
                known = run.bounded(part, names)
                if splits and method in ("auto", "branch") and len(known.ball):
                    run.branched(known, nodes, attack)
                bar.update(part.stop - part.start)
        except KeyboardInterrupt:
            status = f"interrupted: {int(run.certified.sum())} of {len(U)} samples are certified"
    return Certificates(run.certified, run.margin, run.correct, run.broken, tuple(run.method),
                        run.nodes, run.seconds, status)


class _Run:
    """The tables that are filled in, chunk by chunk and method by method."""

    def __init__(self, system: System, ball: Ball, labels: Tensor, U: Tensor) -> None:
        m = len(ball)
        self.closed, self.ball, self.labels = Closed(system), ball, labels
        self.margin = system.C.new_full((m,), -torch.inf)
        self.certified, self.broken = torch.zeros(
            2, m, dtype=torch.bool, device=system.C.device)
        scores = system.state(U) @ system.C.mT + U @ system.D.mT + system.c
        self.correct = margins(scores, labels) > 0
        self.nodes = torch.zeros(m, dtype=torch.int64, device=system.C.device)
        self.method, self.seconds = [""] * m, {}
        self.left = torch.arange(0)  # the samples of the chunk that are not certified yet

    def _prove(self, margin: Tensor, name: str) -> Tensor:
        """Note margins of the samples that are left; which of these are not certified."""
        self.margin[self.left] = torch.maximum(self.margin[self.left], margin)
        won = margin > 0
        self.certified[self.left[won]] = True
        for k in self.left[won].tolist():
            self.method[k] = name
        return ~won

    def bounded(self, part: slice, names: list[str]) -> Enclosure:
        """One method after the other; what is known of the samples that are left then."""
        start, system = time.perf_counter(), self.closed.system
        self.left = torch.arange(part.start, part.stop, device=self.labels.device)
        known = Enclosure.of(self.closed, self.ball[part])
        f = Linear(*system.differences(self.labels[part]))
        for name in names:
            if name != "norm":
                known.tighten(name)
            keep = self._prove(known.functions(f)[0].amin(-1), name)
            self.left, known, f = self.left[keep], known[keep], f[keep]
            now = time.perf_counter()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - start
            start = now
            if not len(self.left):
                break
        return known

    def branched(self, known: Enclosure, nodes: int, attack: Callable[[Tensor], Tensor]) -> None:
        """Attack the samples that are left, and split the units of those that survive."""
        start, system = time.perf_counter(), self.closed.system
        V = double(attack(self.left)).to(self.ball.center.device)
        scores = system.state(V) @ system.C.mT + V @ system.D.mT + system.c
        self.broken[self.left] = margins(scores, self.labels[self.left]) < 0
        f = Linear(*system.differences(self.labels[self.left]))
        for k in torch.nonzero(~self.broken[self.left])[:, 0].tolist():
            one, sample = slice(k, k + 1), self.left[k]
            self.margin[sample], self.nodes[sample] = branch(
                system, known.ball[one], f[one], known.lower[one], known.upper[one], nodes,
                float(self.margin[sample]))
            if self.margin[sample] > 0:
                self.certified[sample], self.method[int(sample)] = True, "branch"
        self.seconds["branch"] = self.seconds.get("branch", 0.0) + time.perf_counter() - start
