"""The gallery: ``python -m idl_lab.runs.gallery`` redraws every picture in ``figures/``.

Each lab's `gallery.py` names its pictures in ``GALLERY``; one is called after the ``draw_*``
function that makes it and is computed from seeded numbers. Its ``FILMS``, where there are any,
yield figures that become one animated picture.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from idl_lab import labs
from idl_lab.labs.kit import canvas

FOLDER = Path(__file__).parents[2] / "figures"


Maker = Callable[[], Figure | Iterator[Figure]]


def gallery() -> dict[str, Maker]:
    """The pictures of every lab, and what makes them, by the name of their file."""
    modules = [importlib.import_module(name) for topic in pkgutil.iter_modules(labs.__path__)
               if topic.ispkg and importlib.util.find_spec(
                   name := f"{labs.__name__}.{topic.name}.gallery")]
    stills = {f"draw_{make.__name__}.png": make for module in modules for make in module.GALLERY}
    films = {f"{make.__name__.removesuffix('_film')}.gif": make for module in modules
             for make in getattr(module, "FILMS", ())}
    return stills | films


def save(made: Figure | Iterator[Figure], path: Path) -> None:
    """Write a figure as PNG, or several as a looping GIF, ten a second, the last one held.

    Parameters
    ----------
    made : Figure or iterator of Figure
    path : Path
        The file; its ending is that of the format.
    """
    if isinstance(made, Figure):
        # No version in the file: the same numbers give the same bytes.
        made.savefig(path, metadata={"Software": None})
        return
    frames = [Image.open(io.BytesIO(canvas.png(figure))) for figure in made]
    # One palette and no dither: what stands still costs no bytes, nor does it flicker.
    palette = frames[-1].quantize(method=Image.Quantize.MAXCOVERAGE)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(path, save_all=True, append_images=others, loop=0,
               duration=[100] * len(others) + [1500])


def main() -> None:
    """Redraw the gallery, or the pictures that are named."""
    pictures = {Path(name).stem: (name, make) for name, make in gallery().items()}
    parser = argparse.ArgumentParser(description="Redraw the gallery.")
    parser.add_argument("names", nargs="*", metavar="draw_x",
                        help=f"pictures to draw; all without: {', '.join(pictures)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the pictures")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in pictures]:
        parser.error(f"there is no {', '.join(unknown)}; there is {', '.join(pictures)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for picture in args.names or pictures:
        name, make = pictures[picture]
        save(make(), args.out / name)
        print(f"{args.out.name}/{name}")


if __name__ == "__main__":
    main()
