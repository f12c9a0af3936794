"""What every public function asks of its arguments, said once.

Each function returns the checked value or raises a `ValueError` or `TypeError` whose one
sentence says what was given and what is wanted.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor

from idl_lab.extras import under_vmap
from idl_lab.unwatched import current


def tensor(name: str, value: Tensor, shape: str | None = None, *, like: Tensor | None = None,
           finite: bool = True, **sizes: int) -> Tensor:
    """Check a finite floating-point tensor.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : Tensor
    shape : str, optional
        Axis names such as ``"n n"`` or ``"... p"``; equal names must have equal sizes.
    like : Tensor, optional
        The dtype and device wanted.
    finite : bool
        False leaves the numbers to who looks at what is made of them.
    **sizes : int
        Sizes of named axes that are known already.

    Raises
    ------
    TypeError
        If the value is no tensor of real numbers, or of another dtype than ``like``.
    ValueError
        If its shape, layout or device is another, or a number is not finite.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}: "
                        f"torch.as_tensor({name}) makes one.")
    if not value.is_floating_point():
        raise TypeError(f"{name} must hold real floating-point numbers, got {value.dtype}: "
                        f"{name}.float() converts it.")
    if value.layout != torch.strided or value.is_nested:
        raise ValueError(f"{name} must be a dense tensor, got "
                         f"{'a nested one' if value.is_nested else f'layout {value.layout}'}.")
    if shape is not None:
        check_shape(name, value, shape, **sizes)
    if like is not None and value.dtype != like.dtype:
        raise TypeError(f"{name} is {value.dtype}, wanted {like.dtype}: "
                        f"convert one of them with .to(dtype).")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, wanted on {like.device}: "
                         f"move one of them with .to(device).")
    if not finite:
        return value
    # A sum is finite only if every entry is, and takes a fifteenth of the time of looking at each.
    # It may overflow where they are finite, so the slow look has the last word.
    if not readable(value) or math.isfinite(value.detach().sum()):
        return value
    if bad := int((~torch.isfinite(value)).sum()):
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {value.numel()} "
                         f"entries.")
    return value


def readable(value: Tensor) -> bool:
    """Whether numbers of a tensor can be looked at: not under torch.vmap, nor without storage.

    Nor where a solve goes unwatched, so that the host waits for nothing.

    Parameters
    ----------
    value : Tensor
    """
    empty = value.is_meta and type(value) in (Tensor, torch.nn.Parameter)
    return not (empty or under_vmap() or current() is not None or torch.jit.is_tracing())


