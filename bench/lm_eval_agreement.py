"""Per-question agreement with lm-evaluation-harness: the tables `lm_eval` and `lm_eval_model` of
docs/results.md.

    PONDER_DATA=<folder with qa/*.csv> python bench/lm_eval_agreement.py [--questions 200] \\
        [--only texts,model,hf] [--ways cloze,letter] [--table]

Needs `lm_eval` (pip install --no-deps lm_eval will do for the first table, the extra `lm-eval` for
the second) and SmolLM2 in scratch/models.

The first table, `texts`: lm_eval's `HFLM` is
given the text of our prompts, the one of our options behind it, and says the log-likelihood; `acc`,
`acc_norm` and `acc_bytes` are the option with the largest sum, sum over characters, sum over bytes.
The models: SmolLM2, whose tokens are bytes (as of GPT-2), with and without its chat template; and
two random ones, whose tokenizers are learned from the questions and write spaces as SentencePiece
does, with a space before every text (Llama 2) and without. The questions: ARC-Easy, with four
options; OpenBookQA with a fifth option, out of the next question.

The second, `model`: a task of lm_eval is written in YAML, and its own evaluation is run with our
model `ponder`; beside it, question by question, what `action=evaluate` chooses for the same
questions as task=qa, with thoughts of SmolLM2 (greedy, up to 16 tokens) and without; and without
thoughts in lm_eval's own model `hf`, on the task's text as it is.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import paths
from paths import ROOT, fill
from ponder.config.players import HfConfig
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.qa import Qa, QaKeys
from ponder.tokenizers.vocabulary import TextVocabulary

DATA = Path(os.environ.get("PONDER_DATA", "data")) / "qa"
SMOLLM2 = ROOT / "scratch" / "models" / "smollm2-135m-instruct"
FOUND = ROOT / "scratch" / "lm_eval.json"
FOUND_MODEL = ROOT / "scratch" / "lm_eval_model.json"
SETS = {"ARC-Easy": 4, "OpenBookQA, five options": 5}
UNITS = {"none": "acc", "character": "acc_norm", "byte": "acc_bytes"}
LENGTHS = {"none": lambda text: 1, "character": len, "byte": lambda text: len(text.encode())}


def table_of(name: str, count: int, path: Path) -> Path:
    """The first questions of a set as a file."""
    file = "arc_easy_test.csv" if SETS[name] == 4 else "openbookqa_test.csv"
    with (DATA / file).open(newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))[:count + 1]
    if SETS[name] == 5:
        for row, following in itertools.pairwise(rows):
            row["E"] = following["B"]
    columns = ["id", "question", *"ABCDE"[:SETS[name]], "answer"]
    with path.open("w", newline="", encoding="utf-8") as content:
        writer = csv.DictWriter(content, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[:count])
    return path


def random_model(directory: Path, prefix: bool) -> Path:
    """A random Llama whose tokenizer writes spaces as SentencePiece does; prefix: it puts one
    before every text.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    inner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    front = [normalizers.Prepend("▁")] if prefix else []
    inner.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    inner.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    text = (DATA / "arc_easy_train.csv").read_text(encoding="utf-8").splitlines()
    inner.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=2000, show_progress=False, max_token_length=16, special_tokens=[
            "<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]))
    if prefix:  # and a token, as Llama 2's
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    words = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.2, eos_token_id=2, bos_token_id=1)).save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


def ours(model: HfConfig, keys: QaKeys, thinks: bool) -> tuple[Qa, torch.Tensor, torch.Tensor]:
    """(the task, log p (P, C) of each option, the score (P, C) that decides). thinks: the options
    are read behind an empty thought, as in a run with thoughts that is shown none.
    """
    words = load_vocabulary(model)
    task = Qa(keys, words, thinks=thinks)
    net = load_text_model(model, len(words))
    policy = ChoicePolicy(net, task.vocabulary, Rules(1 if thinks else 0, True), keys.answer)
    problems = task.test()
    empty = torch.full((len(problems), 1), task.vocabulary.end)
    return task, *policy.options(problems, empty)


def theirs(lm: Any, task: Qa, words: TextVocabulary) -> list[list[float]]:
    """Log-likelihood of each option of each question by `HFLM`, from texts alone."""
    from lm_eval.api.instance import Instance

    way, requests = task.config.answer, []
    for number, question in enumerate(task.list):
        turns = prompts.turns(question, task.preamble, [], way)
        if words.chat:
            context = words.tokenizer.apply_chat_template(
                [{"role": role, "content": text} for role, text in turns], tokenize=False,
                add_generation_prompt=True)
        else:
            context = "\n".join(text for _, text in turns) + "\n"
        context += prompts.bridge(question, way)
        requests += [Instance("loglikelihood", {}, (context, option), number)
                     for option in prompts.options(question, way)]
    found = iter(lm.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in question.choices] for question in task.list]


