"""What the site does beside mkdocs: pages from the root of the checkout, reports, formulas.

- README.md, CONTRIBUTING.md and CHANGELOG.md are pages of the site, and links to them, or from them
  into docs/, work on the site as they do in the checkout.
- Reports that `bench/gallery.py` has made in scratch/gallery/ are files of the site; the page
  gallery.md lists these, and says of the others how they are made.
- Formulas become MathML, which browsers draw by themselves: no script, no font, no network.
"""

from __future__ import annotations

import posixpath
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md",
         "CHANGELOG.md": "changes.md"}
ALONE = ("index.md", "start.md", "gallery.md", "results.md")  # pages without neighbours
GALLERY = ROOT / "scratch" / "gallery"
LINK = re.compile(r"(?<=\]\()([\w./-]+)(?=[#)])")
SPACE = '<mspace width="0.17em"></mspace>'
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and the reports that are there."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    for report in sorted(GALLERY.glob("*/report.html")):
        files.append(File.generated(config, f"gallery/{report.parent.name}.html",
                                    abs_src_path=str(report)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and the root of the checkout, as links of the site; the gallery."""
    source = page.file.src_uri
    if source in ALONE:
        page.meta["hide"] = ["navigation"]
    if source == "gallery.md":
        sys.path.insert(0, str(ROOT / "bench"))
        import gallery

        markdown = gallery.listed(markdown)
    there = {page: name for name, page in PAGES.items()}.get(source, f"docs/{source}")
    return LINK.sub(lambda found: _moved(found[1], there, source), markdown)


def _moved(link: str, there: str, source: str) -> str:
    """A link of the file `there` in the checkout, as one of the page `source` of the site."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(there), link))
    page = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    if page is None:
        return link
    return posixpath.relpath(page, posixpath.dirname(source) or ".")


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, with the thin space that belongs around the name of a function."""
    drawn = FORMULA.sub(_drawn, html)
    return re.sub(r"(<mi>log</mi>)", rf"{SPACE}\1{SPACE}", drawn)


def _drawn(found: re.Match[str]) -> str:
    """The MathML of a formula. Raises `PluginError` for a command of LaTeX that stays one."""
    formula = unescape(found[2]).strip()
    mathml = convert(formula, display="block" if found[1] == "div" else "inline")
    left = re.search(r">(\\\w*)<", mathml)
    if left:
        raise PluginError(f"found {left[1]}, which is not drawn, in the formula {formula}")
    return mathml
