"""The documentation site: it builds strictly, loads nothing from elsewhere, shows what is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (
        "mkdocs", "material", "mkdocstrings", "latex2mathml")),
    reason="mkdocs is not installed: pip install -e '.[docs]'")]
COPIED = ("docs", "bench", "src", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")


def built(checkout: Path, into: str = "scratch/site") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", into], cwd=checkout, text=True,
        capture_output=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})


def built_with(checkout: Path, page: str, more: str) -> str:
    """What a build says that fails as it must, with something added to a page."""
    path = checkout / "docs" / page
    before = path.read_text("utf-8")
    try:
        path.write_text(f"{before}\n{more}\n", "utf-8")
        done = built(checkout, "scratch/broken")
    finally:
        path.write_text(before, "utf-8")
    assert done.returncode == 1
    return done.stderr + done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the site is made of, with one run in its gallery, and the site."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        place = folder / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    run = folder / "scratch" / "gallery" / "main"
    run.mkdir(parents=True)
    (run / "report.html").write_text("<title>a report</title>")
    (run / "summary.json").write_text(
        '{"accuracy": 0.5, "steps": 3, "seconds": 2.0, "metrics": {}}')
    done = built(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(checkout: Path) -> None:
    site = checkout / "scratch" / "site"
    pages = [*site.rglob("*.html")]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|icon|preconnect|preload)"[^>]*>', text)
        assert not [one for one in loaded if "//" in one], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert "url(http" not in text and "@import" not in text


def test_formulas_are_drawn(checkout: Path) -> None:
    pages = [*(checkout / "scratch" / "site" / "maths").glob("*.html")]
    assert len(pages) == 3
    for page in pages:
        text = page.read_text("utf-8")
        assert text.count("<math") > 10 and "arithmatex" not in text


def test_a_formula_that_is_not_drawn_fails(checkout: Path) -> None:
    said = built_with(checkout, "maths/dpo.md", r"$y = \arg x$")
    assert r"found \arg, which is not drawn" in said


def test_the_gallery_shows_what_is_there_and_says_what_is_missing(checkout: Path) -> None:
    site = checkout / "scratch" / "site"
    page = (site / "gallery.html").read_text("utf-8")
    assert 'href="gallery/main.html"' in page and "accuracy 0.500, 3 steps in 2 s" in page
    assert (site / "gallery" / "main.html").read_text() == "<title>a report</title>"
    assert "not made yet: <code>python bench/gallery.py hidden_state</code>" in page
    assert 'href="gallery/hidden_state.html"' not in page


def test_broken_links_fail(checkout: Path) -> None:
    """Of a page, of a part of a page, and of a part of a page from the root of the checkout."""
    said = built_with(checkout, "start.md",
                      "[x](results.md#nowhere) [x](nowhere.md) [x](../CONTRIBUTING.md#nowhere)")
    assert "'results.md' does not contain an anchor '#nowhere'" in said
    assert "'contributing.md' does not contain an anchor '#nowhere'" in said
    assert "'nowhere.md', but the target is not found" in said
