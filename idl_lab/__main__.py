"""The command line: `python -m idl_lab list`, `python -m idl_lab run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from idl_lab.runs import progress, results, runner, series


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done; 1: a notebook failed; 2: bad input, nothing was started; 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ValueError as error:
        print(f"idl_lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="idl-lab", description="The implicit deep learning labs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the notebooks of the series and their parameters")
    listing.set_defaults(command=_list)
    run = commands.add_parser("run", help="run notebooks headless into runs/<time>/")
    run.add_argument("notebooks", nargs="*", metavar="NAME",
                     help="01, 01_fixed_points or a path; none means the whole series")
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[],
                     metavar=("PARAMETER", "VALUE"), help="give the notebooks a parameter")
    run.add_argument("--out", metavar="DIR", help="a new folder to write to, not runs/<time>")
    run.set_defaults(command=_run)
    return parser


def _list(options: argparse.Namespace) -> int:
    for lab in series.find():
        print(f"{lab.name}  {lab.title}")
        print(f"    parameters: {', '.join(lab.parameters) or 'none'}")
    return 0


def _run(options: argparse.Namespace) -> int:
    parameters = {}
    for name, text in options.parameters:
        if name in parameters:
            raise ValueError(f"parameter {name!r} is given twice.")
        parameters[name] = series.value(text)
    status = 0
    try:
        done = runner.run_notebooks(options.notebooks, parameters, options.out,
                                       progress.Progress())
    except runner.RunInterrupted as interrupted:
        done, status = interrupted.results, 130
    print(f"\n{results.table(done)}\n\nEverything is in {done[0].path.parent}")
    return status or int(any(result.status != "ok" for result in done))


if __name__ == "__main__":
    sys.exit(main())
