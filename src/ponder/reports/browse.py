"""`action=browse`: one page over all runs, written anew each time, which opens without a server.

Rows are plain HTML; a script filters and sorts what is there. Nothing heavy is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from ponder.config.errors import replacing, shown, writing
from ponder.config.spine import Config, program
from ponder.reports import figures
from ponder.reports.listing import (
    Entry,
    Listing,
    filter_words,
    list_runs,
    shared_words,
    typed_keys,
)
from ponder.reports.runs import patterns_of

INDEX = "index.html"
MANY = 20  # runs of a sweep from which on it is folded at first
MAX_COMPARISONS = 50  # pages of action=compare that are listed
COLUMNS = ("begun", "run", "task", "variants", "strategy", "model", "accuracy", "gap", "steps",
           "seed", "status")
RIGHT = ("accuracy", "gap", "steps", "seed")
STYLE = """
body { max-width: 1600px }
.bar { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin: 12px 0 }
#filter { flex: 1 1 260px; max-width: 640px; min-width: 0; box-sizing: border-box; font: inherit;
  padding: 7px 10px; border: 1px solid var(--rule); border-radius: 6px; background: var(--box);
  color: inherit }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer }
.bar select { font: inherit } .runs { width: 100%; font-size: 13.5px }
.runs th button { color: var(--soft) } .runs th[aria-sort] button { color: var(--ink) }
th[aria-sort=ascending] button::after { content: " ▲" }
th[aria-sort=descending] button::after { content: " ▼" }
.runs td { overflow-wrap: break-word } .runs td:nth-child(2), .runs small {
  overflow-wrap: anywhere } .runs td:nth-child(1), .runs td:nth-child(6) {
  white-space: nowrap }
.runs small { display: block; color: var(--soft); font-size: 12px }
.runs .n { text-align: right; white-space: nowrap }
.runs .sweep th { background: var(--box); color: var(--ink); padding: 5px 8px;
  overflow-wrap: anywhere }
.sweep th > button::before { content: "▾ " } .folded .sweep th > button::before { content: "▸ " }
.folded:not(.sought) tr:not(.sweep), tr[hidden], tbody[hidden] { display: none }
td.done { color: var(--right) } td.failed, td.damaged { color: var(--wrong) }
td.running { color: var(--blue) } td.interrupted, td.elsewhere { color: var(--magenta) }
.counts button { text-decoration: underline; text-decoration-color: var(--rule) }
a { color: var(--blue) } #sort { display: none }
@media (max-width: 800px) { #sort { display: inline } .runs thead { display: none }
  .runs, .runs tbody, .runs tr, .runs td, .runs th { display: block }
  .runs tr { border-bottom: 1px solid var(--rule); padding: 6px 0 }
  .runs td { border: 0; padding: 0 }
  .runs td:nth-child(n+3) { text-align: left; display: inline-block; padding-right: 14px }
  .runs td:empty { display: none }
  .runs td:nth-child(n+3)::before { content: attr(data-c) " "; color: var(--soft) }
  .folded:not(.sought) tr:not(.sweep), tr[hidden], tbody[hidden] { display: none } }
@media print { .bar, .counts { display: none } body { zoom: 0.7 } }
"""
SCRIPT = r"""
const table = document.querySelector(".runs"), box = document.getElementById("filter");
const groups = [...table.tBodies].map(body => ({body, head: body.querySelector(".sweep"),
  rows: [...body.rows].filter(row => !row.classList.contains("sweep"))}));
const rows = groups.flatMap(group => group.rows), together = document.getElementById("together");
const flat = document.createElement("tbody"), said = document.getElementById("said");
const number = text => text.trim() === "" ? NaN : Number(text);
const same = (found, asked) => found === asked || number(found) === number(asked) ||
  asked.includes("*") && new RegExp("^" + asked.split("*").map(part =>
    part.replace(/[.+?^${}()|[\]\\]/g, "\\$&")).join(".*") + "$").test(found);
const words = row => row.words ??= row.dataset.w.toLowerCase().split("\n").map(word => {
  const at = word.indexOf("=");
  return at < 0 ? [word, ""] : [word.slice(0, at), word.slice(at + 1)];
});
const text = row => row.text ??= (row.textContent + "\n" + row.dataset.w).toLowerCase();
const compared = {"=": same, "!=": (a, b) => !same(a, b), ">": (a, b) => number(a) > number(b),
  "<": (a, b) => number(a) < number(b), ">=": (a, b) => number(a) >= number(b),
  "<=": (a, b) => number(a) <= number(b)};
