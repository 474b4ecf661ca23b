"""Keys of the loop, of where its numbers go, of generation, and of sweeps."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.config.errors import shown
from ponder.config.option import option
from ponder.config.registry import ENGINES, STRATEGIES, TASKS, TRACKERS

if TYPE_CHECKING:
    from ponder.config.spine import Config

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)  # user/name on the hub

@dataclass
class TrainerConfig:
    """The loop: sizes, optimizer, when to look and when to save."""

    max_steps: int = option(3000, "optimizer steps", low=0)
    max_epochs: int | None = option(None, "rounds of sampling and learning; null: no "
                                    "limit, but that 10 in a row with nothing to learn from end "
                                    "the run", low=0)
    internal_epochs: int = option(1, "passes over the rollouts of a round; 0: collect only", low=0)
    gen_batch_size: int | None = option(None, "questions collected per round; null: what one "
                                        "optimizer step uses. A data set is a round as a whole, "
                                        "generated so many questions at a time", low=1)
    curriculum: str = option("none", "easier questions first. accuracy: a harder level begins "
                             "where the one before is known, and training goes back where one is "
                             "forgotten; linear: it begins so many steps after it",
                             legal=("none", "accuracy", "linear"), later=True)
    curriculum_every: int = option(25, "accuracy: steps between looks; linear: steps of a level",
                                   low=1, later=True)
    curriculum_share: float = option(0.6, "of the questions of a round that are of the hardest "
                                     "level that has begun; the others are of one level, any "
                                     "so far", low=0, high=1, later=True)
    curriculum_known: float = option(0.97, "accuracy at which the next level begins", low=0,
                                     high=1, later=True)
    curriculum_forgotten: float = option(0.9, "training goes back to the first level below this "
                                         "accuracy", low=0, high=1, later=True)
    reset_model_every_epoch: bool = option(False, "each round learns from the first weights (STaR)")
    rationalise: bool = option(False, "questions that were answered wrong are thought about again, "
                               "with the answer as a hint (STaR)")
    rehearse: int = option(0, "worked examples of the task that every round learns besides", low=0)
    preload_data_for_training: str | None = option(None, "first round: take the rollouts of this "
                                                   "generated.csv instead of sampling")
    preload_data_for_val: str | None = option(None, "evaluations score the rollouts of this "
                                              "generated.csv too: loss, ranking accuracy")
    train_batch_size: int = option(256, "questions per micro-batch", low=1)
    train_gradient_accumulation_steps: int = option(1, "micro-batches per optimizer step", low=1)
    optimizer: str = option("adamw", "AdamW, or Muon for the matrices inside of blocks and AdamW "
                            "for the rest", legal=("adamw", "muon"))
    lr: float = option(2e-3, "peak learning rate", low=0)
    warmup: int = option(50, "steps of linear warm-up", low=0)
    lr_decay: str = option("wsd", "after the warm-up; wsd: constant, then linear over the "
                           "cooldown", legal=("constant", "linear", "cosine", "wsd"))
    cooldown: int = option(500, "wsd: steps of the final decay; begins when a search has settled "
                           "its language, or so many steps before the end", low=1)
    lr_end: float = option(0.02, "final share of the learning rate", low=0, high=1)
    beta2: float = option(0.98, "second moment decay of AdamW", low=0, high=0.99999)
    weight_decay: float = option(0.5, "decoupled weight decay; with Muon none of what AdamW "
                                 "learns", low=0)
    grad_clip: float = option(1.0, "largest gradient norm; 0: no clipping", low=0)
    target_accuracy: float | None = option(None, "stop once an evaluation reaches this", low=0,
                                           high=1)
    val_every_n_steps: int = option(200, "steps between evaluations", low=1)
    val_every_n_epochs: int = option(1, "rounds between evaluations, where a round is a data set",
                                     low=1)
    skip_first_validation_loop: bool = option(True, "no evaluation before the first step")
    keep_evaluated: bool = option(False, "each evaluation leaves its weights in "
                                  "val_<step>/eval_model_checkpoint")
    val_samples: int = option(1, "thoughts written for each held-out question; 1: the greedy one, "
                              "more: sampled ones (pass@k, majority@k)", low=1)
    do_eval: bool = option(True, "evaluate at all")
    do_acc_eval: bool = option(True, "evaluations generate answers; false: only score those of "
                               "preload_data_for_val")
    log_every_n_steps: int = option(20, "steps between lines of metrics.jsonl", low=1)
    save_every_n_steps: int = option(500, "steps between checkpoints; 0: at the end only", low=0)
    keep_checkpoints: int = option(2, "newest checkpoints that are kept, beside the best one; 0: "
                                   "all", low=0)
    max_bad_steps: int = option(5, "stop after so many steps in a row whose loss or gradient is "
                                "not finite; each is skipped", low=1)
    single_batch: bool = option(False, "overfit one batch of questions")
    engine: str = option("ponder", "who learns from rollouts: our loop, or TRL's DPOTrainer or "
                         "GRPOTrainer", legal=lambda: ENGINES.names())
    data_parallel: str = option("replicate", "several processes: each has all weights, or a share "
                                "of weights, gradients and optimizer state (FSDP2), which are "
                                "gathered while rollouts are made",
                                legal=("replicate", "shard"))
    device: str = option("auto", "where to compute", legal=("auto", "cpu", "cuda"))
    dtype: str = option("float32", "of the matrix products; auto: bfloat16 where the device has "
                        "units for it, else float32", legal=("float32", "bfloat16", "auto"))
    compile: bool = option(False, "torch.compile the blocks of the networks, which takes some "
                           "minutes at first")
    graph: str = option("auto", "replay rounds and steps as CUDA graphs: tiny networks are many "
                        "times faster; auto: on a GPU, where lengths are fixed and nothing is read "
                        "in between", legal=("auto", "on", "off"), later=True)
    threads: int = option(0, "CPU threads; 0: one for networks below a million parameters, "
                         "else as torch chooses", low=0, high=1024)

    @property
    def per_step(self) -> int:
        """Questions of an optimizer step."""
        return self.train_batch_size * self.train_gradient_accumulation_steps

    @property
    def learns(self) -> bool:
        """Whether there is an optimizer step at all; else thoughts are collected or evaluated."""
        return self.max_steps > 0 and self.max_epochs != 0 and self.internal_epochs > 0

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        yield from _rounds_need(config)
        for key, plain in (("data", None), ("single_batch", False)):
            group = "task" if key == "data" else "trainer"
            value = getattr(getattr(config, group), key, plain)
            if self.curriculum != "none" and value != plain:
                yield (f"trainer.curriculum={self.curriculum}: found {group}.{key}={value}, but "
                       f"its questions are drawn level by level; legal: none, or no {group}.{key}")
        if self.compile and config.model.kind == "hf" and (
                "positions" not in TASKS[config.task.name].offers):
            yield (f"trainer.compile=true: found model=hf with task={config.task.name}, whose "
                   "texts are of any length; legal: false, or task=text")
        if self.data_parallel == "shard":
            yield from _shards_need(config)


def _rounds_need(config: Config) -> Iterator[str]:
    """What hints and worked examples ask of the strategy."""
    trainer, strategy = config.trainer, config.strategy
    if trainer.rationalise and (config.thinker.tokens == 0
                                or getattr(strategy, "keep", "") != "correct"):
        yield ("trainer.rationalise=true: found nothing that keeps right thoughts; legal: with "
               "thoughts, strategy=star and strategy.keep=correct, or false")
    if trainer.rehearse and config.thinker.tokens and not (
            STRATEGIES[strategy.name].target.rows_alone):
        yield (f"trainer.rehearse={trainer.rehearse}: found strategy={strategy.name}, which learns "
               "from groups; legal: 0, or strategy=star or sft")


def _shards_need(config: Config) -> Iterator[str]:
    """What is made for whole weights."""
    if config.trainer.optimizer == "muon":
        yield ("trainer.data_parallel=shard: found trainer.optimizer=muon, which needs whole "
               "matrices; legal: replicate, or trainer.optimizer=adamw")
    if "positions" in TASKS[config.task.name].offers and (
            config.thinker.tokens or config.task.ahead > 1):
        yield ("trainer.data_parallel=shard: found thoughts or task.ahead on task=text, whose "
               "small heads are whole; legal: replicate")
    if config.trainer.compile:
        yield ("trainer.data_parallel=shard: found trainer.compile=true, which compiles networks "
               "as a whole; legal: replicate, or trainer.compile=false")


@dataclass
class LoggerConfig:
    """Where metrics go besides metrics.jsonl."""

    kind: Any = option("none", "trackers: one, or several as logger=[wandb,trackio]",
                       legal=lambda: TRACKERS.names())
    project: str = option("ponder", "wandb and trackio project, mlflow experiment")
    naming: str = option("directory", "a run's name in wandb, trackio and mlflow: that of its "
                         "directory, or its run type and parameters",
                         legal=("directory", "parameters"))
    mode: str = option("offline", "online: wandb, and mlflow (MLFLOW_TRACKING_URI), send numbers "
                       "to their servers; disabled: no tracker begins",
                       legal=("online", "offline", "disabled"))
    dir: str = option("star_runs/trackers", "directory in which trackio and mlflow keep all runs")

    @property
    def names(self) -> list[str]:
        """The trackers that are asked for; `kind` is a name, a list, or names as keys."""
        kind = [self.kind] if isinstance(self.kind, str) else self.kind
        chosen = [name for name, on in kind.items() if on] if isinstance(kind, dict) else kind
        return [name for name in dict.fromkeys(chosen) if name != "none"]

    def contradictions(self, config: Config) -> Iterator[str]:
        """A line for each tracker whose package is missing, and what a tracker itself refuses."""
        for name in self.names if self.mode != "disabled" else ():
            target = TRACKERS[name].target
            for package in getattr(target, "packages", ()):
                if importlib.util.find_spec(package) is None:
                    yield (f"logger={name}: found no package {package}; legal: pip install "
                           f"{target.install}, or logger=none")
            yield from getattr(target, "refusals", lambda keys: ())(self)


@dataclass
class SweepConfig:
    """Sweeps that were sent: action=sweep shows one, and sends again what it lost."""

    dir: str | None = option(None, "directory of the sweep; null: the newest one in star_runs. "
                             "With -m: where the sweep goes (hydra.sweep.dir)")
    retry: str = option("none", "failed: send jobs again that failed or vanished, each with the "
                        "configuration that it was sent with", legal=("none", "failed"))
    detach: bool = option(False, "with -m on Slurm: do not wait for the jobs")


@dataclass
class HubConfig:
    """Checkpoints on the Hugging Face Hub: action=push sends one, action=pull brings one."""

    repo: str | None = option(None, "user/name of the repository")
    dataset: str | None = option(None, "push: user/name of a data set, which gets the rollouts of "
                                 "the evaluation at the checkpoint's step (generated.csv)")
    private: bool = option(True, "push: a new repository is private")
    licence: str | None = option(None, "push: the hub's word for it (apache-2.0, mit, ...); null: "
                                 "none is stated")
    replace: bool = option(False, "push: take the place of what is in the repository")
    dry: bool = option(False, "push: make the folder, say what would be sent, and send nothing")
    revision: str | None = option(None, "pull: branch, tag or commit; null: main")

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        pushes = config.action == "push"
        for key in ("repo", "dataset"):
            value = getattr(self, key)
            if (value is None and key == "repo") or (
                    value is not None and not REPOSITORY.fullmatch(value)):
                yield (f"hub.{key}={shown(value)}: found no name of a "
                       "repository; legal: user/name")
        if pushes and config.model.name is None:
            yield ("action=push: found model.name=null; legal: with model.name=<checkpoint "
                   "directory, or directory of a run>")
        plain = {"dataset": None, "private": True, "licence": None, "replace": False, "dry": False}
        for key, value in ({"revision": None} if pushes else plain).items():
            if getattr(self, key) != value:
                yield (f"hub.{key}={shown(getattr(self, key))}: found action={config.action}; "
                       f"legal: action={'pull' if pushes else 'push'}, or no word about it")


@dataclass
class GenerateConfig:
    """How a prompt is continued: sampled, or by beam search."""

    tokens: int = option(200, "new tokens at most", low=1)
    samples: int = option(1, "so many texts; of a beam search the n best", low=1)
    temperature: float = option(1.0, "softmax temperature; 0: always the likeliest token", low=0.0)
    top_k: int = option(0, "sample from the k likeliest tokens; 0: from all", low=0)
    top_p: float = option(1.0, "sample from the smallest set with this probability", low=1e-6,
                          high=1.0)
    beams: int = option(0, "beam search with so many beams; 0: sample", low=0)
    length_penalty: float = option(1.0, "beam search: a text is worth log p / n^length_penalty, n "
                                   "its new tokens with the end; 0: log p itself; above 0 longer "
                                   "texts gain")
    stopping: str = option("bound", "beam search ends when as many texts as beams have ended "
                           "(first); when besides none that goes on would be worth more if it "
                           "ended now (bound), or at any length (exact)",
                           legal=("first", "bound", "exact"))
    thoughts: str = option("colour", "thoughts are shown in colour, as plain text, or not at all",
                           legal=("colour", "plain", "hidden"))

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        talks = config.action == "chat"
        if config.model.name is None:
            yield (f"action={config.action}: found model.name=null; legal: with "
                   "model.name=<checkpoint directory, or name on the hub>")
        if config.prompt is None and not talks:
            yield "action=generate: found prompt=null; legal: with prompt=<text>"
        if talks and config.prompt is not None:
            yield (f"prompt={config.prompt}: found action=chat, where prompts are typed; legal: "
                   "action=generate, or no prompt")
        if talks and config.out:
            yield f"out={config.out}: found action=chat; legal: action=generate, or no out"
        for key, plain in (("beams", 0), ("samples", 1)):
            value = getattr(config.generate, key)
            if talks and value != plain:
                yield (f"generate.{key}={value}: found action=chat, which writes one text as it "
                       f"goes; legal: {plain}")
        for key, plain in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            value = getattr(self, key)
            if self.beams and value != plain:
                yield (f"generate.{key}={value:g}: found generate.beams={self.beams}, and a beam "
                       f"search samples nothing; legal: {plain:g}, or generate.beams=0")
        if self.beams and self.samples > self.beams:
            yield (f"generate.samples={self.samples}: found generate.beams={self.beams}; legal: at "
                   "most as many as beams")
        for key, plain in (("length_penalty", 1.0), ("stopping", "bound")):
            value = getattr(self, key)
            if not self.beams and value != plain:
                yield (f"generate.{key}={value}: found generate.beams=0, so no beam search; legal: "
                       f"{plain}, or generate.beams=<number>")


@dataclass
class LmEvalConfig:
    """Tasks of lm-evaluation-harness, and how a checkpoint is asked their questions."""

    tasks: list[str] = option([], "names of tasks or groups of lm_eval, or YAML files of tasks")
    include_path: str | None = option(None, "directory with more tasks (YAML files)")
    limit: int | None = option(None, "so many questions of each task; null: all", low=1)
    num_fewshot: int | None = option(None, "worked examples in front; null: as the task says",
                                     low=0)
    prompt: str = option("auto", "plain: the task's own text as it is; own: as a prompt that the "
                         "checkpoint was trained on (task.preamble, the chat template, a thought, "
                         "then the question again where task.answer=cloze); auto: own where there "
                         "are thoughts", legal=("auto", "own", "plain"))
    cue: str = option("Answer:", "own: the end of a task's text that asks for the answer; it "
                      "stands behind the thought")

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if importlib.util.find_spec("lm_eval") is None:
            yield (f"action={config.action}: found no package lm_eval; legal: after pip install "
                   "'ponder[lm-eval]'")
        if config.model.name is None:
            yield ("action=lm_eval: found model.name=null; legal: with "
                   "model.name=<checkpoint directory, or name on the hub>")
        if not self.tasks:
            yield ("lm_eval.tasks=[]: found no task; legal: names of lm_eval, as in "
                   "lm_eval.tasks=[arc_easy]")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            yield (f"lm_eval.include_path={self.include_path}: found no such directory; legal: one "
                   "with YAML files of tasks")
        yield from self.prompts_need(config)

    def prompts_need(self, config: Config) -> Iterator[str]:
        """What a prompt of the checkpoint's own requires."""
        task = TASKS[config.task.name]
        if self.prompt == "own" and not {"questions", "hf_model"} <= task.offers | task.requires:
            yield (f"lm_eval.prompt=own: found task={config.task.name}, which has no prompt in "
                   "words; legal: plain, or task=qa, free")


SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler",
            "cmaes": "CmaEsSampler"}


@dataclass
class StudySampler:
    """Who chooses the values of the next trials."""

    name: str = option("tpe", "sampler of Optuna's; gp needs scipy, cmaes needs cmaes; its own "
                       "arguments with a plus (`+hydra.sweeper.sampler.multivariate=true`)",
                       legal=tuple(SAMPLERS))
    seed: int | None = option(0, "of the values that are tried; null: others each time", low=0)


@dataclass
class StudyConfig:
    """A sweep whose values are chosen by Optuna; what a run returns is its accuracy."""

    _target_: str = "hydra_plugins.ponder_sweeper.Optuna"
    n_trials: int = option(20, "runs of the whole study, those of earlier calls and those that "
                           "failed among them", low=1)
    n_jobs: int = option(1, "runs that are chosen and sent together; the next ones are chosen "
                         "when all of them have ended", low=1)
    direction: str = option("maximize", "of the accuracy", legal=("maximize", "minimize"))
    storage: str | None = option(None, "file that remembers the study, or the URL of a database "
                                 "(`sqlite:///study.db`); null: optuna.journal in the directory "
                                 "of the sweep")
    study_name: str | None = option(None, "under which the study is remembered; null: a hash of "
                                    "the words of the sweep")
    sampler: StudySampler = field(default_factory=StudySampler)
    params: dict[str, str] = option({}, "words of the sweep as `key: value`, for files of "
                                    "configuration")
