"""Which level of difficulty the next questions have, and when a harder one begins."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ponder.config.running import TrainerConfig
from ponder.core.types import Problems
from ponder.models.policies.base import Policy
from ponder.rollouts.sampler import greedy
from ponder.tasks.base import Task

FEW, MANY = 100, 400  # questions of a level that are asked to see whether it is known


@dataclass
class Curriculum:
    """Of the questions of a round, a share `trainer.curriculum_share` is of the hardest level that
    has begun; the others are of one level, any so far, so that none is forgotten.

    accuracy: every `trainer.curriculum_every` steps the greedy answers to new training questions
    decide. Where the hardest level is known (`curriculum_known`), the first that is not begins;
    where an easier one no longer is (`curriculum_forgotten`), training goes back to it, since what
    is learnt of a harder question rests on the easier ones. linear: each level begins so many steps
    after the one before.

    level: the hardest that has begun. falls: how often training went back. looked: the step of the
    last look. known: whether the hardest of all is known.
    """

    level: int = 1
    falls: int = 0
    looked: int = 0
    accuracy: float = 0.0
    known: bool = False

    def questions(self, task: Task, count: int, generator: torch.Generator, share: float,
                  ) -> Problems:
        """`count` training problems, those of the hardest level first."""
        hardest = round(share * count)
        level = 1 + int(torch.randint(self.level, (), generator=generator))
        parts = [task.at_level(one, size, generator)
                 for one, size in ((self.level, hardest), (level, count - hardest)) if size]
        return functools.reduce(Problems.concatenate, parts)

    def look(self, config: TrainerConfig, policy: Policy, task: Task, step: int,
             generator: torch.Generator) -> None:
        """Go on to another level if one is due at this step."""
        if step - self.looked < config.curriculum_every:
            return
        self.looked = step
        if config.curriculum == "linear":
            self.level = min(1 + step // config.curriculum_every, task.levels)
            return
        for level in range(1, self.level):
            if _accuracy(policy, task, level, FEW, generator) < config.curriculum_forgotten:
                self.level, self.falls, self.known = level, self.falls + 1, False
                return
        hardest = task.levels
        while True:
            self.accuracy = _accuracy(policy, task, self.level, MANY, generator)
            self.known = self.accuracy >= config.curriculum_known and self.level == hardest
            if self.accuracy < config.curriculum_known or self.known:
                return
            self.level += 1

    def metrics(self) -> dict[str, float]:
        """Numbers for the log."""
        return {"curriculum/level": self.level, "curriculum/falls": self.falls,
                "curriculum/accuracy": self.accuracy}

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def load(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


@torch.no_grad()
def _accuracy(policy: Policy, task: Task, level: int, count: int,
              generator: torch.Generator) -> float:
    """Share of right greedy answers to `count` new training questions of a level."""
    problems = task.at_level(level, count, generator).to(policy.thinker.device)
    _, right = policy.answer(problems, greedy(policy, problems).thought)  # type: ignore[operator]
    return float(right.float().mean())
