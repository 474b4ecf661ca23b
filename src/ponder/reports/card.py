"""What a checkpoint says of itself on the Hugging Face Hub: its model card, and the card of the
rollouts of its evaluation. Read from the disk; nothing is loaded and nothing sent.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.config.running import REPOSITORY
from ponder.config.spine import choices
from ponder.core.metrics import COLUMNS, wilson_interval
from ponder.reports.runs import flatten, read_metrics, typed_arguments, variant_flags
from ponder.training.trackers import markdown

KINDS = {"own": "its own", "shuffled": "those of other questions", "random": "random tokens",
         "constant": "one token repeated", "dropped": "none"}  # of thoughts, in the necessity table
EXAMPLES = 5  # rows of the table of examples
HERE = ("hydra.", "logger", "resume", "scratch", "hub.")  # beginnings of words of one machine alone


def without_folders(node: Any) -> Any:
    """A value without the folders of this machine: of an absolute path its last part is left."""
    if isinstance(node, dict):
        return {key: without_folders(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_folders(value) for value in node]
    if isinstance(node, str) and re.match(r"(~|/)[^\s]*/|[A-Za-z]:\\", node):
        return re.split(r"[/\\]", node.rstrip("/\\"))[-1]
    return node


@dataclass(frozen=True)
class Origin:
    """A checkpoint directory and what is known of the run that it is of, which is around it."""

    checkpoint: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration. Raises `UserError` where there is none."""
        path = self.checkpoint / "ponder.json"
        try:
            return json.loads(path.read_text("utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"model.name={self.checkpoint}: found no readable ponder.json there "
                            f"({brief(error)}); legal: a checkpoint that Ponder has saved, or the "
                            "directory of a run") from None

    @cached_property
    def step(self) -> int:
        return int(_json(self.checkpoint / "manifest.json").get("step") or 0)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The numbers of the evaluation at the checkpoint's step; empty where there was none."""
        run = self.checkpoint.parent
        summary = _json(run / "summary.json")
        if summary.get("steps") == self.step and summary.get("metrics"):
            return summary["metrics"]
        found = [line for line in read_metrics(run / "metrics.jsonl")
                 if line["step"] == self.step and "lr" not in line]
        return found[-1] if found else {}

    @property
    def table(self) -> Path:
        """The rollouts of that evaluation; no file where there was none."""
        return self.checkpoint.parent / f"val_{self.step}" / "generated.csv"

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        if not self.table.is_file():
            return []
        with self.table.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def necessity(self) -> dict[str, float]:
        """Kind of thoughts -> accuracy, without those that were not measured."""
        found = {name: self.metrics.get(f"necessity/{name}") for name in KINDS}
        return {name: value for name, value in found.items()
                if value is not None and math.isfinite(value)}

    @property
    def base(self) -> str | None:
        """The model that training began with; None where that were random weights."""
        name = _json(self.checkpoint / "adapter_config.json").get("base_model_name_or_path")
        name = name or self.config["model"].get("name")
        return without_folders(name) if name else None

    @property
    def command(self) -> str:
        """The command that makes the run anew; from its configuration where nothing is kept."""
        words = [word for word in typed_arguments(self.checkpoint.parent)
                 if not word.lstrip("+").startswith(HERE) and word != "-m"]
        return shlex.join(["ponder", *(_word(word) for word in words)])


def _word(word: str) -> str:
    key, sign, value = word.partition("=")
    return f"{key}{sign}{without_folders(value)}"


def _json(path: Path) -> dict[str, Any]:
    """What is in a file; nothing where it cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# --- the model card -------------------------------------------------------------------------------

def model_card(origin: Origin, repo: str, licence: str | None, dataset: str | None) -> str:
    """The README.md of a model repository."""
    task, base = origin.config["task"]["name"], origin.base
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["ponder", task]}
    if licence:
        head["license"] = licence
    if base and REPOSITORY.fullmatch(base):
        head["base_model"] = base
    if dataset:
        head["datasets"] = [dataset]
    return "\n".join([_front(head), f"# {repo.partition('/')[2]}\n", *_about(origin),
                      *_accuracy(origin), *_examples(origin), *_open(origin, repo),
                      *_reproduce(origin)])


def _front(head: dict[str, Any]) -> str:
    """The YAML in front of a card, which the hub reads."""
    import yaml

    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _about(origin: Origin) -> Iterator[str]:
    settings = dict(flatten(origin.config))
    task, rewards = origin.config["task"]["name"], settings.get("reward", "")
    yield "It thinks before it answers: first a thought, then the answer. Made with Ponder.\n"
    yield markdown([{"": name, " ": value} for name, value in {
        "task": f"`{task}`: {choices('task').get(task, '')}",
        "variants": variant_flags(settings) or "none",
        "tokens of a thought": _length(settings),
        "strategy": f"`{settings['strategy.name']}`", "rewards": rewards,
        "steps": origin.step, "seed": settings["seed"],
        "base model": origin.base or "none: trained from random weights"}.items()])


def _length(settings: dict[str, Any]) -> str:
    tokens = settings["thinker.tokens"]
    return f"{'at most ' if tokens and settings['thinker.stops'] else ''}{tokens}"


def _accuracy(origin: Origin) -> Iterator[str]:
    accuracy, count = origin.metrics.get("accuracy"), len(origin.rows)
    yield "\n## Accuracy\n"
    if accuracy is None:
        yield f"Not evaluated at step {origin.step}.\n"
        return
    error = origin.metrics.get("accuracy_stderr")
    spread = f" ± {error:.4f}" if error else ""
    if count and not error:
        spread = " (95 % interval {:.4f} to {:.4f})".format(*wilson_interval(accuracy, count))
    held_out = f" on {count:,} held-out questions" if count else ""
    yield f"Accuracy {accuracy:.4f}{spread}{held_out}, after {origin.step:,} steps.\n"
    if origin.necessity:
        yield ("Does the answer need the thought? The accuracy with other thoughts in its "
               "place:\n")
        yield markdown([{"thoughts": KINDS[name], "accuracy": f"{value:.4f}"}
                        for name, value in origin.necessity.items()]) + "\n"


def _examples(origin: Origin) -> Iterator[str]:
    shown = [{name: f"`{' '.join(row[name].split())[:200]}`" for name in
              ("question", "thought", "answer", "gold") if row.get(name)}
             for row in origin.rows[:EXAMPLES]]
    shown = [row for row in shown if row.keys() == shown[0].keys()]
    if shown:
        yield f"The first held-out questions:\n\n{markdown(shown).replace('&lt;', '<')}\n"


def _open(origin: Origin, repo: str) -> Iterator[str]:
    adapter = (origin.checkpoint / "adapter_config.json").is_file()
    kind, package = (("AutoPeftModelForCausalLM", "peft") if adapter
                     else ("AutoModelForCausalLM", "transformers"))
    asked = origin.rows[0].get("question", "") if origin.rows else ""
    call = f"think([{json.dumps(asked, ensure_ascii=False)}])" if asked else 'generate("Once")'
    yield f"""## Opening it

With thoughts, by Ponder:

```
ponder action=pull hub.repo={repo} out=checkpoint
ponder action=generate model.name=checkpoint prompt={shlex.quote(asked or 'Once')}
```

```python
import ponder
model = ponder.load("checkpoint")
model.{call}
```

As a language model, by {package}:

```python
from transformers import AutoTokenizer
from {package} import {kind}
model = {kind}.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
```
"""
    if (origin.checkpoint / "answerer").is_dir():
        yield ('That is the network that thinks. The one that answers is in `answerer/`: '
               f'`from_pretrained("{repo}", subfolder="answerer")`.\n')


def _reproduce(origin: Origin) -> Iterator[str]:
    revision = _json(origin.checkpoint.parent / "summary.json").get("git_revision")
    code = f" (Ponder at commit {revision})" if revision else ""
    yield f"## Making it again{code}\n\n```\n{origin.command}\n```\n"
    yield "All keys are in `ponder.json`.\n"


# --- the card of the rollouts ---------------------------------------------------------------------

def dataset_card(origin: Origin, repo: str, model: str, licence: str | None) -> str:
    """The README.md of a data set repository with `generated.csv`."""
    task, rows = origin.config["task"]["name"], origin.rows
    head: dict[str, Any] = {
        "tags": ["ponder", task], "configs": [{"config_name": "default",
                                               "data_files": "generated.csv"}]}
    if licence:
        head["license"] = licence
    right = origin.metrics.get("accuracy")
    accuracy = "" if right is None else f" Their accuracy is {right:.4f}."
    columns = [{"column": f"`{name}`", "meaning": COLUMNS.get(name, "")} for name in rows[0]]
    return "\n".join([
        _front(head), f"# {repo.partition('/')[2]}\n",
        f"The thoughts and answers of [{model}](https://huggingface.co/{model}) to "
        f"{len(rows):,} held-out questions of the task `{task}`, after {origin.step:,} steps."
        f"{accuracy} Made with Ponder.\n", markdown(columns), ""])
