"""Credit of tokens from rewards, as pure functions. Equations and sources are in the docstrings.

B = P * G rows, the rows of a group adjacent; T decisions a row; mask (B, T) is True where a token
counts.
"""

from __future__ import annotations

from ponder.core.lazy_imports import Tensor, torch

EQUAL = 1e-6  # rewards that differ by less of their size are equal: float32 keeps 7 digits


def group_advantages(reward: Tensor, samples: int, baseline: str, scale: str,
                     running: float = 0.0) -> Tensor:
    r"""Advantages (B,) of rewards (B,), the rows of a group adjacent.

    baseline: none; group_mean, :math:`r_i - \bar r`; leave_one_out (RLOO, Kool et al. 2019),
    :math:`r_i - \frac{1}{G-1}\sum_{j \ne i} r_j`; running_mean, the given number. scale divides by
    the standard deviation (unbiased) of the group (GRPO, Shao et al. 2024), of the batch, or not.
    Where what is subtracted or divided by comes from equal rewards, the advantage is exactly 0.
    """
    grouped = reward.view(-1, samples)
    mean = grouped.mean(1, keepdim=True)
    if baseline == "group_mean":
        advantage = grouped - mean
    elif baseline == "leave_one_out":
        advantage = (grouped - mean) * (samples / (samples - 1))
    else:
        advantage = grouped - (running if baseline == "running_mean" else 0.0)
    if scale == "group":
        advantage = advantage / (grouped.std(1, keepdim=True) + 1e-6)
    elif scale == "batch":
        advantage = advantage / (reward.std() + 1e-6)
    if baseline in ("group_mean", "leave_one_out") or scale == "group":
        advantage = advantage.masked_fill(flat(grouped), 0.0)
    if scale == "batch":
        advantage = advantage.masked_fill(flat(reward[None]), 0.0)
    return advantage.flatten()


def flat_groups(reward: Tensor, samples: int) -> Tensor:
    """(P,): True where all rewards (B,) of a group are equal: nothing is learnt from it."""
    return flat(reward.view(-1, samples))[:, 0]


def flat(values: Tensor, real: Tensor | None = None, size: Tensor | float = 0.0) -> Tensor:
    """(N, 1): True where the values (N, M) of a row are equal up to the rounding of numbers of
    their size, or of `size` where they come from larger ones; real (N, M): which of them count.
    """
    high, low = values, values
    if real is not None:
        high, low = values.masked_fill(~real, -torch.inf), values.masked_fill(~real, torch.inf)
    high, low = high.amax(1, keepdim=True), low.amin(1, keepdim=True)
    return high - low <= EQUAL * torch.maximum(high.abs(), low.abs()).clamp_min(size)


def instructive(right: Tensor, unsolved: bool) -> Tensor:
    """Weights (B,), 1 for rows to learn from and 0 for others, of right (P, G).

    These are the right rows of a group. unsolved: all rows of a group without a right one, too; an
    answerer that only learns what it can do already never starts.
    """
    if not unsolved:
        return right.flatten().float()
    return (right | ~right.any(1, keepdim=True)).flatten().float()


def discounted(advantage: Tensor, mask: Tensor, discount: float) -> Tensor:
    r"""Credit (B, T): :math:`\gamma^{n_t} A` with n_t the number of tokens that count after t."""
    left = mask.flip(1).cumsum(1).flip(1) - mask.long()
    return advantage[:, None] * discount ** left * mask


