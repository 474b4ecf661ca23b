"""What bench/gpu.py times: functions of no argument that sample, update or take a whole step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from common import Work as Job
from common import build_trainer
from ponder.core.math import Sampling
from ponder.core.types import Problems, Rollouts
from ponder.models.gpt2.layers import Shape
from ponder.models.gpt2.model import Init, Transformer
from ponder.models.policies.base import Policy, Rules
from ponder.models.policies.question import QuestionPolicy
from ponder.rollouts.sampler import sample
from ponder.tasks.toy.add import Add
from ponder.training.graph import WARM, Graphs, Recorder, record_cuda

SIZES = {"tiny (2 x 64)": (64, 2, 4, 512), "GPT-2 (12 x 768)": (768, 12, 12, 64)}
TOKENS, SAMPLES = 4, 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Work = Callable[[], object]


def build(size: str, device: torch.device, questions: int | None = None) -> tuple[Policy, Problems]:
    """A thinker with fixed thoughts, and a batch of questions on the device."""
    width, layers, heads, count = SIZES[size]
    task = Add(max=10_000, answer="digits", seed=0, thought_length=TOKENS, thoughts=10)
    shape = Shape(len(task.vocabulary), task.question_length + TOKENS + 2 + task.answer_length,
                  width, layers, heads, tied=False)
    torch.manual_seed(0)
    policy = QuestionPolicy(Transformer(shape, Init(*[0.05] * 5)), None, task.vocabulary,
                    Rules(TOKENS, stops=False))
    problems = task.sample(questions or count, torch.Generator().manual_seed(0))
    return policy.to(device), problems.to(device)


def to(rollouts: Rollouts, device: torch.device) -> Rollouts:
    return Rollouts(rollouts.problems.to(device), SAMPLES, rollouts.thought.to(device),
                    rollouts.chosen.to(device), rollouts.logprobs.to(device),
                    learn=rollouts.learn.to(device))


def think(policy: Policy, rollouts: Rollouts) -> Tensor:
    """Log-probabilities (B, K) of the thoughts."""
    return policy.think(rollouts, Sampling())[0]


def loss_of(policy: Policy, rollouts: Rollouts, credit: Tensor) -> Tensor:
    return -(credit * think(policy, rollouts)).mean()


def think_work(policy: Policy, rollouts: Rollouts, function=think) -> Callable[[], Tensor]:
    @torch.no_grad()
    def logprobs() -> Tensor:
        return function(policy, rollouts)

    return logprobs


def sample_work(policy: Policy, problems: Problems, dtype: torch.dtype) -> Work:
    device = problems.question.device

    def rollout() -> Rollouts:
        with torch.autocast(device.type, dtype, dtype != torch.float32, cache_enabled=False):
            return sample(policy, problems, SAMPLES, Sampling())

    return rollout


def update_work(policy: Policy, rollouts: Rollouts, dtype: torch.dtype, loss=loss_of) -> Work:
    """One optimizer step: forward, backward, clip, AdamW; nothing in it looks at the host."""
    device = rollouts.thought.device
    credit = torch.randn(rollouts.logprobs.shape, device=device)
    parameters = list(policy.thinker.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True,
                                  capturable=device.type == "cuda")

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, dtype != torch.float32, cache_enabled=False):
            value = loss(policy, rollouts, credit)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return update


def step_work(size: str, device: torch.device, dtype: str, record: Recorder | None = None) -> Work:
    """The framework's own loop as users run it: questions, sampling, reward, credit, update; with
    `record` its rounds and steps are replayed. Raises `RuntimeError` where that fails.
    """
    width, layers, heads, count = SIZES[size]
    graphs = Graphs(record)
    trainer = build_trainer(Job(count, SAMPLES, TOKENS, width, layers, heads), device.type, dtype,
                            graphs=graphs)

    def step() -> None:
        trainer.step([trainer.collect()])
        if graphs.failed:
            raise RuntimeError(graphs.failed)

    for _ in range(2 * WARM if record else 0):
        step()
    return step


def graphed(work: Callable[[], Tensor | object]) -> Callable[[], object]:
    """The work captured once as a CUDA graph; a call replays it and gives its (static) result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> object:
        graph.replay()
        return result

    return replay


def versions(size: str, device: torch.device, dtype: str) -> dict[tuple[str, str],
                                                                  Callable[[], Work]]:
    """(work, mode) -> what makes the function to time. Making it may compile or capture."""
    kind = DTYPES[dtype]

    @functools.cache
    def ready() -> tuple[Policy, Problems, Rollouts]:
        policy, problems = build(size, device)
        return policy, problems, sample(policy, problems, SAMPLES, Sampling())

    def sampling() -> Work:
        policy, problems, _ = ready()
        return sample_work(policy, problems, kind)

    def update(loss=loss_of) -> Work:
        policy, _, rollouts = ready()
        return update_work(policy, rollouts, kind, loss)

    found: dict[tuple[str, str], Callable[[], Work]] = {
        ("sample", "eager"): sampling,
        ("sample", "compiled"): lambda: torch.compile(sampling()),
        ("update", "eager"): update,
        ("update", "compiled"): lambda: update(torch.compile(loss_of)),
        ("whole step", "eager"): lambda: step_work(size, device, dtype)}
    if device.type == "cuda":
        found["sample", "graph"] = lambda: graphed(sampling())
        found["update", "graph"] = lambda: graphed(update())
        found["whole step", "graph"] = lambda: step_work(size, device, dtype, record_cuda)
    return found
