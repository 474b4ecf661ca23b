"""The benches run; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=BENCH, capture_output=True, text=True,
                          timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_rollouts_bench_ends_with_json() -> None:
    found = json.loads(run("rollouts.py", "--quick", "--json", "--threads", "1").splitlines()[-1])
    assert found["rollouts_per_s"] > 0
    assert found["ratio_alone"] > 1


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU: bench/gpu.py runs for real")
def test_gpu_bench_skips_with_a_reason() -> None:
    assert "skipped: this machine has no CUDA GPU" in run("gpu.py")


@pytest.mark.slow
def test_gpu_bench_checks_and_leaves_out_what_it_has_no_time_for() -> None:
    line = run("gpu.py", "--device", "cpu", "--seconds", "0.01", "--limit", "0", "--json")
    found = json.loads(line.splitlines()[-1])
    assert found["verdict"].startswith("agree")
    assert found["checks"]["sampled and recomputed"] <= 1e-5
    assert {row["rollouts_per_s"] for row in found["rows"]} == {"left out: --limit is reached"}


def test_the_page_of_clusters_has_what_its_script_computes() -> None:
    page = (BENCH.parent / "docs" / "clusters.md").read_text()
    for table in run("sizes.py").strip().split("\n\n"):
        assert table in page, "run: python bench/sizes.py --write"


def test_results_page_has_a_place_for_every_table() -> None:
    page = (BENCH.parent / "docs" / "results.md").read_text()
    for name in ("training", "strategies", "steps", "outcome", "star_addition", "ppo_exact", "ppo",
                 "rollouts", "gpu"):
        assert page.index(f"<!-- {name} -->") < page.index(f"<!-- end {name} -->")
