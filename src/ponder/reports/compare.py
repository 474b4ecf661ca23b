"""`action=compare`: groups of runs in a table on the terminal, in files, and in one HTML page.

Only what runs left on disk is read, so torch is never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, replacing, shown, writing
from ponder.config.spine import Config
from ponder.reports import figures
from ponder.reports.browse import address, index_link
from ponder.reports.figures import Curve, note
from ponder.reports.groups import (
    NUMBERS,
    Comparison,
    Group,
    differing_keys,
    distinguishing_keys,
    format_value,
    group_runs,
    mean_curve,
    value_of,
)
from ponder.reports.language import lengths_of
from ponder.reports.runs import FoundRuns, RunResult, accuracy_curve, find_runs
from ponder.tasks.base import write_table

MAX_GROUPS, MAX_NAMES = 40, 5  # groups shown at first; files or keys that a note names
MAX_CURVES, MAX_POINTS, MAX_LINKS = 40, 300, 8  # curves of a page, points of one; links of a group
MAX_LABEL = 60  # characters of a group's name
LEGEND = ("±: standard error over the runs of a group; shuffled, dropped: accuracy with the "
          "thoughts of other questions, and without thoughts")
COLOURS = (*figures.PALETTE[:-1], "#0b8494", "#b08900", "#7048e8", "#a0522d", "#5c7cfa")
Rows = list[dict[str, Any]]
GroupCurves = tuple[int, list[Curve], Curve | None]  # index of a group, its runs, their mean


def run(config: Config, directory: Path) -> None:
    """Compare the runs below `config.runs`; write `config.out`, or files into `directory`.

    Raises `UserError` where no run is done, and for a file that cannot be written.
    """
    found = find_runs(config.runs)
    if not found.results:
        raise UserError(f"runs={shown(config.runs)}: found no run that is done; "
                        f"{'; '.join(_skipped(found))}; legal: runs with a summary.json")
    comparison = compare(found)
    print_table(comparison)
    paths = [Path(config.out)] if config.out else [directory / "compare.html",
                                                   directory / "compare.csv"]
    for path in paths:
        with writing(f"out={path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            written = write(path, comparison)
        print("written: " + ", ".join(map(str, written)))


def compare(found: FoundRuns) -> Comparison:
    """The groups of the runs that were found."""
    keys = differing_keys(found.results)
    groups = group_runs(found.results, keys)
    distinguishing = distinguishing_keys(groups, keys)
    notes = _skipped(found)
    repeated = sum(len(group.runs) - group.seeds for group in groups)
    if repeated:
        notes.append(f"{repeated} run{'s' * (repeated > 1)} of a group and seed that another run "
                     "has: each counts as a run of its own")
    others = [key for key in keys if key not in distinguishing]
    if others:
        notes.append("different too, but telling no further groups apart: "
                     f"{_first_few(others)} (.csv, .jsonl and .parquet have them all)")
    return Comparison(groups, keys, distinguishing, notes)


def _skipped(found: FoundRuns) -> list[str]:
    """Messages about runs that are not done and files that cannot be read."""
    lines = []
    if found.unfinished:
        lines.append(f"{len(found.unfinished)} without summary.json (failed, or still going): "
                     f"{_first_few(map(str, found.unfinished))}")
    if found.unreadable:
        lines.append(f"{len(found.unreadable)} skipped that cannot be read: "
                     f"{_first_few(found.unreadable)}")
    return lines


def _first_few(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - MAX_NAMES
    return ", ".join(listed[:MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")


# --- the terminal --------------------------------------------------------------------------------


def print_table(comparison: Comparison) -> None:
    """The most accurate groups; a narrow terminal has all keys in one column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=10_000)
    groups, table = comparison.groups[:MAX_GROUPS], Table()
    columns = {key: [format_value(group.values[key]) for group in groups]
               for key in comparison.distinguishing}
    numbers = dict(zip(("seeds", *NUMBERS), zip(*map(comparison.cells, groups), strict=True),
                       strict=True))
    needed = 1 + sum(_width(*column) for column in (*columns.items(), *numbers.items()))
    notes = [*comparison.notes, LEGEND]
    if needed > console.width:
        columns = {"group": [group.name(comparison.distinguishing) for group in groups]}
        del numbers["steps"], numbers["seconds"]
        notes.append("a column a key, steps and seconds: in the files, or on a wider terminal")
    if len(groups) < len(comparison.groups):
        notes.append(f"the {MAX_GROUPS} most accurate of {len(comparison.groups):,} groups")
    for key in columns:
        table.add_column(Text(_two_lines(key)), no_wrap=needed <= console.width)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for cells in zip(*columns.values(), *numbers.values(), strict=True):
        table.add_row(*map(Text, cells))
    print(comparison.headline + (f"; {comparison.chance[0]}" if comparison.chance else ""))
    console.print(table)
    for line in notes:
        print(line)


