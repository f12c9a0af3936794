"""What can be read: torch's functions, methods and layers, and the rules that they go by."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from idl_lab.activations import ACTIVATION_CALLS, ACTIVATION_MODULES
from idl_lab.networks import affine

READABLE = (
    "What can be read: Linear, Conv and ConvTranspose, BatchNorm, average pooling, Upsample, "
    "padding, PixelShuffle, Flatten, view, Dropout, indexing, split, cat, stack, flip, roll, sums "
    "and means, sums of states, products with constants, and the activations "
    + ", ".join(kind.__name__ for kind, call in ACTIVATION_MODULES.items() if call)
    + " and PReLU.")

# What moves components and nothing else: torch's own answer on their numbers is the rule.
MOVES = set(
    "getitem pad cat concat concatenate stack hstack vstack dstack split chunk tensor_split unbind "
    "permute transpose swapaxes swapdims movedim moveaxis flip fliplr flipud rot90 roll narrow "
    "select index_select expand repeat tile repeat_interleave unfold tril triu "
    "pixel_shuffle pixel_unshuffle channel_shuffle".split())
CHECKS = {"getitem": affine.check_index, "roll": affine.check_roll}
ACTIVATIONS = {*ACTIVATION_CALLS, "prelu"}
_NAMES = [*affine.WEIGHTED, *MOVES, *ACTIVATIONS]
_OVERWRITING = {f"{name}_" for name in [*affine.OVERWRITING, *ACTIVATION_CALLS]}

_PADS = [getattr(nn, f"{kind}Pad{axes}d") for axes in (1, 2, 3)
         for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")]
# The operation that a layer is, and its options among the layer's attributes; what torch itself
# is asked for needs none.
LAYERS: dict[type[nn.Module], tuple[str, str]] = {
    nn.Linear: ("linear", "weight bias"),
    **{getattr(nn, f"{layer}{axes}d"): (f"{name}{axes}d", options) for axes in (1, 2, 3)
       for layer, name, options in (
           ("Conv", "conv", "weight bias stride padding dilation groups padding_mode"),
           ("ConvTranspose", "conv_transpose",
            "weight bias stride padding output_padding groups dilation"),
           ("AvgPool", "avg_pool", "kernel_size stride padding ceil_mode count_include_pad"
                                   + " divisor_override" * (axes > 1)),
           ("AdaptiveAvgPool", "adaptive_avg_pool", "output_size"))},
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
                    ("batch_norm", "running_mean running_var weight bias eps")),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
                    ("interpolate", "size scale_factor mode align_corners recompute_scale_factor")),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
                     nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Flatten, nn.Unflatten),
                    ("identity", "")),
    **dict.fromkeys(_PADS, ("pad", "")), nn.Unfold: ("unfold", ""),
    nn.PixelShuffle: ("pixel_shuffle", ""), nn.PixelUnshuffle: ("pixel_unshuffle", ""),
    nn.ChannelShuffle: ("channel_shuffle", ""), nn.PReLU: ("prelu", "weight"),
    **{kind: known for kind, known in ACTIVATION_MODULES.items() if known is not None},
}


def _functions() -> dict[Callable, str]:
    """torch's and Python's functions of these names; `relu_` and `iadd` overwrite."""
    names: dict[Callable, str] = {}
    for name in _NAMES:
        for room in (F, torch, operator):
            # torch.batch_norm is left out: it takes its arguments in another order than the rule
            # here, which is F.batch_norm's, and would be read wrongly.
            if hasattr(room, name) and (room, name) != (torch, "batch_norm"):
                names[getattr(room, name)] = name
            for overwriting in (f"{name}_", f"i{name}"):
                if hasattr(room, overwriting):
                    names[getattr(room, overwriting)] = f"{name}_"
    return names


_FUNCTIONS = _functions()


def operation_name(target: str | Callable) -> tuple[str, bool]:
    """The name in these tables of a tensor's method or of a function, and whether it overwrites.

    Parameters
    ----------
    target : str or callable
        Of a node of the recorded graph.

    Raises
    ------
    ValueError
        If the tables have no rule for it.
    """
    name = target if isinstance(target, str) else _FUNCTIONS.get(target, "")
    if name in _NAMES or name in _OVERWRITING:
        return name.removesuffix("_"), name in _OVERWRITING
    raise ValueError(f"there is no rule for {getattr(target, '__name__', target)}")
