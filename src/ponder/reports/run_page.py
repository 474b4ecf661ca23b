"""report.html: the settings of a run and how it went, in one page that opens offline.

The page forbids itself to load anything. What a run lacks is left out or noted in its
place: a report never costs a run its results.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from ponder.config.errors import replacing
from ponder.config.spine import program
from ponder.core.metrics import wilson_interval
from ponder.reports import figures, language, state
from ponder.reports.browse import index_link
from ponder.reports.figures import Curve, Level, note
from ponder.reports.runs import (
    chance_level,
    finite,
    flatten,
    read_metrics,
    typed_arguments,
    variant_flags,
)
from ponder.tasks.base import long_cells
from ponder.tokenizers.vocabulary import COLOURS, END, END_OF_TEXT, pieces, place

PANELS: dict[str, tuple[str, ...]] = {
    "Loss": ("loss", "thinker_loss", "answer_loss"),
    "Held-out loss (nats per token)": ("val/loss", "val/loss_without"),
    "Accuracy": ("accuracy", "necessity/shuffled", "asked/accuracy", "unasked/accuracy"),
    "Thought entropy (nats)": ("thought_entropy", "thought/token_entropy"),
    "Information about the answer (nats)": ("thought/answer_information", "answer/entropy"),
    "Reward": ("reward", "val/reward"),
    "Value loss": ("value_loss",),
    "KL to the policy that sampled, and to the reference (nats a token)": ("kl_old", "kl"),
    "KL to the reference (nats a text)": ("val/kl",),
    "Correlation with difficulty": ("reward_difficulty", "credit_difficulty"),
    "Learning rate": ("lr",),
}
MAX_POSITIONS, MAX_ANSWERS, MAX_PLACES = 8, 200, 6  # of heat maps; digits of an answer
MAX_ROLLOUTS, MAX_WRONG, MAX_GROUPS = 20, 8, 12  # rows of the table, wrong ones; groups of a panel
NAMES = {"rationale": "thought"}  # columns of generated.csv in earlier versions -> today
REPLACED = {"own": "the thinker's own thoughts", "shuffled": "those of other questions",
            "random": "random tokens", "constant": "one constant token", "dropped": "none"}
FAILURES = {"text/unparsable": "name no answer that can be read",
            "text/truncated": "were cut at the limit of tokens",
            "text/degenerate": "end in a loop"}
OF_THOUGHTS = ("necessity", "carried", "states", "language", "meaning")  # sections
NO_TABLE = "There is no readable val_<step>/generated.csv."


@dataclass(frozen=True)
class RunRecord:
    """summary: summary.json. config: the nested configuration. metrics: the lines of metrics.jsonl.
    rows: those of the last evaluation's generated.csv. arguments: those of the command line.
    """

    summary: dict[str, Any]
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    rows: list[dict[str, str]]
    arguments: tuple[str, ...] = ()

    @property
    def task(self) -> dict[str, Any]:
        return self.config.get("task") or {}

    @property
    def thinks(self) -> bool:
        """False only where the configuration says that there are no thoughts."""
        return (self.config.get("thinker") or {}).get("tokens") != 0


def write_report(directory: Path, summary: dict[str, Any], config: dict[str, Any]) -> None:
    """Write `report.html` into a run directory."""
    run = RunRecord(summary, config, list(read_metrics(directory / "metrics.jsonl")),
                    last_rows(directory), tuple(typed_arguments(directory)))
    body = "\n".join(_section(name, run) for name in SECTIONS
                     if run.thinks or name not in OF_THOUGHTS)
    title = title_of(run) or str(summary.get("run_name") or directory.name)
    with replacing(directory / "report.html") as path:
        path.write_text(figures.page(title, index_link(directory) + body), "utf-8",
                        "xmlcharrefreplace")


def _section(name: str, run: RunRecord) -> str:
    """One section, or "" if there is nothing to show. An error in it becomes a sentence, because
    the run must still be able to finish.
    """
    title, draw = SECTIONS[name]
    try:
        content = draw(run)
    except Exception as error:
        content = note(f"This section could not be drawn: {type(error).__name__}: {error}")
    heading = f"<h2>{title}</h2>" if title else ""
    return f'<section id="{name}">{heading}{content}</section>' if content else ""


# --- what the files say --------------------------------------------------------------------------


def last_rows(directory: Path) -> list[dict[str, str]]:
    """The rows of the last val_<step>/generated.csv; [] if there is no readable one."""
    def step(path: Path) -> int:
        digits = path.parent.name.rpartition("_")[2]
        return int(digits) if digits.isdecimal() else -1

    paths = sorted(directory.glob("val_*/generated.csv"), key=step)
    try:
        with long_cells(), paths[-1].open(newline="", encoding="utf-8", errors="replace") as file:
            return [{NAMES.get(name, name): value or "" for name, value in row.items()
                     if isinstance(name, str)} for row in csv.DictReader(file)]
    except (IndexError, OSError, csv.Error):
        return []


def chance(run: RunRecord) -> Level | None:
    """(label, accuracy) of guessing, or None where it is unknown."""
    return chance_level(run.summary, run.task, len(set(right_answers(run))))


def metrics_of(run: RunRecord) -> dict[str, Any]:
    """The numbers of the last evaluation."""
    return run.summary.get("metrics") or {}


def thought_tokens(run: RunRecord) -> list[list[str]]:
    """The thought tokens of every row, with the end of the thought but without text tokens."""
    return [[token for token, kind in pieces(row.get("thought", ""))
             if kind != "ordinary" and token != END_OF_TEXT] for row in run.rows]


def has_thoughts(run: RunRecord) -> bool:
    """Whether any row holds a thought: thought tokens or text."""
    return any(row.get("thought", "").replace(END, "").strip() for row in run.rows)


def right_answers(run: RunRecord) -> list[str]:
    """The right answer of every row."""
    return [row.get("gold", "").lstrip("#") for row in run.rows]


def answer_digits(run: RunRecord) -> dict[str, list[str]]:
    """{place: its digit in every right answer}, units first; {} if they are not whole numbers."""
    answers = right_answers(run)
    if not all(answer.isdecimal() for answer in answers):
        return {}
    if run.task.get("answer") == "digits" and run.task.get("order") == "least":
        answers = [answer[::-1] for answer in answers]
    width = max(map(len, answers), default=0)
    return {place(i): [answer.zfill(width)[-1 - i] for answer in answers]
            for i in range(min(width, MAX_PLACES))}


def question_count(run: RunRecord) -> float:
    """How many independent questions the accuracy stands for: p (1 - p) / stderr^2 where a standard
    error is known and not 0, else the number of questions in the table.
    """
    accuracy = run.summary.get("accuracy")
    stderr = metrics_of(run).get("accuracy_stderr")
    if finite(accuracy) and finite(stderr) and stderr > 0 and 0 < accuracy < 1:
        return accuracy * (1 - accuracy) / stderr ** 2
    return len({row.get("id", str(number)) for number, row in enumerate(run.rows)})


def metric_curves(run: RunRecord, names: Iterable[str]) -> dict[str, Curve]:
    """{name: (steps, values)} of metrics with a finite value; other values become None."""
    found: dict[str, Curve] = {}
    for name in names:
        points = [(line["step"], line[name]) for line in run.metrics if name in line]
        if any(finite(value) for _, value in points):
            found[name] = figures.downsample(([step for step, _ in points], [
                value if finite(value) else None for _, value in points]))
    return found


# --- sections ------------------------------------------------------------------------------------


def title_of(run: RunRecord) -> str:
    """The experiment, the task and the variants: what tells this page from another's."""
    if not run.task.get("name"):
        return ""
    experiment = [argument.partition("=")[2] for argument in run.arguments
                  if argument.startswith("experiment=")]
    size = f" (max {run.task['max']})" if "max" in run.task else ""
    flags = variant_flags(dict(flatten(run.config))).replace(",", ", ")
    return " · ".join([*experiment[-1:], f"{run.task['name']}{size}",
                       flags if flags != "none" else "no variant"])


