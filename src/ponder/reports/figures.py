"""What a report is drawn with, plain data in and HTML out: figures, tables, tokens, the page.

Figures are dictionaries, not plotly's graph objects: those take longer to import than to draw, and
repeat a template of 7 kB in every figure. Colours without a background read on light and on dark.
"""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from ponder.tokenizers.spelling import COLOURS, pieces

Curve = tuple[list[float], list[float | None]]
Table = dict[str, dict[str, float]]
Figure = dict[str, Any]

POINTS, TOKENS, LONGEST = 2000, 40, 400  # of a curve; in a heat map; characters of a text
PALETTE = ("#2f7de1", "#e8590c", "#2b9348", "#c2255c", "#9775fa", "#868e96")
MAIN, MUTED, FAINT = PALETTE[0], PALETTE[-1], "rgba(128,128,128,0.25)"
INTENSITY = [[0, "rgba(36,110,225,0)"], [1, "rgba(36,110,225,1)"]]
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #22262c; --soft: #69707a; --rule: #e3e6ea;
  --box: #f6f7f9; --blue: #1d4fd7; --cyan: #0b7a8a; --magenta: #b3128f; --right: #1f7a3a;
  --wrong: #c4221c }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7eb; --soft: #98a1ac;
  --rule: #30363d; --box: #1d2126; --blue: #8fb1ff; --cyan: #4fd6e4; --magenta: #f590e4;
  --right: #5fd083; --wrong: #ff8a80 } }
body { margin: 0 auto; max-width: 1100px; padding: 24px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 19px; margin: 0 0 4px }
section { margin-bottom: 36px; break-inside: auto } h2, summary { break-after: avoid }
p { margin: 4px 0 12px } .result { font-size: 17px } .note { max-width: 85ch }
.facts { display: flex; flex-wrap: wrap; gap: 0 20px }
.note, .facts, th { color: var(--soft) } .note, .facts { font-size: 14px }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
  gap: 8px 24px } .grid > * { min-width: 0 }
.figure { break-inside: avoid; min-width: 0 } .half { max-width: 640px }
.main-svg :is(.infolayer, .cartesianlayer) text { fill: var(--ink) !important }
table { border-collapse: collapse; font-size: 14px } tr { break-inside: avoid }
td, th { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; font-weight: normal }
  font-variant-numeric: tabular-nums }