def _two_lines(key: str) -> str:
    return key.replace(".", ".\n", 1)


def _width(name: str, column: Sequence[str]) -> int:
    """Characters that a column takes, with its border."""
    return 3 + max(map(len, [*_two_lines(name).splitlines(), *column]))


# --- tables in files -----------------------------------------------------------------------------


def write(path: Path, comparison: Comparison) -> list[Path]:
    """Write a comparison in the format of the suffix, and return the files that were written.

    .csv, .jsonl and .parquet have a row per group, and beside them `<name>_runs` a row per run.
    """
    if path.suffix in (".html", ".md"):
        page = comparison_page(comparison, path.parent) if path.suffix == ".html" else (
            markdown(comparison))
        with replacing(path) as temporary:
            temporary.write_text(page, "utf-8", "xmlcharrefreplace")
        return [path]
    beside = path.with_name(f"{path.stem}_runs{path.suffix}")
    keys = comparison.keys
    groups = [group_row(group, keys) for group in comparison.groups]
    runs = [_run_row(result, keys) for group in comparison.groups for result in group.runs]
    for place, rows in ((path, groups), (beside, runs)):
        rows = _one_type_per_column(rows, keys)
        if path.suffix == ".jsonl":  # pandas would round a learning rate to ten decimals
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            with replacing(place) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")
        else:
            write_table(place, rows)
    return [path, beside]


def group_row(group: Group, keys: Sequence[str]) -> dict[str, Any]:
    """A group as a row of a table: its keys, how many seeds and runs, means and their errors."""
    row = {**{key: group.values[key] for key in keys}, "seeds": group.seeds,
           "runs": len(group.runs)}
    for name, estimate in group.numbers.items():
        row |= {name: estimate.mean, f"{name}_stderr": estimate.error}
    return row


def _run_row(result: RunResult, keys: Sequence[str]) -> dict[str, Any]:
    return {"run": str(result.directory), **{key: value_of(result, key) for key in keys},
            "seed": result.seed, **{name: result.number(source)
                                    for name, source in NUMBERS.items()}}


def _one_type_per_column(rows: Rows, keys: Sequence[str]) -> Rows:
    """The rows with each key's column all numbers or all text."""
    for key in keys:
        if not all(isinstance(row[key], int | float) and not isinstance(row[key], bool)
                   for row in rows):
            for row in rows:
                row[key] = shown(row[key])
    return rows


def markdown(comparison: Comparison) -> str:
    """A Markdown table, and the notes below it."""
    names = [*(f"`{key}`" for key in comparison.distinguishing), "seeds", *NUMBERS]
    rows = [names, ["---"] * len(names), *(
        [*(format_value(group.values[key]) for key in comparison.distinguishing),
         *comparison.cells(group)] for group in comparison.groups)]
    lines = ["| " + " | ".join(" ".join(text.replace("|", "\\|").split()) for text in row) + " |"
             for row in rows]
    return "\n".join([f"{comparison.headline}\n", *lines,
                      *(f"\n{line}" for line in comparison.notes), ""])


# --- the page ------------------------------------------------------------------------------------


