"""report.html: one page that opens offline.

Everything is in the file, plotly.js too, and the page forbids itself to load anything else. What a
run lacks is said in the place where it would stand: a report never costs a run its results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from ponder.reports import figures
from ponder.reports.figures import Curve, note
from ponder.reports.records import (
    Run,
    chance,
    digits,
    finite,
    golds,
    in_force,
    last_rows,
    read_lines,
    thoughts,
)
from ponder.tokenizers.spelling import COLOURS, END

PANELS: dict[str, tuple[str, ...]] = {
    "Loss": ("loss", "thinker_loss", "answer_loss"),
    "Held-out loss (nats per token)": ("val/loss", "val/loss_without"),
    "Accuracy": ("accuracy", "necessity/shuffled"),
    "Thought entropy (nats)": ("thought_entropy", "thought/token_entropy"),
    "Information about the answer (nats)": ("thought/answer_information", "answer/entropy"),
    "Reward": ("reward", "val/reward"),
    "Value loss": ("value_loss",),
    "KL to the policy that sampled, and to the reference (nats a token)": ("kl_old", "kl"),
    "KL to the reference (nats a text)": ("val/kl",),
    "Correlation with difficulty": ("reward_difficulty", "credit_difficulty"),
    "Learning rate": ("lr",),
}
POSITIONS, ANSWERS = 8, 200  # the most that heat maps show
ROLLOUTS, WRONG = 20, 8  # sample rows, wrong ones of them
OF_THOUGHTS = ("necessity", "language", "meaning")  # sections
NO_TABLE = "There is no readable val_<step>/generated.csv."


def write_report(directory: Path, summary: dict[str, Any], config: dict[str, Any]) -> None:
    """Write `report.html` into a run directory."""
    run = Run(summary, config, read_lines(directory / "metrics.jsonl"), last_rows(directory))
    thinks = (config.get("thinker") or {}).get("tokens") != 0
    body = "\n".join(_section(name, run) for name in SECTIONS if thinks or name not in OF_THOUGHTS)
    title = str(summary.get("run_name") or directory.name)
    (directory / "report.html").write_text(figures.page(title, body), encoding="utf-8")


def _section(name: str, run: Run) -> str:
    """One section; an error in it becomes a sentence, as the run must still be able to finish."""
    title, draw = SECTIONS[name]
    try:
        content = draw(run)
    except Exception as error:
        content = note(f"This section could not be drawn: {type(error).__name__}: {error}")
    heading = f"<h2>{title}</h2>" if title else ""
    return f'<section id="{name}">{heading}{content}</section>'


def curves(run: Run, names: Iterable[str]) -> dict[str, Curve]:
    """{name: (steps, values)} of those metrics that have a finite value; None for other values."""
    found: dict[str, Curve] = {}
    for name in names:
        points = [(line["step"], line[name]) for line in run.lines if name in line]
        if any(finite(value) for _, value in points):
            found[name] = figures.thin(([step for step, _ in points], [
                value if finite(value) else None for _, value in points]))
    return found


# --- sections ------------------------------------------------------------------------------------

def result(run: Run) -> str:
    """The result in one sentence, and what the run was."""
    summary, metrics = run.summary, run.summary.get("metrics") or {}

    def said(name: str, form: str, words: str, source: dict[str, Any] = summary) -> str:
        value = source.get(name)
        return words.format(f"{value:{form}}") if finite(value) else ""

    accuracy = said("accuracy", ".1%", "accuracy {}") or "accuracy unknown"
    accuracy += said("accuracy_stderr", ".1%", " ± {}", metrics)
    accuracy += f" on {len(run.rows):,} held-out questions" if run.rows else ""
    parts = [accuracy, said("steps", ",", "{} steps"), said("seconds", ",.0f", "{} s of training"),
             said("rollouts_per_second", ",.0f", "{} rollouts/s")]
    revision = str(summary.get("git_revision") or "unknown")
    facts = {"variants": in_force(run.config), "seed": summary.get("seed"),
             "code": revision[:12] + "+" * revision.endswith("+"),
             "weights": str(summary.get("weights_sha256") or "unknown")[:12],
             "configuration": summary.get("config_hash"), "status": summary.get("status")}
    cells = [f"<span>{name} <code>{escape(str(value))}</code></span>"
             for name, value in facts.items() if value is not None]
    sentence = ", ".join(part for part in parts if part)
    return (f'<p class="result">{sentence[0].upper()}{sentence[1:]}.</p>'
            f'<p class="facts">{" ".join(cells)}</p>')


def training(run: Run) -> str:
    """The curves of metrics.jsonl."""
    drawn = []
    for title, names in PANELS.items():
        found = curves(run, names)
        if found:
            accuracy = title == "Accuracy"
            drawn.append(figures.lines(title, found, chance(run) if accuracy else None, accuracy))
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else note(
        "metrics.jsonl is missing or holds no finite number.")


def necessity(run: Run) -> str:
    """Accuracy with the thoughts as they are, and replaced."""
    values = {name: float(value) for name, value in (run.summary.get("necessity") or {}).items()
              if finite(value)}
    if not values:
        return note("The summary holds no necessity table.")
    if run.rows and not any(set(thought) - {END} for thought in thoughts(run)):
        return note("This run has no thoughts: there is nothing to replace.")
    return note("Accuracy with the thinker's own thoughts, with thoughts shuffled across "
                "questions, of random tokens, of one constant token, and with none. Thoughts that "
                "carry the answer lose it in every bar but the first."
                ) + f'<div class="half">{figures.bars("Accuracy", values, chance(run))}</div>'


def language(run: Run) -> str:
    """Which token stands for which digit, and for which answer, at every position."""
    if not run.rows:
        return note(NO_TABLE)
    written = thoughts(run)
    length = max(sum(word != END for word in thought) for thought in written)
    if not length:
        return note("This run has no thoughts to map.")
    answers, places = golds(run), digits(run)
    few = len(set(answers)) <= ANSWERS
    drawn = [note("How often a token is written, given a digit of the right answer" + (
        ", and given the answer." if few else
        f". The {len(set(answers)):,} answers are too many for a map of their own.") + (
        f" The first {POSITIONS} of {length} positions." if length > POSITIONS else ""))]
    for position in range(min(length, POSITIONS)):
        tokens = [thought[position] if position < len(thought) else None for thought in written]
        title = f"Thought token {position + 1}"
        if places:
            drawn.append(figures.maps(f"{title}, by digit of the answer", tokens, places))
        if few:
            drawn.append(figures.maps(f"{title}, by answer", tokens, {"answer": answers}))
    return "".join(drawn)


def meaning(run: Run) -> str:
    """Mutual information of each thought token with the digits of the answer, over training."""
    found: dict[str, dict[str, Curve]] = {}
    for name, points in curves(run, dict.fromkeys(chain.from_iterable(run.lines))).items():
        if name.startswith("meaning/t") and name.count("/") == 2:
            _, position, feature = name.split("/")
            found.setdefault(position, {})[feature] = points
    if not found:
        return note("The metrics hold no meaning/t<k>/<feature>.")
    level = ("entropy of a digit", math.log(10)) if digits(run) else None
    drawn = [figures.lines(f"Thought token {position[1:]}", points, level, from_zero=True)
             for position, points in list(found.items())[:POSITIONS]]
    return note("Mutual information (nats) of a thought token with each digit of the right answer: "
                "a token that names a digit reaches its entropy.") + (
        f'<div class="grid">{"".join(drawn)}</div>')


def rollouts(run: Run) -> str:
    """Some rows of the last evaluation in colour, wrong ones first."""
    if not run.rows:
        return note(NO_TABLE)
    wrong = [row for row in run.rows if row.get("correct") == "0"]
    other = [row for row in run.rows if row.get("correct") != "0"]
    wrong = wrong[:max(WRONG, ROLLOUTS - len(other))]
    marks = {"0": '<span class="wrong">✗</span>', "1": '<span class="right">✓</span>'}
    names = ("question", "thought", "answer", "gold")
    body = [[marks.get(row.get("correct", ""), "?"),
             *(figures.coloured(row.get(name, "")) for name in names)]
            for row in [*wrong, *other[:ROLLOUTS - len(wrong)]]]
    key = ", ".join(f'<span class="{colour}">{kind}</span>' for kind, colour in COLOURS.items())
    return f'<p class="note">Tokens: {key}.</p>' + figures.table(["", *names], body)


def details(run: Run) -> str:
    """The last value of every metric, and the configuration."""
    import yaml

    last: dict[str, tuple[Any, Any]] = {}
    for line in run.lines:
        last |= {name: (value, line["step"]) for name, value in line.items() if name != "step"}
    body = [[f"<code>{escape(name)}</code>", f"{value:.6g}" if isinstance(value, int | float)
             else escape(str(value)), str(step)] for name, (value, step) in last.items()]
    text = yaml.safe_dump(json.loads(json.dumps(run.config, default=str)), sort_keys=False)
    metrics = f'<div class="columns">{figures.table(["metric", "value", "step"], body)}</div>'
    return (metrics if body else note("metrics.jsonl is missing or empty.")) + (
        f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>")


SECTIONS = {"result": ("", result), "training": ("Training", training),
            "necessity": ("Are the thoughts needed?", necessity),
            "language": ("Which thought stands for which answer", language),
            "meaning": ("What each token came to mean", meaning),
            "rollouts": ("Sample rollouts of the last evaluation", rollouts),
            "details": ("Final metrics and configuration", details)}
