"""Evaluation on held-out questions: is the answer right, and does it need the thought?

Also what all evaluations share: `Evaluation`, the thought-necessity table and standard errors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ponder.core.credit import flat
from ponder.core.math import count_entropy, mutual_information, row_codes
from ponder.core.types import Problems, Rollouts
from ponder.evaluation.language import describe
from ponder.evaluation.swaps import asked_together, swap_test
from ponder.models.policies.base import Policy
from ponder.models.policies.question import ContinuousPolicy, QuestionPolicy
from ponder.rollouts import given
from ponder.rollouts.latent import numbers, vectors
from ponder.rollouts.sampler import greedy

NECESSITY = ("own", "shuffled", "random", "constant", "dropped")
Probes = Mapping[str, Problems]  # the problems with other questions about their thoughts, by name
NO_PROBES: Probes = {}
ROWS_AT_ONCE = 8192
QUESTIONS_BY_POSITION, MAX_POSITIONS = 128, 32  # of the rows of the table for single positions


@dataclass
class Evaluation:
    """The result of an evaluation: numbers by name, table rows as text, and what language the
    thoughts are (`Language.report`).
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    language: dict[str, Any] = field(default_factory=dict)

    @property
    def necessity(self) -> dict[str, float]:
        """The thought-necessity table, empty where there is none."""
        found = {name: self.metrics.get(f"necessity/{name}") for name in NECESSITY}
        return {name: value for name, value in found.items() if value is not None}


@contextlib.contextmanager
def evaluation_mode(policy: Policy) -> Iterator[None]:
    """Without gradients and dropout; the policy's mode is restored afterwards."""
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        policy.train(was_training)


