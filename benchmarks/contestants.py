"""The same model on every package: x = relu(Ax + Bu), ŷ = Cx + Du, A scaled into ‖A‖∞ ≤ κ.

Each is built from the same matrices and two tolerances, forward and backward, whose meaning is
the package's own: `make bench` finds for each of them those that give the gradient wanted.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.byhand import State
from idl_lab.equilibrium import Implicit
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.model import ImplicitModel
from idl_lab.unwatched import Unwatched

OURS = "idl_lab"
KAPPA = 0.99
_LONGEST = 300


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One package's way to take a training step.

    Attributes
    ----------
    build : callable
        (state, forward tolerance, backward tolerance) to a module.
    tuned : bool
        Whether the tolerances count; a package's defaults and an explicit network have none.
    low_rank : bool
        Whether A = L Rᵀ by its factors is possible.
    straight : bool
        Whether the gradient leaves the constraint's factor out, as torchidl's does.
    passes : int
        How often it sees the batches before it is judged.
    """

    build: Callable[[State, float, float], nn.Module]
    tuned: bool = True
    low_rank: bool = False
    straight: bool = False
    passes: int = 1


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    """A model's parameter by the name of its matrix, whatever the package calls it.

    Parameters
    ----------
    model : torch.nn.Module
    name : str
        Such as "A".
    """
    return dict(model.named_parameters())[f"free_{name}" if hasattr(model, f"free_{name}")
                                          else name]


# ---- this project ---------------------------------------------------------------------------


class Package(NamedTuple):
    """What is used of this project, of this checkout or of another."""

    ImplicitModel: type
    Implicit: type
    Picard: type
    Anderson: type


THIS = Package(ImplicitModel, Implicit, Picard, Anderson)


def checkout(folder: Path) -> Package:
    """Another checkout of this project, beside the one that runs.

    Parameters
    ----------
    folder : path
        Its root.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError
        If there is no such folder, or no idl_lab in it.
    """
    folder = folder.resolve(strict=True)
    ours = {name: sys.modules.pop(name) for name in list(sys.modules)
            if name.partition(".")[0] == OURS}
    sys.path.insert(0, str(folder))
    try:
        model, equilibrium, solvers = (importlib.import_module(f"{OURS}.{name}") for name in (
            "model", "equilibrium", "fixed_point"))
        if not Path(model.__file__).is_relative_to(folder):
            raise ModuleNotFoundError(f"there is no {OURS} in {folder}.", name=OURS)
        return Package(model.ImplicitModel, equilibrium.Implicit, solvers.Picard,
                       solvers.Anderson)
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.partition(".")[0] == OURS]:
            del sys.modules[name]
        sys.modules.update(ours)


def ours(package: Package = THIS, solver: str = "", **options: int) -> Contestant:
    """ImplicitModel on a solver, forward and backward; without one as it comes.

    Parameters
    ----------
    package : Package
    solver : str
        "Picard" or "Anderson".
    **options
        Of the solver.
    """
    def build(state: State, ahead: float, back: float) -> nn.Module:
        (n, p), q = state["B"].shape, len(state["C"])
        rank = state["L"].shape[1] if "L" in state else None
        at = {} if not solver else {
            "solver": getattr(package, solver)(ahead, **options),
            "adjoint": package.Implicit(getattr(package, solver)(back, **options))}
        model = package.ImplicitModel(p, q, n, rank=rank, kappa=KAPPA, **at)
        with torch.no_grad():
            for name, M in state.items():
                parameter(model, name).copy_(M)
        return model

    return Contestant(build, tuned=bool(solver), low_rank=True)


class _Untested(nn.Module):
    """Solves of a number of steps that grows where the residual of the batch before was too large.

    That residual is read one batch late, so the host waits for nothing: what `fit` captures as a
    CUDA graph, here without the graph.
    """

    def __init__(self, state: State, ahead: float, back: float) -> None:
        super().__init__()
        self.model = ours(solver="Picard").build(state, ahead, back)
        self.watch = Unwatched()
        self.A, self.B, self.C, self.D = (parameter(self.model, name) for name in "ABCD")

    def forward(self, U: Tensor) -> Tensor:
        late = torch.stack(self.watch.worst).tolist() if self.watch.worst else []
        self.watch.grow(k for k, worst in enumerate(late) if not worst <= 1)
        with self.watch.pass_through():
            return self.model(U)


# ---- peers ----------------------------------------------------------------------------------


def _torchidl(state: State, ahead: float, back: float) -> nn.Module:
    import torchidl

    (n, p), q = state["B"].shape, len(state["C"])
    rank = state["L"].shape[1] if "L" in state else None
    # Its tolerances are those of the model that was built last.
    model = torchidl.ImplicitModel(p, q, n, kappa=KAPPA, tol=ahead, grad_tol=back, mitr=_LONGEST,
                                   grad_mitr=_LONGEST, is_low_rank=rank is not None, rank=rank)
    model.load_state_dict(state)
    return model


class _Peer(nn.Module):
    """The model around another package's solve."""

    def __init__(self, state: State, ahead: float, back: float, kind: str) -> None:
        super().__init__()
        for name, M in state.items():
            setattr(self, name, nn.Parameter(M.clone()))
        self.ahead, self.back, self.kind = ahead, back, kind

    def forward(self, U: Tensor) -> Tensor:
        A = self.A * (KAPPA / self.A.abs().sum(dim=1).amax()).clamp(max=1)
        return self.solve(A, U @ self.B.mT) @ self.C.mT + U @ self.D.mT

    def solve(self, A: Tensor, b: Tensor) -> Tensor:
        """X (m, n) of X = relu(X Aᵀ + b), with its gradient."""
        raise NotImplementedError


