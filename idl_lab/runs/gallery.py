"""The gallery: ``python -m idl_lab.runs.gallery`` redraws every picture in ``figures/``.

Each lab's `gallery.py` names its pictures; one is called after the ``draw_*`` function that makes
it and is computed from seeded numbers.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from idl_lab import labs

FOLDER = Path(__file__).parents[2] / "figures"


def gallery() -> dict[str, Callable[[], Figure]]:
    """The pictures of every lab by the name of their file."""
    modules = [f"{labs.__name__}.{topic.name}.gallery"
               for topic in pkgutil.iter_modules(labs.__path__) if topic.ispkg]
    return {f"draw_{make.__name__}": make for module in modules
            if importlib.util.find_spec(module)
            for make in importlib.import_module(module).GALLERY}


def main() -> None:
    """Redraw the gallery, or the pictures that are named."""
    pictures = gallery()
    parser = argparse.ArgumentParser(description="Redraw the gallery.")
    parser.add_argument("names", nargs="*", metavar="draw_x",
                        help=f"pictures to draw; all without: {', '.join(pictures)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the PNG files")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in pictures]:
        parser.error(f"there is no {', '.join(unknown)}; there is {', '.join(pictures)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or pictures:
        # No version in the file: the same numbers give the same bytes.
        pictures[name]().savefig(args.out / f"{name}.png", metadata={"Software": None})
        print(f"{args.out.name}/{name}.png")


if __name__ == "__main__":
    main()