def comparison_page(comparison: Comparison, folder: Path) -> str:
    """The whole page, whose links to reports start in `folder`."""
    parts = {"Groups": _groups_table(comparison, folder),
             "Accuracy over the steps": _curves_figure(comparison),
             "Accuracy at the end": _bars_figure(comparison),
             "Accuracy by number of steps": _lengths_figure(comparison)}
    head = index_link(folder) + f'<p class="result">{escape(comparison.headline)}</p>' + "".join(
        map(note, comparison.notes))
    differing = ", ".join(key.rpartition(".")[2] for key in comparison.distinguishing[:3])
    title = f"Comparison by {differing}" if differing else "Comparison"
    return figures.page(title, head + "".join(
        f"<section><h2>{name}</h2>{content}</section>" for name, content in parts.items()
        if content))


def _labels(comparison: Comparison, numbers: list[int]) -> list[str]:
    """The numbers of groups as in the table, and enough values to tell these groups apart."""
    groups = [comparison.groups[number] for number in numbers]
    keys = distinguishing_keys(groups, comparison.distinguishing)
    names = [f"{number + 1}: {comparison.groups[number].name(keys)}" for number in numbers]
    return [name if len(name) <= MAX_LABEL else f"{name[:MAX_LABEL - 1]}…" for name in names]


def _colour(number: int) -> str:
    return COLOURS[number] if number < len(COLOURS) else figures.MUTED


def _groups_table(comparison: Comparison, folder: Path) -> str:
    """Every group; those beyond the first MAX_GROUPS are folded away."""
    keys = comparison.distinguishing
    first, *others = NUMBERS
    names = ["", first, *(f"<code>{escape(key).replace('.', '.<br>', 1)}</code>" for key in keys),
             "seeds", *others, "reports"]
    rows = []
    for i, group in enumerate(comparison.groups):
        seeds, accuracy, *numbers = map(escape, comparison.cells(group))
        values = [f"<code>{escape(format_value(group.values[key]))}</code>" for key in keys]
        rows.append([f'<span style="color:{_colour(i)}">■</span> {i + 1}', accuracy, *values, seeds,
                     *numbers, _report_links(group, folder)])
    more = rows[MAX_GROUPS:]
    folded = (f"<details><summary>{len(more):,} more groups</summary>"
              f"{figures.table(names, more)}</details>") if more else ""
    return note(LEGEND) + (f'<div style="white-space:nowrap">'
                           f"{figures.table(names, rows[:MAX_GROUPS])}{folded}</div>")


def _report_links(group: Group, folder: Path) -> str:
    """Links to the reports of the first runs, named by their seeds."""
    reports = [(run, run.directory / "report.html") for run in group.runs]
    there = [(run, address(path, folder)) for run, path in reports if path.is_file()]
    return " ".join(f'<a href="{path}">{escape(shown(run.seed))}</a>'
                    for run, path in there[:MAX_LINKS]) + " …" * (len(there) > MAX_LINKS)


def group_curves(groups: list[Group], curve: Callable[[RunResult], Curve] | None = None,
                 ) -> Iterator[GroupCurves]:
    """The curves of the best groups, until colours or MAX_CURVES are used up. curve: of a run,
    its accuracy over the steps by default.
    """
    curve = curve or (lambda run: accuracy_curve(run.directory))
    left = MAX_CURVES
    for number, group in enumerate(groups[:len(COLOURS)]):
        wanted = len(group.runs) + (len(group.runs) > 1)  # a mean is a curve too
        if wanted > left and left < MAX_CURVES:
            return
        curves = [points for points in map(curve, group.runs[:left - 1 or 1]) if points[0]]
        if curves:
            mean = mean_curve(curves) if len(curves) > 1 else None
            left -= len(curves) + (mean is not None)
            yield number, curves, mean
        if not left:
            return


def _curves_figure(comparison: Comparison) -> str:
    found = list(group_curves(comparison.groups))
    if not found:
        return note("No metrics.jsonl holds an accuracy.")
    count = sum(len(curves) for _, curves, _ in found)
    limits = "" if count == comparison.runs else (
        f" Drawn are {count:,} of {comparison.runs:,} runs, in the most accurate groups: at most "
        f"{len(COLOURS)} groups and {MAX_CURVES} curves.")
    return note("Bold: the mean of a group, at the steps that all its runs have; thin: each run."
                + limits) + _curves(comparison, found, "step")


