r"""Monte-Carlo tree search over thoughts, all questions of a batch in step.

A simulation descends by PUCT (Rosin 2011, Silver et al. 2017)

.. math:: a = \arg\max_a \bar Q(s, a) + c\, p(a \mid s) \frac{\sqrt{\sum_b N(s, b)}}{1 + N(s, a)}

with p the thinker's distribution and Q scaled to 0..1 within each tree, adds one node, values it by
"how good would the answer be if the thought ended here", and backs the value up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ponder.config.option import option
from ponder.config.registry import search
from ponder.core.lazy_imports import F, Tensor, no_grad, torch
from ponder.core.types import Problems, Rollouts, Scores
from ponder.rollouts import Source, given
from ponder.rollouts.search import best, close, leaf_values

if TYPE_CHECKING:
    from ponder.models.gpt2.layers import Shape
    from ponder.models.gpt2.model import ValueModel
    from ponder.models.policies.base import Policy


@dataclass
class TreeConfig:
    """Monte-Carlo tree search over thoughts."""

    simulations: int = option(32, "simulations per question", low=1)
    exploration: float = option(1.0, "PUCT exploration constant", low=0)
    value: str = option("answerer", "leaf value: the answerer's, or a learnt value model's",
                        legal=("answerer", "model"))
    value_lr: float = option(1e-3, "learning rate of the value model", low=0)


@search("tree", keys=TreeConfig)
class Tree(Source):
    """Monte-Carlo tree search; its best endpoints are the group."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.value: ValueModel | None = None
        self.optimizer: torch.optim.Optimizer | None = None

    @no_grad
    def collect(self, policy: Policy, problems: Problems, step: int,
                generator: torch.Generator | None = None) -> Rollouts:
        if self.config.tree.value == "model" and self.value is None:
            from ponder.models.gpt2.model import Transformer

            net = policy.thinker
            assert isinstance(net, Transformer)
            self._build_value(net.shape, problems.question.device)
        simulations = self.config.tree.simulations
        forest = Forest(policy, problems, simulations)
        for number in range(simulations):
            policy.on_progress("simulation", number, simulations)
            forest.simulate(self.config.tree.exploration, self._leaf)
        policy.on_progress("simulation", simulations, simulations)
        prefixes, values = forest.endpoints()
        prefixes = complete(policy, problems, prefixes)
        thought = best(problems, prefixes, values, self.config.samples, policy.vocabulary.end)
        return given(problems, thought, self.config.samples)

    def _leaf(self, policy: Policy, problems: Problems, prefixes: Tensor) -> Tensor:
        """(P,): value of one prefix (P, K) a problem."""
        if self.value is None:
            return leaf_values(policy, problems, prefixes[:, None])[:, 0]
        return self.value(torch.cat([problems.question, prefixes], 1), problems.pad)

    def _build_value(self, shape: Shape, device: torch.device) -> None:
        from ponder.models.gpt2.model import ValueModel

        self.value = ValueModel(shape).to(device)
        self.optimizer = torch.optim.AdamW(self.value.parameters(), lr=self.config.tree.value_lr)

    def state(self) -> dict[str, Any]:
        if self.value is None or self.optimizer is None:
            return {}
        return {"value": self.value.state_dict(), "optimizer": self.optimizer.state_dict(),
                "shape": asdict(self.value.trunk.shape)}

    def load(self, state: dict[str, Any]) -> None:
        if state:
            weights = state["value"]
            device = next(iter(weights.values())).device
            from ponder.models.gpt2.layers import Shape

            self._build_value(Shape(**state["shape"]), device)
            assert self.value is not None and self.optimizer is not None
            self.value.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])

    def observe(self, policy: Policy, rollouts: Rollouts, scores: Scores) -> None:
        """Fit the value model to the answerer's value of every prefix of the thoughts found."""
        if self.value is None or self.optimizer is None:
            return
        problems = rollouts.problems[torch.arange(len(rollouts.problems)).repeat_interleave(
            rollouts.samples)]
        count = rollouts.thought.shape[1] - 1
        columns = torch.arange(count, device=rollouts.thought.device)
        thought = rollouts.thought[:, :-1].clone()
        thought[thought == policy.vocabulary.end] = problems.pad
        prefixes = torch.where(columns <= columns[:, None], thought[:, None], problems.pad)
        target = leaf_values(policy, problems, prefixes).flatten()
        question = problems.question.repeat_interleave(count, 0)
        with torch.enable_grad():
            guess = self.value(torch.cat([question, prefixes.flatten(0, 1)], 1), problems.pad)
            loss = F.mse_loss(guess, target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class Forest:
    """One tree a problem as arrays: node 0 is the empty thought, at most M nodes, V actions."""

    def __init__(self, policy: Policy, problems: Problems, simulations: int) -> None:
        self.policy, self.problems = policy, problems
        vocabulary, tokens = policy.vocabulary, policy.rules.tokens
        trees, nodes, words = len(problems), simulations + 1, vocabulary.thoughts
        device = problems.question.device
        self.words = torch.arange(vocabulary.first_thought, len(vocabulary), device=device)
        self.rows = torch.arange(trees, device=device)
        self.prefix = torch.full((trees, nodes, tokens), problems.pad, device=device)
        self.depth = torch.zeros(trees, nodes, dtype=torch.long, device=device)
        self.value = torch.full((trees, nodes), -torch.inf, device=device)
        self.child = torch.full((trees, nodes, words), -1, device=device)
        self.visits = torch.zeros(trees, nodes, words, device=device)
        self.total = torch.zeros(trees, nodes, words, device=device)
        self.prior = torch.zeros(trees, nodes, words, device=device)
        self.used = torch.ones(trees, dtype=torch.long, device=device)
        self._set_prior(torch.zeros_like(self.rows))

    def _set_prior(self, node: Tensor) -> None:
        """The thinker's distribution over thought tokens after each tree's node (trees,)."""
        prefix = self.prefix[self.rows, node]
        thought = close(prefix, self.policy.vocabulary.end, self.problems.pad)
        logits = self.policy.decisions(self.problems, thought, 1)
        at = self.depth[self.rows, node].clamp_max(prefix.shape[1] - 1)
        logits = logits[self.rows, at][:, -len(self.words):]
        self.prior[self.rows, node] = logits.float().softmax(-1)

    def simulate(self, exploration: float, leaf) -> None:
        """One simulation in every tree: select, expand, evaluate, back up."""
        node = torch.zeros_like(self.rows)
        path = []
        active = torch.ones_like(self.rows, dtype=torch.bool)
        for _ in range(self.prefix.shape[2]):
            action = self._select(node, exploration)
            path.append((node, action, active))
            after = self.child[self.rows, node, action]
            fresh = active & (after < 0)
            self._expand(node, action, fresh)
            after = self.child[self.rows, node, action].clamp_min(0)
            node = torch.where(active, after, node)
            active = active & ~fresh
            active = active & (self.depth[self.rows, node] < self.prefix.shape[2])
        new = torch.isinf(self.value[self.rows, node])
        values = leaf(self.policy, self.problems, self.prefix[self.rows, node])
        value = torch.where(new, values, self.value[self.rows, node])
        self.value[self.rows, node] = value
        self._set_prior(node)
        for at, action, on in path:
            self.visits[self.rows, at, action] += on
            self.total[self.rows, at, action] += torch.where(on, value, 0.0)

    def _select(self, node: Tensor, exploration: float) -> Tensor:
        visits = self.visits[self.rows, node]
        q = self.total[self.rows, node] / visits.clamp_min(1)
        seen = self.value.masked_fill(torch.isinf(self.value), torch.nan)
        low = torch.nan_to_num(seen, nan=torch.inf).amin(1, keepdim=True)
        high = torch.nan_to_num(seen, nan=-torch.inf).amax(1, keepdim=True)
        scaled = ((q - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
        scaled = torch.where(visits > 0, scaled, 0.5)
        bonus = self.prior[self.rows, node] * visits.sum(1, keepdim=True).sqrt() / (1 + visits)
        first = 1e-6 * self.prior[self.rows, node]
        return (scaled + exploration * bonus + first).argmax(1)

    def _expand(self, node: Tensor, action: Tensor, fresh: Tensor) -> None:
        rows = self.rows[fresh]
        if len(rows) == 0:
            return
        parent, action, new = node[fresh], action[fresh], self.used[fresh]
        self.child[rows, parent, action] = new
        depth = self.depth[rows, parent]
        self.prefix[rows, new] = self.prefix[rows, parent]
        self.prefix[rows, new, depth] = self.words[action]
        self.depth[rows, new] = depth + 1
        self.used[fresh] += 1

    def endpoints(self) -> tuple[Tensor, Tensor]:
        """(prefixes (trees, M, K), values (trees, M)): nodes where a thought may end.

        With a fixed length these are the full ones; where a tree has none, its deepest nodes.
        """
        values = self.value.clone()
        if not self.policy.rules.stops:
            deepest = self.depth.amax(1, keepdim=True)
            values[self.depth < deepest] = -torch.inf
        return self.prefix, values


def complete(policy: Policy, problems: Problems, prefixes: Tensor) -> Tensor:
    """Fixed-length thoughts: fill what is missing of prefixes (P, n, K) by the thinker's choice."""
    if policy.rules.stops or not bool((prefixes == problems.pad).any()):
        return prefixes
    count, tokens = prefixes.shape[1:]
    rows = prefixes.flatten(0, 1).clone()
    for column in range(tokens):
        missing = rows[:, column] == problems.pad
        if missing.any():
            thought = F.pad(rows, (0, 1), value=policy.vocabulary.end)
            logits = policy.decisions(problems, thought, count)[:, column]
            choice = logits.argmax(-1) + policy.allowed.start
            rows[:, column] = torch.where(missing, choice, rows[:, column])
    return rows.view_as(prefixes)
