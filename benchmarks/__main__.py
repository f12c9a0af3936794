"""``python -m benchmarks``: both parts, or the one that is named."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import pandas as pd
import torch

from benchmarks import contestants, report, sim

FOLDER = Path(__file__).parents[1] / "figures"


def main() -> None:
    """Run the comparison; tables go to the screen, the picture into ``figures/``."""
    parser = argparse.ArgumentParser(prog="make bench", description="Compare with the peers.")
    parser.add_argument("part", nargs="?", choices=("steps", "sim"),
                        help="training steps alone, or SIM's solvers alone; both without")
    parser.add_argument("--seconds", type=float, default=8,
                        help="timing of each size of a training step, at least 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count(),
                        help="of SIM's solvers; training steps are timed on one")
    parser.add_argument("--before", type=Path, help="another checkout of this project to time too")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the picture")
    options = parser.parse_args()
    if not options.seconds >= 1:
        parser.error(f"--seconds must be at least 1, got {options.seconds:g}.")
    try:
        import silva_networks  # noqa: F401
        import torchdeq  # noqa: F401
        import torchidl  # noqa: F401
    except ImportError as error:
        parser.error(f"{error}: `make bench` installs the packages to compare with.")
    try:
        more = contestants.before(options.before) if options.before else {}
    except (FileNotFoundError, ModuleNotFoundError) as error:
        parser.error(f"--before: {error}")
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 120)
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}\n")
    if options.part != "sim":
        report.run(options.seconds, options.out, more=more)
    if options.part != "steps":
        sim.run()


if __name__ == "__main__":
    main()
