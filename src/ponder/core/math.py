"""Pure functions: tensors in, tensors out. Equations and sources are in the docstrings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.credit import flat
from ponder.core.lazy_imports import Tensor, torch


@dataclass(frozen=True)
class Sampling:
    """Parameters of a sampling distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    epsilon: float = 0.0


GREEDY = Sampling(temperature=0.0)


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type of log-probabilities of a network of some type: single precision at least."""
    return torch.promote_types(torch.float32, dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precisions to float32; leave float32 and float64 as they are."""
    return x.to(precise(x.dtype))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32. Processors without such units take
    up to 8 times as long; Intel's with AVX-512 BF16 but without AMX nearly twice.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities()
    wide = known.get("avx512_bf16") and "Intel" not in known.get("cpu_name", "")
    return bool(known.get("amx_bf16") or wide)


def uses_bfloat16(dtype: str, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16 when `trainer.dtype` is `dtype`."""
    return dtype == "bfloat16" or (dtype == "auto" and has_bfloat16(device))


def matmul_dtype(dtype: str, device: torch.device) -> torch.autocast:
    """A context in which matrix products run in `trainer.dtype`."""
    return torch.autocast(device.type, torch.bfloat16, uses_bfloat16(dtype, device))


def distribution(logits: Tensor, sampling: Sampling, keep: Tensor | None = None) -> Tensor:
    r"""Log-probabilities (..., V) of the distribution that thoughts are sampled from.

    .. math:: p = (1 - \epsilon)\, \mathrm{softmax}(l / \tau)|_{S} + \epsilon / V

    with S the top-k or top-p (nucleus, Holtzman et al. 2020) tokens, and V the number of tokens
    that may be chosen: one whose logit is -inf is not explored either. Samples and their
    log-probabilities both come from this function, so gradients are those of the distribution that
    was sampled from. keep (...,): a token that counts as one of S whatever its rank, as it was
    sampled before the weights changed. With exploration every token has a probability anyway.
    """
    scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
    allowed = _allowed(scaled, sampling)
    if allowed is not None:
        if keep is not None and sampling.epsilon == 0:
            allowed = allowed.scatter(-1, keep[..., None], True)
        scaled = scaled.masked_fill(~allowed, -torch.inf)
    logprobs = log_softmax(scaled)
    if sampling.epsilon > 0:
        barred = logits == -torch.inf
        count = (~barred).sum(-1, keepdim=True).double()
        uniform = (math.log(sampling.epsilon) - count.log()).to(logprobs.dtype)
        rest = math.log1p(-sampling.epsilon) if sampling.epsilon < 1 else -torch.inf
        logprobs = torch.logaddexp(logprobs + rest, uniform).masked_fill(barred, -torch.inf)
    return logprobs


def log_softmax(x: Tensor) -> Tensor:
    """Log-softmax over the last dimension (..., V). A short one is moved first, which is faster."""
    if x.shape[-1] >= 16:
        return x.log_softmax(-1)
    return x.movedim(-1, 0).log_softmax(0).movedim(0, -1)


def _allowed(scaled: Tensor, sampling: Sampling) -> Tensor | None:
    """(..., V), True on the tokens of the top-k or top-p set; None where every token is allowed."""
    allowed = None
    if 0 < sampling.top_k < scaled.shape[-1]:
        allowed = scaled >= scaled.topk(sampling.top_k, -1).values[..., -1:]
    if sampling.top_p < 1:
        ranked, order = scaled.sort(-1, descending=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
        nucleus = torch.zeros_like(scaled, dtype=torch.bool).scatter(
            -1, order, before < sampling.top_p)
        allowed = nucleus if allowed is None else allowed & nucleus
    return allowed


def draw(logprobs: Tensor, uniform: Tensor) -> Tensor:
    """Sample tokens (...,) from log-probabilities (..., V): the inverse of the cumulative p.

    uniform (...,) lies in [0, 1): one number for each token.
    """
    cumulated = logprobs.exp().cumsum(-1)
    below_one = uniform * (1 - torch.finfo(cumulated.dtype).eps)  # rounding must not reach the sum
    wanted = below_one[..., None] * cumulated[..., -1:]
    if cumulated.shape[-1] > 1024:
        return torch.searchsorted(cumulated, wanted, right=True)[..., 0]
    return (cumulated <= wanted).sum(-1)


def draw_tokens(logits: Tensor, sampling: Sampling, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (N,) drawn from logits (N, V), at temperature 0 the likeliest ones, and their
    log-probabilities (N,) under the sampling distribution; uniform (N,) as in `draw`.
    """
    logits = at_least_float32(logits)
    if sampling.temperature == 0:
        logprobs = logits.log_softmax(-1)
        token = logprobs.argmax(-1)
    else:
        logprobs = distribution(logits, sampling)
        token = draw(logprobs, uniform)
    return token, logprobs.gather(-1, token[:, None])[:, 0]


def straight_through(logprobs: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    r"""Weights (..., V), 1 for the token drawn from log-probabilities (..., V) and 0 for others.

    .. math:: z = \mathrm{onehot}\,\arg\max_v (\log p_v + g_v), \quad
       \partial z := \partial\, \mathrm{softmax}((\log p + g) / \tau), \quad
       g = -\log(-\log u)

    Straight-through Gumbel-softmax (Jang et al. 2017): the token is an exact draw from p (the
    Gumbel-max trick), its gradient that of the softmax at temperature tau. uniform (..., V) lies in
    [0, 1).
    """
    tiny = torch.finfo(uniform.dtype).tiny
    noisy = logprobs - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    soft = (noisy / temperature).softmax(-1)
    hard = torch.nn.functional.one_hot(noisy.argmax(-1), logprobs.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


def entropy(logprobs: Tensor) -> Tensor:
    """-sum p log p over the last dimension, in nats; tokens of probability 0 count 0."""
    return -(logprobs.exp() * logprobs.clamp_min(-1e9)).sum(-1)


def mutual_information(a: Tensor, b: Tensor) -> float:
    """I(A; B) in nats of two integer samples (N,), by counting (plug-in estimate)."""
    _, a = a.unique(return_inverse=True)
    _, b = b.unique(return_inverse=True)
    width = int(b.max()) + 1
    pairs, count = (a * width + b).unique(return_counts=True)
    share = count.double() / len(a)
    of_a, of_b = (torch.bincount(x).double() / len(a) for x in (a, b))
    independent = of_a[pairs // width] * of_b[pairs % width]
    return float((share * (share / independent).log()).sum().clamp_min(0.0))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation (0-dim) of two samples (N,); 0 where one of them is constant up to the
    rounding of its numbers.
    """
    constant = (flat(a[None]) | flat(b[None]))[0, 0]
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return ((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)).masked_fill(constant, 0.0)


def count_entropy(values: Tensor) -> float:
    """Entropy in nats of how often each value of an integer sample (N,) occurs."""
    share = values.unique(return_counts=True)[1].double()
    share = share / share.sum()
    return float(-(share * share.log()).sum())


def is_one_of(tokens: Tensor, ids: Sequence[int]) -> Tensor:
    """(...,): whether tokens (...,) are among some ids."""
    found = tokens == ids[0]
    for other in ids[1:]:
        found = found | (tokens == other)
    return found


def row_codes(tokens: Tensor) -> Tensor:
    """Number the distinct rows of (N, K): (N,), equal where the rows are equal."""
    return tokens.unique(dim=0, return_inverse=True)[1]


def columns(values: Tensor, at: Tensor) -> Tensor:
    """The columns at (N, t) of each row of values (N, T) or (N, T, D)."""
    if values.dim() == 3:
        at = at[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, at)


def left_justify(tokens: Tensor, pad: int) -> Tensor:
    """Rows (B, T) with their padding moved to the right, order kept."""
    order = (tokens == pad).to(torch.int8).argsort(dim=1, stable=True)
    return tokens.gather(1, order)


def right_justify(tokens: Tensor, pad: int) -> Tensor:
    """Rows (B, T) with their padding moved to the left, order kept."""
    order = (tokens != pad).to(torch.int8).argsort(dim=1, stable=True)
    return tokens.gather(1, order)


def sinkhorn(scores: Tensor, rounds: int, temperature: float = 1.0,
             mask: Tensor | None = None) -> Tensor:
    """Log of a plan (..., N, M) near exp(scores / temperature) with equal rows and equal columns.

    Each row sums to 1 and each column to N / M in the limit (Sinkhorn 1967, Cuturi 2013). mask
    (..., N) is False on rows that are not there.
    """
    plan = scores / temperature
    if mask is None:
        mask = torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device)
    absent = ~mask[..., None]
    plan = plan.masked_fill(absent, -1e9)
    share = (mask.sum(-1) / scores.shape[-1]).log()[..., None, None]
    for _ in range(rounds):
        plan = plan - plan.logsumexp(-2, keepdim=True) + share
        plan = (plan - plan.logsumexp(-1, keepdim=True)).masked_fill(absent, -1e9)
    return plan
