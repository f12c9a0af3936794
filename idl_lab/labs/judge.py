"""Points for an answer, judged outside the notebook that it comes from.

A notebook that is graded has run a stranger's code, which may have replaced any function that is
loaded there. So the answer alone leaves it, pickled, and two processes share the rest: a worker
holds the answer and calls it; the judge draws the numbers, asks the worker for the values, and
compares. The worker sends tensors, numbers and words, never code, so an answer that replaces
functions, or acts as it is unpickled, changes its own values and nothing else. `idl-lab grade`
starts the judge, so that nothing of the notebook's kernel is in it.

It is not proof against these, so look at the answer of a student whom you do not believe:

- An `Example` whose answer is no plain data (a function, a class, a model) needs it at hand, so the
  worker looks at it by itself; an answer that was written to take over the worker passes there.
- What an answer borrows is seen call by call: a solver that was copied as text, or is called in
  another process, is not seen.
- Everything runs with the rights of whoever grades: a notebook can write where that user can, the
  gradebook included. Grade strangers' work in a container, or under an account of its own.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Example, Outcome, Verdict, hint
from idl_lab.labs.kit.watch import lent, watched

SECONDS = 120
SEED = 20260  # of the draws; those in the notebook have seed 0
OUTSIDE = "IDL_LAB_JUDGED_OUTSIDE"  # in the environment of a kernel whose answers are only sent
MIME = "application/vnd.idl-lab.answer"
LARGEST = 2**28  # bytes of a message
# One: a process that has started more cannot be copied safely.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def points(name: str, answer: Any) -> float:
    """What an answer earns; why is printed. In a kernel of `idl-lab grade` it is only sent there.

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

    try:  # no answer may stop the grading of the others
        pickled = cloudpickle.dumps(answer)
        if os.environ.get(OUTSIDE):
            from IPython.display import display

            display({MIME: base64.b64encode(pickled).decode()}, raw=True)
            return 0.0
        with Judge() as judge:
            earned, said = judge(name, pickled)
    except Exception as error:
        earned, said = 0.0, f"It could not be judged: {type(error).__name__}: {error}"
    print(said)
    return earned


class Judge:
    """A process that judges one answer after the other, in a ``with``; none runs in it.

    It loads torch once, which takes longer than to judge.

    Parameters
    ----------
    seconds : float
        After which an answer is given up, and earns nothing.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds

    def __enter__(self) -> Judge:
        root = str(Path(__file__).resolve().parents[2])
        # -I: a module of the same name in the submission's folder is not imported instead.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", f"import site, sys; sys.path.insert(0, {root!r}); "
             f"site.addsitedir(site.getusersitepackages()); "
             f"from idl_lab.labs import judge; judge.serve({self.seconds})"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            encoding="utf-8", cwd=tempfile.gettempdir(), env=os.environ | THREADS)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def __call__(self, name: str, pickled: bytes) -> tuple[float, str]:
        """The points of an answer, and what is said of it.

        Parameters
        ----------
        name : str
            ``"<lab>.<exercise>"``.
        pickled : bytes
            The answer, by cloudpickle.
        """
        print(name, base64.b64encode(pickled).decode(), file=self.process.stdin, flush=True)
        found = json.loads(self.process.stdout.readline())
        return float(found["points"]), str(found["said"])


def serve(seconds: float) -> None:
    """Judge each answer of the standard input: a line with a name and what was pickled.

    Parameters
    ----------
    seconds : float
        For each.
    """
    for line in sys.stdin:
        name, answer = line.split()
        try:
            verdict = judged(name, base64.b64decode(answer), seconds)
            found = {"points": verdict.points, "said": verdict._text()}
        except Exception as error:  # a fault of the exercise's must not stop the others
            found = {"points": 0.0,
                     "said": f"It could not be judged: {type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


def judged(name: str, pickled: bytes, seconds: float) -> Verdict:
    """The verdict on an answer, which a worker holds meanwhile.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    pickled : bytes
        The answer, by cloudpickle; not unpickled here.
    seconds : float
        After which the worker is stopped, and the answer earns nothing.
    """
    import cloudpickle

    checker = _checker(name)
    if pickled == cloudpickle.dumps(...):
        return checker.judged(...)
    # A copy of this process has loaded all that it needs; elsewhere than on Linux, where the
    # system's own libraries do not bear it, a worker starts anew.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    here, there = context.Pipe()
    worker = context.Process(target=work, args=(there, name), daemon=True)
    worker.start()
    there.close()
    try:
        return _asked(checker, _Channel(here, time.monotonic() + seconds), pickled)
    except _Gone:
        return checker.scored(hint(f"It could not be judged: it took more than {seconds:g} "
                                   f"seconds, or ended the process that looks at it."))
    finally:
        if hasattr(os, "killpg"):  # what the answer started, too
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)
        worker.kill()
        worker.join()
        here.close()


def _asked(checker: check.Checker, channel: _Channel, pickled: bytes) -> Verdict:
    channel.write(pickled)
    said = channel.read()
    if "answer" in said:
        return checker.judged(said["answer"], seed=SEED)
    if "callable" in said:
        remote = _Remote(channel, str(said["callable"]))
        return checker.scored(checker.judged(remote, seed=SEED), remote.borrowed)
    if "verdict" in said and isinstance(checker.exercise, Example):
        outcome, sentence, share = said["verdict"]
        return checker.scored(Verdict(Outcome[outcome], str(sentence), min(1.0, max(0.0, share))))
    return checker.scored(hint(f"It could not be judged: {said.get('failed')}"))


def work(connection: Connection, name: str) -> None:
    """Hold the answer that is sent in, and do with it as the judge asks.

    Parameters
    ----------
    connection : Connection
    name : str
        ``"<lab>.<exercise>"``.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, so that what an answer starts ends with it
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # the judge's own, which an answer may not write to
        os.dup2(nothing, stream)
    os.chdir(tempfile.gettempdir())
    channel, checker = _Channel(connection), _checker(name)
    try:
        answer = pickle.loads(channel.read_bytes())
    except Exception as error:
        return channel.send(failed=f"{type(error).__name__}: {error}")
    if _plain(answer):
        channel.send(answer=answer)
    elif isinstance(checker.exercise, Example):
        verdict = checker.judged(answer, seed=SEED)
        channel.send(verdict=[verdict.outcome.name, verdict.sentence, verdict.share])
    elif not callable(answer):
        channel.send(failed="a function is wanted.")
    else:
        channel.send(callable=lent(answer, checker.exercise.uses))
        while True:
            arguments = pickle.loads(channel.read_bytes())
            channel.send(**_called(answer, arguments, checker.exercise.uses))


