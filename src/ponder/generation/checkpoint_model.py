"""Open a checkpoint: as a generator for the terminal, or as a model that thinks and answers."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ponder.config.errors import UserError
from ponder.config.players import SamplerConfig
from ponder.config.registry import TASKS
from ponder.config.resolve import checkpoint_config
from ponder.config.running import GenerateConfig
from ponder.config.spine import Config, writes
from ponder.core.types import Problem, Problems
from ponder.generation.contexts import DecodingContext, ThinkingContext
from ponder.generation.decoding import ordinary_text
from ponder.generation.generators import (
    Generator,
    QuestionGenerator,
    TextGenerator,
    ThinkingTextGenerator,
)
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.choice import ChoicePolicy
from ponder.models.policies.question import ContinuousPolicy
from ponder.rollouts.latent import vectors
from ponder.rollouts.sampler import greedy
from ponder.rollouts.written import Store, Written
from ponder.tokenizers.pieces import FILE, PieceVocabulary, load_pieces
from ponder.training import build as builders
from ponder.training.build_policies import build_rules, position_policy, words_of_text
from ponder.training.checkpoint import load_model

Net = TypeVar("Net", bound=nn.Module)


# --- a model in Python --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """A question with the thought and the answer that a model gives it. thought is without its end
    token; log-probabilities are in nats, of the whole thought and of the answer after it.
    """

    question: str
    thought: str
    answer: str
    thought_logprob: float
    answer_logprob: float


class CheckpointModel:
    """A checkpoint that answers questions (`think`), or continues texts (`generate`)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def think(self, questions: list[str]) -> list[Reply]:
        """The most likely thought and answer for each question, as an evaluation gives them.

        Raises `UserError` where the checkpoint answers no questions, or a text is none of its task.
        """
        raise UserError(f"{self.config.model.name}: found a language model, which answers no "
                        "questions; legal: generate(prompt), or a checkpoint of a task with "
                        "questions")

    def score(self, questions: list[str], answers: list[str]) -> float:
        """The share of questions that `think` answers with `answers`. Raises what it raises."""
        replies = self.think(questions)
        right = [reply.answer == str(answer).strip()
                 for reply, answer in zip(replies, answers, strict=True)]
        return sum(right) / max(1, len(right))

    def generate(self, prompt: str, *, seed: int = 0, **options: Any) -> str:
        """One completion of a prompt, without its thoughts. options are the keys `generate.*`:
        tokens, temperature, top_k, top_p.

        Raises `UserError` for a prompt that the model cannot read.
        """
        return self.completions(prompt, seed=seed, **options)[0]

    def completions(self, prompt: str, *, seed: int = 0, **options: Any) -> list[str]:
        """`samples` completions of a prompt, or with `beams` the best of a beam search."""
        raise NotImplementedError


def load_checkpoint(path: str | Path, device: str = "cpu") -> CheckpointModel:
    """The model of a checkpoint directory, or of a Hugging Face model by its path or name.

    Raises `UserError` where there is none.
    """
    return model_of(checkpoint_config(str(path), device))


def model_of(config: Config) -> CheckpointModel:
    """The model that a configuration of a checkpoint names. Raises `UserError`."""
    task = TASKS[config.task.name].target
    hugging_face = config.model.kind == "hf"
    if "questions" not in task.offers or hugging_face != ("hf_model" in task.requires):
        return ContinuingModel(config)
    return ChoosingModel(config) if hugging_face else AnsweringModel(config)


