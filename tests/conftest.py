"""What the tests share: small policies and problems, one CPU thread."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra

from ponder import cli
from ponder.config.tasks import AddTask
from ponder.models.policy import Policy, Rules
from ponder.models.transformer import Init, Shape, Transformer
from ponder.tasks.add import Add

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us behind `&`


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_task(thoughts: int = 10, **changes) -> Add:
    return Add(replace(AddTask(seed=0, thought_length=2), **changes), thoughts)


def make_policy(task: Add, tokens: int = 3, stops: bool = True, sees: tuple[str, ...] = (
        "question", "thought"), shared: bool = False, frozen: bool = False,
        dtype: torch.dtype = torch.float32) -> Policy:
    positions = task.question_length + tokens + 1 + task.answer_length + 4  # room to pad
    shape = Shape(len(task.vocabulary), positions, 16, 2, 2)
    rules = Rules(tokens, stops, "question" in sees, "thought" in sees)
    init = Init(*[0.3] * 5)
    nets = [Transformer(shape, init), None if shared else Transformer(shape, init)]
    return Policy(nets[0], nets[1], task.vocabulary, rules, frozen).to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Door = Callable[..., tuple[int, str, str]]


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
         capsys: pytest.CaptureFixture[str]) -> Iterator[Door]:
    """Words -> exit code, stdout, stderr, in an empty folder. What Hydra changes is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(Hydra, "get_mode", lambda *words, **more: None)  # composes once more
    handlers, level, threads = logging.root.handlers[:], logging.root.level, torch.get_num_threads()

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.main(list(words)), *capsys.readouterr()

    yield run
    for handler in logging.root.handlers:
        if handler not in handlers:
            handler.close()
    logging.root.handlers[:], logging.root.level = handlers, level
    torch.set_num_threads(threads)