def _called(answer: Callable[..., Any], arguments: tuple, uses: Sequence[str]) -> dict[str, Any]:
    with watched(uses) as borrowed:
        try:
            value = answer(*arguments)
            if not (_plain(value) or value is ...):
                value = torch.as_tensor(value)
        except Exception as error:
            try:
                text = str(error)
            except Exception:  # the reader's own __str__
                text = "that cannot be shown"
            return {"raised": type(error).__name__, "text": text, "borrowed": [*borrowed]}
    return {"value": None if value is ... else value, "borrowed": [*borrowed]}


def _plain(value: Any) -> bool:
    """Whether it can be sent as data, and is the same when it comes back."""
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    if type(value) is dict:
        return all(map(_plain, [*value, *value.values()]))
    return type(value) in (type(None), bool, int, float, complex, str, torch.Tensor)


def _checker(name: str) -> check.Checker:
    lab, exercise = name.split(".")
    return getattr(check, lab).exercises[exercise]


class _Gone(BaseException):
    """The worker is; no `Exception`, so that no exercise takes it for what an answer raised."""


class _Remote:
    """The answer as the judge has it: called, it asks the worker."""

    def __init__(self, channel: _Channel, borrowed: str) -> None:
        self.channel, self.borrowed = channel, borrowed

    def __call__(self, *arguments: Any) -> Any:
        import cloudpickle

        self.channel.write(cloudpickle.dumps(arguments))
        said = self.channel.read()
        self.borrowed = self.borrowed or str(next(iter(said.get("borrowed", ())), ""))
        if "raised" in said:
            raise type(str(said["raised"]), (Exception,), {})(str(said["text"]))
        return said.get("value")


class _Channel:
    """What goes between judge and worker, until a deadline."""

    def __init__(self, connection: Connection, deadline: float | None = None) -> None:
        self.connection, self.deadline = connection, deadline

    def write(self, message: bytes) -> None:
        try:
            self.connection.send_bytes(message)
        except OSError:
            raise _Gone from None

    def send(self, **message: Any) -> None:
        buffer = io.BytesIO()
        torch.save(message, buffer)
        self.write(buffer.getvalue())

    def read_bytes(self) -> bytes:
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        try:
            if self.connection.poll(left):
                return self.connection.recv_bytes(LARGEST)
        except (EOFError, OSError):
            pass
        raise _Gone

    def read(self) -> dict[str, Any]:
        """A message that is not unpickled, since it may be anything."""
        message = self.read_bytes()
        try:
            return dict(torch.load(io.BytesIO(message), map_location="cpu", weights_only=True))
        except Exception:
            raise _Gone from None
