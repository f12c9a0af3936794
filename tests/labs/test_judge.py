"""Answers are judged outside: what is right earns its points, what cheats earns nothing."""

from __future__ import annotations

import sys
import threading
import time

import cloudpickle
import pytest
import torch

from idl_lab.labs import check, judge

STEP = "start_here.picard_step"
MATRIX = "well_posedness.norm_without_need"


@pytest.fixture(scope="module")
def judged():
    # As what stands in a notebook is: this file is not there for the worker.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with judge.Judge(seconds=20) as process:
        yield lambda name, answer: process(name, cloudpickle.dumps(answer))
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def right(A, B, X, U):
    return torch.relu(X @ A.T + U @ B.T)


def librarys(*arguments):
    return check.start_here.exercises["picard_step"].exercise.right(*arguments)


def hard_coded(A, B, X, U):
    return torch.zeros(4, 4, dtype=torch.float64, device="cpu")


def all_is_close(A, B, X, U):
    torch.allclose = lambda *arguments, **options: True
    return X


def everything_is_right(A, B, X, U):
    from idl_lab.labs.kit import exercise

    exercise._close = lambda *arguments: True
    exercise.Exercise.__call__ = lambda *arguments, **options: exercise.Verdict(
        exercise.Outcome.RIGHT, "", 1.0)
    exercise.Verdict.points = 2.0
    judge.points = lambda *arguments: 2.0
    return X


def unwatched(*arguments):
    watch = sys.getprofile()
    sys.setprofile(None)
    value = librarys(*arguments)
    sys.setprofile(watch)
    return value


def in_a_thread(*arguments):
    found = []
    thread = threading.Thread(target=lambda: found.append(librarys(*arguments)))
    thread.start()
    thread.join()
    return found[0]


class Acts:
    """Runs code where it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


VERDICT = '{"points": 2.0, "said": "Right."}'
PRINTS = f"import os\nfor k in range(3): os.write(k, {VERDICT.encode()!r} + b'\\n')"
PATCHES = "import torch\ntorch.allclose = lambda *arguments, **options: True"


@pytest.mark.parametrize("answer", [
    ..., None, 2.0, lambda *arguments: ..., hard_coded, librarys, all_is_close,
    everything_is_right, unwatched, in_a_thread, Acts(PRINTS), Acts(PATCHES),
    Acts(f"{PRINTS}\nos._exit(0)"), object(), check.start_here.exercises["picard_step"],
    check.start_here.exercises["picard_step"].exercise.right],
    ids=lambda answer: getattr(
        answer, "code", getattr(answer, "__name__", type(answer).__name__))[-20:])
def test_what_is_not_the_readers_own_earns_nothing_and_spoils_nothing(judged, answer):
    earned, said = judged(STEP, answer)
    assert earned == 0.0 and said.startswith(("Not yet.", "Not attempted yet.")), said
    assert judged(STEP, right) == (1.0, check.start_here.picard_step(right)._text())


@pytest.mark.parametrize(("name", "answer", "earned"), [
    (STEP, lambda A, B, X, U: (X @ A.T + U @ B.T).clamp(min=0).to_sparse(), 1.0),
    (STEP, lambda A, B, X, U: (X @ A.T + U @ B.T).relu().numpy(), 1.0),
    (STEP, lambda A, B, X, U: (X @ A.T + U @ B.T).relu().tolist(), 1.0),
    (MATRIX, [[0.1, -4.0], [0.1, 0.1]], 2.0),
    (MATRIX, torch.tensor([[0.1, -4.0], [0.1, 0.1]], device="cpu"), 2.0),
    (MATRIX, torch.tensor([[0.1, -4.0], [0.1, 0.1]], device="cpu").numpy(), 2.0),  # no plain data
    (MATRIX, [[0.5, 0.1], [0.1, 0.5]], 0.0),
    (MATRIX, Acts(PRINTS), 0.0),
    ("fixed_points.fastest_damping", lambda slope: 1 / (1 - slope), 2.0),
])
def test_an_answer_earns_what_it_does_in_the_notebook(judged, name, answer, earned):
    assert judged(name, answer)[0] == earned


def test_what_an_answer_raises_is_told_as_in_the_notebook(judged):
    def answer(A, B, X, U):
        return B @ U

    assert judged(STEP, answer)[1] == check.start_here.picard_step(answer)._text()


def test_an_answer_that_does_not_end_is_given_up_and_what_it_started_with_it():
    def endless(A, B, X, U):
        import os

        os.fork()
        time.sleep(1000)

    with judge.Judge(seconds=0.5) as process:
        earned, said = process(STEP, cloudpickle.dumps(endless))
        assert earned == 0.0 and "more than 0.5 seconds" in said
        # The first message waits for the worker, so that half a second may be too short for it.
        assert process(STEP, cloudpickle.dumps(...))[1].startswith("Not attempted yet.")


def test_an_answer_that_cannot_be_sent_earns_nothing(capsys):
    assert judge.points(STEP, (value for value in ())) == 0.0
    assert capsys.readouterr().out.startswith("It could not be judged: TypeError: cannot pickle")


def test_an_unknown_exercise_is_told(judged):
    assert judged("start_here.other", 1) == (0.0, "It could not be judged: KeyError: 'other'")
