"""The words of the configuration: every key, its type, its default and what it means.

Nothing in this package imports torch: `--help` and `--cfg job` answer before anything heavy is
loaded. Each default lives here once; the YAML files under `conf/` name choices and differences.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any

from ponder.config.engine import EngineConfig
from ponder.config.errors import UserError
from ponder.config.option import option
from ponder.config.players import (
    AnswererConfig,
    HfConfig,
    ModelConfig,
    SamplerConfig,
    SearchConfig,
    ThinkerConfig,
)
from ponder.config.registry import (
    DEFAULT_VARIANTS,
    REWARDS,
    SEARCHES,
    STRATEGIES,
    TASKS,
    TRACKERS,
    discover,
    first_line,
)
from ponder.config.running import (
    GenerateConfig,
    HubConfig,
    LmEvalConfig,
    LoggerConfig,
    StudyConfig,
    SweepConfig,
    TrainerConfig,
)

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "conf").is_dir()  # a wheel has the files of conf/ inside; else a checkout
CONF = (PACKAGE if INSTALLED else PACKAGE.parents[1]) / "conf"
THOUGHT_TOKENS = 10  # that exist, unless gold thoughts need more
WORDS = "words.json"  # in a run directory: the words that run was begun with
TRACKER_ID = "{}_id"  # in a run directory: under which a tracker, by name, knows the run
OWN = "own"  # in the words of a sweep over tasks: the variants of each job's own task
VARIANTS = ("think", "fixed", "blind", "super", "clean", "search")  # in the order of help


# the groups with more than one schema, and the key that says which
GROUPS = (("task", "name"), ("model", "kind"), ("rollout", "kind"), ("strategy", "name"))
# keys that say what is done, where it goes and how it is called, and nothing of a result
OF_THE_CALL = ("action", "run_type", "out", "runs", "step", "logger", "resume", "sweep", "prompt",
               "generate", "hub", "lm_eval", "scratch", "engine")
OF_A_PROMPT = ("generate", "chat")  # actions that go on from a prompt
OF_A_MODEL = (*OF_A_PROMPT, "lm_eval")  # actions that need a model and no task
OF_THE_HUB = ("push", "pull")  # actions that copy a checkpoint and compute nothing


@dataclass
class Config:
    """The spine: one node per group of `conf/`."""

    action: str = option("train", "what to do", legal=("train", "evaluate", "problems",
                                                         "export", "compare", "browse", "sweep",
                                                         *OF_THE_HUB,
                                                         *OF_A_MODEL))
    seed: int = option(0, "of weights, questions and samples", low=0)
    run_type: str = option("train", "first part of the name of the run directory")
    resume: str = option("auto", "go on with the run that is in the run directory, or begin anew; "
                         "on the command line also a run directory, which is then gone on with "
                         "as it was begun", legal=("auto", "never"))
    out: str | None = option(None, "problems, export, compare, generate and lm_eval: file to write "
                             "(.csv, .jsonl, .parquet; compare also .md, .html; lm_eval also "
                             ".json); browse: its page (.html); push and pull: directory")
    scratch: str = option("scratch", "directory of what is kept to save time: texts that "
                          "models have written, and encoded texts")
    prompt: str | None = option(None, "action=generate: the text that model.name goes on from, as "
                                "it is typed")
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    runs: Any = option(["star_runs"], "action=compare, browse: directories or globs; every run in "
                       "them, at any depth, is compared or listed")
    sweep: SweepConfig = field(default_factory=SweepConfig)
    step: int = option(0, "action=evaluate: the step that its numbers are logged at", low=0)
    task: Any = option(None, "what is learnt")
    model: Any = option(None, "the network")
    thinker: ThinkerConfig = field(default_factory=ThinkerConfig)
    answerer: AnswererConfig = field(default_factory=AnswererConfig)
    rollout: Any = option(None, "how thoughts are made")
    engine: EngineConfig = field(default_factory=EngineConfig)
    reward: dict[str, float] = option({}, "weight of each reward that counts")
    strategy: Any = option(None, "how thoughts are learnt")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    plugins: list[str] = option([], "modules that are imported first, from the current directory "
                                "too: what they register has names like everything else")


def program() -> str:
    """The command that the user typed to start Ponder: `ponder`, or `python run.py`.

    A job of a sweep, or a notebook, has typed neither: it gets the one that this copy has.
    """
    name = Path(sys.argv[0]).name
    if name == "__main__.py" and Path(sys.argv[0]).parent.name == "ponder":
        return "python -m ponder"
    if name == "run.py":
        return f"python {sys.argv[0]}"
    return "ponder" if name == "ponder" or INSTALLED else "python run.py"


def variants(config: Config) -> list[str]:
    """The variant flags that are in force, read back from the values they patch."""
    on = {
        "think": config.thinker.tokens > 0,
        "fixed": config.thinker.tokens > 0 and not config.thinker.stops,
        "blind": "question" not in config.answerer.sees,
        "super": config.answerer.learns_from == "gold",
        "clean": "gold_thought" in config.reward,
        "search": config.rollout.kind == "search",
    }
    return [flag for flag in VARIANTS if on[flag]]


def combined(start: Sequence[str], flags: dict[str, bool], known: list[str]) -> str:
    """A list of variants after flags; without think nothing is left but what flags say is true."""
    if [*start] == [OWN]:
        return f"[{','.join([OWN, *('-+'[on] + flag for flag, on in flags.items())])}]"
    if flags.get("think") is False:
        start = []
    return f"[{','.join(flag for flag in known if flags.get(flag, flag in start))}]"


def variants_of(tasks: Iterable[str]) -> list[str]:
    """The variants of tasks where no word is said about them; `OWN` where they differ."""
    lists = {tuple(getattr(entry.target, "variants", DEFAULT_VARIANTS))
             for entry in map(TASKS.get, tasks) if entry is not None}
    return [OWN] if len(lists) > 1 else [*(lists or {DEFAULT_VARIANTS}).pop()]


def with_own_variants(words: list[str]) -> list[str]:
    """The words of a job of a sweep over tasks, with the variants of its own task in place of
    `variant=[own,-blind]`.
    """
    named = [word.partition("=")[2] for word in words if word.startswith("task=")]
    found = [*words]
    for number, word in enumerate(words):
        if word.startswith(f"variant=[{OWN}"):
            flags = {flag: sign == "+" for sign, flag in re.findall(r"([+-])(\w+)", word)}
            known = [*dict.fromkeys([*VARIANTS, *flags])]
            found[number] = f"variant={combined(variants_of(named[-1:]), flags, known)}"
    return found


def described(config: Config) -> str:
    """A line about the variants that are in force, and what the answerer sees."""
    line = f"variants: {', '.join(variants(config)) or 'none'}"
    if "questions" not in TASKS[config.task.name].offers:
        return line
    if config.thinker.tokens == 0:
        return f"{line}; no thought, the answerer sees the question alone"
    if config.thinker.filler:
        line += f"; a thought is {config.thinker.tokens} filler tokens, which nobody chooses"
    sees = " and ".join(f"the {role}" for role in config.answerer.sees)
    alone = len(config.answerer.sees) == 1
    return f"{line}; the answerer sees {sees}{' alone, and not the question' if alone else ''}"


def writes(config: Config) -> str:
    """What thoughts are made of: thoughts, text or both."""
    told = config.thinker.writes
    return told if told != "auto" else (
        "text" if "text" in TASKS[config.task.name].offers else "thoughts")


def schemas(group: str) -> dict[str, type]:
    """name -> dataclass of keys, for every choice of a group that has keys of its own."""
    registered = {"task": TASKS, "strategy": STRATEGIES}
    if group in registered:
        return {entry.name: entry.keys for entry in registered[group] if entry.keys}
    return {"model": {"transformer": ModelConfig, "hf": HfConfig},
            "rollout": {"sample": SamplerConfig, "search": search_schema()},
            "trainer": {"trainer": TrainerConfig}, "logger": {"logger": LoggerConfig}}[group]


def search_schema() -> type:
    """`SearchConfig`, with a node `rollout.<name>` for each search that has keys of its own."""
    return _search_schema(*((entry.name, entry.keys) for entry in SEARCHES if entry.keys))


@functools.cache
def _search_schema(*nodes: tuple[str, type]) -> type:
    own = [(name, keys, field(default_factory=keys)) for name, keys in nodes]
    made = make_dataclass("AnySearch", own, bases=(SearchConfig,))
    made.__module__, made.__doc__ = __name__, f"{first_line(SearchConfig)}."
    return made


def __getattr__(name: str) -> Any:
    """The dataclass that is made anew in each process, by its name, for unpickling."""
    if name == "AnySearch":
        return search_schema()
    raise AttributeError(name)


def choices(group: str, *folders: Path) -> dict[str, str]:
    """name -> its sentence of help, for every choice of a group: registered ones, and files."""
    known = {"task": TASKS, "strategy": STRATEGIES, "reward": REWARDS, "logger": TRACKERS}.get(
        group, ())
    found = {entry.name: entry.sentence for entry in known}
    if group == "rollout":
        found = {name: str(schema.__doc__) for name, schema in schemas(group).items()}
    for folder in folders or (CONF,):
        for file in (folder / group).glob("*.yaml"):
            found[file.stem] = first_comment(file)
    return dict(sorted(found.items()))


def variant_names(*folders: Path) -> list[str]:
    """The variant flags: those of the package first, then other files of `variant/`."""
    return [*VARIANTS, *(name for name in choices("variant", *folders) if name not in VARIANTS)]


def first_comment(path: Path) -> str:
    """The first line of a YAML file that is a sentence."""
    for line in path.read_text().splitlines():
        if line.startswith("# ") and "@package" not in line:
            return line[2:]
    return ""


def register() -> None:
    """Make the choices of every group known to Hydra.

    Tasks, strategies, rollouts, rewards and trackers are choices by themselves (`task=add`); every
    dataclass of keys is `<group>/schema/<name>` as well, which files of `conf/` refine.
    """
    from omegaconf import OmegaConf

    _store_once("spine", Config)
    for group in ("task", "strategy", "rollout", "model", "trainer", "logger"):
        for name, schema in schemas(group).items():
            _store_once(name, schema, group, "schema")
            if group in ("task", "strategy", "rollout"):
                _store_once(name, schema, group)
    for entry in TRACKERS:
        kinds = {} if entry.name == "none" else {"kind": {entry.name: True}}
        _store_once(entry.name, kinds, "logger")
    for entry in REWARDS:
        _store_once(entry.name, {entry.name: entry.weight}, "reward")
    _store_once("optuna", StudyConfig, "hydra", "sweeper", "schema")
    for name in ("ponder.thought_length", "ponder.gold_length"):  # the latter in older runs
        OmegaConf.register_new_resolver(name, _thought_length, replace=True)
    OmegaConf.register_new_resolver("ponder.thought_vocabulary", _thought_vocabulary, replace=True)


def _store_once(name: str, node: Any, *group: str) -> None:
    """Tell Hydra of keys (a dataclass, one of its objects, a dictionary), unless it knows these:
    each takes it milliseconds.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    known: Any = store.repo
    for part in (*group, f"{name}.yaml"):
        known = known.get(part, {})
    if not known or (OmegaConf.get_type(known.node) is not node if isinstance(node, type)
                     else known.node != node):
        store.store(name=name, node=node, group="/".join(group) or None)


