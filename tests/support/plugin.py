"""The examples of CONTRIBUTING.md, as files outside of the repository."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
PLUGINS = ("plugins=[my_tasks,my_questions,my_rewards,my_strategies,my_searches,my_trackers,"
           "my_verifiers]")


def examples() -> dict[str, str]:
    """File -> text: of Python the first line is the name of the file."""
    page = PAGE.read_text()
    found = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page, re.DOTALL)
    presets = re.findall(r"`(my/\w+/\w+\.yaml)`:\n\n```yaml\n(.*?)```", page, re.DOTALL)
    return {**{name: text for text, name in found}, **dict(presets)}


def write_plugins(folder: Path) -> None:
    """Write all of them into a folder."""
    for name, text in examples().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
