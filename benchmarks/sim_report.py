"""SIM on real features, and beside layer-wise reconstruction: kept as JSON, drawn, put into words.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import pruning, real
from benchmarks.features import REAL, SYNTHETIC
from benchmarks.plots import draw_growth, draw_pruning
from benchmarks.report import PAGE, RESULTS, keep, kept, renewed

SPARSITY_PAGE = PAGE.with_name("sparsity.md")
README = PAGE.parents[1] / "README.md"
SHOWN = ("magnitude, refitted", "OBC", "ALPS", f"{pruning.PAPER}, refitted",
         f"{pruning.ORDERED}, refitted", f"{pruning.ADAPTIVE}, refitted")  # in the picture


def run_real(folder: Path, before: Path | None, limit: float, results: Path = RESULTS,
             page: Path = PAGE, readme: Path = README) -> None:
    """Time the solver on real features.

    Parameters
    ----------
    folder : path
        Of the picture.
    before : path, optional
        Another checkout to time too.
    limit : float
        Processor seconds of a solve.
    results, page, readme : path
        Where figures, tables and the sentence go.
    """
    at_once = os.cpu_count() or 1
    torch.set_num_threads(1)  # the solves have the cores
    of: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "at once": at_once, "torch": torch.__version__,
                    "load": round(os.getloadavg()[1], 1)},
        "limit": limit, "tol": real.TOL, "problems": real.table(before, limit, at_once)}
    print(problem_table(of) + "\n", flush=True)
    of["lassos"] = real.lassos(limit, at_once)
    print(lasso_table(of) + "\n", flush=True)
    of["growth"] = real.growth(limit, at_once)
    of = _round(of)
    print(growth_line(of) + "\n", flush=True)
    keep(kept(results) | {"real": of}, results)
    draw_growth(of["growth"]).savefig(folder / "draw_growth.png", metadata={"Software": None})
    for path, write in ((page, written), (readme, written_readme)):
        path.write_text(write(path.read_text(encoding="utf-8"), of), encoding="utf-8")


def run_large(limit: float, results: Path = RESULTS, page: Path = PAGE) -> None:
    """Time the largest problem on the devices that are here; others' figures are kept.

    Parameters
    ----------
    limit : float
        Processor seconds of a thread.
    results, page : path
        Where figures and the table go.
    """
    found = _round(real.large(limit))
    of = kept(results).get("large", {}) | found
    keep(kept(results) | {"large": of}, results)
    print(large_table(of) + "\n", flush=True)
    page.write_text(written_large(page.read_text(encoding="utf-8"), of), encoding="utf-8")


def run_pruning(folder: Path, results: Path = RESULTS, page: Path = SPARSITY_PAGE) -> None:
    """Compare with layer-wise reconstruction.

    Parameters
    ----------
    folder : path
        Of the picture.
    results, page : path
        Where figures and tables go.
    """
    torch.set_num_threads(1)  # matrices of this size lose by more
    of: dict[str, Any] = {}
    for name, task in pruning.TASKS.items():
        of[name] = summary(pd.concat([pruning.compare(task(seed)) for seed in pruning.SEEDS]))
        print(pruning_table(name, of[name]) + "\n", flush=True)
    of = _round(of)
    keep(kept(results) | {"pruning": of}, results)
    draw_pruning(of, SHOWN).savefig(folder / "draw_pruning.png", metadata={"Software": None})
    page.write_text(written_sparsity(page.read_text(encoding="utf-8"), of), encoding="utf-8")


def _round(value: Any) -> Any:
    """The same at four digits of every number."""
    if isinstance(value, dict):
        return {key: _round(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_round(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


# ---- real features --------------------------------------------------------------------------


def seconds(row: dict[str, Any], tol: float) -> str:
    """A solve in a cell: its seconds, and its gap where that is not below the tolerance.

    Parameters
    ----------
    row : dict
        As `real.solved` gives it.
    tol : float
    """
    if row["cut"]:
        return f"> {row['seconds']:.0f}, gap {row['gap']:.1g}"
    return f"{row['seconds']:.2g}" if row["gap"] <= tol else (
        f"ends at {row['seconds']:.2g}, gap {row['gap']:.1g}")


def problem_table(of: dict[str, Any]) -> str:
    """Seconds of each problem before and after, and the gaps.

    Parameters
    ----------
    of : dict
        ``real`` in ``results.json``.
    """
    lines = ["| problem | before | after | to reach | its gap | the gap found here |",
             "| --- | --- | --- | --- | --- | --- |"]
    for name, rows in of["problems"].items():
        before, after = (seconds(rows[when], of["tol"]) if when in rows else ""
                         for when in ("before", "after"))
        told = rows["after"].get("reported")
        lines.append(f"| {name} | {before} | {after} | {rows['goal']:g} "
                     f"| {'' if told is None else f'{told:.0e}'} | {rows['after']['gap']:.0e} |")
    return "\n".join(lines)


def lasso_table(of: dict[str, Any]) -> str:
    """Ours and the lasso packages, without the ball.

    Parameters
    ----------
    of : dict
        ``real`` in ``results.json``.
    """
    sizes = list(of["lassos"])
    lines = [f"| without the ball, λ = 1e-2 | {' | '.join(sizes)} |", "| --- " * 3 + "|"]
    for name in of["lassos"][sizes[0]]:
        cells = " | ".join(seconds(of["lassos"][size][name], of["tol"]) for size in sizes)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def growth_line(of: dict[str, Any]) -> str:
    """The exponents in a sentence.

    Parameters
    ----------
    of : dict
        ``real`` in ``results.json``.
    """
    parts = []
    for name, of_name in of["growth"].items():
        ended = [f"{size} in {spent:.2g}" for size, spent in zip(
            of_name["sizes"], of_name["seconds"], strict=True)]
        ended += [f"{size} cut by the limit" for size in of_name["cut"]]
        parts.append(f"{name} to the power {of_name['exponent']:.2g} ({', '.join(ended)})".replace(
            "power -", "power −"))
    return (f"On correlated Gaussian features at λ = 1e-3 (500 columns, 50 rows, 250 samples where "
            f"the one that varies is not) the seconds grow with the {', with the '.join(parts)}.")


def large_table(of: dict[str, Any]) -> str:
    """Wall seconds of the largest problem, by device.

    Parameters
    ----------
    of : dict
        ``large`` in ``results.json``.
    """
    lines = ["| 2,048 rows, 2,833 columns, 20,000 samples, λ = 0.1 | seconds | its gap |",
             "| --- | --- | --- |"]
    for device, row in of.items():
        told = f"{row['reported']:.0e}" if "reported" in row else f"{row['gap']:.1g}"
        lines.append(f"| {device} | {'> ' * row['cut']}{row['wall']:.2g} | {told} |")
    return "\n".join(lines)


def written_large(page: str, of: dict[str, Any]) -> str:
    """docs/speed.md with the table of the largest problem renewed.

    Parameters
    ----------
    page : str
    of : dict
        ``large`` in ``results.json``.
    """
    return renewed(page, "make bench ARGS=large", large_table(of))


def sentence(of: dict[str, Any]) -> str:
    """The README's sentence.

    Parameters
    ----------
    of : dict
        ``real`` in ``results.json``.
    """
    def words(row: dict[str, Any]) -> str:
        if row["gap"] <= of["tol"]:
            return f"{row['seconds']:.2g} s"
        return f"more than {row['seconds']:.2g} s (its relative gap is then {row['gap']:.1g})"

    easy, hard = (words(of["problems"][name]["after"]) for name in (SYNTHETIC, REAL))
    return (f"At the size of torchidl's Fashion-MNIST tutorial (896 columns, 112 rows, λ = 1e-2) "
            f"one core needs {easy} on synthetic pixels, independent of one another, and {hard} on "
            f"digits resampled to 28 × 28, whose Gram matrix is nearly singular.")


def written(page: str, of: dict[str, Any]) -> str:
    """docs/speed.md with the part on SIM renewed.

    Parameters
    ----------
    page : str
    of : dict
        ``real`` in ``results.json``.
    """
    machine = of["machine"]
    text = [f"Measured on {machine['cores']} cores with torch {machine['torch']}, "
            f"{machine['at once']} solves at once, with {machine['load']:g} processes waiting for "
            f"the cores; limit {of['limit']:g} s.",
            problem_table(of), lasso_table(of), growth_line(of)]
    return renewed(page, "make bench ARGS=real", "\n\n".join(text))


def written_readme(page: str, of: dict[str, Any]) -> str:
    """The README with SIM's sentence renewed.

    Parameters
    ----------
    page : str
    of : dict
        ``real`` in ``results.json``.
    """
    return renewed(page, "make bench ARGS=real", sentence(of))


# ---- pruning --------------------------------------------------------------------------------


def summary(rows: pd.DataFrame) -> dict[str, dict]:
    """Median, lowest and highest over the seeds of each figure, by method and sparsity.

    Parameters
    ----------
    rows : DataFrame
        As `pruning.compare` gives them.
    """
    found: dict[str, dict] = {}
    for (method, sparsity), part in rows.groupby(["method", "sparsity"], sort=False):
        found.setdefault(method, {})[f"{sparsity:g}"] = {
            name: [float(part[name].median()), float(part[name].min()), float(part[name].max())]
            for name in ("accuracy", "fidelity", "states", "weights")}
    return found


def pruning_table(name: str, of: dict[str, dict]) -> str:
    """Accuracy and fidelity of each method.

    Parameters
    ----------
    name : str
        Of the task.
    of : dict
        As `summary` gives it.
    """
    sparsities = list(next(iter(of.values())))
    heads = " | ".join(f"{float(sparsity):.0%} gone" for sparsity in sparsities)
    lines = [f"| {name}: accuracy, fidelity | {heads} |", "| --- " * (len(sparsities) + 1) + "|"]
    for method, rows in of.items():
        cells = " | ".join(
            f"{row['accuracy'][0]:.1%}, {row['fidelity'][0]:.2f}" if row["fidelity"][0] > -1
            else f"{row['accuracy'][0]:.1%}, < −1" for row in rows.values())
        lines.append(f"| {method} | {cells} |".replace(", -", ", −"))
    return "\n".join(lines)


def pruning_sentence(of: dict[str, Any]) -> str:
    """At 80 and 90 %: the best pruned network, the paper's SIM, and those without feedback.

    Parameters
    ----------
    of : dict
        ``pruning`` in ``results.json``.
    """
    def figures(rows: dict[str, dict], name: str, figure: str) -> str:
        form = "{:.1%}" if figure == "accuracy" else "{:.2f}"
        return " and ".join(form.format(rows[name][sparsity][figure][0]).replace("-", "−")
                            for sparsity in ("0.8", "0.9"))

    parts = []
    for task, rows in of.items():
        figure = "accuracy" if "digits" in task else "fidelity"
        best = max((name for name in rows if not name.startswith(pruning.PAPER)),
                   key=lambda name: sum(rows[name][s][figure][0] for s in ("0.8", "0.9")))
        parts.append(f"- {task}, {figure}: " + "; ".join(
            f"{name} {figures(rows, name, figure)}"
            for name in (best, *(f"{name}, refitted" for name in (
                pruning.PAPER, pruning.ORDERED, pruning.ADAPTIVE)),
                f"{pruning.ADAPTIVE}, refitted through")))
    return "At 80 and 90 % gone, beside the best of the pruned networks:\n\n" + "\n".join(parts)


def written_sparsity(page: str, of: dict[str, Any]) -> str:
    """docs/sparsity.md with its measured part renewed.

    Parameters
    ----------
    page : str
    of : dict
        ``pruning`` in ``results.json``.
    """
    return renewed(page, "make bench ARGS=pruning", "\n\n".join(
        [pruning_sentence(of), *(pruning_table(name, rows) for name, rows in of.items())]))
