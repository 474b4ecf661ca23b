"""The text of `python run.py --help`: made from what is registered and the files of conf/."""

from __future__ import annotations

from pathlib import Path

from ponder.config.spine import VARIANTS, choices

CHOSEN = ("experiment", "logger", "model", "reward", "rollout", "strategy", "task", "trainer",
          "variant")

HEAD = """\
Ponder: thinking before answering in language models.

usage: python run.py [GROUP=CHOICE ...] [KEY=VALUE ...] [-m] [--cfg job]

With no words at all, two small networks invent a language of meaningless tokens and add with it.
"""

EXAMPLES = """\
Examples
  python run.py                                            the default run
  python run.py experiment=add_think_fixed_blind_super_clean strategy=grpo
  python run.py think=true blind=true task.max=1000 trainer.max_steps=5000
  python run.py -m experiment=add_normal seed=0,1,2        a sweep, one run after another
  python run.py action=evaluate model.name=star_runs/<run>/checkpoint_<epoch>
  python run.py action=generate model.name=<checkpoint> prompt="31+84="   what it thinks and says
  python run.py action=chat model.name=<checkpoint>        talk with it
  python run.py action=compare 'runs=star_runs/train_*'    runs in one table, means over seeds
  python run.py -m hydra.launcher.partition=overcap seed=0,1,2   a sweep on Slurm
  python run.py -m hydra/launcher=local seed=0,1,2         several runs at once on this machine
  python run.py -m hydra/sweeper=optuna 'trainer.lr=tag(log, interval(1e-4, 1e-1))'
                                                           values that Optuna chooses
  python run.py action=sweep                               how the newest sweep stands
  python run.py action=sweep sweep.retry=failed            send again what it lost

Also
  --cfg job       print the configuration, run nothing
  --config-dir D  presets and experiments of your own, as in D/experiment/mine.yaml
  plugins=[m]     tasks, rewards, strategies, searches of your own, in m.py
  -m              sweep over comma-separated values
  Every key with its default and meaning: docs/config.md"""


def help_text(*folders: Path) -> str:
    """The whole text; presets and experiments are in `folders`."""
    lines, groups = [HEAD, "Groups"], {group: choices(group, *folders) for group in CHOSEN}
    width = 2 + max(len(name) for options in groups.values() for name in options)
    for group, options in groups.items():
        if group == "variant" or not options:
            continue
        lines.append(f"  {group}=")
        lines += [f"      {name:<{width}}{about}" for name, about in options.items()]
    lines.append("  experiment= also takes names such as add_normal or add_think_fixed_blind")
    lines.append("\nVariants: variant=[think,blind], or think=true blind=true")
    about = groups["variant"]
    lines += [f"      {flag:<{width}}{about[flag]}" for flag in VARIANTS]
    return "\n".join([*lines, "", EXAMPLES])