def by_parts(look: Callable[..., Tensor], problems: Problems, *rows: Tensor) -> Tensor:
    """(P, ...): `look` at some problems at a time, and at the same part of `rows` (P, ...); the
    results concatenated.
    """
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(problems), ROWS_AT_ONCE)]
    return torch.cat([look(problems[part], *(row[part] for row in rows)) for part in parts])


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of values (N,); 0 of a single one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent trials: sqrt(p (1 - p) / n)."""
    return (share * (1 - share) / count) ** 0.5


def evaluate(policy: QuestionPolicy, problems: Problems, seed: int = 0,
             probes: Probes = NO_PROBES) -> Evaluation:
    """Greedy thoughts and answers for every problem, and the thought-necessity table.

    The table is the accuracy with the thinker's own thoughts, with thoughts shuffled across
    questions, of random tokens, of one constant token, and with none. Where the answer needs the
    thought, accuracy is high with own thoughts only. `accuracy_stderr` is the binomial standard
    error; `accuracy/<name>` is the accuracy of a group of the problems; `<name>/accuracy` is that
    of other questions about the same thoughts, the `probes`.
    """
    with evaluation_mode(policy):
        thought = by_parts(lambda part: greedy(policy, part).thought, problems)
        rollouts = given(problems, thought)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        thoughts = {"own": thought, **replacements(policy, rollouts, generator)}
        texts = [policy.vocabulary.text(row) for row in thought.tolist()]
        found = necessity_table(policy, problems, thoughts, texts)
        found.metrics.update({**thought_statistics(policy, rollouts),
                              **by_position(policy, problems, thought, edited, generator),
                              **asked_accuracy(policy, probes, thought),
                              **swap_test(policy, asked_together(problems, probes), thought,
                                          seed)})
    return _with_language(found, policy, problems, thought)


def evaluate_latent(policy: ContinuousPolicy, problems: Problems, seed: int = 0,
                    probes: Probes = NO_PROBES) -> Evaluation:
    """The same with continuous thoughts (P, K, D).

    As text, and for statistics of tokens, a vector stands for the token that the thinker would most
    likely have written in its place. `numbers` of a row are the first components of each vector;
    `thought/norm` and `thought/dimensions` are of the vectors themselves.
    """
    with evaluation_mode(policy):
        parts = [vectors(policy, problems[slice(start, start + ROWS_AT_ONCE)])
                 for start in range(0, len(problems), ROWS_AT_ONCE)]
        own, nearest = (torch.cat(column) for column in zip(*parts, strict=True))
        texts = [policy.vocabulary.text(row) for row in nearest.tolist()]
        generator = torch.Generator().manual_seed(seed)
        thoughts = {"own": own, **latent_replacements(own, generator)}
        found = necessity_table(policy, problems, thoughts, texts)
        found.metrics.update({**thought_statistics(policy, given(problems, nearest)),
                              "thought/norm": float(own.norm(dim=-1).mean()),
                              "thought/dimensions": dimensions(own),
                              **by_position(policy, problems, own, latent_edited, generator),
                              **asked_accuracy(policy, probes, own)})
    del found.metrics["thought/repetition"]  # different vectors may have the same nearest token
    for row, thought in zip(found.rows, own, strict=True):
        row["numbers"] = " | ".join(numbers(thought))
    return _with_language(found, policy, problems, nearest)


def _with_language(found: Evaluation, policy: Policy, problems: Problems,
                   thought: Tensor) -> Evaluation:
    """The same with the language of thoughts (P, K + 1), and with the true states in its rows."""
    language = describe(thought, problems, policy.vocabulary)
    found.metrics.update(language.metrics)
    for row, states in zip(found.rows, [] if problems.states is None else problems.states.tolist(),
                           strict=False):
        row["states"] = " ".join(problems.state_names[state] for state in states if state >= 0)
    return replace(found, language=language.report)


def asked_accuracy(policy: QuestionPolicy, probes: Probes, thought: Tensor) -> dict[str, float]:
    """`<name>/accuracy`: the share of right answers to the questions of each probe about the
    thoughts (P, ...) of the plain question.
    """
    return {f"{name}/accuracy": float(by_parts(
        lambda part, own: policy.answer(part, own)[1], problems, thought).float().mean())
        for name, problems in probes.items()}


def necessity_table(policy: QuestionPolicy, problems: Problems, thoughts: dict[str, Tensor],
                    texts: list[str]) -> Evaluation:
    """Accuracy with each kind of thought (P, ...), and a table row for every problem.

    thoughts: by the names in `NECESSITY`. texts: the own thoughts as text.
    """
    right = {name: by_parts(lambda part, thought: policy.answer(part, thought)[1], problems,
                            thoughts[name]) for name in NECESSITY}
    own = float(right["own"].float().mean())
    metrics = {"accuracy": own,
               "accuracy_stderr": binomial_error(own, len(problems)),
               **{f"accuracy/{name}": float(right["own"][members].float().mean())
                  for name, members in problems.groups.items() if members.any()},
               **{f"necessity/{name}": float(values.float().mean())
                  for name, values in right.items()}}
    return Evaluation(metrics, _rows(policy, problems, thoughts["own"], texts, right["own"]))


def replacements(policy: Policy, rollouts: Rollouts,
                 generator: torch.Generator) -> dict[str, Tensor]:
    """Thoughts (P, K + 1) to put in place of own ones, by name: shuffled across problems, random
    tokens and one constant token (of the same lengths), and none.
    """
    own, device = rollouts.thought, rollouts.thought.device
    vocabulary: Any = policy.vocabulary  # with thought tokens
    content = (own != vocabulary.pad) & (own != vocabulary.end)
    shuffled = own[torch.randperm(len(own), generator=generator).to(device)]
    words = torch.randint(vocabulary.first_thought, max(len(vocabulary),
                                                        vocabulary.first_thought + 1),
                          own.shape, generator=generator).to(device)
    dropped = torch.full_like(own, vocabulary.pad)
    dropped[:, 0] = vocabulary.end
    if not policy.rules.ragged:
        dropped = dropped[:, :1]
    return {"shuffled": shuffled, "random": torch.where(content, words, own),
            "constant": torch.where(content, vocabulary.first_thought, own), "dropped": dropped}


def latent_replacements(own: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Thoughts to put in place of own ones (P, K, D), by name: shuffled across problems; normal
    vectors with the same mean and standard deviation at each position in each dimension; that mean;
    none (P, 0, D).
    """
    mean = own.mean(0, keepdim=True)
    noise = torch.randn(own.shape, generator=generator).to(own)
    return {"shuffled": own[torch.randperm(len(own), generator=generator).to(own.device)],
            "random": mean + own.std(0, correction=0) * noise, "constant": mean.expand_as(own),
            "dropped": own[:, :0]}


Edits = dict[str, tuple[Tensor, Tensor]]  # name -> thoughts (P, ...), which questions count (P,)


def by_position(policy: QuestionPolicy, problems: Problems, own: Tensor,
                edit: Callable[..., Edits], generator: torch.Generator) -> dict[str, float]:
    """The rows of the necessity table for single positions, of the first questions: accuracy where
    token k alone is replaced by a random other one (`necessity/replaced/t<k>`, of the thoughts
    that have it), and where only the first k tokens are kept (`necessity/truncated/<k>`).

    own: thoughts (P, ...); edit: `edited` or `latent_edited`.
    """
    if not policy.rules.sees_thought or own.shape[1] < 2 - own.is_floating_point():
        return {}
    some = slice(QUESTIONS_BY_POSITION)
    edits = edit(policy, own[some], generator)
    sizes = {name: thought.shape for name, (thought, _) in edits.items()}
    found = {}
    for size in dict.fromkeys(sizes.values()):
        names = [name for name in edits if sizes[name] == size]
        right = _right(policy, problems[some], [edits[name][0] for name in names])
        found |= {f"necessity/{name}": float(values[edits[name][1]].float().mean())
                  for name, values in zip(names, right, strict=True)}
    return {f"necessity/{name}": found[f"necessity/{name}"] for name in edits}


