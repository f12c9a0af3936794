"""``python -m benchmarks``: all parts, or those that are named."""

from __future__ import annotations

import argparse
import importlib
import os
import warnings
from pathlib import Path

import pandas as pd
import torch

from benchmarks import contestants, forward, panels, real, report, sim, sim_report

FOLDER = Path(__file__).parents[1] / "figures"
PARTS = {"steps": "training steps beside the peers'",
         "sim": "SIM's solvers beside torchidl's",
         "real": "SIM on features of real size, beside lasso packages",
         "pruning": "SIM beside layer-wise reconstruction",
         "forward": "a sparse A beside a dense one",
         "panels": "the labs' panels in a browser, from slider to picture",
         "large": "SIM's largest problem, on the GPU too where there is one"}
PEERS = {"steps": ("torchidl", "torchdeq", "silva_networks"), "sim": ("torchidl",),
         "real": ("celer", "skglm"), "pruning": (), "forward": (), "panels": (), "large": ()}


def main() -> None:
    """Run the comparison; tables go to the screen, the picture into ``figures/``."""
    parser = argparse.ArgumentParser(prog="make bench", description="Compare with the peers.")
    parser.add_argument("parts", nargs="*", metavar="part", default=list(PARTS),
                        help="; ".join(f"{name}: {what}" for name, what in PARTS.items())
                        + "; all of them without")
    parser.add_argument("--seconds", type=float, default=8,
                        help="timing of each size of a training step, at least 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count(),
                        help="of SIM's solvers; training steps are timed on one")
    parser.add_argument("--limit", type=float, default=real.LIMIT,
                        help="processor seconds of a solve of SIM, at most")
    parser.add_argument("--labs", nargs="*", default=(), help="whose panels; all of them without")
    parser.add_argument("--before", type=Path, help="another checkout of this project to time too")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the picture")
    options = parser.parse_args()
    if not options.seconds >= 1:
        parser.error(f"--seconds must be at least 1, got {options.seconds:g}.")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}.")
    try:
        for name in sorted({name for part in options.parts for name in PEERS[part]}):
            importlib.import_module(name)
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
    if "steps" in options.parts:
        report.run(options.seconds, options.out, more=more)
    if "sim" in options.parts:
        sim.run()
    if "real" in options.parts:
        sim_report.run_real(options.out, options.before, options.limit)
    if "pruning" in options.parts:
        sim_report.run_pruning(options.out)
    if "forward" in options.parts:
        forward.run()
    if "panels" in options.parts:
        panels.run(options.labs)
    if "large" in options.parts:
        sim_report.run_large(options.limit)


if __name__ == "__main__":
    main()