class _TorchDEQ(_Peer):
    """torchdeq's solver and implicit gradient."""

    def __init__(self, state: State, ahead: float, back: float, kind: str) -> None:
        super().__init__(state, ahead, back, kind)
        from torchdeq import get_deq

        # Its time grows with the limit, whether so many steps are taken or not.
        longest = 60 if kind == "fixed_point_iter" else _LONGEST
        self.deq = get_deq(f_solver=kind, b_solver=kind, f_tol=ahead, b_tol=back, ift=True,
                           f_max_iter=longest, b_max_iter=longest)

    def solve(self, A: Tensor, b: Tensor) -> Tensor:
        return self.deq(lambda x: torch.relu(x @ A.mT + b), torch.zeros_like(b))[0][-1]


class _SILVA(_Peer):
    """silva-networks' solver with its implicit gradient; ``kind`` is "picard" or "anderson"."""

    def solve(self, A: Tensor, b: Tensor) -> Tensor:
        from silva_networks.solvers import SolverConfig, solve_equilibrium

        settings = SolverConfig(
            solver=self.kind, tol=self.ahead, max_iter=_LONGEST, anderson_batch_dims=1,
            backward_mode="implicit", backward_tol=self.back, backward_max_iter=_LONGEST,
            # Its Anderson takes all samples of a backward solve for one; GMRES is its default.
            backward_solver="picard" if self.kind == "picard" else "gmres")
        return solve_equilibrium(lambda x: torch.relu(x @ A.mT + b), torch.zeros_like(b),
                                 settings, tensors=(A, b)).z


class _MonDEQ(_Peer):
    """Splitting methods for x = relu(Ax + b) with their backward solves, at α = 1.

    Algorithms 1 to 3 of Winston and Kolter 2020, arXiv 2006.08591, from their equations, with the
    stopping rule of their code: ‖x⁺ − x‖ ≤ tol ‖x⁺‖ over the whole batch. At α = 1
    forward-backward splitting is Picard iteration.
    """

    def solve(self, A: Tensor, b: Tensor) -> Tensor:
        peaceman = self.kind == "peaceman-rachford"
        with torch.no_grad():
            eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
            M = torch.linalg.inv(2 * eye - A) if peaceman else A  # (I + α(I − A))⁻¹
            x = _split(M, b, torch.relu, self.ahead, peaceman)
        # One step more carries the gradients to A and b.
        return _Attach.apply(torch.relu(x @ A.mT + b), A, M, self.back, peaceman)


def _split(M: Tensor, b: Tensor, prox: Callable[[Tensor], Tensor], tol: float, peaceman: bool
           ) -> Tensor:
    """x = prox(x Mᵀ + b), or by Peaceman–Rachford with the inverse M."""
    x = u = torch.zeros_like(b)
    for _ in range(_LONGEST):
        if peaceman:
            y = 2 * x - u
            u = 2 * ((y + b) @ M.mT) - y
        else:
            u = x @ M.mT + b
        following = prox(u)
        done = float((following - x).norm()) <= tol * (1e-6 + float(following.norm()))
        x = following
        if done:
            break
    return x


class _Attach(torch.autograd.Function):
    """The gradient g at the equilibrium becomes (I − ΔA)⁻ᵀ g before that step's own."""

    @staticmethod
    def forward(ctx, X: Tensor, A: Tensor, M: Tensor, tol: float, peaceman: bool) -> Tensor:
        ctx.save_for_backward(X, A, M)
        ctx.rest = tol, peaceman
        return X.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        X, A, M = ctx.saved_tensors
        tol, peaceman = ctx.rest
        slope = X.sign()
        if peaceman:
            v = slope * g
            u = _split(M.mT, torch.zeros_like(v), lambda w: slope * (w + v), tol, True)
        else:
            u = _split(M.mT, g, lambda w: slope * w, tol, False)
        return g + u @ A, None, None, None, None


# ---- all of them ----------------------------------------------------------------------------


class _Explicit(nn.Sequential):
    """A network of as many hidden units in two layers, for scale; the matrices are its own."""

    def __init__(self, state: State, *tolerances: float) -> None:
        (n, p), q = state["B"].shape, len(state["C"])
        super().__init__(nn.Linear(p, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, q))


def _of(kind: type[_Peer], name: str) -> Contestant:
    return Contestant(lambda state, ahead, back: kind(state, ahead, back, name))


CONTESTANTS: dict[str, Contestant] = {
    "torchidl": Contestant(_torchidl, low_rank=True, straight=True),
    OURS: ours(solver="Picard"),
    f"{OURS}, Anderson": ours(solver="Anderson", window=2),
    f"{OURS}, untested steps": Contestant(_Untested, passes=4),
    f"{OURS}, as it comes": ours(),
    "torchdeq": _of(_TorchDEQ, "fixed_point_iter"),
    "torchdeq, Anderson": _of(_TorchDEQ, "anderson"),
    "silva-networks": _of(_SILVA, "picard"),
    "silva-networks, Anderson and GMRES": _of(_SILVA, "anderson"),
    "monDEQ, forward-backward": _of(_MonDEQ, "forward-backward"),
    "monDEQ, Peaceman-Rachford": _of(_MonDEQ, "peaceman-rachford"),
    "explicit network": Contestant(_Explicit, tuned=False),
}


def before(folder: Path) -> dict[str, Contestant]:
    """Contestants of another checkout of this project, such as the one before a change.

    Parameters
    ----------
    folder : path
    """
    package = checkout(folder)
    return {f"{OURS} before": ours(package, "Picard"), f"{OURS} before, as it comes": ours(package)}