def _right(policy: QuestionPolicy, problems: Problems, thoughts: Sequence[Tensor]) -> Tensor:
    """(M, P): whether questions are answered rightly with M thoughts (P, ...) each."""
    count = len(thoughts)
    together, step = torch.stack([*thoughts], 1), max(1, ROWS_AT_ONCE // count)
    parts = [slice(start, start + step) for start in range(0, len(problems), step)]
    right = [policy.answer(problems[part], together[part].flatten(0, 1), count, ragged=True)[1]
             for part in parts]
    return torch.cat(right).view(-1, count).T


def edited(policy: Policy, own: Tensor, generator: torch.Generator) -> Edits:
    """Thoughts (P, K + 1) with one token replaced, or cut."""
    vocabulary: Any = policy.vocabulary
    content = (own != vocabulary.pad) & (own != vocabulary.end)
    first, words = vocabulary.first_thought, len(vocabulary) - vocabulary.first_thought
    steps = torch.randint(1, max(words, 2), own.shape, generator=generator).to(own.device)
    other = (first + (own - first + steps) % max(words, 1)).where(content, own)
    column = torch.arange(own.shape[1], device=own.device)
    lengths = content.sum(1)
    longest, everyone = min(int(lengths.max()), MAX_POSITIONS), torch.ones_like(lengths).bool()
    found = {f"replaced/t{k + 1}": (other.where(column == k, own), content[:, k])
             for k in range(longest if words > 1 else 0)}
    for k in range(longest + 1):
        cut = own.masked_fill(column > k, vocabulary.pad)
        cut[:, k] = vocabulary.end
        found[f"truncated/{k}"] = cut.where((lengths > k)[:, None], own), everyone
    return found


def latent_edited(policy: Policy, own: Tensor, generator: torch.Generator) -> Edits:
    """Thoughts (P, K, D) with one vector replaced by a normal one of the same mean and standard
    deviation at its position, or cut.
    """
    other = latent_replacements(own, generator)["random"]
    place = torch.arange(own.shape[1], device=own.device)[:, None]
    longest, everyone = min(own.shape[1], MAX_POSITIONS), own.new_ones(len(own)).bool()
    return {**{f"replaced/t{k + 1}": (other.where(place == k, own), everyone)
               for k in range(longest)},
            **{f"truncated/{k}": (own[:, :k], everyone) for k in range(longest + 1)}}


def dimensions(vectors: Tensor) -> float:
    r"""The number of directions in which vectors (P, K, D) vary, mean over positions: the
    participation ratio
    :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2` of their covariance's eigenvalues; 0 of equal
    vectors.
    """
    same = flat(vectors.flatten(1).T).view(vectors.shape[1:])  # up to rounding
    centred = (vectors - vectors.mean(0)).masked_fill(same, 0.0).double()
    covariance = torch.einsum("pki,pkj->kij", centred, centred) / len(vectors)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    return float((trace.square() / covariance.square().sum((1, 2)).clamp_min(1e-30)).mean())


def thought_statistics(policy: Policy, rollouts: Rollouts) -> dict[str, float]:
    """Length, token entropy, distinct thoughts, and mutual information with the answer.

    Entropies and mutual informations are in nats. `meaning/t<k>/<feature>` is the mutual
    information of thought token k with a feature of the answer (units, tens, ...).
    """
    thought, problems = rollouts.thought, rollouts.problems
    answers = row_codes(problems.answer)
    codes = row_codes(thought)
    content = thought[(thought != problems.pad) & (thought != policy.vocabulary.end)]
    pairs = (rollouts.lengths - 1).clamp_min(0)
    found = {"thought/length": float(rollouts.lengths.float().mean()),
             "thought/token_entropy": count_entropy(content) if len(content) else 0.0,
             "thought/repetition": float(rollouts.repeats.sum() / pairs.sum().clamp_min(1)),
             "thought/distinct": float(codes.max() + 1),
             "thought/answer_information": mutual_information(codes, answers),
             "answer/entropy": count_entropy(answers)}
    for position in range(thought.shape[1] - 1):
        for name, value in problems.features.items():
            found[f"meaning/t{position + 1}/{name}"] = mutual_information(thought[:, position],
                                                                          value)
    return found


def _rows(policy: QuestionPolicy, problems: Problems, thought: Tensor, texts: list[str],
          right: Tensor) -> list[dict[str, Any]]:
    """Table rows: question, thought and answer as text."""
    text = policy.vocabulary.text
    replies = by_parts(policy.reply, problems, thought)
    replies = replies.where(problems.answer != problems.pad, problems.pad)
    columns = zip(problems.question.tolist(), texts, replies.tolist(), problems.answer.tolist(),
                  right.tolist(), strict=True)
    return [{"id": number, "question": text(question), "thought": said, "answer": text(reply),
             "gold": text(gold), "correct": int(correct)}
            for number, (question, said, reply, gold, correct) in enumerate(columns)]
