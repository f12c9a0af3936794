"""The site. `make docs` writes it to build/docs, with no network; `pages.py` brings what stands
outside this folder: the labs, README and its like, the gallery."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import idl_lab  # noqa: E402

project = "idl_lab"
author = "The idl_lab authors"
copyright = author
release = idl_lab.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "sphinx_copybutton", "pages"]
exclude_patterns = ["**.ipynb_checkpoints"]
nitpicky = True
# A docstring's types are words ("Tensor, shape (m, n)"), and `name` in it is a link where there is
# a page. Links that a page spells out are checked.
nitpick_ignore_regex = [("py:(class|exc)", r"(?!idl_lab\.).*"), ("py:obj", ".*")]
suppress_warnings = ["ref.python"]  # of several things called `name` in docstrings

# Read with no kernel: what the notebooks hold is shown.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # else a page with a widget would ask a network for its scripts
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"

autodoc_typehints = "none"  # numpydoc says them
autodoc_member_order = "bysource"
autosummary_generate = False
default_role = "autolink"  # `name` in a docstring: a link where it is one of ours
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80

html_theme = "furo"
pygments_dark_style = "monokai"
html_title = "idl_lab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which one opened from a disk may not
copybutton_exclude = ".linenos, .gp, .go"

# `python -m sphinx -b linkcheck docs build/links` asks the network, so no test does.
linkcheck_timeout = 20
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)"]
