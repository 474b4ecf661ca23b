"""Families of language models from start to end: the table `families` of docs/results.md.

    python bench/families.py [--only WORD] [--write]

A tiny random model of each is evaluated, trained by three steps of GRPO, whole and by LoRA, and
saved. Each checkpoint is opened by plain transformers and peft: these write the same greedy texts
with the same log-probabilities as the last evaluation of the run. Other families are refused in one
line before a step is taken.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from common import markdown
from paths import ROOT, fill
from ponder.core.lazy_imports import library
from ponder.tokenizers.vocabulary import token_ids

sys.path.append(str(ROOT / "tests"))
from support.processes import Forked
from support.questions import WORDS, file_of, load_plain, task

COMMON = {"vocab_size": len(WORDS) + 5, "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": None}
SMALL = {**COMMON, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 512}
GROUPED = {**SMALL, "num_key_value_heads": 2}
OLD = {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4}
CAPPED = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 400}
EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LOCAL = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
RECURRENT = {**COMMON, "hidden_size": 32, "num_hidden_layers": 2}

# what it is called here -> (its configuration class without "Config", settings)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 400}),
    "ministral": ("Ministral", {**GROUPED, "head_dim": 8, "sliding_window": 400}),
    "mixtral": ("Mixtral", LOCAL),
    "qwen2": ("Qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2_moe": ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "qwen3_moe": ("Qwen3Moe", {**EXPERTS, "head_dim": 8}),
    "gemma": ("Gemma", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2", {**CAPPED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3_text": ("Gemma3Text", CAPPED),
    "gpt_oss": ("GptOss", {**LOCAL, "head_dim": 8, "sliding_window": 400}),
    "phi": ("Phi", SMALL),
    "phi3": ("Phi3", {**GROUPED, "sliding_window": 400}),
    "olmo": ("Olmo", GROUPED),
    "olmo2": ("Olmo2", GROUPED),
    "olmo3": ("Olmo3", {**GROUPED, "sliding_window": 400}),
    "olmoe": ("Olmoe", EXPERTS),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 3.0, "attention_multiplier": 0.1,
                            "embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
    "granitemoe": ("GraniteMoe", LOCAL),
    "starcoder2": ("Starcoder2", GROUPED),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.5}),
    "cohere2": ("Cohere2", {**GROUPED, "logit_scale": 0.5, "sliding_window": 400}),
    "smollm3": ("SmolLM3", {**GROUPED, "no_rope_layers": [1, 0]}),
    "glm": ("Glm", {**GROUPED, "head_dim": 8}),
    "glm4": ("Glm4", {**GROUPED, "head_dim": 8}),
    "exaone4": ("Exaone4", {**GROUPED, "sliding_window": 400, "sliding_window_pattern": 2}),
    "helium": ("Helium", {**GROUPED, "head_dim": 8}),
    "seed_oss": ("SeedOss", {**GROUPED, "head_dim": 8}),
    "nemotron": ("Nemotron", GROUPED),
    "persimmon": ("Persimmon", SMALL),
    "stablelm": ("StableLm", GROUPED),
    "gpt2": ("GPT2", OLD),
    "gpt_bigcode": ("GPTBigCode", OLD),
    "gpt_neo": ("GPTNeo", {**COMMON, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
                           "attention_types": [[["global", "local"], 1]], "window_size": 400,
                           "max_position_embeddings": 512}),
    "gpt_neox": ("GPTNeoX", SMALL),
    "gptj": ("GPTJ", OLD),
    "codegen": ("CodeGen", OLD),
    "opt": ("OPT", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "xglm": ("XGLM", {**COMMON, "d_model": 32, "num_layers": 2, "attention_heads": 4,
                      "ffn_dim": 48, "max_position_embeddings": 512}),
    "biogpt": ("BioGpt", SMALL),
    "bloom": ("Bloom", {**RECURRENT, "n_layer": 2, "n_head": 4}),
    "mpt": ("Mpt", {**COMMON, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "falcon": ("Falcon", {**RECURRENT, "num_attention_heads": 4}),
    "falcon, alibi": ("Falcon", {**RECURRENT, "num_attention_heads": 4, "alibi": True}),
    "deepseek_v3": ("DeepseekV3", {
        **SMALL, "num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 4,
        "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "qk_nope_head_dim": 8}),
    "mamba": ("Mamba", {**RECURRENT, "state_size": 8}),
    "mamba2": ("Mamba2", {**RECURRENT, "num_heads": 8, "head_dim": 8, "state_size": 8,
                          "n_groups": 1}),
    "rwkv": ("Rwkv", RECURRENT),
    "recurrent_gemma": ("RecurrentGemma", {**GROUPED, "head_dim": 8, "lru_width": 32}),
    "bert": ("Bert", {**SMALL, "is_decoder": True}),
    "t5": ("T5", {**COMMON, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
}
HEAD = ["evaluated", "trained whole", "trained with LoRA"]
TOKENS, HELD_OUT = 6, 4
LIMIT = 1e-4  # nats: rounding of single precision in sums over whole texts
RUN = ["task=qa", "variant=[think]", "model=hf", "model.name=model", "task.data=questions.csv",
       f"task.test_questions={HELD_OUT}", "task.answer=letter", "reward=log_likelihood",
       f"thinker.tokens={TOKENS}", "trainer=text", "trainer.device=cpu"]
TRAIN = ["strategy=grpo", "rollout.samples=3", "trainer.max_steps=3", "trainer.max_epochs=2",
         "trainer.train_gradient_accumulation_steps=2", "trainer.lr=1e-2", "trainer.warmup=0",
         "trainer.keep_evaluated=false"]
RUNS = {"looked": ["action=evaluate", "task.held_out=0.2"], "whole": TRAIN,
        "lora": [*TRAIN, "model.lora_r=4"]}


def make(name: str, folder: Path) -> None:
    """Write a random model of a family, and questions; weights are large enough to tell."""
    library("transformers.utils.logging").disable_progress_bar()
    kind, settings = FAMILIES[name]
    config = getattr(library(), f"{kind}Config")(**settings)
    torch.manual_seed(0)
    seq2seq = config.is_encoder_decoder
    net = getattr(library(), f"AutoModelFor{'Seq2Seq' if seq2seq else 'Causal'}LM").from_config(
        config)
    for weight in net.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    net.save_pretrained(folder / "model")
    WORDS.tokenizer.save_pretrained(folder / "model")
    file_of(folder / "questions.csv", 24)


@torch.no_grad()
def beside(folder: Path, run: str, saved: Path) -> tuple[float, bool]:
    """(the largest difference of log-probabilities of texts in nats, whether greedy texts are the
    same) between the last evaluation of a run and plain transformers and peft.
    """
    before = Path.cwd()
    os.chdir(folder)  # the base of an adapter is named from here
    try:
        model, tokenizer = load_plain(saved)
    finally:
        os.chdir(before)
    last = max((folder / run).glob("val_*/generated.csv"), key=lambda path: path.stat().st_mtime)
    with last.open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = task(folder / "questions.csv", test_questions=HELD_OUT, answer="letter").test()
    words, size = token_ids(tokenizer), model.get_input_embeddings().num_embeddings
    apart, same = 0.0, True
    for row, question in zip(rows, test.question, strict=True):
        prompt = question[question != test.pad][None]
        mask = torch.ones_like(prompt)
        found = model.generate(input_ids=prompt, attention_mask=mask, do_sample=False,
                               max_new_tokens=TOKENS, pad_token_id=0,
                               suppress_tokens=[*range(words, size)])[0, prompt.shape[1]:]
        written = torch.tensor([int(token) for token in row["tokens"].split()])
        same &= found.tolist() == written[:TOKENS].tolist()
        read = model(input_ids=torch.cat([prompt, found[None]], 1)).logits[0, prompt.shape[1] - 1:]
        logprobs = read[:-1, :words].log_softmax(-1).gather(1, found[:, None])
        apart = max(apart, abs(float(logprobs.sum()) - float(row["logprob"])))
    return apart, same


def command(folder: Path, *words: str) -> str:
    """The line of a run that is refused, without the legal words; nothing of one that ends well.
    Raises `RuntimeError` for any other end.
    """
    process = Forked(*RUN, *words, cwd=folder)
    _, err = process.communicate()
    if process.returncode == 0:
        return ""
    if process.returncode != 2:
        raise RuntimeError(err)
    found = re.search("found an? (.*); legal|cannot be read [(](.*)[)]; legal", err)
    return "refused: " + (found[1] or found[2]) if found else err


def examine(name: str, folder: Path) -> list[str]:
    """A row of the table."""
    make(name, folder)
    cells = []
    for run, words in RUNS.items():
        told = command(folder, *words, f"hydra.run.dir={run}")
        if not told:
            saved = [path.relative_to(folder) for path in folder.glob(f"{run}/checkpoint_*")]
            apart, same = beside(folder, run, saved[0] if saved else Path("model"))
            told = f"{apart:.0e}" if same and apart < LIMIT else f"OTHER TEXTS, {apart:.0e}"
        cells.append(told)
    alike = len({*cells}) == 1 and cells[0].startswith("refused")
    return [name, *(cells[:1] if alike else cells), *[""] * (2 * alike)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    arguments = parser.parse_args()
    rows = [["family", *HEAD]]
    for name in FAMILIES:
        if arguments.only in name:
            with tempfile.TemporaryDirectory(prefix="families_") as folder:
                rows.append(examine(name, Path(folder)))
            print(" | ".join(rows[-1]), flush=True)
    if arguments.write:
        fill(ROOT / "docs" / "results.md", "families", markdown(rows) + "\n")


if __name__ == "__main__":
    main()
