"""What is to be done of a sweep: every job composed and checked before one is sent, and told from
those that are done, or going on, since the same sweep was sent before.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict

from ponder.config.checker import check
from ponder.config.errors import ERROR, UserError, brief
from ponder.config.running import SweepConfig
from ponder.config.spine import config_hash, restored
from ponder.sweeps.record import Job, process, read
from ponder.sweeps.state import ALIVE, State, ending, states

log = logging.getLogger(__name__)
FROZEN = Path(".hydra") / "config.yaml"  # in a run directory, from the moment that it is sent
Words = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Planned:
    """A job and its whole configuration, with Hydra's node; nothing of it is composed again.

    number: its place among the jobs that Hydra knows of; one that is sent again keeps its old
    number in the record.
    """

    number: int
    job: Job
    config: DictConfig


@dataclass(frozen=True)
class Plan:
    """Jobs to launch, what Hydra hears of those that were done or refused before, and those that
    were sent before and go on; by number.
    """

    todo: list[Planned]
    known: dict[int, JobReturn]
    going: dict[int, State]
    codes: list[int]  # one for each that was refused


def plan(master: DictConfig, loader: Any, batch: Words, first: int, place: str) -> Plan:
    """Compose the jobs of a batch, numbered from `first`.

    Raises Hydra's exceptions for words that no job can be composed of.
    """
    sweep = Path(str(master.hydra.sweep.dir))
    again = master.sweep.retry != "none"
    earlier = {job.directory: job for job in read(sweep)} if again else {}
    planned, refused = [], dict[int, JobReturn]()
    told = time.monotonic()
    for number, words in enumerate(batch, first):
        if time.monotonic() - told > 5:
            told = time.monotonic()
            log.info(f"{number - first} of {len(batch)} jobs are composed")
        made = _composed(master, loader, list(words), number)
        known = earlier.get(made.hydra.sweep.subdir)
        try:
            job = _stored(made, sweep, known) if known else _new(made, number)
            planned.append(Planned(number, replace(job, launcher=_launching(master), place=place,
                                                   driver=process(), id=None), made))
        except UserError as error:
            tell(known.job if known else number, known.overrides if known else words, error)
            refused[number] = returned(words)
    if again:
        return Plan(planned, refused, {}, [2] * len(refused))
    return _without_known(sweep, planned, refused)


def _composed(master: DictConfig, loader: Any, words: list[str], number: int) -> DictConfig:
    """A job's configuration, with the place where it runs settled: the clock is read once for all
    jobs of a sweep.
    """
    config = loader.load_sweep_config(master, words)
    with open_dict(config):
        config.hydra.job.num = number
        config.hydra.sweep.dir = str(config.hydra.sweep.dir)
        config.hydra.sweep.subdir = str(config.hydra.sweep.subdir)
        config.hydra.overrides.task = [word for word in _typed(config.hydra.overrides.task)
                                       if not word.lstrip("+").startswith("sweep.")]
        config.sweep = SweepConfig()
    OmegaConf.copy_cache(config, master)
    return config


def _new(config: DictConfig, number: int) -> Job:
    """Raises `UserError` where the configuration cannot mean anything."""
    told: Any = OmegaConf.to_object(without_hydra(config))
    if told.action != "evaluate":  # which takes the better part from its checkpoint
        check(told)
    words = list(filter_overrides(_typed(config.hydra.overrides.task)))
    return Job(number, words, config_hash(told), config.hydra.sweep.subdir)


def _stored(config: DictConfig, sweep: Path, job: Job) -> Job:
    """Give a job of the record the configuration it was sent with; where it runs may be new.

    Raises `UserError` where that configuration cannot be read.
    """
    path = sweep / job.directory / FROZEN
    try:
        told = restored(yaml.safe_load(path.read_text("utf-8")))
    except Exception as error:
        reason = brief(error)
        raise UserError(f"{path}: cannot be read ({reason}); legal: the configuration that the job "
                        "was sent with") from None
    with open_dict(config):
        for key in told:
            config[key] = told[key]
        config.hydra.overrides.task = job.overrides
        config.hydra.job.num = job.job
    return job


def _launching(master: DictConfig) -> list[str]:
    """The words that say where the jobs run."""
    return [word for word in _typed(master.hydra.overrides.hydra)
            if word.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))]


def _typed(words: Any) -> list[str]:
    """Words as they were typed, references unresolved."""
    return [str(word) for word in OmegaConf.to_container(words, resolve=False) or []]


def without_hydra(config: DictConfig) -> DictConfig:
    """What a job is told, without what Hydra is."""
    node = copy.deepcopy(config)
    with open_dict(node):
        del node["hydra"]
    return node


def _without_known(sweep: Path, planned: list[Planned], refused: dict[int, JobReturn]) -> Plan:
    """Leave out what is done or goes on; what failed or vanished goes on in its directory.

    Jobs are the same where the hashes of their configurations are, each counted once.
    """
    hashes = {one.job.config_hash for one in planned if _may_be_known(one)}
    order = {name: number for number, name in enumerate(("done", *ALIVE))}
    found = sorted(states(sweep, [job for job in read(sweep) if job.config_hash in hashes]),
                   key=lambda state: order.get(state.name, len(order)))
    todo, known, going = [], dict(refused), dict[int, State]()
    for one in planned:
        same = next((state for state in found if state.job.config_hash == one.job.config_hash
                     and _may_be_known(one)), None)
        if same is None:
            todo.append(one)
            continue
        found.remove(same)
        if same.name == "done":
            known[one.number] = returned(one.job.overrides, ending(sweep / same.job.directory))
        elif same.name in ALIVE:
            going[one.number] = same
        else:
            todo.append(_in(one, same.job.directory))
    return Plan(todo, known, going, [2] * len(refused))


def _may_be_known(one: Planned) -> bool:
    return one.config.action == "train" and one.config.resume == "auto"


def _in(one: Planned, directory: str) -> Planned:
    """The same job in the directory that it had before."""
    with open_dict(one.config):
        one.config.hydra.sweep.subdir = directory
    return replace(one, job=replace(one.job, directory=directory))


def freeze(sweep: Path, planned: Iterable[Planned]) -> None:
    """Put the configurations where the jobs will look for nothing else, and forget how they failed
    before.
    """
    for one in planned:
        path = sweep / one.job.directory / FROZEN
        path.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(without_hydra(one.config), path)
        (sweep / one.job.directory / ERROR).unlink(missing_ok=True)


def said(sweep: Path, plan: Plan, place: str) -> list[str]:
    """What a sweep says before it begins."""
    lines = [f"{len(plan.todo)} jobs for {place}; results: {sweep}"]
    lines += [f"\t#{one.job.job} : {one.job.words}" for one in plan.todo]
    done = len(plan.known) - len(plan.codes)
    if done:
        lines.append(f"{done} more are done already; resume=never runs them again")
    if plan.going:
        lines.append(f"{len(plan.going)} more go on already: "
                     f"{', '.join(state.job.directory for state in plan.going.values())}")
    return lines


def returned(words: Iterable[str], summary: dict[str, Any] | None = None) -> JobReturn:
    """What Hydra hears of a job: the accuracy, or nothing. Never a failure, at which it would end
    the sweep.
    """
    found = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
    found.return_value = summary.get("accuracy") if summary else None
    return found


def tell(number: int, words: Iterable[str], error: object) -> None:
    """A line on stderr about a job that has failed."""
    print(f"error: job {number} ({' '.join(filter_overrides(list(words)))}): "
          f"{' '.join(str(error).split())}", file=sys.stderr, flush=True)
