"""A training step as a CUDA graph: recorded once, replayed for each batch, watched from afar.

On a GPU a step of a small model is bound by the launches of its kernels and by the host's waits
for what they compute. A graph has one launch and no wait. A solve then takes a fixed number of
steps; whether they were enough is read two batches later, when it has long arrived.
"""

from __future__ import annotations

import collections
import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.unwatched import Unwatched

LAG = 2  # batches after which a residual is read
# Times its tolerance that a residual may be without a warning. The first steps of every training
# are short by a little: the weights move fast, and the solves grow with them two batches later.
MUCH = 10
MOST = 500  # steps of a solve in a graph: one that needs more is left to a solver that tests
Step = Callable[..., list[Tensor]]
Recorded = tuple[Callable[[], object], tuple[list[Tensor], Tensor | None]]


def hindrance(model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Why a model's training step cannot be captured, or None.

    What only its first run tells, such as a forward pass that reads a number, is not known here.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    """
    if not all(p.is_cuda for p in model.parameters()):
        return "the model is not on a CUDA device"
    if not isinstance(optimizer, torch.optim.SGD) and not all(
            group.get("capturable") for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} was not made with capturable=True"
    return hooks(model, optimizer)


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Whose hooks a replay would leave out, since it runs no Python, or None.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    """
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks"
    for name, module in model.named_modules():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, kind) for kind in kinds):
            return f"{name or 'the model'} has hooks"
    for name, p in model.named_parameters():
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            return f"{name} has hooks"
    return None


@functools.cache
def _aside(device: int) -> torch.cuda.Stream:
    """The stream on which steps are taken before they are captured, and then captured.

    One for both: a layer may keep what it began in one step for the next, and torch would find
    that on a stream that is not the capture's.
    """
    return torch.cuda.Stream(device)


def as_cuda_graph(body: Callable[[], Any]) -> Recorded:
    """Record what a function does on the device, without doing it; what it returns is rewritten
    by each replay.

    Parameters
    ----------
    body : callable

    Raises
    ------
    RuntimeError
        If it waits for the device, or does something else that no graph can hold.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=_aside(torch.cuda.current_device())):
        out = body()
    return graph.replay, out


class Captured:
    """A training step, replayed from a graph for batches of the first one's shape.

    The first batch is taken by the step itself, on a stream of its own, as CUDA asks of what is
    to be captured; so are batches of other shapes, and all of them once the step turns out not to
    be capturable.

    Parameters
    ----------
    step : callable
        Of (U, target) and ``count``, whether to look at labels, which waits: forward, loss,
        backward and update; gives numbers that are left on the device.
    optimizer : torch.optim.Optimizer
        Whose settings are part of what is recorded: where they change it is recorded anew.
    check : callable
        Of a target: what the step does with ``count``, on its own.
    record : callable
        `as_cuda_graph`, or a stand-in.

    Attributes
    ----------
    replayed, recorded, short : int
        Steps that were replayed; how often one was recorded; replayed steps seen to be short of a
        solver's tolerance.
    failure : Exception or None
        Why nothing is captured any more.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer,
                 check: Callable[[Tensor], None] = lambda target: None,
                 record: Callable[[Callable], Recorded] = as_cuda_graph) -> None:
        self.step, self.optimizer, self.check, self.record = step, optimizer, check, record
        self.unwatched = Unwatched()
        self.replayed = self.recorded = self.short = 0
        self.failure: Exception | None = None
        self._given: tuple[Tensor, Tensor] | None = None  # what the graph reads
        self._settings: list = []
        self._replay: Callable[[], object] | None = None
        self._sent: collections.deque[tuple[Tensor, Any]] = collections.deque()
        self._far, self._worst = 0, 0.0  # of the short ones since the last report

    def __call__(self, U: Tensor, target: Tensor) -> list[Tensor]:
        """Take the step of one batch.

        Parameters
        ----------
        U, target : Tensor

        Returns
        -------
        list of Tensor
            What the step gives.
        """
        self._look(LAG - 1)
        if self.failure is None and self._given is None and isinstance(U, Tensor):
            self._given = U.clone(), target.clone()
            return self._apart(U, target)
        if self.failure or self._given is None or not _alike(self._given, (U, target)):
            return self._apart(U, target)
        if self._settings != (settings := _settings(self.optimizer)):
            self._replay, self._settings = None, settings
        if self._replay is None and not self._record():
            return self._apart(U, target)
        self.check(target)
        for held, new in zip(self._given, (U, target), strict=True):
            held.copy_(new)
        self._replay()
        self.replayed += 1
        numbers, worst = self._out
        if worst is not None:
            host = torch.empty(worst.shape, dtype=worst.dtype, device="cpu",
                               pin_memory=worst.is_cuda)
            host.copy_(worst, non_blocking=True)
            arrived = None
            if worst.is_cuda:
                arrived = torch.cuda.Event()
                arrived.record()
            self._sent.append((host, arrived))
        return [number.clone() for number in numbers]

    def report(self) -> None:
        """Warn of the steps since the last report that were far from a solver's tolerance.

        Warns
        -----
        ConvergenceWarning
            If a residual was more than `MUCH` times its tolerance.
        """
        self._look(0)
        if self._far:
            steps = ", ".join(map(str, self.unwatched.steps))
            warnings.warn(f"{self._far} captured training steps were short of a solver's "
                          f"tolerance, by a factor of up to {self._worst:.3g}; the solves take "
                          f"{steps} steps by now.", ConvergenceWarning, stacklevel=3)
        self._far, self._worst = 0, 0.0

    def _record(self) -> bool:
        try:
            self._replay, self._out = self.record(self._body)
            self.recorded += 1
        except RuntimeError as error:
            # The frames of its traceback would keep what was begun on the capture's stream, and
            # torch would warn of that in every later step.
            self.failure = error.with_traceback(None)
        return self.failure is None

    def _body(self) -> tuple[list[Tensor], Tensor | None]:
        with self.unwatched.pass_through():
            numbers = self.step(*self._given, count=False)
        worst = self.unwatched.worst
        return numbers, torch.stack([w.float() for w in worst]) if worst else None

    def _apart(self, U: Tensor, target: Tensor) -> list[Tensor]:
        if not target.is_cuda:
            return self.step(U, target)
        stream = _aside(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            numbers = self.step(U, target)
        torch.cuda.current_stream().wait_stream(stream)
        return numbers

    def _look(self, newest: int) -> None:
        """Read the residuals of all but the newest steps; record anew where one was short."""
        short: set[int] = set()
        while len(self._sent) > (0 if short else newest):
            host, arrived = self._sent.popleft()
            if arrived is not None:
                arrived.synchronize()
            worst = host.tolist()
            if found := {k for k, w in enumerate(worst) if not w <= 1}:
                self.short += 1
                self._far += not all(worst[k] <= MUCH for k in found)  # NaN is far too
                self._worst = max(self._worst, *(worst[k] for k in found))
                short |= found
        if short:
            self.unwatched.grow(short)
            self._replay = None
            if max(self.unwatched.steps) > MOST:
                self.failure = RuntimeError(f"a solve needs more than {MOST} steps")


def _alike(held: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> bool:
    return all(isinstance(new, Tensor) and old.shape == new.shape and old.dtype == new.dtype
               for old, new in zip(held, given, strict=True))


def _settings(optimizer: torch.optim.Optimizer) -> list:
    """What a graph holds as numbers; a tensor, such as lr may be, it reads each time."""
    return [(key, id(value) if isinstance(value, Tensor) else value)
            for key, value in itertools.chain.from_iterable(
                group.items() for group in optimizer.param_groups) if key != "params"]
