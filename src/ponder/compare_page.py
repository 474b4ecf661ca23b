"""compare.html: the table, the curves and the bars of a comparison, in one page that opens offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from ponder import figures
from ponder.figures import Curve, note
from ponder.gather import curve
from ponder.groups import NUMBERS, Comparison, Group, cell, mean_curve

COLOURS = (*figures.PALETTE[:-1], "#0b8494", "#b08900", "#7048e8", "#a0522d", "#5c7cfa")
CURVES, POINTS, BARS = 40, 300, 40  # the most that are drawn; points of a curve
LONGEST = 70  # characters of a name


def write(comparison: Comparison, title: str) -> str:
    """The page."""
    parts = {"": _notes(comparison), "Accuracy over the steps": _curves(comparison),
             "Accuracy at the end": _bars(comparison), "Groups": _table(comparison)}
    body = "\n".join(f"<section>{f'<h2>{name}</h2>' if name else ''}{content}</section>"
                     for name, content in parts.items())
    return figures.page(title, body)


def _notes(comparison: Comparison) -> str:
    return f'<p class="result">{escape(comparison.headline)}</p>' + "".join(
        map(note, comparison.notes))


def _name(comparison: Comparison, group: Group) -> str:
    name = group.name(comparison.telling)
    return name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…"


# --- curves --------------------------------------------------------------------------------------


def drawn(groups: list[Group]) -> Iterator[tuple[Group, list[Curve], Curve | None]]:
    """The best groups with the curve of each run and the mean, while colours and curves last."""
    left = CURVES
    for group in groups[:len(COLOURS)]:
        room = left if len(group.runs) == 1 else left - 1  # a place for the mean
        curves = [found for found in (curve(run.directory) for run in group.runs[:room])
                  if found[0]]
        if not curves:
            continue
        mean = mean_curve(curves) if len(curves) > 1 else None
        left -= len(curves) + (mean is not None)
        yield group, curves, mean


def _curves(comparison: Comparison) -> str:
    groups, traces, shown = comparison.groups, [], 0
    for group, curves, mean in drawn(groups):
        colour, name = COLOURS[groups.index(group)], _name(comparison, group)
        shown += len(curves)
        if mean is not None:
            traces += [_trace(points, name, colour, thin=True) for points in curves]
        traces.append(_trace(mean or curves[0], name, colour, thin=False))
    if not traces:
        return note("No metrics.jsonl holds an accuracy.")
    count = sum(trace["hoverinfo"] != "skip" for trace in traces)
    cut = "" if shown == comparison.runs else (
        f" Drawn: {shown:,} of {comparison.runs:,} runs, of the {count} most accurate groups; "
        f"at most {len(COLOURS)} groups and {CURVES} curves are.")
    layout = figures.frame("", 380 + 19 * count, legend=True)
    layout["legend"] = {"orientation": "v", "x": 0, "y": -0.2 * 380 / (380 + 19 * count),
                        "yanchor": "top", "xanchor": "left"}
    layout["margin"] |= {"t": 12, "b": 64 + 19 * count}
    layout["xaxis"] |= {"title": {"text": "step", "standoff": 6}, "tickformat": ",~r"}
    highest = max((y for trace in traces for y in trace["y"]), default=0)
    layout["yaxis"] |= {"range": [0, 1.06 * highest or 1], "tickformat": ".2~%"}
    return note("Bold: the mean of a group, at the steps that all of its runs drawn have; thin: "
                "each run." + cut) + figures.draw({"data": traces, "layout": layout})


def _trace(points: Curve, name: str, colour: str, thin: bool) -> dict[str, Any]:
    steps, values = figures.thin(points, POINTS)
    trace = {"type": "scatter", "mode": "lines" if thin or len(steps) > 40 else "lines+markers",
             "x": steps, "y": figures.short(values), "name": figures.plain(name),
             "legendgroup": figures.plain(name), "showlegend": not thin, "marker": {"size": 5},
             "line": {"color": colour, "width": 1 if thin else 2.5}, "opacity": 0.4 if thin else 1,
             "hoverinfo": "skip" if thin else "all"}
    return trace


# --- bars and table ------------------------------------------------------------------------------


def _bars(comparison: Comparison) -> str:
    groups = [group for group in comparison.groups if group.numbers["accuracy"].mean is not None]
    if not groups:
        return note("No run was evaluated.")
    cut = f" The {BARS} most accurate of {len(groups):,} groups." if len(groups) > BARS else ""
    groups = groups[:BARS]
    found = [group.numbers["accuracy"] for group in groups]
    numbers = list(range(len(groups)))
    trace = {"type": "bar", "orientation": "h", "y": numbers, "showlegend": False,
             "x": figures.short([estimate.mean for estimate in found]), "width": 0.66,
             "error_x": {"type": "data", "thickness": 1.2, "width": 3, "color": "#808890",
                         "array": [estimate.error or 0 for estimate in found]},
             "marker": {"color": [_colour(i) for i in numbers]},
             "hovertemplate": "%{x:.2%} ± %{error_x.array:.2%}<extra></extra>"}
    layout = figures.frame("", 70 + 22 * max(3, len(groups)))
    layout["margin"] |= {"t": 8}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "tickvals": numbers,
                        "ticktext": [figures.plain(_name(comparison, group)) for group in groups]}
    highest = max((estimate.mean or 0) + (estimate.error or 0) for estimate in found)
    layout["xaxis"] |= {"range": [0, 1.04 * highest or 1], "tickformat": ".2~%"}
    return note("Means with standard errors over the runs of a group." + cut) + figures.draw(
        {"data": [trace], "layout": layout})


def _colour(number: int) -> str:
    return COLOURS[number] if number < len(COLOURS) else figures.MUTED


def _table(comparison: Comparison) -> str:
    names = ["", *(f"<code>{escape(key)}</code>" for key in comparison.telling),
             *(escape(name) for name in ("seeds", *NUMBERS))]
    body = [[f'<span style="color:{_colour(i)}">■</span>',
             *(f"<code>{escape(cell(group.values[key]))}</code>" for key in comparison.telling),
             *map(escape, comparison.cells(group))]
            for i, group in enumerate(comparison.groups)]
    return f'<div style="overflow-x:auto">{figures.table(names, body)}</div>'
