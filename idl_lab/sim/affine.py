"""Whether all that lies between a teacher's activations is affine, shown on the data.

With the activations' values given, a teacher is a map (U, X_1, …, X_L) → (Z_1, …, Z_L, Y) of
each sample. State matching fits it by an affine one, and finds it if it is affine: then a
weighted mean of samples is sent to the same mean of their images. Each sample is tested so, in
two means with another sample, in a batch of other samples and of another size: what acts on few
samples is seen, and what mixes samples too. Means stay among the data, where the map must be
affine; what never acts there, as a clamp far outside, is none of state matching's business.
"""

from __future__ import annotations

import contextlib
import linecache
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from idl_lab.extras import wide
from idl_lab.sim.recorder import Call, Recorder, Run

_TORCH = Path(torch.__file__).parent
# A first part of a batch of means, so small that what depends on the batch shows; also how many
# samples a batch leaves for later ones.
_FEW = 8
# For the words of a refusal alone, which names the first operation that is not affine: these only
# move numbers; and these are linear in one tensor, so that they are blamed where they are seen to
# be none, but not where their result has no row for each sample.
_MOVES = frozenset("view _unsafe_view reshape t transpose permute expand slice select unsqueeze "
                   "squeeze clone contiguous alias detach as_strided split unbind copy_ _to_copy "
                   "empty_like new_empty_strided cat stack unfold".split())
_LINEAR = frozenset("add sub rsub neg mul div mm addmm bmm baddbmm matmul convolution sum mean "
                    "add_ sub_ mul_ div_ cumsum flip roll".split())

Mean = Callable[[Tensor], Tensor]


