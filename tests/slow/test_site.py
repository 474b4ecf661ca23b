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
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (
        "mkdocs", "material", "mkdocstrings", "latex2mathml")),
    reason="mkdocs is not installed: pip install -e '.[docs]'")]
COPIED = ("docs", "bench", "src", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")


def built(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build"], cwd=checkout, text=True, capture_output=True,
        check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})


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
        assert "url(http" not in sheet.read_text("utf-8") and "@import" not in sheet.read_text("utf-8")


def test_formulas_are_drawn(checkout: Path) -> None:
    pages = [*(checkout / "scratch" / "site" / "maths").glob("*.html")]
    assert len(pages) == 3
    for page in pages:
        text = page.read_text("utf-8")
        assert text.count("<math") > 10 and "arithmatex" not in text and "\\frac" not in text


def test_the_gallery_shows_what_is_there_and_says_what_is_missing(checkout: Path) -> None:
    site = checkout / "scratch" / "site"
    page = (site / "gallery.html").read_text("utf-8")
    assert 'href="gallery/main.html"' in page and "accuracy 0.500, 3 steps in 2 s" in page
    assert (site / "gallery" / "main.html").read_text() == "<title>a report</title>"
    assert "not made yet: <code>python bench/gallery.py hidden_state</code>" in page
    assert 'href="gallery/hidden_state.html"' not in page


@pytest.mark.parametrize(("link", "said"), [
    ("[x](results.md#nowhere)", "does not contain an anchor '#nowhere'"),
    ("[x](nowhere.md)", "the target is not found"),
    ("[x](../CONTRIBUTING.md#nowhere)", "does not contain an anchor '#nowhere'")])
def test_a_broken_link_fails(checkout: Path, link: str, said: str) -> None:
    page = checkout / "docs" / "start.md"
    before = page.read_text("utf-8")
    config = checkout / "mkdocs.yml"
    whole = config.read_text("utf-8")
    try:
        page.write_text(f"{before}\n{link}\n", "utf-8")
        done = built(checkout)
    finally:
        page.write_text(before, "utf-8")
        config.write_text(whole, "utf-8")
    assert done.returncode == 1 and said in done.stderr