.columns { columns: 2 420px; column-gap: 32px }
.columns table { width: 100% }
code, pre { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere }
pre { background: var(--box); padding: 12px; border-radius: 6px; white-space: pre-wrap }
.blue { color: var(--blue) } .cyan { color: var(--cyan) } .magenta { color: var(--magenta) }
.right { color: var(--right) } .wrong { color: var(--wrong) } summary { cursor: pointer }
@media print { body { zoom: 0.62; padding: 0 } .modebar { display: none } }
"""
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
          "img-src data: blob:; form-action 'none'; base-uri 'none'")


def shares(tokens: Sequence[str | None], values: Sequence[str]) -> Table:
    """P(token | value) as {token: {value: share}}, from pairs; None is no token."""
    pairs = [(token, value) for token, value in zip(tokens, values, strict=True)
             if token is not None]
    totals = Counter(value for _, value in pairs)
    table: Table = defaultdict(dict)
    for (token, value), count in Counter(pairs).items():
        table[token][value] = count / totals[value]
    return dict(table)


def natural(text: str) -> tuple[str, int, str]:
    """Sorts t2 before t10, and 9 before 82."""
    digits = re.search(r"\d+", text)
    start = text[:digits.start()] if digits else text
    return start, int(digits[0]) if digits else 0, text


def thin(curve: Curve, limit: int = POINTS) -> Curve:
    """At most `limit` points of a curve, evenly chosen, the first and the last among them."""
    steps, values = curve
    last = len(steps) - 1
    if last < limit:
        return curve
    kept = [round(i * last / (limit - 1)) for i in range(limit)]
    return [steps[i] for i in kept], [values[i] for i in kept]


def lines(title: str, curves: dict[str, Curve], level: tuple[str, float] | None = None,
          from_zero: bool = False) -> str:
    """Curves over the steps; level is a (name, value) drawn as a dotted line."""
    traces: list[dict[str, Any]] = []
    for i, (name, (steps, values)) in enumerate(curves.items()):
        traces.append({"type": "scatter", "name": plain(name), "x": steps, "y": short(values),
                       "mode": "lines+markers" if len(steps) <= 40 else "lines",
                       "line": {"color": PALETTE[i % len(PALETTE)], "width": 1.7 if i else 2.5},
                       "marker": {"size": 4 if i else 6}})
    ends = [step for steps, _ in curves.values() for step in steps]
    if level and ends:
        traces.append(_level(level, [min(ends), max(ends)]))
    layout = frame(title, 300, legend=len(traces) > 1)
    layout["hovermode"] = "x unified"
    layout["xaxis"] |= {"title": {"text": "step", "standoff": 6}, "tickformat": ",~r"}
    if from_zero:
        highest = max([y for trace in traces for y in trace["y"] if y is not None], default=0)
        layout["yaxis"] |= {"range": [0, 1.06 * highest or 1]}
    return draw({"data": traces, "layout": layout})


def bars(title: str, values: dict[str, float], level: tuple[str, float] | None = None) -> str:
    """One bar a name, the first in colour, shares between 0 and 1 written above them."""
    names = list(values)
    trace = {"type": "bar", "name": title, "x": names, "y": short(list(values.values())),
             "marker": {"color": [MAIN, *[MUTED] * (len(names) - 1)]}, "width": 0.6,
             "texttemplate": "%{y:.1%}", "textposition": "outside", "cliponaxis": False,
             "hovertemplate": "%{x}: %{y:.4f}<extra></extra>", "showlegend": False}
    traces = [trace, _level(level, names)] if level else [trace]
    layout = frame(title, 320, legend=level is not None)
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"range": [0, 1.1 * max(values.values(), default=1) or 1],
                        "tickformat": ".2~%"}
    return draw({"data": traces, "layout": layout})


def maps(title: str, tokens: Sequence[str | None], values: dict[str, list[str]]) -> str:
    """Heat maps of P(token | value) side by side: one map a name in `values`.

    The token and the value of one row stand in the same place of their lists; None is no token.
    """
    uses = Counter(token for token in tokens if token is not None)
    shown = sorted([token for token, _ in uses.most_common(TOKENS)], key=natural)
    if len(uses) > TOKENS:
        title += f" (the {TOKENS} most used of {len(uses)} tokens)"
    layout = frame(title, 90 + 20 * max(5, len(shown)))
    layout |= {"coloraxis": {"cmin": 0, "cmax": 1, "colorscale": INTENSITY, "colorbar": {
        "thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1], "tickformat": ".0%"}}}
    traces, gap = [], 0.025
    width = (1 + gap) / max(1, len(values))
    for i, (name, given) in enumerate(values.items()):
        axis = str(i + 1) if i else ""
        table, columns = shares(tokens, given), sorted(set(given), key=natural)
        traces.append({
            "type": "heatmap", "x": [plain(value) for value in columns],
            "y": [_label(token) for token in shown],
            "z": [short([table[token].get(value, 0.0) for value in columns]) for token in shown],
            "xaxis": f"x{axis}", "yaxis": "y", "coloraxis": "coloraxis", "xgap": 1, "ygap": 1,
            "hovertemplate": f"P(%{{y}} | {plain(name)} %{{x}}) = %{{z:.3f}}<extra></extra>"})
        layout[f"xaxis{axis}"] = {
            **_axis(), "type": "category", "showgrid": False, "anchor": "y",
            "domain": [i * width, min(1.0, (i + 1) * width - gap)],
            "title": {"text": plain(name), "standoff": 6}, "nticks": 36 // len(values)}
    layout["yaxis"] |= {"type": "category", "showgrid": False, "autorange": "reversed",
                        "anchor": "x", "dtick": 1}
    return draw({"data": traces, "layout": layout})


def draw(figure: Figure) -> str:
    """A figure as HTML: a `<div>` and the script that fills it."""
    import plotly.io

    options = {"displaylogo": False, "showSendToCloud": False, "modeBarButtonsToRemove": [
        "sendChartToCloud", "select2d", "lasso2d", "autoScale2d"]}
    height = figure["layout"]["height"]
    content = plotly.io.to_html(figure, config=options, include_plotlyjs=False, full_html=False,
                                validate=False, default_height=f"{height}px")
    return f'<div class="figure">{content}</div>'


# --- parts of figures ----------------------------------------------------------------------------

def frame(title: str, height: int, legend: bool = False) -> dict[str, Any]:
    return {"title": {"text": plain(title), "x": 0, "xref": "container", "font": {"size": 14},
                      "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12, "l": 8}},
            "height": height, "margin": {"l": 56, "r": 16, "t": 64 if legend else 40, "b": 44},
            "showlegend": legend,
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#808890"},
            "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": MAIN},
            "hoverlabel": {"bgcolor": "#22262c", "font": {"color": "#f4f4f4"}},
            "xaxis": _axis(), "yaxis": _axis()}


def _axis() -> dict[str, Any]:
    return {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": FAINT, "automargin": True,
            "showline": True, "exponentformat": "power"}


def _level(level: tuple[str, float], x: list[Any]) -> dict[str, Any]:
    """A dotted horizontal line with a name."""
    return {"type": "scatter", "mode": "lines", "name": level[0], "x": x, "y": [level[1]] * len(x),
            "line": {"color": MUTED, "width": 1.5, "dash": "dot"}}


def short(values: Sequence[float | None]) -> list[float | None]:
    """Six significant digits: more only make the page large."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def plain(text: str) -> str:
    """Text that plotly, which reads tags, shows as it is."""
    return html.escape(text, quote=False)


def _label(token: str) -> str:
    return "end" if token == "</think>" else token.strip("<>")


# --- HTML ----------------------------------------------------------------------------------------

def page(title: str, body: str) -> str:
    """The whole page; plotly.js is in it, once, if a figure needs it."""
    library = ""
    if "plotly-graph-div" in body:
        from plotly.offline import get_plotlyjs

        library = f"<script>{get_plotlyjs()}</script>"
    title = html.escape(title)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}'
            f'</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f"<style>{STYLE}</style>\n{library}\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n"
            "</body>\n</html>\n")


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(names: list[str], body: list[list[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>" + "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body) + "</table>"


def coloured(text: str) -> str:
    """Text with every token in the colour of its kind."""
    spans: list[tuple[str, str]] = []
    for word, kind in pieces(text[:LONGEST]):
        if spans and spans[-1][1] == kind:
            spans[-1] = (spans[-1][0] + word, kind)
        else:
            spans.append((word, kind))
    return "<code>" + "".join(f'<span class="{COLOURS[kind]}">{html.escape(words)}</span>'
                              for words, kind in spans) + (
        "…</code>" if len(text) > LONGEST else "</code>")
