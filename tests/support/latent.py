"""Small policies whose thoughts are differentiable."""

from __future__ import annotations

from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.question import ContinuousPolicy, DifferentiablePolicy, GumbelPolicy
from ponder.tasks.toy.add import Add

KINDS = {"continuous": ContinuousPolicy, "gumbel": GumbelPolicy}
BLIND, SEEING = ("thought",), ("question", "thought")


def make_flowing(task: Add, kind: str = "continuous", tokens: int = 3,
                 sees: tuple[str, ...] = BLIND, shared: bool = False) -> DifferentiablePolicy:
    """A policy of two small networks, or one, in double precision."""
    positions = task.question_length + tokens + 1 + task.answer_length + 4
    shape, init = Shape(len(task.vocabulary), positions, 16, 2, 2), Init(*[0.3] * 5)
    nets = [Transformer(shape, init), None if shared else Transformer(shape, init)]
    rules = Rules(tokens, False, "question" in sees)
    return KINDS[kind](nets[0], nets[1], task.vocabulary, rules).double()
