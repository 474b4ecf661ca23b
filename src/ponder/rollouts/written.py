"""Rollouts as text: sampled a batch of questions at a time, kept on disk, never sampled twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ponder.config.errors import replacing
from ponder.config.players import SamplerConfig
from ponder.core.distributed import is_distributed, is_local, merge_parts
from ponder.core.math import GREEDY, Sampling, precise
from ponder.core.types import Problems, Rollouts
from ponder.models.fingerprint import fingerprint
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Policy
from ponder.rollouts import sampled
from ponder.rollouts.engines import Engine, Order
from ponder.rollouts.engines.handshake import Handshake
from ponder.rollouts.sampler import Sampler
from ponder.tokenizers.vocabulary import TextVocabulary


@dataclass
class Batch:
    """Batch `number` of a round, with its rollouts. cached: they were on disk already."""

    number: int
    rollouts: Rollouts
    seed: int
    cached: bool


@dataclass
class SamplingProgress:
    """How far a round is: `tokens` sampled so far and `rows` that have ended, of `total` rows with
    up to `room` tokens each; `cached` more rows were on disk already.
    """

    total: int
    room: int
    rows: int = 0
    tokens: int = 0
    cached: int = 0

    @property
    def share(self) -> float:
        """How much of the work is done, at least."""
        todo = self.total - self.cached
        return max(self.rows / todo, self.tokens / (todo * max(self.room, 1))) if todo else 1.0


class Listener:
    """Is told how far a round is; this one ignores it."""

    def sampling(self, progress: SamplingProgress) -> None:
        """A round has begun, or a token of every unfinished row has been sampled."""

    def sampled(self, batch: Batch) -> None:
        """A batch is complete. They come in order."""

    def told(self, line: str) -> None:
        """Something is to be known about what was read."""


class Written(Sampler):
    """Samples text, `batch` questions at a time, at most `at_once` rows side by side; greedily if
    `greedy`.

    A batch is determined by its questions, the weights, the sampler and the seed; one that `store`
    holds is not sampled again, so a round that was interrupted goes on at the batch it was at.

    model: what else decides how texts are written (files of the model, versions), judged: and how
    they are judged, as plain values. engine: who writes them; the first ones with new weights are
    compared with our own forward pass, by `handshake`.
    """

    def __init__(self, config: SamplerConfig, batch: int, at_once: int, store: Store,
                 model: Any, greedy: bool = False, listener: Listener | None = None,
                 judged: Any = None, engine: Engine | None = None,
                 handshake: Handshake | None = None) -> None:
        super().__init__(config)
        self.engine = engine or Engine()
        self.handshake = handshake or Handshake(self.engine.name)
        self.batch, self.at_once, self.store, self.model = batch, at_once, store, model
        self.judged = judged
        self.greedy, self.listener = greedy, listener or Listener()
        self.tokens = 0  # sampled in the last round, without those that were on disk

    def sampling(self, step: int) -> Sampling:
        return GREEDY if self.greedy else super().sampling(step)

    def metrics(self) -> dict[str, float]:
        return self.handshake.numbers

    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        seed, samples = int(torch.randint(2**31, (), generator=generator)), self.config.samples
        weights = fingerprint(policy.thinker)
        was_training = policy.training
        policy.eval()
        batches = torch.arange(len(problems), device=problems.question.device).split(self.batch)
        own = sum(len(part) for number, part in enumerate(batches) if is_local(number))
        progress = SamplingProgress(own * samples, policy.rules.tokens)
        self.listener.sampling(progress)
        whole = _zeros(policy, problems, samples)
        for number, part in enumerate(batches):
            if not is_local(number):
                continue
            found, cached = self._batch(policy, problems[part], self.sampling(step), seed + number,
                                        weights, progress)
            if not is_distributed():
                self.listener.sampled(Batch(number, found, seed + number, cached))
            start = number * self.batch * samples
            for all_rows, some in zip(whole, (found.thought, found.logprobs, found.answered),
                                      strict=True):
                assert some is not None
                all_rows[start:start + len(some)] = some
        policy.train(was_training)
        self.tokens = progress.tokens
        rollouts = sampled(problems, samples, *map(merge_parts, whole))
        if is_distributed():  # only now are those of the other processes there
            for number, part in enumerate(batches):
                self.listener.sampled(Batch(number, rollouts[part], seed + number, False))
        return rollouts

    def _batch(self, policy: Policy, problems: Problems, sampling: Sampling, seed: int,
               weights: str, progress: SamplingProgress) -> tuple[Rollouts, bool]:
        """The rollouts of some questions with their answers, and whether they were in the store."""
        samples, device = self.config.samples, problems.question.device
        net, words = _text_model(policy)
        identity = self.engine.identity()
        key = key_of(weights=weights, model=self.model, device=device.type,
                     question=_trimmed(problems), samples=samples,
                     room=policy.rules.tokens, sampling=asdict(sampling), seed=seed,
                     writable=[net.words, list(net.barred)], precision=_precision(policy), format=5,
                     ends=policy.ends, stops=words.stops,
                     **({} if identity is None else {"engine": identity}))
        found = self.store.load(key)
        cached = found is not None
        if found is None:
            found = self._write(policy, problems, sampling, seed, progress, weights)
            self.store.save(key, found)
        else:
            progress.cached += len(found["thought"])
            self.listener.sampling(progress)
        thought, logprobs = found["thought"].to(device), found["logprobs"].to(device)
        return sampled(problems, samples, thought, logprobs,
                       self._judged(policy, problems, thought, key)), cached

    def _write(self, policy: Policy, problems: Problems, sampling: Sampling, seed: int,
               progress: SamplingProgress, weights: str) -> dict[str, Tensor]:
        """New thoughts about some questions, and their log-probabilities."""
        def heard(tokens: int, rows: int) -> None:
            progress.tokens += tokens
            progress.rows += rows
            self.listener.sampling(progress)

        room, samples = policy.rules.tokens, self.config.samples
        if not room:  # without thoughts nothing is written
            rows = len(problems) * samples
            heard(0, rows)
            return {"thought": problems.question.new_full((rows, 1), policy.vocabulary.end),
                    "logprobs": torch.zeros(rows, 0, device=problems.question.device)}
        net, words = _text_model(policy)
        self.engine.hand_over(net, words, weights, lambda: heard(0, 0))
        thought, logprobs = self.engine.write(net, words, Order(
            problems, samples, room, sampling, seed, self.at_once, heard))
        if not self.engine.own:
            self.handshake.compare(policy, sampled(problems, samples, thought, logprobs), sampling,
                                   weights)
        return {"thought": thought, "logprobs": logprobs}

    @torch.no_grad()
    def _judged(self, policy: Policy, problems: Problems, thought: Tensor, key: str,
                ) -> Tensor:
        """(B, 3): the answers after thoughts that are in the store under a key. Stored beside them,
        so that an interruption loses none.
        """
        sees = [policy.rules.sees_question, policy.rules.sees_thought]
        asked = [dict(options=one.options, bridge=one.answer_prefix, sizes=one.option_sizes,
                      label=one.label) for one in (problems, *problems.alternatives())]
        key = key_of(thoughts=key, mode=policy.answer_mode, sees=sees, judged=self.judged,
                     **asked[0], **{f"also{i}": key_of(**one) for i, one in
                                    enumerate(asked[1:])})
        found = self.store.load(key)
        if found is None:
            found = {"answered": policy.judge_thoughts(problems, thought,
                                                       self.config.samples).float()}
            self.store.save(key, found)
        return found["answered"].to(thought.device)


def _text_model(policy: Policy) -> tuple[Model, TextVocabulary]:
    """The network that the engine decodes with, rows of different questions side by side; and its
    words.
    """
    net, words = policy.thinker, policy.vocabulary
    assert isinstance(net, Model), "the sources of other policies decode by themselves"
    assert isinstance(words, TextVocabulary)
    return net, words


def _precision(policy: Policy) -> list[str]:
    """The data types of the weights, and of matrix products."""
    device, kept = policy.thinker.device.type, policy.thinker.dtype
    mixed = torch.is_autocast_enabled(device)
    return [str(kept), str(torch.get_autocast_dtype(device) if mixed else kept)]


def _zeros(policy: Policy, problems: Problems, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Thoughts (B, K + 1), log-probabilities (B, K) and answers (B, 3) to be filled in."""
    rows, room, device = len(problems) * samples, policy.rules.tokens, problems.question.device
    logprobs = torch.zeros(rows, room, device=device, dtype=precise(policy.thinker.dtype))
    return (problems.question.new_zeros(rows, room + 1), logprobs,
            torch.zeros(rows, 3, device=device))


def _trimmed(problems: Problems) -> Tensor:
    """The questions without columns that are padding in all of them."""
    width = int((problems.question != problems.pad).sum(1).max())
    return problems.question[:, -width:]


class Store:
    """Files in a directory, each written whole or not at all; a damaged one counts as none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, key: str) -> dict[str, Tensor] | None:
        try:
            return load_file(self._path(key))
        except (OSError, SafetensorError):
            return None

    def save(self, key: str, tensors: dict[str, Tensor]) -> None:
        path = self._path(key)
        with replacing(path) as temporary:
            temporary.write_bytes(save({name: value.contiguous().cpu()
                                        for name, value in tensors.items()}))

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"


def key_of(**parts: Any) -> str:
    """The hash of plain values and tensors, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(parts.items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):  # the numbers, whatever their type
            digest.update(str(tuple(value.shape)).encode() + value.cpu().numpy().tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()
