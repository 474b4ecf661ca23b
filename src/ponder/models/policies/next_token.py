"""Policies that answer a passage with its next tokens: plain, or after thoughts at positions."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.core.math import Sampling, at_least_float32, columns, correlation, left_justify
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, Segment, rows_at_once
from ponder.models.policies.base import Policy, Rules
from ponder.tokenizers.vocabulary import TextVocabulary, Vocabulary

FIRST_SHARE = -3.0  # logit of the share that thoughts have at first: 0.047


class FurtherTokens(nn.Module):
    """Multi-token prediction (Gloeckle et al. 2024): a residual layer for each of the `count`
    tokens after the next one, whose output goes through the network's own head. Theirs is a
    transformer block.
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
        """States (P, T - k, D) for the k-th token after the next one, k = 1, 2, ..."""
        return [hidden[:, :-k] + F.gelu(layer(hidden[:, :-k]))
                for k, layer in enumerate(self.layers, start=1)]


class NextTokenPolicy(Policy):
    """Predicts the next token at every position of passages (P, T), without thoughts: question
    holds the tokens, answer the next ones.

    ahead: so many next tokens are learnt at every position; only the first is evaluated.
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
        """Ids of the tokens that may come next in a text: all but thought tokens."""
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

    def in_parts(self, problems: Problems, each: int, whole_logits: bool = True,
                 ) -> tuple[Tensor, ...]:
        """Numbers of some passages at a time, of `each` tokens or branches, as memory allows.
        whole_logits: the logits of all of them are in memory together.
        """
        return rows_at_once(len(problems), each, problems.question.device,
                            self.predicted.stop if whole_logits else 1)

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
    r"""Weight w of the prediction after a thought, in :math:`\log((1 - w)\, p + w\, p_t)`:
    :math:`w = \sigma(\mathrm{MLP}([h; h_t]))` of the states without and with the thought. w begins
    near 0, so that thoughts cannot hurt at first.
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
    """A language model that thinks at positions of a passage, all in one pass, and mixes its
    predictions with and without the thought (Quiet-STaR, Zelikman et al. 2024).

    P passages of T tokens, N positions of each, G thoughts at each: M = N G continuations, B = P M
    rows. After a thought the next m (`ahead`) real tokens are predicted, each given those before
    it. mixes: predictions are mixed; otherwise those after the thought count alone. norm: the
    model that measures how hard tokens are to predict without thoughts; None: this one.
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

    def targets(self, problems: Problems) -> Tensor:
        """(P, N, m): the real tokens after each position."""
        return self._at_positions(problems, problems.answer)

    def _at_positions(self, problems: Problems, values: Tensor) -> Tensor:
        """(P, N, m) or (P, N, m, D): values (P, T) or (P, T, D) at each position and the m - 1 that
        follow it.
        """
        assert problems.positions is not None
        at = problems.positions[..., None] + torch.arange(self.ahead, device=values.device)
        return columns(values, at.flatten(1)).unflatten(1, at.shape[1:])

    def _continued(self, problems: Problems, thought: Tensor, samples: int, hidden: Tensor,
                past: Segment) -> tuple[Tensor, Tensor, Tensor]:
        """(states (P, M, m, D) before each of the m tokens, without the thought; the same after the
        thought; states (P, M, K, D) after the tokens of thoughts (B, K + 1)).
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
        before = self._at_positions(problems, hidden).repeat_interleave(count, 1)
        return before, after, states[:, :, :thought.shape[1] - 1]

    def mixed(self, before: Tensor, after: Tensor, without: Tensor, alone: Tensor) -> Tensor:
        """The mixture (...) of log-probabilities `without` a thought and after it (`alone`), with
        the weight that the mixer finds for states (..., D).
        """
        assert self.mixer is not None
        share = self.mixer(before, after)
        share = share.view(*share.shape, *[1] * (alone.dim() - share.dim()))
        return torch.logaddexp(F.logsigmoid(-share) + without, F.logsigmoid(share) + alone)

    def mixture(self, before: Tensor, after: Tensor) -> Tensor:
        """Log-probabilities (..., ordinary vocabulary) of the next token, from states (..., D)
        without and with a thought.
        """
        alone = self._logits(self.thinker, after).log_softmax(-1)
        if self.mixer is None:
            return alone
        without = self._logits(self.thinker, before).log_softmax(-1)
        return self.mixed(before, after, without, alone)

    def predictions(self, problems: Problems, thought: Tensor, samples: int) -> Tensor:
        """Log-probabilities (P, M, m, ordinary vocabulary) of the tokens after each thought
        (B, K + 1), mixed with the prediction without it.
        """
        read = self.thinker.read(problems.question)
        return self.mixture(*self._continued(problems, thought, samples, *read)[:2])

    def _logprobs(self, states: Tensor, tokens: Tensor) -> Tensor:
        """log p (...) of tokens (...) of a text, given the states (..., D) before them."""
        return -self.thinker.predict(states, tokens, self.predicted)[0]

    # --- a policy -------------------------------------------------------------------------------

    def answer(self, problems: Problems, thought: Tensor, samples: int = 1,
               net: Backbone | None = None, ragged: bool | None = None,
               ) -> tuple[Tensor, Tensor]:
        """(log p (B,) of the m tokens after each thought (B, K + 1) in nats, whether the first of
        them is the likeliest (B,)). Not mixed: at first the mixture hardly depends on the thought,
        so rewards would not tell thoughts apart.
        """
        rows, found = thought.unflatten(0, (len(problems), samples)), []
        for part in self.in_parts(problems, samples * self.ahead, not self.thinker.chunked):
            some = problems[part]
            _, after, _ = self._continued(some, rows[part].flatten(0, 1), samples,
                                       *self.thinker.read(some.question))
            real = self._targets_of_rows(some, samples)
            loss, likeliest = self.thinker.predict(after, real, self.predicted)
            right = likeliest[:, :, 0] == real[:, :, 0]
            found.append(((-loss).sum(-1).flatten(), right.flatten()))
        logprob, right = zip(*found, strict=True)
        return torch.cat(logprob), torch.cat(right)

    def _targets_of_rows(self, problems: Problems, samples: int) -> Tensor:
        """(P, M, m): the real tokens after the position of each row."""
        assert problems.positions is not None
        return self.targets(problems).repeat_interleave(samples // problems.positions.shape[1], 1)

    def unthinking(self, rollouts: Rollouts) -> Tensor:
        """(B,): log p of the same tokens without a thought."""
        return -self.difficulty(rollouts)

    def difficulty(self, rollouts: Rollouts, reader: NextTokenPolicy | None = None) -> Tensor:
        """(B,): -log p of the m tokens after a position, without a thought, in nats; by `reader`,
        or this policy.
        """
        nll, _ = (reader or self).predict(rollouts.problems)
        total = self._at_positions(rollouts.problems, nll).sum(-1)
        return total.repeat_interleave(rollouts.group_size, 1).flatten()

    @torch.no_grad()
    def annotate(self, rollouts: Rollouts, sampling: Sampling) -> Rollouts:
        """The rollouts with the difficulty of the tokens after each position, by `norm`."""
        hard = self.difficulty(rollouts, self.norm)
        return replace(rollouts, under=sampling, parts={**rollouts.parts, "difficulty": hard})

    def remarks(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Correlations over the rows of rewards, and of credit, with the difficulty of the tokens
        that are predicted: negative where thoughts are paid for easy tokens.
        """
        hard = rollouts.parts["difficulty"]
        assert rollouts.credit is not None
        earned = rollouts.credit.sum(1) / rollouts.learn.sum(1).clamp_min(1)
        return {"difficulty": hard.mean(),
                "reward_difficulty": correlation(rollouts.total_reward, hard),
                "credit_difficulty": correlation(earned, hard)}

    def score(self, rollouts: Rollouts, sampling: Sampling,
              answer_thought: Tensor | None = None) -> Scores:
        """All log-probabilities of a batch, with gradients. The answerer learns the tokens after
        thoughts, both mixed and not (with a weight near 0 the mixture alone has hardly a gradient),
        and all tokens of the passage without thoughts.
        """
        problems, samples = rollouts.problems, rollouts.samples
        hidden, past = self.thinker.read(problems.question)
        before, after, states = self._continued(problems, rollouts.thought, samples, hidden, past)
        first = self._at_positions(problems, hidden)[:, :, :1]
        first = first.repeat_interleave(rollouts.group_size, 1)
        deciding = torch.cat([first, states[:, :, :-1]], 2).flatten(0, 1)
        logits = self.thinker.logits(deciding, self.allowed)
        logprobs, spread, full = self._as_written(rollouts, sampling, logits)
        real = self._targets_of_rows(problems, samples)
        alone = self._logprobs(after, real)
        mixed = alone
        if self.mixer is not None:
            without = self._logprobs(self._at_positions(problems, hidden), self.targets(problems))
            without = without.repeat_interleave(rollouts.group_size, 1)
            mixed = self.mixed(before, after, without, alone)
        after_thoughts = (mixed + alone).mean(-1) / 2
        plain = self._logprobs(hidden, problems.answer).mean(-1, keepdim=True)
        return Scores(logprobs, spread, full, (after_thoughts + plain).flatten())
