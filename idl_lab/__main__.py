"""The command line, `idl-lab` or `python -m idl_lab`: lab, run, sweep, student, grade and more."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import idl_lab
from idl_lab import optional


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done; 1: a notebook failed, or a table could not be written; 2: bad input, nothing was
    started; 130: interrupted (Ctrl-C); 143: told to end (SIGTERM).

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.
    """
    options = _parser().parse_args(_values(sys.argv[1:] if arguments is None else arguments))
    try:
        status = options.command(options)
        sys.stdout.flush()
        return status
    except (ValueError, ModuleNotFoundError) as error:
        print(f"idl_lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. Python's own flush at exit would say so again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _values(arguments: Sequence[str]) -> list[str]:
    """Values of parameters with a space before them: argparse takes -1e-3 for an option."""
    return [f" {text}" if text.startswith("-") and name == "-p" else text
            for name, text in zip(["", "", *arguments], arguments, strict=False)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="idl-lab", description="The implicit deep learning labs.")
    parser.add_argument("--version", action="version", version=f"idl_lab {idl_lab.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the notebooks of the series and their parameters")
    listing.add_argument("notebooks", nargs="*", metavar="NAME",
                         help="01, 01_fixed_points or a path; none means the whole series")
    listing.set_defaults(command=_list)
    lab = commands.add_parser("lab", help="copy the labs to a folder of yours, open them there")
    lab.add_argument("folder", nargs="?", type=Path, default=Path("idl_labs"), metavar="DIR",
                     help="idl_labs without; a notebook that you changed is never overwritten")
    lab.add_argument("--no-browser", dest="browser", action="store_false",
                     help="only serve, and print the address")
    lab.add_argument("--port", type=int, help="without: 8888, or the next that is free")
    lab.add_argument("--ip", default="127.0.0.1",
                     help="whom it listens to; without: this machine alone. In a container 0.0.0.0")
    lab.set_defaults(command=_lab)
    run = commands.add_parser("run", help="run notebooks headless into runs/<time>/")
    run.add_argument("notebooks", nargs="*", metavar="NAME",
                     help="01, 01_fixed_points or a path; none means the whole series")
    _add_settings(run)
    run.add_argument("--cwd", metavar="DIR", help="where the notebooks work, not in their --out")
    run.set_defaults(command=_run)
    sweep = commands.add_parser("sweep", help="run one notebook for every point of a grid")
    sweep.add_argument("notebook", metavar="NAME", help="01, 01_fixed_points or a path")
    sweep.add_argument("--grid", action="append", default=[], metavar="PARAMETER=VALUE,VALUE,...",
                       help="values of a parameter; of several grids every combination is run")
    sweep.add_argument("--repeat", type=int, default=1, metavar="SEEDS",
                       help="runs of each combination, with seeds seed, seed + 1, ...")
    _add_settings(sweep)
    sweep.add_argument("--workers", type=int, metavar="N",
                       help="runs at a time on this machine; without: one a GPU, or one a core")
    sweep.add_argument("--scheduler", metavar="ADDRESS",
                       help="of a Dask scheduler, whose workers are used instead")
    sweep.set_defaults(command=_sweep)
    student = commands.add_parser("student", help="make a course of the labs, to be graded")
    student.add_argument("folder", type=Path, metavar="DIR",
                         help="new, or such a course, to which labs are added")
    student.add_argument("notebooks", nargs="*", metavar="NAME",
                         help="01, 01_fixed_points or a path; none means the whole series")
    student.add_argument("--otter", action="store_true", help="for otter-grader, not for nbgrader")
    student.set_defaults(command=_student)
    grade = commands.add_parser("grade", help="grade DIR/submitted, and write DIR/grades.csv")
    grade.add_argument("folder", type=Path, metavar="DIR", help="a course that `student` made")
    grade.add_argument("--timeout", type=int, default=600, metavar="SECONDS",
                       help="for each notebook; 600 without")
    grade.set_defaults(command=_grade)
    for command in (listing, run, sweep, student):
        command.add_argument("--notebooks", dest="series", type=Path, metavar="DIR",
                             help="the folder that holds the series")
    report = commands.add_parser("report", help="write DIR/report.html: one page of a run or sweep")
    report.add_argument("folder", type=Path, metavar="DIR", help="of a run or a sweep")
    report.set_defaults(command=_report)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[],
                        metavar=("PARAMETER", "VALUE"), help="give the notebooks a parameter")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"),
                        help="where the notebooks compute, as -p device")
    parser.add_argument("--full", action="store_true",
                        help="the long setting of the notebooks that have one, as -p full True")
    parser.add_argument("--out", metavar="DIR", help="a new folder to write to, not runs/<time>")
    parser.add_argument("--resume", action="store_true",
                        help="go on in DIR: what ended well there is not run again")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for each notebook")


