"""The equilibrium of any torch module: z = f(z, u), with the gradients of `idl_lab.equilibrium`."""

from idl_lab.layer.adjacency import normalised_adjacency
from idl_lab.layer.convolution import MonotoneCertificate, MonotoneConv2d
from idl_lab.layer.equilibrium_layer import EquilibriumLayer
from idl_lab.layer.function_map import FunctionMap
from idl_lab.layer.graph import GraphStep, ImplicitGraph

__all__ = ["EquilibriumLayer", "FunctionMap", "GraphStep", "ImplicitGraph", "MonotoneCertificate",
           "MonotoneConv2d", "normalised_adjacency"]
