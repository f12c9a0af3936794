"""Labels along chains: who sees how far, how a label fades, and where a solve stops."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure

from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.graphs.plots import draw_fading, draw_lengths, draw_reach, draw_travel
from idl_lab.labs.graphs.problems import (
    GraphConvolutions,
    along,
    arrived,
    chains,
    decay,
    train,
    transport,
    widest,
)
from idl_lab.labs.kit.problems import generator
from idl_lab.layer import ImplicitGraph

SIZE = 16 * (3 + 3 + 16)


def _implicit(draws: torch.Generator) -> ImplicitGraph:
    return ImplicitGraph(3, 3, 16, activation="leaky_relu", solver=Picard(rtol=1e-3),
                         generator=draws, device="cpu")


def lengths() -> Figure:
    """Three networks of as many parameters on chains of 3 to 40 nodes, a run each."""
    rows = []
    for length in (3, 5, 10, 20, 40):
        for name in ("2 layers", "4 layers", "implicit"):
            draws = generator()
            data, test = chains(30, length, generator=draws), chains(60, length, generator=draws)
            k = int(name[0]) if name[0].isdigit() else 0
            model = GraphConvolutions(3, 3, widest(3, 3, k, SIZE), k, activation="leaky_relu",
                                      generator=draws) if k else _implicit(draws)
            train(model, data)
            rows.append({"model": name, "length": length,
                         "accuracy": float(along(model, test)[-1])})
    return draw_lengths(pd.DataFrame(rows), 1 / 3)


def fading() -> Figure:
    """The equilibrium of x = κ Â x + b along 60 nodes."""
    kappas = {f"κ = {kappa:g}": kappa for kappa in (0.5, 0.9, 0.99)}
    return draw_fading({name: arrived(kappa, 60)
                        for name, kappa in kappas.items()},
                       {name: decay(kappa) for name, kappa in kappas.items()})


def reach() -> Figure:
    """One trained network, three ways to solve it: the label comes as far as the solver's steps."""
    draws = generator()
    model, test = _implicit(draws), chains(60, 60, generator=draws)
    train(model, chains(30, 20, generator=draws))
    shares, steps = {}, []
    for solver in (Picard(rtol=1e-1), Anderson(rtol=1e-2), Picard(rtol=1e-2)):
        model.layer.solver = solver
        shares[f"{type(solver).__name__}, rtol {solver.rtol:g}"] = along(model, test)
        with torch.no_grad():
            steps.append(model.equilibrium(test.U, test.adjacency).stats.steps)
    return draw_reach(shares, steps, 1 / 3)


def travel() -> Figure:
    """A label at step 12 of a chain of 30 nodes, κ = 0.9."""
    return draw_travel(transport(0.9, 30, 1e-3), arrived(0.9, 30), 12, 1e-3)


GALLERY = (lengths, fading, reach, travel)
