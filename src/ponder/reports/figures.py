"""The parts of an HTML page: figures, tables, coloured tokens, and the page around them.

Figures are plain dictionaries that plotly.js draws in the browser. Titles and legends are
HTML, so that they wrap on a narrow screen. Colours are legible on light and on dark paper.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ponder.tokenizers.vocabulary import COLOURS, pieces

Curve = tuple[list[float], list[float | None]]  # steps, values
Shares = dict[str, dict[str, float]]  # token -> value -> P(token | value)
Level = tuple[str, float]  # label and height of a dashed line

MAX_POINTS, MAX_TOKENS, MAX_CHARACTERS = 2000, 40, 400  # of a curve, a heat map, a text
PALETTE = ("#2f7de1", "#e8590c", "#2b9348", "#c2255c", "#9775fa", "#868e96")
MAIN, MUTED, LEVEL = PALETTE[0], PALETTE[-1], "#c98a00"
FAINT, CLEAR = "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"
INTENSITY = [[0, "rgba(36,110,225,0)"], [1, "rgba(36,110,225,1)"]]
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #22262c; --soft: #69707a; --rule: #e3e6ea;
  --box: #f6f7f9; --blue: #1d4fd7; --cyan: #0b7a8a; --magenta: #b3128f; --right: #1f7a3a;
  --wrong: #c4221c }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7eb;
  --soft: #98a1ac; --rule: #30363d; --box: #1d2126; --blue: #8fb1ff; --cyan: #4fd6e4;
  --magenta: #f590e4; --right: #5fd083; --wrong: #ff8a80 } }
body { margin: 0 auto; max-width: 1100px; padding: 24px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
@media (max-width: 600px) { body { padding: 12px } }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere } h2 { font-size: 19px; margin: 0 0 4px }
h3 { font-size: 14px; margin: 10px 0 0 }
section { margin-bottom: 36px; break-inside: auto } h2, h3, summary { break-after: avoid }
p { margin: 4px 0 12px } .result { font-size: 17px } .note { max-width: 85ch }
.facts, .legend { display: flex; flex-wrap: wrap; gap: 0 20px }
.note, .facts, .legend, th { color: var(--soft) } .note, .facts { font-size: 14px }
.legend { font-size: 12px; gap: 0 14px } .legend i { font-style: normal }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
  gap: 8px 24px } .grid > * { min-width: 0 }
.figure { break-inside: avoid; min-width: 0 } .half { max-width: 640px }
.main-svg :is(.infolayer, .cartesianlayer) text { fill: var(--ink) !important }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
tr { break-inside: avoid }
td, th { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; font-weight: normal }
.columns { columns: 2 420px; column-gap: 32px } .columns table { width: 100% }
code, pre { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere }
pre { background: var(--box); padding: 12px; border-radius: 6px; white-space: pre-wrap }
.blue { color: var(--blue) } .cyan { color: var(--cyan) } .magenta { color: var(--magenta) }
.replay td, .replay th { text-align: center; min-width: 22px; padding: 2px 6px }
.replay th:first-child { text-align: left; white-space: nowrap }
.replay td { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace }
.hit { background: rgba(43,147,72,0.16) } .miss { background: rgba(224,49,49,0.24) }
.other { background: rgba(240,173,0,0.22) }
details[name] { margin: 2px 0 } details[name] .scroll { margin: 6px 0 14px 18px }
.soft { color: var(--soft) }
.right { color: var(--right) } .wrong { color: var(--wrong) } summary { cursor: pointer }
@media print { :root { color-scheme: light } body { zoom: 0.62; padding: 0 }
  .modebar, .nav { display: none } }
"""
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
          "img-src data: blob:; form-action 'none'; base-uri 'none'")
OPTIONS = {"displaylogo": False, "showSendToCloud": False, "responsive": True,
           "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"]}