def _thought_length(*_: Any, _parent_: Any) -> int:
    """Tokens of the longest gold thought of the task whose keys are the node `_parent_`."""
    entry = TASKS.get(_parent_.name)
    if entry is None:
        return 0  # the check says what is wrong with the name
    return entry.target.longest_thought(_keys_of(_parent_))


def _thought_vocabulary(*_: Any, _root_: Any) -> int:
    """Thought tokens that the gold thoughts of a configuration's task need, at least 10."""
    entry = None if _root_.task is None else TASKS.get(_root_.task.name)
    needed = getattr(entry and entry.target, "thought_vocabulary", None)
    with contextlib.suppress(UserError):  # the check says what is wrong with the task
        return max(THOUGHT_TOKENS, needed(_keys_of(_root_.task)) if needed else 0)
    return THOUGHT_TOKENS


def _keys_of(task: Any) -> Any:
    """The keys of a task's node, without those that need its files or are computed."""
    values = {key: task[key] for key in task if key not in ("thought_length", "data")}
    return TASKS[task.name].target.Keys(**values)


def config_hash(config: Config) -> str:
    """Hash of every key that can change a result; `config.inputs` has the files that keys name.
    Defaults of keys that came later are left out, so that a run keeps its hash.
    """
    content = {name: value for name, value in _hashed(config).items()
               if name not in OF_THE_CALL and (value or name != "plugins")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _hashed(node: Any) -> dict[str, Any]:
    """The values of a dataclass of keys by name, without defaults of keys that came later, and
    without nodes of which nothing is left.
    """
    values = {item.name: getattr(node, item.name) for item in fields(node)
              if not item.metadata.get("later") or getattr(node, item.name) != item.default}
    found = {name: (is_dataclass(value), _hashed(value) if is_dataclass(value) else value)
             for name, value in values.items()}
    return {name: value for name, (node, value) in found.items() if value or not node}


def restored(told: dict[str, Any]) -> Any:
    """A configuration that was written down, as a node whose keys know their types again.

    Raises whatever OmegaConf does, and KeyError, where it is not one of this version.
    """
    from omegaconf import OmegaConf

    discover(told.get("plugins") or ())
    node = OmegaConf.structured(Config)
    for group, name in GROUPS:
        node[group] = OmegaConf.structured(schemas(group)[told[group][name]])
    return OmegaConf.merge(node, told)
