"""How likely a checkpoint finds given texts, and how it goes on from them, with its thoughts: it
writes one about a context first, which nobody sees but itself.

A context is plain text, as lm-evaluation-harness makes it. `Scorer` reads it as it is. `Thinking`
puts it into the prompt that its task has: instruction, chat template, then the thought, and behind
it what asks for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from ponder.config.errors import UserError
from ponder.config.registry import TASKS
from ponder.config.running import GenerateConfig
from ponder.config.spine import Config
from ponder.core.math import GREEDY, Sampling, matmul_dtype
from ponder.core.types import Problems
from ponder.generation.checkpoint_model import AnsweringModel, ContinuingModel, model_of
from ponder.generation.contexts import UNLIMITED, ThinkingContext
from ponder.generation.generators import TextGenerator, ThinkingTextGenerator
from ponder.models.backbone import Backbone, rows_at_once
from ponder.models.huggingface.model import Model
from ponder.rollouts.engine import Writer
from ponder.tasks.base import padded
from ponder.tokenizers.vocabulary import TextVocabulary

Pair = tuple[str, str]  # (context, what follows it)
Score = tuple[float, bool]  # (log-probability in nats, whether it is what greedy decoding writes)
Progress = Callable[[int], Any]  # is told how many more are done


def ignored(done: int) -> None:
    """Nobody is told."""


def scorer_of(config: Config) -> Scorer | OfQuestions:
    """The scorer of a checkpoint's configuration. Raises `UserError`."""
    model = model_of(config)
    if isinstance(model, AnsweringModel):
        return OfQuestions(model)
    assert isinstance(model, ContinuingModel) and isinstance(model.generator, TextGenerator)
    if isinstance(model.generator, ThinkingTextGenerator):
        return ThinkingBeforeEach(config, model.generator)
    of_questions = "questions" in TASKS[config.task.name].offers
    own = {"own": True, "plain": False}.get(config.lm_eval.prompt, config.thinker.tokens > 0)
    if not (of_questions and (own or config.thinker.tokens)):
        return Scorer(config, model.generator)
    return Thinking(config, model.generator, own)


# --- without thoughts -----------------------------------------------------------------------------