# plotly.js 4.1.1 without maps and three dimensions, as its authors publish it at npm under the name
# plotly.js-cartesian-dist-min, compressed to a third. A figure is the JSON after its box.
LIBRARY = Path(__file__).with_name("plotly") / "plotly-cartesian.min.js.gz"
DRAW = """
(async () => {
  const packed = document.getElementById("plotly").textContent;
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  for (const box of document.querySelectorAll(".plotly-graph-div")) {
    const figure = JSON.parse(box.nextElementSibling.textContent);
    Plotly.newPlot(box, figure.data, figure.layout, OPTIONS);
  }
})();
"""


# --- numbers and names ---------------------------------------------------------------------------


def conditional_shares(tokens: Sequence[str | None], values: Sequence[str]) -> Shares:
    """P(token | value) as {token: {value: share}}, from pairs; None stands for no token."""
    pairs = [(token, value) for token, value in zip(tokens, values, strict=True)
             if token is not None]
    totals = Counter(value for _, value in pairs)
    table: Shares = defaultdict(dict)
    for (token, value), count in Counter(pairs).items():
        table[token][value] = count / totals[value]
    return dict(table)


def natural_order(text: str) -> tuple[str, int, str]:
    """A key that sorts t2 before t10, and 9 before 82."""
    digits = re.search(r"\d+", text)
    start = text[:digits.start()] if digits else text
    return start, int(digits[0]) if digits else 0, text


def downsample(curve: Curve, limit: int = MAX_POINTS) -> Curve:
    """At most `limit` points of a curve, evenly chosen, with the first and the last."""
    steps, values = curve
    last = len(steps) - 1
    if last < limit:
        return curve
    kept = [round(i * last / (limit - 1)) for i in range(limit)]
    return [steps[i] for i in kept], [values[i] for i in kept]