def result(run: RunRecord) -> str:
    """The result in one sentence, what the run was, and the command that started it."""
    summary, metrics = run.summary, metrics_of(run)

    def number(name: str, form: str, phrase: str, source: dict[str, Any] = summary) -> str:
        value = source.get(name)
        return phrase.format(f"{value:{form}}") if finite(value) else ""

    reward = number("val/reward", ".4g", "reward {} a text", metrics)
    reward += number("val/reward_stderr", ".2g", " ± {}", metrics) if reward else ""
    parts = [reward, _accuracy(run), number("steps", ",", "{} steps"),
             number("seconds", ",.0f", "{} s of training"),
             number("rollouts_per_second", ",.0f", "{} rollouts/s")]
    revision = str(summary.get("git_revision") or "unknown")
    facts = {"run": summary.get("run_name"), "task": run.task.get("name"),
             "variants": variant_flags(dict(flatten(run.config))),
             "strategy": (run.config.get("strategy") or {}).get("name"),
             "seed": summary.get("seed"), "code": revision[:12] + "+" * revision.endswith("+"),
             "weights": str(summary.get("weights_sha256") or "unknown")[:12],
             "configuration": summary.get("config_hash"), "status": summary.get("status")}
    cells = [f"<span>{name} <code>{escape(str(value))}</code></span>"
             for name, value in facts.items() if value is not None]
    sentence = ", ".join(part for part in parts if part)
    command = f"<pre>{escape(f'{program()} {shlex.join(run.arguments)}')}</pre>"
    said = "".join(note(f"Warning: {line}") for line in summary.get("warnings") or ())
    return (f'<p class="result">{sentence[0].upper()}{sentence[1:]}.</p>{said}'
            f'<p class="facts">{" ".join(cells)}</p>{command if run.arguments else ""}')