def sequence_reward(reward: Tensor, token_reward: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B, T): token_reward (B, T), plus reward (B,) on the last token that counts.

    In a row where no token counts the reward is lost.
    """
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return token_reward * mask + reward[:, None] * last


def gae(reward: Tensor, value: Tensor, mask: Tensor, discount: float, trace: float,
        ) -> tuple[Tensor, Tensor]:
    r"""Generalised advantage estimates and returns (B, T) (Schulman et al. 2016).

    .. math:: A_t = \delta_t + \gamma \lambda A_{t+1}, \quad
       \delta_t = r_t + \gamma V_{t+1} - V_t, \quad R_t = A_t + V_t

    reward and value are (B, T): of token t, and of the state before it. Tokens that do not count
    are skipped. After the last one the value is 0.
    """
    advantage = torch.zeros_like(value)
    following = torch.zeros_like(value[:, 0])
    ahead = torch.zeros_like(value[:, 0])
    for t in reversed(range(value.shape[1])):
        delta = reward[:, t] + discount * ahead - value[:, t]
        here = delta + discount * trace * following
        advantage[:, t] = here * mask[:, t]
        following = torch.where(mask[:, t], here, following)
        ahead = torch.where(mask[:, t], value[:, t], ahead)
    return advantage, (advantage + value) * mask


def whiten(advantage: Tensor, mask: Tensor, samples: int, over: str,
           size: Tensor | float = 0.0) -> Tensor:
    """Advantages (B, T) with mean 0 and standard deviation 1 over the tokens that count.

    over: none, sequence, group or batch. Padding is in neither moment. Where all that count are
    equal, or fewer than two do, they become exactly 0. size: of the numbers whose differences they
    are; below its rounding error they are equal.
    """
    if over == "none":
        return advantage * mask
    rows = {"sequence": 1, "group": samples, "batch": len(advantage)}[over]
    parts = advantage.view(len(advantage) // rows, -1)
    counts = mask.reshape(parts.shape)
    real = counts.to(advantage.dtype)
    count = real.sum(1, keepdim=True)
    mean = (parts * real).sum(1, keepdim=True) / count.clamp_min(1)
    centred = (parts - mean) * real
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
    scaled = centred / (variance.sqrt() + 1e-8)
    return scaled.masked_fill(flat(parts, counts, size), 0.0).view_as(advantage)


def shares(mask: Tensor, normalise: str) -> tuple[Tensor, Tensor]:
    r"""(weight (B, T) of every token, the denominator of these rows (0-dim)).

    tokens: :math:`\sum_{i,t} / \sum_i T_i` (DAPO, Yu et al. 2025); sequences:
    :math:`\frac{1}{B} \sum_i \frac{1}{T_i} \sum_t` (GRPO, Shao et al. 2024); constant:
    :math:`\frac{1}{B T} \sum_{i,t}` with T the maximum length (Dr. GRPO, Liu et al. 2025).
    Rows of which no token counts are in no denominator. The denominator of an optimizer step is the
    sum over its micro-batches, so their size never changes the gradient.
    """
    weight = mask.to(torch.get_default_dtype())
    rows = mask.any(1).sum()
    if normalise == "tokens":
        return weight, mask.sum()
    if normalise == "sequences":
        return weight / weight.sum(1, keepdim=True).clamp_min(1), rows
    return weight, rows * mask.shape[1]


def limited_weights(own: Tensor, other: Tensor, chosen: Tensor, whole: bool, limit: float,
                    mask: bool) -> tuple[Tensor, Tensor]:
    r"""(importance weights (B, T), which of them were above the limit (B, T)).

    .. math:: w_t = \min(p(z_t) / q(z_t), C), \quad \mathrm{or}\ 0\ \mathrm{above}\ C

    own and other (B, T): log-probabilities log p and log q of the tokens, which are drawn from q
    where chosen (B, T) is True; others have the weight 1 and change nothing. whole: each token has
    the product over its row, which is limited as one; mask: 0 above the limit C.
    """
    change = (own - other).masked_fill(~chosen, 0.0)
    if whole:
        change = change.sum(1, keepdim=True).expand_as(change)
    ratio = change.exp()
    beyond = ratio > limit
    weight = ratio.masked_fill(beyond, 0.0 if mask else limit)
    return weight.masked_fill(~chosen, 1.0), beyond & chosen


def kl_estimate(logprobs: Tensor, reference: Tensor, kind: str) -> Tensor:
    r"""Estimates of KL(p || q) for each token sampled from p (Schulman 2020).

    k1: :math:`\log p - \log q`, unbiased; k3: :math:`q/p - 1 - \log (q/p)`, never negative and of
    lower variance. Both values are unbiased; but the *gradient* of k3 is not that of the KL, and
    the gradient of k1 has mean zero.
    """
    ratio = reference - logprobs
    return -ratio if kind == "k1" else ratio.exp() - 1 - ratio


def some_tokens(mask: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """A mask (B, T) of at most `count` tokens of each row, chosen uniformly; 0: all."""
    if count == 0 or count >= mask.shape[1]:
        return mask
    device = "cpu" if generator is None else generator.device
    lottery = torch.rand(mask.shape, generator=generator, device=device).to(mask.device)
    ranks = lottery.masked_fill(~mask, 2.0).argsort(1).argsort(1)
    return mask & (ranks < count)
