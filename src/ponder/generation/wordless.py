"""A thinker of a task whose thought is vectors, which nobody chooses; then the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ponder.config.generation import GenerateConfig
from ponder.core.types import Problems
from ponder.generation.beams import beam_search
from ponder.generation.draws import collected, draws
from ponder.generation.language import Text
from ponder.generation.latent_contexts import VectorWindow
from ponder.generation.ponderer import Ponderer
from ponder.generation.speakers import Token, sampling_of, search_of
from ponder.models.policies.latent import Continuous
from ponder.rollouts.latent import numbers, vectors


class Wordless(Ponderer):
    """A question has one thought, whatever is sampled: log p, score and length are those of the
    answer alone. A vector is shown as the token that the thinker would likeliest have written in
    its place, with its first numbers beside it.
    """

    policy: Continuous

    def __init__(self, policy: Continuous, question: Callable[[str], tuple[list[int], int]],
                 ) -> None:
        super().__init__(policy, question)
        self.thought: list[int] = []
        self.numbers: list[str] = []

    def beside(self, number: int) -> str:
        return self.numbers[number] if number < len(self.numbers) else ""

    def counted(self, tokens: list[int]) -> list[int]:
        return tokens[self.policy.rules.tokens + 1:]

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        window = self._listener(prompt)
        yield from ((token, 0.0) for token in self.thought)  # nobody chose them
        for _, token, logprob in draws(window, self.thought[-1:], sampling_of(config), 1,
                                       self.answer_length, random):
            yield int(token), float(logprob)

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Text]:
        window = self._listener(prompt)
        steps = draws(window, self.thought[-1:], sampling_of(config), config.samples,
                      self.answer_length, random)
        return [self._whole(text) for text in collected(steps, config.samples, window.ends)]

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Text]:
        """The best answers behind the thought."""
        window = self._listener(prompt)
        return [self._whole(text) for text in beam_search(
            window, self.thought[-1:], search_of(config), self.answer_length)]

    def _whole(self, answer: Text) -> Text:
        """An answer with the thought before it."""
        return replace(answer, tokens=[*self.thought, *answer.tokens], ended=True)

    @torch.inference_mode()
    def _listener(self, prompt: list[int]) -> VectorWindow:
        """Think: the answerer, which has heard the thought and lacks end-of-thought."""
        policy, net = self.policy, self.policy.answerer
        question = torch.tensor([prompt], device=net.head.device)
        problem = Problems(question, question[:, :0], None, policy.vocabulary.pad)
        own, shown = vectors(policy, problem)
        self.thought, self.numbers = shown[0].tolist(), numbers(own[0])
        heard: Tensor = policy.hear(net, own[0])
        if policy.rules.sees_question:
            heard = torch.cat([net.embed(question)[0], heard])
        return VectorWindow(net, slice(0, policy.vocabulary.end), heard)
