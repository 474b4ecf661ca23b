"""A plugin in everything that begins another process or reads what an earlier one wrote."""

from __future__ import annotations

import json
from pathlib import Path

from support.plugin import write_plugin
from support.processes import run

SMALL = ["trainer.max_steps=2", "trainer.train_batch_size=8", "task.test_questions=20",
         "trainer.device=cpu"]
PARTS = ["plugins=[my_parts]", "think=true", "reward=half"]


def test_workers_resume_evaluation_and_generation_know_a_plugin(tmp_path: Path) -> None:
    write_plugin(tmp_path)
    run(tmp_path, "-m", "hydra/launcher=local", *PARTS, *SMALL, "strategy=plain,star",
           "rollout=search", "rollout.method=wide", "rollout.wide.much=5", "hydra.sweep.dir=sweep")
    done = [json.loads(file.read_text()) for file in tmp_path.glob("sweep/*/summary.json")]
    assert [one["status"] for one in done] == ["done", "done"]
    run(tmp_path, *PARTS, *SMALL, "strategy=plain", "hydra.run.dir=run")
    run(tmp_path, "resume=run", "trainer.max_steps=3")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3
    run(tmp_path, "action=evaluate", "model.name=run/checkpoint_3", "hydra.run.dir=judged")
    assert "accuracy" in json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert run(tmp_path, "action=generate", "model.name=run/checkpoint_3", "prompt=31+84=")
