"""Policies that answer a passage with its next tokens: plain, or after thoughts at positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.core.math import Sampling, at_least_float32, correlation, left_justify
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, Segment, tokens_at_once
from ponder.models.policies.base import Policy, Rules
from ponder.tokenizers.vocabulary import TextVocabulary, Vocabulary

TOKENS_AT_ONCE, LOGITS_AT_ONCE = 2**13, 2**24  # that are in memory at once without gradients
FIRST_SHARE = -3.0  # logit of the share that thoughts have at first: 0.047


class FurtherTokens(nn.Module):
    """Predicts tokens further ahead from the same states: a residual layer for each of the `count`
    tokens after the next one, whose outputs the network's own head reads (multi-token prediction,
    Gloeckle et al. 2024, with a layer in place of a block).
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        for name, weight in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(weight, std=0.02)
            else:
                nn.init.zeros_(weight)

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """States (P, T - k, D) for the k-th token behind the next one, k = 1, 2, ..."""
        return [hidden[:, :-k] + F.gelu(layer(hidden[:, :-k]))
                for k, layer in enumerate(self.layers, start=1)]


class NextTokenPolicy(Policy):
    """Reads passages (P, T) without a thought; question holds the tokens, answer the next ones.

    ahead: so many next tokens of every position are learnt, which should make states plan; only the
    first of them is ever evaluated.
    """

    thinks_at_positions = False

    def __init__(self, net: Backbone, vocabulary: Vocabulary | TextVocabulary, rules: Rules,
                 ahead: int = 1) -> None:
        super().__init__(net, None, vocabulary, rules)
        self.further = FurtherTokens(net.width, ahead - 1).to(net.dtype) if ahead > 1 else None

    @property
    def attached(self) -> dict[str, nn.Module]:
        return {} if self.further is None else {"further": self.further}

    @property
    def predicted(self) -> slice:
        """Ids of the tokens that a text may go on with: all but thought tokens."""
        return self.vocabulary.predicted

    def _logits(self, net: Backbone, hidden: Tensor) -> Tensor:
        return at_least_float32(net.logits(hidden, self.predicted))

    @torch.no_grad()
    def predict(self, problems: Problems, net: Backbone | None = None) -> tuple[Tensor, Tensor]:
        """(-log p (P, T) of the next token at every position in nats, the likeliest token (P, T)).
        """
        net = net or self.answerer
        found = []
        for part in self.in_parts(problems, problems.question.shape[1], not net.chunked):
            some = problems[part]
            states, _ = net.read(some.question, keep=False)
            found.append(net.predict(states, some.answer, self.predicted))
        loss, likeliest = zip(*found, strict=True)
        return torch.cat(loss), torch.cat(likeliest)

    def in_parts(self, problems: Problems, each: int, whole_logits: bool = True) -> Iterator[slice]:
        """Some problems at a time, of `each` tokens or branches, as memory allows; whole_logits:
        the logits of all of them are there at the same time.
        """
        most = tokens_at_once(problems.question.device)
        if whole_logits:
            most = min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // self.predicted.stop)
        count = max(1, most // each)
        return (slice(start, start + count) for start in range(0, len(problems), count))

    def next_token_nll(self, problems: Problems) -> Tensor:
        """(P, T): -log p of the next token at every position, in nats."""
        return self.predict(problems)[0]

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None) -> tuple[Tensor, Tensor]:
        """(mean log p (P,) of a token of the passage in nats, whether all were the likeliest)."""
        loss, likeliest = self.predict(problems, net)
        return -loss.mean(1), (likeliest == problems.answer).all(1)

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """The likelihood of the passages, with gradients: the mean over how far ahead a token is.
        There are no thoughts.
        """
        problems, net = rollouts.problems, self.thinker
        hidden, _ = net.read(problems.question, keep=False)
        states = [hidden, *(self.further(hidden) if self.further is not None else [])]
        losses = [net.predict(state, problems.answer[:, number:], self.predicted)[0].mean(1)
                  for number, state in enumerate(states)]
        none = hidden.new_zeros(len(rollouts), 0)
        return Scores(none, none, none[..., None], -torch.stack(losses).mean(0))


class Mixer(nn.Module):
    r"""How much of a prediction comes from the thought: :math:`\log((1 - w)\, p + w\, p_t)` with
    :math:`w = \sigma(\mathrm{MLP}([h; h_t]))` of the states without and with thought. w begins near
    0, so that thoughts cannot hurt at first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, FIRST_SHARE)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Logit (...) of w of states (..., D)."""
        return self.out(F.gelu(self.hidden(torch.cat([before, after], -1))))[..., 0]


