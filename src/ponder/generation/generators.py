"""What a checkpoint generates: completions of a text, or a thought and an answer to a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ponder.config.errors import UserError
from ponder.config.running import GenerateConfig
from ponder.core.math import GREEDY, Sampling
from ponder.core.types import Problems
from ponder.generation.contexts import UNLIMITED, DecodingContext, ThinkingContext
from ponder.generation.decoding import (
    OPEN,
    BeamSearch,
    Completion,
    Step,
    StreamDecoder,
    beam_search,
    best_first,
    completions_of,
    sample_steps,
)
from ponder.models.policies.base import Policy
from ponder.rollouts.latent import numbers, vectors
from ponder.tokenizers.pieces import PieceVocabulary
from ponder.tokenizers.vocabulary import TextVocabulary

Token = tuple[int, float]  # (id, log-probability in nats)
Turn = tuple[str, str]  # (role, text)


def sampling_of(config: GenerateConfig) -> Sampling:
    return Sampling(config.temperature, config.top_k, config.top_p)


def search_of(config: GenerateConfig) -> BeamSearch:
    return BeamSearch(config.beams, config.length_penalty, config.stopping)


class Generator:
    """Generates from prompts, whatever the checkpoint is.

    has_memory: whether a conversation's earlier lines are part of the next prompt.
    has_chat_template: whether prompts are dialogues of turns.
    limit: tokens that the model sees at once; limited_by: what it is that is limited.
    ends: tokens that end a completion.
    """

    has_memory = True
    has_chat_template = False
    limit: int
    limited_by = "positions of the model"
    ends: tuple[int, ...] = ()

    def prompt(self, text: str) -> list[int]:
        """A prompt as tokens. Raises `UserError` for a text that the model cannot read."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Text as tokens, none added. Raises `UserError` for characters that have none."""
        raise NotImplementedError

    def dialogue(self, turns: list[Turn]) -> list[int]:
        """Tokens of a dialogue up to where the model writes, by its chat template."""
        raise NotImplementedError

    def decode(self, tokens: list[int]) -> str:
        raise NotImplementedError

    def decoder(self, prompt: list[int]) -> StreamDecoder:
        """Decoder of what is generated after a prompt; a chat template may have opened a thought.
        """
        thinking = self.decode(prompt[-8:]).rstrip().endswith(OPEN)
        return StreamDecoder(self.decode, thinking, self.is_separate, self.annotation)

    def is_separate(self, token: int) -> bool:
        """Whether a token is decoded by itself: a thought among the words of a text."""
        return False

    def annotation(self, number: int) -> str:
        """A note about the n-th token of the last completion, or ""."""
        return ""

    def scored_tokens(self, tokens: list[int]) -> list[int]:
        """Those of a completion's tokens that its log-probability counts, and that a conversation
        continues from; the others are thoughts that are no part of the text.
        """
        return tokens

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        """One sampled completion, token by token."""
        raise NotImplementedError

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Completion]:
        """`config.samples` sampled completions."""
        found = []
        for _ in range(config.samples):
            tokens, logprobs = zip(*self.stream(prompt, config, random), strict=True)
            found.append(Completion(list(tokens), sum(logprobs), True))
        return found

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Completion]:
        """The results of a beam search, the best first."""
        raise NotImplementedError

    @property
    def truncated(self) -> bool:
        """Whether the last text was longer than `limit`."""
        return False