class AffineCheck:
    """Refuses a batch on which what lies between the activations is not affine.

    Parameters
    ----------
    recorder : Recorder
        Watching the teacher, all its activations included.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.kept: Run | None = None  # some samples of earlier batches

    def __call__(self, seen: Run) -> None:
        """Run the teacher once more, on means of the batch's samples and of a few earlier ones.

        Parameters
        ----------
        seen : Run
            Of the batch; every call took and gave tensors with a row a sample.

        Raises
        ------
        ValueError
            If a mean of samples is sent to something else than the mean of their images, naming
            the first operation that does so, its module and its line.
        """
        # The first batch in more parts: a branch on a whole batch may go one way in the most.
        parts = _FEW if self.kept is None else 2
        few = _each(lambda T: T[:_FEW].clone(), seen)
        # A loader may give one class after the other: each batch would be affine by itself.
        seen = seen if self.kept is None else _each(lambda *T: torch.cat(T), self.kept, seen)
        self.kept = few if self.kept is None else _each(lambda *T: torch.cat(
            [T[0][-_FEW:], T[1]]), self.kept, few)
        if len(seen.U) == 1:  # there is nothing to mix it with but nothing
            zero = _each(torch.zeros_like, seen)
            seen = _each(lambda *T: torch.cat(T), seen, zero)
            seen = self._run(seen.U, {name: call.X for name, call in seen.calls.items()})
        if (mean := self._broken(seen, parts)) is None:
            return
        # Large numbers that cancel leave rounding which looks like a bend, but not in float64.
        with contextlib.suppress(Exception), self.recorder.in_float64():  # its own code
            exact = _each(lambda T: T.double(), seen)
            exact = self._run(exact.U, {name: call.X for name, call in exact.calls.items()})
            if self._broken(exact, parts) is None:
                return
        raise ValueError(
            f"{type(self.recorder.teacher).__name__} {_where(self.recorder, seen, mean)}, where no "
            f"hook sees it: what lies between two activations must be affine, a sample at a time, "
            f"and here a mean of samples is not sent to the mean of what they are sent to. Make "
            f"it an activation module, such as torch.nn.ReLU(), or name its module in "
            f"layers=[...], if that is an elementwise function.")

    def _broken(self, seen: Run, parts: int) -> Mean | None:
        """Means of samples that are not sent to the means of their images."""
        for mean in _means(len(seen.U), seen.U.device, parts):
            found = self._run(mean(seen.U), {name: mean(call.X)
                                             for name, call in seen.calls.items()})
            if not _agree(self.recorder, seen, found, mean):
                return mean
        return None

    def _run(self, U: Tensor, given: dict[str, Tensor]) -> Run:
        try:
            return self.recorder.run(U, given)
        except Exception as error:  # the teacher's own code, on samples like its data
            raise ValueError(f"{type(self.recorder.teacher).__name__} runs on a batch, but on "
                             f"{len(U)} means of two of its samples it raises: {error}") from error


def _each(fn: Callable[..., Tensor], *runs: Run) -> Run:
    """A function of each tensor of one or of several runs."""
    calls = {name: Call(call.module, *(fn(*(run.calls[name][i] for run in runs)) for i in (1, 2)))
             for name, call in runs[0].calls.items()}
    return Run(fn(*(run.U for run in runs)), calls, fn(*(run.Y for run in runs)))


def _means(m: int, device: torch.device, parts: int) -> list[Mean]:
    """Weighted means of two samples each, (m, ...) → (k, ...), that take every sample twice.

    So many parts of them, the last with most of the means and the others with few.
    """
    generator = torch.Generator("cpu").manual_seed(m)
    first = torch.randperm(m, generator=generator, device="cpu")
    weight = torch.rand(m, generator=generator, device="cpu") / 2 + 0.25
    few = min(max(m // parts, 2), _FEW)
    cuts = [i * few for i in range(parts) if m - i * few >= 2]
    slices = [slice(a, b) for a, b in zip(cuts, [*cuts[1:], m], strict=True)]

    def mean(part: slice) -> Mean:
        i, j = (rows[part].to(device) for rows in (first, first.roll(1)))
        t = weight[part].to(device)

        def mixed(T: Tensor) -> Tensor:
            s = t.to(T.dtype).reshape(-1, *[1] * (T.dim() - 1))
            return (1 - s) * T[i] + s * T[j]

        return mixed

    return [mean(part) for part in slices]


def _agree(recorder: Recorder, seen: Run, found: Run, mean: Mean) -> bool:
    if list(found.calls) != list(seen.calls) or not isinstance(found.Y, Tensor):
        return False
    eps = recorder.rounding(seen)
    pairs = [(seen.Y, found.Y), *((call.Z, found.calls[name].Z)
                                  for name, call in seen.calls.items())]
    # One answer for all, so that an accelerator is waited for once.
    answers = [_is_mean(whole, part, mean, eps) for whole, part in pairs]
    return all(a is not None for a in answers) and bool(torch.stack(answers).all())


def _is_mean(whole: Tensor, part: Tensor, mean: Mean, eps: float) -> Tensor | None:
    """Whether a part is the mean of the whole; None where its shape says no."""
    wanted = mean(whole := wide(whole))
    if not isinstance(part, Tensor) or part.shape != wanted.shape:
        return None
    # Rounding in the teacher's own dtype; and what it leaves of large numbers that cancel.
    room = eps ** 0.4 * (whole.amax(0) - whole.amin(0)) + eps ** 0.75 * whole.abs().max()
    return ((wide(part) - wanted).abs() <= room).all()


# ---- where it is not ---------------------------------------------------------------------------


def _where(recorder: Recorder, seen: Run, mean: Mean) -> str:
    """The first operation that does not send means to means, in words."""
    own = {name: call.X for name, call in seen.calls.items()}
    with _Tape(recorder) as tape:
        recorder.run(seen.U, own)
    # On as many samples the steps are the same; where that shows nothing, their number matters.
    for each in (*_means(len(seen.U), seen.U.device, parts=1), mean):
        U, given = each(seen.U), {name: each(X) for name, X in own.items()}
        with _Blame(recorder, tape.steps, seen, each) as blame, contextlib.suppress(Exception):
            recorder.run(U, given)
        if blame.found:
            break
    return blame.found or next(iter([*blame.suspects, *blame.doubts]), "does something")


class _Tape(TorchDispatchMode):
    """Keeps what each operation outside the activations gives."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.steps: list[tuple[str, list[Tensor]]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes a second

    def __torch_dispatch__(self, func: Any, types: tuple, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if not self.recorder.inside:
            # Later operations may overwrite it.
            self.keep(func.overloadpacket.__name__, [
                T.clone() for T in tree_leaves(value) if isinstance(T, Tensor)])
        return value

    def keep(self, name: str, results: list[Tensor]) -> None:
        """Note an operation."""
        self.steps.append((name, results))


class _Blame(_Tape):
    """Compares each operation on means with the means of what it gave on the samples."""

    def __init__(self, recorder: Recorder, before: list, seen: Run, mean: Mean) -> None:
        super().__init__(recorder)
        self.before, self.mean, self.samples = iter(before), mean, len(seen.U)
        self.eps = recorder.rounding(seen)
        self.found = ""
        self.suspects: list[str] = []
        self.doubts: list[str] = []

    def keep(self, name: str, results: list[Tensor]) -> None:
        """Compare an operation, until one is found."""
        if self.found:
            return
        before, wholes = next(self.before, ("", []))
        if before != name or len(wholes) != len(results):
            self.found = next(iter(self.suspects), "takes other steps for other samples, from "
                                                   f"{name}{self._place()} on")
            return
        for whole, part in zip(wholes, results, strict=True):
            if whole.shape == part.shape and torch.equal(whole, part):
                continue  # no function of the data
            if whole.is_complex():
                whole, part = torch.view_as_real(whole), torch.view_as_real(part)
            numbers = whole.is_floating_point()
            answer = _is_mean(whole, part, self.mean, self.eps) if (
                numbers and whole.dim() and len(whole) == self.samples) else None
            if answer is None:  # a sample has no row of its own in it, or it is not made of numbers
                if not numbers or name not in _MOVES | _LINEAR:
                    self.suspects.append(self._applies(name))
            elif answer:
                self.suspects.clear()
            elif self.suspects or name not in _MOVES:
                self.found = next(iter(self.suspects), self._applies(name))
            else:
                self.doubts.append(self._applies(name))

    def _applies(self, name: str) -> str:
        return f"applies {name} outside an activation module{self._place()}"

    def _place(self) -> str:
        return _place(self.recorder.teacher)


def _place(teacher: nn.Module) -> str:
    """The module of the teacher, and the line of its code, that are running."""
    inside, line = "", ""
    paths = {module: path for path, module in teacher.named_modules()}
    for frame, number in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if file == Recorder.run.__code__.co_filename:
            break  # what lies further out called us
        here = frame.f_locals.get("self")
        if not inside and isinstance(here, nn.Module) and here in paths:
            inside = (f" in {paths[here] or 'the network'} "
                      f"({type_before_parametrizations(here).__name__})")
        if not line and file != __file__ and not Path(file).is_relative_to(_TORCH):
            line = (f" at line {number} of {Path(file).name}, "
                    f"{linecache.getline(file, number).strip()!r}")
    return inside + line