class ContinuingModel(CheckpointModel):
    """A language model."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.generator = build_generator(config)

    def completions(self, prompt: str, *, seed: int = 0, **options: Any) -> list[str]:
        settings, random = GenerateConfig(**options), torch.Generator().manual_seed(seed)
        generator, tokens = self.generator, self.generator.prompt(prompt)
        found = (generator.search(tokens, settings)[:settings.samples] if settings.beams
                 else generator.sample(tokens, settings, random))
        return [ordinary_text(generator.decoder(tokens).all(one.tokens)) for one in found]


class AnsweringModel(CheckpointModel):
    """Thinker and answerer of a toy task."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        device = builders.build_device(config)
        self.task = builders.build_task(config)
        self.policy = _ready(config, builders.build_policy(config, self.task), device)
        self.device = device

    def completions(self, prompt: str, *, seed: int = 0, **options: Any) -> list[str]:
        raise UserError(f"{self.config.model.name}: found a model that answers questions; legal: "
                        "think(questions), or a checkpoint of a language model")

    @torch.inference_mode()
    def think(self, questions: list[str]) -> list[Reply]:
        """The most likely thought and answer for each question, as an evaluation gives them."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)  # of equal shapes
        encoded = [self.task.encode_question(question) for question in questions]
        for index, (tokens, answer_length) in enumerate(encoded):
            groups[len(tokens), answer_length].append(index)
        found: dict[int, Reply] = {}
        for (_, answer_length), indices in groups.items():
            tokens = torch.tensor([encoded[index][0] for index in indices], device=self.device)
            replies = self._think([questions[index] for index in indices], tokens, answer_length)
            found |= zip(indices, replies, strict=True)
        return [found[index] for index in range(len(questions))]

    def _think(self, questions: list[str], tokens: torch.Tensor, answer_length: int) -> list[Reply]:
        """Replies to questions with tokens (P, Q), all of one length."""
        policy, vocabulary = self.policy, self.policy.vocabulary
        problems, read, shown, thought_logprobs = self._thoughts(tokens, answer_length)
        answers = policy.reply(problems, read)
        given = replace(problems, answer=answers, asked_answer=answers[:, None])
        logprob, _ = policy.answer(given, read)
        columns = zip(questions, shown.tolist(), answers.tolist(), thought_logprobs.tolist(),
                      logprob.tolist(), strict=True)
        return [Reply(question,
                      vocabulary.text([token for token in thought if token != policy.end]),
                      vocabulary.text(answer).replace("#", ""), thought_logprob, answer_logprob)
                for question, thought, answer, thought_logprob, answer_logprob in columns]

    def _thoughts(self, tokens: torch.Tensor, answer_length: int,
                  ) -> tuple[Problems, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(the problems of questions (P, Q) without answers, their most likely thoughts as the
        answerer reads them and as tokens, the log-probabilities (P,) of these).
        """
        policy, pad = self.policy, self.policy.vocabulary.pad
        empty = tokens.new_full((len(tokens), answer_length), pad)
        problems = self.task.completed(Problems(tokens, empty, None, pad,
                                                padded=bool((tokens == pad).any())))
        if policy.thinks_in_vectors:
            none = torch.full((len(tokens),), math.nan)  # a vector has no probability
            return problems, *vectors(cast(ContinuousPolicy, policy), problems), none
        rollouts = greedy(policy, problems)
        return problems, rollouts.thought, rollouts.thought, rollouts.logprobs.sum(1)

    @torch.inference_mode()
    def likelihoods(self, pairs: list[tuple[str, str]]) -> list[tuple[float, bool, str]]:
        """For each (question, answer) log p of the answer after the most likely thought in nats,
        whether it is the most likely answer, and that thought. Raises `UserError` for a text that
        is none of the task.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)  # of equal shapes
        asked = [self.task.encode_question(question) for question, _ in pairs]
        answers = [self._answer(*pair, length) for pair, (_, length) in
                   zip(pairs, asked, strict=True)]
        for index, ((tokens, _), answer) in enumerate(zip(asked, answers, strict=True)):
            groups[len(tokens), len(answer)].append(index)
        found: dict[int, tuple[float, bool, str]] = {}
        for indices in groups.values():
            tokens, answer = (torch.tensor(rows, device=self.device) for rows in (
                [asked[index][0] for index in indices], [answers[index] for index in indices]))
            problems, read, shown, _ = self._thoughts(tokens, answer.shape[1])
            given = replace(problems, answer=answer, asked_answer=answer[:, None])
            logprob, right = self.policy.answer(given, read)
            thoughts = [self.policy.vocabulary.text([token for token in row
                                                     if token != self.policy.end])
                        for row in shown.tolist()]
            found |= zip(indices, zip(logprob.tolist(), (right >= 1).tolist(), thoughts,
                                      strict=True), strict=True)
        return [found[index] for index in range(len(pairs))]

    def _answer(self, question: str, answer: str, length: int) -> list[int]:
        """The tokens of an answer. Raises `UserError` for one that the task cannot write."""
        question, answer = question.strip(), answer.strip()
        vocabulary: Any = self.policy.vocabulary
        encode = getattr(self.task, "encode_problems", None)
        with contextlib.suppress(ValueError, IndexError):
            if encode is None:
                tokens = [*map(vocabulary.words.index, answer)]
            else:
                tokens = encode([Problem(question, answer)]).answer[0].tolist()
            said = vocabulary.text(tokens).replace("#", "")
            same = {said, said[::-1]} & {answer.zfill(len(said))}
            if len(tokens) <= length and (same or not answer.isdecimal()):
                return [*tokens, *[vocabulary.pad] * (length - len(tokens))]
        raise UserError(f"answer {answer[:60]!r} to {question[:60]!r}: found no answer of task="
                        f"{self.config.task.name}; legal: at most {length} of its tokens")


class ChoosingModel(ContinuingModel):
    """A language model that answers questions, multiple-choice or free ones, after a written
    rationale; it also continues texts.
    """

    def __init__(self, config: Config) -> None:
        CheckpointModel.__init__(self, config)
        self.generator = _hugging_face_generator(config, builders.build_device(config))
        self.net: Any = self.generator.context.net
        self.vocabulary = words_of_text(config.model, config.scratch)

    @torch.inference_mode()
    def think(self, questions: list[str]) -> list[Reply]:
        """The greedy rationale and the answer for each question. Options stand on lines of their
        own below its text (`A. blue`), and the answer is the letter of one. It is "" where the
        rationale gives none, and has log-probability 0 where it is read from the rationale.
        """
        kind = TASKS[self.config.task.name].target
        asked = [kind.typed(text) for text in questions]
        if not asked:
            return []
        task = kind(self.config.task, self.vocabulary, questions=asked,
                    thinks=self.config.thinker.tokens > 0)
        policy = ChoicePolicy(self.net, self.vocabulary, build_rules(self.config),
                              self.config.task.answer, reads=task.judge)
        policy.requires_grad_(False).eval()
        limit, model = policy.thinker.positions, self.config.model.name
        if limit is not None:
            task.must_fit(limit, self.config.thinker.tokens,
                          f"{model}, which reads {limit} tokens at most")
        problems = task.test().to(policy.thinker.device)
        with tempfile.TemporaryDirectory() as directory:
            writer = Written(SamplerConfig(samples=1), 32, self.config.model.rows_at_once,
                             Store(Path(directory)), self.config.model.name, greedy=True)
            rollouts = writer.collect(policy, problems, 0)
        assert rollouts.answered is not None
        logprob, choice = rollouts.answered[:, 0], rollouts.answered[:, 2].long()
        if self.config.task.answer != "generated":
            total, score = policy.options(problems, rollouts.thought)
            choice = score.argmax(1)
            logprob = total.gather(1, choice[:, None])[:, 0]
        words, room = self.vocabulary, rollouts.thought.shape[1] - 1
        columns = zip(questions, asked, rollouts.thought.tolist(), choice.tolist(),
                      rollouts.logprobs.sum(1).tolist(), logprob.tolist(), strict=True)
        return [Reply(typed, text := words.text(thought), task.said(
                    question, number, text, words.truncated(thought, room)),
                      thought_logprob, answer_logprob)
                for typed, question, thought, number, thought_logprob, answer_logprob in columns]


# --- generators ---------------------------------------------------------------------------------


def build_generator(config: Config) -> Generator:
    """The generator of `model.name`: a model of Hugging Face, a GPT-2 on text, or the thinker and
    answerer of a toy task. Raises `UserError`.
    """
    path, device = Path(config.model.name), builders.build_device(config)
    if config.model.kind == "hf":
        return _hugging_face_generator(config, device)
    if (path / FILE).is_file():
        return _text_generator(config, path, device)
    config = _without_data(config)
    task = builders.build_task(config)
    policy = _ready(config, builders.build_policy(config, task), device)
    legal = "legal: ponder.load(...).think(questions), or action=evaluate"
    if task.from_left or policy.rules.from_end:
        found = f"task={config.task.name}" if task.from_left else "answerer.positions=from_end"
        raise UserError(f"model.name={path}: found {found}, whose positions a text that grows does "
                        f"not have; {legal}")
    if task.asks:
        raise UserError(f"model.name={path}: found thinker.asked={task.asks}, so its answers "
                        f"follow questions about thoughts, which a text does not ask; {legal}")
    return QuestionGenerator(policy, task.encode_question)


def _without_data(config: Config) -> Config:
    """Without the files of its task and its reference model, which only training needs."""
    if hasattr(config.task, "data"):
        config = replace(config, task=replace(config.task, data=None))
    return replace(config, model=replace(config.model, ref_name=None))


def _hugging_face_generator(config: Config, device: torch.device) -> TextGenerator:
    """With thoughts before each token where the model was trained with them."""
    of_text = "positions" in TASKS[config.task.name].offers
    if of_text and config.thinker.tokens:
        policy = _ready(config, position_policy(config), device)
        words: Any = policy.vocabulary
        ends = words.text_ends
        return ThinkingTextGenerator(ThinkingContext(policy, slice(0, words.plain), ends), words)
    vocabulary = load_vocabulary(config.model, closes=writes(config) == "both",
                                 scratch=config.scratch)
    written = vocabulary.plain if of_text else None  # a thinker without its thoughts
    net = load_text_model(config.model, len(vocabulary), written=written, scratch=config.scratch)
    net = _ready(config, net, device)
    return TextGenerator(DecodingContext(net, None, vocabulary.ends), vocabulary)


def _text_generator(config: Config, path: Path, device: torch.device) -> Generator:
    """A GPT-2 on text: with thoughts before each token, or among the words, where it was
    trained with them.
    """
    net, pieces = load_model(path), load_pieces(path)
    thoughts = net.shape.vocabulary - len(PieceVocabulary(pieces, 0))
    if thoughts < 0:
        raise UserError(f"model.name={path}: found {net.shape.vocabulary} tokens, fewer than its "
                        f"{FILE} names; legal: the two of one checkpoint")
    vocabulary = PieceVocabulary(pieces, thoughts)
    thinks, offers = config.thinker.tokens > 0, TASKS[config.task.name].offers
    among_words = thinks and "text" in offers and writes(config) == "both"
    words, ends = vocabulary.written(True, among_words), (vocabulary.end_of_text,)
    if "positions" not in offers or not thinks:
        return TextGenerator(DecodingContext(_ready(config, net, device), words, ends), vocabulary)
    policy = position_policy(config, net, vocabulary)
    return ThinkingTextGenerator(
        ThinkingContext(_ready(config, policy, device), words, ends), vocabulary)


def _ready(config: Config, net: Net, device: torch.device) -> Net:
    """A network on its device, for inference alone."""
    builders.use_threads(config, net)
    return net.to(device).requires_grad_(False).eval()
