"""Writing texts beside `transformers.generate`: the same model, prompts, lengths and sampler.

    python bench/generate.py [--data questions.csv] [--write]

SmolLM2-135M writes 8 thoughts of up to 64 tokens about each of 32 questions. Ours: all rows side by
side, each question read once. transformers: a call for every batch of questions, at two batch
sizes. In turns, on as many threads as torch takes; then ours again out of the cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from paths import ROOT, fill
from ponder.config.players import HfConfig, SamplerConfig
from ponder.core.distributed import keep_freed_memory
from ponder.core.types import Problems
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.base import Rules
from ponder.models.policies.choice import ChoicePolicy
from ponder.rollouts.written import Store, Written
from ponder.tasks.choice.qa import Qa, QaKeys

SUMS = [f"q{i},What is {37 * i % 89} plus {53 * i % 97} minus {i}?,{i},{i + 1},A"
        for i in range(64)]


def questions(path: str | None, count: int, words: Any, directory: Path) -> Problems:
    """Prompts out of a file of questions, else of sums."""
    if path is None:
        path = str(directory / "sums.csv")
        Path(path).write_text("\n".join(["id,question,A,B,answer", *SUMS]))
    task = Qa(QaKeys(data=path, train_questions=count, seed=0), words)
    return task.sample(count, torch.Generator().manual_seed(0))


def ours(policy: ChoicePolicy, problems: Problems, samples: int, store: Path,
         ) -> tuple[int, int, float]:
    """(tokens in the texts, tokens written now, seconds)."""
    source = Written(SamplerConfig(samples=samples), len(problems), len(problems) * samples,
                     Store(store), "smollm2")
    start = time.perf_counter()
    found = source.collect(policy, problems, 0, torch.Generator().manual_seed(0))
    return int(found.chosen.sum()), source.tokens, time.perf_counter() - start


@torch.no_grad()
def theirs(model: Any, problems: Problems, samples: int, room: int, batch: int, end: int,
           ) -> tuple[int, float]:
    """(tokens in the texts, seconds) of transformers.generate, `batch` questions a call."""
    tokens, start = 0, time.perf_counter()
    for rows in torch.arange(len(problems)).split(batch):
        question = problems.question[rows]
        mask = question != problems.pad
        width = int(mask.sum(1).max())
        found = model.generate(
            input_ids=question.masked_fill(~mask, end)[:, -width:],
            attention_mask=mask[:, -width:].long(), do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, num_return_sequences=samples, max_new_tokens=room)[:, width:]
        tokens += int(((found != end).cumprod(1).sum(1) + 1).clamp(max=room).sum())
    return tokens, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", help="file of questions; default: sums")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    chosen = parser.parse_args()
    from transformers import AutoModelForCausalLM

    from ponder.config.inputs import SCRATCH
    from ponder.models.huggingface.embedded import directory_of

    config = HfConfig(name=chosen.model, dtype=chosen.dtype)
    words = load_vocabulary(config)
    net = load_text_model(config, len(words)).eval().to(chosen.device)
    plain = AutoModelForCausalLM.from_pretrained(
        directory_of(chosen.model, SCRATCH),
        dtype=getattr(torch, chosen.dtype)).eval().to(chosen.device)
    if chosen.device == "cpu":
        keep_freed_memory()  # for both
    rates: dict[str, list[float]] = {}

    def note(name: str, tokens: int, seconds: float) -> None:
        rates.setdefault(name, []).append(tokens / seconds)
        print(f"{name}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s",
              flush=True)

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        problems = questions(chosen.data, chosen.questions, words, directory).to(
            torch.device(chosen.device))
        policy = ChoicePolicy(net, words, Rules(chosen.tokens, True), "generated")
        for number in range(chosen.rounds):
            tokens, _, seconds = ours(policy, problems, chosen.samples, directory / str(number))
            note("ours", tokens, seconds)
            for batch in (4, len(problems)):
                note(f"transformers, {batch} questions a call", *theirs(
                    plain, problems, chosen.samples, chosen.tokens, batch, words.end))
        _, again, cached = ours(policy, problems, chosen.samples, directory / "0")
    mean = {name: sum(values) / len(values) for name, values in rates.items()}
    lines = ["| | tokens/s | ours is |", "|---|---|---|"]
    lines += [f"| {name} | {rate:.0f} | {mean['ours'] / rate:.1f} x |"
              for name, rate in mean.items()]
    lines += ["", f"{chosen.samples} texts of up to {chosen.tokens} tokens about each of "
              f"{len(problems)} questions, {torch.get_num_threads()} threads. The same again: "
              f"{again} tokens written, {cached:.1f} s."]
    print("\n".join(lines))
    if chosen.write:
        fill(ROOT / "docs" / "results.md", "generate", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
