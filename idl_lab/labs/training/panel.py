"""The tolerance panel: how exactly the state equation has to be solved."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.labs.kit.panel import Panel, slider
from idl_lab.labs.training.plots import draw_tolerance
from idl_lab.labs.training.problems import tolerance_study
from idl_lab.model import ImplicitModel

LOW, HIGH, PER_DECADE = -5, 0, 2


def tolerance_panel(model: ImplicitModel, U: Tensor, labels: Tensor, digits: float = -1.0) -> Panel:
    """Loosen the solver's tolerance; watch error, margins and the class scores of one image.

    Parameters
    ----------
    model : ImplicitModel
        Trained, with ‖A‖∞ < 1.
    U : Tensor, shape (m, p)
        Images, at least one.
    labels : Tensor, shape (m,)
    digits : float
        Where the slider for log₁₀ rtol starts, in [−5, 0] by halves.

    Returns
    -------
    Panel
        Controls: digits, image.
    """
    grid = [k / PER_DECADE for k in range(LOW * PER_DECADE, HIGH * PER_DECADE + 1)]
    U, labels = U.to(model.C.device), labels.to(model.C.device)
    table, scores, exact = tolerance_study(model, U, labels, [10.0 ** d for d in grid])
    best = exact.topk(2, dim=1).values
    margins = best[:, 0] - best[:, 1]

    def draw(digits: float, image: int, figure: Figure | None) -> Figure:
        at = round((digits - LOW) * PER_DECADE)
        return draw_tolerance(table, margins, table.index[at], scores[at, image], exact[image],
                              figure=figure)

    controls = {"digits": slider(digits, LOW, HIGH, 1 / PER_DECADE, "log₁₀ rtol"),
                "image": slider(int(margins.argmin()), 0, len(U) - 1, 1, "image")}
    return Panel(draw, controls)
