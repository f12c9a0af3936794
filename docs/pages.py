"""What of the site stands outside docs/: labs, README and its like, pictures; and formulas."""

from __future__ import annotations

import html
import importlib
import re
from os.path import normpath, relpath
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sentences import explained, sentences
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from idl_lab.labs.kit import film
from idl_lab.records import MIME
from idl_lab.runs import editions, gallery, runner, series

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LABS, PROJECT = DOCS / "labs", DOCS / "project"  # written here at each build, and never committed
RUN = ROOT / "build" / "labs"  # by `idl-lab run`: its notebooks hold the films of the panels
VIEW = "application/vnd.jupyter.widget-view+json"
log = logging.getLogger(__name__)


# ---- the labs ------------------------------------------------------------------------------------


def lab_page(notebook: Any) -> Any:
    """A lab as its page shows it, changed in place: a student's, with panels that need no kernel.

    Parameters
    ----------
    notebook : NotebookNode
        As it was saved or run.
    """
    heading = ""
    for cell in editions.student(notebook).cells:
        headings = re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)
        if cell.cell_type != "code":
            heading = headings[-1] if headings else heading
            continue
        cell.outputs = [shown for output in cell.outputs if (shown := without_kernel(output))]
        words = [str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs]
        said = next((text for text in words if text and not text.startswith("<")), heading)
        cell.metadata["mystnb"] = {"image": {"alt": said}}
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}
    return notebook


def without_kernel(output: Any) -> Any:
    """An output as a page can show it; None of one that only a kernel can bring to life.

    Parameters
    ----------
    output : NotebookNode
    """
    data = output.get("data", {})
    if VIEW in data or MIME in data or "idl-lab-state" in data.get("text/html", ""):
        return None  # a panel, a progress bar; a table's numbers; what hides a panel's picture
    if film.MIME in data:
        output.data = {"text/html": film.to_html(data[film.MIME])}
    return output


def stage_labs(titles: bool) -> None:
    """Write the pages of the labs, from a run that is fresh, else as they were saved.

    Parameters
    ----------
    titles : bool
        Their first cells alone, for a quick look at everything else.
    """
    for lab in series.find():
        path, run = lab.path, RUN / lab.path.name
        if not titles and runner.finished(lab, {}, run):
            path = run
        notebook = nbformat.read(path, as_version=4)
        if titles:
            notebook.cells = notebook.cells[:1]
        elif path != run:
            log.info("%s: not run since it changed, so its panels are still", lab.name)
        keep(LABS / lab.path.name, nbformat.writes(lab_page(notebook)))
    names = {lab.path.name for lab in series.find()}
    for gone in set(LABS.iterdir()) - {LABS / name for name in names}:
        gone.unlink()


def keep(path: Path, text: str) -> None:
    """Write a file if that changes it: what did not change is not read again by Sphinx.

    Parameters
    ----------
    path : Path
    text : str
    """
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


# ---- the pages -----------------------------------------------------------------------------------


def moved(text: str, old: Path, new: Path) -> str:
    """Markdown whose links, right in the file `old`, are right in the page `new`.

    Parameters
    ----------
    text : str
    old, new : Path
    """
    def link(found: re.Match) -> str:
        target = Path(normpath(old.parent / found[1]))
        if target.parent == ROOT / "notebooks":
            target = LABS / target.name
        elif target.parent == ROOT and target.suffix == ".md":
            target = PROJECT / target.name
        return f"]({Path(relpath(target, new.parent)).as_posix()}"
    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", link, text)


def stage_project() -> None:
    """Write the pages that stand beside README."""
    for path in ROOT.glob("*.md"):
        page = PROJECT / path.name
        keep(page, moved(path.read_text("utf-8"), path, page))


