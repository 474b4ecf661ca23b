"""Small questions, tokenizers and language models that the tests of text share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ponder.models.huggingface.pretrained import quiet
from ponder.tasks.choice.free import Free, FreeKeys
from ponder.tasks.choice.qa import Qa, QaKeys
from ponder.tokenizers.vocabulary import TextVocabulary
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHAT = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}")

def vocabulary(template: str | None = None) -> TextVocabulary:
    """Every byte is a token; the ids 0 and 1 are padding and the end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate(["<pad>", "<end>", *letters])}
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>",
                                        eos_token="<end>")
    tokenizer.chat_template = template
    return TextVocabulary(tokenizer)


WORDS = vocabulary()
KINDS = ("bytes", "spaces", "prefix")


def tokenizer_of(kind: str) -> Any:
    """A tokenizer learned from a few sentences. bytes: of bytes, as of GPT-2; prefix: as Llama 2's,
    a space becomes a mark, and one is put before every text; spaces: the same without that.
    """
    from transformers import PreTrainedTokenizerFast

    from tokenizers import normalizers, trainers

    text = ["Which animal barks at night? Answer: A. cat B. dog C. the grey wolf\n\nAnswer: A"] * 9
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    if kind == "bytes":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        special = ["<s>", "</s>"]
    else:
        inner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        front = [normalizers.Prepend("▁")] if kind == "prefix" else []
        inner.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", "▁")])
        inner.pre_tokenizer = pre_tokenizers.Sequence([  # no token of two words or lines
            pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split("\n", "isolated")])
        inner.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if front else [])])
    inner.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, max_token_length=8, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []))
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def file_of(path: Path, count: int = 10, split: str = "", subjects: int = 1) -> Path:
    """`count` questions: "Question i?" with the options "one" and "three", i even: one is right."""
    path.write_text("id,subject,split,question,A,B,answer\n" + "".join(
        f"s{i % subjects}/{i},s{i % subjects},{split},Question {i}?,one,three,{'AB'[i % 2]}\n"
        for i in range(count)))
    return path


NAMES = ("Ama", "Bayo", "Chen", "Dina", "Emeka")
STORIES = (  # question, rationale and answer, of the numbers a, b and c
    ("{name} has {a} boxes with {b} pens each and gives {c} away. How many pens are left?",
     "There are {a} * {b} = <<{a}*{b}={p}>>{p} pens.\n{p} - {c} = {r} are left.",
     "{a} * {b} - {c}"),
    ("A ticket costs ${b}. {name} buys {a} tickets and a map for ${c}. What does {name} pay in "
     "dollars?", "The tickets cost {a} * {b} = {p} dollars.\nWith the map: {p} + {c} = {r}.",
     "{a} * {b} + {c}"),
    ("{name} walks {b} steps a minute. After {a} minutes {c} steps remain. How long is the way in "
     "steps?", "{name} has walked {a} * {b} = {p} steps.\nThe way has {p} + {c} = {r} steps.",
     "{a} * {b} + {c}"),
    ("It is {c} degrees, and gets {a} degrees colder an hour for {b} hours. How many degrees is it "
     "then?", "It gets {a} * {b} = {p} degrees colder.\nThat is {c} - {p} = {r} degrees.",
     "{c} - {a} * {b}"))


def stories_file(path: Path, count: int = 100) -> Path:
    """`count` different questions in the format of GSM8K, a JSON object a line: question, and an
    answer that ends with "#### 1,080".
    """
    rows = []
    for i in range(count):
        asked, why, formula = STORIES[i % len(STORIES)]
        a, b, c = 3 + i % 23, 7 + i * 5 % 61, 2 + i % 17
        values = {"name": NAMES[i % len(NAMES)], "a": a, "b": b, "c": c, "p": a * b}
        right = eval(formula.format(**values))
        rows.append({"question": asked.format(**values), "answer": why.format(
            **values, r=right) + f"\n#### {right:,}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def free(path: Path, words: TextVocabulary = WORDS, **changes) -> Free:
    return Free(replace(FreeKeys(data=str(path), seed=0), **changes), words)


def task(path: Path, words: TextVocabulary = WORDS, **changes) -> Qa:
    return Qa(replace(QaKeys(data=str(path), seed=0), **changes), words)


def language_model(kind: str = "llama", seed: int = 0) -> Any:
    """A small random model over the words above, in double precision."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    common = {"vocab_size": len(WORDS), "eos_token_id": WORDS.end, "bos_token_id": WORDS.end,
              "pad_token_id": None}
    if kind == "gpt2":
        net = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512,
                                         initializer_range=0.3, attn_pdrop=0.0, embd_pdrop=0.0,
                                         resid_pdrop=0.0, **common))
    else:
        net = LlamaForCausalLM(LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, **common))
    return net.double().eval()


def save_language_model(directory: Path, kind: str = "llama", seed: int = 0) -> Path:
    """A directory as users have it, in single precision."""
    quiet()
    language_model(kind, seed).float().save_pretrained(directory)
    WORDS.tokenizer.save_pretrained(directory)
    return directory


def load_plain(path: Path) -> tuple[Any, Any]:
    """Load a checkpoint with transformers and peft alone: (model, tokenizer)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if not (path / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(path).eval(), tokenizer
    model = AutoModelForCausalLM.from_pretrained("model")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(model, path).eval(), tokenizer
