"""Parity with TRL on the same batch, the same weights and, for DPO, over 20 steps.

TRL's log-probabilities are over the whole vocabulary and its sequences end with a chosen end token;
so here the thinker may choose any token, and no thought is cut off by its length.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ponder.config.running import TrainerConfig
from ponder.core.math import Sampling
from ponder.core.types import Rollouts
from ponder.models.gpt2.layers import Shape
from ponder.models.gpt2.model import Init, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rollouts import given
from ponder.strategies.base import Strategy
from ponder.strategies.dpo import DPO
from ponder.strategies.grpo import GRPO
from ponder.tasks.toy.add import Add
from ponder.training.checkpoint import save_pretrained
from ponder.training.learner import Learner
from support.small import generator, make_task

pytestmark = pytest.mark.nightly

trl = pytest.importorskip("trl", reason="trl is not installed (pip install '.[peers]')")
PAIRS, TOKENS = 8, 4


class AnyToken(QuestionPolicy):
    """A thinker that may choose any token."""

    @property
    def allowed(self) -> slice:
        return slice(0, len(self.vocabulary))


def network(task: Add) -> Transformer:
    torch.manual_seed(1)
    return Transformer(Shape(len(task.vocabulary), 32, 16, 2, 2), Init(*[0.2] * 5))


def thoughts(task: Add, rows: int) -> Tensor:
    """(rows, TOKENS + 1): random thoughts of one to three tokens, each with its end."""
    random, vocabulary = generator(3), task.vocabulary
    found = torch.full((rows, TOKENS + 1), vocabulary.pad)
    for row, length in enumerate(torch.randint(1, TOKENS, (rows,), generator=random)):
        found[row, :length] = torch.randint(10, (int(length),), generator=random) \
            + vocabulary.first_thought
        found[row, length] = vocabulary.end
    return found


def batch(task: Add, samples: int) -> Rollouts:
    problems = task.sample(PAIRS, generator(2))
    rollouts = given(problems, thoughts(task, PAIRS * samples), samples)
    return replace(rollouts, chosen=rollouts.learn)


class ThinkerOnly(Learner):
    """No answerer: TRL has none."""

    def losses(self, scores, micro, whole, step):
        found = self.strategy.loss(scores, micro, whole.credit, step)
        return {"loss": found["thinker_loss"], **found}


def learner(task: Add, strategy: Strategy, tmp_path: Path) -> tuple[ThinkerOnly, Any, Any]:
    """Our learner, and the same network and tokenizer as transformers' own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net, reference = network(task), network(task)
    save_pretrained(net, tmp_path / "model", task.vocabulary)
    policy = AnyToken(net, None, task.vocabulary, Rules(TOKENS, True), reference=reference)
    config = TrainerConfig(weight_decay=0.0, beta2=0.999, grad_clip=0.0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    return (ThinkerOnly(config, policy, strategy, lambda step: 0.0, False, torch.device("cpu")),
            model, tokenizer)


def step(own: ThinkerOnly, rollouts: Rollouts, rate: float) -> dict[str, float]:
    losses = own.step([rollouts], 0, rate, Sampling(), lambda *_: None)
    return {name: float(value) for name, value in losses.items()}


# --- DPO ------------------------------------------------------------------------------------------

def pairs(task: Add, tmp_path: Path, strategy: DPO) -> tuple[ThinkerOnly, Any, Any, Rollouts]:
    own, model, tokenizer = learner(task, strategy, tmp_path)
    rollouts = batch(task, 2)
    right = torch.tensor([1.0, 0.0]).repeat(PAIRS)
    rollouts = replace(rollouts, reward=right, parts={"exact_match": right})
    rollouts = own.policy.annotate(rollouts, Sampling())
    return own, model, tokenizer, strategy.credit(rollouts)


def dpo_of_trl(task: Add, model: Any, tokenizer: Any, rollouts: Rollouts, folder: Path,
               **options) -> Any:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler

    words = task.vocabulary.words

    def text(row: Tensor) -> str:
        return "".join(words[token] for token in row.tolist() if token != task.vocabulary.pad)

    questions = [text(row) for row in rollouts.problems.question]
    rows = [{"prompt": question, "chosen": text(rollouts.thought[2 * i]),
             "rejected": text(rollouts.thought[2 * i + 1])} for i, question in enumerate(questions)]

    class InOrder(trl.DPOTrainer):
        def _get_train_sampler(self, *arguments):
            return SequentialSampler(self.train_dataset)

    arguments = trl.DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=PAIRS, max_steps=20, logging_steps=1,
        learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1e9,
        use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False, **options)
    return InOrder(model=model, args=arguments, train_dataset=Dataset.from_list(rows),
                   processing_class=tokenizer)


