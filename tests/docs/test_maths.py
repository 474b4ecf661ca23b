"""What the pages of docs/maths/ claim, with every thought enumerated in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ponder.core.credit import group_advantages

Tensor = torch.Tensor
REFERENCE = torch.tensor([0.35, 0.25, 0.2, 0.1, 0.06, 0.04], dtype=torch.double)
RIGHT = torch.tensor([False, True, False, True, False, False])
LETTERS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.double)  # D(y | x)


def objective(policy: Tensor, reward: Tensor, beta: float) -> Tensor:
    """E[r] - beta KL(policy || REFERENCE)."""
    return (policy * (reward - beta * (policy / REFERENCE).log())).sum()


def descend(loss: Callable[[Tensor], Tensor], count: int, steps: int) -> Tensor:
    """The probabilities after so many steps of L-BFGS down a loss of log-probabilities."""
    logits = torch.zeros(count, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], lr=0.5, max_iter=steps, tolerance_grad=0,
                                  tolerance_change=0)

    def closure() -> float:
        optimizer.zero_grad()
        found = loss(logits.log_softmax(0))
        found.backward()
        return float(found.detach())

    optimizer.step(closure)
    return logits.detach().softmax(0)


# --- docs/maths/dpo.md ----------------------------------------------------------------------------


def test_the_best_policy_is_the_tilted_reference() -> None:
    """J(p) = beta log Z - beta KL(p || p*), for any p; so p* is best and earns beta log Z."""
    reward, beta = torch.randn(6, dtype=torch.double), 0.3
    tilted = REFERENCE * (reward / beta).exp()
    total, best = tilted.sum(), tilted / tilted.sum()
    assert objective(best, reward, beta) == pytest.approx(float(beta * total.log()))
    for policy in torch.rand(5, 6, dtype=torch.double).softmax(1):
        apart = (policy * (policy / best).log()).sum()
        assert objective(policy, reward, beta) == pytest.approx(
            float(beta * total.log() - beta * apart))


def pairs(log_policy: Tensor, each: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of `each` over all pairs of a right and a wrong thought, of h."""
    gain = log_policy - REFERENCE.log()
    return each(gain[RIGHT][:, None] - gain[~RIGHT]).mean()


def odds(policy: Tensor) -> float:
    """The odds of a right thought, as a multiple of those of the reference."""
    right, before = float(policy[RIGHT].sum()), float(REFERENCE[RIGHT].sum())
    return (right / (1 - right)) / (before / (1 - before))


def test_exact_match_multiplies_the_odds_by_exp_of_one_over_beta() -> None:
    tilted = REFERENCE * (RIGHT / 0.5).exp()
    assert odds(tilted / tilted.sum()) == pytest.approx(math.exp(2))


def test_dpo_on_labels_that_never_contradict_has_no_end() -> None:
    """Whatever beta is, the margin grows for as long as it is trained."""
    def loss(log_policy: Tensor) -> Tensor:
        return pairs(log_policy, lambda h: -torch.nn.functional.logsigmoid(0.5 * h))
    short, long = descend(loss, 6, 10), descend(loss, 6, 20)
    assert odds(long) > 5 * odds(short) > 100


def test_ipo_and_smoothing_stop() -> None:
    """IPO at h = 1 / (2 beta); smoothing at h = log((1 - s) / s) / beta."""
    beta, share = 0.5, 0.1
    ipo = descend(lambda p: pairs(p, lambda h: (h - 1 / (2 * beta)).square()), 6, 100)
    assert odds(ipo) == pytest.approx(math.exp(1 / (2 * beta)), rel=1e-3)
    smooth = descend(lambda p: pairs(p, lambda h: -(
        (1 - share) * torch.nn.functional.logsigmoid(beta * h)
        + share * torch.nn.functional.logsigmoid(-beta * h))), 6, 100)
    assert odds(smooth) == pytest.approx(9 ** (1 / beta), rel=1e-3)


def test_softmax_over_a_group_approaches_the_gradient_of_the_marginal_likelihood() -> None:
    """Groups drawn with replacement; its direction at G = 2 already, its size as G grows."""
    torch.manual_seed(0)
    logits = REFERENCE.log().requires_grad_()
    answer = torch.tensor([0.1, 0.8, 0.3, 0.6, 0.05, 0.2], dtype=torch.double)
    (logits.softmax(0) @ answer).log().backward()
    assert logits.grad is not None

    def estimate(samples: int) -> Tensor:
        drawn = torch.multinomial(REFERENCE, 10_000 * samples, True).view(-1, samples)
        weight = answer[drawn] / answer[drawn].sum(1, keepdim=True)
        credit = group_advantages(weight.flatten(), samples, "group_mean", "none")
        one_hot = torch.nn.functional.one_hot(drawn.flatten(), 6).double()
        return (credit[:, None] * (one_hot - REFERENCE)).sum(0) / 10_000

    few, many = estimate(2), estimate(64)
    assert torch.cosine_similarity(few, logits.grad, 0) > 0.95
    assert (many - logits.grad).norm() < 0.1 * logits.grad.norm()
    assert (few - logits.grad).norm() > 0.2 * logits.grad.norm()


# --- docs/maths/log_likelihood.md -----------------------------------------------------------------