class TextGenerator(Generator):
    """A language model that continues a text; with a chat template, a prompt is a user's turn."""

    def __init__(self, context: DecodingContext,
                 vocabulary: PieceVocabulary | TextVocabulary) -> None:
        self.context, self.vocabulary = context, vocabulary
        self.limit, self.ends = context.limit, context.ends
        self.has_chat_template = vocabulary.chat

    @property
    def truncated(self) -> bool:
        return self.context.truncations > 0

    def encode(self, text: str) -> list[int]:
        unknown = self.vocabulary.unknown(text)
        if unknown:
            raise UserError(f"prompt: found {unknown!r}, which the model has never read; legal: "
                            f"{self.vocabulary.characters!r}")
        return self.vocabulary.encode(text)

    def prompt(self, text: str) -> list[int]:
        """An empty prompt stands for the beginning of a text."""
        if self.has_chat_template:
            tokens = self.dialogue([("user", text)])
        else:
            self.encode(text)
            tokens = self.vocabulary.opening(text)
        if len(tokens) > self.limit:
            shown = text[:40].replace("\n", "\\n") + "..." * (len(text) > 40)
            raise UserError(f"prompt={shown}: found {len(tokens)} tokens; legal: at "
                            f"most {self.limit}, the {self.limited_by}")
        return tokens

    def dialogue(self, turns: list[Turn]) -> list[int]:
        return self.vocabulary.prompt(turns)

    def decode(self, tokens: list[int]) -> str:
        return self.vocabulary.text(tokens)

    def is_separate(self, token: int) -> bool:
        return self.vocabulary.is_thought(token)

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        for _, token, logprob in self._steps(prompt, config, 1, random):
            yield int(token), float(logprob)

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Completion]:
        steps = self._steps(prompt, config, config.samples, random)
        return completions_of(steps, config.samples, self.ends)

    def _steps(self, prompt: list[int], config: GenerateConfig, samples: int,
               random: torch.Generator) -> Iterator[Step]:
        return sample_steps(self.context, prompt, sampling_of(config), samples, config.tokens,
                            random)

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Completion]:
        return beam_search(self.context, prompt, search_of(config), config.tokens)


class ThinkingTextGenerator(TextGenerator):
    """A language model that thinks before each token of a text.

    Thoughts are sampled as the tokens are. A completion holds each before the token it was made
    for; they are no part of the text: log-probability, score and length are those of the text's own
    tokens, each given its thought. Beam search is over the text's own tokens, with the most likely
    thought of each beam.
    """

    context: ThinkingContext
    limited_by = "positions of the model that a thought leaves"

    def scored_tokens(self, tokens: list[int]) -> list[int]:
        return [token for token in tokens if not self.is_separate(token)]

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        for _, token, logprob in self._steps(prompt, config, 1, random):
            yield from ((word, 0.0) for word in self.context.thought)
            yield int(token), float(logprob)

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Completion]:
        return [self._with_thoughts(text, number)
                for number, text in enumerate(super().sample(prompt, config, random))]

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Completion]:
        self.context.prepare(GREEDY)
        return [self._with_thoughts(text) for text in super().search(prompt, config)]

    def _steps(self, prompt: list[int], config: GenerateConfig, samples: int,
               random: torch.Generator) -> Iterator[Step]:
        seed = int(torch.randint(2**62, (), generator=random))
        self.context.prepare(sampling_of(config), samples, seed)
        return super()._steps(prompt, config, samples, random)

    def _with_thoughts(self, text: Completion, number: int = 0) -> Completion:
        """The n-th of the texts that were begun, with its thoughts."""
        thoughts = self.context.thoughts(text.tokens, number)
        pairs = zip(thoughts, text.tokens, strict=True)
        return replace(text, tokens=[*chain.from_iterable(
            [*thought, token] for thought, token in pairs)])