class PositionPolicy(NextTokenPolicy):
    """A language model that thinks at positions of a passage, at all of them at once, and mixes
    what it predicts after the thought with what it predicts without (Quiet-STaR, Zelikman et al.
    2024).

    P passages of T tokens, N positions of each, G thoughts at each: M = N G continuations, B = P M
    rows. After a thought the next m (`ahead`) real tokens are predicted, each given those before
    it. mixes: whether predictions are mixed; else those after the thought count alone. norm is a
    reference that says how hard tokens are to predict without thoughts.
    """

    thinks_at_positions = True

    def __init__(self, net: Backbone, vocabulary: Vocabulary | TextVocabulary, rules: Rules,
                 ahead: int, mixes: bool, reference: NextTokenPolicy | None = None) -> None:
        super().__init__(net, vocabulary, rules)
        self.ahead = ahead
        self.mixer = Mixer(net.width).to(net.dtype) if mixes else None
        self.norm = reference.requires_grad_(False) if reference else None

    @property
    def attached(self) -> dict[str, nn.Module]:
        return {} if self.mixer is None else {"mixer": self.mixer}

    # --- reading --------------------------------------------------------------------------------

    def read(self, problems: Problems) -> tuple[Tensor, Segment]:
        """States (P, T, D) at all positions, without a thought, and the passages' segment."""
        return self.thinker.read(problems.question)

    def targets(self, problems: Problems) -> Tensor:
        """(P, N, m): the real tokens at each position."""
        assert problems.positions is not None
        at = problems.positions[..., None]
        at = at + torch.arange(self.ahead, device=at.device)
        return problems.answer.gather(1, at.flatten(1)).view_as(at)

    def _states(self, problems: Problems, hidden: Tensor) -> Tensor:
        """(P, N, m, D): the states at each place and the m - 1 behind it."""
        assert problems.positions is not None
        at = problems.positions[..., None] + torch.arange(self.ahead, device=hidden.device)
        index = at.flatten(1)[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, index).unflatten(1, at.shape[1:])

    def _behind(self, problems: Problems, thought: Tensor, samples: int, hidden: Tensor,
                past: Segment) -> tuple[Tensor, Tensor, Tensor]:
        """States (P, M, m, D) before each of the m tokens, without the thought and with it, and
        (P, M, K, D) behind the tokens of thoughts (B, K + 1).
        """
        assert problems.positions is not None
        count = samples // problems.positions.shape[1]
        given = self.targets(problems)[..., :-1].repeat_interleave(count, 1)  # (P, M, m - 1)
        row = torch.cat([thought, given.flatten(0, 1)], 1)
        if self.rules.stops:
            row = left_justify(row, problems.pad)
        at = problems.positions.repeat_interleave(count, 1)
        states, _ = self.thinker.branch(row.view(len(problems), samples, -1), past, at)
        ends = (thought != problems.pad).sum(1).view(len(problems), samples, 1) - 1
        where = ends + torch.arange(self.ahead, device=row.device)
        after = states.gather(2, where[..., None].expand(-1, -1, -1, states.shape[-1]))
        before = self._states(problems, hidden).repeat_interleave(count, 1)
        return before, after, states[:, :, :thought.shape[1] - 1]

    def mixed(self, before: Tensor, after: Tensor, without: Tensor, alone: Tensor) -> Tensor:
        """Log-probabilities (...) of the predictions without a thought and by the thought alone,
        mixed in the share that the states (..., D) say.
        """
        assert self.mixer is not None
        share = self.mixer(before, after)
        share = share.view(*share.shape, *[1] * (alone.dim() - share.dim()))
        return torch.logaddexp(F.logsigmoid(-share) + without, F.logsigmoid(share) + alone)

    def mixture(self, before: Tensor, after: Tensor) -> Tensor:
        """Log-probabilities (..., ordinary vocabulary) of the next token, mixed of what states
        (..., D) without and with a thought predict.
        """
        alone = self._logits(self.thinker, after).log_softmax(-1)
        if self.mixer is None:
            return alone
        without = self._logits(self.thinker, before).log_softmax(-1)
        return self.mixed(before, after, without, alone)

    def predictions(self, problems: Problems, thought: Tensor, samples: int,
                  hidden: Tensor, past: Segment) -> Tensor:
        """Log-probabilities (P, M, m, ordinary vocabulary) of the tokens behind each thought
        (B, K + 1), mixed with the prediction without it.
        """
        return self.mixture(*self._behind(problems, thought, samples, hidden, past)[:2])

    def _logprobs(self, states: Tensor, tokens: Tensor) -> Tensor:
        """log p (...) of tokens (...) of a text, given the states (..., D) before them."""
        return -self.thinker.predict(states, tokens, self.predicted)[0]

    # --- a policy -------------------------------------------------------------------------------

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(log p (B,) of the m tokens behind each thought (B, K + 1) in nats, whether the first of
        them is the likeliest (B,)). By the thought alone: what is mixed would hardly be paid for.
        """
        rows, found = thought.unflatten(0, (len(problems), samples)), []
        for part in self.in_parts(problems, samples * self.ahead):
            some = problems[part]
            _, after, _ = self._behind(some, rows[part].flatten(0, 1), samples, *self.read(some))
            real = self._targets_of_rows(some, samples)
            loss, likeliest = self.thinker.predict(after, real, self.predicted)
            right = likeliest[:, :, 0] == real[:, :, 0]
            found.append(((-loss).sum(-1).flatten(), right.flatten()))
        logprob, right = zip(*found, strict=True)
        return torch.cat(logprob), torch.cat(right)

    def _targets_of_rows(self, problems: Problems, samples: int) -> Tensor:
        """(P, M, m)"""
        assert problems.positions is not None
        return self.targets(problems).repeat_interleave(samples // problems.positions.shape[1], 1)

    def unthinking(self, rollouts: Rollouts) -> Tensor:
        """(B,): log p of the same tokens without a thought."""
        return -self.difficulty(rollouts)

    def difficulty(self, rollouts: Rollouts, reader: NextTokenPolicy | None = None) -> Tensor:
        """(B,): -log p of the m tokens at a position, without a thought, in nats; by another
        reader where one is given.
        """
        nll = (reader or self).next_token_nll(rollouts.problems)
        at = rollouts.problems.positions
        assert at is not None
        places = at[..., None] + torch.arange(self.ahead, device=at.device)
        total = nll.gather(1, places.flatten(1)).view_as(places).sum(-1)
        return total.repeat_interleave(rollouts.group_size, 1).flatten()

    @torch.no_grad()
    def annotate(self, rollouts: Rollouts, sampling: Sampling) -> Rollouts:
        """With how hard the tokens at each position are: for the reference, or without a thought.
        """
        hard = self.difficulty(rollouts, self.norm)
        return replace(rollouts, parts={**rollouts.parts, "difficulty": hard})

    def remarks(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """How rewards and credit go with the difficulty of what is predicted: correlations over
        the rows. Thoughts that are paid for easy tokens show below 0.
        """
        hard = rollouts.parts["difficulty"]
        assert rollouts.credit is not None
        earned = rollouts.credit.sum(1) / rollouts.learn.sum(1).clamp_min(1)
        return {"difficulty": hard.mean(),
                "reward_difficulty": correlation(rollouts.total_reward, hard),
                "credit_difficulty": correlation(earned, hard)}

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients. The answerer learns the tokens behind
        thoughts, mixed and by the thought alone (else a share near 0 would end all learning), and
        all tokens of the passage without.
        """
        problems, samples = rollouts.problems, rollouts.samples
        assert problems.positions is not None
        hidden, past = self.read(problems)
        before, after, states = self._behind(problems, rollouts.thought, samples, hidden, past)
        first = self._states(problems, hidden)[:, :, :1].repeat_interleave(rollouts.group_size, 1)
        deciding = torch.cat([first, states[:, :, :-1]], 2).flatten(0, 1)
        logits = self.thinker.logits(deciding, self.allowed)
        logprobs, spread, full = self._as_written(rollouts, sampling, logits)
        real = self._targets_of_rows(problems, samples)
        alone = self._logprobs(after, real)
        mixed = alone
        if self.mixer is not None:
            without = self._logprobs(self._states(problems, hidden), self.targets(problems))
            without = without.repeat_interleave(rollouts.group_size, 1)
            mixed = self.mixed(before, after, without, alone)
        behind = (mixed + alone).mean(-1) / 2
        plain = self._logprobs(hidden, problems.answer).mean(-1, keepdim=True)
        return Scores(logprobs, spread, full, (behind + plain).flatten())
