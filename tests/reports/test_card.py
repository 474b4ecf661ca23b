"""Model cards, of folders that are written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ponder.config.errors import UserError
from ponder.reports.card import Origin, dataset_card, model_card, without_folders

CONFIG: dict[str, Any] = {
    "seed": 3, "task": {"name": "qa"}, "model": {"kind": "hf", "name": "/home/me/models/small"},
    "thinker": {"tokens": 64, "stops": True}, "strategy": {"name": "star"},
    "reward": {"exact_match": 1.0}}


def adapter(folder: Path, base: str) -> Origin:
    """A checkpoint of an adapter after 8 steps, in a run whose evaluation was at step 8."""
    checkpoint = folder / "checkpoint_2"
    checkpoint.mkdir()
    for name, content in {"ponder.json": {"config": CONFIG}, "manifest.json": {"step": 8},
                          "adapter_config.json": {"base_model_name_or_path": base}}.items():
        (checkpoint / name).write_text(json.dumps(content))
    lines = [{"step": 4, "accuracy": 0.1}, {"step": 8, "lr": 0.1, "loss": 1.0},
             {"step": 8, "accuracy": 1.0, "necessity/own": 1.0, "necessity/random": None}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "val_8").mkdir()
    (folder / "val_8" / "generated.csv").write_text(
        'id,question,thought,answer,gold\n0,"What | is\nblue?",The sky.,A,A\n')
    return Origin(checkpoint)


def head(card: str) -> dict[str, Any]:
    """What the hub reads of a card."""
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_of_an_adapter(tmp_path: Path) -> None:
    """All of one question right: the interval is Wilson's, 1 / (1 + 1.96^2) to 1. A column or line
    of a text breaks no table."""
    origin = adapter(tmp_path, "someone/base")
    card = model_card(origin, "me/mine", None, None)
    assert head(card) == {"library_name": "transformers", "tags": ["ponder", "qa"],
                          "base_model": "someone/base"}
    for line in ("Accuracy 1.0000 (95 % interval 0.2065 to 1.0000) on 1 held-out questions, after "
                 "8 steps.", "| its own | 1.0000 |", "| tokens of a thought | at most 64 |",
                 "| `What \\| is blue?` | `The sky.` | `A` | `A` |", "| seed | 3 |",
                 'AutoPeftModelForCausalLM.from_pretrained("me/mine")',
                 'model.think(["What | is\\nblue?"])'):
        assert line in card, line
    assert "random tokens" not in card and "answerer/" not in card


def test_a_base_of_this_machine_is_named_without_its_folder(tmp_path: Path) -> None:
    card = model_card(adapter(tmp_path, "/home/me/models/small"), "me/mine", "mit", "me/rows")
    assert "| base model | small |" in card and "/home" not in card
    assert "base_model" not in head(card)
    assert (head(card)["license"], head(card)["datasets"]) == ("mit", ["me/rows"])


def test_the_card_of_rollouts(tmp_path: Path) -> None:
    card = dataset_card(adapter(tmp_path, "someone/base"), "me/rows", "me/mine", "mit")
    assert head(card)["configs"] == [{"config_name": "default", "data_files": "generated.csv"}]
    assert "1 held-out questions of the task `qa`, after 8 steps. Their accuracy is 1.0000." in card


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no readable ponder\.json there"):
        Origin(tmp_path).config  # noqa: B018


def test_without_folders() -> None:
    assert without_folders({"a": ["/x/y.csv", "~/z", "x/y.csv", "user/name", "1 / 2", 3, "C:\\e"],
                            "b": None}) == {"a": ["y.csv", "z", "x/y.csv", "user/name", "1 / 2", 3,
                                                  "e"], "b": None}
