"""The wheel: built, installed into an environment of its own, and used from an empty directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import ponder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("src", "conf", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE",
              "run.py")
Used = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
                    "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(folder)],
                   check=True)
    found, = (folder / "dist").glob("ponder-*.whl")
    return found


@pytest.fixture(scope="module")
def used(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Used:
    """Runs a command of an environment that holds the wheel; what it depends on is borrowed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    binaries = folder / "bin"
    subprocess.run([sys.executable, "-m", "pip", "--python", str(binaries / "python"), "install",
                    "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    packages, = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    unset = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(binaries / words[0]), *words[1:]], cwd=cwd, env=unset,
                              capture_output=True, text=True)

    return run


def test_a_wheel_holds_every_file_of_conf(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ponder/conf/")}
    assert inside == {f"ponder/{path.relative_to(ROOT)}" for path in ROOT.glob("conf/**/*.yaml")}
    others = {"py.typed", "tasks/examples/questions.csv", "tasks/examples/shakespeare.txt",
              "reports/plotly/plotly-cartesian.min.js.gz", "reports/plotly/LICENSE"}
    assert {f"ponder/{name}" for name in others} <= {*zipfile.ZipFile(wheel).namelist()}


def test_an_installed_ponder_trains_in_an_empty_directory(used: Used, tmp_path: Path) -> None:
    done = used("ponder", "run_type=wheel", "trainer.max_steps=20", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["star_runs"]
    summary, = tmp_path.glob("star_runs/wheel_*/*/summary.json")
    told = json.loads(summary.read_text())
    assert (told["steps"], told["status"], told["git_revision"]) == (20, "done", None)
    again = used("python", "-m", "ponder", f"resume={summary.parent}", cwd=tmp_path)
    assert again.returncode == 0 and "is done" in again.stdout


def test_it_is_the_installed_package_that_answers(used: Used, tmp_path: Path) -> None:
    where = used("python", "-c", "import ponder; print(ponder.__file__)", cwd=tmp_path).stdout
    assert "site-packages" in where and str(ROOT) not in where
    for words in (["ponder", "--version"], ["python", "-m", "ponder", "--version"]):
        assert used(*words, cwd=tmp_path).stdout == f"ponder {ponder.__version__}\n"


def test_a_sweep_of_an_installed_ponder_runs_a_copy_of_it(used: Used, tmp_path: Path) -> None:
    done = used("ponder", "-m", "hydra/launcher=local", "seed=0,1", "sweep.dir=sweep",
                "trainer.max_steps=2", "task.test_questions=20", "model.d_model=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("sweep/*/summary.json"))) == 2
    copy, = tmp_path.glob("sweep/.code/*")
    assert {path.name for path in copy.glob("src/*")} == {"ponder", "hydra_plugins"}
    assert {path.name for path in copy.glob("src/hydra_plugins/*.py")} == {
        "ponder_launcher.py", "ponder_sweeper.py"}
    assert (copy / "src/ponder/conf/config.yaml").is_file()
    looked = used("ponder", "action=sweep", cwd=tmp_path)
    assert looked.returncode == 2 and "found no star_runs" in looked.stderr
