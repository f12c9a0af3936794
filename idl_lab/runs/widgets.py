"""What went wrong in a notebook's widgets, which only their saved state tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDGETS = "application/vnd.jupyter.widget-state+json"
_VIEW = "application/vnd.jupyter.widget-view+json"


def widget_error(notebook: Any) -> str:
    """The error that a callback left in an Output widget, where no cell shows it; else "".

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Executed, with the state of its widgets.
    """
    state = notebook.metadata.get("widgets", {}).get(_WIDGETS, {}).get("state", {})
    for model, entry in state.items():
        for output in entry["state"].get("outputs", []):
            if output["output_type"] == "error":
                text = " ".join(f"{output['ename']}: {output['evalue']}".split())
                return f"{_cell_showing(model, notebook, state)}{text} (in a widget's callback)"
    return ""


def _cell_showing(model: str, notebook: Any, state: Mapping[str, Any]) -> str:
    """`cell 7: ` for the first code cell whose output shows the model or a box that holds it."""
    for cell in notebook.cells:
        shown = [output.get("data", {}).get(_VIEW, {}).get("model_id")
                 for output in cell.get("outputs", [])]
        seen: set[str] = set()
        while shown:
            current = shown.pop()
            if current == model:
                return f"cell {cell.execution_count}: "
            if current in state and current not in seen:
                seen.add(current)
                children = state[current]["state"].get("children", [])
                shown += [child.removeprefix("IPY_MODEL_") for child in children]
    return ""
