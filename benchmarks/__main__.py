"""``python -m benchmarks``: both parts, or the one that is named."""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from pathlib import Path

import pandas as pd
import torch

from benchmarks import sim, steps

FOLDER = Path(__file__).parents[1] / "figures"


def main() -> None:
    """Run the comparison; tables go to the screen, the picture into ``figures/``."""
    parser = argparse.ArgumentParser(prog="make bench", description="Compare with the peers.")
    parser.add_argument("part", nargs="?", choices=("steps", "sim"),
                        help="training steps alone, or SIM's solvers alone; both without")
    parser.add_argument("--steps", type=int, default=40, help="training steps, at least 30")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the picture")
    options = parser.parse_args()
    if options.steps < 30:
        parser.error(f"--steps must be at least 30, got {options.steps}.")
    try:
        import torchdeq  # noqa: F401
        import torchidl  # noqa: F401
    except ImportError as error:
        parser.error(f"{error}: `make bench` installs the packages to compare with.")
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 120)
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}, "
          f"Python {platform.python_version()}\n")
    if options.part != "sim":
        steps.run(options.steps, options.out)
    if options.part != "steps":
        sim.run()


if __name__ == "__main__":
    main()
