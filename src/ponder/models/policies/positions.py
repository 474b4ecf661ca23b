"""A language model that thinks behind the places of a passage, behind all of them at once, and
mixes what it then foresees with what it foresaw without (Quiet-STaR, Zelikman et al. 2024).

P passages of T tokens, N places of each, G thoughts a place: M = N G branches, B = P M rows. Behind
a thought the next m real tokens are foreseen, each given those before it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.core.math import Sampling, correlation, left_justify
from ponder.core.types import Problems, Rollouts, Scores
from ponder.models.backbone import Backbone, Segment
from ponder.models.policies.next_token import Reader
from ponder.models.policies.question import Rules
from ponder.tokenizers.vocabulary import Vocabulary

FIRST_SHARE = -3.0  # logit of the share that thoughts have at first: 0.047


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


class PassageThinker(Reader):
    """Thinker and answerer are one network, and without thoughts it is a plain language model.

    ahead is m. mixes: whether predictions are mixed; else those behind the thought count alone.
    """

    def __init__(self, net: Backbone, vocabulary: Vocabulary, rules: Rules, ahead: int,
                 mixes: bool, reference: Reader | None = None) -> None:
        super().__init__(net, vocabulary, rules)
        self.ahead = ahead
        self.mixer = Mixer(net.width) if mixes else None
        self.norm = reference.requires_grad_(False) if reference else None

    @property
    def attached(self) -> dict[str, nn.Module]:
        return {} if self.mixer is None else {"mixer": self.mixer}

    # --- what the network does ------------------------------------------------------------------

    def read(self, problems: Problems) -> tuple[Tensor, Segment]:
        """States (P, T, D) of all places, without a thought, and keys and values."""
        return self.thinker.read(problems.question)

    def branch(self, tokens: Tensor, past: Segment, at: Tensor, own: Segment | None = None,
               ) -> tuple[Tensor, Segment]:
        """States (P, M, L, D) of the next tokens (P, M, L) of branches that continue places (P, M),
        and the keys and values of all their tokens by now, of which `own` were there before.
        """
        return self.thinker.branch(tokens, past, at, own)

    def told(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(log p (...) of tokens (...) among the ordinary ones, the likeliest of these (...)), of
        the states (..., D) before them.
        """
        logits = self._logits(self.thinker, hidden)
        return _picked(logits.log_softmax(-1), tokens), logits.argmax(-1)

    # --- reading --------------------------------------------------------------------------------

    def targets(self, problems: Problems) -> Tensor:
        """(P, N, m): the real tokens behind each place."""
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
        states, _ = self.branch(row.view(len(problems), samples, -1), past, at)
        ends = (thought != problems.pad).sum(1).view(len(problems), samples, 1) - 1
        where = ends + torch.arange(self.ahead, device=row.device)
        after = states.gather(2, where[..., None].expand(-1, -1, -1, states.shape[-1]))
        before = self._states(problems, hidden).repeat_interleave(count, 1)
        return before, after, states[:, :, :thought.shape[1] - 1]

    def mixed(self, before: Tensor, after: Tensor, without: Tensor, alone: Tensor) -> Tensor:
        """Log-probabilities (...) of what is foreseen without a thought and by the thought alone,
        mixed in the share that the states (..., D) say.
        """
        assert self.mixer is not None
        share = self.mixer(before, after)
        share = share.view(*share.shape, *[1] * (alone.dim() - share.dim()))
        return torch.logaddexp(F.logsigmoid(-share) + without, F.logsigmoid(share) + alone)

    def mixture(self, before: Tensor, after: Tensor) -> Tensor:
        """Log-probabilities (..., ordinary vocabulary) of the next token, mixed of what states
        (..., D) without and with a thought foresee.
        """
        alone = self._logits(self.thinker, after).log_softmax(-1)
        if self.mixer is None:
            return alone
        without = self._logits(self.thinker, before).log_softmax(-1)
        return self.mixed(before, after, without, alone)

    def foresight(self, problems: Problems, thought: Tensor, samples: int,
                  hidden: Tensor, past: Segment) -> Tensor:
        """Log-probabilities (P, M, m, ordinary vocabulary) of the tokens behind each thought
        (B, K + 1), mixed with what was foreseen without.
        """
        return self.mixture(*self._behind(problems, thought, samples, hidden, past)[:2])

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
            logprob, likeliest = self.told(after, real)
            right = likeliest[:, :, 0] == real[:, :, 0]
            found.append((logprob.sum(-1).flatten(), right.flatten()))
        logprob, right = zip(*found, strict=True)
        return torch.cat(logprob), torch.cat(right)

    def _targets_of_rows(self, problems: Problems, samples: int) -> Tensor:
        """(P, M, m)"""
        assert problems.positions is not None
        return self.targets(problems).repeat_interleave(samples // problems.positions.shape[1], 1)

    def unthinking(self, rollouts: Rollouts) -> Tensor:
        """(B,): log p of the same tokens without a thought."""
        return -self.difficulty(rollouts)

    def difficulty(self, rollouts: Rollouts, reader: Reader | None = None) -> Tensor:
        """(B,): -log p of the m tokens behind a place, without a thought, in nats; by another
        reader where one is given.
        """
        surprise = (reader or self).surprise(rollouts.problems)
        at = rollouts.problems.positions
        assert at is not None
        places = at[..., None] + torch.arange(self.ahead, device=at.device)
        total = surprise.gather(1, places.flatten(1)).view_as(places).sum(-1)
        return total.repeat_interleave(rollouts.group_size, 1).flatten()

    @torch.no_grad()
    def annotate(self, rollouts: Rollouts, sampling: Sampling) -> Rollouts:
        """Note how hard the tokens behind each place are: for the reference, or without thought."""
        rollouts.parts["difficulty"] = self.difficulty(rollouts, self.norm)
        return rollouts

    def remarks(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """How much rewards and credit go with the difficulty of what is foreseen: correlations over
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
        alone, _ = self.told(after, real)
        mixed = alone
        if self.mixer is not None:
            without, _ = self.told(self._states(problems, hidden), self.targets(problems))
            without = without.repeat_interleave(rollouts.group_size, 1)
            mixed = self.mixed(before, after, without, alone)
        behind = (mixed + alone).mean(-1) / 2
        plain = self.told(hidden, problems.answer)[0].mean(-1, keepdim=True)
        return Scores(logprobs, spread, full, (behind + plain).flatten())


def _picked(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """Those (...) of tokens (...) among log-probabilities (..., V)."""
    return logprobs.gather(-1, tokens[..., None])[..., 0]
