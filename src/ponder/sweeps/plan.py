"""What a sweep has to do: every job is composed and checked before the first one is sent.

A job that was sent before by the same sweep is recognised by the hash of its configuration, where
the files that it reads have not changed: it is skipped if it is done, waited for if it is running,
and continued in its directory otherwise.
"""

from __future__ import annotations

import copy
import itertools
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
from ponder.config.errors import ERROR, UserError, brief, replacing, shown
from ponder.config.inputs import changed, inputs
from ponder.config.running import SweepConfig
from ponder.config.spine import config_hash, restored, with_own_variants
from ponder.rollouts.recorded import check_files
from ponder.sweeps.jobs import (
    ACTIVE,
    Job,
    JobState,
    find_sweep,
    job_states,
    lost_jobs,
    process_name,
    read_jobs,
    read_summary,
)

log = logging.getLogger(__name__)
STORED_CONFIG = Path(".hydra") / "config.yaml"  # in a run directory, written before the launch
WITH_RETRY = ("action=", "sweep.", "hydra.", "hydra/launcher=", "+hydra.")  # arguments of a retry


@dataclass(frozen=True)
class PlannedJob:
    """A job with its whole configuration, Hydra's node included; nothing is composed again later.

    number: its index among the jobs of this call. A job that is sent again keeps its old number in
    sweep.jsonl.
    """

    number: int
    job: Job
    config: DictConfig


@dataclass(frozen=True)
class Plan:
    """todo: jobs to launch. returns: what Hydra is told of jobs that are done already or were
    refused, by number. active: jobs sent before that still run or wait, by number. exit_codes: one
    for each refused job.
    """

    todo: list[PlannedJob]
    returns: dict[int, JobReturn]
    active: dict[int, JobState]
    exit_codes: list[int]


def plan_jobs(master: DictConfig, loader: Any, batch: Sequence[Sequence[str]], first: int,
              place: str) -> Plan:
    """Compose and check one job per list of overrides, numbered from `first`.

    A job that is refused gets a line on stderr. Raises Hydra's exceptions for overrides that cannot
    be composed.
    """
    sweep = Path(str(master.hydra.sweep.dir))
    retry = master.sweep.retry != "none"
    earlier = {job.directory: job for job in read_jobs(sweep)} if retry else {}
    planned, refused, checked = [], dict[int, JobReturn](), set[str]()
    last_message = time.monotonic()
    for number, overrides in enumerate(batch, first):
        if time.monotonic() - last_message > 5:
            last_message = time.monotonic()
            log.info(f"{number - first} of {len(batch)} jobs are composed")
        config = _compose(master, loader, list(overrides), number)
        known = earlier.get(config.hydra.sweep.subdir)
        try:
            job = _restore_job(config, sweep, known) if known else _new_job(config, number, checked)
            job = replace(job, launcher=_launcher_overrides(master), place=place,
                          driver=process_name(), id=None)
            planned.append(PlannedJob(number, job, config))
        except UserError as error:
            print_error(known.job if known else number, known.overrides if known else overrides,
                        error)
            refused[number] = job_return(overrides)
    if retry:
        return Plan(planned, refused, {}, [2] * len(refused))
    named: Any = OmegaConf.to_container(master.hydra.sweep, resolve=False)
    return _skip_known_jobs(sweep, planned, refused, timed="${now:" in str(named["subdir"]))


def _own_directory(sweep: Path, one: PlannedJob) -> PlannedJob:
    """A new job with a directory of its own: its name is the second in which the sweep was begun,
    so a job of another sweep may have it; then a number is put behind it.
    """
    for number in itertools.count():
        name = f"{one.job.directory}_{number}" if number else one.job.directory
        try:
            (sweep / name).mkdir(parents=True)
        except FileExistsError:
            continue
        with open_dict(one.config):
            one.config.hydra.sweep.subdir = name
        return replace(one, job=replace(one.job, directory=name))
    raise AssertionError("counting does not end")


def _compose(master: DictConfig, loader: Any, overrides: list[str], number: int) -> DictConfig:
    """A job's configuration with its directory settled: the clock is read once for all jobs."""
    config = loader.load_sweep_config(master, with_own_variants(overrides))
    with open_dict(config):
        config.hydra.job.num = number
        config.hydra.sweep.dir = str(config.hydra.sweep.dir)
        config.hydra.sweep.subdir = str(config.hydra.sweep.subdir)
        config.hydra.overrides.task = [word for word in _as_typed(config.hydra.overrides.task)
                                       if not word.lstrip("+").startswith("sweep.")]
        config.sweep = SweepConfig()
    OmegaConf.copy_cache(config, master)
    return config


def _new_job(config: DictConfig, number: int, checked: set[str]) -> Job:
    """Raises `UserError` where the configuration makes no sense, or a file cannot be read; checked:
    the hashes of files that were read for other jobs.
    """
    settled: Any = OmegaConf.to_object(without_hydra(config))
    read = inputs(settled)
    if settled.action != "evaluate":  # whose checkpoint holds most of its configuration
        check(settled)
        if not checked.issuperset(read.values()):
            check_files(settled)
            checked.update(read.values())
    overrides = list(filter_overrides(_as_typed(config.hydra.overrides.task)))
    return Job(number, overrides, config_hash(settled), config.hydra.sweep.subdir,
               inputs=read)