def answerer(truth: Tensor, slack: float = 0.0) -> Tensor:
    """(5, 4): a(y | z) of the honest thought, which says `truth`, and of 'it is A', ... 'it is D'.
    """
    sure = (1 - 4 * slack) * torch.eye(4, dtype=torch.double) + slack
    return torch.cat([truth[None], sure])


def test_log_likelihood_is_a_proper_score_and_the_others_are_not() -> None:
    says = answerer(LETTERS, slack=1e-3)
    assert (LETTERS * says.log()).sum(1).argmax() == 0  # honest
    assert (says @ LETTERS).argmax() == 1  # the likeliest letter: E[p], and so log E[p]
    assert float(answerer(LETTERS)[0] @ LETTERS) == pytest.approx(0.30)
    uniform = torch.full((4,), 0.25, dtype=torch.double)
    assert (answerer(uniform) @ uniform).log().tolist() == pytest.approx([math.log(0.25)] * 5)


def test_the_gain_is_the_fall_of_a_divergence() -> None:
    """E_y[log a(y | z) - log a(y)] = KL(D || a(. | no thought)) - KL(D || a(. | z))."""
    without, behind = torch.rand(2, 4, dtype=torch.double).softmax(1)
    gain = (LETTERS * (behind / without).log()).sum()
    apart = [(LETTERS * (LETTERS / said).log()).sum() for said in (without, behind)]
    assert float(gain) == pytest.approx(float(apart[0] - apart[1]))


def test_weights_of_a_softmax_make_an_honest_thought_no_better_than_a_guess() -> None:
    """Five thoughts, each sampled once: 0.2 each on average over y. The marginal likelihood is the
    same for any thinker that guesses each letter equally often."""
    uniform = torch.full((4,), 0.25, dtype=torch.double)
    says = answerer(uniform)
    assert (says / says.sum(0)).mean(1).tolist() == pytest.approx([0.2] * 5)
    for honest in (0.0, 0.3, 1.0):
        thinker = torch.tensor([honest] + [(1 - honest) / 4] * 4, dtype=torch.double)
        assert (thinker @ says).tolist() == pytest.approx([0.25] * 4)
    best = says.argmax(0)
    assert best.tolist() == [1, 2, 3, 4]  # the best of the group is always the lucky guess


def baseline_gradient(kind: str, samples: int) -> tuple[Tensor, Tensor]:
    """(the expected gradient with a baseline, that without): every group enumerated."""
    reward = torch.tensor([0.1, 0.8, 0.3, 0.05], dtype=torch.double).log()
    policy = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.double)
    score = torch.eye(4, dtype=torch.double) - policy
    groups = torch.cartesian_prod(*[torch.arange(4)] * samples)
    chance = policy[groups].prod(1)
    got = reward[groups]
    if kind == "log_mean":
        base = got.logsumexp(1, keepdim=True) - math.log(samples)
        credit = got - base
    else:
        credit = group_advantages(got.flatten(), samples, kind, "none").view_as(got)
    found = (chance[:, None, None] * credit[..., None] * score[groups]).sum((0, 1)) / samples
    return found, (policy * reward) @ score


def test_the_group_mean_shrinks_and_leaving_one_out_does_not() -> None:
    shrunk, exact = baseline_gradient("group_mean", 3)
    assert torch.allclose(shrunk, exact * 2 / 3)
    kept, exact = baseline_gradient("leave_one_out", 3)
    assert torch.allclose(kept, exact)


def test_the_log_of_the_mean_turns_the_gradient() -> None:
    """No multiple of the exact gradient: what is left beside it at 2 and at 5 samples."""
    beside = []
    for samples in (2, 5):
        found, exact = baseline_gradient("log_mean", samples)
        along = (found @ exact) / (exact @ exact) * exact
        beside.append(float((found - along).norm() / found.norm()))
    assert beside == pytest.approx([0.109, 0.044], abs=1e-3) and beside[1] < beside[0]


# --- docs/maths/baselines.md ----------------------------------------------------------------------


def test_easy_tokens_are_noise_and_no_bias() -> None:
    """Two places, easy and hard. The expected gradient at each is the same with any baseline that
    knows nothing of the thought; the variance is that of the difficulty."""
    gain = torch.tensor([0.2, 0.0, -0.1], dtype=torch.double)
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
    score = torch.eye(3, dtype=torch.double) - policy
    exact = (policy * gain) @ score
    for difficulty in (0.0, 4.0):
        reward = gain - difficulty
        assert torch.allclose((policy * (reward - 2.0)) @ score, exact)
    noise = [float((policy * (gain - d).square()) @ score.square().sum(1)) for d in (0.0, 4.0)]
    assert noise[1] > 100 * noise[0]


def test_what_variance_pays_for() -> None:
    """Where a share s is right it pays the right ones iff s < 1/2; a pair earns alike."""
    for right, sign in ((1, 1), (3, -1)):
        p = torch.tensor([1.0] * right + [0.0] * (4 - right), dtype=torch.double)
        credit = group_advantages((p - p.mean()).square(), 4, "group_mean", "none")
        assert credit[0].sign() == sign
    pair = torch.tensor([0.9, 0.2], dtype=torch.double)
    credit = group_advantages((pair - pair.mean()).square(), 2, "group_mean", "none")
    assert credit.tolist() == [0.0, 0.0]
