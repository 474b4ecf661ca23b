"""Small tasks and policies, seeded generators, and the type of the `door` fixture."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ponder.models.gpt2.layers import Shape
from ponder.models.gpt2.model import Init, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.tasks.toy.add import Add
from ponder.tasks.toy.base import ToyTask


def make_task(thoughts: int = 10, **changes) -> Add:
    return Add(thoughts=thoughts, **{"thought_length": 2, **changes})


def make_policy(task: ToyTask, tokens: int = 3, stops: bool = True, sees: tuple[str, ...] = (
        "question", "thought"), shared: bool = False, frozen: bool = False,
        dtype: torch.dtype = torch.float32) -> QuestionPolicy:
    positions = task.question_length + tokens + 1 + task.answer_length + 4  # room to pad
    shape = Shape(len(task.vocabulary), positions, 16, 2, 2)
    rules = Rules(tokens, stops, "question" in sees, "thought" in sees)
    init = Init(*[0.3] * 5)
    nets = [Transformer(shape, init), None if shared else Transformer(shape, init)]
    return QuestionPolicy(nets[0], nets[1], task.vocabulary, rules, frozen).to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Door = Callable[..., tuple[int, str, str]]