def _restore_job(config: DictConfig, sweep: Path, job: Job) -> Job:
    """Give a job the configuration that it was first sent with; only the launcher may be new.

    Raises `UserError` where that configuration cannot be read.
    """
    path = sweep / job.directory / STORED_CONFIG
    try:
        stored = restored(yaml.safe_load(path.read_text("utf-8")))
        now = inputs(OmegaConf.to_object(stored))
    except Exception as error:
        reason = brief(error)
        raise UserError(f"{path}: cannot be read ({reason}); legal: the configuration that the job "
                        "was sent with") from None
    for name in changed(job.inputs, now):
        raise UserError(f"{name}: found another content than when the job was sent; legal: the "
                        "same, or a new sweep")
    with open_dict(config):
        for key in stored:
            config[key] = stored[key]
        config.hydra.overrides.task = job.overrides
        config.hydra.job.num = job.job
    return job


def _launcher_overrides(master: DictConfig) -> list[str]:
    """The arguments that say where the jobs run."""
    return [word for word in _as_typed(master.hydra.overrides.hydra)
            if word.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))]


def _as_typed(words: Any) -> list[str]:
    """Arguments with their `${references}` unresolved."""
    return [str(word) for word in OmegaConf.to_container(words, resolve=False) or []]


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a configuration without Hydra's node."""
    node = copy.deepcopy(config)
    with open_dict(node):
        del node["hydra"]
    return node


def _skip_known_jobs(sweep: Path, planned: list[PlannedJob], refused: dict[int, JobReturn],
                     timed: bool) -> Plan:
    """Leave out jobs that are done or active. A failed or vanished job is continued where it was.
    timed: the names of directories have the time in them.

    Every earlier job counts for one planned job only, so that equal jobs are not confused.
    """
    hashes = {one.job.config_hash for one in planned if _may_continue(one)}
    order = {status: rank for rank, status in enumerate(("done", *ACTIVE))}
    earlier = sorted(job_states(sweep, [job for job in read_jobs(sweep)
                                        if job.config_hash in hashes]),
                     key=lambda state: order.get(state.status, len(order)))
    todo, returns, active = [], dict(refused), dict[int, JobState]()
    for one in planned:
        alike = [state for state in earlier if state.job.config_hash == one.job.config_hash
                 and _may_continue(one)]
        new = {state.job.directory: changed(state.job.inputs, one.job.inputs) for state in alike}
        same = next((state for state in alike if not new[state.job.directory]), None)
        if same is None:
            for name in sorted({name for names in new.values() for name in names}):
                log.warning(f"{name} has changed since {alike[0].job.directory} was sent: job "
                            f"{one.number} begins anew")
            todo.append(_own_directory(sweep, one) if timed else one)
            continue
        earlier.remove(same)
        if same.status == "done":
            returns[one.number] = job_return(one.job.overrides,
                                             read_summary(sweep / same.job.directory))
        elif same.status in ACTIVE:
            active[one.number] = same
        else:
            with open_dict(one.config):
                one.config.hydra.sweep.subdir = same.job.directory
            todo.append(replace(one, job=replace(one.job, directory=same.job.directory)))
    return Plan(todo, returns, active, [2] * len(refused))


def _may_continue(one: PlannedJob) -> bool:
    return one.config.action == "train" and one.config.resume == "auto"


def store_configs(sweep: Path, planned: Iterable[PlannedJob]) -> None:
    """Write each job's configuration into its run directory; remove the error of its last try."""
    for one in planned:
        path = sweep / one.job.directory / STORED_CONFIG
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            OmegaConf.save(without_hydra(one.config), temporary)
        (sweep / one.job.directory / ERROR).unlink(missing_ok=True)


def plan_messages(sweep: Path, plan: Plan, place: str) -> list[str]:
    """The lines that a sweep logs before its first launch."""
    lines = [f"{len(plan.todo)} jobs for {place}; results: {sweep}"]
    lines += [f"\t#{one.job.job} : {' '.join(one.job.overrides)}" for one in plan.todo]
    done = len(plan.returns) - len(plan.exit_codes)
    if done:
        lines.append(f"{done} more are done already; resume=never runs them again")
    if plan.active:
        lines.append(f"{len(plan.active)} more go on already: "
                     f"{', '.join(state.job.directory for state in plan.active.values())}")
    return lines


def job_return(overrides: Iterable[str], summary: dict[str, Any] | None = None) -> JobReturn:
    """What Hydra is told of a job: its accuracy or None, and never a failure, which would make
    Hydra end the whole sweep.
    """
    result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    result.return_value = summary.get("accuracy") if summary else None
    return result


def print_error(number: int, overrides: Iterable[str], error: object) -> None:
    """One line on stderr about a job that failed."""
    print(f"error: job {number} ({' '.join(filter_overrides(list(overrides)))}): "
          f"{' '.join(str(error).split())}", file=sys.stderr, flush=True)


def retry_arguments(arguments: list[str]) -> list[str]:
    """`action=sweep sweep.retry=failed`: the arguments that send the lost jobs of a sweep again, to
    the launcher of the last one unless another is named.

    Raises `UserError` for arguments that would change a job, and where there is no sweep.
    """
    other = [word for word in arguments if not word.startswith(WITH_RETRY)]
    if other:
        raise UserError(f"{other[0]}: found sweep.retry=failed, which sends jobs as they were; "
                        "legal: with it sweep.dir, sweep.detach and hydra.launcher.<key>")
    named = [word.partition("=")[2] for word in arguments if word.startswith("sweep.dir=")]
    sweep = find_sweep(named[-1] if named else None)
    jobs = lost_jobs(sweep)
    launcher = jobs[-1].launcher if jobs else []
    if any(word.startswith("hydra/launcher=") for word in arguments):
        launcher = []
    kept = [word for word in arguments if not word.startswith(("action=", "sweep.dir="))]
    return ["-m", *launcher, *kept, "hydra/sweeper=again", f"sweep.dir={shown(str(sweep))}"]