def _lengths_figure(comparison: Comparison) -> str:
    """Accuracy against the number of steps of a question; "" where no run has such groups."""
    found = list(group_curves(comparison.groups, lambda run: lengths_of(
        run.summary.get("metrics"))))
    return _curves(comparison, found, "steps of the question") if found else ""


def _curves(comparison: Comparison, found: list[GroupCurves], across: str) -> str:
    """The curves of groups with the legend below; across: what is on the horizontal axis."""
    labels = _labels(comparison, [number for number, _, _ in found])
    traces, below = [], 20 * len(found)
    for label, (number, curves, mean) in zip(labels, found, strict=True):
        if mean is not None:
            traces += [_curve_trace(points, label, number, thin=True) for points in curves]
        traces.append(_curve_trace(mean or curves[0], label, number, thin=False))
    layout = figures.base_layout(400 + below)
    layout |= {"showlegend": True, "legend": {
        "orientation": "v", "x": 0, "xanchor": "left", "y": -0.17, "yanchor": "top",
        "tracegroupgap": 0}}
    layout["margin"]["b"] = 72 + below
    layout["xaxis"] |= {"title": {"text": across, "standoff": 6}, "tickformat": ",~r"}
    level = comparison.chance
    highest = max(y for trace in [*traces, {"y": [level[1] if level else 0]}] for y in trace["y"])
    layout["yaxis"] |= {"range": [0, 1.06 * highest or 1], "tickformat": ".2~%"}
    return figures.figure(traces, layout, level=level)


def _curve_trace(points: Curve, label: str, number: int, thin: bool) -> dict[str, Any]:
    steps, values = figures.downsample(points, MAX_POINTS)
    return {"type": "scatter", "mode": "lines" if thin or len(steps) > 40 else "lines+markers",
            "x": steps, "y": figures.round_values(values), "name": figures.escape_tags(label),
            "legendgroup": str(number), "showlegend": not thin, "marker": {"size": 5},
            "line": {"color": _colour(number), "width": 1 if thin else 2.5},
            "opacity": 0.45 if thin else 1, "hoverinfo": "skip" if thin else "all"}


def _bars_figure(comparison: Comparison) -> str:
    """A horizontal bar per group, its label above it, so that long labels fit a narrow screen."""
    groups = [group for group in comparison.groups if group.numbers["accuracy"].mean is not None]
    if not groups:
        return note("No run was evaluated.")
    limits = (f" The {MAX_GROUPS} most accurate of {len(groups):,} groups."
              if len(groups) > MAX_GROUPS else "")
    groups = groups[:MAX_GROUPS]
    found = [group.numbers["accuracy"] for group in groups]
    numbers = list(range(len(groups)))
    trace = {"type": "bar", "orientation": "h", "y": numbers, "showlegend": False, "width": 0.4,
             "x": figures.round_values([estimate.mean for estimate in found]),
             "error_x": {"type": "data", "thickness": 1.2, "width": 3, "color": "#808890",
                         "array": figures.round_values([estimate.error or 0 for estimate in found])
                         },
             "marker": {"color": [_colour(i) for i in numbers]},
             "hovertemplate": "%{x:.2%}<extra></extra>"}
    layout = figures.base_layout(76 + 40 * max(2, len(groups)))
    layout["annotations"] = [
        {"x": 0, "y": number - 0.2, "text": figures.escape_tags(label), "showarrow": False,
         "xanchor": "left", "yanchor": "bottom"}
        for number, label in zip(numbers, _labels(comparison, numbers), strict=True)]
    layout["margin"]["l"] = 16
    layout["yaxis"] |= {"range": [len(groups) - 0.6, -0.8], "showgrid": False,
                        "showticklabels": False}
    level = comparison.chance
    highest = max(level[1] if level else 0, *((estimate.mean or 0) + (estimate.error or 0)
                                              for estimate in found))
    layout["xaxis"] |= {"range": [0, 1.04 * highest or 1], "tickformat": ".2~%"}
    return note("Means with standard errors over the runs of a group." + limits) + figures.figure(
        [trace], layout, level=level, vertical=True)
