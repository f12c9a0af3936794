"""Which cell shows which panel: one that is run again closes what it showed before."""

from __future__ import annotations

import ipywidgets
from IPython import get_ipython

# By cell, which run of it showed which panels last.
_places: dict[str, tuple[str, list[ipywidgets.Widget]]] = {}


def take(panel: ipywidgets.Widget) -> None:
    """Close what an earlier run of the present cell showed, except where another cell shows it.

    Parameters
    ----------
    panel : Widget
        Which is shown now.
    """
    parent = getattr(get_ipython(), "get_parent", dict)() or {}
    cell, run = parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id")
    if cell is None:
        return  # not every front end tells
    last, before = _places.get(cell, (run, []))
    _places[cell] = run, [panel] if last != run else [*before, panel]
    if last != run:
        shown = [each for _, panels in _places.values() for each in panels]
        for old in before:
            if not any(old is each for each in shown):
                old.close()


def parts(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """A widget and all that it is made of: its children, their layouts, styles and links.

    Parameters
    ----------
    widget : Widget
    """
    found = [widget]
    for each in found:
        values = [getattr(each, name) for name in each.keys]
        values += getattr(each, "_links", [])
        for value in values:
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(part, ipywidgets.Widget) and not any(part is one for one in found):
                    found.append(part)
    return found
