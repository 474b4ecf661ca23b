"""Processes that run the command line.

They are forked from a server that has imported what a run imports, which would take each of them
some four seconds. What is tested of the start of a program starts `run.py` itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra

from ponder.cli.main import main
from ponder.core import distributed

PRELOADED = ["ponder.cli.actions", "torch._dynamo", "torch.distributed.fsdp", "pandas", "peft",
             "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"]
RUN = Path(__file__).resolve().parents[2] / "run.py"
TIMEOUT = 900  # seconds: against tests that hang, not a limit of speed
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__, *PRELOADED])
_end = distributed.destroy_process_group


class Forked:
    """`python run.py WORDS` in a folder, as far as a `subprocess.Popen` of it is asked here."""

    def __init__(self, *words: str, cwd: Path | None = None,
                 environment: dict[str, str] | None = None,
                 largest_file: int | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="forked_")  # removed with this object
        self.output = Path(self.folder.name)
        self.process = _server.Process(target=_work, args=(
            words, str(cwd or Path.cwd()), {**os.environ, **(environment or {})}, self.output,
            largest_file))
        self.process.start()
        self.pid: Any = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def communicate(self, timeout: float = TIMEOUT) -> tuple[str, str]:
        """(stdout, stderr) of a process that has ended; raises `subprocess.TimeoutExpired`."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("run.py", timeout)
        out, err = (path.read_text() if path.exists() else ""
                    for path in (self.output / "out", self.output / "err"))
        return out, err

    def wait(self) -> None:
        self.communicate()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()


def run(folder: Path, *words: str) -> str:
    """What `python run.py WORDS` prints in a folder, where it ends well."""
    process = Forked(*words, cwd=folder)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    return out


def _work(words: tuple[str, ...], folder: str, environment: dict[str, str], output: Path,
          largest_file: int | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(RUN), *words]
    Hydra.get_mode = lambda *words, **more: None  # type: ignore  # it would compose once more
    distributed.destroy_process_group = _destroy_process_group
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.exit(main(list(words)))


def _destroy_process_group() -> None:
    """Leave the group. Raises `AssertionError` where threads of it outlive the run: at the end of
    an interpreter they may abort the process."""
    _end()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


def run_processes(folder: Path, count: int, *words: str) -> tuple[list[dict], dict]:
    """The log and the summary of a run of so many processes, which meet as those of torchrun do."""
    from torch.distributed import TCPStore

    folder.parent.mkdir(exist_ok=True)
    meeting: dict[str, str] = {}
    if count > 1:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ranks = [Forked(*words, f"hydra.run.dir={folder}", cwd=folder.parent,
                    environment={**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)})
             for rank in range(count)]
    end = time.monotonic() + TIMEOUT
    while None in [one.returncode for one in ranks] and time.monotonic() < end and not any(
            one.returncode for one in ranks):
        time.sleep(0.02)
    for one in ranks:
        if one.returncode is None:
            one.kill()
    told = [one.communicate() for one in ranks]
    assert not any(one.returncode for one in ranks), told
    return left_by(folder)


def run_torchrun(folder: Path, count: int, *words: str) -> tuple[list[dict], dict]:
    """The same, started by torchrun as users do. Raises `AssertionError` where the run leaves
    temporary files."""
    temporary = folder.parent / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={count}", str(RUN), *words, f"hydra.run.dir={folder}"],
        text=True, capture_output=True, timeout=TIMEOUT, check=False, cwd=folder.parent,
        env={**os.environ, "TMPDIR": str(temporary)})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[:6000]}\n...\n{done.stderr[-1000:]}"
    left = [path.name for path in temporary.iterdir()]
    assert all(name.startswith("torch") for name in left), left  # of torchrun and of torch
    return left_by(folder)


def left_by(folder: Path) -> tuple[list[dict], dict]:
    """(metrics.jsonl, summary.json) of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads((folder / "summary.json").read_text())
