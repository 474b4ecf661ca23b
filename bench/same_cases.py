"""The short configurations that bench/same.py runs in two trees.

A case is one or more command lines that run one after the other in one empty directory, which
holds text.txt, questions.csv and model/ (a random Llama). `{run}` in a line stands for the newest
checkpoint of the directory `run`. The first `opened` lines run in the old tree only: the new tree
goes on with a copy of what they left.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

COMMON = "seed=0 trainer.threads=1 trainer.log_every_n_steps=1"
ADD = ("rollout=sample task.test_questions=100 trainer.train_batch_size=16 "
       "trainer.max_steps=12 trainer.val_every_n_steps=6")
SMALL_TEXT = ("task.data=text.txt task.length=16 task.test_passages=10 trainer.max_steps=12 "
              "trainer.val_every_n_steps=6 trainer.train_batch_size=4")
NORMAL = (f"experiment=normal {SMALL_TEXT} model.d_model=32 model.layers=2 model.heads=2 "
          "hydra.run.dir=normal")
THINKING = f"{SMALL_TEXT} model.name={{normal}} model.d_model=32 model.layers=2 model.heads=2"
CONTINUED = ("task.data=text.txt task.length=4 task.thought_length=8 task.test_passages=10 "
             "trainer.train_batch_size=4 trainer.gen_batch_size=8 trainer.max_steps=8 "
             "trainer.val_every_n_steps=4")
QA = ("task=qa model=hf model.name=model trainer=text reward=exact_match rollout=sample "
      "variant=[think] task.data=questions.csv task.test_questions=6 thinker.tokens=6 "
      "rollout.samples=3 trainer.lr=1e-3 trainer.gen_batch_size=8 trainer.max_epochs=2 "
      "trainer.val_every_n_steps=4 trainer.skip_first_validation_loop=false")
LLAMA_TEXT = (f"model=hf model.name=model {SMALL_TEXT} trainer.dtype=float32 "
              "trainer.max_steps=6 trainer.lr=1e-3")


@dataclass(frozen=True)
class Case:
    """Command lines, and the files besides metrics.jsonl and summary.json that must be equal."""

    name: str
    lines: tuple[str, ...]
    opened: int = 0
    files: tuple[str, ...] = ()

    def commands(self, steps: int | None) -> list[str]:
        """The lines as they are run; steps: instead of the trainer.max_steps of each line."""
        found = []
        for line in self.lines:
            words: dict[str, str] = {}
            for word in f"{'' if 'action=' in line else COMMON} hydra.run.dir=run {line}".split():
                if steps is not None and word.startswith("trainer.max_steps="):
                    word = f"trainer.max_steps={steps}"
                words[word.partition("=")[0]] = word  # each key as said last
            found.append(" ".join(words.values()))
        return found


def case(name: str, *lines: str, opened: int = 0, files: tuple[str, ...] = ()) -> Case:
    return Case(name, lines, opened, files)


CASES = [
    case("default", "trainer.max_steps=15 trainer.val_every_n_steps=10"),
    # strategies
    case("normal", f"variant=[] {ADD}"),
    *(case(name, f"variant=[think,fixed] strategy={words} {ADD}") for name, words in {
        "reinforce": "reinforce", "reinforce_running": "reinforce strategy.baseline=running_mean",
        "grpo": "grpo strategy.kl=0.01 trainer.internal_epochs=2", "rloo": "rloo",
        "ppo": "ppo trainer.internal_epochs=2",
        "ppo_shared": "ppo strategy.value=shared strategy.kl=0.01 trainer.internal_epochs=2",
        "dpo": "dpo trainer.internal_epochs=2", "star": "star", "sft": "sft",
        "exact": "exact task.max=10"}.items()),
    # variants
    case("ragged", f"variant=[think] {ADD}"),
    case("blind", f"variant=[think,blind] {ADD}"),
    case("super", f"variant=[think,fixed,blind,super] {ADD}"),
    case("clean", f"variant=[think,fixed,clean] {ADD}"),
    case("shared", f"variant=[think] answerer.model=shared task.answer=digits {ADD}"),
    case("frozen", f"variant=[think,blind] answerer.model=frozen answerer.refresh_every=5 {ADD}"),
    case("scratchpad", f"variant=[think,super] task.gold=scratchpad task.answer=digits {ADD}"),
    case("accumulated", f"variant=[think] {ADD} trainer.train_gradient_accumulation_steps=2 "
         "trainer.gen_batch_size=64"),
    *(case(f"search_{name}", f"variant=[think,fixed,blind,search] {ADD} rollout=search "
           f"rollout.method={words}") for name, words in {
        "balanced": "balanced", "exhaustive": "exhaustive", "beam": "beam",
        "tree": "tree rollout.tree.simulations=8 trainer.max_steps=6",
        "tree_value": "tree rollout.tree.simulations=8 rollout.tree.value=model "
                      "trainer.max_steps=6"}.items()),
    # thoughts that are not sampled tokens
    case("continuous", f"variant=[think,blind] thinker.kind=continuous {ADD}"),
    case("continuous_staged", f"variant=[think] thinker.kind=continuous thinker.stage_steps=5 "
         f"answerer.model=shared {ADD}"),
    case("gumbel", f"variant=[think,blind] thinker.kind=gumbel rollout.epsilon=0.1 {ADD}"),
    # other tasks of our own network
    case("star_addition", "experiment=star_addition task.digits=2 task.epoch_size=128 "
         "trainer.rehearse=128 trainer.max_epochs=2 task.test_questions=200"),
    case("text", NORMAL),
    case("text_trie", f"{NORMAL} task.tokens=trie task.trie_size=280"),
    case("text_ahead", f"{NORMAL} task.ahead=2"),
    case("positions", NORMAL, f"experiment=supervised_rollout_think {THINKING}"),
    case("positions_ragged", NORMAL, f"experiment=supervised_rollout_think variant=[think] "
         f"strategy=grpo task.places=hardest task.ahead=2 {THINKING}"),
    case("corpus_ppo", NORMAL, f"experiment=ppo_corpus task.wanted=e model.name={{normal}} "
         f"{CONTINUED}"),
    case("corpus_thoughts", NORMAL, "experiment=rollout_think variant=[think] "
         f"model.name={{normal}} model.ref_name={{normal}} {CONTINUED}"),
    # language models of Hugging Face
    case("qa_star", f"{QA} strategy=star strategy.keep=correct task.answer=letter"),
    case("qa_star_lora", f"{QA} strategy=star strategy.keep=correct task.answer=cloze "
         "model.lora_r=4"),
    case("qa_dpo_lora", f"{QA} strategy=dpo task.answer=letter model.lora_r=4"),
    case("qa_grpo", f"{QA} strategy=grpo strategy.kl=0.1 task.answer=letter"),
    case("qa_ppo_lora", f"{QA} strategy=ppo strategy.value=shared task.answer=cloze "
         "model.lora_r=4"),
    case("qa_generated", f"{QA} strategy=reinforce task.answer=generated"),
    case("text_llama", f"experiment=normal_smollm2 {LLAMA_TEXT}"),
    case("positions_llama", f"experiment=supervised_rollout_smollm2 {LLAMA_TEXT} "
         "task.place_count=3 thinker.vocabulary=4 model.lora_r=4"),
    case("corpus_llama", "experiment=ppo_smollm2 model=hf model.name=model task.wanted=e "
         f"{CONTINUED}"),
    # runs that stop and go on; what the old tree began, the new one goes on with
    case("resume", f"variant=[think,blind] {ADD} trainer.lr_decay=constant trainer.max_steps=5",
         f"variant=[think,blind] {ADD} trainer.lr_decay=constant trainer.max_steps=12"),
    case("resume_ppo", f"strategy=ppo variant=[think] {ADD} trainer.lr_decay=constant "
         "trainer.max_steps=5", f"strategy=ppo variant=[think] {ADD} trainer.lr_decay=constant "
         "trainer.max_steps=12"),
    case("opened_resume", f"strategy=ppo variant=[think] {ADD} trainer.lr_decay=constant "
         "trainer.max_steps=5", f"strategy=ppo variant=[think] {ADD} trainer.lr_decay=constant "
         "trainer.max_steps=12", opened=1),
    case("opened_search", f"variant=[think,fixed,blind,search] {ADD} rollout=search "
         "trainer.lr_decay=constant trainer.max_steps=5", f"variant=[think,fixed,blind,search] "
         f"{ADD} rollout=search trainer.lr_decay=constant trainer.max_steps=12", opened=1),
    case("opened_evaluate", f"variant=[think] {ADD}",
         "action=evaluate model.name={run} hydra.run.dir=again", opened=1),
    case("opened_generate", NORMAL, "action=generate model.name={normal} prompt=the "
         "generate.tokens=20 seed=1 out=said.jsonl", opened=1, files=("said.jsonl",)),
    case("opened_llama", f"{QA} strategy=star strategy.keep=correct task.answer=letter "
         "model.lora_r=4", "action=evaluate model.name={run} hydra.run.dir=again", opened=1),
    case("opened_compare", f"variant=[think] {ADD}",
         "action=compare runs=[run] out=table.csv", opened=1, files=("table.csv",)),
    # the longest
    case("invent_digits", "experiment=invent_digits trainer.max_steps=300 "
         "trainer.train_batch_size=64 task.test_questions=300 trainer.log_every_n_steps=10 "
         "trainer.val_every_n_steps=150"),
]


def make_inputs(folder: Path) -> None:
    """Write what the cases read: a text, multiple-choice questions, a random Llama."""
    (folder / "text.txt").write_text(
        "the cat sat on the mat. a dog ran to the sea. we see ten red bees. " * 60)
    with (folder / "questions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "question", "A", "B", "answer"])
        for i in range(24):
            rows.writerow([i, f"Is {i} even or odd?", "even", "odd", "AB"[i % 2]])
    save_llama(folder / "model")


def save_llama(folder: Path) -> None:
    """A random Llama of two layers; its tokens are the 256 bytes, padding and an end."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(
        vocab={word: i for i, word in enumerate(["<pad>", "<end>", *letters])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>",
                            eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.3, bos_token_id=1, eos_token_id=1,
        pad_token_id=None)).save_pretrained(folder)