def check_shape(name: str, value: Tensor, shape: str, **sizes: int) -> None:
    """Check the shape alone.

    Parameters
    ----------
    name, value, shape, **sizes
        As for `tensor`.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    given, axes = tuple(value.shape), shape.split()
    leading = axes[0] == "..."
    axes = axes[leading:]
    known = dict(sizes)
    fits = len(given) >= len(axes) if leading else len(given) == len(axes)
    if fits:
        for axis, size in zip(axes, given[len(given) - len(axes):], strict=True):
            fits = fits and known.setdefault(axis, size) == size
    if not fits:
        words = ["..."] * leading + [f"{a}={sizes[a]}" if a in sizes else a for a in axes]
        raise ValueError(f"{name} must have shape ({', '.join(words)}), got {given}.")


def square(name: str, value: Tensor) -> Tensor:
    """Check a finite square matrix of size at least one.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : Tensor

    Raises
    ------
    TypeError, ValueError
        As `tensor`; ValueError also where there is no row.
    """
    tensor(name, value, "n n")
    if value.shape[0] == 0:
        raise ValueError(f"{name} must have at least one row, got shape {tuple(value.shape)}.")
    return value


def matrices(given: Mapping[str, tuple[Tensor | None, str]], sparse: Container[str] = (),
             optional: Container[str] = ()) -> dict[str, Tensor]:
    """Check tensors that belong together: axes of one name have one size, of at least 1.

    Parameters
    ----------
    given : mapping of name to (Tensor or None, str)
        Each with its shape in axis names, such as ``"n p"``; dtype and device are the first's.
    sparse : container of str
        Which may also be sparse, in CSR layout.
    optional : container of str
        Which may be None.

    Returns
    -------
    dict of Tensor
        Those that are not None; of a sparse one its values.

    Raises
    ------
    TypeError, ValueError
        As `tensor`; on a size of 0 or another layout.
    """
    checked: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for name, (M, shape) in given.items():
        if M is None and name in optional:
            continue
        first, thin = next(iter(checked.values()), None), getattr(M, "is_sparse_csr", False)
        if thin and name in sparse:
            check_shape(name, M, shape, **sizes)
            checked[name] = tensor(f"{name}.values()", M.values(), like=first)
        elif isinstance(M, Tensor) and M.layout != torch.strided:
            raise ValueError(f"{name} has layout {M.layout}, wanted dense"
                             f"{' or torch.sparse_csr' * (name in sparse)}.")
        else:
            checked[name] = tensor(name, M, shape, like=first, **sizes)
        sizes |= zip(shape.split(), M.shape, strict=True)
        if 0 in M.shape:
            raise ValueError(f"{name} must have no axis of size 0, got shape {tuple(M.shape)}.")
    return checked


def integer(name: str, value: int, at_least: int = 1) -> int:
    """Check a whole number with a lower bound.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : int
    at_least : int
        The smallest that is allowed.

    Raises
    ------
    TypeError
        If the value is no whole number; True and 1.0 are none.
    ValueError
        If it is below the bound.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")
    return int(value)


def real(name: str, value: float, *, above: float = -math.inf, at_least: float = -math.inf,
         below: float = math.inf, at_most: float = math.inf) -> float:
    """Check a finite real number within bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : float
    above, at_least, below, at_most : float
        Bounds: the first and the third are themselves not allowed.

    Raises
    ------
    TypeError
        If the value is no number.
    ValueError
        If it is not finite, or outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    inside = above < value < below and at_least <= value <= at_most
    if not (math.isfinite(value) and inside):
        bounds = [(above, ">"), (at_least, ">="), (below, "<"), (at_most, "<=")]
        wanted = " and ".join(f"{sign} {b:g}" for b, sign in bounds if math.isfinite(b))
        raise ValueError(f"{name} must be {wanted or 'finite'}, got {value}.")
    return float(value)


def kappa(value: float) -> float:
    """Check the radius κ of the ∞-norm ball that A is kept in: 0 ≤ κ < 1.

    Parameters
    ----------
    value : float

    Raises
    ------
    TypeError, ValueError
        As `real`.
    """
    return real("kappa", value, at_least=0.0, below=1.0)


def floating(dtype: torch.dtype) -> torch.dtype:
    """Check a real floating-point dtype.

    Parameters
    ----------
    dtype : torch.dtype

    Raises
    ------
    TypeError
        If it is none, or of whole or complex numbers.
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}.")
    return dtype


def choice(name: str, value: str, options: Iterable[str]) -> str:
    """Check a name against the known ones; the message offers the nearest.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : str
    options : iterable of str
        The known names.

    Raises
    ------
    ValueError
        If the value is none of them.
    """
    options = [str(o) for o in options]
    if value in options:
        return value
    close = difflib.get_close_matches(str(value).lower(), options, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name}={value!r} is not known; there is {', '.join(options)}.{hint}")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a name into a device that this machine has.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is cuda, else mps, else cpu.

    Raises
    ------
    ValueError
        If the name is unknown or the machine has no such device.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = choice("device", str(device).partition(":")[0], ["auto", "cpu", "cuda", "mps"])
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device!r} is not a device's name; "
                         f"write for example 'cuda' or 'cuda:0'.") from None
    there = {"cpu": math.inf, "mps": int(torch.backends.mps.is_available()),
             "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    if (wanted.index or 0) >= there[kind]:
        raise ValueError(f"device={str(device)!r} was asked for, but torch sees {there[kind]} "
                         f"{kind} devices here; use device='auto' or device='cpu'.")
    return wanted
