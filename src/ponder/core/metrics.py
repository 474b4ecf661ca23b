"""Every number of metrics.jsonl with its unit and a sentence.

docs/metrics.md is made by `python -m ponder.core.metrics`. A `*` stands for any word. A line of
metrics.jsonl has the numbers that are due at its step; null stands for one that is not finite.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import NamedTuple


class Metric(NamedTuple):
    name: str
    unit: str
    meaning: str


# The columns of generated.csv, of every task; where a task has nothing to say a cell is empty.
COLUMNS = {
    "id": "of the question", "subject": "of the question", "question": "as it is asked",
    "thought": "what the thinker wrote (rationale in earlier versions); of a corpus the text",
    "answer": "that was given", "gold": "the right answer", "correct": "1 or 0",
    "states": "what is true after each step of the question",
    "reward": "that was earned", "unread": "why no answer could be read from a text: none, several",
    "logprob": "of the thought under the policy that wrote it", "seed": "of sampling",
    "end": "what ended a text; nothing where it was cut", "tokens": "of the thought",
    "numbers": "the first ones of continuous thoughts"}
METRICS: dict[str, list[Metric]] = {
    "Where the run stands": [
        Metric("step", "steps", "optimizer steps done"),
        Metric("last_step", "steps", "the last step of the run, as far as it is known"),
        Metric("epoch", "rounds", "rounds of sampling and learning that are complete"),
        Metric("seconds", "s", "training alone: no evaluation, logging or saving"),
        Metric("steps_per_second", "1/s", "over the whole run so far"),
        Metric("rollouts_per_second", "1/s", "sampled or found, over the whole run so far"),
        Metric("lr", "", "learning rate of this step"),
    ],
    "Losses of the last optimizer step, over its own denominators": [
        Metric("loss", "nats", "the loss that is minimised: thinker_loss + answer_loss - "
                               "entropy * thought_entropy"),
        Metric("thinker_loss", "as the strategy's", "the strategy's loss; of policy gradients only "
                                                    "its gradient has a meaning"),
        Metric("answer_loss", "nats", "-log p(answer | what the answerer sees), mean over the "
                                      "rows it learns from"),
        Metric("grad_norm", "", "norm of the gradient of all networks, before clipping"),
        Metric("skipped", "0 or 1", "1: loss or gradient was not finite, so no step was taken"),
        Metric("thought_entropy", "nats", "entropy of the thinker's next token, mean over the "
                                          "tokens that are learnt from"),
        Metric("clip_fraction", "share", "tokens whose ratio was clipped (grpo, ppo)"),
        Metric("kl", "nats", "KL to the reference policy, by the estimator of the strategy "
                           "(reinforce: k3), mean over tokens"),
        Metric("kl_old", "nats", "KL to the policy that sampled the round (k3)"),
        Metric("value_loss", "reward squared", "half the squared error of the value head (ppo)"),
        Metric("ranking_accuracy", "share", "pairs whose right rollout gained more (dpo)"),
        Metric("margin", "nats", "reward_won - reward_lost, mean over pairs (dpo)"),
        Metric("reward_won", "nats", "beta log p/q of the right rollouts (dpo)"),
        Metric("reward_lost", "nats", "beta log p/q of the wrong rollouts (dpo)"),
    ],
    "Evaluations on text": [
        Metric("val/loss", "nats", "-log p(next token), mean over the positions of held-out text"),
        Metric("val/loss_stderr", "nats", "its standard error over passages"),
        Metric("val/bits_per_byte", "bits", "the same per byte of text, whatever the tokens"),
        Metric("val/loss_without", "nats", "-log p(next token) without a thought, of a model that "
                                           "thinks"),
        Metric("val/gain", "nats", "val/loss_without - val/loss: what thoughts are worth"),
        Metric("necessity_loss/*", "nats", "the loss with own, shuffled, random, constant, dropped "
                                           "thoughts"),
    ],
    "Evaluations of continued text: one sample for every held-out prompt": [
        Metric("val/reward", "as the reward's", "reward of a continuation, mean over prompts"),
        Metric("val/reward_stderr", "as the reward's", "its standard error"),
        Metric("val/reward/*", "as the reward's", "one of the rewards, before its weight"),
        Metric("val/kl", "nats", "KL to the reference of a whole continuation"),
        Metric("val/kl_stderr", "nats", "its standard error over prompts"),
        Metric("val/entropy", "nats", "entropy of the next token, mean over the sampled tokens"),
        Metric("text/distinct", "share", "distinct continuations among all"),
        Metric("text/distinct_2", "share", "distinct pairs of neighbouring tokens among all"),
        Metric("text/thoughts", "share", "thought tokens among the sampled tokens"),
        Metric("text/plausibility", "nats", "log p of an ordinary token by model.ref_name, which "
                                            "sees no thought tokens (reward=plausibility)"),
    ],
    "The last round": [
        Metric("reward", "as the reward's", "mean reward of a rollout"),
        Metric("flat_groups", "share", "groups of equal rewards, from which nothing is learnt"),
        Metric("difficulty", "nats", "-log p, without a thought, of the tokens that thoughts "
                                     "predict"),
        Metric("reward_difficulty", "correlation", "of reward and difficulty over the rollouts: "
                                                   "negative where easy tokens earn more"),
        Metric("credit_difficulty", "correlation", "of credit and difficulty"),
        Metric("thought/said", "thoughts", "thoughts of a row that are the thinker's own; the "
                                           "others are gold (continuous or gumbel)"),
        Metric("failed", "share", "questions without a right answer, before any hint"),
        Metric("rationalised", "share", "of the failed questions, right with the answer as a hint"),
    ],
    "The search of a language (rollout.method=balanced)": [
        Metric("language/positions", "tokens", "positions of the code whose search has begun"),
        Metric("language/frozen", "tokens", "positions whose labels are fixed"),
        Metric("language/restarts", "times", "restarts of the thinker from new initial weights"),
        Metric("language/change", "share", "labels of the last position that changed recently"),
        Metric("language/known", "share", "labels of the last position that the thinker predicts"),
        Metric("language/codes", "codes", "distinct codes among the answers"),
    ],
    "An engine that writes texts (rollout.engine=transformers or vllm)": [
        Metric("engine/logprob_gap", "nats", "mean absolute difference between its "
               "log-probabilities and those of our own forward pass, of engine.rescored rows, when "
               "weights were last handed over; the run ends above engine.gap"),
        Metric("engine/logprob_gap_max", "nats", "the largest of these differences"),
        Metric("engine/weight", "", "mean importance weight of the tokens of a round, as limited "
               "(strategy.engine_correction)"),
        Metric("engine/limited", "share", "tokens whose weight was truncated or masked"),
    ],
    "A curriculum (trainer.curriculum) and growing thoughts (rollout.method=grow)": [
        Metric("curriculum/level", "level", "the hardest level of difficulty that has begun"),
        Metric("curriculum/falls", "times", "returns to a level that was no longer right"),
        Metric("curriculum/accuracy", "share", "right greedy answers to new training questions of "
                                               "the hardest level, when last looked at"),
        Metric("grow/begun_right", "share", "of the questions of a round, those whose easier "
                                            "version is answered rightly after the thinker's own "
                                            "thought about it; the others teach nothing"),
        Metric("grow/steps_used", "share", "of the possible steps, those that the last round chose "
                                           "at the end of its longest thoughts"),
    ],
    "An evaluation: held-out questions, answered greedily": [
        Metric("accuracy", "share", "right answers; of continued texts, those whose reward reaches "
                                    "task.enough"),
        Metric("accuracy_stderr", "share", "its binomial standard error"),
        Metric("accuracy/*", "share", "accuracy of a group of questions, such as those of 3 "
                                      "digits, of a subject or of a language"),
        Metric("asked/accuracy", "share", "right answers to four other questions about each "
               "thought, of those that training draws from (thinker.asked)"),
        Metric("unasked/accuracy", "share", "the same of questions that training never asks "
               "(task.unasked)"),
        Metric("necessity/own", "share", "the same as accuracy"),
        Metric("necessity/shuffled", "share", "right with the thoughts of other questions"),
        Metric("necessity/random", "share", "right with random tokens, equally many; with "
               "continuous thoughts: normal vectors of the same mean and deviation"),
        Metric("necessity/constant", "share", "right with one token repeated, equally often; with "
               "continuous thoughts: their mean"),
        Metric("necessity/dropped", "share", "right with no thought"),
        Metric("necessity/replaced/t*", "share", "right with one token alone replaced by a random "
               "other one, of the first 128 questions whose thought has it: which steps matter"),
        Metric("necessity/truncated/*", "share", "right with so many tokens of the thought alone, "
               "of the first 128 questions: how early the answer is there"),
        Metric("thought/length", "tokens", "mean length of a thought, without end-of-thought"),
        Metric("thought/token_entropy", "nats", "entropy of how often each thought token is used"),
        Metric("thought/repetition", "share", "thought tokens that repeat the one before"),
        Metric("thought/distinct", "thoughts", "number of distinct thoughts"),
        Metric("thought/answer_information", "nats", "mutual information of thought and answer"),
        Metric("answer/entropy", "nats", "entropy of the right answers: the most that thoughts can "
                                       "tell about them"),
        Metric("thought/norm", "-", "mean norm of continuous thoughts; their other numbers are "
                                    "those of their most likely tokens"),
        Metric("thought/dimensions", "directions", "in which continuous thoughts vary: the "
                                                   "participation ratio of their covariance"),
        Metric("meaning/t*/step", "nats", "mutual information of a token of the thought and what "
               "is true after as many steps of the question, without what chance adds"),
        Metric("meaning/t*/*", "nats", "mutual information of a token of the thought and a "
                                       "property of the answer, such as its units digit"),
        Metric("thought/state_agreement", "share", "steps whose state is the one that their token "
               "means most often: one dictionary for all positions"),
        Metric("thought/state_agreement_one_to_one", "share", "the same where each state also has "
               "a token of its own"),
        Metric("thought/state_agreement_by_position", "share", "the same as "
               "thought/state_agreement with a dictionary of its own for each position"),
        Metric("thought/codes", "tokens", "distinct tokens that thoughts use"),
        Metric("thought/states_apart", "share", "of the states that occur, those whose most "
               "frequent token means them most often: a state that shares its token with a more "
               "frequent one is none of them"),
        Metric("swap/same_state", "share", "answers that stay as they are where a token is "
               "replaced by another thought's at the same step, with the same true state (the "
               "longest questions, up to 128; all questions asked about a thought)"),
        Metric("swap/other_state", "share", "answers that are those of the other state where the "
               "last token is replaced by one of another true state"),
        Metric("swap/earlier_state", "share", "answers that are those of the state to which the "
               "further steps lead, where an earlier token is replaced by one of another true "
               "state and the thinker goes on from there; where that leads to another last state"),
        Metric("swap/before", "share", "the same answers as those of swap/other_state without the "
               "swap: what an ignored thought would have"),
        Metric("thought/topographic_similarity", "correlation", "of how different two thoughts are "
               "and how many of the states (else of the properties of the answer) differ: "
               "Spearman's, 128 thoughts in pairs"),
        Metric("thought/positional_disentanglement", "share", "of the entropy of a token, how much "
               "more it says about one state (or property) than about any other; mean over "
               "positions"),
    ],
    "An evaluation of thoughts in text, besides": [
        Metric("generated/accuracy", "share", "right by the letter that the text gives as its "
                                              "answer (task.answer=generated, of options)"),
        Metric("letter/accuracy", "share", "right by the most likely letter after the text "
                                           "(task.answer=letter or generated)"),
        Metric("cloze/accuracy", "share", "right by the most likely option after the text, by "
                                          "task.score_per (task.answer=cloze)"),
        Metric("chance", "share", "accuracy of guessing among the options; 0 where there are "
                                  "none"),
        Metric("pass@*", "share", "questions with a right answer in so many samples"),
        Metric("majority@*", "share", "right by the most frequent answer of so many samples; ties "
                                         "are split"),
        Metric("mixed/questions", "share", "questions with both right and wrong samples"),
        Metric("mixed/accuracy", "share", "right samples of these questions"),
        Metric("text/unparsable", "share", "texts without a readable answer"),
        Metric("text/truncated", "share", "texts that were cut off at thinker.tokens"),
        Metric("text/degenerate", "share", "texts that end with a passage three times in a row, or "
                                           "twice if it has more than 16 tokens"),
        Metric("val/*", "as the loss's", "a loss of the rollouts in trainer.preload_data_for_val, "
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
    """A rate as text, with two digits where it is below 1."""
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def known(name: str) -> bool:
    """Whether a metric is described here."""
    return any(fnmatchcase(name, metric.name) for part in METRICS.values() for metric in part)


def page() -> str:
    """The whole page as Markdown."""
    lines = ["# Every number of metrics.jsonl", "",
             "Made by `python -m ponder.core.metrics`. null says that a number was not finite."]
    for title, metrics in METRICS.items():
        lines += ["", f"## {title}", "", "| name | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in metrics]
    lines += ["", "## The columns of generated.csv", "", "| column | meaning |", "|---|---|"]
    lines += [f"| `{column}` | {meaning} |" for column, meaning in COLUMNS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
