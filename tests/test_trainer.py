"""The loop: gradients that do not depend on batching, and runs that do not depend on luck."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import generator, make_policy, make_task
from ponder.checkpoint import weights_sha256
from ponder.config.rollouts import SamplerConfig
from ponder.config.running import TrainerConfig
from ponder.config.strategies import Grpo, Reinforce, Star
from ponder.rewards import Reward
from ponder.rollout import Sampler
from ponder.strategies import GRPO, REINFORCE, STaR, Strategy
from ponder.trainer import Hooks, Trainer, learning_rate_share

STRATEGIES = {"reinforce": REINFORCE(Reinforce()), "grpo": GRPO(Grpo()), "star": STaR(Star())}


def trainer_of(strategy: Strategy, gold: bool = False, **changes) -> Trainer:
    torch.manual_seed(0)
    task = make_task(max=10, answer="digits", gold="digits")
    policy = make_policy(task, tokens=2, dtype=torch.float64)
    config = replace(TrainerConfig(max_steps=3, train_batch_size=16, warmup=1), **changes)
    return Trainer(config, task, policy, Sampler(SamplerConfig(samples=4)),
                   Reward({"log_likelihood": 1.0}), strategy, lambda step: 0.1, gold, 100,
                   torch.device("cpu"), generator())


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("gold", [False, True])
def test_micro_batches_do_not_change_the_gradient(name: str, gold: bool) -> None:
    gradients = []
    for size, accumulate in ((16, 1), (8, 2), (1, 16), (5, 4)):
        trainer = trainer_of(STRATEGIES[name], gold, train_batch_size=size, grad_clip=0.0,
                             train_gradient_accumulation_steps=accumulate, gen_batch_size=16)
        rollouts = trainer.collect()
        (batch,) = trainer.minibatches(rollouts)
        tokens, rows = trainer.denominators(batch)
        for micro in batch:
            trainer.losses(trainer.score(micro), micro, tokens, rows)["loss"].backward()
        gradients.append([p.grad.clone() for p in trainer.policy.parameters()
                          if p.grad is not None])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            assert torch.allclose(a, b, atol=1e-9)


def test_minibatches_cover_every_group_once_an_epoch() -> None:
    trainer = trainer_of(STRATEGIES["star"], train_batch_size=3, gen_batch_size=10,
                         train_gradient_accumulation_steps=2, internal_epochs=2)
    rollouts = trainer.collect()
    batches = list(trainer.minibatches(rollouts))
    assert [sum(len(m.problems) for m in batch) for batch in batches] == [6, 4, 6, 4]
    seen = torch.cat([m.thought for batch in batches[:2] for m in batch])
    assert torch.equal(seen.sort(0).values, rollouts.thought.sort(0).values)


def test_same_seed_same_weights() -> None:
    hashes = set()
    for _ in range(2):
        trainer = trainer_of(STRATEGIES["reinforce"])
        torch.manual_seed(5)
        trainer.fit(Hooks(lambda *_: None, lambda _: 0.0, lambda _: None))
        hashes.add(weights_sha256(trainer.policy))
    assert len(hashes) == 1


def test_loop_stops_validates_and_saves_when_due() -> None:
    called: list[tuple[str, int]] = []
    hooks = Hooks(lambda p, _: called.append(("log", p.step)),
                  lambda p: called.append(("validate", p.step)) or 0.0,
                  lambda p: called.append(("save", p.step)))
    trainer_of(STRATEGIES["star"], max_steps=5, log_every_n_steps=2, val_every_n_steps=2,
               save_every_n_steps=4).fit(hooks)
    assert called == [("log", 1), ("log", 2), ("validate", 2), ("log", 4), ("validate", 4),
                      ("save", 4), ("validate", 5), ("save", 5)]


def test_target_accuracy_ends_the_run() -> None:
    trainer = trainer_of(STRATEGIES["star"], max_steps=50, val_every_n_steps=2,
                         target_accuracy=0.9)
    progress = trainer.fit(Hooks(lambda *_: None, lambda p: p.step / 4, lambda _: None))
    assert (progress.step, progress.accuracy) == (4, 1.0)


def test_no_steps_only_validates() -> None:
    called: list[str] = []
    hooks = Hooks(lambda *_: None, lambda _: called.append("validate") or 0.5,
                  lambda _: called.append("save"))
    progress = trainer_of(STRATEGIES["star"], max_epochs=0).fit(hooks)
    assert (progress.step, called) == (0, ["validate", "save"])


def test_single_batch_repeats_its_questions() -> None:
    trainer = trainer_of(STRATEGIES["star"], single_batch=True)
    first, second = trainer.collect(), trainer.collect()
    assert torch.equal(first.problems.question, second.problems.question)


def test_learning_rate_shapes_by_hand() -> None:
    def share(step: int, decay: str, end: int = 100) -> float:
        config = TrainerConfig(max_steps=100, warmup=10, lr_decay=decay, lr_end=0.1, cooldown=20)
        return learning_rate_share(config, step, end)

    assert share(0, "constant") == pytest.approx(0.1)
    assert share(50, "constant") == 1.0
    assert share(50, "linear") == pytest.approx(0.5)
    assert share(99, "linear") == pytest.approx(0.1)
    assert share(50, "cosine") == pytest.approx(0.1 + 0.9 * 0.5)
    assert [share(s, "wsd") for s in (50, 80, 90)] == pytest.approx([1.0, 1.0, 0.5])
    assert share(50, "wsd", end=60) == pytest.approx(0.5)