class QuestionGenerator(Generator):
    """Thinker and answerer of a toy task: a question gets a thought, then an answer.

    encode_question turns a typed question into (tokens, number of tokens of its answer). The two
    networks have a context each, or share one where they are one network.

    A thought of vectors is computed, not chosen: a question has one, whatever is sampled, and
    log-probability, score and length are those of the answer alone. A vector is shown as the token
    that the thinker would most likely have written in its place, annotated with its first numbers.
    """

    has_memory = False

    def __init__(self, policy: Policy,
                 encode_question: Callable[[str], tuple[list[int], int]]) -> None:
        self.policy, self.encode_question = policy, encode_question
        self.limit = policy.thinker.positions or UNLIMITED
        end = policy.vocabulary.end
        self.thinker = DecodingContext(policy.thinker, policy.allowed, (end,))
        self.answerer = self.thinker if policy.answerer is policy.thinker else DecodingContext(
            policy.answerer, slice(0, end), ())
        self.answer_length = 0
        self.of_vectors = policy.thinks_in_vectors
        self.numbers: list[str] = []  # of the vectors of the last thought

    def prompt(self, text: str) -> list[int]:
        tokens, self.answer_length = self.encode_question(text)
        return tokens

    def decode(self, tokens: list[int]) -> str:
        return self.policy.vocabulary.text(tokens).replace("#", "")  # #15 is 15 in one token

    def annotation(self, number: int) -> str:
        return self.numbers[number] if number < len(self.numbers) else ""

    def scored_tokens(self, tokens: list[int]) -> list[int]:
        return tokens[self.policy.rules.tokens + 1:] if self.of_vectors else tokens

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        sampling, thought = sampling_of(config), list[int]()
        if self.of_vectors:
            context, thought = self._computed(prompt)
            yield from ((token, 0.0) for token in thought)
        else:
            for token, logprob in self._sampled(prompt, sampling, random):
                thought.append(token)
                yield token, logprob
            context = self._to_answer()
        for _, token, logprob in sample_steps(context, self._answer_prompt(prompt, thought),
                                              sampling, 1, self.answer_length, random):
            yield int(token), float(logprob)

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Completion]:
        """The best thoughts, and the best answers after each; both together are ranked."""
        search, found = search_of(config), list[Completion]()
        if self.of_vectors:
            context, computed = self._computed(prompt)
            thoughts = [Completion(computed, 0.0, True)]
        else:
            context, thoughts = self.answerer, [Completion([], 0.0, False)]
            if self._to_think():
                thoughts = beam_search(self.thinker, prompt, search, self.policy.rules.tokens)
            self._to_answer()
        for thought in thoughts:
            tokens = [*thought.tokens, *[self.policy.vocabulary.end] * (not thought.ended)]
            for answer in beam_search(context, self._answer_prompt(prompt, tokens), search,
                                      self.answer_length):
                whole, logprob = [*tokens, *answer.tokens], thought.logprob + answer.logprob
                score = search.score(logprob, len(self.scored_tokens(whole)))
                found.append(Completion(whole, logprob, True, score))
        return best_first(found)[:search.beams]

    def _sampled(self, prompt: list[int], sampling: Sampling, random: torch.Generator,
                 ) -> Iterator[Token]:
        """A sampled thought, with an end that the rules add where the thinker chose none."""
        end, last = self.policy.vocabulary.end, -1
        if self._to_think():
            for _, token, logprob in sample_steps(self.thinker, prompt, sampling, 1,
                                                  self.policy.rules.tokens, random):
                last = int(token)
                yield last, float(logprob)
        if last != end:
            yield end, 0.0

    @torch.inference_mode()
    def _computed(self, prompt: list[int]) -> tuple[DecodingContext, list[int]]:
        """The answerer's context, which has read the vectors of a thought, and the tokens by which
        these are shown.
        """
        policy: Any = self.policy
        net = policy.answerer
        question = torch.tensor([prompt], device=net.device)
        problem = Problems(question, question[:, :0], None, policy.vocabulary.pad)
        own, shown = vectors(policy, problem)
        self.numbers = numbers(own[0])
        read: Tensor = policy.hear(net, own[0])
        if policy.rules.sees_question:
            read = torch.cat([net.embed(question)[0], read])
        return DecodingContext(net, slice(0, policy.vocabulary.end), (), read), shown[0].tolist()

    def _to_think(self) -> bool:
        """Let the thinker's context choose thought tokens; whether there are any thoughts."""
        self.thinker.words, self.thinker.ends = self.policy.allowed, (self.policy.vocabulary.end,)
        return self.policy.rules.tokens > 0

    def _to_answer(self) -> DecodingContext:
        """The answerer's context, which chooses ordinary tokens."""
        self.answerer.words, self.answerer.ends = slice(0, self.policy.vocabulary.end), ()
        return self.answerer

    def _answer_prompt(self, question: list[int], thought: list[int]) -> list[int]:
        """What the answerer reads as tokens; vectors, and a question before them, it has read."""
        rules = self.policy.rules
        if self.of_vectors or not rules.sees_thought:
            thought = thought[-1:]
        return [*question * (rules.sees_question and not self.of_vectors), *thought]
