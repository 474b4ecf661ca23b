"""Checkpoints in lm-evaluation-harness (Gao et al. 2021): the model `ponder`; action=lm_eval."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ponder.config.errors import UserError, closest, writing
from ponder.config.resolve import checkpoint_config
from ponder.config.spine import Config
from ponder.core import distributed
from ponder.core.lazy_imports import library
from ponder.core.math import GREEDY, Sampling
from ponder.generation.scoring import Progress, Score, Scorer, scorer_of
from ponder.tasks.base import write_table
from ponder.tokenizers.vocabulary import TextVocabulary

LENGTH = 256  # tokens of a completion where a task names no number, as of lm_eval's own models
OF_LM_EVAL = ("batch_size", "max_batch_size", "dtype")  # what its command line hands to every model
LM: Any = library("lm_eval.api.model").LM


@library("lm_eval.api.registry").register_model("ponder")
class PonderLM(LM):
    """A checkpoint of ours, or a model of Hugging Face, as a model of lm_eval.

    checkpoint is what `model.name` is elsewhere; the other arguments are keys of the command line
    (`thinker.tokens=64`, `task.answer=letter`, `lm_eval.prompt=plain`, `seed=1`).
    """

    def __init__(self, checkpoint: str = "", device: str = "auto", config: Config | None = None,
                 **keys: Any) -> None:
        super().__init__()
        self.config = config or _configured(checkpoint, device, keys)
        self.scorer = scorer_of(self.config)

    # --- what lm_eval asks ----------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Score]:
        """(log p in nats, whether it is what greedy decoding writes) of each text after its context
        and what was thought about that.
        """
        return self._each("log-likelihoods", requests, disable_tqdm, lambda pairs, done:
                          self.scorer.likelihoods(pairs, done))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False,
                              ) -> list[float]:
        """log p of each whole text in nats. There is no question in it to think about, so no
        thoughts are written; but a model that thinks before every token does so here.
        """
        scorer, utils = self.scorer, library("lm_eval.utils")
        if not isinstance(scorer, Scorer):
            raise UserError(f"{self._name}: found a checkpoint of task={self.config.task.name}, "
                            "which knows no running text; legal: tasks with output_type "
                            "multiple_choice, loglikelihood or generate_until about its questions")

        def rolling(texts: list[Any], done: Progress) -> list[float]:
            start, rows, counts = scorer.opening("")[-1], [], []
            for text, in texts:
                windows = [utils.make_disjoint_window(pair) for pair in
                           utils.get_rolling_token_windows(
                               scorer.generator.encode(text), start, scorer.limit, 1)]
                rows += [(list(before), list(after)) for before, after in windows]
                counts.append(len(windows))
            found = iter(scorer.of_tokens(rows))
            done(len(texts))
            return [sum(next(found)[0] for _ in range(count)) for count in counts]

        return self._each("texts", requests, disable_tqdm, rolling)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """How the checkpoint goes on from each context after a thought, which is not part of it."""
        normal = library("lm_eval.models.utils").normalize_gen_kwargs

        def completed(pairs: list[Any], done: Progress) -> list[str]:
            groups: dict[str, list[int]] = defaultdict(list)
            for index, (_, options) in enumerate(pairs):
                groups[json.dumps(options, sort_keys=True)].append(index)
            found: dict[int, str] = {}
            for indices in groups.values():
                options = normal(dict(pairs[indices[0]][1]), LENGTH)
                texts = self.scorer.completions(
                    [pairs[index][0] for index in indices], options.get("until") or [],
                    options["max_gen_toks"], _sampling(options), done)
                found |= zip(indices, texts, strict=True)
            return [found[index] for index in range(len(pairs))]

        return self._each("completions", requests, disable_tqdm, completed)

    def _each(self, what: str, requests: list[Any], quiet: bool,
              answer: Callable[[list[Any], Progress], list[Any]]) -> list[Any]:
        """The answers to requests, under a bar that says how many there are."""
        with tqdm(total=len(requests), desc=what, disable=quiet or None, file=sys.stderr) as bar:
            found = answer([request.args for request in requests], bar.update)
        return found

    # --- chat templates, and what is written down about a model ----------------------------------

    @property
    def _name(self) -> str:
        return f"checkpoint={self.config.model.name}"

    @property
    def tokenizer_name(self) -> str:
        return str(self.config.model.name).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that `apply_chat_template` uses."""
        return self._tokenizer().get_chat_template() if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]],
                            add_generation_prompt: bool = True) -> str:
        """Turns of a dialogue as one text. Raises `UserError` where the prompt is made of it."""
        return self._tokenizer().apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt)

    def _tokenizer(self) -> Any:
        words = getattr(self.scorer, "vocabulary", None)
        if getattr(self.scorer, "own", False):
            raise UserError("--apply_chat_template: found lm_eval.prompt=own, which puts the text "
                            "of a task into the checkpoint's chat template already; legal: without "
                            "it, or lm_eval.prompt=plain")
        if not isinstance(words, TextVocabulary) or words.tokenizer.chat_template is None:
            raise UserError(f"--apply_chat_template: found {self._name}, which has no chat "
                            "template; legal: without it")
        return words.tokenizer

    def get_model_info(self) -> dict[str, Any]:
        """What stands beside results about the checkpoint."""
        config = self.config
        return {"checkpoint": config.model.name, "task": config.task.name,
                "thinker_tokens": config.thinker.tokens, "prompt": config.lm_eval.prompt,
                "seed": config.seed}


