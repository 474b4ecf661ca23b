"""The commands of README.md, CONTRIBUTING.md and docs/, as a reader would type them.

As a program (`python -m support.pages FOLDER`) it composes all of them in a folder, in a process of
its own, as plugins stay registered; what each came to is printed as a line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.plugin import write_plugins

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\w+=\S+ )?(?:python|ponder|torchrun|accelerate|make|pip|bash|source) "
                    r"[^`]+)`|`(make|ponder)`")
PLACEHOLDER = re.compile(r"<[^<>]+>")
OURS = re.compile(r"(?:python run\.py|ponder|torchrun \S+ run\.py|accelerate launch run\.py)"
                  r"(?: |$)")
KNOWN = ("python", "ponder", "torchrun", "accelerate", "make", "pip", "source", "export", "srun",
         "sinfo", "squeue", "bash", "exec", "[", "RANK=$SLURM_PROCID", "git")  # of shell blocks

TABLES = {"questions.csv": "question,A,B,answer\n" + "".join(
              f"{n}+1,{n + 1},{n},{n + 1}\n" for n in range(20)),
          "questions.jsonl": '{"question": "1 + 1?", "answer": "2"}\n',
          "passages.csv": "passage,question,A,B,answer\nOnce.,What?,x,y,A\n",
          "xor.csv": "question,answer\n0 1,1\n",
          "qa/arc_easy_train.csv": "question,A,B,answer\nWhat?,this,that,A\n",
          "qa/arc_easy_test.csv": "question,A,B,answer\nWho?,he,she,A\n"}
TEXT = ["model=smollm2", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text"]
LEFT_OUT = {"experiment=ppo_corpus": ["task.data=book.txt", "model.name=placeholder"],
            "experiment=ppo_smollm2": ["task.data=book.txt", "task.wanted=e"],
            "task=free": TEXT}  # first word of a command -> what its ... stands for


@dataclass(frozen=True)
class Command:
    """A line of a page. page: relative to the checkout."""

    page: str
    text: str

    @property
    def ours(self) -> bool:
        """Whether it runs Ponder."""
        return bool(OURS.match(self.text))

    @property
    def words(self) -> list[str]:
        """What Ponder gets, with something in place of <...>, and without ... and comments."""
        text = PLACEHOLDER.sub("placeholder", OURS.sub("", self.text, count=1))
        words = shlex.split(text, comments=True)
        return [*(word for word in words if word != "..."),
                *(LEFT_OUT.get(words[0], []) if "..." in words else [])]


def commands() -> list[Command]:
    """All of them, each once on a page."""
    found = (Command(str(page.relative_to(ROOT)), text) for page in PAGES
             for text in _texts(page.read_text("utf-8")))
    return list(dict.fromkeys(found))


def _texts(page: str) -> Iterator[str]:
    """The commands of a page: lines of shell blocks, and code in a sentence or a table."""
    for _, language, block in FENCE.findall(page):
        if language in ("", "bash", "sh"):
            lines = re.sub(r" *\\\n *", " ", block).splitlines()
            if any(OURS.match(line) or line.split(" ")[0] in KNOWN for line in lines):
                yield from (line.strip() for line in lines
                            if line.strip() and not line.startswith(("#", "old spelling;")))
    for parts in INLINE.findall(FENCE.sub("", page)):
        yield " ".join("".join(parts).split())


# --- composing ------------------------------------------------------------------------------------


def furnish(folder: Path) -> None:
    """Give a folder the files that the pages speak of: plugins, tables, a text, runs."""
    write_plugins(folder)
    (folder / "book.txt").write_text("Once upon a time. " * 200)
    for name, text in TABLES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for run in ("placeholder", "star_runs/placeholder", "star_runs/digits"):
        for checkpoint in (run, f"{run}/checkpoint_placeholder"):
            (folder / checkpoint).mkdir(parents=True)
            (folder / checkpoint / "config.json").write_text("{}")
        (folder / run / "words.json").write_text("[]")


def compose(words: list[str]) -> int:
    """Compose and check a command as Ponder does: the number of its jobs. Nothing is run."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from ponder.cli.errors import sweeps
    from ponder.cli.shorthand import config_folders, understood

    if "--help" in words or "sweep.retry=failed" in words:  # of a sweep that was sent
        return 0
    typed, _ = understood(words)
    folders = [f"hydra.searchpath=[{','.join(f'file://{one}' for one in config_folders(typed))}]"]
    typed = [word for word in typed if "=" in word]
    if not sweeps(words):
        check([*typed, *folders], several=False)
        return 1
    launch = [word for word in typed if word.startswith("hydra")]
    single = [word for word in typed if word not in launch and not re.search(r"=\w+\(", word)]
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(single), None)[0]
    check([*launch, *jobs[0]], several=True)
    if len(jobs) > 1:
        check(jobs[-1], several=False)
    return len(jobs)


def check(words: list[str], several: bool) -> None:
    """Compose a job, or of a sweep its first one with what launches it, and check it."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ponder.config import resolve
    from ponder.config.spine import CONF, register
    from ponder.sweeps.plan import without_hydra

    register()
    with initialize_config_dir(str(CONF.resolve()), job_name="run", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        node = hydra.compose_config(
            "config", words, run_mode=RunMode.MULTIRUN if several else RunMode.RUN,
            from_shell=False, with_log_configuration=False)
        HydraConfig.instance().set_config(node)
        resolve.read(without_hydra(node))


def main(folder: Path) -> None:
    """Compose each command once; print {"words", "jobs" or "error"}, a line each."""
    os.environ["PONDER_DATA"] = str(folder)
    shutil.which = lambda name, *_, **__: f"/usr/bin/{name}"  # a machine with Slurm
    os.chdir(folder)
    furnish(folder)
    for words in dict.fromkeys(tuple(one.words) for one in commands() if one.ours):
        try:
            said: dict[str, object] = {"jobs": compose([*words])}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"words": words, **said}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
