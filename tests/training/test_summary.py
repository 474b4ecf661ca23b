"""The last lines of a run: accuracy, how sure it is, and what the thoughts are worth."""

from __future__ import annotations

from ponder.evaluation.question import Evaluation
from ponder.training.summary import verdict

TABLE = {"own": 0.5, "shuffled": 0.25, "random": float("nan"), "dropped": 0.0}


def test_the_accuracy_has_its_standard_error_and_thoughts_their_table() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "thought/length": 2.0}, TABLE, [])
    first, second = verdict(found).splitlines()
    assert second == "accuracy 0.5000 ± 0.1000"
    assert first.endswith("own 0.500  shuffled 0.250  dropped 0.000")


def test_none_right_of_four_is_not_certain() -> None:
    """Wilson's upper end is z^2 / (n + z^2) = 3.8416 / 7.8416 = 0.4899."""
    found = Evaluation({"accuracy": 0.0, "accuracy_stderr": 0.0}, {}, [{}] * 4)
    assert "0.0000 to 0.4899" in verdict(found)


def test_a_run_without_thoughts_has_no_table_of_them() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "thought/length": 0.0}, TABLE, [])
    assert verdict(found) == "accuracy 0.5000 ± 0.1000"


def test_a_reward_is_said_first() -> None:
    found = Evaluation({"accuracy": 0.5, "accuracy_stderr": 0.1, "val/reward": -2.0,
                        "val/reward_stderr": 0.25}, {}, [])
    assert verdict(found) == "reward -2.0000 ± 0.2500, accuracy 0.5000 ± 0.1000"