@pytest.mark.parametrize("ours, theirs", [
    ({"beta": 0.3}, {"beta": 0.3, "loss_type": "sigmoid"}),
    ({"beta": 0.3, "objective": "ipo"}, {"beta": 0.3, "loss_type": "ipo"}),
])
def test_dpo_runs_as_trls(ours: dict, theirs: dict, tmp_path: Path) -> None:
    """Loss, rewards, margin and gradient norm of every step of 20, from the same start."""
    task = make_task()
    own, model, tokenizer, rollouts = pairs(task, tmp_path, DPO(**ours))
    trainer = dpo_of_trl(task, model, tokenizer, rollouts, tmp_path, **theirs)
    trainer.train()
    log = [line for line in trainer.state.log_history if "loss" in line]
    assert len(log) == 20
    for number, line in enumerate(log):
        found = step(own, rollouts, 1e-3)
        tolerance = 1e-5 if number == 0 else 1e-3
        assert found["loss"] == pytest.approx(line["loss"], abs=tolerance)
        assert found["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3, abs=tolerance)
        assert found["reward_won"] == pytest.approx(line["rewards/chosen"], abs=tolerance)
        assert found["reward_lost"] == pytest.approx(line["rewards/rejected"], abs=tolerance)
        assert found["margin"] == pytest.approx(line["rewards/margins"], abs=tolerance)
        assert found["ranking_accuracy"] == pytest.approx(line["rewards/accuracies"])
    assert found["loss"] < log[0]["loss"]


# --- GRPO and RLOO --------------------------------------------------------------------------------

def inputs_of(rollouts: Rollouts, advantages: Tensor) -> dict[str, Tensor]:
    """A batch in TRL's words."""
    question = rollouts.problems.question.repeat_interleave(rollouts.samples, 0)
    mask = rollouts.learn.long()
    return {"prompt_ids": question, "prompt_mask": torch.ones_like(question),
            "completion_ids": rollouts.thought[:, :-1], "completion_mask": mask,
            "advantages": advantages, "old_per_token_logps": rollouts.logprobs,
            "old_logps": (rollouts.logprobs * mask).sum(1),
            "ref_per_token_logps": rollouts.reference if rollouts.reference is not None
            else torch.zeros_like(rollouts.logprobs), "num_items_in_batch": mask.sum()}


def their_trainer(kind: str, task: Add, model: Any, tokenizer: Any, folder: Path, **options) -> Any:
    from datasets import Dataset

    names = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}
    config, trainer = names[kind]
    arguments = config(output_dir=str(folder), per_device_train_batch_size=PAIRS * 4,
                       num_generations=4, max_completion_length=TOKENS, use_cpu=True, bf16=False,
                       report_to=[], gradient_checkpointing=False, **options)
    found = trainer(model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions),
                    args=arguments, train_dataset=Dataset.from_list([{"prompt": "1"}] * 64),
                    processing_class=tokenizer)
    found.current_gradient_accumulation_steps = 1
    return found


@pytest.mark.parametrize("kind, ours, theirs", [
    ("grpo", {"normalise": "sequences", "kl": 0.2},
     {"loss_type": "grpo", "beta": 0.2, "use_bias_correction_kl": False}),
    ("grpo", {"normalise": "tokens", "clip_high": 0.28},
     {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("grpo", {"normalise": "constant", "scale": "none"}, {"loss_type": "dr_grpo"}),
    ("rloo", {"baseline": "leave_one_out", "scale": "none", "ratio": "sequence",
              "normalise": "sequences"}, {"beta": 0.0}),
])
def test_policy_losses_are_trls(kind: str, ours: dict, theirs: dict, tmp_path: Path) -> None:
    """Loss and every gradient, off policy: old log-probabilities are not those of now."""
    task, strategy = make_task(), GRPO(**ours)
    own, model, tokenizer = learner(task, strategy, tmp_path)
    rollouts = batch(task, 4)
    rollouts = replace(rollouts, reward=torch.rand(len(rollouts)))
    now = own.policy.think(rollouts, Sampling())[0].detach()
    rollouts = replace(rollouts, logprobs=(now + 0.3 * torch.randn(now.shape)) * rollouts.learn)
    if "kl" in ours:
        rollouts = replace(rollouts,
                           reference=(now + 0.1 * torch.randn(now.shape)) * rollouts.learn)
    rollouts = strategy.credit(rollouts)
    assert rollouts.credit is not None
    found = step(own, rollouts, 0.0)
    trainer = their_trainer(kind, task, model, tokenizer, tmp_path, **theirs)
    advantages = rollouts.credit[:, 0]  # alike on all tokens of a row
    loss = trainer._compute_loss(trainer.model, inputs_of(rollouts, advantages))
    assert found["loss"] == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    for name, weight in own.policy.thinker.named_parameters():
        assert weight.grad is not None and gradients[name] is not None
        assert torch.allclose(weight.grad, gradients[name], atol=1e-5), name
