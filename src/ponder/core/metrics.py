"""One place for numbers: every quantity of metrics.jsonl with its unit and a sentence.

docs/metrics.md is made by `python -m ponder.core.metrics`. A `*` stands for any word. A line of
metrics.jsonl holds those that are due; null says "not finite".
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import NamedTuple


class Metric(NamedTuple):
    name: str
    unit: str
    meaning: str


METRICS: dict[str, list[Metric]] = {
    "Where the run stands": [
        Metric("step", "steps", "optimizer steps done"),
        Metric("last_step", "steps", "the last step of the run, as far as is known by now"),
        Metric("epoch", "rounds", "rounds of sampling and learning that are complete"),
        Metric("seconds", "s", "training alone: no evaluation, logging or saving"),
        Metric("steps_per_second", "1/s", "over the whole run so far"),
        Metric("rollouts_per_second", "1/s", "sampled or found, over the whole run so far"),
        Metric("lr", "", "learning rate of this step"),
    ],
    "Losses of the last optimizer step, over its own denominators": [
        Metric("loss", "nats", "what is minimised: thinker_loss + answer_loss - entropy * "
                               "thought_entropy"),
        Metric("thinker_loss", "as the strategy's", "the strategy's loss; of policy gradients only "
                                                    "the gradient has a meaning"),
        Metric("answer_loss", "nats", "-log p(answer | what the answerer sees), a mean over the "
                                      "rows it learns from"),
        Metric("grad_norm", "", "norm of the gradient of all players, before it is clipped"),
        Metric("skipped", "0 or 1", "loss or gradient was not finite, so nothing was learnt"),
        Metric("thought_entropy", "nats", "entropy of the thinker's next token, a mean over the "
                                          "tokens that learn"),
        Metric("clip_fraction", "share", "tokens whose gradient the clip took (grpo, ppo)"),
        Metric("kl", "nats", "KL to the reference policy, by the estimator of the strategy "
                           "(reinforce: k3), a mean over tokens"),
        Metric("kl_old", "nats", "KL to the policy that sampled the round (k3)"),
        Metric("value_loss", "reward squared", "half the squared error of the value head (ppo)"),
        Metric("ranking_accuracy", "share", "pairs whose right rollout gained more (dpo)"),
        Metric("margin", "nats", "beta times how much more (dpo)"),
        Metric("reward_won", "nats", "beta log p/q of the right rollouts (dpo)"),
        Metric("reward_lost", "nats", "beta log p/q of the wrong rollouts (dpo)"),
    ],
    "Evaluations on text": [
        Metric("val/loss", "nats", "-log p(next token), a mean over the places of held-out text"),
        Metric("val/loss_stderr", "nats", "its standard error over passages"),
        Metric("val/bits_per_byte", "bits", "the same per byte of text, whatever the tokens"),
        Metric("val/loss_without", "nats", "-log p(next token) without a thought, of a model that "
                                           "thinks"),
        Metric("val/gain", "nats", "what thoughts take off the loss"),
        Metric("necessity_loss/*", "nats", "the loss with own, shuffled, random, constant, dropped "
                                           "thoughts"),
    ],
    "Evaluations of continued texts: a sampled one of every held-out prompt": [
        Metric("val/reward", "as the reward's", "what a continuation earns, a mean over prompts"),
        Metric("val/reward_stderr", "as the reward's", "its standard error"),
        Metric("val/reward/*", "as the reward's", "one of the rewards, before its weight"),
        Metric("val/kl", "nats", "KL to the reference of a whole continuation"),
        Metric("val/kl_stderr", "nats", "its standard error over prompts"),
        Metric("val/entropy", "nats", "of the next token, a mean over the tokens written"),
        Metric("text/distinct", "share", "different continuations among all"),
        Metric("text/distinct_2", "share", "different pairs of neighbouring tokens among all"),
        Metric("text/thoughts", "share", "thought tokens among the tokens written"),
        Metric("text/plausibility", "nats", "log p of an ordinary token by model.ref_name, which "
                                            "sees no thought tokens (reward=plausibility)"),
    ],
    "The last round": [
        Metric("reward", "as the reward's", "mean reward of a rollout"),
        Metric("flat_groups", "share", "groups whose rewards are all equal, which teach nothing"),
        Metric("difficulty", "nats", "-log p without a thought of the tokens that thoughts are "
                                     "about"),
        Metric("reward_difficulty", "correlation", "of reward and difficulty over the rollouts: "
                                                   "below 0 where easy tokens pay"),
        Metric("credit_difficulty", "correlation", "of credit and difficulty: what is left of it"),
        Metric("thought/said", "thoughts", "of a row that are the thinker's own, the others gold "
                                           "(continuous or gumbel)"),
        Metric("failed", "share", "questions without a right answer, before any hint"),
        Metric("rationalised", "share", "of these, right with the answer as a hint"),
    ],
    "The search of a language (rollout.method=balanced)": [
        Metric("language/positions", "tokens", "positions of the code that have begun"),
        Metric("language/frozen", "tokens", "positions whose labels move no more"),
        Metric("language/restarts", "times", "the thinker began anew from other weights"),
        Metric("language/change", "share", "labels of the last position that moved lately"),
        Metric("language/known", "share", "of the last position's labels the thinker would choose"),
        Metric("language/codes", "codes", "distinct codes among the answers"),
    ],
    "An evaluation: held-out questions, answered greedily": [
        Metric("accuracy", "share", "answers that are right; of continued texts those that earn "
                                    "task.enough"),
        Metric("accuracy_stderr", "share", "its binomial standard error"),
        Metric("accuracy/*", "share", "of a group of the questions, such as those of 3 digits, "
                                      "of a subject or of a language"),
        Metric("necessity/own", "share", "the same as accuracy"),
        Metric("necessity/shuffled", "share", "right with the thoughts of other questions"),
        Metric("necessity/random", "share", "right with thoughts of random tokens, as long; where "
               "thoughts are vectors: of normal ones, with their means and deviations"),
        Metric("necessity/constant", "share", "right with thoughts of one token, as long; where "
               "thoughts are vectors: of their mean"),
        Metric("necessity/dropped", "share", "right with no thought"),
        Metric("thought/length", "tokens", "mean length of a thought, without its end"),
        Metric("thought/token_entropy", "nats", "of how often each thought token is used"),
        Metric("thought/repetition", "share", "of thought tokens that repeat the one before"),
        Metric("thought/distinct", "thoughts", "different thoughts among all"),
        Metric("thought/answer_information", "nats", "mutual information of thought and answer"),
        Metric("answer/entropy", "nats", "of the right answers: the most a thought can say"),
        Metric("thought/norm", "-", "mean length of the vectors of continuous thoughts, of which "
                                    "everything else is told as if each were its likeliest token"),
        Metric("thought/dimensions", "directions", "that continuous thoughts vary in: "
                                                   "participation ratio of their covariance"),
        Metric("meaning/t*/*", "nats", "mutual information of a token of the thought and a "
                                       "property of the answer, such as its units digit"),
    ],
    "An evaluation of written thoughts, besides": [
        Metric("generated/accuracy", "share", "right by the letter that a text gives as its "
                                              "answer (task.answer=generated)"),
        Metric("letter/accuracy", "share", "right by the likeliest letter behind the text (letter, "
                                           "and beside generated)"),
        Metric("cloze/accuracy", "share", "right by the likeliest choice behind the text, per byte "
                                          "of the choice (cloze)"),
        Metric("chance", "share", "right by guessing among the options"),
        Metric("pass@*", "share", "questions of whose so many texts some answers right"),
        Metric("majority@*", "share", "right by the answer most of so many texts give; ties split"),
        Metric("mixed/questions", "share", "questions with both right and wrong texts"),
        Metric("mixed/accuracy", "share", "texts about these that answer right"),
        Metric("text/unparsable", "share", "texts out of which no answer can be read"),
        Metric("text/truncated", "share", "texts that were cut off at thinker.tokens"),
        Metric("text/degenerate", "share", "texts that end by saying the same three times on end"),
        Metric("val/*", "as the loss's", "a loss of the rollouts of trainer.preload_data_for_val, "
                                         "from which nothing is learnt"),
    ],
}


def wilson_interval(share: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """(low, high) of the interval of Wilson (1927) for a share of `count` trials, by default 95 %.

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Unlike p ± z stderr it stays within 0
    and 1, and has a width where p is 0 or 1.
    """
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def pace(rate: float) -> str:
    """A rate as people read it: large models take many seconds a step."""
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def known(name: str) -> bool:
    """Whether a quantity has its place here."""
    return any(fnmatchcase(name, metric.name) for part in METRICS.values() for metric in part)


def page() -> str:
    """The whole page as Markdown."""
    lines = ["# Every number of metrics.jsonl", "",
             "Made by `python -m ponder.core.metrics`. null says that a number was not finite."]
    for title, metrics in METRICS.items():
        lines += ["", f"## {title}", "", "| name | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in metrics]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
