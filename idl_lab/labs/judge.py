"""Points for an answer, judged in a process of its own.

The notebook that is graded has run a stranger's code, which may have replaced any function that is
loaded there, the checkers among them. So the answer alone goes to a new process, and is tried on
other numbers than those that the reader could see.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 120
SEED = 20260  # of the draws; those in the notebook have seed 0


def points(name: str, answer: Any) -> float:
    """What an answer earns; why is printed.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    answer : object
        The reader's, of what cloudpickle can send.

    Returns
    -------
    float
        0 too where it cannot be sent, or takes more than two minutes.
    """
    import cloudpickle

    root = str(Path(__file__).resolve().parents[2])
    program = (f"import sys; sys.path.insert(0, {root!r}); from idl_lab.labs import judge; "
               f"judge.main()")
    try:
        # -I: a module of the same name in the submission's folder is not imported instead.
        done = subprocess.run([sys.executable, "-I", "-c", program, name], capture_output=True,
                              input=cloudpickle.dumps(answer), timeout=SECONDS)
        found = json.loads(done.stdout)
    except Exception as error:  # no answer may stop the grading of the others
        found = {"points": 0.0, "said": f"It could not be judged: {type(error).__name__}: {error}"}
    print(found["said"])
    return float(found["points"])


def main() -> None:
    """Judge what stands in the standard input; the name is the argument."""
    import pickle

    from idl_lab.labs import check

    lab, exercise = sys.argv[1].split(".")
    checker = getattr(check, lab).exercises[exercise]
    out, sys.stdout = sys.stdout, sys.stderr  # the answer may print
    verdict = checker.judged(pickle.load(sys.stdin.buffer), seed=SEED)
    out.write(json.dumps({"points": verdict.points, "said": verdict._text()}))