def _accuracy(run: RunRecord) -> str:
    """The accuracy with its 95 % Wilson interval, which also holds for few questions."""
    accuracy, count = run.summary.get("accuracy"), question_count(run)
    where = f" on {len(run.rows):,} held-out questions" if run.rows else ""
    if not finite(accuracy):
        return f"accuracy unknown{where}"
    enough = run.task.get("enough")
    phrase = f"accuracy {accuracy:.1%}" if not finite(enough) else (
        f"{accuracy:.1%} of the texts earn {enough:g} or more")
    if count:
        low, high = wilson_interval(accuracy, count)
        phrase += f" (95 % interval {low:.1%} to {high:.1%})"
    return phrase + where


def training(run: RunRecord) -> str:
    """The curves of metrics.jsonl."""
    drawn = []
    for title, names in PANELS.items():
        found = metric_curves(run, names)
        if found:
            accuracy = title == "Accuracy"
            drawn.append(figures.line_chart(title, found, chance(run) if accuracy else None,
                                            accuracy, ".2~%" if accuracy else ""))
    groups = dict.fromkeys(name for line in run.metrics for name in line
                           if name.startswith("accuracy/"))
    found = {name.partition("/")[2]: curve for name, curve in metric_curves(run, groups).items()}
    if len(found) > 1:
        shown = dict(sorted(found.items(), key=lambda entry: figures.natural_order(entry[0])))
        drawn.append(figures.line_chart(
            "Accuracy by group of questions", dict(list(shown.items())[:MAX_GROUPS]),
            from_zero=True, form=".2~%"))
    drawn += filter(None, [language.lengths(metrics_of(run), chance(run))])
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else note(
        "metrics.jsonl is missing or holds no finite number.")


def necessity(run: RunRecord) -> str:
    """Accuracy with the thoughts as they are, and replaced."""
    values: dict[str, float] = {
        name: float(value) for name, value in (run.summary.get("necessity") or {}).items()
        if finite(value)}
    if not values:
        return ""
    if run.rows and not has_thoughts(run):
        return note("All thoughts of the last evaluation are empty: there is nothing to replace.")
    count = question_count(run)
    intervals = {name: wilson_interval(value, count) for name, value in values.items()
                 } if count else {}
    tried = ", ".join(REPLACED.get(name, name) for name in values)
    bars = figures.bar_chart("Accuracy", values, chance(run), intervals)
    by_position = language.positions(metrics_of(run), chance(run))
    return note(f"Accuracy with {tried}. Thoughts that carry the answer lose it in every bar but "
                f"the first.{_not_tried(run, values)} Error bars: 95 % Wilson intervals for "
                f"{count:,.0f} questions.") + (
        f'<div class="grid"><div>{bars}</div><div>{by_position}</div></div>' if by_position else
        f'<div class="half">{bars}</div>')


def _not_tried(run: RunRecord, tried: Iterable[str]) -> str:
    """Which thoughts were not put in place of own ones, and why."""
    left = [name for name in REPLACED if name not in tried]
    why = {"generated": ", as the text holds the answer itself; without a text it is the likeliest "
           "letter", "letter": ", as they make no text", "cloze": ", as they make no text"}
    reason = why.get(str(run.task.get("answer")), "")
    return f" Not tried: {', '.join(REPLACED[name] for name in left)}{reason}." if left else ""


def carried(run: RunRecord) -> str:
    """Whether the thoughts carry the true state: other questions, tokens and states, swaps."""
    return state.carried(run.summary.get("language") or {}, metrics_of(run))


def states(run: RunRecord) -> str:
    """Which token stands for which state of the question, at every step."""
    return language.states(run.summary.get("language") or {}, metrics_of(run), run.rows)


