"""The loop: gradients that do not depend on batching, and runs that do not depend on luck."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ponder.config.running import TrainerConfig
from ponder.core.math import Sampling
from ponder.training.checkpoint import weights_sha256
from ponder.training.collector import minibatches
from ponder.training.learner import learning_rate_share
from ponder.training.trainer import Hooks
from support.players import STRATEGIES, gradients, padded_left, trainer_of


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("gold", [False, True])
def test_micro_batches_do_not_change_the_gradient(name: str, gold: bool) -> None:
    found = []
    for size, accumulate in ((16, 1), (8, 2), (1, 16), (5, 4)):
        trainer = trainer_of(name, gold, train_batch_size=size, grad_clip=0.0, gen_batch_size=16,
                             train_gradient_accumulation_steps=accumulate)
        (batch,) = minibatches(trainer.collect(), trainer.config, trainer.generator)
        found.append(gradients(trainer, batch))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, value in found[0].items():
            assert torch.allclose(value, other[key], atol=1e-9), key


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_padding_does_not_change_the_gradient(name: str) -> None:
    """Padding of questions on the left, of thoughts on the right."""
    trainer = trainer_of(name, grad_clip=0.0)
    rollouts = trainer.collect()
    expected = gradients(trainer, [rollouts])
    wide = replace(rollouts, problems=padded_left(rollouts.problems, 3))
    pad = rollouts.problems.pad
    longer = {key: torch.nn.functional.pad(value, (0, 2)) for key, value in vars(rollouts).items()
              if isinstance(value, torch.Tensor) and value.dim() == 2 and key != "thought"}
    long = replace(rollouts, thought=torch.nn.functional.pad(rollouts.thought, (0, 2), value=pad),
                   **longer)
    for other in (wide, *([] if name[-2:] == "kl" else [long])):  # constant: over the longest
        found = gradients(trainer, [other])
        for key, value in expected.items():
            assert torch.allclose(value, found[key], atol=1e-9), key


def test_minibatches_cover_every_group_once_an_epoch() -> None:
    trainer = trainer_of("star", train_batch_size=3, gen_batch_size=10,
                         train_gradient_accumulation_steps=2, internal_epochs=2)
    rollouts = trainer.collect()
    batches = list(minibatches(rollouts, trainer.config, trainer.generator))
    assert [sum(len(m.problems) for m in batch) for batch in batches] == [6, 4, 6, 4]
    seen = torch.cat([m.thought for batch in batches[:2] for m in batch])
    assert torch.equal(seen.sort(0).values, rollouts.thought.sort(0).values)


def test_a_round_is_scored_under_its_own_distribution() -> None:
    """A temperature that falls meanwhile makes no ratio: without steps the policy is the same."""
    trainer = trainer_of("ppo", lr=0.0, train_batch_size=4, gen_batch_size=8)
    temperatures = [1.0, 0.5, 0.25]
    trainer.source.sampling = lambda step: Sampling(temperatures[step])  # type: ignore
    rollouts = trainer.collect()
    assert rollouts.under == Sampling(1.0)
    kept = [trainer.step(batch) for batch in minibatches(rollouts, trainer.config,
                                                         trainer.generator)]
    assert len(kept) == 2 and all(float(losses["kl_old"]) < 1e-9 for losses in kept)


def test_same_seed_same_weights() -> None:
    hashes = set()
    for _ in range(2):
        trainer = trainer_of("reinforce")
        torch.manual_seed(5)
        trainer.fit(Hooks(lambda *_: None, lambda _: 0.0, lambda _: None))
        hashes.add(weights_sha256(trainer.policy))
    assert len(hashes) == 1


def test_loop_stops_validates_and_saves_when_due() -> None:
    called: list[tuple[str, int]] = []
    hooks = Hooks(lambda p, _: called.append(("log", p.step)),
                  lambda p: called.append(("validate", p.step)) or 0.0,
                  lambda p: called.append(("save", p.step)))
    trainer_of("star", max_steps=5, log_every_n_steps=2, val_every_n_steps=2,
               save_every_n_steps=4).fit(hooks)
    assert called == [("log", 1), ("log", 2), ("validate", 2), ("log", 4), ("validate", 4),
                      ("save", 4), ("validate", 5), ("save", 5)]


def test_target_accuracy_ends_the_run() -> None:
    trainer = trainer_of("star", max_steps=50, val_every_n_steps=2,
                         target_accuracy=0.9)
    progress = trainer.fit(Hooks(lambda *_: None, lambda p: p.step / 4, lambda _: None))
    assert (progress.step, progress.accuracy) == (4, 1.0)


def test_no_steps_only_validates() -> None:
    called: list[str] = []
    hooks = Hooks(lambda *_: None, lambda _: called.append("validate") or 0.5,
                  lambda _: called.append("save"))
    progress = trainer_of("star", max_epochs=0).fit(hooks)
    assert (progress.step, called) == (0, ["validate", "save"])


def test_single_batch_repeats_its_questions() -> None:
    trainer = trainer_of("star", single_batch=True)
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
