"""A teacher's activations, watched by forward hooks and answered for.

A run sees the argument and the value of each call of some modules. It can also put given values
in the place of theirs: between the activations the teacher is then a map of its input and of
those values, which is what `affine` asks about.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from idl_lab.activations import ACTIVATION_MODULES


class Call(NamedTuple):
    """One call of an activation.

    Attributes
    ----------
    module : torch.nn.Module
    Z, X : Tensor
        Its argument and its value as they were then; anything where the module took or gave
        something else than a tensor.
    """

    module: nn.Module
    Z: Any
    X: Any


class Run(NamedTuple):
    """What a teacher did with a batch.

    Attributes
    ----------
    U : Tensor
        The batch, on the teacher's device.
    calls : dict of str to Call
        In their order, by the name of the module and the number of the call.
    Y : Tensor
        What the teacher gave.
    """

    U: Tensor
    calls: dict[str, Call]
    Y: Any


def activations(teacher: nn.Module) -> dict[str, nn.Module]:
    """The activation modules of a teacher, by name.

    Parameters
    ----------
    teacher : torch.nn.Module
    """
    return {name: module for name, module in teacher.named_modules()
            if issubclass(type_before_parametrizations(module), tuple(ACTIVATION_MODULES))}


class Recorder:
    """Runs a teacher and sees the calls of some of its modules.

    Parameters
    ----------
    teacher : torch.nn.Module
    modules : dict of str to Module
        Those that are watched, by name. A call inside another's call is part of that one.
    """

    def __init__(self, teacher: nn.Module, modules: dict[str, nn.Module]) -> None:
        self.teacher, self.modules = teacher, modules
        self.tensors = dict([*teacher.named_parameters(), *teacher.named_buffers()])
        self.device = next((T.device for T in self.tensors.values()), torch.device("cpu"))
        self.inside = 0  # of how many watched modules the teacher is inside now
        self.constant: set[str] = set()  # calls that are no states
        self._exact = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on, in eval mode; afterwards, also after an error, all as before."""
        modes = [(module, module.training) for module in self.teacher.modules()]
        hooks = []
        try:
            for module, _ in modes:
                # Not eval(): a teacher may have overridden it to keep some of its modules training.
                module.training = False
            for name, module in self.modules.items():
                hooks += [module.register_forward_pre_hook(self._before, with_kwargs=True),
                          module.register_forward_hook(functools.partial(self._after, name))]
            with torch.no_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes:
                module.training = mode

    def run(self, U: Tensor, given: dict[str, Tensor] | None = None) -> Run:
        """The teacher on a batch; inside `watching`.

        Parameters
        ----------
        U : Tensor, shape (m, ...)
        given : dict of str to Tensor, optional
            What the calls of these names give, in the place of their own value.
        """
        self._calls: dict[str, Call] = {}
        self._count: Counter[str] = Counter()
        self._open: list[Any] = []
        self._given, self.inside = given or {}, 0
        U = U.to(self.device)
        # The teacher gets a copy: it may overwrite its input, which is the caller's.
        Y = torch.func.functional_call(self.teacher, self.tensors, (U.clone(),)) if self._exact \
            else self.teacher(U.clone())
        return Run(U, self._calls, Y)

    @contextlib.contextmanager
    def in_float64(self) -> Iterator[None]:
        """Runs with parameters and buffers in float64; the teacher itself keeps its own."""
        own = self.tensors
        self.tensors = {name: T.detach().double() if T.is_floating_point() else T
                        for name, T in own.items()}
        self._exact = True
        try:
            yield
        finally:
            self.tensors, self._exact = own, False

    def rounding(self, run: Run) -> float:
        """The largest ε of the dtypes in use.

        Parameters
        ----------
        run : Run
        """
        tensors = [run.U, run.Y, *(T for call in run.calls.values() for T in (call.Z, call.X)),
                   *self.tensors.values()]
        return max(torch.finfo(T.dtype).eps for T in tensors if T.is_floating_point())

    def leave_out_constants(self, seen: Run) -> Run:
        """Watch no longer the calls on what is no function of the input, such as positive weights.

        Parameters
        ----------
        seen : Run

        Returns
        -------
        Run
            Without those calls.
        """
        m = len(seen.U)
        other = self.run(seen.U[:2] if m > 2 else torch.cat([seen.U, seen.U]))
        for name, call in seen.calls.items():
            again = other.calls.get(name)
            # What depends on the input has a row for each sample, and so another shape.
            if again and isinstance(call.Z, Tensor) and isinstance(again.Z, Tensor) \
                    and again.Z.shape == call.Z.shape and torch.equal(again.Z, call.Z):
                self.constant.add(name)
        return seen._replace(calls={name: call for name, call in seen.calls.items()
                                    if name not in self.constant})

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.inside += 1
        given = [*args, *kwargs.values()]
        # A later layer may overwrite argument and value, so both are copied.
        self._open.append(given[0].clone() if given and isinstance(given[0], Tensor) else None)

    def _after(self, name: str, module: nn.Module, args: tuple, value: Any) -> None:
        Z = self._open.pop()
        if not self._open:
            self._count[name] += 1
            again = f", call {n}" if (n := self._count[name]) > 1 else ""
            kind = type_before_parametrizations(module).__name__
            call = f"{name or 'the network'} ({kind}{again})"
            if call in self._given:
                # Written into the value, so that what shares its memory, as the argument of
                # ReLU(inplace=True) does, changes as it does when the module runs by itself.
                value.copy_(self._given[call])
            if call not in self.constant:
                self._calls[call] = Call(module, Z, value.clone() if isinstance(value, Tensor)
                                         else value)
        self.inside -= 1
