"""Thinker and answerer of a task: a question gets a thought, then an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ponder.config.generation import GenerateConfig
from ponder.generation.beams import beam_search
from ponder.generation.contexts import OwnWindow
from ponder.generation.draws import draws
from ponder.generation.language import Text
from ponder.generation.speakers import Speaker, Token, sampling_of, search_of
from ponder.models.policies.question import Policy


class Ponderer(Speaker):
    """Thinker and answerer of a task: a thought, then the answer.

    question makes tokens of a typed question, and says how many the answer has. The two have a
    window each, or share one where they are one network.
    """

    talks = False

    def __init__(self, policy: Policy, question: Callable[[str], tuple[list[int], int]]) -> None:
        self.policy, self.question = policy, question
        self.limit = policy.thinker.shape.positions
        end = policy.vocabulary.end
        self.thinker = OwnWindow(policy.thinker, policy.allowed, (end,))
        self.answerer = self.thinker if policy.answerer is policy.thinker else OwnWindow(
            policy.answerer, slice(0, end), ())
        self.answer_length = 0

    def prompt(self, text: str) -> list[int]:
        tokens, self.answer_length = self.question(text)
        return tokens

    def decode(self, tokens: list[int]) -> str:
        return self.policy.vocabulary.text(tokens).replace("#", "")  # #15 is 15 in one token

    def stream(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> Iterator[Token]:
        sampling, thought = sampling_of(config), list[int]()
        if self._think():
            for _, token, logprob in draws(self.thinker, prompt, sampling, 1,
                                           self.policy.rules.tokens, random):
                thought.append(int(token))
                yield thought[-1], float(logprob)
        end = self.policy.vocabulary.end
        if thought[-1:] != [end]:
            thought.append(end)
            yield end, 0.0  # nobody chose it
        for _, token, logprob in draws(self._answer(), self._seen(prompt, thought), sampling, 1,
                                       self.answer_length, random):
            yield int(token), float(logprob)

    def sample(self, prompt: list[int], config: GenerateConfig, random: torch.Generator,
               ) -> list[Text]:
        found = []
        for _ in range(config.samples):
            tokens, logprobs = zip(*self.stream(prompt, config, random), strict=True)
            found.append(Text(list(tokens), sum(logprobs), True))
        return found

    def search(self, prompt: list[int], config: GenerateConfig) -> list[Text]:
        """The best thoughts, and behind each the best answers; both together are what is ranked."""
        search, thoughts, found = search_of(config), [Text([], 0.0, False)], list[Text]()
        if self._think():
            thoughts = beam_search(self.thinker, prompt, search, self.policy.rules.tokens)
        for thought in thoughts:
            tokens = [*thought.tokens, *[self.policy.vocabulary.end] * (not thought.ended)]
            for answer in beam_search(self._answer(), self._seen(prompt, tokens), search,
                                      self.answer_length):
                whole, logprob = [*tokens, *answer.tokens], thought.logprob + answer.logprob
                found.append(Text(whole, logprob, True, search.score(logprob, len(whole))))
        return sorted(found, key=lambda text: -(text.score or 0.0))[:search.beams]

    def _think(self) -> bool:
        """Make ready for a thought; whether there are any."""
        self.thinker.words, self.thinker.ends = self.policy.allowed, (self.policy.vocabulary.end,)
        return self.policy.rules.tokens > 0

    def _answer(self) -> OwnWindow:
        """The window of the answerer, whose words are the ordinary ones."""
        self.answerer.words, self.answerer.ends = slice(0, self.policy.vocabulary.end), ()
        return self.answerer

    def _seen(self, question: list[int], thought: list[int]) -> list[int]:
        """What the answerer sees."""
        rules = self.policy.rules
        return [*question * rules.sees_question,
                *(thought if rules.sees_thought else thought[-1:])]