class Gallery(SphinxDirective):
    """The pictures of `figures/`, each with what its function says of it."""

    def run(self) -> list[nodes.Node]:
        """Return the pictures by lab."""
        found: list[nodes.Node] = []
        topic = ""
        for name, make in gallery.gallery().items():
            module = importlib.import_module(make.__module__)
            if module.__name__ != topic:
                topic = module.__name__
                found.append(nodes.rubric("", (module.__doc__ or "").strip()))
            said = " ".join((make.__doc__ or "").split())
            found.append(nodes.figure("", nodes.image(uri=f"../figures/{name}", alt=said),
                                      nodes.caption("", said)))
        return found


def escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """In a docstring |A| is a size; reStructuredText would look for a substitution of that name.

    Parameters
    ----------
    app, what, name, thing, options : object
        Not used.
    lines : list of str
        Changed in place.
    """
    code_or_bar = re.compile(r"(``.*?``)|\|", re.DOTALL)
    text = code_or_bar.sub(lambda found: found[1] or r"\|", "\n".join(lines))
    lines[:] = text.split("\n")


class Messages(SphinxDirective):
    """The messages of the package by room, but for those that the page itself explains."""

    def run(self) -> list[nodes.Node]:
        """Return a list a room."""
        self.env.note_reread()  # the code may change where this page does not
        known = explained(Path(self.env.doc2path(self.env.docname)).read_text("utf-8"))
        rooms: dict[str, list[str]] = {}
        for said in sentences():
            if re.search(r"\w", said.text) and not any(map(said.says, known)):
                rooms.setdefault(said.module.partition(".")[0], []).append(said.text)
        found: list[nodes.Node] = []
        for room, texts in rooms.items():
            items = [nodes.paragraph("", text) for text in dict.fromkeys(texts)]
            found += [nodes.rubric("", f"idl_lab.{room}"),
                      nodes.bullet_list("", *(nodes.list_item("", item) for item in items))]
        return found


# ---- formulas ------------------------------------------------------------------------------------

ElementTree.register_namespace("", "http://www.w3.org/1998/Math/MathML")


def mathml(tex: str, block: bool) -> str:
    """A formula as MathML, which browsers show without a script.

    Parameters
    ----------
    tex : str
    block : bool
        It stands by itself.

    Raises
    ------
    MathError
        On a command that is not known.
    """
    for wanted, known in ((r"\\([bB]igg?)(?![a-zA-Z])", r"\\\1l"), (r"\\dots(?![a-z])", r"\\ldots"),
                          (r"\\([td]?frac)(\d)(\d)", r"\\\1{\2}{\3}")):
        tex = re.sub(wanted, known, tex)
    # XML knows no &nbsp;
    made = re.sub("&(?!lt|gt|amp)[a-zA-Z]+;", lambda found: html.unescape(found[0]),
                  tex2mathml(tex, as_block=block))
    formula = ElementTree.fromstring(made)
    for part in formula.iter():
        if part.tag.endswith("}mo") and part.text in ("|", "∣", "‖", "∥"):
            # As tall as a letter, so that an index stands beside it, and no space around.
            part.attrib |= {"stretchy": "false", "lspace": "0", "rspace": "0"}
        if part.tag.endswith("}msub") and part[0].tag.endswith("}munder"):
            part.tag = part[0].tag  # what a brace says stands below it
    return ElementTree.tostring(formula, "unicode")


def visit_math(self: Any, node: nodes.Element) -> None:
    """Write a formula into a page.

    Parameters
    ----------
    node : Element
    """
    try:
        self.body.append(mathml(node.astext(), isinstance(node, nodes.math_block)))
    except MathError as error:
        log.warning("%s: %s", error, node.astext(), location=node)
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Bring the pages in, before Sphinx looks for them.

    Parameters
    ----------
    app : Sphinx
    """
    stage_labs(app.tags.has("titles"))
    stage_project()
    app.add_directive("gallery", Gallery)
    app.add_directive("messages", Messages)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", lambda _, name, source: source.__setitem__(0, moved(
        source[0], DOCS / f"{name}.md", DOCS / f"{name}.md")) if "/" not in name else None)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
