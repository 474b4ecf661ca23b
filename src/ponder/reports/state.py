"""Do the thoughts of a run carry the true state? The section of its report beside the necessity
table: other questions asked about the thoughts, states against tokens, and swaps of tokens.

Everything is read from numbers that an evaluation left: `language` and `metrics` of summary.json
(`ponder.evaluation.language` and `swaps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ponder.reports import figures
from ponder.reports.figures import note
from ponder.reports.runs import finite

Counts = Sequence[Sequence[int]]  # of states (rows) and tokens (columns)

ASKED = {"accuracy": ("the question itself", "right answers, as above"),
         "asked/accuracy": ("others, asked in training", "right answers to other questions about "
                            "the same thoughts"),
         "unasked/accuracy": ("others, never asked", "the same for questions that training leaves "
                              "out")}
MEASURES = {
    "thought/state_agreement": ("agreement", "steps whose state is the one that their token means "
                                "most often"),
    "thought/state_agreement_by_position": ("agreement, step by step", "the same with a dictionary "
                                            "of its own for each step"),
    "thought/state_agreement_one_to_one": ("one to one", "the same as agreement where each state "
                                           "has a token of its own"),
    "thought/states_apart": ("states told apart", "states whose most frequent token means them "
                             "most often; the others share theirs")}
SWAPS = {
    "swap/same_state": ("swapped, same state", "answers that stay as they are where a token is "
                        "another thought's, with the same true state at that step"),
    "swap/other_state": ("swapped, another state", "answers that become those of the other state, "
                         "of which the last token is"),
    "swap/earlier_state": ("swapped earlier", "answers that become those of the state that follows "
                           "from another one, of which an earlier token is, the thinker going on")}


def carried(language: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Measures, and the table of states and tokens; "" where the task names no states and nothing
    else was asked.
    """
    rows = [*(_rows(metrics, ASKED) if finite(metrics.get("asked/accuracy")) else []),
            *_rows(metrics, MEASURES), *_codes(language, metrics), *_rows(metrics, SWAPS)]
    if not rows:
        return ""
    table = figures.table(["measure", "value", "what it is"], [
        [name, value, f'<span class="soft">{escape(said)}</span>'] for name, value, said in rows])
    confusion = _confusion(language)
    return f'<div class="grid"><div>{table}</div><div>{confusion}</div></div>{_steps(language)}'


def _rows(metrics: Mapping[str, Any], names: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    before = metrics.get("swap/before")
    added = f" ({before:.1%} are so without the swap)" if finite(before) else ""
    return [[name, f"{metrics[key]:.1%}", said + added * (key == "swap/other_state")]
            for key, (name, said) in names.items() if finite(metrics.get(key))]


def _codes(language: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[list[str]]:
    """How many tokens there are for how many states."""
    codes, counts = metrics.get("thought/codes"), language.get("confusion") or []
    if not finite(codes):
        return []
    return [["tokens used", f"{codes:.0f}", f"for {sum(map(any, counts))} states that occur"]]


def _confusion(language: Mapping[str, Any]) -> str:
    """The table of all steps, and what it says."""
    counts = language.get("confusion") or []
    if not counts:
        return ""
    return f"<h3>True states and tokens, all steps</h3>{_table(language, counts)}" + note(
        "How many steps have a state (rows) and a token (columns, in the order of the states that "
        "they mean). Colour: share of the state's steps. Thoughts that name the state have one "
        "dark cell in each row, and no two of them share a column.")


def _steps(language: Mapping[str, Any]) -> str:
    """The same at each step, to be opened."""
    tables = language.get("confusion_by_position") or []
    if len(tables) < 2:
        return ""
    drawn = "".join(f"<div><h3>Step {1 + k}</h3>{_table(language, counts)}</div>"
                    for k, counts in enumerate(tables))
    return (f"<details><summary>True states and tokens at each step</summary>"
            f'<div class="grid">{drawn}</div></details>')


def _table(language: Mapping[str, Any], counts: Counts) -> str:
    """Counts (C, V), without the states and tokens that never occur."""
    used = [v for v, column in enumerate(zip(*counts, strict=True)) if any(column)]
    means = {v: max(range(len(counts)), key=lambda c, v=v: counts[c][v]) for v in used}
    order = sorted(used, key=lambda v: (means[v], v))
    names, states = language["confusion_tokens"], language["states"]
    head = "".join(f"<th>{escape(names[v].strip('<>'))}</th>" for v in order)
    body = "".join(f"<tr><th>{escape(str(states[c]))}</th>"
                   f"{''.join(_cell(row[v], sum(row)) for v in order)}</tr>"
                   for c, row in enumerate(counts) if any(row))
    return ('<div class="scroll"><table class="replay"><tr><th>state</th>'
            f"{head}</tr>{body}</table></div>")


def _cell(count: int, total: int) -> str:
    """A cell, the darker the more of the state's steps it has; empty for 0."""
    shade = 0.6 * count / total
    return (f'<td style="background:rgba(36,110,225,{shade:.2f})">{count:,}</td>' if count
            else "<td></td>")
