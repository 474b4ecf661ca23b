"""`trainer.engine=trl`: rounds are collected as always, but TRL learns from them.

Questions, thoughts, rewards, pairs, evaluations, logs and checkpoints are ours; loss, gradients and
steps are those of TRL's DPOTrainer or GRPOTrainer, with our optimizer and learning rates. TRL
learns thoughts only: an answer that follows the thought (task.answer letter or cloze) is not
learnt. The policy and the reference of TRL's DPO are the model's own distribution; those of ours
are the one that texts are sampled from (temperature, top-k, top-p). A round that is interrupted is
begun again.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ponder.config.errors import UserError
from ponder.core.lazy_imports import library
from ponder.core.math import Sampling, uses_bfloat16
from ponder.core.types import Rollouts
from ponder.models.huggingface.attention import NAME
from ponder.models.huggingface.model import Model
from ponder.rollouts.recorded import pairs_of, tokens_of
from ponder.strategies.dpo import DPO
from ponder.strategies.grpo import GRPO
from ponder.tokenizers.vocabulary import TextVocabulary
from ponder.training.learner import learning_rate_share
from ponder.training.trainer import Hooks, Metrics, Round, Trainer

NAMES = {"loss": "loss", "grad_norm": "grad_norm", "entropy": "thought_entropy", "kl": "kl",
         "rewards/margins": "margin", "rewards/accuracies": "ranking_accuracy",
         "rewards/chosen": "reward_won", "rewards/rejected": "reward_lost",
         "clip_ratio/region_mean": "clip_fraction"}  # TRL's names and ours
LOSSES = {"dpo": "sigmoid", "ipo": "ipo"}
MEANS = {"tokens": "dapo", "sequences": "grpo", "constant": "dr_grpo"}


class TrlTrainer(Trainer):
    """The training loop with TRL as the learner. rate: the learning rate of the last step."""

    rate = 0.0

    def scored_under(self, step: int) -> Sampling:
        """For DPO the model's own distribution, whatever texts are sampled from: TRL's loss knows
        no other. GRPO's trainer is handed the temperature.
        """
        own = isinstance(self.learner.strategy, DPO)
        return Sampling() if own else super().scored_under(step)

    def metrics(self) -> Metrics:
        return {**super().metrics(), "lr": self.rate}

    def _learn(self, current: Round, hooks: Hooks) -> None:
        policy, strategy = self.policy, self.learner.strategy
        if not current.rollouts.learn.any():  # TRL takes no empty data
            return
        net, vocabulary = policy.thinker, policy.vocabulary
        assert isinstance(net, Model) and isinstance(vocabulary, TextVocabulary)
        words = copy.deepcopy(vocabulary.tokenizer)  # ours has no padding, which others see
        words.pad_token = words.pad_token or words.eos_token
        current.steps_done = 0
        with tempfile.TemporaryDirectory() as folder, net.attending():
            parts = {"model": net.model, "processing_class": words,
                     "callbacks": [_callback(self, hooks)], "optimizers": self._optimizer()}
            if isinstance(strategy, DPO):
                peer = self._dpo(strategy, current.rollouts, folder, parts)
            else:
                assert isinstance(strategy, GRPO)
                peer = self._grpo(strategy, current.rollouts, folder, parts)
            try:
                peer.train()
            finally:
                self.learner.policy.eval()
                if "ref" in getattr(net.model, "peft_config", {}):  # TRL's copy of the adapter
                    net.model.delete_adapter("ref")  # type: ignore[operator]

    def _whole(self, current: Round) -> bool:
        """What TRL has begun is not gone on with."""
        return True

    def _save(self, hooks: Hooks) -> None:
        """Save between rounds only."""
        if self.round is None:
            super()._save(hooks)

    def _optimizer(self) -> tuple[Any, Any]:
        """Our optimizer, and the schedule of its learning rate from here on."""
        (start, end), optimizer = self._schedule_position(), self.learner.optimizer
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = self.config.lr
        return optimizer, LambdaLR(
            optimizer, lambda step: learning_rate_share(self.config, start + step, end))

    def _arguments(self, folder: str) -> dict[str, Any]:
        """Arguments that all of TRL's trainers take."""
        config, steps = self.config, self.config.train_gradient_accumulation_steps
        return {"output_dir": folder, "learning_rate": config.lr, "logging_steps": 1,
                "gradient_accumulation_steps": steps, "gradient_checkpointing": False,
                "max_grad_norm": config.grad_clip or math.inf, "report_to": [],
                "bf16": uses_bfloat16(config.dtype, self.device),
                "use_cpu": self.device.type == "cpu", "save_strategy": "no", "disable_tqdm": True,
                "seed": int(torch.randint(2**31, (), generator=self.generator)),
                "dataloader_pin_memory": self.device.type == "cuda"}

    def _dpo(self, strategy: DPO, rollouts: Rollouts, folder: str, parts: dict[str, Any]) -> Any:
        """TRL's DPO trainer, for pairs that have reference log-probabilities already."""
        trl, config, trainer = _trl(), strategy, self.config

        class Given(trl.DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
                return dataset  # ours is tokenized already

        losses = [LOSSES[config.objective], *(["sft"] if config.likelihood else [])]
        arguments = trl.DPOConfig(
            **self._arguments(folder), num_train_epochs=trainer.internal_epochs,
            per_device_train_batch_size=trainer.train_batch_size, beta=config.beta,
            loss_type=losses, loss_weights=[1.0, config.likelihood][:len(losses)],
            max_length=None, disable_dropout=False)
        data = library("datasets").Dataset.from_list(pairs_of(rollouts))
        peer = Given(args=arguments, train_dataset=data, **parts)
        peer.precompute_ref_logps = True  # they are in the data
        return peer

    def _grpo(self, strategy: GRPO, rollouts: Rollouts, folder: str, parts: dict[str, Any]) -> Any:
        """TRL's trainer of a round, whose rollouts and rewards are there already. TRL takes whole
        micro-batches: questions beyond the last one are left out.
        """
        trl, config, trainer = _trl(), strategy, self.config
        samples, size = rollouts.samples, min(trainer.train_batch_size, len(rollouts.problems))
        count = len(rollouts.problems) // size
        arguments = self._arguments(folder)
        arguments["gradient_accumulation_steps"] = min(
            trainer.train_gradient_accumulation_steps, count)
        found = trl.GRPOConfig(
            **arguments, num_train_epochs=1, num_iterations=trainer.internal_epochs,
            per_device_train_batch_size=size * samples, steps_per_generation=count,
            num_generations=samples, max_completion_length=self.policy.rules.tokens,
            temperature=self.source.sampling(self.progress.step).temperature or 1.0, beta=0.0,
            epsilon=strategy.clip_at(self.progress.step), epsilon_high=config.clip_high,
            loss_type=MEANS[config.normalise], scale_rewards=config.scale, shuffle_dataset=False,
            disable_dropout=False)
        data = [{"prompt": str(number)} for number in range(count * size)]
        return trl.GRPOTrainer(
            args=found, train_dataset=library("datasets").Dataset.from_list(data),
            rollout_func=lambda prompts, _: _written(rollouts, list(map(int, prompts))),
            reward_funcs=lambda completions, reward, **_: reward, **parts)


def _written(rollouts: Rollouts, numbers: list[int]) -> dict[str, Any]:
    """The rollouts of questions by number, as TRL's rollout function gives them: a row for every
    number, or, where none is named twice, a group.
    """
    samples, seen = rollouts.samples, dict.fromkeys(numbers, 0)
    if len(seen) == len(numbers):
        numbers = [number for number in numbers for _ in range(samples)]
    rows = []
    for number in numbers:
        rows.append(number * samples + seen[number] % samples)
        seen[number] += 1
    questions = tokens_of(rollouts.problems.question, rollouts.problems.pad)
    thoughts = tokens_of(rollouts.thought[:, :-1], rollouts.problems.pad)
    return {"prompt_ids": [questions[row // samples] for row in rows],
            "completion_ids": [thoughts[row] for row in rows],
            "logprobs": [rollouts.logprobs[row, :len(thoughts[row])].tolist() for row in rows],
            "reward": [float(rollouts.total_reward[row]) for row in rows]}


def _trl() -> Any:
    try:
        return library("trl")
    except ImportError:
        raise UserError("trainer.engine=trl: found no package trl; legal: pip install trl, or "
                        "trainer.engine=ponder") from None


def _callback(trainer: TrlTrainer, hooks: Hooks) -> Any:
    """Counts each of TRL's steps, logs and evaluates when due, and stops TRL when we stop."""
    net = trainer.policy.thinker

    class Callback(library().TrainerCallback):
        def __init__(self) -> None:
            self.started = time.perf_counter()

        def on_pre_optimizer_step(self, *arguments: Any, **more: Any) -> None:
            trainer.rate = trainer.learner.optimizer.param_groups[0]["lr"]

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float],
                   **more: Any) -> None:
            current, progress = trainer.round, trainer.progress
            if "loss" not in logs or current is None:
                return
            progress.step, current.steps_done = progress.step + 1, current.steps_done + 1
            progress.seconds += time.perf_counter() - self.started
            losses = {ours: torch.tensor(float(logs[theirs])) for theirs, ours in NAMES.items()
                      if theirs in logs}
            losses["skipped"] = (~losses["loss"].isfinite()).float()
            trainer.learner.skipped = (trainer.learner.skipped + 1) * losses["skipped"]
            trainer.recent = {**losses, **trainer.collector.metrics}
            with net.attending(NAME):  # type: ignore[operator]
                trainer._after_step(hooks, [], losses)
            self.started = time.perf_counter()
            control.should_training_stop = trainer.finished() or hooks.stop_requested()

    return Callback()
