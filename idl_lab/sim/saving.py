"""A SIM as a file of tensors, numbers and words, read without pickle; a wrong file is a sentence."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from idl_lab.activations import ACTIVATION_CALLS, ACTIVATION_MODULES, ACTIVATIONS, Activation
from idl_lab.activations import activation as find
from idl_lab.networks import Block
from idl_lab.networks.blocks import prelu
from idl_lab.sim.result import sampled

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
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, TypeError) as why:
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


def plain_block(block: Block) -> list:
    """A block of states in plain values, which `block_of` reads.

    Parameters
    ----------
    block : Block
    """
    recipe = _recipe(block.activation)
    seen = None if recipe else sampled(block.activation, block.size)
    return [block.name, block.size, block.activation.name, recipe, seen]


def block_of(plain: list, others: Iterable[Activation]) -> Block:
    """The block that `plain_block` wrote down.

    Parameters
    ----------
    plain : list
    others : iterable of Activation
        Among which those φ are looked for that torch has not.

    Raises
    ------
    ValueError
        If φ is none of torch's and none of ``others``, by its values.
    """
    name, size, called, recipe, seen = plain
    if recipe:
        return Block(name, size, _cooked(*recipe))
    others = tuple(others)
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
    if isinstance(fn, nn.Module) and (kind := type_before_parametrizations(fn)) in _CLASSES.values():
        return ["module", kind.__name__, {name: getattr(fn, name) for name in getattr(
            kind, "__constants__", []) if hasattr(fn, name)}]
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
