"""What runs leave, and runs of several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ponder.config.spine import CONF, Config, register

SMALL = ["trainer.max_steps=2", "trainer.train_batch_size=4", "task.max=10", "model.d_model=8",
         "model.layers=1", "model.heads=2", "thinker.vocabulary=10"]
RUN = str(Path(__file__).parents[1] / "support" / "alone.py")


def lines(path: str = "run") -> list[dict]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def summary(path: str = "run") -> dict:
    return json.loads((Path(path) / "summary.json").read_text())


def run_processes(folder: Path, count: int, *words: str) -> tuple[list[dict], dict]:
    """The log and the summary of a run of so many processes."""
    launch = [sys.executable, RUN] if count == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={count}", RUN]
    folder.parent.mkdir(exist_ok=True)
    done = subprocess.run([*launch, *words, f"hydra.run.dir={folder}"], text=True,
                          capture_output=True, timeout=900, check=False, cwd=folder.parent)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[:6000]}\n...\n{done.stderr[-1000:]}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads((folder / "summary.json").read_text())


def config_of(*overrides: str) -> Config:
    """The configuration of a small run of two steps."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [*SMALL, *overrides]))
    assert isinstance(config, Config)
    return config
