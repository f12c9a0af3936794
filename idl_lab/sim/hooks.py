"""A teacher, watched: the argument and the value of each of its activations on data.

Forward hooks on activation modules see what they take and give; whatever they would miss is
refused. The teacher is left as it was found.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from idl_lab import validation
from idl_lab.activations import ACTIVATION_MODULES, activation
from idl_lab.bar import progress_bar
from idl_lab.networks import Block

_TORCH = Path(torch.__file__).parent
# torch's elementwise nonlinear operations: outside a hooked module they are activations unseen.
_NONLINEAR = frozenset(
    "relu leaky_relu elu gelu silu mish softplus hardtanh hardswish hardsigmoid sigmoid tanh "
    "threshold _prelu_kernel rrelu_with_noise log_sigmoid_forward softshrink hardshrink clamp "
    "clamp_min clamp_max maximum minimum sin cos exp abs erf sinh cosh atan mkldnn_rnn_layer "
    "_transformer_encoder_layer_fwd".split())

# Of the teacher's dtype, in one activation: its kernels differ from float64's by a few roundings.
KERNEL_ROUNDINGS = 64

Batches = Iterable[Any]


class States(NamedTuple):
    """A teacher's states on m samples, the last layer's first.

    Attributes
    ----------
    U : Tensor, shape (m, p)
        The inputs, flattened.
    Z, X : Tensor, shape (m, n)
        Pre-activations and activations, X = φ(Z).
    Y : Tensor, shape (m, q)
        The outputs, flattened.
    """

    U: Tensor
    Z: Tensor
    X: Tensor
    Y: Tensor


def states_by_batch(teacher: nn.Module, loader: Batches, *, skip_layers: int | None = None,
                    layers: Sequence[str] | None = None, progress: bool = True
                    ) -> Iterator[tuple[tuple[Block, ...], States]]:
    """Run a teacher over a loader; for each batch, its blocks of states and the states.

    Between two batches the teacher is as it was found.

    Parameters
    ----------
    teacher, loader, skip_layers, layers, progress
        As for `gram_statistics`.

    Yields
    ------
    blocks : tuple of Block
        Which states belong to which call of an activation, the last call first.
    batch : States
        On the teacher's device and in its dtype; U as the loader gave it.

    Raises
    ------
    TypeError, ValueError
        As `gram_statistics`.
    """
    modules = _chosen(teacher, skip_layers, layers)
    device = next((T.device for T in [*teacher.parameters(), *teacher.buffers()]),
                  torch.device("cpu"))
    blocks: tuple[Block, ...] = ()
    kept: list[str] = []
    for k, U in enumerate(inputs(loader, progress)):
        recorder = _Recorder(modules)
        # Every batch takes the same steps, so looking for unseen activations once is enough.
        guard = contextlib.nullcontext()
        if not blocks and layers is None:
            guard = _NoUnseenActivation(recorder, teacher, len(U))
        with torch.no_grad(), recorder.recording(teacher), guard:
            # The teacher gets a copy: it may overwrite its input, which is the caller's.
            Y = teacher(U.to(device, copy=True))
        calls = recorder.calls
        if not blocks:
            kept = _last_of_children(teacher, list(calls), skip_layers, modules)
            blocks = tuple(_block(name, *calls[name], len(U)) for name in kept)
        sizes = {name: _size(name, calls, len(U)) for name in kept}
        if sizes != {block.name: block.size for block in blocks}:
            raise ValueError(f"batch {k} met other layers than the first: "
                             f"{_words(sizes.items())} instead of "
                             f"{_words((block.name, block.size) for block in blocks)}; every "
                             f"batch must take the same steps.")
        yield blocks, _stacked(k, U.to(device), Y, [calls[name] for name in kept], kept)


def _words(sizes: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} of {size}" for name, size in sizes)


def _chosen(teacher: nn.Module, skip_layers: int | None, layers: Sequence[str] | None
            ) -> dict[str, nn.Module]:
    """The modules to watch, by name."""
    if not isinstance(teacher, nn.Module):
        raise TypeError(f"teacher must be a torch.nn.Module, got {type(teacher).__name__}.")
    named = dict(teacher.named_modules())
    if layers is not None:
        if skip_layers is not None:
            raise ValueError("skip_layers and layers both choose the layers: give one of them.")
        if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
            raise TypeError(f"layers must be names of modules, such as ['1', '3'], got {layers!r}.")
        return {name: named[validation.choice("layers", name, named)] for name in layers}
    if skip_layers is not None:
        validation.integer("skip_layers", skip_layers)
    found = {name: module for name, module in named.items()
             if issubclass(type_before_parametrizations(module), tuple(ACTIVATION_MODULES))}
    if not found:
        raise ValueError(
            f"{type(teacher).__name__} holds no activation module, so there are no states to "
            f"see: make its activations modules, such as torch.nn.ReLU(), or name modules in "
            f"layers=[...].")
    return found


def inputs(loader: Batches, progress: bool) -> Iterator[Tensor]:
    """The inputs U of a loader's batches, checked; at least one.

    Parameters
    ----------
    loader : iterable of U or (U, target)
        Targets are not looked at.
    progress : bool
        Show a bar, in a notebook or on a terminal.

    Raises
    ------
    TypeError, ValueError
        For a batch that is not finite floating-point numbers of shape (m, ...), m ≥ 1, and for a
        loader without a batch.
    """
    empty = True
    for k, batch in enumerate(progress_bar(loader, progress=progress, desc="states", unit="batch")):
        U = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        validation.tensor(f"the input U of batch {k}", U)
        if U.dim() < 2 or not len(U):
            raise ValueError(f"the input U of batch {k} must have shape (m, ...) with m >= 1, got "
                             f"{tuple(U.shape)}.")
        empty = False
        yield U
    if empty:
        raise ValueError("the dataloader gave no batch: it is empty, or a generator that one pass "
                         "used up.")


class _Recorder:
    """Argument and value of each call of some modules, as they were at the call.

    A later layer may overwrite either, so both are copied.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.calls: dict[str, tuple[nn.Module, Any, Any]] = {}
        self.count: Counter[str] = Counter()
        self.open: list[Any] = []

    @contextlib.contextmanager
    def recording(self, teacher: nn.Module) -> Iterator[None]:
        """Hooks on, in eval mode; afterwards, also after an error, all as before."""
        modes = [(module, module.training) for module in teacher.modules()]
        hooks = []
        try:
            for module, _ in modes:
                # Not eval(): a teacher may have overridden it to keep some of its modules training.
                module.training = False
            for name, module in self.modules.items():
                hooks += [module.register_forward_pre_hook(self._before, with_kwargs=True),
                          module.register_forward_hook(functools.partial(self._after, name))]
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes:
                module.training = mode

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = [*args, *kwargs.values()]
        self.open.append(given[0].clone() if given and isinstance(given[0], Tensor) else None)

    def _after(self, name: str, module: nn.Module, args: tuple, value: Any) -> None:
        self.count[name] += 1
        again = f", call {n}" if (n := self.count[name]) > 1 else ""
        kind = type_before_parametrizations(module).__name__
        Z, X = self.open.pop(), value.clone() if isinstance(value, Tensor) else value
        self.calls[f"{name or 'the network'} ({kind}{again})"] = module, Z, X


