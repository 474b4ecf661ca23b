"""Per-question agreement with lm-evaluation-harness: the table `lm_eval` of docs/results.md.

    PONDER_DATA=<folder with qa/*.csv> python bench/lm_eval_agreement.py [--questions 200] [--table]

Needs `lm_eval` (pip install --no-deps lm_eval will do) and SmolLM2 in scratch/models. Its `HFLM` is
given the text of our prompts, the one of our options behind it, and says the log-likelihood; `acc`,
`acc_norm` and `acc_bytes` are the option with the largest sum, sum over characters, sum over bytes.
The models: SmolLM2, whose tokens are bytes (as of GPT-2), with and without its chat template; and
two random ones, whose tokenizers are learned from the questions and write spaces as SentencePiece
does, with a space before every text (Llama 2) and without. The questions: ARC-Easy, with four
options; OpenBookQA with a fifth option, out of the next question.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--table", action="store_true", help="write the table, compare nothing")
    arguments = parser.parse_args()
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
        FOUND.parent.mkdir(parents=True, exist_ok=True)
        FOUND.write_text(json.dumps(rows))
    titles = ["questions", "model", "answer", "behind", "largest difference of log p (nats)",
              *UNITS.values()]
    lines = [titles, ["---"] * len(titles), *json.loads(FOUND.read_text())]
    fill(paths.ROOT / "docs" / "results.md", "lm_eval",
         "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n")


if __name__ == "__main__":
    main()