def answers(run: RunRecord) -> str:
    """Which token stands for which digit, and for which answer, at every position."""
    written = thought_tokens(run)
    length = max((sum(token != END for token in thought) for thought in written), default=0)
    if not length:
        return ""
    right, places = right_answers(run), answer_digits(run)
    few = len(set(right)) <= MAX_ANSWERS
    drawn = [note("How often a token is written, given a digit of the right answer" + (
        ", and given the answer." if few else
        f". The {len(set(right)):,} answers are too many for a map of their own.") + (
        f" The first {MAX_POSITIONS} of {length} positions." if length > MAX_POSITIONS else ""))]
    for position in range(min(length, MAX_POSITIONS)):
        tokens = [thought[position] if position < len(thought) else None for thought in written]
        title = f"Thought token {position + 1}"
        if places and not (few and len(places) == 1):  # else the answer is that digit
            drawn.append(figures.heat_maps(f"{title}, by digit of the answer", tokens, places))
        if few:
            drawn.append(figures.heat_maps(f"{title}, by answer", tokens, {"answer": right}))
    return "".join(drawn)


def meaning(run: RunRecord) -> str:
    """Mutual information of each thought token with the digits of the answer, over training."""
    found: dict[str, dict[str, Curve]] = {}
    names = dict.fromkeys(chain.from_iterable(run.metrics))
    for name, points in metric_curves(run, names).items():
        if name.startswith("meaning/t") and name.count("/") == 2:
            _, position, feature = name.split("/")
            found.setdefault(position, {})[feature] = points
    if not found:
        return ""
    if all([*points] == ["step"] for points in found.values()):
        return language.over_time({position: points["step"] for position, points in found.items()})
    level = ("entropy of a digit", math.log(10)) if answer_digits(run) else None
    drawn = [figures.line_chart(f"Thought token {position[1:]}", points, level, from_zero=True)
             for position, points in list(found.items())[:MAX_POSITIONS]]
    return note("Mutual information (nats) of a thought token with each digit of the right answer: "
                "a token that names a digit reaches its entropy.") + (
        f'<div class="grid">{"".join(drawn)}</div>')


def rollouts(run: RunRecord) -> str:
    """Rows of the last evaluation with coloured tokens, some wrong ones first."""
    if not run.rows:
        return note(NO_TABLE)
    wrong = [row for row in run.rows if row.get("correct") == "0"]
    other = [row for row in run.rows if row.get("correct") != "0"]
    shown_wrong = wrong[:max(MAX_WRONG, MAX_ROLLOUTS - len(other))]
    rows = [*shown_wrong, *other[:MAX_ROLLOUTS - len(shown_wrong)]]
    marks = {"0": '<span class="wrong">✗</span>', "1": '<span class="right">✓</span>'}
    names = [name for name in ("question", "thought", "answer", "unread", "gold", "reward")
             if any(row.get(name) for row in rows)]
    body = [[marks.get(row.get("correct", ""), "?"),
             *(figures.coloured(row.get(name, "")) for name in names)] for row in rows]
    colours = ", ".join(f'<span class="{colour}">{kind}</span>' for kind, colour in COLOURS.items())
    order = (f"{len(shown_wrong)} of {len(wrong):,} wrong ones first, then others: their number "
             "says nothing about the accuracy. " if shown_wrong and other else "")
    metrics = metrics_of(run)
    failed = ", ".join(f"{metrics[name]:.1%} {said}" for name, said in FAILURES.items()
                       if finite(metrics.get(name)))
    return (f'<p class="note">{f"Of the texts, {failed}. " if failed else ""}{order}'
            f'Tokens: {colours}.</p>') + figures.table(["", *names], body)


def details(run: RunRecord) -> str:
    """The last value of every metric, and the configuration."""
    import yaml

    last: dict[str, tuple[Any, Any]] = {}
    for line in run.metrics:
        last |= {name: (value, line["step"]) for name, value in line.items() if name != "step"}
    body = [[f"<code>{escape(name)}</code>", f"{value:.6g}" if isinstance(value, int | float)
             else escape(str(value)), str(step)] for name, (value, step) in last.items()]
    text = yaml.safe_dump(json.loads(json.dumps(run.config, default=str)), sort_keys=False)
    table = figures.table(["metric", "value", "step"], body)
    return (f'<div class="columns">{table}</div>' if body else
            note("metrics.jsonl is missing or empty.")) + (
        f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>")


SECTIONS = {"result": ("", result), "training": ("Training", training),
            "necessity": ("Are the thoughts needed?", necessity),
            "carried": ("Do the thoughts carry the true state?", carried),
            "states": ("What language was it?", states),
            "language": ("Which thought stands for which answer", answers),
            "meaning": ("What each token came to mean", meaning),
            "rollouts": ("Sample rollouts of the last evaluation", rollouts),
            "details": ("Final metrics and configuration", details)}