class _NoUnseenActivation(TorchDispatchMode):
    """Refuses an elementwise nonlinear operation on the batch outside the recorded modules."""

    def __init__(self, recorder: _Recorder, teacher: nn.Module, samples: int) -> None:
        super().__init__()
        self.recorder, self.teacher, self.samples = recorder, teacher, samples

    def __torch_dispatch__(self, func: Any, types: tuple, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        value = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        seen = name in _NONLINEAR or (name.endswith("_") and name[:-1] in _NONLINEAR)
        first = value[0] if isinstance(value, (tuple, list)) and value else value
        if seen and not self.recorder.open and isinstance(first, Tensor) \
                and first.dim() > 1 and len(first) == self.samples:
            raise ValueError(
                f"{type(self.teacher).__name__} applies {name} outside an activation module"
                f"{_place()}, where no hook sees it. Make it a module, such as torch.nn.ReLU(), "
                f"or choose which modules make the states with layers=[...].")
        return value


def _place() -> str:
    """The line of the teacher's code that is running."""
    frames = [f for f in traceback.extract_stack()
              if not Path(f.filename).is_relative_to(_TORCH) and f.filename != __file__]
    return "".join(f" at line {f.lineno} of {Path(f.filename).name}, {f.line!r}"
                   for f in frames[-1:])


def _last_of_children(teacher: nn.Module, calls: list[str], skip_layers: int | None,
                      modules: dict[str, nn.Module]) -> list[str]:
    """The calls to keep, the last first."""
    if skip_layers is None:
        return calls[::-1]
    keep: set[str] = set()
    parts = list(_parts(teacher, "", skip_layers))
    # The name of a shared module's call says where it stands first, not which part called it.
    for name, module in modules.items():
        paths = [path for path, other in teacher.named_modules(remove_duplicate=False)
                 if other is module]
        homes = [part for part, _ in parts
                 if any(path == part or path.startswith(f"{part}.") for path in paths)]
        if len(homes) > 1 and any(only_last for part, only_last in parts if part in homes):
            raise ValueError(f"the children {', '.join(homes)} share the activation module {name}, "
                             f"so that its calls cannot be told apart by child: give each its own "
                             f"module, or choose with layers=[...].")
    for name, only_last in parts:
        inside = [call for call in calls
                  if not name or call.startswith((f"{name} (", f"{name}."))]
        keep |= set(inside[-1:] if only_last else inside)
    return [call for call in reversed(calls) if call in keep]


def _parts(module: nn.Module, name: str, most: int) -> Iterator[tuple[str, bool]]:
    """The parts of a network, and whether only the last activation in a part is kept."""
    children = [(f"{name}.{child}".lstrip("."), part) for child, part in module.named_children()]
    if not children:
        yield name, False
    for path, part in children:
        if len(children) <= most:
            yield from _parts(part, path, most)
        else:
            yield path, next(part.children(), None) is not None


def _size(name: str, calls: dict[str, tuple], samples: int) -> int:
    """States in a call; 0 where it was not made."""
    _, Z, X = calls.get(name, (None, None, None))
    if name not in calls:
        return 0
    shapes = [tuple(T.shape) if isinstance(T, Tensor) else type(T).__name__ for T in (Z, X)]
    if shapes[0] != shapes[1] or not isinstance(Z, Tensor) or not Z.dim() or len(Z) != samples:
        raise ValueError(f"{name} takes {shapes[0]} and gives {shapes[1]}: states need an "
                         f"elementwise function of a ({samples}, ...) tensor, a row a sample.")
    return Z[0].numel()


def _block(name: str, module: nn.Module, Z: Tensor, X: Tensor, samples: int) -> Block:
    size = _size(name, {name: (module, Z, X)}, samples)
    try:
        phi = activation(module)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be an implicit model's φ: {error}") from error
    # Somebody's hook, or a later operation in place, may have changed what the module gave: the
    # states would then not obey X = φ(Z), and SIM would fit them all the same.
    S = Z.flatten(1).cpu().double()
    slack = KERNEL_ROUNDINGS * torch.finfo(Z.dtype).eps * (1 + S.abs())
    off = (phi(S) - X.flatten(1).cpu().double()).abs()
    if torch.isfinite(off).all() and not (off <= slack).all():
        raise ValueError(f"{name} gives other values than {phi.name} of its argument, by up to "
                         f"{float(off.max()):.2g}: a hook of its own or a step that overwrites "
                         f"memory changes them.")
    return Block(name, size, phi)


def _stacked(k: int, U: Tensor, Y: Any, calls: list[tuple], names: list[str]) -> States:
    """The stacked states of one batch, refused where a value is not finite."""
    if not isinstance(Y, Tensor) or not Y.dim() or len(Y) != len(U):
        got = tuple(Y.shape) if isinstance(Y, Tensor) else type(Y).__name__
        raise ValueError(f"the teacher must give one tensor ({len(U)}, ...), a row a sample, got "
                         f"{got}.")
    parts = [(name, T) for name, (_, Z, X) in zip(names, calls, strict=True)
             for T in (Z, X)][::-1]  # in the order of the calls: the first bad one is the cause
    for name, T in [*parts, ("the teacher's output", Y)]:
        validation.tensor(f"{name} in batch {k}", T)
    Z, X = (torch.cat([call[i].flatten(1) for call in calls], dim=1) for i in (1, 2))
    return States(U, Z, X, Y.reshape(len(U), -1))
