"""What runs leave, and their configuration."""

from __future__ import annotations

import json
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ponder.config.spine import CONF, Config, register

SMALL = ["trainer.max_steps=2", "trainer.train_batch_size=4", "task.max=10", "model.d_model=8",
         "model.layers=1", "model.heads=2", "thinker.vocabulary=10"]


def lines(path: str = "run") -> list[dict]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def summary(path: str = "run") -> dict:
    return json.loads((Path(path) / "summary.json").read_text())


def config_of(*overrides: str) -> Config:
    """The configuration of a small run of two steps."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [*SMALL, *overrides]))
    assert isinstance(config, Config)
    return config
