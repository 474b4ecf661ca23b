"""compare.html: a comparison's table, curves and bars, in one page that opens offline."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from ponder.config.errors import shown
from ponder.reports import figures
from ponder.reports.figures import Curve, note
from ponder.reports.gather import curve
from ponder.reports.groups import NUMBERS, Comparison, Group, cell, mean_curve

COLOURS = (*figures.PALETTE[:-1], "#0b8494", "#b08900", "#7048e8", "#a0522d", "#5c7cfa")
GROUPS, CURVES, POINTS = 40, 40, 300  # rows and bars at first sight; curves, and points of one
LONGEST = 60  # characters of a name
Drawn = tuple[int, list[Curve], Curve | None]  # number of a group, its runs, their mean


def page(comparison: Comparison) -> str:
    """The whole page."""
    parts = {"Groups": _table(comparison), "Accuracy over the steps": _curves(comparison),
             "Accuracy at the end": _bars(comparison)}
    head = f'<p class="result">{escape(comparison.headline)}</p>' + "".join(
        map(note, comparison.notes))
    return figures.page("Comparison", head + "".join(
        f"<section><h2>{name}</h2>{content}</section>" for name, content in parts.items()))


def _names(comparison: Comparison, numbers: list[int]) -> list[str]:
    """The numbers of groups as the table has them, and what tells these from each other."""
    groups = [comparison.groups[number] for number in numbers]
    keys = [key for key in comparison.telling
            if len({shown(group.values[key]) for group in groups}) > 1]
    names = [f"{number + 1}: {comparison.groups[number].name(keys)}" for number in numbers]
    return [name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…" for name in names]


def _colour(number: int) -> str:
    return COLOURS[number] if number < len(COLOURS) else figures.MUTED


def _table(comparison: Comparison) -> str:
    """Every group; those beyond the first are folded away."""
    keys = comparison.telling
    first, *others = NUMBERS
    names = ["", first, *(f"<code>{escape(key).replace('.', '.<br>', 1)}</code>" for key in keys),
             "seeds", *others]
    rows = []
    for i, group in enumerate(comparison.groups):
        seeds, accuracy, *numbers = map(escape, comparison.cells(group))
        rows.append([f'<span style="color:{_colour(i)}">■</span> {i + 1}', accuracy, *(
            f"<code>{escape(cell(group.values[key]))}</code>" for key in keys), seeds, *numbers])
    more = rows[GROUPS:]
    folded = (f"<details><summary>{len(more):,} more groups</summary>"
              f"{figures.table(names, more)}</details>") if more else ""
    return note("Accuracy with its standard error in brackets, then with thoughts shuffled across "
                "questions and dropped: means over the runs of a group.") + (
        f'<div style="overflow-x:auto;white-space:nowrap">'
        f"{figures.table(names, rows[:GROUPS])}{folded}</div>")


# --- figures -------------------------------------------------------------------------------------


def drawn(groups: list[Group]) -> Iterator[Drawn]:
    """The curves of the best groups, while there are colours and curves left."""
    left = CURVES
    for number, group in enumerate(groups[:len(COLOURS)]):
        wanted = len(group.runs) + (len(group.runs) > 1)  # and the mean
        if wanted > left and left < CURVES:
            return
        curves = [curve(run.directory) for run in group.runs[:left - 1 or 1]]
        curves = [points for points in curves if points[0]]
        if curves:
            mean = mean_curve(curves) if len(curves) > 1 else None
            left -= len(curves) + (mean is not None)
            yield number, curves, mean
        if not left:
            return


def _curves(comparison: Comparison) -> str:
    found = list(drawn(comparison.groups))
    if not found:
        return note("No metrics.jsonl holds an accuracy.")
    names = _names(comparison, [number for number, _, _ in found])
    traces = []
    for name, (number, curves, mean) in zip(names, found, strict=True):
        if mean is not None:
            traces += [_trace(points, name, number, thin=True) for points in curves]
        traces.append(_trace(mean or curves[0], name, number, thin=False))
    count, below = sum(len(curves) for _, curves, _ in found), 20 * len(found)
    cut = "" if count == comparison.runs else (
        f" Drawn are {count:,} of {comparison.runs:,} runs, in the most accurate groups: at most "
        f"{len(COLOURS)} groups and {CURVES} curves.")
    layout = figures.frame("", 400 + below, legend=True)
    layout["legend"] = {"orientation": "v", "x": 0, "xanchor": "left", "y": -0.17, "yanchor": "top",
                        "tracegroupgap": 0}
    layout["margin"] |= {"t": 32, "b": 72 + below}
    layout["xaxis"] |= {"title": {"text": "step", "standoff": 6}, "tickformat": ",~r"}
    highest = max((y for trace in traces for y in trace["y"]), default=0)
    layout["yaxis"] |= {"range": [0, 1.06 * highest or 1], "tickformat": ".2~%"}
    return note("Bold: the mean of a group, at the steps that all its runs have; thin: each run."
                + cut) + figures.draw({"data": traces, "layout": layout})


def _trace(points: Curve, name: str, number: int, thin: bool) -> dict[str, Any]:
    steps, values = figures.thin(points, POINTS)
    return {"type": "scatter", "mode": "lines" if thin or len(steps) > 40 else "lines+markers",
            "x": steps, "y": figures.short(values), "name": figures.plain(name),
            "legendgroup": str(number), "showlegend": not thin, "marker": {"size": 5},
            "line": {"color": _colour(number), "width": 1 if thin else 2.5},
            "opacity": 0.45 if thin else 1, "hoverinfo": "skip" if thin else "all"}


def _bars(comparison: Comparison) -> str:
    groups = [group for group in comparison.groups if group.numbers["accuracy"].mean is not None]
    if not groups:
        return note("No run was evaluated.")
    cut = f" The {GROUPS} most accurate of {len(groups):,} groups." if len(groups) > GROUPS else ""
    groups = groups[:GROUPS]
    found = [group.numbers["accuracy"] for group in groups]
    numbers = list(range(len(groups)))
    trace = {"type": "bar", "orientation": "h", "y": numbers, "showlegend": False, "width": 0.66,
             "x": figures.short([estimate.mean for estimate in found]),
             "error_x": {"type": "data", "thickness": 1.2, "width": 3, "color": "#808890",
                         "array": figures.short([estimate.error or 0 for estimate in found])},
             "marker": {"color": [_colour(i) for i in numbers]}, "hovertemplate": "%{x:.2%}"
             "<extra></extra>"}
    layout = figures.frame("", 76 + 22 * max(3, len(groups)))
    layout["margin"] |= {"t": 32}
    names = _names(comparison, numbers)
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "tickvals": numbers,
                        "ticktext": [figures.plain(name) for name in names]}
    highest = max((estimate.mean or 0) + (estimate.error or 0) for estimate in found)
    layout["xaxis"] |= {"range": [0, 1.04 * highest or 1], "tickformat": ".2~%"}
    return note("Means with standard errors over the runs of a group." + cut) + figures.draw(
        {"data": [trace], "layout": layout})
