"""Pages of the files and folders of the repository that the documents link to.

A relative link to ../csrc/ops.h reads the file on a code host. Here it leads to source/csrc/ops.h,
a page with the file's text; a link to a folder leads to a list of what is in it. What is no text,
or long, is copied as it is.
"""

import shutil
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 200_000  # bytes of a file that is shown: budgets keep code below, results are longer
LEXERS = {".h": "cpp", ".cu": "cuda", ".cuh": "cuda"}
NOT_SHOWN = ("__pycache__", "*.so", "*.egg-info", ".*")


class SourceLinks(SphinxTransform):
    """Turns links to what is no document into links to its page."""

    default_priority = 300  # before downloads are collected

    def apply(self, **options) -> None:
        here = Path(self.env.doc2path(self.env.docname)).parent
        for node in list(self.document.findall(is_open)):
            target, _, anchor = node["reftarget"].partition("#")
            if target.removesuffix(".md").endswith("docs/beyond_torch"):
                node["reftarget"] = self.config.root_doc
                continue
            path = (here / target).resolve()
            if node.get("refdomain") == "doc" or not target or not is_shown(path):
                continue
            self.env.source_paths.add(path)
            uri = self.app.builder.get_relative_uri(self.env.docname, page_name(path))
            uri = uri if has_page(path) else uri.removesuffix(".html")
            reference = nodes.reference(
                "", "", *node.children, refuri=uri + (f"#{anchor}" if anchor else ""), internal=True
            )
            node.replace_self(reference)


def is_open(node: nodes.Node) -> bool:
    """Whether MyST has left it to others where a link leads."""
    return isinstance(node, download_reference) or (
        isinstance(node, pending_xref) and node.get("reftype") in ("myst", "doc")
    )


def is_shown(path: Path) -> bool:
    inside = path.is_relative_to(ROOT) and path != ROOT and path.exists()
    parts = path.relative_to(ROOT).parts if inside else ()
    return inside and not any(Path(p).match(pattern) for p in parts for pattern in NOT_SHOWN)


def page_name(path: Path) -> str:
    return "source/" + path.relative_to(ROOT).as_posix()


def has_page(path: Path) -> bool:
    if path.is_dir():
        return True
    data = path.read_bytes()
    return len(data) <= LONGEST and b"\0" not in data


def write_pages(app: Sphinx, error: Exception | None) -> None:
    """Writes the page of every path; other files are copied."""
    if error is not None:
        return
    template = Path(__file__).with_name("source.html").read_text(encoding="utf-8")
    for path in sorted(with_contents(app.env.source_paths)):
        target = Path(app.outdir, page_name(path) + (".html" if has_page(path) else ""))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not has_page(path):
            shutil.copyfile(path, target)
            continue
        title = path.relative_to(ROOT).as_posix()
        page = {
            "title": escape(title),
            "root": "../" * (title.count("/") + 1),
            "start": f"{app.config.root_doc}.html",
            "body": list_folder(path) if path.is_dir() else show_file(path),
        }
        target.write_text(Template(template).substitute(page), encoding="utf-8")


def with_contents(paths: set[Path]) -> set[Path]:
    """The paths, and of folders all that is below them."""
    return paths | {p for path in paths for p in path.rglob("*") if is_shown(p)}


def list_folder(path: Path) -> str:
    entries = sorted((p for p in path.iterdir() if is_shown(p)), key=lambda p: (p.is_file(), p))
    items = []
    for entry in entries:
        target = f"{path.name}/{entry.name}" + (".html" if has_page(entry) else "")
        shown = escape(entry.name + ("/" if entry.is_dir() else ""))
        items.append(f'<li><a href="{quote(target)}">{shown}</a></li>')
    return f"<ul>{''.join(items)}</ul>"


def show_file(path: Path) -> str:
    alias = LEXERS.get(path.suffix)
    try:
        lexer = get_lexer_by_name(alias) if alias else get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    return highlight(path.read_text(encoding="utf-8"), lexer, formatter)


class SourceRole(SphinxRole):
    """:source:`csrc/ops.h` in reST, where a link to a path is no link to a page."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        path = ROOT / self.text
        if not is_shown(path):
            return [], [self.inliner.reporter.error(f"no file {self.text}", line=self.lineno)]
        self.env.source_paths.add(path)
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page_name(path))
        return [nodes.reference("", "", nodes.literal("", self.text), refuri=uri)], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", lambda app: setattr(app.env, "source_paths", set()))
    app.connect("build-finished", write_pages)
    app.add_transform(SourceLinks)
    app.add_role("source", SourceRole())
    return {"parallel_read_safe": False, "parallel_write_safe": True}
