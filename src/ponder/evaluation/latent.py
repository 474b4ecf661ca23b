"""The same evaluation where thoughts are vectors: is the answer right, and does it need them?"""

from __future__ import annotations

import torch
from torch import Tensor

from ponder.core.types import Problems
from ponder.evaluation.question import ROWS_AT_ONCE, Evaluation, judged, thought_statistics
from ponder.models.policies.latent import ContinuousPolicy
from ponder.rollouts.latent import numbers, vectors
from ponder.rollouts.sampler import given


@torch.no_grad()
def evaluate_latent(policy: ContinuousPolicy, problems: Problems, seed: int = 0) -> Evaluation:
    """Thoughts (P, K, D) and greedy answers for every problem, and the thought-necessity table.

    As text, and in what is told of thoughts as tokens, a vector is the token that the thinker would
    likeliest have written in its place. `numbers` of a row are the first of each vector.
    `thought/norm` and `thought/dimensions` are of the vectors themselves.
    """
    was_training = policy.training
    policy.eval()
    parts = [vectors(policy, problems[slice(start, start + ROWS_AT_ONCE)])
             for start in range(0, len(problems), ROWS_AT_ONCE)]
    own, nearest = (torch.cat(column) for column in zip(*parts, strict=True))
    texts = [policy.vocabulary.text(row) for row in nearest.tolist()]
    thoughts = {"own": own, **replacements(own, torch.Generator().manual_seed(seed))}
    found = judged(policy, problems, thoughts, texts)
    found.metrics.update({**thought_statistics(policy, given(problems, nearest)),
                          "thought/norm": float(own.norm(dim=-1).mean()),
                          "thought/dimensions": dimensions(own)})
    del found.metrics["thought/repetition"]  # unlike vectors may have the same likeliest token
    for row, thought in zip(found.rows, own, strict=True):
        row["numbers"] = " | ".join(numbers(thought))
    policy.train(was_training)
    return found


def replacements(own: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Other thoughts for own ones (P, K, D): those of other questions; normal ones with the own
    ones' mean and standard deviation at each place in each dimension; that mean; none (P, 0, D).
    """
    mean = own.mean(0, keepdim=True)
    noise = torch.randn(own.shape, generator=generator).to(own)
    return {"shuffled": own[torch.randperm(len(own), generator=generator).to(own.device)],
            "random": mean + own.std(0, correction=0) * noise, "constant": mean.expand_as(own),
            "dropped": own[:, :0]}


def dimensions(vectors: Tensor) -> float:
    r"""How many directions vectors (P, K, D) vary in, the mean over places: the participation ratio
    :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2` of their covariance's eigenvalues.
    """
    centred = (vectors - vectors.mean(0)).double()
    covariance = torch.einsum("pki,pkj->kij", centred, centred) / len(vectors)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    return float((trace.square() / covariance.square().sum((1, 2)).clamp_min(1e-30)).mean())
