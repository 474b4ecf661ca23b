"""docs/config.md says what the code says."""

from __future__ import annotations

from pathlib import Path

from ponder.cli.help import keys_page
from ponder.config.checker import leaves
from ponder.config.spine import AnswererConfig, ThinkerConfig, schemas

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == keys_page() + "\n", \
        "run: python -m ponder.cli.help > docs/config.md"


def test_every_key_has_a_sentence() -> None:
    groups = ("task", "model", "rollout", "strategy", "trainer", "logger")
    for schema in (ThinkerConfig, AnswererConfig, *(one for group in groups
                                                    for one in schemas(group).values())):
        for key, _, about in leaves(schema()):
            assert about.get("doc"), key
