"""A teacher, watched: the argument and the value of each of its activations on data.

Forward hooks on activation modules see what they take and give; whatever they would miss is
refused, by `AffineCheck`. The teacher is left as it was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.activations import activation
from idl_lab.bar import progress_bar
from idl_lab.networks import Block, prelu_for
from idl_lab.sim.affine import AffineCheck
from idl_lab.sim.recorder import Call, Recorder, Run, activations

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
    # A compiled module may have forgotten its modules' hooks; what it was made of has not.
    teacher = getattr(teacher, "_orig_mod", teacher)
    modules = _chosen(teacher, skip_layers, layers)
    # Activations that are left out are no states, and are known all the same.
    recorder = Recorder(teacher, activations(teacher) | modules)
    check = AffineCheck(recorder)
    blocks: tuple[Block, ...] = ()
    kept: list[str] = []
    for k, U in enumerate(inputs(loader, progress)):
        with recorder.watching():
            seen = recorder.run(U)
            if not blocks:
                seen = recorder.leave_out_constants(seen)
                kept = _kept(teacher, seen, skip_layers, modules)
                blocks = tuple(block_of(name, seen.calls[name], len(U)) for name in kept)
                known = {name: _size(name, call, len(U)) for name, call in seen.calls.items()}
            sizes = {name: _size(name, call, len(U)) for name, call in seen.calls.items()}
            if sizes != known:
                raise ValueError(f"batch {k} met other layers than the first: "
                                 f"{_words(sizes)} instead of {_words(known)}; every batch must "
                                 f"take the same steps.")
            batch = _stacked(k, seen, kept)
            check(seen)
        yield blocks, batch


def _words(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} of {size}" for name, size in sizes.items())


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
    if not (found := activations(teacher)):
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


def _kept(teacher: nn.Module, seen: Run, skip_layers: int | None, modules: dict[str, nn.Module]
          ) -> list[str]:
    """The calls that make states, the last first."""
    chosen = set(modules.values())
    calls = [name for name, call in seen.calls.items() if call.module in chosen]
    if not calls:
        raise ValueError(f"{type(teacher).__name__} ran without calling its "
                         f"{', '.join(name or 'activation' for name in modules)} as a module, so "
                         f"that no hook saw a state: it may have been compiled or scripted. Give "
                         f"the module that it was made from.")
    return _last_of_children(teacher, calls, skip_layers, modules)


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


def _size(name: str, call: Call, samples: int) -> int:
    """States in a call."""
    shapes = [tuple(T.shape) if isinstance(T, Tensor) else type(T).__name__
              for T in (call.Z, call.X)]
    if shapes[0] != shapes[1] or not isinstance(call.Z, Tensor) or not call.Z.dim() \
            or len(call.Z) != samples:
        raise ValueError(f"{name} takes {shapes[0]} and gives {shapes[1]}: states need an "
                         f"elementwise function of a ({samples}, ...) tensor, a row a sample.")
    return call.Z[0].numel()


def block_of(name: str, call: Call, samples: int) -> Block:
    """The block of states that a call of an activation makes.

    Parameters
    ----------
    name : str
    call : Call
    samples : int
        Of the batch.

    Raises
    ------
    ValueError
        If it is no elementwise function of a tensor with a row a sample, or gives other values
        than the function that its module is.
    """
    size, module = _size(name, call, samples), call.module
    try:
        phi = prelu_for(module.weight, call.Z.shape[1:]) if isinstance(module, nn.PReLU) \
            else activation(module)
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be an implicit model's φ: {error}") from error
    # Somebody's hook, or a later operation in place, may have changed what the module gave: the
    # states would then not obey X = φ(Z), and SIM would fit them all the same.
    S = call.Z.reshape(samples, -1).cpu().double()
    slack = KERNEL_ROUNDINGS * torch.finfo(call.Z.dtype).eps * (1 + S.abs())
    off = (phi(S) - call.X.reshape(samples, -1).cpu().double()).abs()
    if torch.isfinite(off).all() and not (off <= slack).all():
        raise ValueError(f"{name} gives other values than {phi.name} of its argument, by up to "
                         f"{float(off.max()):.2g}: a hook of its own or a step that overwrites "
                         f"memory changes them.")
    return Block(name, size, phi)


def _stacked(k: int, seen: Run, names: list[str]) -> States:
    """The stacked states of one batch, refused where a value is not finite."""
    m, Y = len(seen.U), seen.Y
    if not isinstance(Y, Tensor) or not Y.dim() or len(Y) != m:
        got = tuple(Y.shape) if isinstance(Y, Tensor) else type(Y).__name__
        raise ValueError(f"the teacher must give one tensor ({m}, ...), a row a sample, got "
                         f"{got}.")
    # In the order of the calls: the first bad one is the cause.
    for name, T in [*((name, T) for name, call in seen.calls.items() for T in (call.Z, call.X)),
                    ("the teacher's output", Y)]:
        validation.tensor(f"{name} in batch {k}", T)
    Z, X = (torch.cat([getattr(seen.calls[name], T).reshape(m, -1) for name in names], dim=1)
            for T in "ZX")
    return States(seen.U, Z, X, Y.reshape(m, -1))
