"""What the library says when something is wrong, read from its code."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "idl_lab"


class Sentence(NamedTuple):
    """One message: where it is said, as what, and its words, with … for what a call fills in."""

    module: str
    kind: str
    text: str

    def says(self, part: str) -> bool:
        """Whether a part of a message, with … for what a call fills in, is of this one.

        Parameters
        ----------
        part : str
        """
        return _pattern(part).search(self.text) is not None


@functools.cache
def _pattern(part: str) -> re.Pattern:
    return re.compile(".*".join(map(re.escape, part.split("…"))))


def explained(page: str) -> list[str]:
    """The messages that a page explains: those in bold code.

    Parameters
    ----------
    page : str
        Its Markdown.
    """
    return re.findall(r"\*\*`([^`]+)`\*\*", page)


def sentences() -> Iterator[Sentence]:
    """Every message of the package, in the order of its modules."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        tree = ast.parse(path.read_text("utf-8"))
        # What _sentence() makes, and constants: said elsewhere, by a name.
        named = [node.value for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
                 and function.name == "_sentence" for node in ast.walk(function)
                 if isinstance(node, ast.Return)]
        named += [node.value for node in tree.body if isinstance(node, ast.Assign)]
        for text in map(words, filter(None, named)):
            text = re.sub(r"\{\w*\}", "…", text)
            if len(re.findall(r"\w+", text)) > 6 and text.endswith("."):
                yield Sentence(module.removesuffix(".__init__"), "", text)
        for node in ast.walk(tree):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            said = ast.unparse(call.func)
            if isinstance(node, ast.Raise) or said in ("warnings.warn", "warn"):
                kind = "Warning" if not isinstance(node, ast.Raise) else said
                if text := words(call.args[0]):
                    yield Sentence(module.removesuffix(".__init__"), kind, text)


def words(node: ast.expr) -> str:
    """The fixed words of an expression that makes a text.

    Parameters
    ----------
    node : expr
    """
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    return "…"