def compared(name: str, path: Path, chat: bool, table: Path) -> Iterator[list[str]]:
    """Rows of the table for one model and one set of questions."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = HfConfig(name=str(path), chat=chat, dtype="float32")
    lm = HFLM(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
              tokenizer=AutoTokenizer.from_pretrained(path), device="cpu", batch_size=16)
    for way in ("letter", "cloze"):
        keys = QaKeys(data=str(table), answer=way, held_out=1, test_questions=10**6, seed=0)
        sums = None
        for thinks in (False, True):
            task, total, _ = ours(model, keys, thinks)
            sums = theirs(lm, task, load_vocabulary(model)) if sums is None else sums
            apart = max(abs(a - b) for own, other in zip(total.tolist(), sums, strict=True)
                        for a, b in zip(own, other, strict=True))
            row = [name, way, "an empty thought" if thinks else "no thoughts", f"{apart:.1e}"]
            for unit in UNITS if way == "cloze" else ("none",):
                sizes = Qa(replace(keys, score_per=unit), load_vocabulary(model),
                           thinks=thinks).test().option_sizes
                assert sizes is not None
                chosen = (total / sizes).argmax(1).tolist()
                best = [max(range(len(own)), key=lambda i, own=own, asked=asked:
                            own[i] / LENGTHS[unit](asked.choices[i]))
                        for own, asked in zip(sums, task.list, strict=True)]
                same = sum(a == b for a, b in zip(chosen, best, strict=True))
                row.append(f"{same} of {len(best)}")
            yield row + ["-"] * (7 - len(row))


# --- the second table -----------------------------------------------------------------------------


def harness_task(folder: Path, table: Path, way: str) -> str:
    """A task of lm_eval in YAML about the questions of a table; its name."""
    with table.open(newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))
    letters = "ABCD"
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            choices = [row[letter] for letter in letters if row[letter]]
            file.write(json.dumps({
                "question": row["question"], "choices": choices,
                "shown": "".join(f"\n{letter}. {choice}"
                                 for letter, choice in zip(letters, choices, strict=False)),
                "letters": [*letters[:len(choices)]],
                "gold": letters.index(row["answer"])}) + "\n")
    asked = {"cloze": ("", "choices"), "letter": ("{{shown}}", "letters")}[way]
    (folder / f"arc_{way}.yaml").write_text(
        f"task: arc_{way}\ndataset_path: json\ndataset_kwargs:\n  data_files: "
        f"{folder / 'questions.jsonl'}\ntest_split: train\noutput_type: multiple_choice\n"
        f'doc_to_text: "Question: {{{{question}}}}{asked[0]}\\nAnswer:"\n'
        f'doc_to_choice: "{{{{{asked[1]}}}}}"\ndoc_to_target: gold\nmetric_list:\n'
        "  - metric: acc\n  - metric: acc_norm\n")
    return f"arc_{way}"


def by_harness(lm: Any, folder: Path, name: str) -> list[list[float]]:
    """log p of each option of each question, as lm_eval's evaluation of a task has them."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(model=lm, tasks=[name], bootstrap_iters=0, task_manager=TaskManager(
        include_path=str(folder), include_defaults=False))
    assert found is not None
    samples = sorted(found["samples"][name], key=lambda one: one["doc_id"])
    return [[option[0] for option in one["filtered_resps"]] for one in samples]


def by_us(table: Path, way: str, unit: str, tokens: int) -> list[str]:
    """What `action=evaluate` chooses for each question of a table: a letter."""
    import ponder

    run = ponder.evaluate(str(SMOLLM2), [
        "model=hf", "model.dtype=float32", "task=qa", f"task.data={table}", "task.held_out=1",
        "task.test_questions=1000000", f"task.answer={way}",
        *([f"task.score_per={unit}"] if way == "cloze" else []),
        *(["variant=[think]", f"thinker.tokens={tokens}"] if tokens else ["variant=[]"]),
        "rollout=sample", "reward=exact_match", "strategy=star", "strategy.keep=correct",
        "trainer=text"])
    return [*run.rollouts["answer"]]


def chosen_by(sums: list[list[float]], table: Path, unit: str) -> list[str]:
    """The letter of the option with the largest log p over its length."""
    with table.open(newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))
    return [max("ABCD"[:len(own)], key=lambda letter, own=own, row=row:
                own["ABCD".index(letter)] / LENGTHS[unit](row[letter]))
            for own, row in zip(sums, rows, strict=True)]


