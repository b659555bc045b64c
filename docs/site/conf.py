"""Sphinx' configuration. The source folder is the repository, so that links between pages, to
CONTRIBUTING.md and to the code lead where they lead on a code host: `make docs`."""

import importlib.util
import sys
from pathlib import Path

from pygments.lexers import TextLexer

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from fastcells import __version__  # noqa: E402

project = "fastcells"
author = "The fastcells authors"
version = release = __version__
html_title = f"fastcells {__version__}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "references",
    "source_pages",
]

root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "docs/kernels/*.md", "docs/site/**", "CONTRIBUTING.md", "CHANGELOG.md",
    "benchmarks/README.md", "examples/data/README.md",
]  # fmt: skip
exclude_patterns = [
    "docs/beyond_torch.md",  # the index is made of it
    "docs/site/templates", "docs/site/static", ".venv", "build", "csrc", "fastcells", "tests",
]  # fmt: skip
templates_path = [str(Path(__file__).parent / "templates")]  # Sphinx takes relative ones as of ROOT

nitpicky = True

# Markdown
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
highlight_language = "none"  # of fences without a language

# Docstrings
default_role = "code"
add_module_names = False
autosummary_generate_overwrite = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field of a NamedTuple is a member already
napoleon_custom_sections = [("Args of a call", "params_style")]

# Pages. MathJax in one file, whose glyphs are drawn and need no fonts: works without a network.
mathjax_path = "tex-svg.js"
_mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
html_theme = "furo"
html_static_path = ["static", str(_mathjax / "static/mathjax/tex-svg.js")]
html_css_files = ["site.css"]
html_extra_path = ["index.html"]
html_copy_source = False
html_use_index = html_domain_indices = False  # docs/site/api.rst is the index of names
html_show_sphinx = False
html_permalinks_icon = "#"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f3f77", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#8fb4ea", "color-brand-content": "#8fb4ea"},
}


def drop_missing_pages(app, docname, source):
    """Of the index, the lines of the navigation with a * that match no page."""
    if docname == root_doc:
        lines = source[0].splitlines()
        here = ROOT / "docs"
        source[0] = "\n".join(
            line for line in lines if not line.endswith("*") or any(here.glob(f"{line}.md"))
        )


def setup(app):
    app.connect("source-read", drop_missing_pages)
    app.add_lexer("mermaid", TextLexer)  # which Pygments does not know
