"""The panel that all labs use: controls above one picture that is replaced in place."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ipywidgets
import torch
import traitlets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.kit import film, places
from idl_lab.labs.kit.canvas import forget, packed, png, readout, small_png, smallest_text
from idl_lab.records import PICTURES

LETTERS = 9  # pixels: smaller ones are not read from the last row
PAUSE = 1.0  # seconds without a change after which the notebook gets the last picture
# Taken out of it: asked of this kernel, not of those that it starts, as a lab does that sweeps.
_asked = os.environ.pop(PICTURES, "") if get_ipython() else ""
FILMED = int(_asked) if _asked.isdigit() else 0
_PAGE = "".join(f"<{tag}>{Path(__file__).with_name(name).read_text('utf-8')}</{tag}>"
                for tag, name in (("style", "panel.css"), ("script", "panel.js")))


class Panel(ipywidgets.VBox):
    """Controls bound to one drawing function.

    The picture keeps its size and its bytes are replaced, so nothing flickers and the page
    does not jump. While the reader drags, only the newest position is drawn: events that
    arrive during a redraw are merged. From code, `set` draws at once and lets errors through,
    so that a headless run fails on them.

    Shown in a notebook, a panel leaves its last picture there as an output of its own, which is
    seen wherever no kernel is; ``panel.css`` hides it while the panel lives. In a headless run
    (see `filmed`) that output also keeps pictures of other settings, which the report moves.

    A cell that is run again closes the panel that it showed before, unless another cell shows it
    too: the kernel would keep every one of them.

    Parameters
    ----------
    draw : callable
        Takes every control's value by name and the figure of the last call as ``figure``
        (None at first); returns the figure.
    controls : mapping of str to widget
    play : tuple of (str, widget), optional
        A control's name and the `ipywidgets.Play` that drives it.

    Attributes
    ----------
    redraws : int
        Pictures made so far.
    figure : Figure
    """

    def __init__(self, draw: Callable[..., Figure], controls: Mapping[str, ipywidgets.Widget],
                 play: tuple[str, ipywidgets.Play] | None = None) -> None:
        self._draw, self.controls = draw, dict(controls)
        self.figure, self.redraws, self._waiting = None, 0, False
        self._in_notebook, self._keeping = False, None
        self._unfilmed, self._filmed, self._kept_film = None, None, None
        self._image = ipywidgets.Image(format="png")
        self._state = ipywidgets.HTML(layout={"display": "none"})
        self._message = ipywidgets.HTML(layout={"height": "22px"})
        shown = list(self.controls.values())
        if play is not None:
            name, player = play
            # Linked in the browser: playing goes on while the kernel draws. The link gives its
            # first end's value to the second: the other way round a panel would open at step 0.
            self._links = [ipywidgets.jslink((self.controls[name], "value"), (player, "value"))]
            shown.insert(shown.index(self.controls[name]), player)
        for control in self.controls.values():
            control.observe(self._changed, "value")
        sliders = [name for name, control in self.controls.items() if hasattr(control, "min")]
        self._main = play[0] if play else (sliders or list(self.controls) or [""])[0]
        self._redraw()
        width = round(self.figure.bbox.width)
        # The picture shrinks with its cell, down to letters of that height; then it scrolls.
        least = math.ceil(width * min(1, LETTERS / smallest_text(self.figure)))
        self._least = least
        # One by one: a new layout would leave the first one in the kernel for good.
        for name, value in {"width": f"{width}px", "max_width": "100%", "min_width": f"{least}px",
                            "height": "auto", "margin": "0"}.items():
            setattr(self._image.layout, name, value)
        box = ipywidgets.HBox(shown, layout={"flex_flow": "row wrap", "align_items": "center"})
        super().__init__([box, self._image, self._message, self._state],
                         layout={"overflow": "auto hidden"})
        self.add_class("idl-lab-panel")

    @property
    def text(self) -> str:
        """The state in words: every control's value, and what the picture's titles say."""
        return self._words(self.values, self.figure)

    def _words(self, values: Mapping[str, Any], figure: Figure) -> str:
        said = (f"{self.controls[name].description} {_said(value)}"
                for name, value in values.items())
        return ", ".join(said) + ". " + readout(figure)

    @property
    def values(self) -> dict:
        """The controls' values by name, numbers rounded to nine decimals."""
        values = {name: control.value for name, control in self.controls.items()}
        return {name: round(value, 9) + 0.0 if isinstance(value, float) else value
                for name, value in values.items()}

    @property
    def picture(self) -> bytes:
        """The picture as it is shown, a PNG file."""
        return bytes(self._image.value)

    @property
    def message(self) -> str:
        """What the panel says below the picture: the error of the last move, or nothing."""
        return html.unescape(self._message.value)

    def close(self) -> None:
        """Let go of widgets, figure and what the drawing function remembers; it moves no more."""
        # ipywidgets closes what is left when Python ends, and nothing can be imported any more.
        if self.comm is None or sys.is_finalizing():
            return
        if self._keeping is not None:
            self._keeping.cancel()
        for widget in places.parts(self):
            ipywidgets.Widget.close(widget)
        forget(self.figure)
        self._draw = self.figure = self._kept_film = None

    def set(self, **values) -> None:
        """Move controls by name, a slider to its nearest step, and draw once, at once.

        Parameters
        ----------
        **values
            By the controls' names.

        Raises
        ------
        ValueError
            On a name that no control has, or a value outside a control's range.
        """
        unknown = sorted(set(values) - set(self.controls))
        if unknown:
            raise ValueError(f"no control is called {', '.join(unknown)}; "
                             f"there is {', '.join(self.controls)}.")
        for name, value in values.items():  # all are checked before any is moved
            control = self.controls[name]
            if isinstance(control, ipywidgets.SelectMultiple):
                for choice in value:
                    validation.choice(name, choice, control.options)
            elif hasattr(control, "options"):
                validation.choice(name, value, control.options)
            else:
                validation.real(name, value, at_least=control.min, at_most=control.max)
        for control in self.controls.values():
            control.unobserve(self._changed, "value")
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            for control in self.controls.values():
                control.observe(self._changed, "value")
        self._redraw()
        self._keep()

    def to_html(self, pictures: int = 40) -> str:
        """The panel as HTML that moves without a kernel, over pictures made now.

        With its own style and script; several may stand on a page. The panel itself stays as it is.

        Parameters
        ----------
        pictures : int
            At most so many. If all combinations of the controls' values are not more, these; else
            each control moves alone, the others where they stand; and with fewer than eight
            pictures for each control, the main one alone.
        """
        return film.to_html(self._film(pictures))

    def _film(self, pictures: int) -> dict[str, Any]:
        """What `film.to_html` takes. A setting that fails has its error instead of a picture."""
        validation.integer("pictures", pictures, at_least=1)
        settings = self._settings(pictures)
        values = {name: [value for value in film.reach(control, settings[0][name])
                         if any(setting[name] == value for setting in settings)]
                  for name, control in self.controls.items()}
        figure, encoded, frames = None, {}, []  # a figure of its own: the panel's is left alone
        for setting in settings:
            try:
                with _one_thread():
                    figure = self._draw(**setting, figure=figure)
                picture = encoded.setdefault(small_png(figure), len(encoded))
                words = self._words(setting, figure)
            except Exception as error:
                picture, words = None, f"{type(error).__name__}: {error}"
            frames.append({"at": [values[name].index(value) for name, value in setting.items()],
                           "picture": picture, "words": words})
        controls = [{"label": control.description, "values": [_said(v) for v in values[name]],
                     "slider": not isinstance(control, ipywidgets.Dropdown
                                              | ipywidgets.SelectMultiple)}
                    for name, control in self.controls.items()]
        return {"controls": controls, "frames": frames,
                "pictures": [base64.b64encode(picture).decode() for picture in encoded],
                "width": round(self.figure.bbox.width), "least": self._least}

    def _settings(self, pictures: int) -> list[dict[str, Any]]:
        """What a film shows: the controls' values, the present ones first."""
        values = self.values
        reaches = {name: film.reach(control, values[name])
                   for name, control in self.controls.items()}
        return film.settings(reaches, values, pictures, self._main)

    def _redraw(self) -> None:
        if self._draw is None:
            raise RuntimeError("this panel is closed, since the cell that showed it was run again; "
                               "make another one.")
        with _one_thread():
            self.figure = self._draw(**self.values, figure=self.figure)
        self._image.value = png(self.figure)
        self._state.value = _hidden(self.text)
        self._message.value = ""
        self.redraws += 1

    def _keep(self) -> None:
        """Put the picture as it is now into the notebook's document."""
        if self._in_notebook:
            self._publish(update=True)

    def _publish(self, update: bool) -> None:
        text, bundle = self.text, super()._repr_mimebundle_()
        self._image.value = packed(self._image.value)  # saved with the widgets' state as well
        kept = {"image/png": base64.b64encode(self._image.value).decode(), "text/plain": text}
        for name, data in (("state", {"text/html": _hidden(text) + _PAGE}), ("picture", kept)):
            display(data, raw=True, display_id=f"{name} {self.model_id}", update=update)
        self._unfilmed = kept
        if not update:
            display(bundle | {"text/plain": f"Panel({self.values})"}, raw=True)

    def _ipython_display_(self) -> None:
        if FILMED and not self._in_notebook:
            # At the end of a cell, not at every move: a lab's assertions move its panel.
            get_ipython().events.register("post_run_cell", lambda _: self._keep_film(FILMED))
        if self._draw is None:
            self._redraw()  # says that it is closed
        self._in_notebook = True
        places.take(self)
        self._publish(update=False)

    def _keep_film(self, pictures: int) -> None:
        if self._unfilmed is None:
            return  # nothing was published since
        key = self._settings(pictures), self.text
        if key != self._filmed:
            self._filmed, self._kept_film = key, self._film(pictures)
        display(self._unfilmed | {film.MIME: self._kept_film}, raw=True,
                display_id=f"picture {self.model_id}", update=True)
        self._unfilmed = None

    def _changed(self, change: dict) -> None:
        try:
            loop = asyncio.get_running_loop() if _from_browser(change["owner"]) else None
        except RuntimeError:
            loop = None
        if loop is None:
            self._redraw()
            self._keep()
        elif not self._waiting:
            # Messages already queued are applied before this runs; all but the last are stale.
            self._waiting = True
            loop.call_later(0.005, self._redraw_later)

    def _redraw_later(self) -> None:
        self._waiting = False
        if self._draw is None:
            return  # closed while a message was on its way
        self._shown(self._redraw)
        if self._keeping is not None:
            self._keeping.cancel()
        self._keeping = asyncio.get_running_loop().call_later(PAUSE, self._keep)

    def _shown(self, call: Callable[[], None]) -> None:
        """Call from the loop: nothing above that frame would show an error."""
        try:
            call()
        except Exception as error:
            self._say(error)
            traceback.print_exc()

    def _say(self, error: BaseException) -> None:
        self._message.value = html.escape(f"{type(error).__name__}: {error}")


