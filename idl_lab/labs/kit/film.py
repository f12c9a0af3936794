"""A panel where no kernel is: pictures made beforehand, and HTML that shows the chosen one."""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets

MIME = "application/vnd.idl-lab.film+json"
_CSS, _JS = (Path(__file__).with_name(name).read_text("utf-8") for name in ("film.css", "film.js"))


def reach(control: ipywidgets.Widget, value: Any) -> list:
    """The values that a control can take, in its order; only its own of a kind not known here.

    Of a choice of several: what is chosen, and each option alone.

    Parameters
    ----------
    control : widget
    value : object
        Where it stands.
    """
    if isinstance(control, ipywidgets.SelectMultiple):
        return [value, *((option,) for option in control.options if (option,) != value)]
    if isinstance(control, ipywidgets.IntSlider | ipywidgets.FloatSlider):
        steps = math.floor((control.max - control.min) / control.step + 1e-9)
        values = [round(control.min + k * control.step, 9) for k in range(steps + 1)]
        return values if value in values else sorted([*values, value])
    if isinstance(value, bool):
        return [False, True]
    options = list(getattr(control, "options", ()))
    return options if value in options else [value]


def settings(reaches: Mapping[str, list], values: Mapping[str, Any], pictures: int, main: str
             ) -> list[dict[str, Any]]:
    """What a film of that many pictures shows, beginning with ``values``.

    Every combination if there are so few. Else each control is moved alone, the others where
    they stand: with fewer values of each, all combinations would hide how the picture moves. And
    the main control alone where there are not eight pictures for each.

    Parameters
    ----------
    reaches : mapping of str to list
        Of each control, as from `reach`.
    values : mapping of str to object
        Where the controls stand.
    pictures : int
        At most so many.
    main : str
        The control that gets as many pictures as all others together, if it has them.
    """
    if math.prod(map(len, reaches.values())) <= pictures:
        found = [dict(zip(reaches, chosen, strict=True))
                 for chosen in itertools.product(*reaches.values())]
        return sorted(found, key=lambda setting: setting != dict(values))
    moved = [dict(values)]
    names = list(reaches) if pictures >= 8 * len(reaches) else [main]
    left, weights = pictures - 1, {name: 1 for name in names}
    weights[main] = max(1, len(names) - 1)
    # Those with few values first: what they leave is for the others.
    for name in sorted(names, key=lambda name: len(reaches[name])):
        share = left * weights[name] // sum(weights.values())
        some = _some(reaches[name], values[name], share + 1)
        moved += [dict(values) | {name: value} for value in some if value != values[name]]
        left -= len(some) - 1
        del weights[name]
    return moved


def _some(values: list, value: Any, count: int) -> list:
    """So many of the values, evenly spread from end to end, with the one that is named."""
    if count >= len(values):
        return values
    at, last = values.index(value), len(values) - 1
    chosen = [round(k * last / (count - 1)) for k in range(count)] if count > 1 else [at]
    chosen[min(range(count), key=lambda k: abs(chosen[k] - at))] = at
    return [values[k] for k in chosen]


def to_html(film: Mapping[str, Any]) -> str:
    """HTML with its own style and script; more than one of them may stand on a page.

    Parameters
    ----------
    film : mapping
        As from `Panel.film`, or read from an output of that MIME type.

    Raises
    ------
    ValueError
        If it is no film.
    """
    try:
        whole = _is_whole(**film)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        whole = False
    if not whole:
        raise ValueError("this is no film of a panel.")
    words, (first, *others) = film["frames"][0]["words"], film["pictures"]
    moves = {name: film[name] for name in ("controls", "frames")} | {"pictures": others}
    # An end tag inside the data would end the script.
    data = json.dumps(moves, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<figure class="idl-lab-film"><style>{_CSS}</style>
<div class="idl-lab-film-controls"></div>
<div class="idl-lab-film-picture">
<img src="data:image/png;base64,{html.escape(first)}" alt="{html.escape(words)}"
  style="width: {film['width']}px; min-width: {film['least']}px"></div>
<figcaption></figcaption><div class="idl-lab-film-words" role="status"></div>
<script type="application/json">{data}</script><script>{_JS}</script></figure>
"""


def _is_whole(controls: list, frames: list, pictures: list, width: int, least: int) -> bool:
    """Whether every frame has its place and its picture: what a file holds may be anything."""
    counts = [len(control["values"]) for control in controls]
    return (all(isinstance(number, int) for number in (width, least))
            and all(isinstance(text, str) for control in controls
                    for text in (control["label"], *control["values"]))
            and all(isinstance(text, str) for text in pictures)
            and frames[0]["picture"] == 0 and all(
                isinstance(frame["words"], str) and len(frame["at"]) == len(counts)
                and all(at in range(count) for at, count in zip(frame["at"], counts, strict=True))
                and (frame["picture"] is None or frame["picture"] in range(len(pictures)))
                for frame in frames))