def agreement(folder: Path, questions: int, tokens: int, ways: list[str]) -> Iterator[list[str]]:
    """Rows of the second table about some ways of answering, in the prompt of our own."""
    from ponder.lm_eval import PonderLM

    table = table_of("ARC-Easy", questions, folder / "arc.csv")
    for way in ways:
        name = harness_task(folder, table, way)
        for size in (0, tokens):
            lm = PonderLM(str(SMOLLM2), **{"task": "qa", "task.answer": way,
                                           "thinker.tokens": size, "lm_eval.prompt": "own"})
            sums = by_harness(lm, folder, name)
            units = ["none", "character"] if way == "cloze" and size == 0 else ["none"]
            ours = [by_us(table, way, unit, size) for unit in units]
            yield ["our own", way, f"up to {size}" if size else "none",
                   f"`action=evaluate task.answer={way}`",
                   *_compared(ours, sums, table, units), "-"]


def beside_hf(folder: Path, questions: int, ways: list[str]) -> Iterator[list[str]]:
    """Its rows about the task's own text, which lm_eval's model `hf` is given, too."""
    from lm_eval.models.huggingface import HFLM

    from ponder.lm_eval import PonderLM

    table = table_of("ARC-Easy", questions, folder / "arc.csv")
    for way in ways:
        name = harness_task(folder, table, way)
        plain = by_harness(PonderLM(str(SMOLLM2)), folder, name)
        theirs = by_harness(HFLM(str(SMOLLM2), device="cpu", batch_size=16, dtype="float32"),
                            folder, name)
        yield ["the task's", way, "none", "model `hf` of lm_eval",
               *_compared([chosen_by(theirs, table, "none")], plain, table, ["none"]),
               _apart(plain, theirs)]


def _compared(ours: list[list[str]], sums: list[list[float]], table: Path,
              units: list[str]) -> list[str]:
    """How many choices are the same: `acc`, and `acc_norm` or "-"."""
    cells = []
    for chosen, unit in zip(ours, units, strict=True):
        other = chosen_by(sums, table, unit)
        same = sum(a == b for a, b in zip(chosen, other, strict=True))
        cells.append(f"{same} of {len(other)}")
        differ = [i for i, (a, b) in enumerate(zip(chosen, other, strict=True)) if a != b]
        print(f"{unit}: different at {differ}: "
              f"{[(chosen[i], other[i], sums[i]) for i in differ][:5]}", flush=True)
    return cells + ["-"] * (2 - len(cells))


def _apart(some: list[list[float]], others: list[list[float]]) -> str:
    """The largest difference of two log p."""
    apart = max(abs(a - b) for own, other in zip(some, others, strict=True)
                for a, b in zip(own, other, strict=True))
    return f"{apart:.1e}"


def fill_model(page: Path, found: Path) -> None:
    """Write the second table."""
    titles = ["text of the prompt", "answer", "thought tokens", "compared with", "acc",
              "acc_norm", "largest difference of log p (nats)"]
    lines = [titles, ["---"] * len(titles), *json.loads(found.read_text())]
    fill(page, "lm_eval_model", "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=16, help="of a thought")
    parser.add_argument("--ways", default="cloze,letter", help="of answering, for the second table")
    parser.add_argument("--only", default="texts,model,hf", help="parts, separated by commas")
    parser.add_argument("--table", action="store_true", help="write the table, compare nothing")
    arguments = parser.parse_args()
    page = paths.ROOT / "docs" / "results.md"
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    ways = arguments.ways.split(",")
    if {"model", "hf"} & {*arguments.only.split(",")}:
        if not arguments.table:
            with tempfile.TemporaryDirectory() as name:
                folder, count = Path(name), arguments.questions
                own = agreement(folder, count, arguments.tokens, ways)
                both = {"model": own, "hf": beside_hf(folder, count, ways)}
                for row in itertools.chain.from_iterable(
                        both[part] for part in arguments.only.split(",") if part in both):
                    rows = json.loads(FOUND_MODEL.read_text()) if FOUND_MODEL.is_file() else []
                    rows = [other for other in rows if other[:3] != row[:3]]
                    print(" | ".join(row), flush=True)
                    FOUND_MODEL.write_text(json.dumps(sorted([*rows, row])))
        fill_model(page, FOUND_MODEL)
    if "texts" not in arguments.only:
        return
    if not arguments.table:
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            plain, prefix = (random_model(Path(folder) / str(front), front)
                             for front in (False, True))
            models = {"random, spaces as SentencePiece": (plain, False),
                      "random, the same with one in front": (prefix, False),
                      "SmolLM2": (SMOLLM2, False), "SmolLM2, chat template": (SMOLLM2, True)}
            for title, (path, chat) in models.items():
                for name in SETS:
                    table = table_of(name, arguments.questions, Path(folder) / "x.csv")
                    for row in compared(title, path, chat, table):
                        rows.append([name, *row])
                        print(" | ".join(rows[-1]), flush=True)
        FOUND.write_text(json.dumps(rows))
    titles = ["questions", "model", "answer", "behind", "largest difference of log p (nats)",
              *UNITS.values()]
    lines = [titles, ["---"] * len(titles), *json.loads(FOUND.read_text())]
    fill(page, "lm_eval",
         "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n")


if __name__ == "__main__":
    main()
