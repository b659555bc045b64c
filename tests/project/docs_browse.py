"""Opens every page of the site in Chromium, as a desktop and as a phone: `make docs-browse`.

What fails it: a link or an anchor that leads nowhere, a request to another host, an error on the
console, an equation that is not drawn, an image that is not there, a page that scrolls sideways at
375 pixels, a search for "resets" that finds nothing. Screenshots of four pages go beside the site.

Chromium is the one on PATH (Debian: `apt-get install chromium`), else Playwright's own.
"""

import functools
import http.server
import shutil
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from playwright.sync_api import (
    Browser,
    BrowserType,
    ConsoleMessage,
    Error,
    Page,
    Route,
    sync_playwright,
)

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"desktop": (1280, 900), "phone": (375, 720)}
SHOWN = ("docs/index", "docs/cells", "docs/site/performance", "docs/site/generated/fastcells.LSTM")
#: Of a page: targets of its links, its anchors, and what is wrong in it.
LOOK = """() => ({
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    anchors: [...document.querySelectorAll("[id]")].map(e => e.id),
    undrawn: [...document.querySelectorAll(".math")].filter(
        e => !e.querySelector("mjx-container svg") || e.querySelector("mjx-merror")
    ).map(e => e.textContent.slice(0, 60)),
    lost: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
})"""
#: By how much the page, or the theme's box around its text, is wider than it is shown.
HIDDEN = """() => Math.max(
    ...[document.documentElement, ...document.querySelectorAll(".content")].map(
        e => e.scrollWidth - e.clientWidth))"""


@dataclass
class Site:
    """What has been seen: pages by address, and problems."""

    folder: Path
    root: str
    anchors: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, set[str]] = field(default_factory=dict)  # target -> the pages that have it
    problems: list[str] = field(default_factory=list)

    def address(self, path: Path) -> str:
        return self.root + path.relative_to(self.folder).as_posix()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def open_page(page: Page, url: str) -> None:
    """Until the equations are drawn."""
    page.goto(url)
    if page.query_selector(".math"):
        page.wait_for_function("window.MathJax?.startup?.promise")
        page.evaluate("() => MathJax.startup.promise")


def set_size(page: Page, size: str) -> None:
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})


def look_at(page: Page, site: Site, url: str) -> None:
    """Opens a page and notes what is on it."""
    set_size(page, "desktop")
    open_page(page, url)
    found = page.evaluate(LOOK)
    name = url.removeprefix(site.root)
    site.problems += [f"{name}: the equation {text!r} is not drawn" for text in found["undrawn"]]
    site.problems += [f"{name}: the image {source} is not there" for source in found["lost"]]
    site.anchors[url] = set(found["anchors"])
    for link in found["links"]:
        site.links.setdefault(link, set()).add(name)
    set_size(page, "phone")
    hidden = page.evaluate(HIDDEN)
    if hidden > 0:
        site.problems.append(f"{name}: scrolls sideways on a phone, by {hidden} pixels")


def check_links(site: Site) -> None:
    for link, pages in site.links.items():
        target, anchor = urldefrag(link)
        if not target.startswith(site.root):
            if urlsplit(target).scheme not in ("https", "http", "mailto"):
                site.problems.append(f"{min(pages)}: {link} is no link")
            continue
        path = site.folder / unquote(target.removeprefix(site.root))
        path = path / "index.html" if path.is_dir() else path
        known = site.anchors.get(site.address(path))
        if not path.is_file() or (anchor and known is not None and unquote(anchor) not in known):
            site.problems.append(f"{min(pages)}: {link.removeprefix(site.root)} leads nowhere")


def check_search(page: Page, site: Site, word: str, expected: str) -> None:
    page.goto(urljoin(site.root, f"search.html?q={word}"))
    page.wait_for_function("document.querySelector('#search-results p')?.innerText.length > 0")
    page.wait_for_timeout(1500)
    hits = page.eval_on_selector_all("#search-results li a", "list => list.map(a => a.href)")
    if not any(expected in hit for hit in hits):
        site.problems.append(f"search for {word!r} does not find {expected}: {hits[:5]}")
    print(f"docs-browse: search for {word!r}: {len(hits)} pages")


def watch(page: Page, site: Site) -> None:
    """Notes errors on the console and requests that leave this machine."""

    def note(what: str) -> None:
        site.problems.append(f"{page.url.removeprefix(site.root)}: {what}")

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            note(f"console: {message.text}")

    def stay_here(route: Route) -> None:
        if route.request.url.startswith(site.root):
            route.continue_()
        else:
            note(f"asks for {route.request.url}")
            route.abort()

    page.on("console", listen)
    page.on("pageerror", lambda error: note(str(error)))
    page.route("**/*", stay_here)


def take_pictures(page: Page, site: Site, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        for size in SIZES:
            set_size(page, size)
            open_page(page, f"{site.root}{name}.html")
            page.screenshot(path=folder / f"{name.rpartition('/')[2]}-{size}.png")


def launch(chromium: BrowserType) -> Browser:
    """The browser, or an end that says where to get one."""
    try:
        return chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--no-sandbox"],  # the pages are our own; root, as in a container, has no sandbox
        )
    except Error as error:
        raise SystemExit(
            "docs-browse: needs Chromium: `apt-get install chromium`, or `playwright install "
            f"chromium` ({error.message.splitlines()[0]})"
        ) from None


def browse(site: Site, pictures: Path) -> int:
    """Opens all pages; the number of them."""
    start = site.folder / "index.html"  # sends on to the page that it names
    paths = sorted(path for path in site.folder.rglob("*.html") if path != start)
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        page = browser.new_page()
        watch(page, site)
        for path in paths:
            look_at(page, site, site.address(path))
        page.goto(site.root)
        page.wait_for_url(f"{site.root}docs/index.html")
        check_search(page, site, "resets", "docs/cells.html")
        take_pictures(page, site, pictures)
        browser.close()
    check_links(site)
    return len(paths)


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve()
    if not (folder / "index.html").is_file():
        print(f"docs-browse: {folder} has no index.html: run `make docs`", file=sys.stderr)
        return 1
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = Site(folder, f"http://127.0.0.1:{server.server_port}/")
        count = browse(site, folder.parent / "site-pictures")
        server.shutdown()
    for problem in sorted(set(site.problems)):
        print(f"docs-browse: {problem}", file=sys.stderr)
    print(f"docs-browse: {count} pages, {len(site.links)} links, {len(site.problems)} problems")
    return 1 if site.problems else 0


if __name__ == "__main__":
    sys.exit(main())
