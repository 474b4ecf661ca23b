"""What the thoughts of a run say: sections of its report about steps, positions and lengths.

Everything is read from numbers that an evaluation left: `language` and `metrics` of summary.json
(`ponder.evaluation.language`), and the rows of generated.csv.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ponder.reports import figures
from ponder.reports.figures import Curve, Level, note
from ponder.reports.runs import finite
from ponder.tokenizers.vocabulary import pieces

Language = Mapping[str, Any]  # `Language.report` of an evaluation
Metrics = Mapping[str, Any]
Row = Mapping[str, str]

MAX_REPLAYS, MAX_WRONG = 8, 4  # questions to choose from; wrong ones among them
STEPS = re.compile(r"accuracy/(\d+)_steps")
MEASURES = {
    "thought/topographic_similarity": ("topographic similarity", "rank correlation of how "
                                       "different two thoughts and their meanings are"),
    "thought/positional_disentanglement": ("positional disentanglement", "share of what a token "
                                           "can say that is about one meaning more than others")}


# --- what language is it? ------------------------------------------------------------------------

def states(language: Language, metrics: Metrics, rows: Sequence[Row]) -> str:
    """Tokens against what is true after each step: information, dictionary, and thoughts replayed;
    "" where the task names neither states nor features.
    """
    if not language:
        return ""
    return (f'{_measures(metrics)}<div class="grid"><div>{_information(language)}</div>'
            f"<div>{_dictionary(language)}</div></div>{_words_by_position(language)}"
            f"{_replays(language, rows)}")


def _measures(metrics: Metrics) -> str:
    cells = [[name, f"{metrics[key]:.3f}", f'<span class="soft">{said}</span>']
             for key, (name, said) in MEASURES.items() if finite(metrics.get(key))]
    return figures.table(["measure", "value", "what it is"], cells) if cells else ""


def _information(language: Language) -> str:
    """Mutual information of each token of the thought with each state, or feature."""
    known, names = language.get("information") or [], language["attributes"]
    highest = max([*language.get("entropy", []), *(max(row) for row in known)], default=0)
    steps = "states" in language
    what = "the state after each step" if steps else "each property of the answer"
    axes = "state after step" if steps else "property of the answer", "token of the thought"
    drawn = figures.matrix(f"What each token says about {what} (nats)", known,
                           [str(name) for name in names],
                           [str(1 + k) for k in range(len(known))], axes, highest)
    return drawn + note(
        f"Mutual information, without what chance adds. Full colour: the entropy of a "
        f"{'state' if steps else 'property'}, {highest:.2f} nats. A diagonal: token k names what "
        "is true after k steps.") if known else ""


def _dictionary(language: Language) -> str:
    """The table token = state, and how well it reads each position."""
    words = language.get("words") or []
    if not words:
        return ""
    body = [[f"<code>{escape(str(word['state']))}</code>", _token(word["token"]),
             f"{word['of_state']:.1%}", f"{word['of_token']:.1%}", f"{word['steps']:,}"]
            for word in words]
    table = figures.table(["state", "token", "of the state's steps", "of the token's steps",
                           "steps"], body)
    found = language["by_position"]
    places = [float(1 + k) for k in range(len(found["all"]))]
    chart = figures.line_chart("Agreement of tokens and states", {
        "one dictionary for all positions": (places, found["all"]),
        "a dictionary for each position": (places, found["own"])}, from_zero=True, form=".2~%",
        across="position") if len(places) > 1 else ""
    return f"<h3>The token that means a state most often</h3>{table}{chart}"


def _words_by_position(language: Language) -> str:
    """The token for each state (rows) at each position (columns), marked where it is another one
    than over all positions.
    """
    tokens, words = language.get("tokens") or [], language.get("words") or []
    if len(tokens) < 2:
        return ""
    head = "".join(f"<th>{1 + k}</th>" for k in range(len(tokens)))
    body = ""
    for word, used in zip(words, zip(*tokens, strict=True), strict=True):
        cells = "".join(
            f'<td class="{"" if token in (None, word["token"]) else "other"}">'
            f'{escape((token or "").strip("<>"))}</td>' for token in used)
        body += f"<tr><th>{escape(str(word['state']))}</th>{cells}</tr>"
    return ('<h3>The same at each position</h3><div class="scroll"><table class="replay"><tr>'
            f"<th>state</th>{head}</tr>{body}</table></div>") + note(
        "Yellow: another token than over all positions.")


def _token(token: str | None) -> str:
    return figures.coloured(token) if token else "none"


def _replays(language: Language, rows: Sequence[Row]) -> str:
    """Some questions, each with its thought beside the true states; the first one is open."""
    readings = language.get("readings") or []
    rows = [row for row in rows if row.get("states")] if readings else []
    if not rows:
        return ""
    wrong = [row for row in rows if row.get("correct") == "0"][:MAX_WRONG]
    right = [row for row in rows if row.get("correct") != "0"][:MAX_REPLAYS - len(wrong)]
    shown = [*right[:1], *wrong, *right[1:]]
    how = "one dictionary for all positions" if len(readings) == 1 else (
        "a dictionary for each position, as tokens mean different things at different ones")
    return "<h3>Thoughts beside the true states</h3>" + note(
        f"Choose a question. What a token stands for: {how}.") + "".join(
        _replay(row, readings, is_open=row is shown[0]) for row in shown)


def _replay(row: Row, readings: list[dict[str, str]], is_open: bool) -> str:
    tokens = [token for token, kind in pieces(row.get("thought", "")) if kind == "thought"]
    true = row["states"].split()
    count = max(len(tokens), len(true))
    lines: list[list[str]] = [[], [], [], []]
    for k in range(count):
        token, state = (part[k] if k < len(part) else "" for part in (tokens, true))
        said = (readings * count if len(readings) == 1 else readings)[k:k + 1]
        said = said[0].get(token, "") if said else ""
        kind = "" if not (token and state) else "hit" if said == state else "miss"
        mark = {"hit": "✓", "miss": "✗", "": ""}[kind]
        for line, text in zip(lines, (token.strip("<>"), said, state, mark), strict=True):
            line.append(f'<td class="{kind}">{escape(text)}</td>')
    heads = ("token", "stands for", "true state", "")
    body = "".join(f"<tr><th>{head}</th>{''.join(cells)}</tr>"
                   for head, cells in zip(("step", *heads), (
                       [f"<th>{1 + k}</th>" for k in range(count)], *lines), strict=True))
    mark = ('<span class="right">✓</span>' if row.get("correct") == "1" else
            '<span class="wrong">✗</span>')
    asked, said, gold = (figures.coloured(row.get(name, "")) for name in
                         ("question", "answer", "gold"))
    end = f"answered {said}" + (f", right is {gold}" if row.get("correct") == "0" else "")
    return (f'<details name="replay"{" open" * is_open}><summary>{mark} {asked} {end}</summary>'
            f'<div class="scroll"><table class="replay">{body}</table></div></details>')


def over_time(found: dict[str, Curve]) -> str:
    """Mutual information of tokens with the state after as many steps; {t<k>: its curve}."""
    names, most = [*found], len(figures.PALETTE)
    kept = {round(i * (len(names) - 1) / (most - 1)) for i in range(most)}
    curves = {f"token {names[k][1:]}": found[names[k]] for k in sorted(kept)}
    return note("Mutual information (nats) of a token with the state after as many steps.") + (
        f'<div class="half">{figures.line_chart("", curves, from_zero=True)}</div>')


# --- which steps matter? -------------------------------------------------------------------------

def positions(metrics: Metrics, chance: Level | None) -> str:
    """Accuracy with single tokens replaced, and with the first tokens alone; "" where that was not
    tried, or thoughts have one token.
    """
    curves = {"one token replaced, by its position": _numbered(metrics, "necessity/replaced/t"),
              "the first tokens alone, by their number": _numbered(metrics, "necessity/truncated/")}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    if not curves or max(len(steps) for steps, _ in curves.values()) < 3:
        return ""
    return figures.line_chart("Which tokens matter", curves, chance, from_zero=True, form=".2~%",
                              across="token of the thought") + note(
        "A position that falls is one the answer needs. Where the first tokens alone reach the "
        "right end of the curve, the answer was there already. Of the first 128 questions.")


def _numbered(metrics: Metrics, prefix: str) -> Curve:
    """(numbers, values) of the metrics `<prefix><number>`, in order."""
    found = {int(name[len(prefix):]): value for name, value in metrics.items()
             if name.startswith(prefix) and name[len(prefix):].isdecimal()
             and finite(value)}
    return [float(number) for number in sorted(found)], [found[number] for number in sorted(found)]


# --- how long can questions be? ------------------------------------------------------------------

def lengths_of(metrics: Any) -> Curve:
    """(numbers of steps, accuracies) of an evaluation; empty where questions are not grouped so."""
    found = dict(_lengths(metrics)) if isinstance(metrics, Mapping) else {}
    return [float(steps) for steps in sorted(found)], [found[steps] for steps in sorted(found)]


def _lengths(metrics: Metrics) -> Iterator[tuple[int, float]]:
    for name, value in metrics.items():
        match = STEPS.fullmatch(str(name))
        if match and finite(value):
            yield int(match[1]), value


def lengths(metrics: Metrics, chance: Level | None) -> str:
    """Accuracy against the number of steps of a question; "" where all have equally many."""
    curve = lengths_of(metrics)
    return figures.line_chart("Accuracy by number of steps", {"accuracy": curve}, chance,
                              from_zero=True, form=".2~%", across="steps of the question"
                              ) if len(curve[0]) > 1 else ""
