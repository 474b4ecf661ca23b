"""A run in a notebook: a card of a few lines, and figures of matplotlib (extra `notebooks`)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError
from ponder.core.lazy_imports import library
from ponder.reports.figures import MAIN, MUTED
from ponder.reports.runs import finite

SHOWN = ("accuracy",)  # what is drawn where no metric is named


def card(directory: Path, summary: dict[str, Any] | None) -> str:
    """HTML: what a run found, how much its answers need its thoughts, and where the report is.
    summary: its summary.json; None where it is not done.
    """
    name = escape(str((summary and summary.get("run_name")) or directory.name))
    if summary is None:
        return (f"<div><b>{name}</b>: not done. <code>ponder.train("
                f"[\"resume={escape(str(directory))}\"])</code> goes on with it.</div>")
    facts = [(f"accuracy <b>{summary['accuracy']:.1%}</b>" if finite(summary.get("accuracy")) else
              "not evaluated")]
    facts += [f"{summary[key]:,.0f} {unit}" for key, unit in (
        ("steps", "steps"), ("seconds", "s of training")) if finite(summary.get(key))]
    lines = "".join(f"<div>Warning: {escape(str(one))}</div>"
                    for one in summary.get("warnings") or ())
    return (f"<div><b>{name}</b>: {', '.join(facts)}{_bars(summary.get('necessity') or {})}{lines}"
            f"<div><code>{escape(str(directory / 'report.html'))}</code></div></div>")


def _bars(necessity: dict[str, Any]) -> str:
    """Accuracy with each kind of thoughts as a row of a small table."""
    rows = [f'<tr><td style="text-align:left">{escape(name)}</td><td>{value:.1%}</td><td style='
            f'"text-align:left"><div style="background:{MAIN if name == "own" else MUTED};height:'
            f'0.8em;width:{max(160 * value, 1):.0f}px"></div></td></tr>'
            for name, value in necessity.items() if finite(value)]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def axes_of(axes: Any) -> Any:
    """Axes to draw on: given ones, or those of a new figure. Raises `UserError` without matplotlib.
    """
    if axes is not None:
        return axes
    try:
        figure = library("matplotlib.figure").Figure(figsize=(6, 3.2), layout="constrained")
    except ModuleNotFoundError:
        raise UserError("plot: found no matplotlib; legal: after pip install "
                        "'ponder[notebooks]'") from None
    return figure.subplots()


def curves(metrics: Any, names: Sequence[str], axes: Any = None, label: str | None = None) -> Any:
    """The figure on which metrics, columns of `Run.metrics`, are drawn over steps. Raises
    `UserError` for one that the run has not.
    """
    axes, names = axes_of(axes), list(names or SHOWN)
    for name in names:
        if name not in metrics:
            legal = sorted(column for column in metrics if column not in ("kind", "step"))
            raise UserError(f"plot({name!r}): found no such metric; legal: {', '.join(legal)}")
        known = metrics[["step", name]].dropna()
        axes.plot(known["step"], known[name], marker="." if len(known) < 40 else "",
                  label=label or name)
    axes.set_xlabel("step")
    axes.set_ylabel(names[0] if len(names) == 1 else "")
    if len(names) > 1 or label:
        axes.legend()
    return axes.figure


def bars(values: dict[str, float], axes: Any = None) -> Any:
    """The figure on which accuracy with each kind of thoughts is drawn, own ones first."""
    axes = axes_of(axes)
    axes.bar([*values], [*values.values()], color=[MAIN if name == "own" else MUTED
                                                   for name in values])
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    return axes.figure