def round_values(values: Sequence[float | None]) -> list[float | None]:
    """Six significant digits; more would only make the page larger."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def escape_tags(text: str) -> str:
    """Text that plotly, which interprets tags, shows as it is."""
    return html.escape(text, quote=False)


# --- figures -------------------------------------------------------------------------------------


def line_chart(title: str, curves: dict[str, Curve], level: Level | None = None,
               from_zero: bool = False, form: str = "", across: str = "step") -> str:
    """Curves over steps, or what `across` says. `form`: the d3 format of values, as `.0%`."""
    traces: list[dict[str, Any]] = []
    for i, (name, (steps, values)) in enumerate(curves.items()):
        traces.append({"type": "scatter", "name": escape_tags(name), "x": steps,
                       "y": round_values(values), "showlegend": False,
                       "mode": "lines+markers" if len(steps) <= 40 else "lines",
                       "line": {"color": PALETTE[i % len(PALETTE)], "width": 1.7 if i else 2.5},
                       "marker": {"size": 4 if i else 6}})
    layout = base_layout(280)
    layout["hovermode"] = "x unified"
    layout["xaxis"] |= {"title": {"text": across, "standoff": 6}, "tickformat": ",~r"}
    if across != "step":  # few whole numbers, and no halves between them
        layout["xaxis"]["dtick"] = 1 + max(len(steps) for steps, _ in curves.values()) // 10
    if form:
        layout["yaxis"]["tickformat"] = form
    if from_zero:
        values = [y for trace in traces for y in trace["y"] if y is not None]
        layout["yaxis"]["range"] = [0, _top(values, level)]
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(curves)}
    return figure(traces, layout, title, colours if len(curves) > 1 else {}, level)


def bar_chart(title: str, values: dict[str, float], level: Level | None = None,
              intervals: dict[str, tuple[float, float]] | None = None) -> str:
    """One bar per name, the first in colour; values are shares between 0 and 1, written above.

    `intervals` are (low, high) ends of error bars.
    """
    names, found = list(values), intervals or {}
    ends = {name: found.get(name, (value, value)) for name, value in values.items()}
    trace = {"type": "bar", "name": title, "x": names, "y": round_values(list(values.values())),
             "marker": {"color": [MAIN, *[MUTED] * (len(names) - 1)]}, "width": 0.6,
             "hovertemplate": "%{x}: %{y:.4f}<extra></extra>", "showlegend": False}
    if found:
        trace["error_y"] = {
            "type": "data", "symmetric": False, "thickness": 1.2, "width": 4, "color": "#808890",
            "array": round_values([ends[name][1] - values[name] for name in names]),
            "arrayminus": round_values([values[name] - ends[name][0] for name in names])}
    layout = base_layout(320)
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"range": [0, _top([high for _, high in ends.values()], level, 1.1)],
                        "tickformat": ".2~%"}
    layout["annotations"] = [
        {"x": name, "y": ends[name][1], "text": f"{value:.1%}", "showarrow": False,
         "yanchor": "bottom"} for name, value in values.items()]
    return figure([trace], layout, title, level=level)


def heat_maps(title: str, tokens: Sequence[str | None], values: dict[str, list[str]]) -> str:
    """Heat maps of P(token | value) side by side, one for each name in `values`.

    tokens[i] and values[name][i] belong to the same row; None stands for no token.
    """
    uses = Counter(token for token in tokens if token is not None)
    kept = sorted([token for token, _ in uses.most_common(MAX_TOKENS)], key=natural_order)
    if len(uses) > MAX_TOKENS:
        title += f" (the {MAX_TOKENS} most used of {len(uses)} tokens)"
    layout = base_layout(80 + 20 * max(5, len(kept)))
    layout |= {"coloraxis": {"cmin": 0, "cmax": 1, "colorscale": INTENSITY, "colorbar": {
        "thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1], "tickformat": ".0%"}}}
    traces, gap = [], 0.025
    width = (1 + gap) / max(1, len(values))
    for i, (name, given) in enumerate(values.items()):
        axis, label = str(i + 1) if i else "", escape_tags(name)
        table, columns = conditional_shares(tokens, given), sorted(set(given), key=natural_order)
        traces.append({
            "type": "heatmap", "x": [escape_tags(value) for value in columns],
            "y": ["end" if token == "</think>" else token.strip("<>") for token in kept],
            "z": [round_values([table[token].get(value, 0.0) for value in columns])
                  for token in kept],
            "xaxis": f"x{axis}", "yaxis": "y", "coloraxis": "coloraxis", "xgap": 1, "ygap": 1,
            "hovertemplate": f"P(%{{y}} | {label} %{{x}}) = %{{z:.3f}}<extra></extra>"})
        layout[f"xaxis{axis}"] = {
            **_axis(), "type": "category", "showgrid": False, "anchor": "y",
            "domain": [i * width, min(1.0, (i + 1) * width - gap)],
            "title": {"text": label, "standoff": 6}, "nticks": 36 // len(values)}
    layout["yaxis"] |= {"type": "category", "showgrid": False, "autorange": "reversed",
                        "anchor": "x", "dtick": 1}
    return figure(traces, layout, title)


def matrix(title: str, values: Sequence[Sequence[float]], columns: list[str], rows: list[str],
           axes: tuple[str, str], highest: float) -> str:
    """A heat map of values from 0 to `highest`, (rows, columns); axes: what both are."""
    layout = base_layout(92 + 20 * max(5, len(rows)))
    layout |= {"coloraxis": {"cmin": 0, "cmax": highest or 1, "colorscale": INTENSITY,
                             "colorbar": {"thickness": 10, "outlinewidth": 0, "nticks": 4}}}
    trace = {"type": "heatmap", "x": [escape_tags(name) for name in columns], "y": rows,
             "z": [round_values(row) for row in values], "coloraxis": "coloraxis", "xgap": 1,
             "ygap": 1, "hovertemplate": f"{axes[1]} %{{y}}, {axes[0]} %{{x}}: %{{z:.3f}}"
                                         "<extra></extra>"}
    for axis, name in zip(("xaxis", "yaxis"), axes, strict=True):
        layout[axis] |= {"type": "category", "showgrid": False, "nticks": 36,
                         "title": {"text": name, "standoff": 6}}
    layout["yaxis"]["autorange"] = "reversed"
    return figure([trace], layout, title)


def figure(traces: list[dict[str, Any]], layout: dict[str, Any], title: str = "",
           legend: dict[str, str] | None = None, level: Level | None = None,
           vertical: bool = False) -> str:
    """A figure as HTML: title, legend ({name: colour}), a box, and the JSON of its content.

    `level` is drawn as a dashed line, across the figure or, if `vertical`, upwards.
    """
    legend = dict(legend or {})
    if level:
        along, across = ("y", "x") if vertical else ("x", "y")
        layout["shapes"] = [{
            "type": "line", f"{along}ref": "paper", f"{along}0": 0, f"{along}1": 1,
            f"{across}0": level[1], f"{across}1": level[1],
            "line": {"color": LEVEL, "width": 2, "dash": "dash"}}]
        legend[f"{level[0]} (dashed)"] = LEVEL
    content = json.dumps({"data": traces, "layout": layout}, ensure_ascii=False, allow_nan=False,
                         separators=(",", ":")).replace("<", "\\u003c")
    head = f"<h3>{html.escape(title)}</h3>" if title else ""
    if legend:
        head += '<div class="legend">' + "".join(
            f'<span><i style="color:{colour}">■</i> {html.escape(name)}</span>'
            for name, colour in legend.items()) + "</div>"
    return (f'<div class="figure">{head}<div class="plotly-graph-div" '
            f'style="height:{layout["height"]}px"></div>'
            f'<script type="application/json">{content}</script></div>')


def base_layout(height: int) -> dict[str, Any]:
    """The layout that all figures share; height in pixels."""
    return {"height": height, "margin": {"l": 56, "r": 16, "t": 28, "b": 44}, "showlegend": False,
            "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR,
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#808890"},
            "modebar": {"bgcolor": CLEAR, "color": MUTED, "activecolor": MAIN},
            "hoverlabel": {"bgcolor": "#22262c", "font": {"color": "#f4f4f4"}},
            "xaxis": _axis(), "yaxis": _axis()}


def _axis() -> dict[str, Any]:
    return {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": FAINT, "automargin": True,
            "showline": True, "exponentformat": "power"}


def _top(values: Sequence[float], level: Level | None, room: float = 1.06) -> float:
    """The upper end of an axis that starts at 0 and shows all values and the level."""
    highest = max([*values, level[1] if level else 0], default=0)
    return room * highest or 1.0


# --- HTML ----------------------------------------------------------------------------------------


def page(title: str, body: str) -> str:
    """The whole page; plotly.js is in it once, if a figure needs it."""
    library = ""
    if "plotly-graph-div" in body:
        packed = base64.b64encode(LIBRARY.read_bytes()).decode()
        draw = DRAW.replace("OPTIONS", json.dumps(OPTIONS))
        library = (f'<script id="plotly" type="text/plain">{packed}</script>\n'
                   f"<script>{draw}</script>\n")
    title = html.escape(title)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}'
            f'</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n"
            f"{library}</body>\n</html>\n")


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(names: list[str], body: list[list[str]]) -> str:
    """A table; names and cells are HTML already. On a narrow screen it scrolls sideways."""
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def coloured(text: str) -> str:
    """Text with each token in the colour of its kind, cut after MAX_CHARACTERS."""
    spans: list[tuple[str, str]] = []
    for token, kind in pieces(text[:MAX_CHARACTERS]):
        if spans and spans[-1][1] == kind:
            spans[-1] = (spans[-1][0] + token, kind)
        else:
            spans.append((token, kind))
    return "<code>" + "".join(f'<span class="{COLOURS[kind]}">{html.escape(words)}</span>'
                              for words, kind in spans) + (
        "…</code>" if len(text) > MAX_CHARACTERS else "</code>")
