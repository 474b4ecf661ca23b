"""Ponder from Python: the functions behind `import ponder`.

They take the words of the command line. Keyword arguments are words too: `seed=3`, and with two
underscores for a dot `trainer__lr=1e-3`. A mistake raises `UserError`, an unexpected failure
`JobFailed`, whose cause is the original error.

Nothing outlasts a call: Hydra's state, the working directory, `sys.argv`, handlers of signals and
logging, torch's random numbers and its number of threads are those of before. Calls from several
threads wait for each other, as Hydra's state and torch's random numbers are shared.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.cli.errors import explain
from ponder.cli.main import perform
from ponder.cli.shorthand import quoted, understood
from ponder.config.errors import UserError
from ponder.config.registry import PLUGINS
from ponder.config.spine import CONF, Config, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ponder.generation.checkpoint_model import CheckpointModel

_ONE_AT_A_TIME = threading.RLock()
# Text that Hydra reads as it stands: no sign but these, a list, or a function such as linear(...).
_PLAIN = re.compile(r"[\w./:+\-@%*?| ]*|\[.*\]|\w+\([^()]*\)", re.ASCII)


# --- runs -----------------------------------------------------------------------------------------


class Run:
    """A run directory. What is in it is read when it is first asked for."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).resolve()

    def __repr__(self) -> str:
        if not (self.directory / "summary.json").is_file():
            return f"Run({self.directory}, not done)"
        accuracy = self.summary.get("accuracy")
        return f"Run({self.directory}{'' if accuracy is None else f', accuracy {accuracy:.4f}'})"

    def _repr_html_(self) -> str:
        """What a notebook shows of a run."""
        from ponder.reports.notebook import card

        done = (self.directory / "summary.json").is_file()
        return card(self.directory, self.summary if done else None)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json, which a run writes last. Raises `UserError` for a run that is not done."""
        import json

        path = self.directory / "summary.json"
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); legal: the directory of a run that "
                            "is done") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every key, as `config["trainer.lr"]`, with its value."""
        from ponder.reports.runs import SettingsReader, resolve_setting

        told = SettingsReader().read(self.directory)
        return {key: resolve_setting(told, key) for key in told}

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each line of metrics.jsonl; `kind` is "train" for a step, "eval" for an
        evaluation. docs/metrics.md explains the other columns.
        """
        import pandas as pd

        from ponder.reports.runs import read_metrics

        lines = list(read_metrics(self.directory / "metrics.jsonl"))
        kinds = ["train" if "lr" in line else "eval" for line in lines]
        frame = pd.DataFrame(lines, columns=None if lines else ["step"])
        frame.insert(0, "kind", kinds)
        return frame

    @property
    def rollouts(self) -> pd.DataFrame:
        """The questions, thoughts and answers of the last evaluation, a row each."""
        import pandas as pd

        from ponder.reports.run_page import last_rows

        frame = pd.DataFrame(last_rows(self.directory))
        for name in {"id", "correct"} & {*frame}:
            if frame[name].str.fullmatch(r"\d+").all():  # an id may be a word
                frame[name] = pd.to_numeric(frame[name])
        return frame

    @property
    def necessity(self) -> pd.Series:
        """Accuracy of the last evaluation with the thoughts as they are (own), shuffled between
        questions, random, constant and dropped.
        """
        import pandas as pd

        return pd.Series(self.summary.get("necessity") or {}, dtype=float, name="accuracy")

    def plot(self, *names: str, axes: Any = None, label: str | None = None) -> Figure:
        """The figure of metrics over steps, by default accuracy. axes: of matplotlib, to draw
        several runs on; label: what the legend calls this one. Raises `UserError` for metrics that
        there are not.
        """
        from ponder.reports.notebook import curves

        return curves(self.metrics, names, axes, label)

    def plot_necessity(self, axes: Any = None) -> Figure:
        """The figure of `necessity`: do the answers need the thoughts?"""
        from ponder.reports.notebook import bars

        return bars(self.necessity.dropna().to_dict(), axes)

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint. Raises `UserError` where there is none."""
        found = sorted(self.directory.glob("checkpoint_*/ponder.json"),
                       key=lambda path: int(path.parent.name.rpartition("_")[2]))
        if not found:
            raise UserError(f"{self.directory}: found no checkpoint_<epoch>; legal: the directory "
                            "of a run that was trained")
        return found[-1].parent

    def load(self) -> CheckpointModel:
        """The model of the newest checkpoint."""
        return load(self.checkpoint)


def runs(*patterns: str | Path) -> list[Run]:
    """Every run below directories or globs, done or not. Raises `UserError` if there is none."""
    from ponder.reports.runs import find_runs

    found = find_runs([str(pattern) for pattern in patterns] or ["star_runs"])
    directories = [result.directory for result in found.results] + found.unfinished
    return [Run(directory) for directory in sorted(directories, key=str)]


def compare(*patterns: str | Path | Run) -> pd.DataFrame:
    """A row for each group of runs that differ in nothing but the seed: the keys in which groups
    differ, and the mean and standard error of their numbers over seeds.
    """
    import pandas as pd

    from ponder.reports.compare import compare as compare_runs
    from ponder.reports.compare import group_row
    from ponder.reports.runs import find_runs

    named = [str(one.directory if isinstance(one, Run) else one) for one in patterns]
    comparison = compare_runs(find_runs(named or ["star_runs"]))
    return pd.DataFrame([group_row(group, comparison.keys) for group in comparison.groups])


