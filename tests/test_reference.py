"""docs/config.md says what the code says."""

from __future__ import annotations

from pathlib import Path

from ponder.check import leaves
from ponder.config import SCHEMAS, AnswererConfig, ThinkerConfig
from ponder.reference import page

PAGE = Path(__file__).parents[1] / "docs" / "config.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page() + "\n", "run: python -m ponder.reference > docs/config.md"


def test_every_key_has_a_sentence() -> None:
    for schema in (ThinkerConfig, AnswererConfig, *(s for g in SCHEMAS.values()
                                                    for s in g.values())):
        for key, _, about in leaves(schema()):
            assert about.get("doc"), key
