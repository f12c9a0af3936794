"""EquilibriumLayer: the fixed point of any torch module, as a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.equilibrium import Adjoint, Implicit, check_adjoint, solve_map
from idl_lab.extras import full_precision, never_compiled, transforms, under_vmap
from idl_lab.fixed_point import Anderson, Solver, check_solver
from idl_lab.fixed_point.solution import Solution
from idl_lab.layer.function_map import FunctionMap


class EquilibriumLayer(nn.Module):
    """z = f(z, u) for any torch module f, of any state shape: a deep equilibrium layer.

    The forward pass is a solve; gradients to f's parameters and to u come from the adjoint
    equation with f's own vector–Jacobian product, at a memory that does not grow with the steps.
    Nothing here makes f contract: see to it (`jacobian_penalty` helps), and read the warnings.

    Parameters
    ----------
    f : torch.nn.Module
        Called as ``f(z, *u)``; gives a tensor of z's shape, each sample (the first axis) on its
        own, the same at every call.
    solver : Solver
        Any but `PeacemanRachford`; Newton's method is for few states.
    adjoint : Implicit, Unrolled, Neumann, OneStep or Phantom
        How gradients are taken.
    state_shape : sequence of int, optional
        Of one sample's state; by default that of the first input.
    batched : bool
        False where the state is one whole, as the nodes of a graph are: it has no sample axis.

    Raises
    ------
    TypeError, ValueError
        If f is no module, or an option is none.

    References
    ----------
    Bai, Kolter, Koltun 2019, Deep Equilibrium Models, arXiv 1909.01377.
    """

    def __init__(self, f: nn.Module, *, solver: Solver = Anderson(), adjoint: Adjoint = Implicit(),
                 state_shape: Sequence[int] | None = None, batched: bool = True) -> None:
        super().__init__()
        if not isinstance(f, nn.Module):
            raise TypeError(f"f must be a torch.nn.Module, so that its parameters are known, got "
                            f"{f!r}: wrap a function in a module.")
        self.f, self.solver, self.adjoint = f, check_solver(solver), check_adjoint(adjoint)
        self.state_shape = None if state_shape is None else tuple(
            validation.integer("state_shape", size) for size in state_shape)
        self.batched = batched
        self._last: tuple[Tensor, ...] = ()
        self._tried: tuple[bool, ...] | None = None  # f in these modes; Dropout goes by them

    def forward(self, *u: Tensor, z0: Tensor | None = None) -> Tensor:
        """The equilibrium z of the inputs u.

        Parameters
        ----------
        *u : Tensor
            What f takes beside z; the first axis is the sample's, unless ``batched`` is False.
        z0 : Tensor, optional
            Where the solve starts, such as the last solution of the same batch; zero by default.

        Returns
        -------
        Tensor
            Of the state's shape.

        Raises
        ------
        TypeError, ValueError
            As `equilibrium`.
        """
        return self.equilibrium(*u, z0=z0).value

    @never_compiled
    def equilibrium(self, *u: Tensor, z0: Tensor | None = None, keep_states: bool = False,
                    throw: bool = False) -> Solution:
        """The equilibrium and how it was found.

        Parameters
        ----------
        *u, z0
            As for `forward`.
        keep_states : bool
            Keep every iterate, flat, in ``trace.states``.
        throw : bool
            Raise `ConvergenceError` instead of warning when the solve stops early.

        Returns
        -------
        Solution
            ``value`` has the state's shape and carries gradients; figures are one a sample.

        Raises
        ------
        TypeError, ValueError
            If an input is none, of another dtype than f or not finite, or f does not map a state
            to one, is random, keeps something between calls, or uses a foreign parameter.
        ConvergenceError
            With ``throw``, if some sample did not converge.
        """
        self._check(u)
        dtype = u[0].dtype
        exact = torch.promote_types(dtype, torch.float32)  # 16 bits are solved in float32

        def taken(T: Tensor) -> Tensor:
            return T.to(exact) if T.is_floating_point() else T

        names = [name for name, _ in self.f.named_parameters()]
        buffers = {name: taken(T) for name, T in self.f.named_buffers()}
        theta = [taken(T) for T in self.f.parameters()]
        inputs = [taken(T) if self.batched or not T.is_floating_point() else taken(T)[None]
                  for T in u]
        followed = [k for k, T in enumerate(u)
                    if T.is_floating_point() and T.layout == torch.strided]
        # Without those: f is kept for `jacobian_penalty`, and would keep the graphs behind them.
        others = [None if k in followed else T for k, T in enumerate(inputs)]

        def f(z: Tensor, *tensors: Tensor) -> Tensor:
            given = list(others)
            for k, T in zip(followed, tensors[len(names):], strict=True):
                given[k] = T if self.batched else T[0]
            own = dict(zip(names, tensors, strict=False)) | buffers
            fz = torch.func.functional_call(self.f, own, (z if self.batched else z[0], *given))
            if getattr(fz, "shape", None) != z.shape[1 - self.batched:] or fz.dtype != exact:
                got = (tuple(fz.shape), fz.dtype) if isinstance(fz, Tensor) else fz
                raise ValueError(f"f must give a state of shape {tuple(z.shape[1 - self.batched:])}"
                                 f" and {exact}, as the one given, got {got}.")
            return fz if self.batched else fz[None]

        tensors = (*theta, *(inputs[k] for k in followed))
        shape = self.state_shape or u[0].shape[self.batched:]
        with full_precision(u[0]):
            mapping = FunctionMap(f, tensors, len(theta), shape)
            if z0 is not None:
                validation.tensor("z0", z0, like=u[0])
                wanted = (*u[0].shape[:self.batched], *shape)
                if z0.shape != wanted:
                    raise ValueError(f"z0 must have shape {wanted}, got {tuple(z0.shape)}.")
                z0 = taken(z0.detach()).reshape(mapping.zero().shape)
            modes = tuple(module.training for module in self.f.modules())
            if not (modes == self._tried or transforms() or torch.jit.is_tracing()):
                _try(mapping, list(buffers.values()))
                self._tried = modes
            solution = solve_map(mapping, z0, self.solver, self.adjoint, keep_states, throw)
        value = solution.value.reshape(*u[0].shape[:self.batched], *shape)
        if self.training and not under_vmap():
            self._last = (f, solution.value.detach().reshape(-1, *shape), *theta,
                          *(T.detach() for T in tensors[len(theta):]))
        return replace(solution, value=value.to(dtype))

    def _check(self, u: tuple[Tensor, ...]) -> None:
        if not u:
            raise TypeError("an equilibrium needs an input beside z, got none.")
        validation.tensor("u", u[0])
        for k, T in enumerate(u[1:], start=1):
            if not isinstance(T, Tensor):
                raise TypeError(f"input {k} of f must be a torch.Tensor, got {type(T).__name__}.")
            if T.is_floating_point() and T.layout == torch.strided:
                validation.tensor(f"input {k} of f", T, like=u[0])
                if self.batched and T.shape[:1] != u[0].shape[:1]:
                    raise ValueError(f"input {k} of f must have the {u[0].shape[0]} samples of the "
                                     f"first one as its first axis, got shape {tuple(T.shape)}; "
                                     f"what all samples share belongs in f, as a buffer.")
        exact = torch.promote_types(u[0].dtype, torch.float32)
        for name, T in self.f.named_parameters():
            if T.is_floating_point() and torch.promote_types(T.dtype, torch.float32) != exact:
                raise TypeError(f"f's parameter {name} is {T.dtype} and the input {u[0].dtype}: "
                                f"convert one of them with .to(dtype).")
        if self.batched and u[0].dim() < 2:
            raise ValueError(f"u must have a sample axis and one more, got shape "
                             f"{tuple(u[0].shape)}; batched=False is for a state without samples.")

    def jacobian_penalty(self, generator: torch.Generator | None = None) -> Tensor:
        """‖∂f/∂z‖²_F / n at the last solution of a forward pass in training, by one random vector.

        Added to the loss with a small weight it keeps f contracting. Hutchinson's estimate
        E‖Jᵀv‖² = ‖J‖²_F over v ~ N(0, I), the mean over the batch; differentiable in f's
        parameters, the solution being held fixed.

        Parameters
        ----------
        generator : torch.Generator, optional
            Draws v; torch's global one by default.

        Raises
        ------
        RuntimeError
            If there was no forward pass in training mode.

        References
        ----------
        Bai, Koltun, Kolter 2021, Stabilizing Equilibrium Models by Jacobian Regularization,
        arXiv 2106.14342.
        """
        if not self._last:
            raise RuntimeError("jacobian_penalty is of the last forward pass in training mode, "
                               "and there was none.")
        f, z, *tensors = self._last
        v = torch.empty_like(z, device=getattr(generator, "device", z.device))
        v = v.normal_(generator=generator).to(z.device)
        z = z.requires_grad_()
        (Jv,) = torch.autograd.grad(f(z, *tensors), z, v, create_graph=True, materialize_grads=True)
        return Jv.square().sum() / z.numel()

    def __getstate__(self) -> dict:
        # What the last pass left is no part of a copy or a file, which could not hold it.
        return self.__dict__ | {"_last": ()}


def _try(f: FunctionMap, buffers: Sequence[Tensor]) -> None:
    """Refuse an f whose equilibrium would be none, or would silently have no gradient."""
    # Not at zero, which Dropout leaves alone.
    z, tensors = torch.ones_like(f.zero()).reshape(-1, *f.shape), [T.detach() for T in f.tensors]
    if f.shape and not f.tensors[f.shared].shape[0]:
        return
    versions = [T._version for T in buffers]
    with torch.enable_grad():
        once, again = f.f(z, *tensors), f.f(z, *tensors)
    if once.requires_grad:
        raise ValueError("f uses a parameter that is not its own, which would get no gradient: "
                         "register it in f, or give it as an input.")
    if versions != [T._version for T in buffers]:
        raise ValueError("f changes a buffer whenever it is called, as BatchNorm in training does: "
                         "a solve calls it many times; use GroupNorm or LayerNorm, or eval mode.")
    if not torch.allclose(once, again, rtol=1e-3, atol=1e-6, equal_nan=True):
        raise ValueError("f must give the same state every time, and did not, as with Dropout in "
                         "training: an equilibrium is that of one map.")
