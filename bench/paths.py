"""Where things are. Importing this makes `ponder` importable from the source, installed or not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))


def fill(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end name -->` of a page."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)"
    page.write_text(re.sub(pattern, lambda found: found[1] + text + found[2], page.read_text(),
                           flags=re.S))