function condition(word) {
  const [, not, key, sign, value] = /^(-?)([\w.@/+-]+?)(!=|>=|<=|=|>|<)(.*)$/.exec(word) ?? [];
  if (!key) {
    const out = word.length > 1 && word[0] === "-", part = out ? word.slice(1) : word;
    return row => text(row).includes(part) !== out;
  }
  return row => words(row).some(([name, found]) => (name === key || name.endsWith("." + key)) &&
    compared[sign](found, value)) !== (not === "-");
}
function filter() {
  const asked = (box.value.toLowerCase().match(/[^\s"]*"[^"]*"|\S+/g) ?? []).map(
    word => condition(word.replaceAll('"', "")));
  let count = 0;
  for (const group of groups) {
    let left = 0;
    for (const row of group.rows) left += !(row.hidden = !asked.every(fits => fits(row)));
    group.body.hidden = !left;
    group.body.classList.toggle("sought", asked.length > 0);
    count += left;
  }
  said.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs`;
  history.replaceState(null, "", box.value ? "#" + encodeURIComponent(box.value) : "#");
}
const order = new Intl.Collator("en", {numeric: true}).compare;
const cell = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
function compare(a, b, column, down) {
  if (a === "" || b === "") return (a === "") - (b === "");  // what is unknown comes last
  const [x, y] = [number(a), number(b)];
  return (Number.isNaN(x) || Number.isNaN(y) ? order(a, b) : x - y) * (down ? -1 : 1);
}
let column = 0, down = true;
function sort() {
  const by = (a, b) => compare(cell(a, column), cell(b, column), column, down);
  if (together.checked) {
    flat.remove();
    for (const group of groups) {
      group.rows.sort(by);
      group.body.replaceChildren(...(group.head ? [group.head] : []), ...group.rows);
    }
    table.append(...[...groups].sort((a, b) => by(a.rows[0], b.rows[0])).map(group => group.body));
  } else {
    groups.forEach(group => group.body.remove());
    flat.replaceChildren(...[...rows].sort(by));
    table.append(flat);
  }
  [...table.tHead.rows[0].cells].forEach((head, i) => i === column ? head.setAttribute(
    "aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
}
const chosen = document.getElementById("sort");
function by(next, turned) { column = next; down = turned; sort(); chosen.value = String(next); }
[...table.tHead.rows[0].cells].forEach((head, i) => head.firstChild.addEventListener("click",
  () => by(i, i === column ? !down : head.classList.contains("n") || i === 0)));
chosen.addEventListener("change", () => by(Number(chosen.value),
  table.tHead.rows[0].cells[chosen.value].classList.contains("n") || chosen.value === "0"));
together.addEventListener("change", sort);
table.addEventListener("click", event => event.target.matches(".sweep th > button") &&
  event.target.closest("tbody").classList.toggle("folded"));
document.querySelectorAll(".counts button").forEach(button => button.addEventListener("click",
  () => { box.value = button.dataset.f; filter(); }));
box.addEventListener("input", filter);
const told = () => {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
};
addEventListener("hashchange", () => { box.value = told(); filter(); });
box.value = told();
filter();
"""
HELP = ("Words are looked for anywhere in a row; seed=1, lr=0.001, think=true, status=failed ask "
        "for a value, typed or default, of every key that was typed for any of the runs; "
        "accuracy&gt;0.9, steps&lt;500, task!=add and qa* work too; a minus in front of a word "
        "leaves out what it finds. Gap: accuracy with the own thoughts, less that with the "
        "thoughts of other questions.")


def run(config: Config) -> None:
    """Write the page over the runs below `config.runs` to `config.out`, or where they are."""
    found = list_runs(config.runs)
    path = Path(config.out) if config.out else index_of(patterns_of(config.runs))
    with writing(f"out={path}"), replacing(path) as temporary:
        temporary.write_text(page(found, path.parent), "utf-8", "xmlcharrefreplace")
    counts = ", ".join(f"{count:,} {status}" for status, count in found.counts.items())
    for line in found.unreadable[:MANY]:
        print(f"cannot be read: {shown(line)}")
    print(f"{len(found.entries):,} runs ({counts}); open {path.resolve().as_uri()}")


def index_of(patterns: list[str]) -> Path:
    """Where the page over some directories goes: into the directory, if there is one, else into
    star_runs.
    """
    only = Path(patterns[0])
    return (only if len(patterns) == 1 and only.is_dir() else Path("star_runs")) / INDEX


def index_link(directory: Path) -> str:
    """A paragraph with a link from the page of a run, or of a comparison, to that over all runs;
    "" outside of star_runs.
    """
    above = [folder for folder in directory.absolute().parents if folder.name == "star_runs"]
    if not above:
        return ""
    way = address(Path(os.path.relpath(above[0] / INDEX, directory)))
    return (f'<p class="note nav"><a href="{way}">All runs</a> (a page that '
            f"<code>{escape(program())} action=browse</code> writes)</p>")


# --- the page ------------------------------------------------------------------------------------


def page(found: Listing, folder: Path) -> str:
    """The whole page, whose links start in `folder`."""
    keys = typed_keys(found.entries)
    counts = "".join(
        f'<button data-f="status=&quot;{status}&quot;">{count:,} {status}</button>'
        for status, count in found.counts.items())
    heads = "".join(f'<th{_right(name)}><button>{name}</button></th>' for name in COLUMNS)
    bodies = [_body(sweep, list(entries), found, folder, keys) for (sweep, _), entries in groupby(
        found.entries, lambda entry: (entry.sweep, "" if entry.sweep else entry.directory))]
    options = "".join(f'<option value="{i}">{name}</option>' for i, name in enumerate(COLUMNS))
    head = (f'<p class="facts counts">{counts}</p><div class="bar"><input id="filter" '
            'type="search" placeholder="seed=1 task=cups accuracy&gt;0.9" aria-label="filter" '
            'autocomplete="off" spellcheck="false"><span id="said" role="status"></span>'
            '<label><input id="together" type="checkbox" checked> sweeps together</label>'
            f'<select id="sort" aria-label="sort by">{options}</select></div>'
            f'<details><summary class="note">What a filter can be</summary><p class="note">{HELP}'
            f"</p></details>{_comparisons(found, folder)}{_unreadable(found)}")
    table = f'<table class="runs"><thead><tr>{heads}</tr></thead>{"".join(bodies)}</table>'
    return figures.page("Runs", f"<style>{STYLE}</style>{head}{table}<script>{SCRIPT}</script>")


def _right(name: str) -> str:
    return ' class="n"' if name in RIGHT else ""


def _body(sweep: str, entries: list[Entry], found: Listing, folder: Path, keys: list[str]) -> str:
    """A sweep below a line about it, or a run by itself."""
    rows = "\n".join(_row(entry, folder, keys) for entry in entries)
    if not sweep:
        return f"<tbody>{rows}</tbody>\n"
    counts = Listing(entries).counts
    said = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    shared = " ".join(shared_words(entries))
    place = Path(os.path.commonpath([entry.directory.parent for entry in entries]))
    links = [f'<a href="{address(path, folder)}">comparison</a>'
             for path, runs in found.comparisons if [Path(run) for run in runs] == [place]][:1]
    parts = [f"<button>{escape(sweep)}</button>", escape(said),
             f"<code>{escape(shared)}</code>" if shared else "", *links]
    folded = ' class="folded"' if len(entries) > MANY else ""
    return (f'<tbody{folded}><tr class="sweep"><th colspan="{len(COLUMNS)}">'
            f"{' · '.join(filter(None, parts))}</th></tr>\n{rows}</tbody>\n")


def _row(entry: Entry, folder: Path, keys: list[str]) -> str:
    report, settings = entry.directory / "report.html", entry.settings
    title = escape(entry.title)
    if report.is_file():
        title = f'<a href="{address(report, folder)}">{title}</a>'
    action = "evaluation " * (settings.get("action") == "evaluate")
    title += (f'<small>{escape(action)}<a href="{address(entry.directory, folder)}">'
              f"{escape(str(entry.directory))}</a></small>")
    status = escape(entry.status)
    status += f"<small>{escape(entry.reason)}</small>" if entry.reason else ""
    cells = (escape(entry.date), title, _text(settings.get("task.name")),
             "" if entry.flags == "unknown" else escape(entry.flags.replace(",", " ")),
             _text(settings.get("strategy.name")), escape(entry.model),
             _share(entry.accuracy), _share(entry.gap),
             "" if entry.steps is None else f"{entry.steps:,.0f}", _text(entry.seed), status)
    sorts = {"accuracy": entry.accuracy, "gap": entry.gap, "steps": entry.steps}
    row = "".join(_cell(name, cell, sorts.get(name), entry.status)
                  for name, cell in zip(COLUMNS, cells, strict=True))
    words = escape("\n".join(word.replace("\n", " ") for word in filter_words(entry, keys)))
    return f'<tr data-w="{words}">{row}</tr>'


def _cell(name: str, content: str, value: float | None, status: str) -> str:
    kinds = [*["n"] * (name in RIGHT), *[status.replace(" ", "-")] * (name == "status")]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    exact = "" if value is None else f' data-v="{value:.6g}"'
    called = f' data-c="{name}"' if content and COLUMNS.index(name) > 1 else ""
    return f"<td{kind}{exact}{called}>{content}</td>"


def _text(value: object) -> str:
    return "" if value is None else escape(shown(value))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def address(path: Path, folder: Path | None = None) -> str:
    """The relative address of a file, also where its name is no UTF-8."""
    return quote(os.fsencode(path if folder is None else os.path.relpath(path, folder)))


def _comparisons(found: Listing, folder: Path) -> str:
    if not found.comparisons:
        return ""
    listed: Iterable[str] = (
        f'<li><a href="{address(path, folder)}">{escape(str(path.parent))}</a> of '
        f"<code>{escape(' '.join(map(shown, runs)))}</code></li>"
        for path, runs in found.comparisons[:MAX_COMPARISONS])
    return (f'<details><summary class="note">Comparisons ({len(found.comparisons)})</summary>'
            f"<ul>{''.join(listed)}</ul></details>")


def _unreadable(found: Listing) -> str:
    return "".join(figures.note(f"Cannot be read: {line}") for line in found.unreadable[:MANY])
