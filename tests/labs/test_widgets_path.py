"""The panel of the path of λ."""

from __future__ import annotations

import pandas as pd
import pytest

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_solvers.panel import path_panel


def path(lambdas=(10.0, 0.316227766, 0.01), chosen: int = 1) -> pd.DataFrame:
    return pd.DataFrame({
        "fidelity": [0.1, 0.9, 0.999], "accuracy": [0.3, 0.8, 0.85], "nonzeros": [10, 300, 400],
        "gap": [0.0, 1e-7, 1e-6], "chosen": [k == chosen for k in range(3)]},
        index=pd.Index(lambdas, name="lambda"))


def panel(**options):
    paths = {name: {"as fitted": path(), "refitted": path(chosen=2)} for name in ("one", "two")}
    return path_panel(paths, {"one": 0.9, "two": 1.0}, **options)


def verdict(shown) -> str:
    return canvas.moving(shown.figure.axes[0])["verdict"].get_text()


def test_it_opens_at_the_chosen_lambda_and_follows_its_controls():
    shown = panel()
    assert shown.values == {"teacher": "one", "way": "as fitted", "lam": "0.316228"}
    assert shown.redraws == 1 and "fidelity 0.90000" in verdict(shown)
    assert list(shown.controls["lam"].options) == ["0.01", "0.316228", "10"]
    before, figure = shown.picture, shown.figure
    for move, said in (({"lam": "0.01"}, "λ = 0.01, as fitted: fidelity 0.99900"),
                       ({"way": "refitted"}, "λ = 0.01, refitted"), ({"teacher": "two"}, "λ = 0")):
        shown.set(**move)
        assert shown.picture != before and shown.figure is figure and said in verdict(shown)
        before = shown.picture
    assert verdict(shown).endswith("Chosen: λ = 0.01")
    assert set(canvas.moving(figure.axes[1])["teacher"].get_ydata()) == {1.0}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: panel(lam=0.3), "lam='0.3' is not known; there is 0.01"),
    (lambda: path_panel({"one": {"a": path(), "b": path((10.0, 1.0, 0.01))}}, {"one": 1.0}),
     "the same λ in all tables"),
])
def test_it_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