class Scorer:
    """A language model without thoughts. thoughts: what was thought about a context, by its text.
    """

    def __init__(self, config: Config, generator: TextGenerator) -> None:
        self.config, self.generator = config, generator
        self.net: Backbone = generator.context.net
        self.vocabulary: Any = generator.vocabulary
        self.limit: int = generator.context.limit
        self.among: slice | None = self.vocabulary.predicted  # tokens that may follow; None: all
        self.thoughts: dict[str, str] = {}

    # --- texts as tokens ------------------------------------------------------------------------

    def opening(self, text: str) -> list[int]:
        """Tokens of a text from its beginning, at least one. Raises `UserError` for characters that
        have none.
        """
        self.generator.encode(text)
        return self.vocabulary.opening(text)

    def encoded(self, pair: Pair) -> tuple[list[int], list[int]]:
        """Tokens of a context and of what follows it: those of both together, split where the
        context alone ends; white space at its end goes with what follows.
        """
        context = pair[0].rstrip()
        text = pair[0][len(context):] + pair[1]
        before = self.opening(context)
        if not context:
            return before, self.generator.encode(text)
        return before, self.opening(context + text)[len(before):]

    # --- what is asked --------------------------------------------------------------------------

    def likelihoods(self, pairs: Sequence[Pair], done: Progress = ignored) -> list[Score]:
        """How likely each text is after its context. Raises `UserError` for a text without tokens.
        """
        rows = [self.encoded(pair) for pair in pairs]
        for (_, text), (_, typed) in zip(rows, pairs, strict=True):
            if not text:
                raise UserError(f"{typed!r}: found no token behind its context; legal: a text")
        return self.of_tokens(rows, done)

    @torch.inference_mode()
    def of_tokens(self, rows: Sequence[tuple[list[int], list[int]]], done: Progress = ignored,
                  ) -> list[Score]:
        """How likely tokens are after others. A context is read once for all that follows it; its
        beginning is left out where both are longer than the model reads.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (before, text) in enumerate(rows):
            room = max(self.limit - len(text) + 1, 1)
            groups.setdefault(tuple(before[-room:]), []).append(index)
        found: dict[int, Score] = {}
        order = sorted(groups, key=lambda before: (len(groups[before]), len(before)), reverse=True)
        with matmul_dtype(self.config.trainer.dtype, self.net.device):
            while order:
                part, order = self._at_once(order, groups, rows)
                asked = [groups[before] for before in part]
                for index, score in zip([index for group in asked for index in group],
                                        self._read(part, asked, rows), strict=True):
                    found[index] = score
                done(sum(map(len, asked)))
        return [found[index] for index in range(len(rows))]

    def _at_once(self, order: list[tuple[int, ...]], groups: dict[tuple[int, ...], list[int]],
                 rows: Sequence[tuple[list[int], list[int]]],
                 ) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """(contexts that are read together, the others): as many as are read in one pass."""
        texts = [len(rows[index][1]) for index in groups[order[0]]]
        width = len(order[0]) + len(texts) * max(texts)
        count = len(rows_at_once(len(order), width, self.net.device)[0])
        return order[:count], order[count:]

    def _read(self, contexts: list[tuple[int, ...]], asked: list[list[int]],
              rows: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
        """The scores of the texts after some contexts."""
        device, pad = self.net.device, -1
        count = max(map(len, asked))
        filled = [[*(rows[index][1] for index in group), *[[]] * (count - len(group))]
                  for group in asked]
        text = padded([one for group in filled for one in group], pad).to(device)
        before = padded([list(context) for context in contexts], pad, left=True).to(device)
        states, segment = self.net.read(before.clamp_min(0), before != pad, last=1)
        states, real = states.repeat_interleave(count, 0), text != pad
        if text.shape[1] > 1:
            rest, _ = self.net.read(text[:, :-1].clamp_min(0), real[:, :-1], [segment], keep=False)
            states = torch.cat([states, rest], 1)
        loss, best = self.net.predict(states[real], text[real], self.among)
        total = torch.zeros(text.shape, dtype=loss.dtype, device=device)
        same = torch.ones(text.shape, dtype=torch.bool, device=device)
        total[real], same[real] = -loss, best == text[real]
        sums, greedy = total.sum(1).tolist(), same.all(1).tolist()
        return [(sums[row * count + number], greedy[row * count + number])
                for row, group in enumerate(asked) for number in range(len(group))]

    @torch.inference_mode()
    def completions(self, contexts: Sequence[str], stops: Sequence[str], tokens: int,
                    sampling: Sampling = GREEDY, done: Progress = ignored) -> list[str]:
        """How the model goes on from each context, before any of `stops`."""
        return self._continued([self.opening(context) for context in contexts], stops, tokens,
                               sampling, done)

    def _continued(self, prefixes: Sequence[list[int]], stops: Sequence[str], tokens: int,
                   sampling: Sampling, done: Progress) -> list[str]:
        """The texts that follow tokens; the beginning of these is left out where they leave no room
        for so many more.
        """
        room = max(self.limit - tokens, 1)
        prefixes = [prefix[-room:] for prefix in prefixes]
        if isinstance(self.net, Model) and isinstance(self.vocabulary, TextVocabulary):
            words = self.vocabulary.stopped_by(stops)
            return [words.text(row) for row in self.written(words, prefixes, tokens, sampling,
                                                            done)]
        random, found = torch.Generator().manual_seed(self.config.seed), []
        options = GenerateConfig(tokens=tokens, temperature=sampling.temperature,
                                 top_k=sampling.top_k, top_p=sampling.top_p)
        for prefix in prefixes:
            found.append(self._streamed(prefix, stops, options, random))
            done(1)
        return found

    def _streamed(self, prefix: list[int], stops: Sequence[str], options: GenerateConfig,
                  random: torch.Generator) -> str:
        """The same of one text, token by token."""
        written, text = list[int](), ""
        for token, _ in self.generator.stream(prefix, options, random):
            if token in self.generator.ends:
                break
            written.append(token)
            text = self.vocabulary.decode(self.generator.scored_tokens(written))
            if any(stop in text for stop in stops):
                break
        return cut(text, stops)

    def written(self, words: TextVocabulary, prefixes: Sequence[list[int]], tokens: int,
                sampling: Sampling, done: Progress = ignored) -> list[list[int]]:
        """Up to so many tokens that follow each prefix, and what ended them."""
        question = padded(list(prefixes), words.pad, left=True).to(self.net.device)
        problems = Problems(question, question[:, :0], None, words.pad, padded=True)
        noise = torch.rand(len(question), tokens,
                           generator=torch.Generator().manual_seed(self.config.seed))
        writer = Writer(cast(Model, self.net), words, 1, tokens, sampling,
                        self.config.model.rows_at_once, lambda tokens, rows: done(rows))
        with matmul_dtype(self.config.trainer.dtype, self.net.device):
            return writer.write(problems, noise.to(question.device))[0].tolist()


def cut(text: str, stops: Sequence[str]) -> str:
    """A text before the first of `stops`."""
    return text[:min((text.find(stop) for stop in stops if stop in text), default=len(text))]


# --- with a thought about each context ------------------------------------------------------------


class Thinking(Scorer):
    """A language model that writes a thought about a context before it goes on, greedily or sampled
    as an evaluation of its configuration does. own: contexts are put into its task's prompt.

    Behind the thought stands what asks for the answer: `lm_eval.cue` at the end of the context, or
    with task.answer=cloze the whole context again. With task.answer=generated the completion of a
    context is the text itself, which says its answer.
    """

    def __init__(self, config: Config, generator: TextGenerator, own: bool) -> None:
        super().__init__(config, generator)
        self.own, self.way, self.room = own, config.task.answer, config.thinker.tokens
        self.cue, self.among = config.lm_eval.cue, None
        task: Any = TASKS[config.task.name].target(
            replace(config.task, shots=0), self.vocabulary, questions=[], thinks=self.room > 0)
        self.words, self.preamble = task.vocabulary, task.preamble
        rollout = config.rollout
        self.sampling = GREEDY if config.trainer.val_samples == 1 or rollout.kind != "sample" else (
            Sampling(rollout.temperature, rollout.top_k, rollout.top_p))
        self._tokens: dict[str, list[int]] = {}  # of contexts: their prompt with its thought

    def split(self, context: str) -> tuple[str, str]:
        """(what is thought about, what stands between the thought and what follows)."""
        whole = context.rstrip()
        asked = whole.removesuffix(self.cue).rstrip() if self.cue else whole
        behind = whole[len(asked):] if asked != whole else ""
        return asked, f"\n{whole}" if self.way == "cloze" else behind

    def prompt(self, asked: str, reply: str = "") -> list[int]:
        """Tokens of a prompt, and how the reply to it begins."""
        if not self.own:
            return self.opening(asked + reply)
        text = f"{self.preamble}\n\n{asked}" if self.preamble else asked
        return self.vocabulary.prompt([("user", text)], reply)

    def encoded(self, pair: Pair) -> tuple[list[int], list[int]]:
        context, text = pair
        asked, bridge = self.split(context)
        text = context[len(context.rstrip()):] + text
        if self.room == 0:  # all is one text
            before = self.prompt(asked, bridge)
            return before, self.prompt(asked, bridge + text)[len(before):]
        bridge_tokens, rest = self.vocabulary.continued(bridge, text)
        return [*self._tokens[context], *bridge_tokens], rest

    def likelihoods(self, pairs: Sequence[Pair], done: Progress = ignored) -> list[Score]:
        self.think([context for context, _ in pairs])
        return super().likelihoods(pairs, done)

    @torch.inference_mode()
    def think(self, contexts: Sequence[str]) -> None:
        """Write a thought about each context that has none yet. Raises `UserError` where a prompt
        leaves no room for it.
        """
        new = [one for one in dict.fromkeys(contexts) if one not in self._tokens]
        if not new or self.room == 0:
            return
        asked = [self.prompt(self.split(context)[0]) for context in new]
        longest = max(map(len, asked))
        if longest + self.room >= self.limit:
            raise UserError(f"thinker.tokens={self.room}: found a prompt of {longest} tokens, with "
                            f"{self.limit} positions of the model; legal: fewer, or fewer "
                            "lm_eval.num_fewshot")
        rows = self.written(self.words, asked, self.room, self.sampling)
        ends = {self.words.pad, *self.words.ends}
        for context, prompt, row in zip(new, asked, rows, strict=True):
            self._tokens[context] = [*prompt, *(token for token in row if token not in ends)]
            self.thoughts[context] = self.words.text(row)

    @torch.inference_mode()
    def completions(self, contexts: Sequence[str], stops: Sequence[str], tokens: int,
                    sampling: Sampling = GREEDY, done: Progress = ignored) -> list[str]:
        self.think(contexts)
        if self.room and self.way not in ("letter", "cloze"):
            done(len(contexts))
            return [self.thoughts[context] for context in contexts]
        prefixes = []
        for context in contexts:
            asked, bridge = self.split(context)
            prefixes.append(self.prompt(asked, bridge) if self.room == 0 else [
                *self._tokens[context], *self.vocabulary.continuing(bridge)])
        return self._continued(prefixes, stops, tokens, sampling, done)


class ThinkingBeforeEach(Scorer):
    """A language model that thinks before every token of a text: of given texts, too."""

    def __init__(self, config: Config, generator: ThinkingTextGenerator) -> None:
        super().__init__(config, generator)
        self.context: ThinkingContext = generator.context

    @torch.inference_mode()
    def of_tokens(self, rows: Sequence[tuple[list[int], list[int]]], done: Progress = ignored,
                  ) -> list[Score]:
        return [self._of_text(*row, done) for row in rows]

    def _of_text(self, before: list[int], text: list[int], done: Progress) -> Score:
        room = max(self.limit - len(text) + 1, 1)
        self.context.prepare(GREEDY)
        logprobs = self.context.start(before[-room:])
        one = torch.zeros(1, dtype=torch.long, device=self.context.device)
        total, greedy = 0.0, True
        for number, token in enumerate(text):
            total += float(logprobs[0, token])
            greedy &= int(logprobs[0].argmax()) == token
            if number + 1 < len(text):
                logprobs = self.context.extend(one, one + token)
        done(1)
        return total, greedy


# --- of toy tasks ---------------------------------------------------------------------------------


class OfQuestions:
    """Thinker and answerer of a toy task: contexts are its questions (`31+84=`), what follows is an
    answer. They know no other text.
    """

    limit = UNLIMITED

    def __init__(self, model: AnsweringModel) -> None:
        self.model, self.config = model, model.config
        self.thoughts: dict[str, str] = {}

    def likelihoods(self, pairs: Sequence[Pair], done: Progress = ignored) -> list[Score]:
        found = self.model.likelihoods(list(pairs))
        self.thoughts |= {context: thought for (context, _), (_, _, thought) in
                          zip(pairs, found, strict=True)}
        done(len(pairs))
        return [(logprob, greedy) for logprob, greedy, _ in found]

    def completions(self, contexts: Sequence[str], stops: Sequence[str], tokens: int,
                    sampling: Sampling = GREEDY, done: Progress = ignored) -> list[str]:
        replies = self.model.think(list(contexts))
        self.thoughts |= {reply.question: reply.thought for reply in replies}
        done(len(contexts))
        return [cut(reply.answer, stops) for reply in replies]
