"""What the tests share: small policies and problems, one CPU thread."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["OMP_NUM_THREADS"] = "1"  # of torch, in the processes of tests that run side by side

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from ponder.cli import main as cli
from support.small import Door

ROOT = Path(__file__).parents[1]
KEPT = {".hypothesis", ".pytest_cache", ".ruff_cache", "scratch", "star_runs"}  # git ignores them
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us behind `&`


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Each test begins with one seed and without what Hydra keeps of a job; the environment, the
    paths of modules, the folder and the threads are put back. None leaves a file in the checkout.
    """
    torch.manual_seed(0)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    environment, paths, folder = dict(os.environ), sys.path[:], Path.cwd()
    threads, files = torch.get_num_threads(), {*os.listdir(ROOT)}
    yield
    assert not {*os.listdir(ROOT)} - files - KEPT
    sys.path[:] = paths
    os.chdir(folder)
    torch.set_num_threads(threads)
    for name in {*os.environ} - {*environment}:
        del os.environ[name]
    os.environ.update(environment)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
         capsys: pytest.CaptureFixture[str]) -> Iterator[Door]:
    """Words -> exit code, stdout, stderr, in an empty folder. What Hydra changes is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(Hydra, "get_mode", lambda *words, **more: None)  # composes once more
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.main(list(words)), *capsys.readouterr()

    yield run
    for handler in logging.root.handlers:
        if handler not in handlers:
            handler.close()
    logging.root.handlers[:], logging.root.level = handlers, level


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole commands are `slow`: `make check` leaves them out."""
    for item in items:
        if "door" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
