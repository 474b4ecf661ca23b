"""What processes send each other in an optimizer step, counted and computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_what_two_processes_send_is_what_the_formulas_say() -> None:
    done = subprocess.run([sys.executable, "network.py", "--steps", "2", "--json"], cwd=BENCH,
                          capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    parts = found["parts"]
    assert found["agree"] and found["calls"] == {"round": 2, "step": 2, "gradients": 2}
    assert parts["round"]["bytes"] == 2 * 64 * (3 * 8 + 2 * 4 + 16) == 2 * 3072
    assert parts["gradients"]["bytes"] == 2 * 4 * found["facts"]["trained"]
    assert parts["gradients"]["messages"] == 2  # one a step
    assert parts["step"]["bytes"] < 2 * 100  # denominators and losses
