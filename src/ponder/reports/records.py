"""What a run left on disk, read back: metrics, the last evaluation's rows, what they say.

Whatever is missing or broken is left out; nothing here raises for it.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ponder.config.spine import Config, variants
from ponder.tokenizers.spelling import END_OF_TEXT, pieces, place

MOST_PLACES = 6  # digits of an answer that are told apart


@dataclass(frozen=True)
class Run:
    """What a report is made from; lines are those of metrics.jsonl, rows the last evaluation's."""

    summary: dict[str, Any]
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    rows: list[dict[str, str]]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The readable lines of a metrics.jsonl; none where it is missing."""
    found = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and finite(content.get("step")):
            found.append(content)
    return found


def last_rows(directory: Path) -> list[dict[str, str]]:
    """The rows of the last val_<step>/generated.csv; none where there is no readable one."""
    paths = sorted(directory.glob("val_*/generated.csv"),
                   key=lambda path: _step(path.parent.name))
    try:
        with paths[-1].open(newline="", encoding="utf-8", errors="replace") as file:
            return [{name: value or "" for name, value in row.items() if isinstance(name, str)}
                    for row in csv.DictReader(file)]
    except (IndexError, OSError, csv.Error):
        return []


def _step(name: str) -> int:
    """The number in val_<step>."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else -1


def finite(value: object) -> bool:
    """Whether it is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def chance(run: Run) -> tuple[str, float] | None:
    """(name, accuracy) of guessing: 1 / number of answers, from the task or from the table."""
    told = (run.summary.get("metrics") or {}).get("chance")
    if told is not None and finite(told):
        return "chance", float(told)
    task = run.config.get("task") or {}
    if task.get("name") in ("text", "corpus"):  # where some words are likelier than others
        return None
    answers = task.get("max") if task.get("modular") else len(set(golds(run)))
    return (f"chance, 1/{answers}", 1 / answers) if answers and answers > 1 else None


def in_force(config: dict[str, Any]) -> str:
    """The variant flags of a configuration, as the command line would say them."""
    class Node(dict):
        __getattr__ = dict.__getitem__

    try:
        node = json.loads(json.dumps(config, default=str), object_hook=Node)
        return ",".join(variants(cast(Config, node))) or "none"
    except (KeyError, TypeError, AttributeError):
        return "unknown"


def thoughts(run: Run) -> list[list[str]]:
    """The thought tokens of every row, end-of-thought among them, and no words of a text."""
    return [[word for word, kind in pieces(row.get("thought", ""))
             if kind != "ordinary" and word != END_OF_TEXT] for row in run.rows]


def golds(run: Run) -> list[str]:
    """The right answer of every row."""
    return [row.get("gold", "").lstrip("#") for row in run.rows]


def digits(run: Run) -> dict[str, list[str]]:
    """{place: its digit in every right answer}, units first; {} if they are not whole numbers."""
    answers = golds(run)
    if not all(answer.isdecimal() for answer in answers):
        return {}
    task = run.config.get("task") or {}
    if task.get("answer") == "digits" and task.get("order") == "least":
        answers = [answer[::-1] for answer in answers]
    width = max(map(len, answers), default=0)
    return {place(i): [answer.zfill(width)[-1 - i] for answer in answers]
            for i in range(min(width, MOST_PLACES))}
