"""Keys of the networks, the thinker, the answerer, and of how thoughts are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ponder.config.engine import ENGINES
from ponder.config.option import option, schedule
from ponder.config.registry import SEARCHES, STRATEGIES, TASKS

if TYPE_CHECKING:
    from ponder.config.spine import Config

ROLES = ("question", "thought")
KINDS = ("tokens", "continuous", "gumbel")
TODAY = "2024-07-26"  # the date of a run is no part of what it is


@dataclass
class ModelConfig:
    """A GPT-2 of any size, or a checkpoint."""

    offers = frozenset({"own_network"})
    presets = ("tiny", "small", "nano")

    kind: str = option("transformer", "a GPT-2 of our own", legal=("transformer",))
    name: str | None = option(None, "checkpoint directory to start from")
    ref_name: str | None = option(None, "checkpoint of the reference model (reward=reference, "
                                  "reward=plausibility)")
    d_model: int = option(64, "width", low=4)
    layers: int = option(2, "number of blocks", low=1)
    heads: int = option(4, "attention heads", low=1)
    positions: str = option("learned", "position embedding", legal=("learned", "sinusoidal"))
    init_std: float = option(0.3, "standard deviation of the initial matrices (GPT-2: 0.02)", low=0)
    query_key_std: float = option(0.1, "of those that make queries and keys (GPT-2: 0.02)", low=0)
    embedding_std: float = option(1.0, "of the token embeddings (GPT-2: 0.02)", low=0)
    position_std: float = option(0.3, "of learned position embeddings (GPT-2: 0.02)", low=0)
    head_std: float = option(0.1, "of a head that is not tied to the embeddings", low=0)
    tie_embeddings: bool = option(False, "input and output embeddings share their weights")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.d_model % self.heads:
            yield (f"model.heads={self.heads}: found no divisor of model.d_model={self.d_model}; "
                   "legal: a divisor")
        if self.positions == "sinusoidal" and self.d_model % 2:
            yield (f"model.d_model={self.d_model}: found an odd width, but sinusoidal positions "
                   "come in pairs; legal: an even width, or model.positions=learned")


@dataclass
class HfConfig:
    """A causal language model of Hugging Face, whole or with LoRA adapters (peft)."""

    offers = frozenset({"hf_model"})
    presets = ("hf", "smollm2", "gpt2")

    kind: str = option("hf", "a Hugging Face model", legal=("hf",))
    name: str | None = option(None, "name on the hub, or directory: a model, a peft adapter, or a "
                              "checkpoint of an earlier run")
    base: str | None = option(None, "the model that the adapter model.name (or model.ref_name) "
                              "belongs to; null: the one that it names, looked for beside it, "
                              "in the directories above, here, and on the hub")
    ref_name: str | None = option(None, "reference model of dpo and kl; null: the model as it "
                                  "began (with LoRA: the same weights without the adapter). With "
                                  "reward=plausibility: the model that judges; there is no KL then")
    chat_name: str | None = option(None, "take tokenizer and chat template from this model; null: "
                                   "from the model itself")
    chat: bool = option(True, "use the chat template, where the tokenizer has one")
    date: str = option(TODAY, "what a chat template writes as today's date, so that prompts are "
                       "the same every day: year-month-day")
    dtype: str = option("float32", "of the weights", legal=("float32", "bfloat16"))
    lora_r: int = option(0, "rank of the LoRA adapters; 0: all weights are trained", low=0)
    lora_alpha: float | None = option(None, "scale of the adapters; null: twice the rank", low=0)
    lora_dropout: float = option(0.0, "dropout in front of the adapters", low=0, high=0.9)
    lora_targets: list[str] = option(["all-linear"], "modules that get an adapter, by the end of "
                                     "their name")
    thought_tokens: int = option(0, "so many tokens <t0>, <t1> ... are added to the vocabulary; a "
                                 "thinker may write them among its words. On task=text, "
                                 "and on task=corpus with thinker.writes=both, those of "
                                 "thinker.vocabulary and an end of thoughts, </think>, are added "
                                 "by themselves", low=0)
    thought_init: str = option("mean", "their first embeddings: random, near the mean of all "
                               "words, or those of thought_words",
                               legal=("random", "mean", "words"))
    thought_words: list[str] = option([], "thought_init=words: words whose embeddings the tokens "
                                      "take in turn")
    rows_at_once: int = option(256, "so many texts are written side by side; on task=corpus a "
                               "process writes that many in its turn", low=1)
    checkpointing: bool = option(False, "compute activations again in the backward pass: slower, "
                                 "and far less memory")

    def contradictions(self) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.name is None:
            yield ("model.name=null: found no model; legal: a name on the hub, or a directory")
        if self.thought_init == "words" and not self.thought_words:
            yield ("model.thought_init=words: found model.thought_words=[]; legal: with words, as "
                   "in model.thought_words=[carry,sum]")
        try:
            datetime.fromisoformat(self.date)
        except ValueError:
            yield (f"model.date={self.date}: found no date; legal: year-month-day, as {TODAY}")


@dataclass
class ThinkerConfig:
    """Who writes the thoughts, and in what words."""

    tokens: int = option(0, "at most so many thought tokens before the answer", low=0)
    vocabulary: int = option("${ponder.thought_vocabulary:}", "number of thought tokens that "
                             "exist; computed: 10, or as many as the task's gold thoughts are "
                             "made of, if these are more", low=1)
    stops: bool = option(True, "ends a thought by itself; false: always exactly `tokens`, as "
                         "thoughts of other kinds than tokens are anyway")
    pace: int = option(0, "with stops=false: so many tokens for each move of a question, however "
                       "many moves it has; 0: always `tokens`", low=0, later=True)
    writes: str = option("auto", "what a thought is made of: thought tokens, the tokens of a text, "
                         "or both; auto: text where the task is a corpus, else thoughts",
                         legal=("auto", "thoughts", "text", "both"))
    kind: str = option("tokens", "how thoughts come about: tokens that are sampled; continuous, "
                       "the last hidden states themselves (Coconut); gumbel, tokens drawn by "
                       "Gumbel-softmax with straight-through gradients", legal=KINDS)
    stage_steps: int = option(0, "continuous, gumbel: thoughts begin as the task's gold tokens, "
                              "and every so many steps one more of these, from the front, is "
                              "the thinker's own instead; 0: all are from the start", low=0)
    filler: bool = option(False, "every thought is `tokens` times the same meaningless token, "
                          "which nobody chooses; the one network that reads question and fillers "
                          "learns from the answer alone (Pfau et al. 2024)", later=True)
    asked: int = option(0, "so many questions are asked about each thought, drawn anew, and the "
                        "answerer reads each behind the thought; 0: its own alone", low=0,
                        later=True)

    @property
    def flows(self) -> bool:
        """Whether the answer's likelihood alone teaches what comes before it: gradients flow
        through the thought, or it consists of fillers. Else rewards teach its tokens.
        """
        return self.tokens > 0 and (self.kind != "tokens" or self.filler)

    @property
    def apart(self) -> bool:
        """Whether a thinker writes what an answerer reads, so that they may be two networks."""
        return self.tokens > 0 and not self.filler

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.kind == "tokens" and self.stage_steps:
            yield (f"thinker.stage_steps={self.stage_steps}: found thinker.kind=tokens; legal: 0, "
                   "or thinker.kind=continuous or gumbel")
        if self.kind != "tokens" and self.tokens == 0:
            yield (f"thinker.kind={self.kind}: found thinker.tokens=0; legal: together with think, "
                   "as in think=true")
        if self.filler:
            yield from _fillers_need(config)
        if self.pace:
            yield from _pace_needs(config)
        if self.flows:
            kind = f"found {self.flowing}"
            yield from _learns_from_the_answer(config, kind)
            yield from _differentiable_networks(config, kind)
            yield from _stages_must_end(config)

    @property
    def flowing(self) -> str:
        """The key because of which nothing but the answer teaches, as typed."""
        return "thinker.filler=true" if self.filler else f"thinker.kind={self.kind}"


def _fillers_need(config: Config) -> Iterator[str]:
    """Fillers, and an answerer that sees the question as well: they say nothing about it."""
    thinker, typed = config.thinker, "found thinker.filler=true"
    if thinker.tokens == 0:
        yield ("thinker.filler=true: found thinker.tokens=0; legal: together with think, as in "
               "think=true")
    if thinker.kind != "tokens":
        yield (f"thinker.kind={thinker.kind}: {typed}, whose tokens are given; legal: tokens")
    if "question" not in config.answerer.sees:
        yield (f"variant=blind: {typed}, which say nothing of the question; legal: without blind, "
               "as in variant=[think]")


def _pace_needs(config: Config) -> Iterator[str]:
    """Thoughts that are drawn token by token, and whose end nobody chooses."""
    thinker, typed = config.thinker, f"thinker.pace={config.thinker.pace}"
    if thinker.stops and thinker.tokens:
        yield (f"{typed}: found thinker.stops=true, but the question says how long a thought is; "
               "legal: 0, or with fixed, as in variant=[think,fixed]")
    if thinker.kind != "tokens":
        yield (f"{typed}: found thinker.kind={thinker.kind}, which always makes thinker.tokens; "
               "legal: 0")
    if config.rollout.kind == "search" and config.rollout.method != "grow":
        yield (f"{typed}: found rollout.method={config.rollout.method}, which searches thoughts of "
               "thinker.tokens; legal: 0, or rollout.method=grow")


def _learns_from_the_answer(config: Config, kind: str) -> Iterator[str]:
    """Nothing but log p(answer) has a gradient through the thought."""
    if config.rollout.kind == "search":
        words = "think=true" if config.thinker.filler else "think=true blind=true"
        yield (f"rollout=search: {kind}, which is not searched but learnt through the answer; "
               f"legal: rollout=sample, as in {words}")
    able = [entry.name for entry in STRATEGIES if "flowing" in entry.offers]
    if config.strategy.name not in able:
        yield (f"strategy={config.strategy.name}: {kind}, which learns through the answer and not "
               f"from rewards; legal: {', '.join(able)}, of which nothing but the entropy bonus is "
               "left")
    if config.reward != {"log_likelihood": 1.0}:
        yield (f"reward=[{','.join(config.reward)}]: {kind}, which learns through the answer and "
               "not from rewards; legal: log_likelihood, with weight 1")
    if config.answerer.learns_from == "gold":
        stages = "; with thinker.stage_steps=<steps> thoughts begin as gold ones"
        yield (f"variant=super: {kind}, which learns through the answer; legal: without super"
               f"{stages * (not config.thinker.filler)}")


def _differentiable_networks(config: Config, kind: str) -> Iterator[str]:
    if config.answerer.model == "frozen":
        yield (f"answerer.model=frozen: {kind}, which a frozen copy does not score; legal: shared, "
               "separate")
    if config.trainer.data_parallel == "shard" and not config.thinker.filler:
        yield (f"trainer.data_parallel=shard: {kind}, for which a network is computed several "
               "times a step; legal: replicate")


def _stages_must_end(config: Config) -> Iterator[str]:
    thinker, steps = config.thinker, config.trainer.max_steps
    if config.trainer.learns and thinker.stage_steps * thinker.tokens >= steps:
        most = (steps - 1) // thinker.tokens
        yield (f"thinker.stage_steps={thinker.stage_steps}: found trainer.max_steps={steps}, in "
               f"which not all of {thinker.tokens} gold tokens are taken away; legal: at most "
               f"{most}")


def thought_count(tokens: int, vocabulary: int, stops: bool, enough: int | None = None) -> int:
    """How many thoughts there are; counting ends above `enough`, and at lengths of 64, which are
    more than any use has."""
    count = 0
    for length in range(0 if stops else tokens, tokens + 1):
        count += vocabulary ** min(length, 64)
        if enough is not None and count > enough:
            break
    return count


@dataclass
class AnswererConfig:
    """Who predicts the answer, from what it sees."""

    model: str = option("separate", "same network as the thinker, a second one, or a frozen copy "
                        "that scores thoughts", legal=("shared", "separate", "frozen"))
    sees: list[str] = option(["question", "thought"], "roles in its context", legal=ROLES)
    learns_from: str = option("own", "thoughts it is trained on: the thinker's own or the task's "
                              "gold ones", legal=("own", "gold"))
    refresh_every: int = option(100, "steps between refreshes of the frozen copy", low=1)
    positions: str = option("from_start", "where its positions in a thought count from; from_end: "
                            "what is equally far from the end has the same position in thoughts "
                            "of all lengths", legal=("from_start", "from_end"), later=True)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        kinds = {"model": config.model.kind == "hf", "thinker": config.thinker.flows}
        if self.positions == "from_end":
            for group in (group for group, on in kinds.items() if on):
                yield (f"answerer.positions=from_end: found {group}.kind="
                       f"{getattr(config, group).kind}; legal: from_start, or "
                       f"{group}.kind={'tokens' if group == 'thinker' else 'transformer'}")
            if "answers" not in TASKS[config.task.name].offers:
                yield (f"answerer.positions=from_end: found task={config.task.name}, which has no "
                       "answers; legal: from_start")


@dataclass
class SamplerConfig:
    """How thoughts are drawn; every number may be a schedule."""

    kind: str = option("sample", "thoughts are sampled", legal=("sample",))
    samples: int = option(8, "rollouts per question (G)", low=1)
    temperature: int | float | str = schedule(1.0, "softmax temperature; of "
                                                 "thinker.kind=gumbel, whose tokens are drawn at "
                                                 "1, that of the gradient", low=1e-3)
    top_k: int = option(0, "keep the k likeliest tokens; 0: all", low=0)
    top_p: float = option(1.0, "keep the smallest set with this probability", low=1e-6, high=1.0)
    epsilon: int | float | str = schedule(0.0, "share of uniform exploration mixed in", low=0.0,
                                          high=1.0)
    engine: str = option("own", "who writes the texts of a Hugging Face model: our own decoding, "
                         "continuous batching of transformers, or a vLLM server (engine.*)",
                         legal=ENGINES, later=True)
    gold_share: float = option(0.0, "share of the questions, always the same ones, whose gold "
                               "thoughts are learnt by likelihood beside what rewards teach of "
                               "the others", low=0, high=1, later=True)
    gold_steps: int | None = option(None, "gold thoughts are given in so many steps first, and "
                                    "then rewards alone teach; null: in all steps", low=1,
                                    later=True)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if not self.gold_share:
            if self.gold_steps is not None:
                yield (f"rollout.gold_steps={self.gold_steps}: found rollout.gold_share=0; legal: "
                       "null, or a share above 0")
            return
        typed, name = f"rollout.gold_share={self.gold_share:g}", config.strategy.name
        if config.thinker.flows or config.rollout.kind == "search":
            found = config.thinker.flowing if config.thinker.flows else "rollout=search"
            yield (f"{typed}: found {found}, which samples no thoughts beside the gold ones; "
                   "legal: 0")
        kinds = {entry.name: entry.target for entry in STRATEGIES}
        able = [one for one, kind in kinds.items()
                if kind.thoughts == "sampled" and not kind.weighs_whole_thoughts]
        if name not in able:
            yield (f"{typed}: found strategy={name}, which does not learn from single sampled "
                   f"thoughts; legal: 0, or strategy={', '.join(able)}")
        if config.trainer.rationalise:
            yield (f"{typed}: found trainer.rationalise=true, which thinks again where a gold "
                   "thought is given; legal: 0, or trainer.rationalise=false")


@dataclass
class SearchConfig(SamplerConfig):
    """Thoughts are found by search; its endpoints are the group.

    Keys of one method alone are `rollout.<method>.*`, and stand beside it (`@search`).
    """

    kind: str = option("search", "thoughts are found by search", legal=("search",))
    samples: int = option(1, "endpoints kept per question (G)", low=1)
    method: str = option("auto", "auto: balanced where the answers are few enough for a table and "
                         "the answerer learns from own thoughts, else exhaustive or beam",
                         legal=lambda: ("auto", *SEARCHES.names()))
    limit: int = option(20_000, "largest thought space that is searched exhaustively", low=2)
    width: int = option(8, "beams kept (beam)", low=1)
    balance: bool = option(True, "exhaustive: no thought may be claimed by many answers")
    noise: int | float | str = schedule("linear(0.5, 0, 1000)", "exhaustive: Gumbel noise on the "
                                        "scores", low=0)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        yield from SamplerConfig.contradictions(self, config)
        found = SEARCHES.get(self.method)  # None for auto
        if hasattr(getattr(found, "target", None), "refuses"):
            yield from SEARCHES[self.method].target.refuses(config)