def _configured(checkpoint: str, device: str, keys: dict[str, Any]) -> Config:
    """The configuration that the arguments of a model of lm_eval name. Raises `UserError`."""
    if not checkpoint:
        raise UserError("model_args: found no checkpoint; legal: checkpoint=<checkpoint directory, "
                        "or name on the hub>")
    changes = {key: value for key, value in keys.items() if key not in OF_LM_EVAL}
    where = "cpu" if device == "cpu" else "auto"  # lm_eval says cuda:0 on every machine
    config: Config = checkpoint_config(str(checkpoint), where, changes)
    for line in config.lm_eval.prompts_need(config):
        raise UserError(line)
    return config


def _sampling(options: dict[str, Any]) -> Sampling:
    """The distribution that lm_eval's options ask for: greedy unless they sample."""
    if not options.get("do_sample"):
        return GREEDY
    return Sampling(float(options.get("temperature", 1.0)), int(options.get("top_k") or 0),
                    float(options.get("top_p") or 1.0))


# --- action=lm_eval -------------------------------------------------------------------------------


def run(config: Config) -> None:
    """Ask a checkpoint the questions of `lm_eval.tasks`: print lm_eval's table, and write it
    (.json) or a row for each question (.csv, .jsonl, .parquet) to `out`. Raises `UserError`.
    """
    if distributed.is_distributed_launch():
        raise UserError("action=lm_eval: found several processes; legal: one")
    asked = config.lm_eval
    with quiet():
        manager = manager_of(asked.tasks, asked.include_path)
        names = [named(manager, name) for name in asked.tasks]
        model = PonderLM(config=config)
        results = library("lm_eval").simple_evaluate(
            model=model, tasks=names, num_fewshot=asked.num_fewshot, limit=asked.limit,
            task_manager=manager, random_seed=config.seed, numpy_random_seed=config.seed,
            torch_random_seed=config.seed, fewshot_random_seed=config.seed)
    print("\n".join(lines_of(results)))
    if config.out:
        path = Path(config.out)
        with writing(f"out={path}"):
            if path.suffix == ".json":
                kept = {key: value for key, value in results.items() if key != "samples"}
                path.write_text(json.dumps(kept, indent=1, default=str))
            else:
                write_table(path, rows_of(results, model.scorer.thoughts))
        print(f"written to {path}")


def manager_of(tasks: list[str], folder: str | None) -> Any:
    """lm_eval's list of tasks: those of a folder, where it has all that are asked for; reading the
    thousands of lm_eval's own takes long.
    """
    kind = library("lm_eval.tasks").TaskManager
    if folder is not None:
        found = kind(include_path=folder, include_defaults=False)
        if all(found.match_tasks([name]) for name in tasks):
            return found
    return kind(include_path=folder)


def lines_of(results: dict[str, Any]) -> list[str]:
    """A line for each metric of each task or group: its mean and standard error."""
    lines = []
    for task, metrics in {**results["results"], **results.get("groups", {})}.items():
        for key, value in metrics.items():
            metric, _, tail = key.partition(",")
            error = metrics.get(f"{metric}_stderr,{tail}")
            if not tail or metric.endswith("_stderr"):
                continue
            shown = f"{value:.4f}" if isinstance(value, float) else value
            spread = f" ± {error:.4f}" if isinstance(error, float) else ""
            lines.append(f"{task}: {metric}{f' ({tail})' if tail != 'none' else ''} "
                         f"{shown}{spread} ({_count(results, task)})")
    return lines


def _count(results: dict[str, Any], task: str) -> str:
    asked = results.get("n-samples", {}).get(task, {}).get("effective")
    return "a group" if asked is None else f"{asked} questions"


def named(manager: Any, name: str) -> str:
    """A task of lm_eval: its name, or its YAML file. Raises `UserError` where there is none."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"lm_eval.tasks: found no file {name}; legal: a YAML file of a task")
        return str(Path(name).resolve())
    if not manager.match_tasks([name]):
        known = sorted(manager.all_tasks)
        raise UserError(f"lm_eval.tasks: found {name!r}{closest(name, known)}; legal: a name that "
                        "`lm_eval ls tasks` lists, one in lm_eval.include_path, or a YAML file")
    return name


def rows_of(results: dict[str, Any], thoughts: dict[str, str]) -> list[dict[str, Any]]:
    """A row for each question of each task: what was asked, thought and answered, and each metric
    of it.
    """
    rows = []
    for task, samples in results["samples"].items():
        for one in samples:
            context = one["arguments"][0][0]
            found = {name: one[name] for name in one["metrics"]}
            rows.append({"task": task, "id": one["doc_id"], "filter": one["filter"],
                         "question": context, "thought": thoughts.get(context, ""),
                         "target": _plain(one["target"]), "said": _plain(one["filtered_resps"]),
                         **{name: _plain(value) for name, value in found.items()}})
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def _plain(value: Any) -> Any:
    """A value that fits into a cell of a table."""
    return value if isinstance(value, str | int | float) else json.dumps(value, default=str)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what lm_eval logs below warnings."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


# --- lm_eval's own command line -------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """`lm_eval` with these arguments, and the model `ponder` known to it: its exit code."""
    if arguments is not None:
        sys.argv = [sys.argv[0], *arguments]
    try:
        library("lm_eval.__main__").cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        if not str(error).startswith("Tasks not found"):
            raise
        print(f"error: --tasks: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
