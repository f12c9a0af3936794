"""A SIM as a file of tensors, numbers and words, read without pickle."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idl_lab.activations import ACTIVATION_CALLS, ACTIVATION_MODULES, ACTIVATIONS, Activation
from idl_lab.activations import activation as find
from idl_lab.networks import Block
from idl_lab.networks.blocks import prelu
from idl_lab.operators import LowRank
from idl_lab.sim.result import SimResult, sampled

FORMAT, VERSION = "idl_lab.sim.SIM", 2
_CLASSES = {kind.__name__: kind for kind in ACTIVATION_MODULES}


def write(path: str | os.PathLike, parts: dict[str, Any]) -> None:
    """Write plain values to a file that `read` takes.

    Parameters
    ----------
    path : path
        An existing file is overwritten.
    parts : dict
        Tensors, numbers, words, and lists and dicts of them.
    """
    torch.save({"format": FORMAT, "version": VERSION, **parts}, path)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """What `write` wrote.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        If there is no such file, or it cannot be opened.
    ValueError
        If it is something else, is cut off, or is of another version.
    """
    wanted = "SIM.load reads what SIM.save wrote"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as why:  # whatever torch's reader runs into in bytes that mean nothing to it
        raise ValueError(f"{os.fspath(path)} is no whole file of tensors, but cut off or of "
                         f"another kind ({type(why).__name__}): {wanted}.") from why
    if isinstance(found, dict) and found and all(isinstance(T, Tensor) for T in found.values()):
        raise ValueError(f"{os.fspath(path)} holds a state_dict of {len(found)} tensors, which "
                         f"says neither φ nor κ: {wanted}; model.load_state_dict takes it.")
    if not isinstance(found, dict) or not ({"format", "options"} & {*found}):
        raise ValueError(f"{os.fspath(path)} holds no SIM but {type(found).__name__}: {wanted}.")
    if (version := found.get("version", 1), found.get("format", FORMAT)) != (VERSION, FORMAT):
        raise ValueError(f"{os.fspath(path)} is a SIM file of version {version}, and this "
                         f"library reads version {VERSION}: train it again, or load it with the "
                         f"library that wrote it.")
    return found


def plain(result: SimResult) -> dict[str, Any]:
    """A result as tensors, numbers and words, without the solver's trace.

    Parameters
    ----------
    result : SimResult
    """
    return vars(result) | {
        "blocks": [_plain_block(block) for block in result.blocks],
        "stats": {k: v for k, v in result.stats.items() if k not in ("state", "output")},
        "status": {k: str(getattr(v, "value", v)) for k, v in result.status.items()},
        "trace": {}, "factors": result.factors and [result.factors.L, result.factors.R]}


def result_of(kept: dict[str, Any], others: Sequence[Activation] = ()) -> SimResult:
    """The result that `plain` wrote down.

    Parameters
    ----------
    kept : dict
        What `plain` gave.
    others : sequence of Activation
        Among which those φ are looked for that torch has not.

    Raises
    ------
    ValueError
        If a φ is none of torch's and none of ``others``, by its values.
    """
    return SimResult(**kept | {
        "blocks": tuple(_block(*block, others) for block in kept["blocks"]),
        "factors": kept["factors"] and LowRank(*kept["factors"])})


def _plain_block(block: Block) -> list:
    recipe = _recipe(block.activation)
    seen = None if recipe else sampled(block.activation, block.size)
    return [block.name, block.size, block.activation.name, recipe, seen]


def _block(name: str, size: int, called: str, recipe: list | None, seen: Tensor,
           others: Sequence[Activation]) -> Block:
    if recipe:
        return Block(name, size, _cooked(*recipe))
    for phi in others:
        with contextlib.suppress(RuntimeError, ValueError):  # of a φ for another number of states
            if torch.allclose(sampled(phi, size), seen):
                return Block(name, size, phi)
    given = f"; {', '.join(phi.name for phi in others)}, which was given, is another" * bool(others)
    raise ValueError(f"the activation of {name}, {called}, is none of torch's, and a file holds no "
                     f"code{given}: give it as activation_fn=.")


def _recipe(phi: Activation) -> list | None:
    """How to make φ again: which of torch's activations, with which options."""
    if ACTIVATIONS.get(phi.name) == phi:
        return ["name", phi.name, {}]
    fn = phi.fn
    if isinstance(fn, functools.partial):
        if phi.name == "prelu":
            return ["prelu", "", {"slopes": fn.args[0]}]
        if (called := getattr(fn.func, "__name__", "")) in ACTIVATION_CALLS and not fn.args:
            return ["call", called, dict(fn.keywords)]
        fn = fn.args[0] if len(fn.args) == 1 else fn  # a module that overwrites, on a copy
    if isinstance(fn, nn.Module) and type(fn) in ACTIVATION_MODULES:
        options = getattr(type(fn), "__constants__", [])
        return ["module", type(fn).__name__, {name: getattr(fn, name) for name in options}]
    return None


def _cooked(how: str, called: str, options: dict[str, Any]) -> Activation:
    if how == "prelu":
        return prelu(options["slopes"])
    if how == "name":
        return ACTIVATIONS[called]
    if how == "call":
        return ACTIVATION_CALLS[called](**options)
    with warnings.catch_warnings():  # of an expansive one, which was told when it was fitted
        warnings.simplefilter("ignore", UserWarning)
        return find(_CLASSES[called](**options))