def _given(options: argparse.Namespace) -> dict[str, object]:
    """The parameters that are given, by -p or by an option of their own."""
    from idl_lab.runs import series

    parameters: dict[str, object] = {}
    for name, text in [*options.parameters, *([["device", options.device]] if options.device
                                              else []), *([["full", "True"]] * options.full)]:
        if name in parameters:
            raise ValueError(f"parameter {name!r} is given twice.")
        parameters[name] = series.value(text)
    return parameters


# The rooms are imported by the commands, so that a missing extra is a sentence and not a traceback.


def _list(options: argparse.Namespace) -> int:
    optional.need("nbformat", "labs")
    from idl_lab.runs import parameters, series

    labs = series.find(options.notebooks, options.series)
    for folder in dict.fromkeys(lab.path.parent for lab in labs):
        print(f"Notebooks in {folder}")
        for lab in labs:
            if lab.path.parent == folder:
                print(f"\n{lab.name}  {lab.title}\n{parameters.table(lab.parameters.values())}")
    return 0


def _lab(options: argparse.Namespace) -> int:
    optional.need("jupyterlab", "labs")
    from idl_lab.runs import workshop

    for path in workshop.refresh(options.folder):
        print(f"kept {path}: you changed it; move it away for a fresh copy", flush=True)
    workshop.open_lab(options.folder, options.browser, options.port, options.ip)
    return 0


def _run(options: argparse.Namespace) -> int:
    optional.need("papermill", "labs")
    from idl_lab.runs import progress, results, runner, series

    parameters, status = _given(options), 0
    labs = series.find(options.notebooks, options.series)
    folders = " and ".join(dict.fromkeys(str(lab.path.parent) for lab in labs))
    with runner.told_to_end() as signalled:
        try:
            done = runner.run_notebooks(
                [lab.path for lab in labs], parameters, options.out, progress.Progress(),
                resume=options.resume, timeout=options.timeout, cwd=options.cwd)
        except runner.RunInterrupted as interrupted:
            done, status = interrupted.results, signalled.get("status", 130)
            if not done:
                print("idl_lab: interrupted before the first notebook ended", file=sys.stderr)
                return status
        folder = done[0].path.parent
        print(f"\n{results.table(done)}\n\nThe notebooks of {folders} ran.\n"
              f"Everything is in {folder}", flush=True)
        try:
            results.write_tables(folder)
        except OSError as error:
            print(f"idl_lab: the tables cannot be written: {error.strerror}", file=sys.stderr)
            status = status or 1
        return status or int(any(result.status != "ok" for result in done))


def _sweep(options: argparse.Namespace) -> int:
    optional.need("distributed", "labs")
    from idl_lab.runs import grid, runner, series, sweep

    [lab] = series.find([options.notebook], options.series)
    with runner.told_to_end() as signalled:
        try:
            table = sweep.sweep(
                lab.path, grid.read_grid(options.grid), options.repeat, _given(options),
                options.out, workers=options.workers, scheduler=options.scheduler,
                timeout=options.timeout, resume=options.resume,
                say=functools.partial(print, flush=True))
        except KeyboardInterrupt:
            return signalled.get("status", 130)
        except OSError as error:  # a scheduler that is lost, a disk that is full
            print(f"idl_lab: {error}", file=sys.stderr)
            return 1
    return int((table["status"] != "ok").any())


def _report(options: argparse.Namespace) -> int:
    optional.need("jinja2", "labs")
    from idl_lab.runs import report

    print(report.write(options.folder))
    return 0


def _student(options: argparse.Namespace) -> int:
    optional.need("otter" if options.otter else "nbgrader", "class")
    from idl_lab.runs import editions, series

    make = editions.otter if options.otter else editions.course
    make(options.folder, series.find(options.notebooks, options.series),
         functools.partial(print, flush=True))
    return 0


def _grade(options: argparse.Namespace) -> int:
    optional.need("nbgrader", "class")
    from idl_lab.runs import grading

    rows = grading.grade(options.folder, options.timeout)
    print(f"\n{grading.table(rows)}\n\nEverything is in {options.folder}: "
          f"{grading.TABLE}, feedback/, autograded/", flush=True)
    return int(any(row.status != "ok" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