# --- what the command line does -------------------------------------------------------------------


def compose(words: str | Sequence[str] = (), **overrides: Any) -> Config:
    """The checked configuration that words mean; nothing is run."""
    from hydra.core.hydra_config import HydraConfig

    from ponder.config import resolve
    from ponder.sweeps.plan import without_hydra

    with _composing(_typed(words, overrides)) as (node, _):
        HydraConfig.instance().set_config(node)
        return resolve.read(without_hydra(node))


def train(words: str | Sequence[str] = (), **overrides: Any) -> Run:
    """Train, evaluate and save, as `ponder <words>` does; progress is printed.

    An interrupt (Ctrl-C, or the notebook's button) saves, then raises `KeyboardInterrupt`;
    `train(["resume=<directory>"])` goes on.
    """
    return _run(_typed(words, overrides))


def evaluate(checkpoint: str | Path, words: str | Sequence[str] = (), **overrides: Any) -> Run:
    """Evaluate a checkpoint on held-out questions: a run with summary, metrics and rollouts."""
    return _run(["action=evaluate", *_typed((), {"model.name": checkpoint}),
                 *_typed(words, overrides)])


def load(checkpoint: str | Path, device: str = "cpu") -> CheckpointModel:
    """The model of a checkpoint, or of a Hugging Face model. Raises `UserError` if it has none.

    `model.think(["31+84="])` gives the thought, the answer and their log-probabilities for each
    question; a language model goes on from a text by `model.generate("Once")`.
    """
    from ponder.generation.checkpoint_model import load_checkpoint

    with _ONE_AT_A_TIME, _torch_restored():
        return load_checkpoint(checkpoint, device)


def generate(checkpoint: str | Path, prompt: str, **options: Any) -> str:
    """One completion of a prompt; options are the keys of `generate.*`, and `seed`."""
    return load(checkpoint).generate(prompt, **options)


# --- words ----------------------------------------------------------------------------------------


def _typed(words: str | Sequence[str], overrides: dict[str, Any]) -> list[str]:
    """Words of the command line; those of `overrides` come last, so they count."""
    try:
        given = shlex.split(words) if isinstance(words, str) else [str(word) for word in words]
    except ValueError as error:
        raise UserError(f"{words}: cannot be read ({error}); legal: words as in a shell, or a list "
                        "of them") from None
    for word in given:
        if word.startswith("-"):
            raise UserError(f"{word}: found an option of the command line; legal: key=value (for a "
                            "sweep, call it once for each value)")
    return [*given, *(f"{key.replace('__', '.')}={_spelled(value)}"
                      for key, value in overrides.items())]


def _spelled(value: Any) -> str:
    """A Python value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_spelled(one)}' for key, one in value.items())}}}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) or text.startswith(('"', "'")) else quoted(text)


# --- Hydra, and what it changes -------------------------------------------------------------------


def _run(words: list[str]) -> Run:
    """Compose and do one job, in a run directory of its own unless `words` name one."""
    from hydra.core.utils import JobStatus, run_job

    with _composing(words) as (node, context), _torch_restored():
        directories: list[Path] = []
        done = run_job(partial(perform, directories=directories), node, "hydra.run.dir", None,
                       context, configure_logging=False)
        if done.status == JobStatus.FAILED:
            failure: Exception = done._return_value
            raise failure from (None if isinstance(failure, UserError) else failure.__cause__)
        return Run(directories[0])


@contextmanager
def _composing(words: list[str]) -> Iterator[tuple[Any, Any]]:
    """The node that words compose to, and the context in which Hydra runs it.

    Raises `UserError` for words that mean nothing.
    """
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    with _ONE_AT_A_TIME, _hydra_restored():
        try:
            typed, _ = understood(words)  # imports plugins, whose names `register` takes up
            register()
            with initialize_config_dir(str(CONF), job_name="run", version_base="1.3"):
                hydra: Any = GlobalHydra.instance().hydra
                node = hydra.compose_config("config", typed, run_mode=RunMode.RUN, from_shell=False,
                                            with_log_configuration=False)
                yield node, HydraContext(hydra.config_loader, Callbacks(node))
        except Exception as error:
            line = None if isinstance(error, UserError) else explain(error)
            if line is None:
                raise
            raise UserError(line) from None


@contextmanager
def _hydra_restored() -> Iterator[None]:
    """Hydra as if it had not been used before; at the end it, the search path of modules and the
    plugins of child processes are as they were.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    path, plugins = sys.path[:], os.environ.get(PLUGINS)
    instances: dict[Any, Any] = Singleton._instances
    kinds = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    before = {kind: instances.pop(kind) for kind in kinds if kind in instances}
    try:
        yield
    finally:
        for kind in kinds:
            instances.pop(kind, None)
        instances.update(before)
        sys.path[:] = path
        os.environ.pop(PLUGINS, None)
        if plugins is not None:
            os.environ[PLUGINS] = plugins


@contextmanager
def _torch_restored() -> Iterator[None]:
    import torch

    random, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_rng_state(random)
        torch.set_num_threads(threads)
