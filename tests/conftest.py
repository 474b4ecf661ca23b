"""What the tests share: small policies and problems, one CPU thread."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra

from ponder.cli import main as cli
from support.small import Door

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us behind `&`


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole commands are `slow`: `make check` leaves them out."""
    for item in items:
        if "door" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
