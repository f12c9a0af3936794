"""The gallery: ``python -m idl_lab.figures`` redraws every picture in ``figures/``.

Each entry is named after the ``draw_*`` function that makes it and feeds it seeded numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from idl_lab.figures import (
    fixed_points,
    gradients,
    models,
    networks,
    sequences,
    sim_scale,
    sim_solvers,
    sim_states,
)

FOLDER = Path(__file__).parent.parent.parent / "figures"

GALLERY: dict[str, Callable[[], Figure]] = {
    f"draw_{make.__name__}": make
    for topic in (models, fixed_points, gradients, sequences, networks,
                  sim_states, sim_solvers, sim_scale)
    for make in topic.GALLERY
}


def main() -> None:
    """Redraw the gallery, or the pictures that are named."""
    parser = argparse.ArgumentParser(description="Redraw the gallery.")
    parser.add_argument("names", nargs="*", metavar="draw_x",
                        help=f"pictures to draw; all without: {', '.join(GALLERY)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the PNG files")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in GALLERY]:
        parser.error(f"there is no {', '.join(unknown)}; there is {', '.join(GALLERY)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or GALLERY:
        # No version in the file: the same numbers give the same bytes.
        GALLERY[name]().savefig(args.out / f"{name}.png", metadata={"Software": None})
        print(f"{args.out.name}/{name}.png")