def _hidden(text: str) -> str:
    return f'<span class="idl-lab-state" hidden>{html.escape(text)}</span>'


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(_said, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A panel's matrices are small: on a busy machine threads wait longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _from_browser(control: ipywidgets.Widget) -> bool:
    """ipywidgets holds this lock exactly while it applies a message from the browser."""
    return bool(getattr(control, "_property_lock", None))


class _FloatSlider(ipywidgets.FloatSlider):
    """A slider whose values are those that the browser's slider can take, to the last bit.

    The browser moves what it is given to the slider's nearest step and, if that is another
    number (0.9899999999999999 for 0.99), sends it back. That echo would undo a move that code
    made meanwhile, or pass for the reader's. Of a value moved by the same arithmetic (noUiSlider
    counts in per cent of the range) there is none.
    """

    @traitlets.validate("value")
    def _validate_value(self, proposal: traitlets.Bunch) -> float:
        value = super()._validate_value(proposal)
        reach = self.max - self.min
        step = 100 * self.step / reach
        at = math.floor(100 * (value - self.min) / reach / step + 0.5) * step
        return self.max if value >= self.max or at >= 100 else at * reach / 100 + self.min


def slider(value: float, low: float, high: float, step: float, label: str) -> ipywidgets.Widget:
    """A labelled slider, whole numbers if ``step`` is one.

    Parameters
    ----------
    value : float
        Where it starts.
    low, high, step : float
    label : str
    """
    validation.real(label, value, at_least=low, at_most=high)
    kind = ipywidgets.IntSlider if isinstance(step, int) else _FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=label, tooltip=label,
                style={"description_width": "initial"}, layout={"width": "260px"})


def dropdown(value: str, options: tuple[str, ...], label: str) -> ipywidgets.Dropdown:
    """A labelled choice.

    Parameters
    ----------
    value : str
        The option that is chosen first.
    options : tuple of str
    label : str
    """
    validation.choice(label, value, options)
    return ipywidgets.Dropdown(value=value, options=options, description=label,
                               style={"description_width": "initial"}, layout={"width": "190px"})


def player(steps: int) -> ipywidgets.Play:
    """Play and pause buttons that count from 0 to ``steps``, three a second."""
    return ipywidgets.Play(value=0, min=0, max=steps, step=1, interval=300,
                           show_repeat=False, layout={"width": "130px"})
