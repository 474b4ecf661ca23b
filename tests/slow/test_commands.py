"""The command lines that people keep from the program before this one: all compose, all run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from ponder.cli.errors import refuse_words
from ponder.cli.legacy import MODEL
from ponder.cli.shorthand import launched, rewrite
from ponder.config.resolve import read
from ponder.config.spine import CONF, Config
from support.commands import KEPT, SINGLE_BATCH, VALIDATION, composed, today, words_of
from support.small import Door
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

COMMANDS = Path(__file__).resolve().parents[3] / "shared" / "seeds" / "commands.txt"
LINES = COMMANDS.read_text().splitlines() if COMMANDS.is_file() else []
DEFAULT = "python run.py trainer.single_batch=true trainer.gen_batch_size=32"


@pytest.fixture(autouse=True)
def _slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def jobs(line: str) -> Iterator[list[str]]:
    """The words of every job of a line, as Hydra's sweeper splits them."""
    words = rewrite(launched(today(*words_of(line))), CONF)
    refuse_words(words, CONF)
    overrides = OverridesParser.create().parse_overrides(
        [word for word in words if not word.startswith(("-", "hydra"))])
    yield from BasicSweeper.split_arguments(overrides, None)[0]


@pytest.mark.parametrize("line", LINES or [pytest.param("", marks=pytest.mark.skip(
    reason=f"{COMMANDS.name} is not here"))])
def test_every_line_composes_and_is_sound(line: str) -> None:
    configs: list[Config] = [read(composed(words)) for words in jobs(line)]
    typed = re.search(r"run_type=(\w+)", line)
    for config in configs:
        assert (config.task.name, config.model.kind) == (
            ("add", "transformer") if line == DEFAULT else ("mmlu", "hf"))
        assert config.run_type == (typed.group(1) if typed else "train")
    swept = [len(word.split(",")) for word in words_of(line) if "," in word]
    assert len(configs) == (swept[0] if swept else 1)


def test_there_are_31_lines() -> None:
    assert len(LINES) in (0, 31)


# --- running ------------------------------------------------------------------------------------

CHAT = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}")
SMALL = ["task.data=questions.csv", "task.test_data=held_out.csv", "task.train_questions=6",
         "task.test_questions=4", "thinker.tokens=4", "trainer.max_steps=2",
         "trainer.threads=1"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 35,000 random weights whose tokens are bytes; it says A or B and no more."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(merges=[], vocab={
        word: i for i, word in enumerate(["<pad>", "<end>", *signs])}))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>",
                                        eos_token="<end>", chat_template=CHAT)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        bos_token_id=1, eos_token_id=1, pad_token_id=0))
    letters = tokenizer.convert_tokens_to_ids(["A", "B"])
    read, written = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        read[:, 0], read[letters, 1] = 3.0, 3.0
        written[letters, 0], written[1, 1] = 1.2, 3.0
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def furnish(line: str, tiny: Path) -> None:
    """Put everything that a line names into the current folder: models, questions, rollouts."""
    questions = [[f"x/{i}", f"Is {i} even?", "yes", "no", "AB"[i % 2]] for i in range(12)]
    for name, rows in (("questions", questions[:8]), ("held_out", questions[8:])):
        _table(Path(f"{name}.csv"), ["id", "question", "A", "B", "answer"], rows)
    for name in re.findall(r"(?:star_runs|unsloth)/[\w./-]+|$", f"{line} {MODEL}")[:-1]:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".csv" and not path.exists():
            path.symlink_to(tiny)
    for name in re.findall(r"[\w./-]+/\w*generated\.csv", line):
        sides = questions[8:] if "val_" in name else questions[:8]
        _rollouts(Path(name), sides)


def _rollouts(path: Path, questions: list[list[str]]) -> None:
    """A generated.csv: of each question twelve rationales, half of them right, as tokens too."""
    rows = []
    for number, question, *_, gold in questions:
        for answer in "AB" * 6:
            text = f"({answer})"
            tokens = " ".join(str(ord(sign) - ord("!") + 2) for sign in text)
            rows.append([number, "x", question, text, answer, gold, int(answer == gold),
                         float(answer == gold), -1.0, 0, f"{tokens} 1"])
    _table(path, ["id", "subject", "question", "rationale", "answer", "gold", "correct", "reward",
                  "logprob", "seed", "tokens"], rows)


def _table(path: Path, head: list[str], rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


@pytest.mark.parametrize("line", LINES or [DEFAULT, *KEPT])
def test_every_line_runs(line: str, tiny: Path, door: Door,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job of it, here and to the end, under the names that scripts look for."""
    import wandb

    furnish(line, tiny)
    names: list[str] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **words: (
        names.append(words["name"]), init(**{**words, "mode": "disabled"}))[1])
    words = [word for word in words_of(line) if not word.startswith("hydra.launcher.")]
    code, _, err = door(*words, *(["trainer.max_steps=2"] if line == DEFAULT else SMALL))
    assert code == 0, err
    swept = next((word.split(",") for word in words if "," in word), [""])
    kind = next((word[9:] for word in words if word.startswith("run_type=")), "train")
    job = r"_\d+" if "-m" in words else ""
    runs = [path.parent for path in Path("star_runs").glob("*/*/summary.json")]
    assert len(runs) == len(swept)
    for run in runs:
        assert re.fullmatch(rf"star_runs/{kind}_\d{{4}}-\d\d-\d\d/\d\d-\d\d-\d\d{job}", str(run))
        summary = json.loads((run / "summary.json").read_text())
        assert summary["status"] == "done" and (summary["steps"] > 0) == learns(words)
        if kind == "val":
            step = words[-2].partition("=")[2]
            assert summary["steps"] == int(step) and (run / f"val_{step}/generated.csv").is_file()
    assert len(names) == (len(swept) if "CustomWandB" in line else 0)
    assert all(name.startswith(f"{kind}_beta=") and name.endswith("_seed=2") for name in names)


def learns(words: list[str]) -> bool:
    """Whether a line takes optimizer steps; those of a validation are its checkpoint's."""
    return not {"trainer.max_epochs=0", "trainer.interal_epochs=0"} & set(words)


def test_what_such_a_run_leaves_can_be_validated(tiny: Path, door: Door) -> None:
    """With what the checkpoint was trained with, under what is typed."""
    furnish(SINGLE_BATCH, tiny)
    assert door(*words_of(SINGLE_BATCH), *SMALL, "trainer.agent.model_handler.lora_r=2",
                "hydra.run.dir=first")[0] == 0
    trained = max(Path("first").glob("checkpoint_*"), key=lambda path: int(path.name[11:]))
    old, words = "star_runs/train_2024-10-01/03-06-34_0/checkpoint_2", words_of(VALIDATION)
    code, _, err = door(*(word.replace(old, str(trained)) for word in words),
                        "hydra.run.dir=second")
    assert code == 0 and err.count("old spelling; today: ") == 1
    first, second = (json.loads((Path(run) / "summary.json").read_text())
                     for run in ("first", "second"))
    for key in ("accuracy", "necessity", "weights_sha256", "seed"):
        assert second[key] == first[key], key
    assert first["accuracy"] == 0.5
    assert (second["seed"], second["steps"]) == (2, 2)
